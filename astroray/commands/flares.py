"""The verbs of `astroray flares`."""

import functools

import click

from astroray.terminal import (
    check_rejects,
    counted,
    echo_rejects,
    progress_line,
    status_line,
)

__all__ = ["flares"]


@click.group()
def flares() -> None:
    """Find stellar flares in light curves, and forecast them."""


@flares.command(short_help="Find flares, with energies and completeness.")
@click.argument("survey", type=click.Path())
@click.option(
    "--out", required=True, type=click.Path(), metavar="DIR", help="Run directory, local or s3://."
)
@click.option(
    "--sigma",
    default=3.0,
    show_default=True,
    help="Height of a flare's points above its star, in sigma of the noise around it.",
)
@click.option(
    "--injections",
    default=100,
    show_default=True,
    help="Made flares put into each light curve to measure what is missed; 0 for none.",
)
@click.option("--seed", default=0, show_default=True, help="Of the made flares.")
@click.option("--workers", default="auto", show_default=True, metavar="auto|N|MIN..MAX")
@click.option(
    "--max-rejected",
    default=0.01,
    show_default=True,
    help="Share of light curves or shards that may be rejected before the exit code is 1.",
)
def find(
    survey: str,
    out: str,
    sigma: float,
    injections: int,
    seed: int,
    workers: str,
    max_rejected: float,
) -> None:
    """Find the flares in the light curves of SURVEY: a folder, a glob, one file, s3://...

    Files of Kepler, K2 and TESS are read as the missions publish them; of others say what they do
    not, such as 'stars/*.npz?time=BTJD&mission=tess'. Writes flares.parquet, stars.parquet,
    light_curves.parquet, refused.parquet and rejects.parquet into DIR, and index.html to look at.
    The same command on the same DIR resumes.
    """
    from astroray.find_flares import FindConfig, find_flares
    from astroray.flares.events import FlareRule

    config = FindConfig(
        survey=survey,
        out=out,
        rule=FlareRule(sigma=sigma),
        num_injections=injections,
        seed=seed,
        workers=workers,
        max_rejected=max_rejected,
    )
    with progress_line("light curves") as show:
        record = find_flares(config, show=show)
    counts = record.counts
    click.echo(
        f"{counted(counts.flares, 'flare')} in {counted(counts.rows_embedded, 'light curve')} of "
        f"{counted(counts.stars, 'star')}, "
        f"{counted(counts.refused, 'candidate')} refused, "
        f"{counted(counts.rows_rejected, 'light curve')} and "
        f"{counted(counts.shards_rejected, 'shard')} rejected, {record.spent_s:.0f} s"
    )
    click.echo(
        f"  {counts.mirrored} more in the same light curves upside down: about as many are false"
    )
    echo_rejects(record.rejects)
    click.echo(f"flares   {out}/flares.parquet\npage     {out}/index.html")
    check_rejects(record, max_rejected, rows="light curves", result="tables are")


@flares.command(short_help="Forecast flares within 24 h.")
@click.argument("survey", type=click.Path())
@click.option(
    "--model", required=True, type=click.Path(), metavar="MODEL", help="Of `astroray train flares`."
)
@click.option(
    "--out", required=True, type=click.Path(), metavar="DIR", help="Folder, local or s3://."
)
def forecast(survey: str, model: str, out: str) -> None:
    """Forecast flares within 24 h for every window of the light curves of SURVEY.

    The newest window of each star ends with its last cadence. Writes forecasts.parquet,
    rejects.parquet, forecast.json and index.html into DIR.
    """
    from astroray.forecast.forecast_record import tell_held_out
    from astroray.forecast.predict import ForecastConfig, forecast_flares

    config = ForecastConfig(survey=survey, model=model, out=out)
    with status_line() as show:
        record = forecast_flares(config, show=functools.partial(show, "forecast"))
    click.echo(
        f"{counted(record.windows, 'forecast')} of {counted(record.stars, 'star')}, "
        f"{record.answered} of them with an answer ({record.flared} flared), "
        f"{counted(record.rejected, 'light curve')} rejected"
    )
    if record.skill:
        click.echo(
            f"  AUC {record.skill['auc']:.3f}, AUPRC {record.skill['auprc']:.3f}, Brier "
            f"{record.skill['brier']:.4f} at a base rate of {record.skill['base_rate']:.1%}"
        )
        click.echo(f"  {tell_held_out(record.trained)}; those it was trained on flatter it")
    if record.strangers:
        click.echo(f"  the model was {record.strangers}")
    if record.is_worse_than_base_rate:
        click.echo("  worse than that base rate for every window: train on more stars, or passes")
    echo_rejects(record.rejects)
    for reason, count in record.dropped.items():
        click.echo(f"  left out: {count} {reason}")
    click.echo(f"forecasts {out}/forecasts.parquet\npage      {out}/index.html")
