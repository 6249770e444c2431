"""The command line: its group, and the verbs of a scan and its run directory."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from astroray import __version__
from astroray.commands.evaluate import evaluate
from astroray.commands.export import export
from astroray.commands.flares import flares
from astroray.commands.jobs import ADDRESS_HELP, cancel, submit
from astroray.commands.label import label
from astroray.commands.look import look
from astroray.commands.nightly import explain, nightly, prune
from astroray.commands.quantize import quantize
from astroray.commands.report import report
from astroray.commands.serve import serve, token
from astroray.commands.similar import similar
from astroray.commands.train import train
from astroray.console import show_scan
from astroray.errors import BackendError, ConfigError
from astroray.job_command import one_line_errors
from astroray.terminal import config_option, no_script, parse_setting

if TYPE_CHECKING:  # loads pyarrow
    from astroray.inspection import RunStatus
    from astroray.job_status import JobStatus


class _Group(click.Group):
    """Turns astroray's own errors into one line and the exit code of their class."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuses bytes that are no text here: no table, record or page could hold them."""
        for word in args:
            if any("\ud800" <= letter <= "\udfff" for letter in word):
                shown = os.fsencode(word).decode("ascii", "backslashreplace")
                raise click.UsageError(
                    f"{shown} is no text in {sys.getfilesystemencoding()}, expected UTF-8: set "
                    "LC_ALL=C.UTF-8, or rename the file",
                    ctx,
                )
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        with one_line_errors(), _short_usage_errors():
            return super().invoke(ctx)


@contextlib.contextmanager
def _short_usage_errors() -> Iterator[None]:
    """Says of a glob that the shell made a thousand names of that it lacks its quotes."""
    try:
        yield
    except click.UsageError as error:
        _, is_extra, names = error.message.partition("unexpected extra arguments (")
        if not is_extra:
            raise
        raise click.UsageError(
            f"Got more names than it takes, the next is {names.split()[0]}. A glob stands in "
            "quotes, or the shell puts all its files here: 'images/*.fits'",
            error.ctx,
        ) from None


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="astroray")
def cli() -> None:
    """Finds the unusual in sky surveys, and proves the top of the list.

    A first look:  astroray scan hdf --out runs/hdf
    """


for command in [
    cancel, evaluate, explain, export, flares, label, look, nightly, prune, quantize, report, serve,
    similar, submit, token, train,
]:  # fmt: skip
    cli.add_command(command)


@cli.command(short_help="Find the unusual objects of a survey.")
@click.argument("survey", type=click.Path(), default="hdf")
@click.option(
    "--out", required=True, type=click.Path(), metavar="DIR", help="Run directory, local or s3://."
)
@click.option(
    "--encoder",
    type=click.Path(),
    metavar="NAME|PATH",
    help="rings (default for images), waves (for light curves), vit-tiny, ..., a model file, "
    "an earlier run, or a network of your own, mine.onnx or module:Class.",
)
@click.option("--k", type=int, help="Neighbors of each object.  [default: 10]")
@click.option("--top", type=int, help="Length of the certified list.  [default: 100]")
@click.option(
    "--workers", metavar="auto|N|MIN..MAX", help="Workers of the embed stage.  [default: auto]"
)
@click.option("--train-workers", type=int, help="Workers of the fit.  [default: 1]")
@click.option(
    "--max-rejected",
    type=float,
    help="Share of rows or shards that may be rejected before the exit code is 1.  [default: 0.01]",
)
@config_option
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any setting of the file, e.g. fit.num_passes=10; docs/settings.md has all.",
)
def scan(
    survey: str,
    out: str,
    encoder: str | None,
    k: int | None,
    top: int | None,
    workers: str | None,
    train_workers: int | None,
    max_rejected: float | None,
    file: str | None,
    settings: tuple[str, ...],
) -> None:
    """Scan SURVEY for outliers: list, fit, embed, search, certify, report.

    SURVEY is hdf (the Hubble Deep Field that comes with scikit-image), sim:galaxies?count=20000,
    or files: a folder, a glob, one file, s3://...; options follow a question mark: all in quotes.
    The same command on the same DIR resumes.
    """
    from astroray.config import load_config

    flags = {
        "encoder.name": encoder,
        "search.k": k,
        "search.top": top,
        "workers": workers,
        "fit.train_workers": train_workers,
        "max_rejected": max_rejected,
        **dict(parse_setting(text) for text in settings),
    }
    show_scan(load_config(survey, out, file, flags))


