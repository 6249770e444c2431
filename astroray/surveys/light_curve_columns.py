"""How light curves come out of Parquet files, whose rows are an object each.

Columns go by well-known names, here and in npz and text files; what is not in the file (zero point
of time, mission) the user says in the survey's options.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import get_args

import numpy as np
import pyarrow as pa

from astroray import storage
from astroray.errors import SchemaError
from astroray.surveys.column_names import OF_LISTS, find_name, plain_name
from astroray.surveys.light_curve_rows import FluxKind, RawCurve, TimeZero
from astroray.surveys.list_rows import (
    ListColumns,
    name_and_place,
    plain_columns,
    read_cells,
)
from astroray.surveys.nested_columns import find_nested, is_numbers
from astroray.surveys.parquet_files import open_parquet
from astroray.surveys.quality import Mission
from astroray.surveys.shards import Reject, reject

_ZEROS_BY_NAME: Mapping[str, TimeZero] = {
    "timebkjd": "BKJD", "bkjd": "BKJD", "timebtjd": "BTJD", "btjd": "BTJD", "bjd": "BJD",
    "bjdtdb": "BJD", "timebjd": "BJD", "mjd": "MJD", "timemjd": "MJD", "hmjd": "MJD",
    "midpointmjdtai": "MJD",
}  # fmt: skip
"""Columns of time whose name says from when they count."""
NAMES = {
    "time": ("time", *_ZEROS_BY_NAME),
    "flux": ("flux", "pdcsapflux", "sapflux", "fluxraw", "psfflux"),
    "flux_err": (
        "fluxerr", "fluxerror", "error", "err", "pdcsapfluxerr", "sapfluxerr", "psffluxerr",
    ),
    "mag": ("mag", "magnitude"),
    "mag_err": ("magerr", "magerror", "error", "err"),
    "quality": ("quality", "sapquality", "flags", "catflags"),
    "band": ("band", "passband", "filter", "filtercode", "filterid", "fid"),
}  # fmt: skip
"""Names that are tried, as `column_names.find_name` compares them."""
_STAR = re.compile(r"(?<![a-z])(tic|kic|epic|kplr|ktwo)[ _-]?0*(\d+)", re.IGNORECASE)
_CATALOGS = {"kplr": "KIC", "ktwo": "EPIC"}
_MAG_TO_LN = 0.4 * float(np.log(10.0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stated:
    """What the user says of files that do not say it."""

    time: str
    """BKJD, BTJD, BJD or MJD; empty where the name of the column tells."""
    mission: Mission
    mag: bool
    """Whether magnitudes are turned into relative flux; otherwise they are refused."""
    band: str = ""
    """The band whose cadences are taken where a file has several; empty: all, if of one band."""
    curve: str = ""
    """The column that the light curves are nested in, where a file has several such."""


def star_of_file(path: str) -> str:
    """The star in a file's name ("tic14155762_s0042" is "TIC 14155762"); empty where none is."""
    star = _STAR.search(storage.stem(path))
    return f"{_CATALOGS.get(star[1].lower(), star[1].upper())} {star[2]}" if star else ""


def check_parquet(path: str, stated: Stated) -> int:
    """Rows of the file. Raises ShardError where it is no Parquet, SchemaError without columns."""
    with open_parquet(path) as file:
        _choose_lists(file.schema_arrow, stated, path)
        return int(file.metadata.num_rows)


def read_rows(
    path: str,
    stated: Stated,
    rows: Sequence[int] | None,
    name: str,
    data: bytes | None = None,
) -> Iterator[tuple[int, RawCurve | Reject]]:
    """Rows of a Parquet file, or only `rows`, in order; `name` is that of the shard.

    data  the file's bytes where they are at hand; then `path` is only what errors call it

    Raises ShardError where the file cannot be read, SchemaError where columns are missing.
    """
    with open_parquet(path, data) as file:
        chosen = _choose_lists(file.schema_arrow, stated, path)
        for row, cells in read_cells(file, path, chosen, rows):
            if isinstance(cells, Reject):
                yield row, cells
            else:
                yield row, _row(cells, row, chosen.columns, stated, path, name)


