"""`astroray export`: what a run holds, for other programs."""

import click

from astroray.errors import ConfigError

__all__ = ["export"]


@click.command(short_help="Write the catalog as one file for other programs.")
@click.argument("run", type=click.Path())
@click.option("--format", "kind", type=click.Choice(["votable", "fits", "csv", "onnx"]))
@click.option("--self-contained", is_flag=True, help="A run directory with all it refers to.")
@click.option("--out", required=True, type=click.Path(), metavar="FILE|DIR")
@click.option("--overwrite", is_flag=True)
def export(run: str, kind: str | None, self_contained: bool, out: str, overwrite: bool) -> None:
    """Write the catalog of the directory RUN as one file for other programs.

    votable, fits and csv are its rows, with units and UCDs where the format has them; of a run of
    `astroray flares find` they are its flares, of `flares forecast` its forecasts. onnx is its
    encoder instead, as a program for ONNX Runtime and others whose embeddings were found equal;
    RUN may then be a model file too. With --self-contained a night is copied with the files of
    the older versions that it refers to: one HATS catalog, all embeddings, and a reference for
    further nights.
    """
    if self_contained == (kind is not None):
        raise ConfigError("export needs either --format or --self-contained")
    if kind is None:
        _export_version(run, out)
    elif kind == "onnx":
        _export_model(run, out, overwrite)
    else:
        click.echo(f"{_export_rows(run, kind, out, overwrite)} rows  {out}")


def _export_rows(run: str, kind: str, out: str, overwrite: bool) -> int:
    from astroray.catalog.exports import export_catalog
    from astroray.flares.flare_file import (
        export_flares,
        export_forecasts,
        holds_flares,
        holds_forecasts,
    )
    from astroray.run_folders import finished_run, record_of, version_of

    folder = version_of(run)
    if holds_forecasts(folder):
        return export_forecasts(folder, format=kind, out=out, overwrite=overwrite)
    if holds_flares(record_of(folder)):
        return export_flares(folder, format=kind, out=out, overwrite=overwrite)
    finished_run(run)
    return export_catalog(folder, format=kind, out=out, overwrite=overwrite)


def _export_version(run: str, out: str) -> None:
    from astroray.retention import export_version

    record = export_version(run, out)
    click.echo(f"{record.counts.catalog} rows  {out}")


def _export_model(source: str, out: str, overwrite: bool) -> None:
    from astroray.actors.run_model import model_of_run
    from astroray.encoders.onnx_export import export_onnx
    from astroray.run_record import RunRecord

    done = export_onnx(source, out=out, overwrite=overwrite)
    shape = ", ".join(str(number) for number in done.shape)
    click.echo(f"model_id   {done.model_id}")
    click.echo(
        f"takes      {done.input_name} [batch, {shape}] float32, prepared as its metadata say"
    )
    click.echo(f"gives      embedding [batch, {done.dim}] float32")
    click.echo(f"compared   largest difference {done.error:.1e} of the largest number, float32")
    if done.has_fewer_bits:
        click.echo("left out   the layers on fewer bits: this is the reference they come from")
    record = RunRecord.load(source)  # of a model file there is none
    numbers = model_of_run(source, record).numbers if record and record.model else "float32"
    if numbers != "float32":
        click.echo(f"differs    from the stored embeddings of {source}, which are in {numbers}")
    click.echo(f"program    {out}")
