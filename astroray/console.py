"""A scan or a fit as a person, or a job's log, sees it: its progress, and then what came out."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from astroray.terminal import check_rejects, echo_rejects, status_line

if TYPE_CHECKING:  # loads pyarrow
    from astroray.config import ScanConfig
    from astroray.progress import Progress

__all__ = ["show_scan", "show_training"]


def show_scan(config: "ScanConfig") -> None:
    """Scans, or goes on with a scan, while a person looks on; says in the end what came out.

    Raises AstrorayError where more than `max_rejected` of rows or shards were rejected.
    """
    from astroray.pipeline import scan

    with _progress_line() as show:
        record = scan(config, show=show)
    counts = record.counts
    click.echo(
        f"{counts['catalog']} objects scored, {counts['rows_rejected']} rows and "
        f"{counts['shards_rejected']} shards rejected, {counts['duplicates']} duplicates, "
        f"{sum(record.seconds.values()):.0f} s"
    )
    echo_rejects(record)
    click.echo(f"proof    {record.proof['sentence']}")
    click.echo(f"catalog  {config.out}/catalog\nreport   {config.out}/report/index.html")
    check_rejects(record, config.max_rejected, rows="rows", result="catalog is")


def show_training(config: "ScanConfig", path: str) -> None:
    """Trains an encoder, its model file to be at `path`, while a person looks on."""
    from astroray.train_encoder import train_encoder

    with _progress_line() as show:
        file = train_encoder(config, path, show=show)
    fit = file.fit
    losses = f"loss {fit['loss'][-1]:.4f}"
    if "best_pass" in fit:
        best = fit["validation_loss"][fit["best_pass"] - 1]
        losses += f", validation loss {best:.4f} in pass {fit['best_pass']}, which is kept"
    click.echo(f"{fit['num_passes']} passes over {fit['num_rows']} cutouts, {losses}")
    click.echo(
        f"model_id {file.model_id}\nmodel    {path}\ncurves   tensorboard --logdir {config.out}"
    )


@contextmanager
def _progress_line() -> Iterator[Callable[["Progress"], None]]:
    """The status line of a scan or a fit."""
    with status_line() as show:
        yield lambda progress: show(progress.stage, _describe(progress))


def _describe(progress: "Progress") -> str:
    parts = [f"{progress.stage:<7}"]
    if progress.shards_total and progress.stage == "embed":
        parts.append(f"{progress.objects} objects  {progress.objects_per_s:.0f}/s")
        parts.append(f"shards {progress.shards_done}/{progress.shards_total}")
        parts.append(f"rejects {progress.rejects}")
    if progress.seconds_left is not None:
        parts.append(f"{progress.seconds_left:.0f} s left")
    return "  ".join([*parts, progress.note]).rstrip()
