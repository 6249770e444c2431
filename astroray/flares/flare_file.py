"""How flares and forecasts of them become one file for other tools: VOTable, FITS or CSV."""

import pyarrow as pa

from astroray import schema, storage
from astroray.catalog.exports import export_rows
from astroray.errors import ConfigError
from astroray.run_folders import record_of
from astroray.run_record import RunRecord
from astroray.storage.parquet import read_parquet

__all__ = ["export_flares", "export_forecasts", "holds_flares", "holds_forecasts"]


def holds_flares(record: RunRecord) -> bool:
    """Whether a run is one of `astroray flares find`."""
    return "num_injections" in record.config


def export_flares(run_dir: str, *, format: str, out: str, overwrite: bool = False) -> int:
    """Writes the flares of a run, by star and time, as export_rows has it; returns their number.

    The profiles, lists of another length for each flare, are left in flares.parquet. Raises
    ConfigError where the run is not done.
    """
    record = record_of(run_dir)
    if record.state != "done":
        raise ConfigError(
            f"{run_dir} holds a run that is {record.state}, expected one that is done; the same "
            "command finishes it"
        )
    flares = _read(storage.join(run_dir, "flares.parquet"), schema.FLARES)
    return export_rows(flares, format=format, out=out, overwrite=overwrite)


def holds_forecasts(folder: str) -> bool:
    """Whether a folder is one of `astroray flares forecast`, which is no run."""
    return storage.exists(storage.join(folder, "forecast.json"))


def export_forecasts(folder: str, *, format: str, out: str, overwrite: bool = False) -> int:
    """Writes forecasts, by star and time, as export_rows has it; returns their number.

    Whether a flare came is 1, 0 or unknown in FITS, whose claims are true or false alone.
    """
    forecasts = _read(storage.join(folder, "forecasts.parquet"), schema.FORECASTS)
    if format == "fits":
        place = forecasts.schema.get_field_index("flared")
        field = forecasts.schema.field(place).with_type(pa.int16())
        forecasts = forecasts.set_column(place, field, forecasts["flared"].cast(pa.int16()))
    return export_rows(forecasts, format=format, out=out, overwrite=overwrite)


def _read(path: str, fields: pa.Schema) -> pa.Table:
    """The columns of a table that are no lists."""
    table = schema.conform(read_parquet(storage.read_bytes(path)), fields, path)
    return table.select([field.name for field in fields if not pa.types.is_list(field.type)])
