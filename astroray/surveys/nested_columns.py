"""How light curves or spectra lie in the columns of a Parquet file: as lists, or nested in one.

A row is one of them. Its cadences or pixels are lists in columns of their own, or in one column
that is a struct of lists, as nested-pandas and LSDB write it, or a list of structs.
"""

from collections.abc import Collection, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

__all__ = ["find_nested", "is_flags", "is_list", "is_numbers", "list_leaves", "take_lists"]


def find_nested(schema: pa.Schema) -> dict[str, pa.Schema]:
    """Columns that hold whole light curves or spectra, and what is in them, each part a list."""
    found = {field.name: _parts(field.type) for field in schema}
    return {name: pa.schema(parts) for name, parts in found.items() if parts}


def is_list(kind: pa.DataType) -> bool:
    """Whether a type is lists, of whatever and of one size or many."""
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_kind(kind) for is_kind in lists)


def is_numbers(kind: pa.DataType) -> bool:
    """Whether a type is lists of numbers."""
    if not is_list(kind):
        return False
    value = kind.value_type
    return bool(pa.types.is_floating(value) or pa.types.is_integer(value))


def is_flags(kind: pa.DataType) -> bool:
    """Whether a type is lists of true and false."""
    return is_list(kind) and bool(pa.types.is_boolean(kind.value_type))


def list_leaves(
    file: pq.ParquetFile, names: Collection[str], nested: str, parts: Collection[str]
) -> list[str]:
    """Paths of the Parquet columns to be read: those of `names`, and `parts` of `nested`."""
    paths = [file.schema.column(i).path for i in range(len(file.schema))]
    chosen = []
    for path in paths:
        column, *below = path.split(".")
        is_whole = path in names or column in names
        if is_whole or (nested and column == nested and set(parts) & set(below)):
            chosen.append(path)
    return chosen


def take_lists(column: pa.Array, part: str = "") -> pa.Array:
    """A column, or the `part` of a nested one, as lists; null where a row has none."""
    if not part:
        return column
    if pa.types.is_struct(column.type):
        return pc.struct_field(column, part)
    lengths = pc.fill_null(pc.list_value_length(column), 0)
    ends = pc.cumulative_sum(pc.cast(lengths, pa.int64()))
    offsets = pa.concat_arrays([pa.array([0], pa.int64()), ends])
    values = pc.struct_field(column.flatten(), part)
    return pa.LargeListArray.from_arrays(offsets, values, mask=column.is_null())


def _parts(kind: pa.DataType) -> Sequence[pa.Field]:
    """The parts of a nested type as lists; none of another type."""
    if pa.types.is_struct(kind):
        parts = [kind.field(i) for i in range(kind.num_fields)]
        return parts if parts and all(is_list(part.type) for part in parts) else []
    if is_list(kind) and pa.types.is_struct(kind.value_type):
        parts = [kind.value_type.field(i) for i in range(kind.value_type.num_fields)]
        return [pa.field(part.name, pa.large_list(part.type)) for part in parts]
    return []
