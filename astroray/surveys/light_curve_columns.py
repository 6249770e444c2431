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
import pyarrow.parquet as pq

from astroray import storage
from astroray.errors import SchemaError
from astroray.surveys.light_curve_rows import FluxKind, RawCurve, TimeZero, reject
from astroray.surveys.nested_columns import (
    find_nested,
    is_numbers,
    list_leaves,
    open_rows,
    take_lists,
)
from astroray.surveys.quality import Mission
from astroray.surveys.shards import Reject

_ZEROS_BY_NAME: Mapping[str, TimeZero] = {
    "timebkjd": "BKJD", "bkjd": "BKJD", "timebtjd": "BTJD", "btjd": "BTJD", "bjd": "BJD",
    "bjdtdb": "BJD", "timebjd": "BJD", "mjd": "MJD", "timemjd": "MJD", "hmjd": "MJD",
    "midpointmjdtai": "MJD",
}  # fmt: skip
"""Columns of time whose name says from when they count."""
_NAMES = {
    "time": ("time", *_ZEROS_BY_NAME),
    "flux": ("flux", "pdcsapflux", "sapflux", "fluxraw", "psfflux"),
    "flux_err": (
        "fluxerr", "fluxerror", "error", "err", "pdcsapfluxerr", "sapfluxerr", "psffluxerr",
    ),
    "mag": ("mag", "magnitude"),
    "mag_err": ("magerr", "magerror", "error", "err"),
    "quality": ("quality", "sapquality", "flags", "catflags"),
    "band": ("band", "passband", "filter", "filtercode", "filterid", "fid"),
    "id": (
        "objectid", "objid", "sourceid", "targetid", "diaobjectid", "ps1objid", "ticid", "kepid",
        "kic", "tic", "id",
    ),
    "ra": ("ra", "radeg", "raobj", "raicrs", "objra", "ramean", "meanra", "coordra"),
    "dec": ("dec", "decdeg", "decobj", "deicrs", "objdec", "decmean", "meandec", "coorddec"),
}  # fmt: skip
"""Names that are tried; case, blanks and underscores do not matter."""
_STAR = re.compile(r"(?<![a-z])(tic|kic|epic|kplr|ktwo)[ _-]?0*(\d+)", re.IGNORECASE)
_CATALOGS = {"kplr": "KIC", "ktwo": "EPIC"}
_BAD_TABLE = (pa.ArrowException, OSError, ValueError)
_MAG_TO_LN = 0.4 * float(np.log(10.0))
_BATCH_ROWS = 64
_PLAIN_ROLES = ("id", "ra", "dec")
"""They are one value a row, in a column of their own."""


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Chosen:
    """Where the roles of a Parquet file are."""

    columns: Mapping[str, str]
    """By role: columns, or parts of the nested one."""
    nested: str
    """The column that the cadences are nested in; empty where they have columns of their own."""

    def read(self, batch: pa.RecordBatch, role: str) -> pa.Array:
        """What a batch has for a role; lists of numbers as float64."""
        name = self.columns[role]
        is_part = self.nested and role not in _PLAIN_ROLES
        lists = take_lists(batch.column(self.nested if is_part else name), name if is_part else "")
        if not is_numbers(lists.type):
            return lists
        return lists.cast(pa.large_list(pa.float64()), safe=False)

    def leaves(self, file: pq.ParquetFile) -> list[str]:
        """Paths of the Parquet columns that are read."""
        own = {n for role, n in self.columns.items() if not self.nested or role in _PLAIN_ROLES}
        parts = set(self.columns.values()) - own
        return list_leaves(file, own, self.nested, parts or set(self.columns.values()))


def star_of_file(path: str) -> str:
    """The star in a file's name ("tic14155762_s0042" is "TIC 14155762"); empty where none is."""
    star = _STAR.search(storage.stem(path))
    return f"{_CATALOGS.get(star[1].lower(), star[1].upper())} {star[2]}" if star else ""


def check_parquet(path: str, stated: Stated) -> int:
    """Rows of the file. Raises ShardError where it is no Parquet, SchemaError without columns."""
    with open_rows(path) as file:
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
    with open_rows(path, data) as file:
        chosen = _choose_lists(file.schema_arrow, stated, path)
        start = 0
        for group in range(file.num_row_groups):
            stop = start + file.metadata.row_group(group).num_rows
            wanted = set(range(start, stop)) & set(range(start, stop) if rows is None else rows)
            if wanted:
                yield from _read_group(file, group, start, wanted, chosen, stated, path, name)
            start = stop


