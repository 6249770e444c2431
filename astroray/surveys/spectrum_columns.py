"""How spectra come out of Parquet and npz files, by well-known names of their columns.

Of a Parquet file a row is an object, and its spectrum lists, in columns of their own or nested in
one. An npz file is one object, or with fluxes [N, T] as many as it has rows.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from astroray.errors import ConfigError, SchemaError
from astroray.surveys.array_files import ArrayFile, open_arrays
from astroray.surveys.column_names import OF_LISTS, find_name, plain_name
from astroray.surveys.list_rows import (
    ListColumns,
    name_and_place,
    plain_columns,
    read_cells,
)
from astroray.surveys.nested_columns import find_nested, is_flags, is_numbers
from astroray.surveys.parquet_files import open_parquet
from astroray.surveys.shards import Reject, reject
from astroray.surveys.spectrum_rows import RawSpectrum, from_logarithm
from astroray.surveys.table_columns import Column, texts

__all__ = ["NAMES", "check_arrays", "check_parquet", "read_arrays", "read_rows"]

_LOGARITHMS = ("loglam", "logwave", "logwavelength")
NAMES: Mapping[str, Sequence[str]] = {
    "wavelength": ("wavelength", "wave", "lambda", "lam", "wl", "spectrumlambda", *_LOGARITHMS),
    "flux": ("flux", "fluxlambda", "flam", "spectrumflux"),
    "ivar": ("ivar", "invvar", "fluxivar", "spectrumivar"),
    "err": ("fluxerr", "fluxerror", "error", "err", "sigma"),
    "mask": ("mask", "andmask", "pixmask", "flags", "quality"),
}
_PLAIN: Mapping[str, Sequence[str]] = {**OF_LISTS, "redshift": ("redshift", "z", "zhelio")}
_NAME = ("name", *OF_LISTS["id"])
UNITS: Mapping[str, float] = {"Angstrom": 1.0, "nm": 10.0, "um": 1e4}
"""Angstrom that one unit of wavelength has."""


def check_parquet(path: str) -> int:
    """Rows of the file. Raises ShardError where it is no Parquet, SchemaError without columns."""
    with open_parquet(path) as file:
        _choose_lists(file.schema_arrow, path)
        return int(file.metadata.num_rows)


def read_rows(
    path: str, rows: Sequence[int] | None, name: str, unit: str, data: bytes | None = None
) -> Iterator[tuple[int, RawSpectrum | Reject]]:
    """Rows of a Parquet file, or only `rows`, in order; `name` is that of the shard.

    data  the file's bytes where they are at hand; then `path` is only what errors call it

    Raises ShardError where the file cannot be read, SchemaError where columns are missing.
    """
    with open_parquet(path, data) as file:
        chosen = _choose_lists(file.schema_arrow, path)
        for row, cells in read_cells(file, path, chosen, rows):
            if isinstance(cells, Reject):
                yield row, cells
                continue
            null = [chosen.columns[r] for r in ("wavelength", "flux") if not cells[r].is_valid]
            if null:
                reason = f"row {row} of {path} has no {', '.join(null)}: it is null"
                yield row, reject(row, "missing", reason)
                continue
            lists = {
                role: np.asarray(cell.values.to_numpy(zero_copy_only=False), np.float64)
                for role, cell in cells.items()
                if role in NAMES and cell.is_valid
            }
            redshift = cells["redshift"].as_py() if "redshift" in cells else None
            who = name_and_place(cells, f"{name}:{row}")
            yield row, _raw(lists, chosen.columns, unit, who, redshift)


def check_arrays(path: str) -> int | None:
    """Spectra of an npz file of many; None where it is one. Raises as `read_arrays` does."""
    with open_arrays(path) as arrays:
        shape = arrays.headers[_choose_arrays(arrays, path)["flux"]].shape
        return shape[0] if len(shape) == 2 else None


def read_arrays(
    path: str, rows: Sequence[int] | None, name: str, unit: str
) -> Iterator[tuple[int, RawSpectrum]]:
    """The spectra of an npz file, or only `rows`, in order; without a name where it is one.

    Raises FileError or ShardError where it cannot be read, SchemaError where arrays are missing.
    """
    with open_arrays(path) as arrays:
        chosen = _choose_arrays(arrays, path)
        shape = arrays.headers[chosen["flux"]].shape
        count = shape[0] if len(shape) == 2 else 1
        shared = {
            role: _whole(arrays, array)
            for role, array in chosen.items()
            if role in NAMES and arrays.headers[array].shape != shape
        }
        names = _names(arrays, count, path)
        ra_N, dec_N, z_N = (
            _plain_numbers(arrays, role, count) for role in ("ra", "dec", "redshift")
        )
        wanted = range(count) if rows is None else sorted(set(rows) & set(range(count)))
        own = [role for role in chosen if role not in shared]
        spans = [(row, row + 1) for row in wanted] if len(shape) == 2 else [(0, shape[0])]
        stored = (arrays.rows(chosen[role], spans) for role in own)
        for row, *parts in zip(wanted, *stored, strict=True):
            mine = {role: np.ravel(part) for role, part in zip(own, parts, strict=True)}
            if len(shape) == 2:
                mine = _without_padding(mine)
            with np.errstate(invalid="ignore"):  # damaged floats become NaN
                lists = {r: np.asarray(v, np.float64) for r, v in {**shared, **mine}.items()}
            otherwise = f"{name}:{row}" if len(shape) == 2 else ""
            who = (names[row] or otherwise, float(ra_N[row]), float(dec_N[row]))
            yield row, _raw(lists, chosen, unit, who, float(z_N[row]))


def _without_padding(lists: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A row of a stack without the end that fills it up, where no wavelength is above 0."""
    if "wavelength" not in lists:
        return lists
    stop = int(np.flatnonzero(lists["wavelength"] > 0).max(initial=-1)) + 1
    return {role: values[:stop] for role, values in lists.items()}


