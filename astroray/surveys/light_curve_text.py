"""How text tables are read: a light curve a file, or single measurements of many objects."""

import csv
import gzip
import io
import zlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.csv

from astroray import storage
from astroray.errors import SchemaError, ShardError
from astroray.surveys.column_names import OF_MEASUREMENTS
from astroray.surveys.light_curve_columns import Stated, star_of_file
from astroray.surveys.light_curve_rows import RawCurve
from astroray.surveys.measurements import MeasuredColumns, Measurements, choose_measured

__all__ = ["read_text", "read_text_measurements"]

_BAD_TEXT = (pa.ArrowException, OSError, ValueError, EOFError, csv.Error, zlib.error)


def read_text(path: str, stated: Stated, *, names: Sequence[str]) -> RawCurve:
    """The light curve in a text file, packed or not, separated by commas or blanks.

    `names` are those of its columns where it has no line of names.
    Raises FileError or ShardError where it cannot be read, SchemaError where columns are missing
    or it seems to hold many objects.
    """
    measured = read_text_measurements(path, stated, names=names)
    if np.any(np.diff(measured.columns["time"]) < 0):
        _refuse_many(path)
    return measured.one_curve(star_of_file(path))


def read_text_measurements(
    path: str, stated: Stated, *, names: Sequence[str], id_column: str = ""
) -> Measurements:
    """What stands in a text file, as read_text reads it, of the band that was asked for.

    Raises as read_text does, and SchemaError where it has no column `id_column`.
    """
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
        chosen = choose_measured(found, stated, path, id_column=id_column)
        if is_bare and "," not in first:
            columns = _read_blanks(data, found, chosen)
        else:
            columns = _read_commas(data, found if is_bare else [], skipped, chosen)
        return Measurements.of_columns(columns, chosen, stated, path)
    except _BAD_TEXT as error:
        raise ShardError(f"{path} cannot be read as a table of text: {error}") from None


def _refuse_many(path: str) -> None:
    """Raises SchemaError where a column may tell objects apart: their times start again."""
    first = _first_line(_unpacked(path))[1]
    ids = [
        name for name in next(csv.reader([first.strip()]), []) if name.lower() in OF_MEASUREMENTS
    ]
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


def _is_numbers(line: str) -> bool:
    words = line.replace(",", " ").split()
    try:
        return len([float(word) for word in words]) >= 2
    except ValueError:
        return False


def _read_blanks(
    data: bytes, names: Sequence[str], chosen: MeasuredColumns
) -> dict[str, pa.ChunkedArray]:
    lines = (line for line in data.decode("utf-8-sig", "replace").splitlines() if line.strip())
    words = [line.split() for line in lines if not line.startswith("#")]
    widths = {len(row) for row in words}
    if widths != {len(names)}:
        raise ValueError(f"its lines have {sorted(widths)} words, expected the {len(names)} named")
    text_of = dict(zip(names, np.array(words).T, strict=True))
    numbers = {name: text_of[name].astype(np.float64) for name in chosen.numbers.values()}
    texts = {name: text_of[name].tolist() for name in chosen.others}
    return {
        name: pa.chunked_array([pa.array(values)]) for name, values in (numbers | texts).items()
    }


def _read_commas(
    data: bytes, names: Sequence[str], skipped: int, chosen: MeasuredColumns
) -> dict[str, pa.ChunkedArray]:
    types = dict.fromkeys(chosen.numbers.values(), pa.float64())
    types |= dict.fromkeys(chosen.others, pa.string())
    table = pa.csv.read_csv(
        io.BytesIO(data),
        read_options=pa.csv.ReadOptions(skip_rows=skipped, column_names=list(names) or None),
        convert_options=pa.csv.ConvertOptions(include_columns=list(types), column_types=types),
    )
    return {name: table.column(name) for name in types}
