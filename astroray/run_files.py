"""Where the files of a run directory lie that several modules name."""

import contextlib

from astroray import storage
from astroray.errors import AstrorayError

__all__ = [
    "OF_FLARES",
    "OF_SCAN",
    "changes_file",
    "flare_part_file",
    "listing_file",
    "model_file",
    "publish_page",
    "record_file",
    "report_file",
    "where_now",
]


OF_SCAN = ("catalog", "index", "neighbors", "report", "thumbnails")
"""Folders that a scan or night writes, and takes files out of that are not its own."""
OF_FLARES = (
    "flares.parquet", "index.html", "light_curves.parquet", "parts", "refused.parquet",
    "rejects.parquet", "stars.parquet",
)  # fmt: skip
"""What `flares find` writes."""


def record_file(run_dir: str) -> str:
    """The run record; whoever finds it holds a run."""
    return storage.join(run_dir, "run.json")


def listing_file(run_dir: str) -> str:
    """The shards as they were listed."""
    return storage.join(run_dir, "ledger", "shards.parquet")


def model_file(run_dir: str) -> str:
    """The model that embedded the survey."""
    return storage.join(run_dir, "model", "model.safetensors")


def changes_file(run_dir: str) -> str:
    """What entered, left and moved in a night."""
    return storage.join(run_dir, "changes.parquet")


def publish_page(folder: str, html: str) -> str:
    """Publishes the page of what is no scan or night, as an evaluation; returns its path."""
    path = storage.join(folder, "index.html")
    storage.publish(path, html.encode())
    return path


def report_file(run_dir: str) -> str:
    """The page of a scan or night."""
    return storage.join(run_dir, "report", "index.html")


def flare_part_file(run_dir: str, table: str, shard: str) -> str:
    """A shard's rows of a table of `flares find`, `candidates` or `light_curves`."""
    return storage.join(run_dir, "parts", table, f"{shard}.parquet")


def where_now(version: str, run_dir: str) -> str:
    """Where an older version lies to which a run refers: where it was then, or beside the run.

    The latter where the folder of both was moved or copied: what is there is known by its sha256.
    """
    above, _, name = version.rstrip("/").rpartition("/")
    folder = storage.absolute(run_dir).rstrip("/").rpartition("/")[0]
    beside = storage.join(folder, name)
    if above == folder or not storage.exists(record_file(beside)):
        return version
    with contextlib.suppress(AstrorayError):  # of a store that was left, too
        if storage.exists(record_file(version)):
            return version
    return beside
