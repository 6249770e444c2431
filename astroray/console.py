"""Long work as a person, or a job's log, sees it: its progress, and then what came out."""

import functools
from typing import TYPE_CHECKING

import click

from astroray.terminal import check_rejects, counted, echo_rejects, progress_line, status_line

if TYPE_CHECKING:  # loads pyarrow
    from astroray.config import ScanConfig
    from astroray.forecast.train import TrainConfig
    from astroray.nightly import NightConfig
    from astroray.run_record import RunRecord

__all__ = ["show_flare_training", "show_night", "show_scan", "show_training"]

FEW_STARS = 20
"""Forecasts that are calibrated on fewer are said to be: a star's windows are much alike."""


def show_scan(config: "ScanConfig") -> None:
    """Scans, or goes on with a scan, while a person looks on; says in the end what came out.

    Raises AstrorayError where more than `max_rejected` of rows or shards were rejected.
    """
    from astroray.pipeline import scan

    with progress_line() as show:
        record = scan(config, show=show)
    num_objects, outside = record.counts.catalog or 0, record.counts.outside
    click.echo(f"{counted(num_objects, 'object')} scored, {_losses(record)}")
    if outside:
        click.echo(f"{outside} objects of the catalog lie on none of the images")
    echo_rejects(record.rejects)
    click.echo(f"proof    {record.proven.sentence}")
    if num_objects <= config.search.k:
        click.echo(f"note     {_few_objects(config, num_objects)}")
    elif record.proven.threshold == 0:
        click.echo(
            f"note     the list ends with score 0: its last object and k={config.search.k} others "
            "have one and the same vector; see whether the encoder tells objects apart"
        )
    click.echo(f"catalog  {config.out}/catalog\nreport   {_page_of(config.out)}")
    check_rejects(record, config.max_rejected, rows="rows", result="catalog is")


def show_training(config: "ScanConfig", path: str) -> None:
    """Trains an encoder, its model file to be at `path`, while a person looks on."""
    from astroray.fitting.train_encoder import train_encoder

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


def show_night(config: "NightConfig") -> None:
    """Adds a night to its reference while a person looks on; says in the end what changed.

    Raises AstrorayError where more than `max_rejected` of rows or shards were rejected.
    """
    from astroray.nightly import run_night

    with progress_line() as show:
        record = run_night(config, show=show)
    counts, night = record.counts, record.night
    assert night is not None
    found, coverage = night.found, night.coverage
    assert found is not None
    assert coverage is not None
    click.echo(
        f"{counted(found.objects_new, 'new object')}, {counts.catalog} in all, {_losses(record)}"
    )
    echo_rejects(record.rejects)
    if counts.duplicates:
        click.echo(f"lost     {_describe_lost(config, counts.rows_embedded)}")
    if coverage.shards_left:
        click.echo(f"coverage {coverage.shards_left} of {coverage.shards_new} new shards are left")
    changes = ", ".join(f"{number} {name}" for name, number in vars(found.changes).items())
    click.echo(f"list     {changes}\nproof    {record.proven.sentence}")
    click.echo(f"changes  {config.out}/changes.parquet\nreport   {_page_of(config.out)}")
    check_rejects(
        record,
        record.config["max_rejected"],
        rows="rows",
        result="catalog is",
        advice="see the reasons above; a file of which nothing was read is taken by the next night "
        "once it is mended",
    )


def _losses(record: "RunRecord") -> str:
    """What did not come into the catalog, and what it cost to know."""
    counts = record.counts
    rows, shards = counted(counts.rows_rejected, "row"), counted(counts.shards_rejected, "shard")
    twice = counted(counts.duplicates or 0, "duplicate")
    return f"{rows} and {shards} rejected, {twice}, {record.spent_s:.0f} s"


def _few_objects(config: "ScanConfig", num_objects: int) -> str:
    """What may have gone wrong where there are no more objects than neighbors to look for."""
    from astroray import ledger

    text = f"of {counted(num_objects, 'object')} none has k={config.search.k} neighbors"
    readers = {shard.reader for shard in ledger.read_listing(config.out)}
    if readers == {"fits_cutouts"}:
        text += "; each image was taken as one object: ?format=fields finds the sources in it"
    return text


def _page_of(out: str) -> str:
    from astroray import storage
    from astroray.run_files import report_file

    page = report_file(out)
    return page if storage.exists(page) else "could not be drawn; the log says why"


def _describe_lost(config: "NightConfig", num_new: int) -> str:
    """How many new rows bear a name that is taken, and which files the first one is about."""
    from astroray import ledger

    rejects = ledger.read_rejects_of(config.out, "duplicates")
    first = rejects.slice(0, 1).to_pylist()[0]
    file_of = {
        shard.name: shard.inputs[0].path
        for shard in ledger.read_listing(config.out)
        if shard.inputs
    }
    text = f"{len(rejects)} of {num_new} new rows have an object_id that is taken, and are not in "
    text += f"the catalog; the first is row {first['row']} of shard {first['shard']}"
    if path := file_of.get(first["shard"]):
        text += f" ({path}, ...)"
    object_id = first["reason"].partition(" is ")[0].removeprefix("object_id ")
    return f"{text}; `astroray explain {config.out} '{object_id}'` names the file that has it"


def show_flare_training(config: "TrainConfig") -> None:
    """Trains a forecaster of flares while a person looks on; says in the end what it is worth."""
    from astroray.forecast.forecast_record import tell_held_out
    from astroray.forecast.train import train_flares

    with status_line() as show:
        facts = train_flares(config, show=functools.partial(show, "train"))
    click.echo(f"{facts['windows']} windows of {facts['stars']} stars; {tell_held_out(facts)}")
    if facts["validation_stars"] < FEW_STARS:
        click.echo(
            f"note     probabilities are calibrated on {facts['validation_stars']} stars, expected "
            f"{FEW_STARS} or more: another survey's may be far off"
        )
    for reason, count in facts["dropped"].items():
        if count:
            click.echo(f"  left out: {count} {reason}")
    click.echo(
        f"model_id {facts['model_id']}\nmodel    {config.out}\n"
        f"adapter  {config.out}.fit/adapter.safetensors"
    )
