"""The job `train_flares`: a forecaster of flares trained on a survey of light curves.

    astroray submit train_flares --survey s3://sky/tess --out s3://models/flares.model
    ray job submit --working-dir . -- python jobs/train_flares.py --survey s3://... --out s3://...

`--out` is the model file; the fit's state stands beside it, so that the same job resumes. What is
trained, and for how long, stands in `configure`; `--set` goes before it.
"""

from collections.abc import Mapping
from typing import Any

from astroray.console import show_flare_training
from astroray.forecast.train import TrainConfig
from astroray.job_command import job_command
from astroray.settings import load_settings


def configure(survey: str, out: str, settings: Mapping[str, Any]) -> TrainConfig:
    """The settings of the fit: those of this job, then those of the command line."""
    recipe = {
        "method": "lora",
        "num_passes": 20,
        "train_workers": 1,
    }
    given = {**recipe, **settings, "survey": survey, "out": out}
    config: TrainConfig = load_settings(TrainConfig, None, given)
    return config


main = job_command(configure, lambda config, out: show_flare_training(config))

if __name__ == "__main__":
    main()
