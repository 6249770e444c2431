"""The job `nightly`: what is new in a survey is added to the newest version of its catalog.

    astroray submit nightly --survey s3://sky/nights --out s3://runs/nights --wait
    ray job submit --working-dir . -- python jobs/nightly.py --survey s3://... --out s3://...

`--out` is a folder of versions: a scan, then one for each night, named by the date (UTC). The
reference of tonight is the newest finished one. What is looked for is the reference's; what a night
may choose stands in `configure`; `--set` goes before it.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import click

from astroray.console import show_night
from astroray.job_command import job_command
from astroray.nightly import SeriesConfig, plan_night
from astroray.settings import load_settings


def configure(survey: str, out: str, settings: Mapping[str, Any]) -> SeriesConfig:
    """The settings of the night: those of this job, then those of the command line."""
    tonight = {
        "night": datetime.now(UTC).strftime("%Y-%m-%d"),
        "workers": "auto",
    }
    given = {**tonight, **settings, "survey": survey, "folder": out}
    config: SeriesConfig = load_settings(SeriesConfig, None, given)
    return config


def run(config: SeriesConfig, out: str) -> None:
    """Adds the night to the version that it finds."""
    night = plan_night(config)
    click.echo(f"night    {night.out}\nafter    {night.reference}")
    show_night(night)


main = job_command(configure, run)

if __name__ == "__main__":
    main()