@cli.command()
@click.argument("survey", type=click.Path())
@click.option(
    "--out",
    required=True,
    type=click.Path(),
    metavar="DIR",
    help="Folder for shards/ and truth.parquet.",
)
def simulate(survey: str, out: str) -> None:
    """Write a simulated survey to disk as shards.

    SURVEY is such as 'sim:galaxies?count=20000&seed=7' or 'sim:spectra?count=2000'.
    """
    from astroray.surveys.simulated_files import write_survey

    written = write_survey(survey, out)
    click.echo(f"survey  '{written}'\ntruth   {out}/truth.parquet")


@cli.command(short_help="Say how far a run or a submitted job is.")
@click.argument("run", type=click.Path(), metavar="RUN_DIR|SUBMISSION_ID")
@click.option("--address", metavar="URL", help=ADDRESS_HELP)
@click.option("--json", "as_json", is_flag=True, help="One line of JSON.")
def status(run: str, address: str | None, as_json: bool) -> None:
    """Say how far a run is, from its ledger, or a job that was submitted, from its cluster.

    A name without a slash that is no folder here is taken for a submission id.
    """
    from astroray.inspection import read_status

    found: RunStatus | JobStatus
    if "/" in run or Path(run).is_dir():
        found = read_status(run)
    else:
        from astroray.submission import JobServer

        try:
            found = JobServer(address).describe(run)
        except BackendError as error:
            raise BackendError(
                f"{run} is no folder here, and as a submission id it cannot be looked up: {error}"
            ) from None
    if as_json:
        click.echo(json.dumps(found.facts(), allow_nan=False))
        return
    for name, value in found.words().items():
        click.echo(f"{name:<14}{value}")


@cli.command(short_help="Check a run: what it counts, checksums, schema.")
@click.argument("run_dir", type=click.Path())
@click.option(
    "--repair",
    is_flag=True,
    help="Take back the done marks of damaged shards, so that the next scan does them again.",
)
@click.option("--json", "as_json", is_flag=True, help="One line of JSON.")
def verify(run_dir: str, repair: bool, as_json: bool) -> None:
    """Check conservation, checksums and schema of the run in RUN_DIR; exit code 1 on a fault."""
    from astroray.inspection import repair_run, verify_run
    from astroray.run_folders import record_of

    faults, taken = repair_run(run_dir) if repair else (verify_run(run_dir), [])
    state = record_of(run_dir).state
    if as_json:
        found = {"run": run_dir, "state": state, "faults": faults, "taken_back": taken}
        click.echo(json.dumps(found))
        sys.exit(1 if faults else 0)
    for fault in faults:
        click.echo(f"fault: {fault}")
    click.echo(f"{len(faults)} faults" if faults else "all checks passed")
    if taken:
        click.echo(
            f"{len(taken)} shards are taken back; run the same command again to do them anew"
        )
    if state != "done":
        click.echo(f"of what is there so far: the run is {state}, not done")
    sys.exit(1 if faults else 0)


@cli.command("retry-rejects", short_help="Redo shards whose rejects may pass now.")
@click.argument("run_dir", type=click.Path())
def retry_rejects(run_dir: str) -> None:
    """Redo the shards of RUN_DIR with rejects whose cause may have gone, then the catalog."""
    from astroray.inspection import reopen_rejected

    config, reopened = reopen_rejected(run_dir)
    click.echo(f"{len(reopened)} shards have rejects that may pass now")
    if reopened:
        show_scan(config)


@cli.command(short_help="Say what this machine has, and what it lacks.")
def doctor() -> None:
    """Say what this machine has, and what astroray will do with it."""
    from astroray.doctor import examine

    healthy = True
    for finding in examine():
        mark = "ok" if finding.ok else "NO" if finding.required else "- "
        click.echo(f"{mark}  {finding.what:<16}{finding.text}")
        healthy &= finding.ok or not finding.required
    sys.exit(0 if healthy else 1)


@cli.command(
    context_settings={"ignore_unknown_options": True}, short_help="Run a benchmark of a checkout."
)
@click.argument("name")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(name: str, arguments: tuple[str, ...]) -> None:
    """Run the benchmark NAME of a checkout (see benchmarks/), e.g. `astroray bench scan --json`."""
    script = Path("benchmarks", f"{name}.py")
    if not script.is_file():
        raise ConfigError(no_script(script))
    # a module of its own: benchmarks start processes, which look for its functions in it
    sys.exit(subprocess.call([sys.executable, "-m", f"benchmarks.{name}", *arguments]))
