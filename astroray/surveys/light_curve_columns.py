"""How light curves come out of files without a mission's header: Parquet rows and npz arrays.

A row of a Parquet file, or a whole npz file, is one object. Columns go by well-known names; what is
not in the file (zero point of time, mission) the user says in the survey's options.
"""

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from astroray import storage
from astroray.errors import SchemaError, ShardError
from astroray.surveys.array_files import open_arrays
from astroray.surveys.light_curve_rows import FluxKind, RawCurve, TimeZero, reject
from astroray.surveys.quality import Mission
from astroray.surveys.shards import Reject

_ZEROS_BY_NAME: Mapping[str, TimeZero] = {
    "timebkjd": "BKJD", "bkjd": "BKJD", "timebtjd": "BTJD", "btjd": "BTJD", "bjd": "BJD",
    "bjdtdb": "BJD", "timebjd": "BJD", "mjd": "MJD", "timemjd": "MJD",
}  # fmt: skip
"""Columns of time whose name says from when they count."""
_NAMES = {
    "time": ("time", *_ZEROS_BY_NAME),
    "flux": ("flux", "pdcsapflux", "sapflux", "fluxraw"),
    "flux_err": ("fluxerr", "fluxerror", "error", "err", "pdcsapfluxerr", "sapfluxerr"),
    "mag": ("mag", "magnitude"),
    "mag_err": ("magerr", "magerror", "error", "err"),
    "quality": ("quality", "sapquality", "flags"),
    "band": ("band", "passband", "filter", "filtercode", "fid"),
    "id": ("objectid", "objid", "sourceid", "targetid", "ticid", "kepid", "kic", "tic", "id"),
    "ra": ("ra", "radeg", "raobj", "raicrs"),
    "dec": ("dec", "decdeg", "decobj", "deicrs"),
}
"""Names that are tried; case, blanks and underscores do not matter."""
_STAR = re.compile(r"(?<![a-z])(tic|kic|epic|kplr|ktwo)[ _-]?0*(\d+)", re.IGNORECASE)
_CATALOGS = {"kplr": "KIC", "ktwo": "EPIC"}
_BAD_TABLE = (pa.ArrowException, OSError, ValueError)
_MAG_TO_LN = 0.4 * float(np.log(10.0))
_BATCH_ROWS = 64


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


def star_of_file(path: str) -> str:
    """The star in a file's name ("tic14155762_s0042" is "TIC 14155762"); empty where none is."""
    star = _STAR.search(storage.stem(path))
    return f"{_CATALOGS.get(star[1].lower(), star[1].upper())} {star[2]}" if star else ""


def read_arrays(path: str, stated: Stated) -> RawCurve:
    """The light curve whose columns are arrays of an npz file.

    Raises FileError or ShardError where it cannot be read, SchemaError where columns are missing.
    """
    with open_arrays(path) as arrays:
        chosen = choose(list(arrays.headers), stated, path)
        columns = {}
        for role, name in chosen.items():
            header = arrays.headers[name]
            if len(header.shape) != 1 or header.dtype.kind not in "iuf":
                raise SchemaError(
                    f"array {name!r} of {path} is {header.dtype} of shape {header.shape}, expected "
                    "numbers [T]"
                )
            (columns[role],) = arrays.rows(name, [(0, header.shape[0])])
        num = len(columns["time"])
        alike = [
            name
            for name, header in arrays.headers.items()
            if header.shape == (num,) and header.dtype.kind in "iufUS"
        ]
        seen_T = np.ones(num, bool)
        if band := band_column(alike, stated, path):
            (band_T,) = arrays.rows(band, [(0, num)])
            names = band_T.astype(str) if band_T.dtype.kind == "S" else band_T
            seen_T = of_one_band(names.tolist(), stated, path)
    with np.errstate(invalid="ignore"):  # damaged floats become NaN
        floats = {
            role: (column[seen_T] if len(column) == num else column).astype(np.float64)
            for role, column in columns.items()
        }
    return make_raw(floats, chosen, stated, star_of_file(path))


