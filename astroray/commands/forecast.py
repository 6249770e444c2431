"""The verbs that forecast flares."""

import functools

import click

from astroray.terminal import status_line

__all__ = ["evaluate_flares", "forecast", "train_flares"]


@click.command("flares", short_help="Compare forecasts of flares.")
@click.option(
    "--track",
    default="records",
    show_default=True,
    metavar="records|simulated|light-curves|methods",
    help="Flare catalogs alone, simulated light curves with and without precursors, labeled ones "
    "of TESS and Kepler, or ways of tuning and what is left out, on few simulated ones.",
)
@click.option(
    "--data", metavar="DIR", help="Folder with lightcurves/... for records and light-curves."
)
@click.option("--split", metavar="NAME", help="Only this part of the track.  [default: all]")
@click.option("--folds", default=5, show_default=True, help="Folds of stars.")
@click.option(
    "--resamples", default=1000, show_default=True, help="Resamples of stars behind an interval."
)
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--out", metavar="DIR", help="For rows.json.  [default: runs/evaluate-flares-TRACK...]"
)
@click.option("--json", "as_json", is_flag=True, help="End with one line of JSON.")
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
    import json

    from astroray.forecast.evaluate import EvaluationConfig
    from astroray.forecast.evaluate import evaluate_flares as evaluate

    config = EvaluationConfig(
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
    click.echo(evaluation.table)
    click.echo(f"\nrows  {config.out}/rows.json")
    if as_json:
        click.echo(json.dumps(evaluation.document, allow_nan=False))


@click.command("flares", short_help="Train a forecaster of flares.")
@click.argument("survey")
@click.option("--out", required=True, metavar="MODEL", help="Model file, local or s3://.")
@click.option(
    "--method",
    default="lora",
    show_default=True,
    metavar="lora|adapter|full",
    help="What is tuned on labels after pre-training.",
)
@click.option("--passes", default=20, show_default=True, help="Passes of tuning at most.")
@click.option(
    "--pretrain-passes", type=int, help="0: from scratch.  [default: 10, or 0 with --backbone]"
)
@click.option(
    "--backbone",
    metavar="FOLDER",
    help="Tune this Hugging Face causal language model, told of the star in words.",
)
@click.option("--tuning-rate", type=float, help="Learning rate.  [default: the method's own]")
@click.option("--train-workers", default=1, show_default=True, help="Training workers.")
@click.option("--seed", default=0, show_default=True)
def train_flares(
    survey: str,
    out: str,
    method: str,
    passes: int,
    pretrain_passes: int | None,
    backbone: str | None,
    tuning_rate: float | None,
    train_workers: int,
    seed: int,
) -> None:
    """Train a forecaster of flares on the light curves of SURVEY.

    Flares are those that `astroray flares find` finds. A backbone is pre-trained without labels,
    then tuned; a fifth of the stars chooses the best pass and the calibration, another fifth is
    only tested. MODEL.fit keeps the state: the same command resumes. Needs `astroray[flares]`
    for lora. Nothing is downloaded: a backbone is a folder with weights and tokenizer.
    """
    from astroray.console import show_flare_training
    from astroray.forecast.train import TrainConfig

    config = TrainConfig(
        survey=survey,
        out=out,
        method=method,
        num_passes=passes,
        pretrain_passes=pretrain_passes,
        backbone=backbone or "",
        tuning_rate=tuning_rate,
        train_workers=train_workers,
        seed=seed,
    )
    show_flare_training(config)


@click.command(short_help="Forecast flares within 24 h.")
@click.argument("survey")
@click.option("--model", required=True, metavar="MODEL", help="Of `astroray train flares`.")
@click.option("--out", required=True, metavar="DIR", help="Folder, local or s3://.")
def forecast(survey: str, model: str, out: str) -> None:
    """Forecast flares within 24 h for every window of the light curves of SURVEY.

    The newest window of each star ends with its last cadence. Writes forecasts.parquet,
    rejects.parquet, forecast.json and index.html into DIR.
    """
    from astroray.forecast.predict import ForecastConfig, forecast_flares

    config = ForecastConfig(survey=survey, model=model, out=out)
    with status_line() as show:
        record = forecast_flares(config, show=functools.partial(show, "forecast"))
    click.echo(
        f"{record.windows} forecasts of {record.stars} stars, {record.answered} of them with an "
        f"answer ({record.flared} flared), {record.rejected} light curves rejected"
    )
    if record.skill:
        click.echo(
            f"  AUC {record.skill['auc']:.3f}, AUPRC {record.skill['auprc']:.3f}, Brier "
            f"{record.skill['brier']:.4f} at a base rate of {record.skill['base_rate']:.1%}"
        )
    if record.is_worse_than_base_rate:
        click.echo("  worse than that base rate for every window: train on more stars, or passes")
    for reason, count in record.dropped.items():
        click.echo(f"  left out: {count} {reason}")
    click.echo(f"forecasts {out}/forecasts.parquet\npage      {out}/index.html")
