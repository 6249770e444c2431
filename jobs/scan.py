"""The job `scan`: a full survey, from its shards to a certified catalog and a report.

    astroray submit scan --survey s3://sky/images --out s3://runs/images --wait
    ray job submit --working-dir . -- python jobs/scan.py --survey s3://... --out s3://...

What is looked for stands in `configure`: change it there and submit; `--set` goes before it.
"""

from collections.abc import Mapping
from typing import Any

from astroray.config import ScanConfig, load_config
from astroray.console import show_scan
from astroray.job_command import job_command


def configure(survey: str, out: str, settings: Mapping[str, Any]) -> ScanConfig:
    """The settings of the scan: those of this job, then those of the command line."""
    science = {
        "encoder.name": "rings",
        "search.k": 10,
        "search.top": 100,
    }
    return load_config(survey, out, None, {**science, **settings})


main = job_command(configure, lambda config, out: show_scan(config))

if __name__ == "__main__":
    main()
