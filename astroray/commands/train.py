"""The verbs of `astroray train`."""

import click

from astroray.console import show_flare_training, show_training
from astroray.terminal import parse_setting

__all__ = ["train"]


@click.group()
def train() -> None:
    """Fit a network, and write it as a model file."""


@train.command(short_help="Train an encoder on a sample of a survey.")
@click.argument("survey", type=click.Path())
@click.option("--model", required=True, metavar="NAME", help="vit-tiny, attcae, cae, ...")
@click.option(
    "--out", required=True, type=click.Path(), metavar="MODEL", help="Model file, local or s3://."
)
@click.option("--passes", type=int, help="Passes over the sample at most.")
@click.option(
    "--budget",
    type=float,
    metavar="MINUTES",
    help="Minutes of training at most.  [default: 60 where --passes is not given]",
)
@click.option("--train-workers", type=int, help="Training workers.  [default: 1]")
@click.option("--rows", type=int, help="Objects drawn from SURVEY.  [default: 16384]")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="A setting of encoder or fit as in a scan, e.g. encoder.size_px=64, fit.patience=20.",
)
def encoder(
    survey: str,
    model: str,
    out: str,
    passes: int | None,
    budget: float | None,
    train_workers: int | None,
    rows: int | None,
    seed: int,
    settings: tuple[str, ...],
) -> None:
    """Train an encoder on a sample of SURVEY; `astroray scan --encoder MODEL` uses it.

    A tenth of the sample is held out, and the weights of the pass that does best on it are kept;
    the fit ends early where that no longer improves. MODEL.fit keeps the state, so the same
    command resumes, and loss curves for TensorBoard.
    """
    from astroray.fitting.train_encoder import load_training

    flags = {
        "encoder.name": model,
        "fit.num_passes": passes,
        "fit.budget_s": None if budget is None else 60 * budget,
        "fit.train_workers": train_workers,
        "max_fit_rows": rows,
        "seed": seed,
        "fit.seed": seed,
        **dict(parse_setting(text) for text in settings),
    }
    show_training(load_training(out, survey, flags), out)


@train.command("flares", short_help="Train a forecaster of flares.")
@click.argument("survey", type=click.Path())
@click.option(
    "--out", required=True, type=click.Path(), metavar="MODEL", help="Model file, local or s3://."
)
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
    type=click.Path(),
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
