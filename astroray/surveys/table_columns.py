"""How single columns come out of a table file, whatever its format, without losing a digit."""

import contextlib
import csv
import dataclasses
import gzip
import io
import math
import posixpath
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from astropy.io import fits, votable
from astropy.table import Table

from astroray.errors import ConfigError, ShardError
from astroray.surveys import parquet_files

__all__ = ["Column", "Columns", "open_columns", "texts", "trimmed"]

PIECE_ROWS = 16_384
"""Rows that are parsed at once."""
_PIECE_BYTES = 2**20
"""The same of text, whose rows are not known before."""
_MAX_EXACT_FLOAT = 2**53
_ADVICE = "floats lose digits of identifiers: write the column as text, or name another with id="
_BAD_TABLE = (
    pa.ArrowException, OSError, EOFError, ValueError, TypeError, KeyError, IndexError,
    fits.VerifyError, csv.Error, zlib.error, ShardError,
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
    """Values of one column, null where missing, and its unit where the table states one."""

    values: Sequence[Any] | pa.ChunkedArray | pa.Array
    unit: str = ""

    @classmethod
    def of_array(cls, array: np.ndarray, unit: str = "") -> "Column":
        """The column that an array [N] of numbers or text is."""
        if array.dtype.kind != "f":
            return cls(values=array.tolist(), unit=unit)
        return cls(values=pa.array(array.astype(f"f{min(array.dtype.itemsize, 8)}")), unit=unit)

    def to_list(self) -> list[Any]:
        """The values as Python has them, None where null."""
        if isinstance(self.values, pa.ChunkedArray | pa.Array):
            found: list[Any] = self.values.to_pylist()
            return found
        return list(self.values)


Piece = Mapping[str, Column]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Columns:
    """A table whose columns are parsed when they are asked for, a piece of its rows at a time."""

    names: Sequence[str]
    pieces: Callable[[Sequence[str]], Iterator[Piece]]
    """The rows of the columns that are named, in order; may be asked for several times."""

    @classmethod
    def held(cls, columns: Mapping[str, Column]) -> "Columns":
        """The columns of a table that is in memory."""
        return cls(
            names=list(columns),
            pieces=lambda names: iter([{name: columns[name] for name in names}]),
        )

    def load(self, names: Sequence[str]) -> dict[str, Column]:
        """All rows of some columns."""
        values: dict[str, list[Any]] = {name: [] for name in names}
        units = dict.fromkeys(names, "")
        for piece in self.pieces(names):
            for name, column in piece.items():
                values[name] += column.to_list()
                units[name] = column.unit
        return {name: Column(values=values[name], unit=units[name]) for name in names}


def open_columns(path: str, local: Path) -> Columns:
    """The columns of the table at `path`, whose suffix tells the format.

    local  the file, or a copy of it, on this machine's disk; it has to stay while columns are read

    Raises ConfigError, now or when a column is read, where it cannot be parsed.
    """
    with _table_errors(path):
        source = _open(path, local)

    def pieces(names: Sequence[str]) -> Iterator[Piece]:
        found = source.pieces(names)
        while True:
            with _table_errors(path):
                piece = next(found, None)
            if piece is None:
                return
            yield piece

    return Columns(names=source.names, pieces=pieces)


def texts(column: Column, where: str) -> list[str | None]:
    """A column as text, None where empty; integers of any length keep every digit.

    Raises ConfigError where floats or lists stand for identifiers.
    """
    values = column.values
    if isinstance(values, pa.Array | pa.ChunkedArray):
        if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
            return trimmed(values).to_pylist()
        if pa.types.is_floating(values.type):
            column = Column(values=_whole_numbers(values, where))
    return [_text(value, where) for value in column.to_list()]


def _whole_numbers(floats: pa.Array | pa.ChunkedArray, where: str) -> pa.Array | pa.ChunkedArray:
    """Floats as int64, null where NaN. Raises ConfigError where they have lost digits."""
    numbers = floats.cast(pa.float64())
    numbers = pc.if_else(pc.is_nan(numbers), None, numbers)
    exact = 2 ** (np.finfo(floats.type.to_pandas_dtype()).nmant + 1)
    largest = pc.max(pc.abs(numbers)).as_py() or 0
    if largest >= exact or pc.any(pc.not_equal(pc.floor(numbers), numbers)).as_py():
        raise ConfigError(
            f"{where} has {floats.type} numbers that are not whole or not below {exact}, expected "
            f"text or integers; {_ADVICE}"
        )
    return numbers.cast(pa.int64())


def trimmed(values: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Text without the spaces around it, null where nothing is left."""
    text = pc.utf8_trim_whitespace(values)
    return pc.if_else(pc.equal(text, ""), None, text)


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


def _open(path: str, local: Path) -> Columns:
    suffix = posixpath.splitext(path.lower().removesuffix(".gz"))[1]
    with local.open("rb") as file:
        is_packed = file.read(2) == b"\x1f\x8b"
    if suffix in (".csv", ".tsv", ".txt"):
        return _open_csv(local, is_packed)
    if suffix in (".fits", ".fit"):
        return _open_fits(local)
    if suffix in parquet_files.SUFFIXES:
        return _open_parquet(path, gzip.decompress(local.read_bytes()) if is_packed else local)
    if suffix not in (".xml", ".vot", ".votable", ".ecsv"):
        raise ValueError(f"suffix {suffix!r} is no table's")
    data = local.read_bytes()
    data = gzip.decompress(data) if is_packed else data
    if suffix == ".ecsv":
        return _of_astropy(Table.read(data.decode(), format="ascii.ecsv"))
    tables = votable.parse(io.BytesIO(data), verify="ignore")
    return _of_astropy(tables.get_first_table().to_table(use_names_over_ids=True))


def _open_csv(local: Path, is_packed: bool) -> Columns:
    """All columns stay text, so that no digit of an identifier is lost."""
    with gzip.open(local) if is_packed else local.open("rb") as file:
        header = file.readline().removeprefix(b"\xef\xbb\xbf").decode().rstrip("\r\n")
    mark = next((mark for mark in "\t,;|" if mark in header), ",")
    names = next(csv.reader([header], delimiter=mark), [])

    def pieces(chosen: Sequence[str]) -> Iterator[Piece]:
        with pa.input_stream(str(local), compression="gzip" if is_packed else None) as stream:
            reader = pa.csv.open_csv(
                stream,
                read_options=pa.csv.ReadOptions(block_size=_PIECE_BYTES),
                parse_options=pa.csv.ParseOptions(delimiter=mark),
                convert_options=pa.csv.ConvertOptions(
                    include_columns=chosen, column_types=dict.fromkeys(chosen, pa.string())
                ),
            )
            for batch in reader:
                yield {name: Column(values=batch.column(name)) for name in chosen}

    return Columns(names=names, pieces=pieces)


def _open_parquet(path: str, source: bytes | Path) -> Columns:
    with parquet_files.open_parquet(path, source) as file:
        schema = file.schema_arrow
    units_of = {field.name: (field.metadata or {}).get(b"unit", b"").decode() for field in schema}

    def pieces(chosen: Sequence[str]) -> Iterator[Piece]:
        with parquet_files.open_parquet(path, source) as file:
            for batch in file.iter_batches(batch_size=PIECE_ROWS, columns=list(chosen)):
                yield {n: Column(values=batch.column(n), unit=units_of[n]) for n in chosen}

    return Columns(names=schema.names, pieces=pieces)


def _open_fits(local: Path) -> Columns:
    with _first_table(local) as hdu:
        names, num_rows = hdu.columns.names, len(hdu.data)

    def pieces(chosen: Sequence[str]) -> Iterator[Piece]:
        with _first_table(local) as hdu:
            for start in range(0, max(num_rows, 1), PIECE_ROWS):
                rows = type(hdu)(hdu.data[start : start + PIECE_ROWS], hdu.header)
                yield _piece(Table.read(rows, format="fits"), chosen)

    return Columns(names=names, pieces=pieces)


@contextlib.contextmanager
def _first_table(local: Path) -> Iterator[fits.BinTableHDU]:
    with fits.open(local) as hdus:
        tables = [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU | fits.TableHDU)]
        if not tables:
            raise ValueError("it holds no table extension")
        yield tables[0]


def _of_astropy(table: Table) -> Columns:
    return Columns.held(_piece(table, table.colnames))


def _piece(table: Table, names: Sequence[str]) -> Piece:
    return {
        name: Column(values=table[name].tolist(), unit=str(table[name].unit or ""))
        for name in names
    }


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a pair of surrogates
        return False
    return True


def _text(value: Any, where: str) -> str | None:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        if not _is_unicode(value):
            raise ConfigError(f"{where} holds {value!r}, expected text that UTF-8 can hold")
        return value.strip() or None
    if value is None or isinstance(value, int):
        return None if value is None else str(value)
    if isinstance(value, Decimal) and value == int(value):
        return str(int(value))
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, float) and value.is_integer() and abs(value) < _MAX_EXACT_FLOAT:
        return str(int(value))
    raise ConfigError(
        f"{where} holds {value!r} of type {type(value).__name__}, expected text or integers; "
        f"{_ADVICE}"
    )
