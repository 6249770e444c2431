"""How single columns come out of a table file, whatever its format, without losing a digit."""

import contextlib
import csv
import dataclasses
import gzip
import io
import logging
import math
import posixpath
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from astropy import units
from astropy.coordinates import Angle
from astropy.io import fits, votable
from astropy.table import Table

from astroray.errors import ConfigError
from astroray.surveys.positions import FEW_POSITIONS, refuse_radians, wrap_half_turns

logger = logging.getLogger(__name__)

_MAX_EXACT_FLOAT = 2**53
_EMPTY = {"", "--", "-", "null", "none", "n/a", "na", "nan"}
_BAD_TABLE = (
    pa.ArrowException, OSError, EOFError, ValueError, TypeError, KeyError, IndexError,
    fits.VerifyError, csv.Error, zlib.error,
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
    """Values of one column, None where null, and its unit where the table states one."""

    values: Sequence[Any]
    unit: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Columns:
    """A table whose columns are parsed when they are asked for."""

    names: Sequence[str]
    load: Callable[[Sequence[str]], Mapping[str, Column]]


def open_columns(path: str, data: bytes) -> Columns:
    """The columns of the table in `data`; its suffix tells the format.

    Raises ConfigError, now or when a column is loaded, where it cannot be parsed.
    """
    with _table_errors(path):
        source = _open(path, data)

    def load(names: Sequence[str]) -> Mapping[str, Column]:
        with _table_errors(path):
            return source.load(names)

    return Columns(names=source.names, load=load)


def texts(column: Column, where: str) -> list[str | None]:
    """A column as text, None where empty; integers of any length keep every digit.

    Raises ConfigError where floats or lists stand for identifiers.
    """
    return [_text(value, where) for value in column.values]


def positions(
    columns: Mapping[str, Column], ra: str, dec: str, where: str, *, angles: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """Right ascension and declination [N], deg; both NaN where one is missing or impossible.

    angles  deg or rad: the unit of columns that state none; empty: deg, as long as that is likely

    Right ascension that is -180..180 throughout is brought to 0..360. Raises ConfigError where a
    column holds no angles at all or has a unit that is no angle, where the two look exchanged, and
    where they look like radians.
    """
    ra_deg_N, dec_deg_N = (
        _degrees(
            dataclasses.replace(columns[name], unit=columns[name].unit or angles),
            sexagesimal_unit,
            f"{key} column {name!r} of {where}",
        )
        for key, name, sexagesimal_unit in (
            ("ra", ra, units.hourangle),
            ("dec", dec, units.deg),
        )
    )
    known_N = np.isfinite(ra_deg_N) & np.isfinite(dec_deg_N)
    has_unit = columns[ra].unit or columns[dec].unit or angles
    if not has_unit and np.count_nonzero(known_N) >= FEW_POSITIONS:
        ra_M, dec_M = ra_deg_N[known_N], dec_deg_N[known_N]
        refuse_radians(
            (ra_M.min(), ra_M.max()),
            (dec_M.min(), dec_M.max()),
            f"columns {ra!r} and {dec!r} of {where}",
        )
    ra_deg_N = wrap_half_turns(ra_deg_N, dec_deg_N, where)
    is_known_N = (ra_deg_N >= 0) & (ra_deg_N <= 360) & (np.abs(dec_deg_N) <= 90)
    bad_M = np.flatnonzero(~is_known_N & ~(np.isnan(ra_deg_N) & np.isnan(dec_deg_N)))
    if len(bad_M):
        first = f"ra {ra_deg_N[bad_M[0]]:g}, dec {dec_deg_N[bad_M[0]]:g} deg"
        fits_swapped_N = (np.abs(ra_deg_N) <= 90) & (dec_deg_N >= 0) & (dec_deg_N <= 360)
        if not is_known_N.any() and fits_swapped_N[bad_M].all():
            raise ConfigError(
                f"no position of {where} is possible, the first is {first}: columns {ra!r} and "
                f"{dec!r} look exchanged; name them with ra= and dec="
            )
        template = "%d of %d positions of %s are impossible, the first is %s"
        logger.warning(template, len(bad_M), len(ra_deg_N), where, first)
    ra_deg_N = np.where(is_known_N, ra_deg_N, np.nan)
    return ra_deg_N % 360.0, np.where(is_known_N, dec_deg_N, np.nan)


@contextlib.contextmanager
def _table_errors(path: str) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers and units that no chosen column has
            yield
    except _BAD_TABLE as error:
        raise ConfigError(
            f"table {path} cannot be read: {error}; expected a table in .csv, .csv.gz, .tsv, "
            ".parquet, .fits, .xml (VOTable) or .ecsv"
        ) from None


def _open(path: str, data: bytes) -> Columns:
    suffix = posixpath.splitext(path.lower().removesuffix(".gz"))[1]
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    if suffix in (".parquet", ".pq"):
        return _open_parquet(data)
    if suffix in (".fits", ".fit"):
        with fits.open(io.BytesIO(data), memmap=False) as hdus:
            tables = [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU | fits.TableHDU)]
            if not tables:
                raise ValueError("it holds no table extension")
            return _open_astropy(Table.read(tables[0], format="fits"))
    if suffix in (".xml", ".vot", ".votable"):
        tables = votable.parse(io.BytesIO(data), verify="ignore")
        return _open_astropy(tables.get_first_table().to_table(use_names_over_ids=True))
    if suffix == ".ecsv":
        return _open_astropy(Table.read(data.decode(), format="ascii.ecsv"))
    if suffix in (".csv", ".tsv", ".txt"):
        return _open_csv(data)
    raise ValueError(f"suffix {suffix!r} is no table's")


def _open_csv(data: bytes) -> Columns:
    """All columns stay text, so that no digit of an identifier is lost."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    header = data.partition(b"\n")[0].decode().rstrip("\r")
    mark = next((mark for mark in "\t,;|" if mark in header), ",")
    names = next(csv.reader([header], delimiter=mark), [])

    def load(chosen: Sequence[str]) -> dict[str, Column]:
        table = pa.csv.read_csv(
            io.BytesIO(data),
            parse_options=pa.csv.ParseOptions(delimiter=mark),
            convert_options=pa.csv.ConvertOptions(
                include_columns=chosen, column_types=dict.fromkeys(chosen, pa.string())
            ),
        )
        return {name: Column(values=table.column(name).to_pylist()) for name in chosen}

    return Columns(names=names, load=load)


def _open_parquet(data: bytes) -> Columns:
    file = pa.parquet.ParquetFile(io.BytesIO(data))

    def load(chosen: Sequence[str]) -> dict[str, Column]:
        table = file.read(columns=list(chosen))
        units_of = {
            name: (table.schema.field(name).metadata or {}).get(b"unit", b"").decode()
            for name in chosen
        }
        return {
            name: Column(values=table.column(name).to_pylist(), unit=units_of[name])
            for name in chosen
        }

    return Columns(names=file.schema_arrow.names, load=load)


def _open_astropy(table: Table) -> Columns:
    def load(chosen: Sequence[str]) -> dict[str, Column]:
        return {
            name: Column(values=table[name].tolist(), unit=str(table[name].unit or ""))
            for name in chosen
        }

    return Columns(names=table.colnames, load=load)


def _text(value: Any, where: str) -> str | None:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        return value.strip() or None
    if value is None or isinstance(value, int):
        return None if value is None else str(value)
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, float) and value.is_integer() and abs(value) < _MAX_EXACT_FLOAT:
        return str(int(value))
    raise ConfigError(
        f"{where} holds {value!r} of type {type(value).__name__}, expected text or integers; "
        "floats lose digits of identifiers: write the column as text, or name another with id="
    )


def _degrees(column: Column, sexagesimal_unit: units.UnitBase, where: str) -> np.ndarray:
    """Numbers in the column's unit, in figures or text, or sexagesimal text; NaN if neither."""
    values = [v.decode("ascii", "replace") if isinstance(v, bytes) else v for v in column.values]
    scale_deg = 1.0
    if column.unit == "rad" or any(isinstance(value, int | float) for value in values):
        scale_deg = _unit_deg(column.unit, where)
    degrees_N = np.full(len(values), np.nan)
    num_bad = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of 60 seconds in a minute: taken as the next minute
        for i, value in enumerate(values):
            if value is None or (isinstance(value, str) and value.strip().lower() in _EMPTY):
                continue
            try:
                degrees_N[i] = _angle_deg(value, sexagesimal_unit, scale_deg)
            except (ValueError, TypeError):  # astropy's unit and angle errors are ValueErrors
                num_bad, example = num_bad + 1, value
    if num_bad and not np.isfinite(degrees_N).any():
        raise ConfigError(
            f"{where} holds no angles: got {example!r}, expected degrees or sexagesimal text; "
            "name the right columns with ra= and dec="
        )
    if num_bad:
        logger.warning("%d values of %s are no angles, e.g. %r", num_bad, where, example)
    return degrees_N


def _angle_deg(value: Any, sexagesimal_unit: units.UnitBase, scale_deg: float) -> float:
    if not isinstance(value, str):
        return float(value) * scale_deg
    try:
        return float(value) * scale_deg
    except ValueError:
        return float(Angle(value, sexagesimal_unit).to_value(units.deg))


def _unit_deg(unit: str, where: str) -> float:
    if not unit or unit.lower().startswith("deg"):
        return 1.0
    if unit in ("h", "hr", "hour", "hours"):  # time to astropy, an angle in a column of angles
        return 15.0
    try:
        return float(units.Unit(unit).to(units.deg))
    except (ValueError, TypeError):  # UnitsError is a ValueError
        raise ConfigError(
            f"{where} is in {unit!r}, expected an angle such as deg, rad or hourangle"
        ) from None
