"""Every verb of the command line."""

import contextlib
import functools
import sys
from collections.abc import Iterator
from typing import Any

import click

from astroray import __version__
from astroray.commands.export import export
from astroray.commands.flares import flares
from astroray.commands.forecast import evaluate_flares, forecast, train_flares
from astroray.commands.jobs import ADDRESS_HELP, cancel, submit
from astroray.commands.label import label
from astroray.commands.nightly import explain, nightly, prune
from astroray.commands.quantize import quantize
from astroray.commands.report import report
from astroray.commands.serve import serve, token
from astroray.commands.similar import similar
from astroray.console import show_scan, show_training
from astroray.errors import BackendError, ConfigError
from astroray.job_command import one_line_errors
from astroray.terminal import parse_setting, status_line


class _Group(click.Group):
    """Turns astroray's own errors into one line and the exit code of their class."""

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


flares.add_command(forecast)
cli.add_command(export)
cli.add_command(flares)
cli.add_command(label)
cli.add_command(nightly)
cli.add_command(explain)
cli.add_command(prune)
cli.add_command(quantize)
cli.add_command(submit)
cli.add_command(cancel)
cli.add_command(report)
cli.add_command(serve)
cli.add_command(similar)
cli.add_command(token)


@cli.command(short_help="Find the unusual objects of a survey.")
@click.argument("survey", default="hdf")
@click.option("--out", required=True, metavar="DIR", help="Run directory, local or s3://.")
@click.option(
    "--encoder",
    metavar="NAME|PATH",
    help="rings (default for images), waves (for light curves), vit-tiny, ..., a model file, "
    "an earlier run, or a network of your own, mine.onnx.",
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
@click.option("--config", "file", metavar="FILE", help="YAML file of settings; flags go first.")
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


@cli.group()
def train() -> None:
    """Fit a network, and write it as a model file."""


@train.command(short_help="Train an encoder on a sample of a survey.")
@click.argument("survey")
@click.option("--model", required=True, metavar="NAME", help="vit-tiny, attcae, cae, ...")
@click.option("--out", required=True, metavar="MODEL", help="Model file, local or s3://.")
@click.option("--passes", type=int, help="Passes over the sample at most.")
@click.option(
    "--budget",
    type=float,
    metavar="MINUTES",
    help="Minutes of training at most.  [default: 60 where --passes is not given]",
)
@click.option("--train-workers", type=int, help="Training workers.  [default: 1]")
@click.option("--rows", type=int, help="Objects drawn from SURVEY.  [default: 16384]")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="A setting of encoder or fit as in a scan, e.g. encoder.size_px=64, fit.patience=20.",
)
def encoder(
    survey: str,
    model: str,
    out: str,
    passes: int | None,
    budget: float | None,
    train_workers: int | None,
    rows: int | None,
    seed: int,
    settings: tuple[str, ...],
) -> None:
    """Train an encoder on a sample of SURVEY; `astroray scan --encoder MODEL` uses it.

    A tenth of the sample is held out, and the weights of the pass that does best on it are kept;
    the fit ends early where that no longer improves. MODEL.fit keeps the state, so the same
    command resumes, and loss curves for TensorBoard.
    """
    from astroray.fitting.train_encoder import load_training

    flags = {
        "encoder.name": model,
        "fit.num_passes": passes,
        "fit.budget_s": None if budget is None else 60 * budget,
        "fit.train_workers": train_workers,
        "max_fit_rows": rows,
        "seed": seed,
        "fit.seed": seed,
        **dict(parse_setting(text) for text in settings),
    }
    show_training(load_training(out, survey, flags), out)


train.add_command(train_flares)


@cli.command()
@click.argument("survey")
@click.option("--out", required=True, metavar="DIR", help="Folder for shards/ and truth.parquet.")
def simulate(survey: str, out: str) -> None:
    """Write a simulated survey to disk as shards.

    SURVEY is such as 'sim:galaxies?count=20000&seed=7'.
    """
    from astroray.surveys.simulated import write_survey

    write_survey(survey, out)
    click.echo(f"shards  {out}/shards\ntruth   {out}/truth.parquet")


@cli.command(short_help="Say how far a run or a submitted job is.")
@click.argument("run", metavar="RUN_DIR|SUBMISSION_ID")
@click.option("--address", metavar="URL", help=ADDRESS_HELP)
def status(run: str, address: str | None) -> None:
    """Say how far a run is, from its ledger, or a job that was submitted, from its cluster.

    A name without a slash that is no folder here is taken for a submission id.
    """
    from pathlib import Path

    from astroray.inspection import read_status

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
    for name, value in found.items():
        click.echo(f"{name:<14}{value}")


