"""How a script of jobs/ becomes a command: its flags, its log, its exit code."""

import contextlib
import os
import runpy
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import click

from astroray.errors import AstrorayError, BackendError, ConfigError
from astroray.execution.structured_logs import log_as_json
from astroray.interrupts import Interrupted, raise_on_signals
from astroray.terminal import parse_setting

__all__ = ["JobConfig", "job_command", "one_line_errors", "read_job"]

_EXTRAS = {
    "fastapi": "serve", "starlette": "serve", "uvicorn": "serve", "faiss": "cpu",
    "sklearn": "evaluate", "peft": "flares", "transformers": "flares", "onnx": "onnx",
    "onnxruntime": "onnx", "onnxscript": "onnx",
}  # fmt: skip
"""Which of astroray's extras installs a module."""


class JobConfig(Protocol):
    """The frozen configuration of a job; all else in it is the job's own."""

    @property
    def survey(self) -> str: ...


Config = TypeVar("Config", bound=JobConfig)


def job_command(
    configure: Callable[[str, str, Mapping[str, Any]], Config], run: Callable[[Config, str], None]
) -> click.Command:
    """The command of a job: every job has the flags --survey, --out and --set.

    configure  returns the job's configuration, given survey, out and the dotted settings of --set;
               raises ConfigError
    run        does the work, given the configuration and --out

    Its log is JSON, one line an event; its exit code is that of the class of the error.
    """

    @click.command(context_settings={"help_option_names": ["-h", "--help"]})
    @click.option("--survey", required=True, help="A path, glob, s3:// address or scheme.")
    @click.option("--out", required=True, help="Where the result goes: s3:// on several machines.")
    @click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any setting.")
    def command(survey: str, out: str, settings: tuple[str, ...]) -> None:
        with one_line_errors():
            if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:  # set by Ray's job server
                _check_out(out)
            log_as_json()
            run(configure(survey, out, dict(parse_setting(text) for text in settings)), out)

    command.callback.configure = configure  # type: ignore[union-attr]
    return command


def read_job(script: Path, arguments: list[str]) -> tuple[JobConfig, str]:
    """The configuration and the --out that a job would run with on a cluster, without running it.

    Raises ConfigError where the script is no job or a setting cannot work, click.UsageError
    where a flag is unknown or missing.
    """
    command = runpy.run_path(str(script)).get("main")
    configure = getattr(getattr(command, "callback", None), "configure", None)
    if not isinstance(command, click.Command) or configure is None:
        raise ConfigError(
            f"{script} is no job, expected `main = job_command(...)` as in jobs/scan.py"
        )
    given = command.make_context(script.stem, arguments).params
    settings = dict(parse_setting(text) for text in given["settings"])
    _check_out(given["out"])
    return configure(given["survey"], given["out"], settings), given["out"]


def _check_out(out: str) -> None:
    if "://" not in out and not os.path.isabs(out):
        raise ConfigError(
            f"out is {out!r}, which a cluster takes from the job's own folder, deleted when it "
            "ends; give an s3:// address, or on a single machine an absolute path"
        )


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns astroray's own errors into one line and the exit code of their class; so with Ctrl-C
    and SIGTERM, and with a module that is missing since an extra is not installed.
    """
    try:
        with raise_on_signals(), _named_extras():
            yield
    except KeyboardInterrupt as error:
        ended = error if isinstance(error, Interrupted) else Interrupted()
        click.echo(f"\nastroray: {ended}", err=True)
        sys.exit(ended.exit_code)
    except AstrorayError as error:
        click.echo(f"astroray: {error}", err=True)
        sys.exit(error.exit_code)


@contextlib.contextmanager
def _named_extras() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in _EXTRAS:
            raise
        raise BackendError(
            f"{module} is not installed, and this needs it; "
            f"pip install 'astroray[{_EXTRAS[module]}]'"
        ) from None