def _raw(
    lists: Mapping[str, np.ndarray],
    chosen: Mapping[str, str],
    unit: str,
    who: tuple[str, float, float],
    redshift: float | None,
) -> RawSpectrum:
    wavelength = lists["wavelength"]
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        if plain_name(chosen["wavelength"]) in _LOGARITHMS:
            wavelength = from_logarithm(wavelength)
        ivar = lists.get("ivar")
        if ivar is None and "err" in lists:
            ivar = np.where(lists["err"] > 0, lists["err"] ** -2.0, 0.0)
    object_id, ra_deg, dec_deg = who
    return RawSpectrum(
        object_id=object_id,
        ra_deg=ra_deg,
        dec_deg=dec_deg,
        wavelength=wavelength * UNITS[unit],
        flux=lists["flux"],
        ivar=ivar,
        mask=lists.get("mask"),
        origin="other",
        redshift=np.nan if redshift is None else float(redshift),
    )


def _choose(names: Sequence[str], path: str) -> dict[str, str]:
    found = {role: find_name(names, known) for role, known in NAMES.items()}
    for role in ("wavelength", "flux"):
        if found[role] is None:
            raise SchemaError(
                f"{path} has no column of {role}: it has {', '.join(names)}, expected one of "
                f"{', '.join(NAMES[role])}; rename it"
            )
    return {role: name for role, name in found.items() if name}


def _choose_lists(schema: pa.Schema, path: str) -> ListColumns:
    """Raises SchemaError where columns are missing or hold no lists of numbers."""
    lists = [field.name for field in schema if pa.types.is_nested(field.type)]
    nested = ""
    if not (find_name(lists, NAMES["wavelength"]) and find_name(lists, NAMES["flux"])):
        fit = [
            name
            for name, parts in find_nested(schema).items()
            if all(find_name(parts.names, NAMES[role]) for role in ("wavelength", "flux"))
        ]
        if len(fit) > 1:
            raise SchemaError(f"{path} has spectra in the columns {', '.join(fit)}, expected one")
        nested = fit[0] if fit else ""
    parts = find_nested(schema)[nested] if nested else schema
    chosen = _choose(parts.names if nested else lists or schema.names, path)
    for role, name in chosen.items():
        kind = parts.field(name).type
        if not (is_numbers(kind) or (role == "mask" and is_flags(kind))):
            raise SchemaError(
                f"column {name!r} of {path} has type {kind}, expected lists of numbers: a row is "
                "one spectrum"
            )
    return ListColumns(
        columns={**chosen, **plain_columns(schema, _PLAIN)}, nested=nested, plain=tuple(_PLAIN)
    )


def _choose_arrays(arrays: ArrayFile, path: str) -> dict[str, str]:
    """Arrays by role, of numbers [T] or [N, T]; raises SchemaError where they are no such."""
    chosen = _choose(list(arrays.headers), path)
    shape = arrays.headers[chosen["flux"]].shape
    for role, name in chosen.items():
        header = arrays.headers[name]
        fits = header.shape == shape or (len(shape) == 2 and header.shape == shape[1:])
        if header.dtype.kind not in "iufb" or not fits or len(shape) not in (1, 2):
            raise SchemaError(
                f"array {name!r} of {path} ({role}) is {header.dtype} of shape {header.shape}, "
                "expected numbers [T], or of many spectra [N, T]"
            )
    return chosen


def _whole(arrays: ArrayFile, name: str) -> np.ndarray:
    (values,) = arrays.rows(name, [(0, arrays.headers[name].shape[0])])
    return values


def _names(arrays: ArrayFile, count: int, path: str) -> list[str | None]:
    name = _find_plain(arrays, _NAME, count, "iufUS")
    if name is None:
        return [None] * count
    try:
        return texts(Column.of_array(_whole(arrays, name)), f"array {name!r} of {path}")
    except ConfigError as error:
        raise SchemaError(str(error)) from None


def _plain_numbers(arrays: ArrayFile, role: str, count: int) -> np.ndarray:
    name = _find_plain(arrays, _PLAIN[role], count, "iuf")
    return np.full(count, np.nan) if name is None else np.asarray(_whole(arrays, name), np.float64)


def _find_plain(arrays: ArrayFile, known: Sequence[str], count: int, kinds: str) -> str | None:
    """The first known array that has one value an object, of one of some kinds of dtype."""
    fit = [n for n, h in arrays.headers.items() if h.shape == (count,) and h.dtype.kind in kinds]
    return find_name(fit, known)