def check_parquet(path: str, stated: Stated) -> int:
    """Rows of the file. Raises ShardError where it is no Parquet, SchemaError without columns."""
    with _opened(path) as file:
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
    with _opened(path, data) as file:
        chosen = _choose_lists(file.schema_arrow, stated, path)
        start = 0
        for group in range(file.num_row_groups):
            stop = start + file.metadata.row_group(group).num_rows
            wanted = set(range(start, stop)) & set(range(start, stop) if rows is None else rows)
            if wanted:
                yield from _read_group(file, group, start, wanted, chosen, stated, path, name)
            start = stop


@contextlib.contextmanager
def _opened(path: str, data: bytes | None = None) -> Iterator[pq.ParquetFile]:
    if data is not None:
        with _open_parquet(pa.BufferReader(data), path) as file:
            yield file
        return
    with storage.local_copy(path) as copy, _open_parquet(copy.as_posix(), path) as file:
        yield file


def _open_parquet(source: str | pa.NativeFile, path: str) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(source, page_checksum_verification=True)
        groups = (file.metadata.row_group(i) for i in range(file.num_row_groups))
        sizes = [group.num_rows for group in groups]
        if min(sizes, default=0) < 0 or sum(sizes) != file.metadata.num_rows:
            raise ValueError(f"its row groups have {sum(sizes)} rows, not those of its footer")
        return file
    except _BAD_TABLE as error:
        raise ShardError(
            f"{path} is not a whole Parquet file ({error}), expected its footer at the end; copy "
            "or write it again"
        ) from None


def _read_group(
    file: pq.ParquetFile,
    group: int,
    start: int,
    wanted: set[int],
    chosen: Mapping[str, str],
    stated: Stated,
    path: str,
    name: str,
) -> Iterator[tuple[int, RawCurve | Reject]]:
    columns = list(dict.fromkeys(chosen.values()))
    batches = file.iter_batches(_BATCH_ROWS, [group], columns, use_threads=False)
    row = start
    while row <= max(wanted):
        try:
            batch = next(batches)
            batch.validate(full=True)  # text of damaged pages may not be UTF-8
            lists = {role: _lists(batch.column(column)) for role, column in chosen.items()}
        except (*_BAD_TABLE, StopIteration) as error:
            reason = f"row group {group} of {path} cannot be decoded: {error}"
            left = sorted(bad for bad in wanted if bad >= row)
            yield from ((bad, reject(bad, "corrupt", reason)) for bad in left)
            return
        for place in range(batch.num_rows):
            if row + place in wanted:
                yield row + place, _row(lists, place, row + place, chosen, stated, path, name)
        row += batch.num_rows


def _lists(column: pa.Array) -> pa.Array:
    """Lists as large lists of float64, other columns as they are."""
    if not _is_list(column.type):
        return column
    return column.cast(pa.large_list(pa.float64()), safe=False)


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


def _choose_lists(schema: pa.Schema, stated: Stated, path: str) -> dict[str, str]:
    """Raises SchemaError where columns are missing or hold no lists of numbers."""
    chosen = choose(schema.names, stated, path)
    for role in ("id", "ra", "dec"):
        name = _find(schema.names, role)
        if name and not _is_list(schema.field(name).type):
            chosen[role] = name
    lists = [field.name for field in schema if pa.types.is_nested(field.type)]
    if band := band_column(lists, stated, path):
        chosen["band"] = band
    for role, name in chosen.items():
        kind = schema.field(name).type
        if role not in ("id", "ra", "dec", "band") and not _is_list(kind):
            raise SchemaError(
                f"column {name!r} of {path} has type {kind}, expected lists of numbers: a row is "
                "one light curve"
            )
    return chosen


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


def _is_list(kind: pa.DataType) -> bool:
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not any(is_kind(kind) for is_kind in lists):
        return False
    value = kind.value_type
    return pa.types.is_floating(value) or pa.types.is_integer(value)
