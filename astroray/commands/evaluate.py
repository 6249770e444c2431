"""The verbs of `astroray evaluate`."""

import functools
import json
from collections.abc import Mapping
from typing import Any

import click

from astroray.terminal import status_line

__all__ = ["evaluate"]

_json_option = click.option("--json", "as_json", is_flag=True, help="End with one line of JSON.")


@click.group()
def evaluate() -> None:
    """Measure how good encoders and forecasts are."""


@evaluate.command(short_help="Compare encoders by the outliers they find.")
@click.option(
    "--protocol",
    required=True,
    metavar="NAME",
    help="What is usual and rare: efigi, gz2, mirabest or sim of images, tess or crts of light "
    "curves, lamost or types of spectra.",
)
@click.option(
    "--encoders",
    required=True,
    metavar="NAME,PATH,...",
    help="Names of encoders, fitted here, or model files; 'rings?latent=64' and "
    "'nets:Small?network.width=24' are fitted with that setting; with :w8a8o, :osc-w4a4, :bf16, "
    "... behind it on fewer bits, beside float32. The trivial baselines come anyway.",
)
@click.option(
    "--data",
    type=click.Path(),
    metavar="DIR",
    help="Folder with galaxies/efigi, lightcurves/..., spectra/... (not for sim).",
)
@click.option("--seeds", default=3, show_default=True, help="Fits of each encoder; 20 draws each.")
@click.option("--k", default=10, show_default=True, help="Neighbors of each object.")
@click.option("--scores", default="kth", show_default=True, metavar="NAME,...")
@click.option(
    "--budget",
    default=60.0,
    show_default=True,
    metavar="MINUTES",
    help="For all; a fit that it ends early is marked.",
)
@click.option("--full", is_flag=True, help="sim at the published size of 17,778 objects.")
@click.option("--contamination", type=float, help="Share of outliers.  [default: the protocol's]")
@click.option(
    "--out",
    type=click.Path(),
    metavar="DIR",
    help="Kept and resumed.  [default: runs/evaluate-PROTOCOL]",
)
@_json_option
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
    from astroray.evaluation.runs import EvaluationConfig, evaluate_outliers

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
    _say(evaluation.table, config.out, evaluation.page, evaluation.document if as_json else None)


@evaluate.command("run", short_help="Measure a finished run by labels of your own.")
@click.argument("run_dir", type=click.Path())
@click.option(
    "--labels",
    required=True,
    type=click.Path(),
    metavar="TABLE",
    help="Your table, a row an object: CSV, FITS, VOTable, ECSV or Parquet.",
)
@click.option(
    "--interesting",
    required=True,
    metavar="COLUMN=VALUE,...",
    help="Which rows are of interesting objects; rows with another value are of others, objects "
    "without a value do not count.",
)
@click.option("--id", default="", metavar="COLUMN", help="Identifiers or file names, if unnamed.")
@click.option(
    "--radius-arcsec",
    type=float,
    metavar="ARCSEC",
    help="Match by position instead: the nearest row within so much.",
)
@click.option("--ra", default="", metavar="COLUMN", help="Right ascension, if unnamed.")
@click.option("--dec", default="", metavar="COLUMN", help="Declination, if unnamed.")
@click.option(
    "--out",
    type=click.Path(),
    metavar="DIR",
    help="For rows.json and index.html.  [default: runs/evaluate-NAME, that of RUN_DIR]",
)
@_json_option
def evaluate_run(
    run_dir: str,
    labels: str,
    interesting: str,
    id: str,
    radius_arcsec: float | None,
    ra: str,
    dec: str,
    out: str | None,
    as_json: bool,
) -> None:
    """How early the list of the scan or night in RUN_DIR has what you call interesting.

    AUC, and the interesting among the first of the labelled objects, with 95 % intervals, beside
    the catalog's other scores on the same objects and beside random order; as a page, the curve of
    what is found, and pictures of the interesting ones that come first and last.
    """
    from astroray import storage
    from astroray.evaluation.own_labels import evaluate_labels
    from astroray.surveys.object_tables import TableOptions
    from astroray.surveys.objects import basename

    options = TableOptions(id=id, ra=ra, dec=dec)
    found = evaluate_labels(
        run_dir, labels, interesting, options=options, radius_arcsec=radius_arcsec
    )
    out = out or f"runs/evaluate-{basename(storage.absolute(run_dir))}"
    _say(found.table, out, found.write(out), found.document if as_json else None)


@evaluate.command("flares", short_help="Compare forecasts of flares.")
@click.option(
    "--track",
    default="records",
    show_default=True,
    metavar="records|simulated|light-curves|methods",
    help="Flare catalogs alone, simulated light curves with and without precursors, labeled ones "
    "of TESS and Kepler, or ways of tuning and what is left out, on few simulated ones.",
)
@click.option(
    "--data",
    type=click.Path(),
    metavar="DIR",
    help="Folder with lightcurves/... for records and light-curves.",
)
@click.option(
    "--split",
    metavar="NAME",
    help="Only this part of the track: star-disjoint, time-forward of records; with precursors, "
    "without precursors of simulated; finder, tess, kepler of light-curves; tuning, inputs and "
    "loss of methods.  [default: all]",
)
@click.option("--folds", default=5, show_default=True, help="Folds of stars.")
@click.option(
    "--resamples", default=1000, show_default=True, help="Resamples of stars behind an interval."
)
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--out",
    type=click.Path(),
    metavar="DIR",
    help="For rows.json and index.html.  [default: runs/evaluate-flares-TRACK...]",
)
@_json_option
def evaluate_flares(
    track: str,
    data: str | None,
    split: str | None,
    folds: int,
    resamples: int,
    seed: int,
    out: str | None,
    as_json: bool,
) -> None:
    """Compare forecasts of flares within 24 h with the baselines that they have to beat.

    Stars of the test are never those of the training, or else its days are later; thresholds,
    calibration and early stop are chosen on a third part. Skills are those at the natural rate.
    """
    from astroray.forecast.evaluate import FlareEvaluationConfig
    from astroray.forecast.evaluate import evaluate_flares as evaluate

    config = FlareEvaluationConfig(
        track=track,
        out=out or "-".join(["runs/evaluate-flares", track, *(split or "").split()]),
        data=data,
        split=split,
        num_folds=folds,
        num_resamples=resamples,
        seed=seed,
    )
    with status_line() as show:
        evaluation = evaluate(config, show=functools.partial(show, "evaluate"))
    page = f"{config.out}/index.html"
    _say(evaluation.table, config.out, page, evaluation.document if as_json else None)


def _say(table: str, out: str, page: str, document: Mapping[str, Any] | None) -> None:
    """What an evaluation ends with; `document` is what `--json` asks for."""
    click.echo(f"{table}\n\nrows  {out}/rows.json\npage  {page}")
    if document is not None:
        click.echo(json.dumps(document, allow_nan=False))
