"""How the flares of a run become one file for other tools: VOTable, FITS or CSV."""

import pyarrow as pa

from astroray import schema, storage
from astroray.catalog.exports import export_rows
from astroray.errors import ConfigError
from astroray.run_record import RunRecord
from astroray.storage.parquet import read_parquet

__all__ = ["export_flares", "holds_flares"]


def holds_flares(record: RunRecord) -> bool:
    """Whether a run is one of `astroray flares find`."""
    return "num_injections" in record.config


def export_flares(run_dir: str, *, format: str, out: str, overwrite: bool = False) -> int:
    """Writes the flares of a run, by star and time, as export_rows has it; returns their number.

    The profiles, lists of another length for each flare, are left in flares.parquet. Raises
    ConfigError where the run is not done.
    """
    record = RunRecord.of(run_dir)
    if record.state != "done":
        raise ConfigError(
            f"{run_dir} holds a run that is {record.state}, expected one that is done; the same "
            "command finishes it"
        )
    path = storage.join(run_dir, "flares.parquet")
    flares = schema.conform(read_parquet(storage.read_bytes(path)), schema.FLARES, path)
    scalars = [field.name for field in schema.FLARES if not pa.types.is_list(field.type)]
    return export_rows(flares.select(scalars), format=format, out=out, overwrite=overwrite)
