"""How rows of a Parquet file are read that hold lists of numbers: each row as cells by role.

A row is one object. Its lists, such as time and flux, have columns of their own or are nested in
one column; plain columns beside them say who it is.
"""

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from astroray.errors import ConfigError, SchemaError
from astroray.surveys.column_names import OF_LISTS, find_name
from astroray.surveys.nested_columns import is_numbers, list_leaves, take_lists
from astroray.surveys.parquet_columns import is_identifier, is_number
from astroray.surveys.parquet_files import BAD_PARQUET
from astroray.surveys.shards import Reject, reject
from astroray.surveys.table_columns import Column, texts, trimmed

__all__ = ["ListColumns", "name_and_place", "plain_columns", "read_cells"]

_BATCH_ROWS = 64

Cells = dict[str, pa.Scalar]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ListColumns:
    """Where the roles of a Parquet file are."""

    columns: Mapping[str, str]
    """By role: columns, or parts of the nested one."""
    nested: str = ""
    """The column that the lists are nested in; empty where they have columns of their own."""
    plain: Collection[str] = tuple(OF_LISTS)
    """Roles that are one value a row, in a column of their own."""

    def read(self, batch: pa.RecordBatch, role: str) -> pa.Array:
        """What a batch has for a role; lists of numbers as float64."""
        name = self.columns[role]
        if role in ("ra", "dec"):
            return _degrees(batch.column(name), name)
        is_part = self.nested and role not in self.plain
        lists = take_lists(batch.column(self.nested if is_part else name), name if is_part else "")
        if not is_numbers(lists.type):
            return lists
        return lists.cast(pa.large_list(pa.float64()), safe=False)

    def leaves(self, file: pq.ParquetFile) -> list[str]:
        """Paths of the Parquet columns that are read."""
        own = {n for role, n in self.columns.items() if not self.nested or role in self.plain}
        parts = set(self.columns.values()) - own
        return list_leaves(file, own, self.nested, parts or set(self.columns.values()))


def read_cells(
    file: pq.ParquetFile, path: str, chosen: ListColumns, rows: Sequence[int] | None
) -> Iterator[tuple[int, Cells | Reject]]:
    """The cells of each row, or only of `rows`, in order; a reject where one cannot be decoded."""
    start = 0
    for group in range(file.num_row_groups):
        stop = start + file.metadata.row_group(group).num_rows
        wanted = set(range(start, stop)) & set(range(start, stop) if rows is None else rows)
        if wanted:
            yield from _read_group(file, path, group, start, wanted, chosen)
        start = stop


def _read_group(
    file: pq.ParquetFile,
    path: str,
    group: int,
    start: int,
    wanted: set[int],
    chosen: ListColumns,
) -> Iterator[tuple[int, Cells | Reject]]:
    batches = file.iter_batches(_BATCH_ROWS, [group], chosen.leaves(file), use_threads=False)
    row, last = start, max(wanted)
    while row <= last:
        try:
            batch = next(batches)
            batch.validate(full=True)  # text of damaged pages may not be UTF-8
            lists = {role: chosen.read(batch, role) for role in chosen.columns}
        except (*BAD_PARQUET, StopIteration) as error:
            reason = f"row group {group} of {path} cannot be decoded: {error}"
            for bad in sorted(bad for bad in wanted if bad >= row):
                yield bad, reject(bad, "corrupt", reason)
            return
        if "id" in lists:
            lists["id"] = _names(lists["id"], f"column {chosen.columns['id']!r} of {path}")
        for place in range(batch.num_rows):
            if row + place in wanted:
                yield row + place, {role: column[place] for role, column in lists.items()}
        row += batch.num_rows


def name_and_place(cells: Cells, otherwise: str) -> tuple[str, float, float]:
    """Identifier, right ascension and declination, deg; `otherwise` and NaN where unknown."""
    own, *place = (cells[r].as_py() if r in cells else None for r in ("id", "ra", "dec"))
    ra, dec = (np.nan if value is None else float(value) for value in place)
    is_place = -180 <= ra <= 360 and -90 <= dec <= 90
    return own or otherwise, ra % 360.0 if is_place else np.nan, dec if is_place else np.nan


def _names(column: pa.Array, where: str) -> pa.Array:
    """Identifiers as text. Raises SchemaError where floats have lost digits of theirs."""
    try:
        return pa.array(texts(Column(values=column), where), pa.string())
    except ConfigError as error:
        raise SchemaError(str(error)) from None


def _degrees(column: pa.Array, name: str) -> pa.Array:
    """Numbers, in figures or as text, as float64. Raises ArrowInvalid on other text."""
    numbers = trimmed(column) if _is_text(column.type) else column
    try:
        return numbers.cast(pa.float64(), safe=False)
    except pa.ArrowInvalid as error:
        raise pa.ArrowInvalid(f"column {name!r} is to hold degrees: {error}") from None


def plain_columns(schema: pa.Schema, names: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The columns of those roles that hold one value a row, of a type that suits the role."""
    found = {role: find_name(schema.names, known) for role, known in names.items()}
    return {
        role: name
        for role, name in found.items()
        if name and _SUITS.get(role, is_number)(schema.field(name))
    }


def _is_angle(field: pa.Field) -> bool:
    return is_number(field) or pa.types.is_decimal(field.type) or _is_text(field.type)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


_SUITS = {"id": is_identifier, "ra": _is_angle, "dec": _is_angle}
