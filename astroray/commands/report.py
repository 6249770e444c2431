"""The verb that opens the page of a result: `astroray report`."""

import click

__all__ = ["report"]


@click.command(short_help="Open the page of a result in the browser.")
@click.argument("result", type=click.Path(), metavar="RUN_DIR|MODEL")
@click.option(
    "--again",
    is_flag=True,
    help="First write the report of a scan or night anew, as this version of astroray does.",
)
@click.option("--no-browser", is_flag=True, help="Only say where the page is.")
def report(result: str, again: bool, no_browser: bool) -> None:
    """Open the page of a finished scan, night, evaluation or of flares in the browser.

    RUN_DIR may be a folder of versions, whose newest finished one is taken, or s3://, of which a
    copy is opened; MODEL is one that `astroray quantize` wrote.
    """
    from astroray.pages import find_page, open_page, rewrite_page

    page = rewrite_page(result) if again else find_page(result)
    click.echo(f"page  {page}")
    if not no_browser and not open_page(page):
        click.echo(
            "no browser can be opened here; copy the page to a machine that has one: it is one "
            "file and needs no network"
        )
