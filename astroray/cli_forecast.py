"""The verbs that forecast flares."""

import functools

import click

from astroray.terminal import status_line

__all__ = ["evaluate_flares"]


@click.command("flares")
@click.option(
    "--track",
    default="records",
    show_default=True,
    metavar="records",
    help="records: flare catalogs alone.",
)
@click.option("--data", metavar="DIR", help="Folder with lightcurves/catalogues/...")
@click.option("--folds", default=5, show_default=True, help="Folds of stars.")
@click.option(
    "--resamples", default=1000, show_default=True, help="Resamples of stars behind an interval."
)
@click.option("--seed", default=0, show_default=True)
@click.option("--out", metavar="DIR", help="For rows.json.  [default: runs/evaluate-flares-TRACK]")
@click.option("--json", "as_json", is_flag=True, help="End with one line of JSON.")
def evaluate_flares(
    track: str,
    data: str | None,
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
    import json

    from astroray.forecast.evaluate import EvaluationConfig
    from astroray.forecast.evaluate import evaluate_flares as evaluate

    config = EvaluationConfig(
        track=track,
        out=out or f"runs/evaluate-flares-{track}",
        data=data,
        num_folds=folds,
        num_resamples=resamples,
        seed=seed,
    )
    with status_line() as show:
        evaluation = evaluate(config, show=functools.partial(show, "evaluate"))
    click.echo(evaluation.table)
    click.echo(f"\nrows  {config.out}/rows.json")
    if as_json:
        click.echo(json.dumps(evaluation.document, allow_nan=False))