def _row(
    cells: dict[str, pa.Scalar],
    row: int,
    chosen: Mapping[str, str],
    stated: Stated,
    path: str,
    name: str,
) -> RawCurve | Reject:
    bands = cells.pop("band").as_py() if "band" in cells else None
    needed = [role for role in ("time", "flux", "mag") if role in cells]
    null = [chosen[role] for role in needed if not cells[role].is_valid]
    if null:
        return reject(row, "missing", f"row {row} of {path} has no {', '.join(null)}: it is null")
    object_id, ra_deg, dec_deg = name_and_place(cells, f"{name}:{row}")
    columns = {
        role: np.asarray(cell.values.to_numpy(zero_copy_only=False), np.float64)
        for role, cell in cells.items()
        if role not in OF_LISTS and cell.is_valid
    }
    if bands is not None:
        try:
            seen_T = of_one_band(bands, stated, f"row {row} of {path}")
        except SchemaError as error:
            return reject(row, "bands", str(error))
        if any(len(column) != len(seen_T) for column in columns.values()):
            return reject(
                row, "shape", f"row {row} of {path} has {len(seen_T)} bands, expected one a cadence"
            )
        columns = {role: column[seen_T] for role, column in columns.items()}
    raw = make_raw(columns, chosen, stated, object_id)
    return dataclasses.replace(raw, ra_deg=ra_deg, dec_deg=dec_deg)


def make_raw(
    columns: Mapping[str, np.ndarray], chosen: Mapping[str, str], stated: Stated, object_id: str
) -> RawCurve:
    """The light curve of one object, without position; magnitudes become relative flux.

    columns  role and values [T], float64; `chosen` has the roles' names in the file
    """
    flux, flux_err = columns.get("flux"), columns.get("flux_err")
    kind: FluxKind = "flux"
    if flux is None:
        flux, flux_err = _relative_flux(columns["mag"], columns.get("mag_err"))
    elif plain_name(chosen["flux"]) in ("pdcsapflux", "sapflux"):
        kind = "pdcsap" if plain_name(chosen["flux"]) == "pdcsapflux" else "sap"
    return RawCurve(
        object_id=object_id,
        ra_deg=np.nan,
        dec_deg=np.nan,
        time_d=columns["time"],
        time_zero=_zero(chosen["time"], stated, "the file"),
        flux=flux,
        flux_err=flux_err,
        quality=columns.get("quality"),
        flux_kind=kind,
        mission=stated.mission,
        meta={},
    )