def _read_group(
    file: pq.ParquetFile,
    group: int,
    start: int,
    wanted: set[int],
    chosen: _Chosen,
    stated: Stated,
    path: str,
    name: str,
) -> Iterator[tuple[int, RawCurve | Reject]]:
    batches = file.iter_batches(_BATCH_ROWS, [group], chosen.leaves(file), use_threads=False)
    row = start
    while row <= max(wanted):
        try:
            batch = next(batches)
            batch.validate(full=True)  # text of damaged pages may not be UTF-8
            lists = {role: chosen.read(batch, role) for role in chosen.columns}
        except (*_BAD_TABLE, StopIteration) as error:
            reason = f"row group {group} of {path} cannot be decoded: {error}"
            left = sorted(bad for bad in wanted if bad >= row)
            yield from ((bad, reject(bad, "corrupt", reason)) for bad in left)
            return
        for place in range(batch.num_rows):
            if row + place in wanted:
                curve = _row(lists, place, row + place, chosen.columns, stated, path, name)
                yield row + place, curve
        row += batch.num_rows


def _row(
    lists: Mapping[str, pa.Array],
    place: int,
    row: int,
    chosen: Mapping[str, str],
    stated: Stated,
    path: str,
    name: str,
) -> RawCurve | Reject:
    cells = {role: column[place] for role, column in lists.items()}
    bands = cells.pop("band").as_py() if "band" in cells else None
    needed = [role for role in ("time", "flux", "mag") if role in cells]
    null = [chosen[role] for role in needed if not cells[role].is_valid]
    if null:
        return reject(row, "missing", f"row {row} of {path} has no {', '.join(null)}: it is null")
    own = cells["id"].as_py() if "id" in cells else None
    object_id = "" if own is None else str(own).strip()
    ra, dec = (_degrees(cells, role) for role in ("ra", "dec"))
    is_place = -180 <= ra <= 360 and -90 <= dec <= 90
    columns = {
        role: np.asarray(cell.values.to_numpy(zero_copy_only=False), np.float64)
        for role, cell in cells.items()
        if role not in ("id", "ra", "dec") and cell.is_valid
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
    raw = make_raw(columns, chosen, stated, object_id or f"{name}:{row}")
    return dataclasses.replace(raw, ra_deg=ra % 360.0, dec_deg=dec) if is_place else raw


def _degrees(cells: Mapping[str, pa.Scalar], role: str) -> float:
    value = cells[role].as_py() if role in cells else None
    return np.nan if value is None else float(value)


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
    elif _plain(chosen["flux"]) in ("pdcsapflux", "sapflux"):
        kind = "pdcsap" if _plain(chosen["flux"]) == "pdcsapflux" else "sap"
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
    by_name = _ZEROS_BY_NAME.get(_plain(column), "")
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


def _choose_lists(schema: pa.Schema, stated: Stated, path: str) -> _Chosen:
    """Raises SchemaError where columns are missing or hold no lists of numbers."""
    nested = _choose_nested(schema, stated, path)
    parts = find_nested(schema)[nested] if nested else schema
    chosen = choose(parts.names, stated, path)
    lists = [field.name for field in parts if pa.types.is_nested(field.type)]
    if band := band_column(lists, stated, path):
        chosen["band"] = band
    for role, name in chosen.items():
        kind = parts.field(name).type
        if role != "band" and not is_numbers(kind):
            raise SchemaError(
                f"column {name!r} of {path} has type {kind}, expected lists of numbers: a row is "
                "one light curve"
            )
    for role in _PLAIN_ROLES:
        found = _find(schema.names, role)
        if found and not pa.types.is_nested(schema.field(found).type):
            chosen[role] = found
    return _Chosen(columns=chosen, nested=nested)


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
            f"{', '.join(names)}, expected one of {', '.join(_NAMES['time'][:2])}... and one of "
            f"{', '.join(_NAMES['flux'])}; rename them"
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
            f"{', '.join(_NAMES['band'])}; leave band= out"
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
    known = {_plain(name): name for name in reversed(names)}
    return next((known[name] for name in _NAMES[role] if name in known), None)


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace(" ", "")
