"""What a person sees of long work: a line that changes while it runs, and what was rejected."""

import datetime
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from astroray.errors import AstrorayError, ConfigError

if TYPE_CHECKING:  # loads pyarrow
    from astroray.execution.progress import Progress
    from astroray.run_record import RunRecord

__all__ = [
    "check_rejects",
    "config_option",
    "echo_note",
    "echo_rejects",
    "parse_setting",
    "progress_line",
    "status_line",
]

config_option = click.option(
    "--config",
    "file",
    type=click.Path(),
    metavar="FILE",
    help="YAML file of settings; flags go first.",
)

REFRESH_S = 5.0
"""Seconds between lines where the output is no terminal."""


@contextmanager
def status_line() -> Iterator[Callable[[str, str], None]]:
    """A function of stage and text: rewrites one line a stage on a terminal's standard error.

    Elsewhere it writes a line when a stage begins, and then every few seconds.
    """
    terminal = sys.stderr.isatty()
    last_stage, last_s = "", 0.0

    def show(stage: str, text: str) -> None:
        nonlocal last_stage, last_s
        now_s = time.monotonic()
        is_new = stage != last_stage
        if terminal:
            end = "\n" if is_new and last_stage else ""
            click.echo(f"{end}\r\033[K{text}", nl=False, err=True)
        elif is_new or now_s - last_s >= REFRESH_S:
            click.echo(text, err=True)
        else:
            return
        last_stage, last_s = stage, now_s

    try:
        yield show
    finally:
        if terminal and last_stage:
            click.echo("", err=True)


def parse_setting(text: str) -> tuple[str, Any]:
    """Key and value of `--set KEY=VALUE`, the value as YAML has it. Raises ConfigError.

    Dates and times of day, which YAML makes dates and minutes of, stay text.
    """
    import yaml

    key, mark, value = text.partition("=")
    if not (mark and key):
        raise ConfigError(f"--set got {text!r}, expected KEY=VALUE such as fit.num_passes=10")
    try:
        found = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(
            f"--set got {text!r}, whose value is not YAML, expected such as 10, name, or [g, r]; "
            f"text with brackets or colons stands in quotes of its own: {key}='\"...\"'"
        ) from None
    is_time = isinstance(found, datetime.date) or (isinstance(found, int) and ":" in value)
    return key, value if is_time else found


@contextmanager
def progress_line(objects: str = "objects") -> Iterator[Callable[["Progress"], None]]:
    """The status line of a scan or a fit, or of whatever goes through shards of `objects`."""
    with status_line() as show:
        yield lambda progress: show(progress.stage, _describe(progress, objects))


def _describe(progress: "Progress", objects: str) -> str:
    parts = [f"{progress.stage:<7}"]
    if progress.shards_total and progress.stage in ("embed", "flares"):
        parts.append(f"{progress.objects} {objects}  {progress.objects_per_s:.0f}/s")
        parts.append(f"shards {progress.shards_done}/{progress.shards_total}")
        parts.append(f"rejects {progress.rejects}")
    if progress.seconds_left is not None:
        parts.append(f"{progress.seconds_left:.0f} s left")
    return "  ".join([*parts, progress.note]).rstrip()


def echo_note(text: str) -> None:
    """Writes a line to standard error, beside what a command or call gives."""
    click.echo(text, err=True)


def echo_rejects(record: "RunRecord") -> None:
    """Writes a line for each kind of reject, with an example of its reason."""
    for kind in record.rejects:
        click.echo(f"  {kind.kind}: {kind.rows} rows, {kind.shards} shards; e.g. {kind.reason}")


def check_rejects(record: "RunRecord", limit: float, *, rows: str, result: str) -> None:
    """Raises AstrorayError, exit code 1, where more than `limit` of rows or shards were rejected.

    rows    what a row of the survey is called
    result  what is there all the same, with its verb
    """
    share, of_shards = record.counts.rejected_share, record.counts.shards_rejected_share
    if max(share, of_shards) > limit:
        raise AstrorayError(
            f"{share:.1%} of the {rows} and {of_shards:.1%} of the shards were rejected, expected "
            f"at most {limit:.1%}; the {result} written; see the reasons above and --max-rejected"
        )
