"""How a simulated survey is written to disk: shards of Parquet, and what is true of its objects."""

import io
from collections.abc import Mapping, Set
from types import ModuleType

import pyarrow.parquet as pq

from astroray import storage
from astroray.errors import ConfigError
from astroray.surveys import simulated, simulated_spectra
from astroray.surveys.shards import SurveyUri

__all__ = ["write_survey"]

_MAKERS: Mapping[str, ModuleType] = {
    "sim:galaxies": simulated,
    "sim:spectra": simulated_spectra,
}


def write_survey(survey: str, folder: str) -> str:
    """Writes pixels to `<folder>/shards/<shard>.parquet` and truth to `<folder>/truth.parquet`.

    At most one shard is in memory. Each file is there whole or not at all, the truth last.

    Returns the survey by which the shards are read.
    Raises ConfigError on options that cannot work and where shards of another survey are there,
    StorageError where writing fails.
    """
    uri = SurveyUri.parse(survey)
    if uri.location not in _MAKERS:
        raise ConfigError(
            f"{uri.location!r} is no simulated survey, expected {' or '.join(_MAKERS)}, as in "
            "'sim:galaxies?count=2000&seed=7'"
        )
    maker = _MAKERS[uri.location]
    shards = maker.list_shards([], uri)
    _check_free(storage.join(folder, "shards"), {f"{shard.name}.parquet" for shard in shards})
    truth = io.BytesIO()
    with pq.ParquetWriter(truth, maker.truth_table(f"{uri.location}?count=0").schema) as writer:
        for shard in shards:
            path = storage.join(folder, "shards", f"{shard.name}.parquet")
            storage.publish(path, maker.pack(shard))
            writer.write_table(maker.truth_table(shard))
    storage.publish(storage.join(folder, "truth.parquet"), truth.getvalue())
    return storage.join(folder, "shards") + maker.READ_BY


def _check_free(folder: str, expected: Set[str]) -> None:
    """Raises ConfigError where a folder has other files, which would be read as the survey's."""
    if others := sorted(set(storage.list_names(folder)) - expected):
        raise ConfigError(
            f"{folder} holds {others[0]}, expected no shards but those of this survey; choose "
            "another --out, or delete that folder"
        )
