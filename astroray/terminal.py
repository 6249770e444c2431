"""What a person sees of long work: a line that changes while it runs, and what was rejected."""

import datetime
import functools
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from astroray import moments
from astroray.errors import AstrorayError, ConfigError
from astroray.words import plural

if TYPE_CHECKING:  # loads pyarrow
    from astroray.execution.progress import Progress
    from astroray.run_record import RejectCount, RunRecord

__all__ = [
    "check_rejects",
    "config_option",
    "counted",
    "echo_note",
    "echo_rejects",
    "in_notebook",
    "no_script",
    "one_line",
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

NOTEBOOK_REFRESH_S = 1.0
"""Seconds between two states of a line in a notebook, which keeps them all."""
LOG_REFRESH_S = (5.0, 60.0)
"""Seconds between lines of a log: least, and most, when the stage has gone on for long."""
LOG_LINES = 50
"""Lines of a log in which a stage has come twice as far, about."""


class _Status:
    """Shows each stage's first text and last one, and of those between as many as are due.

    write   a text, and whether it begins a stage
    wait_s  seconds until another one is due, by the seconds since the stage began
    """

    def __init__(
        self, write: Callable[[str, bool], None], wait_s: Callable[[float], float]
    ) -> None:
        self.write, self.wait_s = write, wait_s
        self.stage = self.held = ""
        self.begun_s = self.shown_s = 0.0

    def show(self, stage: str, text: str) -> None:
        now_s = time.monotonic()
        if stage != self.stage:
            self.flush()
            self.stage, self.begun_s = stage, now_s
            self._write(text, now_s, is_new=True)
        elif now_s - self.shown_s >= self.wait_s(now_s - self.begun_s):
            self._write(text, now_s, is_new=False)
        else:
            self.held = text

    def flush(self) -> None:
        """The text that was not due, if it is the last one of its stage."""
        if self.held:
            self._write(self.held, self.shown_s, is_new=False)

    def _write(self, text: str, now_s: float, *, is_new: bool) -> None:
        self.write(text, is_new)
        self.held, self.shown_s = "", now_s


@contextmanager
def status_line() -> Iterator[Callable[[str, str], None]]:
    """A function of stage and text, which rewrites one line a stage of standard error.

    So on a terminal; in a notebook, whose standard error is red, it is the output. Elsewhere each
    line has its time, UTC, and the longer a stage takes, the fewer there are: from one in 5 s to
    one in a minute.
    """
    line: _Rewritten | None = None
    if sys.stderr.isatty():
        line = _Rewritten("\033[K", err=True)
        status = _Status(line.write, lambda _: 0.0)
    elif in_notebook():
        line = _Rewritten("", err=False)
        status = _Status(line.write, lambda _: NOTEBOOK_REFRESH_S)
    else:
        status = _Status(_write_logged, _log_wait_s)
    try:
        yield status.show if line else functools.partial(_show_with_time, status)
    finally:
        status.flush()
        if line and line.last:
            click.echo("", err=line.err)


def in_notebook() -> bool:
    """Whether a kernel runs this, which shows what a cell gives."""
    ipython = sys.modules.get("IPython")
    return hasattr(ipython and ipython.get_ipython(), "kernel")


class _Rewritten:
    """A line that is written over; `erase` clears it, else spaces cover what was longer."""

    def __init__(self, erase: str, *, err: bool) -> None:
        self.erase, self.err, self.last = erase, err, ""

    def write(self, text: str, is_new: bool) -> None:
        begins = "\n" if is_new and self.last else ""
        covered = text if self.erase or is_new else text.ljust(len(self.last))
        click.echo(f"{begins}\r{self.erase}{covered}", nl=False, err=self.err)
        self.last = text


def _show_with_time(status: _Status, stage: str, text: str) -> None:
    """A line that is written later than it was said, as the last one of its stage, says when."""
    status.show(stage, f"{moments.now()} {text}")


def _write_logged(text: str, is_new: bool) -> None:
    click.echo(text, err=True)


def _log_wait_s(since_begun_s: float) -> float:
    least, most = LOG_REFRESH_S
    return min(max(least, since_begun_s / LOG_LINES), most)


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
        rate = progress.objects_per_s
        parts.append(f"{progress.objects} {objects}  {rate:.{int(0 < rate < 9.95)}f}/s")
        parts.append(f"shards {progress.shards_done}/{progress.shards_total}")
        parts.append(f"rejects {progress.rejects}")
    if progress.seconds_left is not None:
        parts.append(f"{progress.seconds_left:.0f} s left")
    return "  ".join([*parts, progress.note]).rstrip()


def one_line(text: str) -> str:
    """Text of a survey as a terminal may be shown it, with what would end the line or steer it
    written as Python has it: `new\\nline`, `\\x1b[2J`.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def echo_note(text: str) -> None:
    """Writes a line to standard error, beside what a command or call gives."""
    click.echo(text, err=True)


def no_script(script: Path) -> str:
    """Why a script of a checkout is not there: its name is another, or this is no checkout."""
    names = sorted(path.stem for path in script.parent.glob("[!_]*.py"))
    if not names:
        return f"no {script} in this folder; run it in the root of a checkout"
    return f"no {script}, expected one of {', '.join(names)}"


def counted(count: int | None, noun: str) -> str:
    """A number of things in words: "1 star", "2 stars"."""
    return f"{count} {plural(noun, count)}"


def echo_rejects(rejects: Iterable["RejectCount"]) -> None:
    """Writes a line for each kind of reject, with an example of its reason."""
    for kind in rejects:
        click.echo(
            f"  {kind.kind}: {kind.rows} rows, {kind.shards} shards; e.g. {one_line(kind.reason)}"
        )


def check_rejects(
    record: "RunRecord",
    limit: float,
    *,
    rows: str,
    result: str,
    advice: str = "see the reasons above and --max-rejected",
) -> None:
    """Raises AstrorayError, exit code 1, where more than `limit` of rows or shards were rejected.

    rows    what a row of the survey is called
    result  what is there all the same, with its verb
    advice  where the reasons are
    """
    share, of_shards = record.rejected_share, record.counts.shards_rejected_share
    if max(share, of_shards) > limit:
        raise AstrorayError(
            f"{share:.1%} of the {rows} and {of_shards:.1%} of the shards were rejected, expected "
            f"at most {limit:.1%}; the {result} written; {advice}"
        )
