"""The verb that finds what is like something: `astroray similar`."""

import dataclasses
import json

import click

from astroray.terminal import one_line

__all__ = ["similar"]


@click.command(short_help="List what is nearest to an object or a file.")
@click.argument("run_dir", type=click.Path())
@click.argument("query", type=click.Path(), metavar="OBJECT_ID|FILE")
@click.option("--n", type=click.IntRange(1), default=20, show_default=True, help="How many.")
@click.option("--bands", default="", metavar="g,r,i", help="Planes of a FITS file, if unnamed.")
@click.option(
    "--row", type=click.IntRange(0), help="Which light curve or spectrum of a file, from 0."
)
@click.option("--json", "as_json", is_flag=True, help="One line of JSON, as /v1/similar has it.")
def similar(run_dir: str, query: str, n: int, bands: str, row: int | None, as_json: bool) -> None:
    """The objects of the scan or night in RUN_DIR nearest to one of them, or to a file.

    All embeddings are compared, so the list is exact. A FILE is one cutout (FITS, PNG, JPEG), or
    what else the run is of: a light curve (FITS of Kepler, K2 or TESS) or spectrum (FITS of SDSS,
    LAMOST or DESI), or Parquet with either; the run's model encodes it.
    """
    from astroray.similar import find_similar
    from astroray.sky import describe_position

    found = find_similar(run_dir, query, n, bands=bands, row=row)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(found), allow_nan=False))
        return
    about = found.query
    if "path" in about:
        click.echo(f"file    {about['path']}")
    else:
        position = describe_position(about["ra"], about["dec"])
        click.echo(f"object  {one_line(about['object_id'])}  {position}, rank {about['rank']}")
    click.echo(f"model   {found.model_id} in {found.numbers}\n")
    names = [one_line(one["object_id"]) for one in found.neighbors]
    width = max([9, *map(len, names)])
    click.echo(f"{'':>4}  {'distance':>10}  {'object_id':<{width}}  {'rank':>9}  position")
    for place, (name, one) in enumerate(zip(names, found.neighbors, strict=True), start=1):
        click.echo(
            f"{place:>4}  {one['distance']:>10.6g}  {name:<{width}}  "
            f"{one['rank']:>9}  {describe_position(one['ra'], one['dec'])}"
        )
