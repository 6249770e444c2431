"""The verbs of a survey that grows night by night."""

import json

import click

__all__ = ["explain", "nightly", "prune"]


@click.command(short_help="Add last night's files, and prove the list again.")
@click.option("--survey", required=True, metavar="URI", help="The same with more files, or those.")
@click.option(
    "--reference",
    required=True,
    type=click.Path(),
    metavar="RUN",
    help="A finished scan or night, or a folder of them, whose newest is taken.",
)
@click.option(
    "--out", required=True, type=click.Path(), metavar="DIR", help="Run directory of this night."
)
@click.option("--finish-by", metavar="HH:MM", help="When the catalog has to stand, local time.")
@click.option("--top", type=int, help="Length of the certified list.  [default: the reference's]")
@click.option("--workers", default="auto", show_default=True, metavar="auto|N|MIN..MAX")
def nightly(
    survey: str, reference: str, out: str, finish_by: str | None, top: int | None, workers: str
) -> None:
    """Add what is new in a survey to RUN: embed it, prove the list again, say what changed.

    The model is that of RUN, whose scores are upper bounds, so only new objects are searched and
    those whose bound demands it; the list is that of a scan of all. DIR refers to the files of
    RUN, copies none, and is the reference of the night after.
    """
    from astroray.console import show_night
    from astroray.nightly import NightConfig, parse_finish_by

    config = NightConfig(
        survey=survey,
        reference=reference,
        out=out,
        finish_by_s=parse_finish_by(finish_by, out=out) if finish_by else None,
        top=top,
        workers=workers,
    )
    show_night(config)


@click.command(short_help="Trace one object, and score it once more.")
@click.argument("run_dir", type=click.Path())
@click.argument("object_id")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON.")
def explain(run_dir: str, object_id: str, as_json: bool) -> None:
    """Trace OBJECT_ID of the scan or night in RUN_DIR to its file, and compute its score again.

    The score is computed from the stored embeddings of all objects; where the survey can be read,
    the object is encoded again too. Exit code 1 where the catalog's exact score differs.
    """
    from astroray.explain import explain_object

    found = explain_object(run_dir, object_id)
    click.echo(json.dumps(found.facts(), allow_nan=False) if as_json else str(found))
    if not found.agrees:
        raise click.exceptions.Exit(1)


@click.command(short_help="Delete what a newer version does not need.")
@click.argument("old", type=click.Path())
@click.option(
    "--keep",
    required=True,
    type=click.Path(),
    metavar="RUN",
    help="The newer version that must stay whole.",
)
@click.option("--yes", is_flag=True, help="Delete; without it they are only shown.")
def prune(old: str, keep: str, yes: bool) -> None:
    """Show, and with --yes delete, the files of the version OLD that RUN does not refer to.

    Nothing else ever deletes a version. Where RUN refers to none of OLD, as after
    `export --self-contained`, all of it goes, but for labels that RUN has no copy of. Other
    versions that refer to OLD are not known here.
    """
    from astroray.retention import delete_files, find_prunable

    files = find_prunable(old, keep)
    for file in files:
        click.echo(f"{file.size_bytes:>12,}  {file.path}")
    if any(file.path.endswith("/run.json") for file in files):
        click.echo(f"{keep} refers to nothing of {old}: all of it goes")
    size_mb = sum(file.size_bytes for file in files) / 1e6
    click.echo(f"{len(files)} files, {size_mb:,.1f} MB{'' if yes else '; --yes deletes them'}")
    if yes:
        delete_files(files)
