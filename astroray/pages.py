"""Where the page of a result is, and how it comes before a person's eyes."""

import os
import sys
import tempfile
import webbrowser
from pathlib import Path

from astroray import storage
from astroray.errors import ConfigError
from astroray.report.page import survey_name, write_report
from astroray.run_folders import finished_run, version_of
from astroray.run_record import RunRecord
from astroray.runs import check_takes

__all__ = ["find_page", "open_page", "rewrite_page"]

_PLACES = ("report/index.html", "index.html")
"""Of a scan or night; of an evaluation, flares found and forecasts."""


def find_page(result: str) -> str:
    """The page of a run directory, local or s3://, of the newest version in a folder, of a model.

    Raises ConfigError where there is none.
    """
    run_dir = version_of(result)
    places = [storage.join(run_dir, *place.split("/")) for place in _PLACES]
    if result.endswith(".html"):
        places = [result]
    elif result.endswith(".safetensors"):
        places = [f"{result}.html"]
    for place in places:
        if storage.exists(place):
            return place if storage.is_remote(place) else os.path.abspath(place)
    raise ConfigError(
        f"{result} has no page, expected {' or '.join(places)}; give the --out of a scan, night, "
        "evaluation, of flares found or forecast, or a quantized model; --again writes that of a "
        "scan or night"
    )


def rewrite_page(run_dir: str) -> str:
    """Writes the report of a finished scan or night anew, by this version; returns its path.

    Raises ConfigError where it is another result, StorageError where the run takes no page.
    """
    record = RunRecord.load(version_of(run_dir))
    if record and record.is_of_flares:
        raise ConfigError(
            f"{run_dir} is a run of flares find, and --again writes the page of a scan or night; "
            "the command that began the run writes its page anew, and searches nothing again"
        )
    finished_run(run_dir)
    check_takes(run_dir, "report")
    return write_report(version_of(run_dir))


def open_page(page: str) -> bool:
    """Opens a page in the person's browser, of S3 a copy of it; False where none can be shown."""
    if storage.is_remote(page):
        name = survey_name(page.removesuffix("/index.html").removesuffix("/report"))
        copy = Path(tempfile.mkdtemp(prefix="astroray-")) / f"{name}.html"
        copy.write_bytes(storage.read_bytes(page))
        page = str(copy)
    return _has_display() and webbrowser.open(Path(page).as_uri())


def _has_display() -> bool:
    """Whether a window can come up: a browser of letters would take the terminal over."""
    if sys.platform in ("darwin", "win32"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