@cli.command(short_help="Check a run: what it counts, checksums, schema.")
@click.argument("run_dir")
@click.option(
    "--repair",
    is_flag=True,
    help="Take back the done marks of damaged shards, so that the next scan does them again.",
)
def verify(run_dir: str, repair: bool) -> None:
    """Check conservation, checksums and schema of the run in RUN_DIR; exit code 1 on a fault."""
    from astroray.inspection import verify_run
    from astroray.ledger import RunRecord

    faults = verify_run(run_dir, repair=repair)
    for fault in faults:
        click.echo(f"fault: {fault}")
    click.echo(f"{len(faults)} faults" if faults else "all checks passed")
    record = RunRecord.load(run_dir)
    if record is not None and record.state != "done":
        click.echo(f"of what is there so far: the run is {record.state}, not done")
    sys.exit(1 if faults else 0)


@cli.command("retry-rejects", short_help="Redo shards whose rejects may pass now.")
@click.argument("run_dir")
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


@cli.group()
def evaluate() -> None:
    """Measure how good encoders and forecasts are."""


@evaluate.command(short_help="Compare encoders by the outliers they find.")
@click.option(
    "--protocol",
    required=True,
    metavar="efigi|gz2|mirabest|sim|tess|crts",
    help="What is usual and rare.",
)
@click.option(
    "--encoders",
    required=True,
    metavar="NAME,PATH,...",
    help="Names of encoders, fitted here, or model files; 'rings?latent=64' is fitted with that "
    "setting; with :w8a8o, :osc-w4a4, :bf16, ... behind it on fewer bits, beside float32. The "
    "trivial baselines come anyway.",
)
@click.option("--data", metavar="DIR", help="Folder with galaxies/efigi/... (not for sim).")
@click.option("--seeds", default=3, show_default=True, help="Fits of each encoder; 20 draws each.")
@click.option("--k", default=10, show_default=True, help="Neighbors of each object.")
@click.option("--scores", default="kth", show_default=True, metavar="NAME,...")
@click.option("--budget", default=60.0, show_default=True, metavar="MINUTES")
@click.option("--full", is_flag=True, help="sim at the published size of 17,778 objects.")
@click.option("--contamination", type=float, help="Share of outliers.  [default: the protocol's]")
@click.option("--out", metavar="DIR", help="Kept and resumed.  [default: runs/evaluate-PROTOCOL]")
@click.option("--json", "as_json", is_flag=True, help="End with one line of JSON.")
def outliers(
    protocol: str,
    encoders: str,
    data: str | None,
    seeds: int,
    k: int,
    scores: str,
    budget: float,
    full: bool,
    contamination: float | None,
    out: str | None,
    as_json: bool,
) -> None:
    """Compare encoders by the outliers that they find among labelled objects.

    Each encoder is fitted without labels on the objects that it is judged on, outliers included,
    as a scan does it. The same command on the same DIR resumes.
    """
    import json

    from astroray.evaluation import EvaluationConfig, evaluate_outliers

    config = EvaluationConfig(
        protocol=protocol,
        encoders=tuple(name.strip() for name in encoders.split(",") if name.strip()),
        out=out or f"runs/evaluate-{protocol}",
        data=data,
        num_seeds=seeds,
        k=k,
        scores=tuple(name.strip() for name in scores.split(",") if name.strip()),
        budget_min=budget,
        full=full,
        contamination=contamination,
    )
    with status_line() as show:
        evaluation = evaluate_outliers(config, show=functools.partial(show, "evaluate"))
    click.echo(evaluation.table)
    click.echo(f"\nrows  {config.out}/rows.json\npage  {evaluation.page}")
    if as_json:
        click.echo(json.dumps(evaluation.document, allow_nan=False))


evaluate.add_command(evaluate_flares)


@cli.command(
    context_settings={"ignore_unknown_options": True}, short_help="Run a benchmark of a checkout."
)
@click.argument("name")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(name: str, arguments: tuple[str, ...]) -> None:
    """Run the benchmark NAME of a checkout (see benchmarks/), e.g. `astroray bench scan --json`."""
    import subprocess
    from pathlib import Path

    if not Path("benchmarks", f"{name}.py").is_file():
        raise ConfigError(
            f"no benchmarks/{name}.py in this folder; run it in the root of a checkout"
        )
    # a module of its own: benchmarks start processes, which look for its functions in it
    sys.exit(subprocess.call([sys.executable, "-m", f"benchmarks.{name}", *arguments]))
