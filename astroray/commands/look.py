"""The verb for before a scan: `astroray look`."""

import click

__all__ = ["look"]


@click.command(short_help="Say what a survey's files hold, before a scan.")
@click.argument("survey", type=click.Path())
@click.option(
    "--n", type=click.IntRange(1), default=48, show_default=True, help="Objects that are read."
)
@click.option(
    "--picture",
    type=click.Path(dir_okay=False, writable=True),
    metavar="FILE",
    help="Draw them into one picture, PNG or JPEG by its name.",
)
def look(survey: str, n: int, picture: str | None) -> None:
    """Say how SURVEY is read: files, bands, sizes, positions, and what is rejected and why.

    Some objects, half of them of its end, are read as a scan would read them; it takes seconds, and
    writes nothing but the picture.
    """
    from astroray.preview import look as look_at
    from astroray.preview import save_sheet

    seen = look_at(survey, n=n)
    click.echo(str(seen))
    if picture:
        save_sheet(seen, picture)
        click.echo(f"picture    {picture}")
