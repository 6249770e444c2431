"""A scan or a fit as a person, or a job's log, sees it: its progress, and then what came out."""

from typing import TYPE_CHECKING

import click

from astroray.terminal import check_rejects, echo_rejects, progress_line

if TYPE_CHECKING:  # loads pyarrow
    from astroray.config import ScanConfig

__all__ = ["show_scan", "show_training"]


def show_scan(config: "ScanConfig") -> None:
    """Scans, or goes on with a scan, while a person looks on; says in the end what came out.

    Raises AstrorayError where more than `max_rejected` of rows or shards were rejected.
    """
    from astroray.pipeline import scan

    with progress_line() as show:
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

    with progress_line() as show:
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
