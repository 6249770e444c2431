"""How light curves come out of text tables: a file an object, or a table of single measurements.

A table of measurements (`id=` names its column of objects) has no order, so those of an object are
sorted by time; the cadences of a file of one object must stand in order.
"""

import csv
import gzip
import io
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from astroray import storage
from astroray.errors import SchemaError, ShardError
from astroray.surveys.light_curve_columns import (
    Stated,
    band_column,
    choose,
    make_raw,
    of_one_band,
    star_of_file,
)
from astroray.surveys.light_curve_rows import RawCurve

_ID_NAMES = frozenset({"id", "objectid", "object_id", "objid", "oid", "source_id", "name", "star"})
_BAD_TEXT = (pa.ArrowException, OSError, ValueError, EOFError, csv.Error, zlib.error)


def read_text(path: str, stated: Stated, *, names: Sequence[str]) -> RawCurve:
    """The light curve in a text file, packed or not, separated by commas or blanks.

    `names` are those of its columns where it has no line of names.
    Raises FileError or ShardError where it cannot be read, SchemaError where columns are missing
    or it seems to hold many objects.
    """
    chosen, columns, _ = _read(path, stated, names, "")
    if np.any(np.diff(columns["time"]) < 0):
        _refuse_many(path)
    return make_raw(columns, chosen, stated, star_of_file(path))


def read_measurements(
    path: str, stated: Stated, *, names: Sequence[str], id_column: str
) -> list[RawCurve]:
    """The light curves of all objects in a table, in order of their first measurement.

    Raises as read_text does, and SchemaError where it has no column `id_column`.
    """
    chosen, columns, id_N = _read(path, stated, names, id_column)
    order_N = np.argsort(columns["time"], kind="stable")
    known, first, place_N = np.unique(id_N, return_index=True, return_inverse=True)
    by_object_N = order_N[np.argsort(place_N[order_N], kind="stable")]
    groups = np.split(by_object_N, np.cumsum(np.bincount(place_N, minlength=len(known)))[:-1])
    return [
        make_raw(
            {role: values[groups[place]] for role, values in columns.items()},
            chosen,
            stated,
            str(known[place]),
        )
        for place in np.argsort(first)
    ]


def _refuse_many(path: str) -> None:
    """Raises SchemaError where a column may tell objects apart: their times start again."""
    first = _first_line(_unpacked(path))[1]
    ids = [name for name in next(csv.reader([first.strip()]), []) if name.lower() in _ID_NAMES]
    if ids:
        raise SchemaError(
            f"time of {path} goes backwards, and its column {ids[0]!r} may tell several objects "
            f"apart, expected one object a file; say id={ids[0]} if it does"
        )


def _unpacked(path: str) -> bytes:
    data = storage.read_bytes(path)
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def _first_line(data: bytes) -> tuple[int, str]:
    """How many lines of remarks stand before the first that is none, and that line."""
    lines = io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", "replace")
    return next(((i, line) for i, line in enumerate(lines) if not line.startswith("#")), (0, ""))


def _read(
    path: str, stated: Stated, names: Sequence[str], id_column: str
) -> tuple[dict[str, str], dict[str, np.ndarray], np.ndarray]:
    """Names and values of the columns by role, and identifiers [N] as text."""
    try:
        data = _unpacked(path)
        skipped, first = _first_line(data)
        is_bare = _is_numbers(first)
        if is_bare and not names:
            raise SchemaError(
                f"{path} has no line of names, expected one; name its columns with columns=, e.g. "
                "columns=time,flux,flux_err"
            )
        found = list(names) if is_bare else next(csv.reader([first.strip()]), [])
        if id_column and id_column not in found:
            raise SchemaError(f"{path} has no column {id_column!r}, expected one of {found}")
        chosen = choose(found, stated, path)
        band = band_column(found, stated, path)
        texts = [name for name in (id_column, band) if name]
        if is_bare and "," not in first:
            columns, text_of = _read_blanks(data, found, chosen, texts)
        else:
            named = found if is_bare else []
            columns, text_of = _read_commas(data, named, skipped, chosen, texts)
        id_N = text_of.get(id_column, np.empty(0, str))
        if band:
            seen_N = of_one_band(text_of[band].tolist(), stated, path)
            columns = {role: values[seen_N] for role, values in columns.items()}
            id_N = id_N[seen_N] if id_column else id_N
        return chosen, columns, id_N
    except _BAD_TEXT as error:
        raise ShardError(f"{path} cannot be read as a table of text: {error}") from None


def _is_numbers(line: str) -> bool:
    words = line.replace(",", " ").split()
    try:
        return len([float(word) for word in words]) >= 2
    except ValueError:
        return False


def _read_blanks(
    data: bytes, names: Sequence[str], chosen: Mapping[str, str], texts: Sequence[str]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    lines = (line for line in data.decode("utf-8-sig", "replace").splitlines() if line.strip())
    words = [line.split() for line in lines if not line.startswith("#")]
    widths = {len(row) for row in words}
    if widths != {len(names)}:
        raise ValueError(f"its lines have {sorted(widths)} words, expected the {len(names)} named")
    columns = dict(zip(names, np.array(words).T, strict=True))
    numbers = {role: columns[name].astype(np.float64) for role, name in chosen.items()}
    return numbers, {name: columns[name] for name in texts}


def _read_commas(
    data: bytes,
    names: Sequence[str],
    skipped: int,
    chosen: Mapping[str, str],
    texts: Sequence[str],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    types = {name: pa.float64() for name in chosen.values()}
    types |= dict.fromkeys(texts, pa.string())
    table = pa.csv.read_csv(
        io.BytesIO(data),
        read_options=pa.csv.ReadOptions(skip_rows=skipped, column_names=list(names) or None),
        convert_options=pa.csv.ConvertOptions(include_columns=list(types), column_types=types),
    )
    filled = {role: pc.fill_null(table.column(name), np.nan) for role, name in chosen.items()}
    text_of = {name: np.array(table.column(name).to_pylist(), str) for name in texts}
    return {role: column.to_numpy() for role, column in filled.items()}, text_of
