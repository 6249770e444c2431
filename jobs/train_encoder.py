"""The job `train_encoder`: a network fitted without labels on a sample of a survey.

    astroray submit train_encoder --survey s3://sky/images --out s3://models/mine.safetensors
    ray job submit --working-dir . -- python jobs/train_encoder.py --survey s3://... --out s3://...

`--out` is the model file; the fit's state stands beside it, so that the same job resumes. What is
trained, and for how long, stands in `configure`; `--set` goes before it.
"""

from collections.abc import Mapping
from typing import Any

from astroray.config import ScanConfig
from astroray.console import show_training
from astroray.fitting.train_encoder import load_training
from astroray.job_command import job_command


def configure(survey: str, out: str, settings: Mapping[str, Any]) -> ScanConfig:
    """The settings of the fit: those of this job, then those of the command line."""
    recipe = {
        "encoder.name": "vit-small",
        "fit.budget_s": 6 * 3600.0,
        "fit.train_workers": 1,
        "max_fit_rows": 65_536,
    }
    return load_training(out, survey, {**recipe, **settings})


main = job_command(configure, show_training)

if __name__ == "__main__":
    main()