def _relative_flux(
    mag: np.ndarray, mag_err: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Flux over that of the median magnitude: 10 ** (-0.4 (m - median m)), Pogson (1856)."""
    known = mag[np.isfinite(mag)]
    middle = float(np.median(known)) if len(known) else np.nan
    with np.errstate(over="ignore"):
        flux = np.exp(-_MAG_TO_LN * (mag - middle))
    return flux, None if mag_err is None else flux * _MAG_TO_LN * mag_err


def _zero(column: str, stated: Stated, where: str) -> TimeZero:
    """Raises SchemaError where neither the user nor the column's name says, or they disagree.

    A column of BJD may count from a zero of its own, which only the user knows.
    """
    by_name = _ZEROS_BY_NAME.get(plain_name(column), "")
    is_after_bjd = by_name == "BJD" and stated.time in ("BKJD", "BTJD")
    if stated.time and by_name not in ("", stated.time) and not is_after_bjd:
        raise SchemaError(
            f"time is {stated.time}, but {where} has its times in column {column!r}, which is "
            f"{by_name}; leave time= out, or rename the column"
        )
    named = stated.time or by_name
    for zero in get_args(TimeZero):
        if named == zero:
            return zero
    raise SchemaError(
        f"{where} does not say from when its column {column!r} counts, expected one of "
        f"{get_args(TimeZero)}; say it with time=, e.g. time=BTJD"
    )


def _choose_lists(schema: pa.Schema, stated: Stated, path: str) -> ListColumns:
    """Raises SchemaError where columns are missing or hold no lists of numbers."""
    nested = _choose_nested(schema, stated, path)
    parts = find_nested(schema)[nested] if nested else schema
    chosen = choose(parts.names, stated, path)
    for name in chosen.values():
        kind = parts.field(name).type
        if not is_numbers(kind):
            raise SchemaError(
                f"column {name!r} of {path} has type {kind}, expected lists of numbers: a row is "
                "one light curve; where it is one measurement, say which column names the object "
                "with id="
            )
    lists = [field.name for field in parts if pa.types.is_nested(field.type)]
    if band := band_column(lists, stated, path):
        chosen["band"] = band
    return ListColumns(columns={**chosen, **plain_columns(schema, OF_LISTS)}, nested=nested)


def _choose_nested(schema: pa.Schema, stated: Stated, path: str) -> str:
    """The column that has time and flux, or magnitudes, nested in it; empty where none is needed.

    Raises SchemaError where there are several and none was named, or the named one is none.
    """
    fit = [
        name
        for name, parts in find_nested(schema).items()
        if _find(parts.names, "time") and (_find(parts.names, "flux") or _find(parts.names, "mag"))
    ]
    if stated.curve:
        if stated.curve in fit:
            return stated.curve
        raise SchemaError(
            f"curve is {stated.curve!r}, expected a column of {path} that has time and flux "
            f"nested in it: {', '.join(fit) or 'it has none'}"
        )
    own = _find(schema.names, "time")
    if own and pa.types.is_nested(schema.field(own).type):
        return ""
    if len(fit) > 1:
        raise SchemaError(
            f"{path} has light curves in the columns {', '.join(fit)}, expected one: say which, "
            f"e.g. curve={fit[0]}"
        )
    return fit[0] if fit else ""


def choose(names: Sequence[str], stated: Stated, path: str) -> dict[str, str]:
    """The column of each role: time, flux or mag, their errors, quality; by well-known names.

    Raises SchemaError without time or flux, on magnitudes that nobody asked to turn into flux, and
    where nothing says from when times count.
    """
    time, flux, mag = (_find(names, role) for role in ("time", "flux", "mag"))
    if time is None or (flux is None and mag is None):
        raise SchemaError(
            f"{path} has no column of {'time' if time is None else 'flux'}: it has "
            f"{', '.join(names)}, expected one of {', '.join(NAMES['time'][:2])}... and one of "
            f"{', '.join(NAMES['flux'])}; rename them, or leave "
            "out what holds no light curves, with a glob"
        )
    if flux is None and not stated.mag:
        raise SchemaError(
            f"{path} has magnitudes ({mag!r}) and no flux; say mag=true to turn them into flux "
            "relative to their median"
        )
    roles = ("time", "flux", "flux_err") if flux else ("time", "mag", "mag_err")
    found = {role: _find(names, role) for role in (*roles, "quality")}
    _zero(time, stated, path)
    return {role: name for role, name in found.items() if name}


def band_column(names: Sequence[str], stated: Stated, where: str) -> str:
    """The column that says in which band each cadence was measured; empty where none does.

    Raises SchemaError where a band was asked for.
    """
    found = _find(names, "band") or ""
    if stated.band and not found:
        raise SchemaError(
            f"band is {stated.band!r}, but {where} has no column of bands, expected one of "
            f"{', '.join(NAMES['band'])}; leave band= out"
        )
    return found


def of_one_band(bands: Sequence[object], stated: Stated, where: str) -> np.ndarray:
    """Which cadences [T] are of the band that was asked for, or all where there is but one.

    Raises SchemaError where there are several and none was asked for: as one curve they would
    jump between the star's colors.
    """
    name_T = np.array([_band(value) for value in bands], str)
    if stated.band:
        return np.asarray(name_T == stated.band)
    found = sorted(set(name_T.tolist()))
    if len(found) > 1:
        raise SchemaError(
            f"{where} has measurements in the bands {', '.join(found[:9])}, expected one: say "
            f"which, e.g. band={found[0]}"
        )
    return np.ones(len(name_T), bool)


def _band(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).strip()


def _find(names: Sequence[str], role: str) -> str | None:
    return find_name(names, NAMES[role])
