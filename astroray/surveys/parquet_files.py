"""How the Parquet files of a survey are opened: whole or not at all."""

import contextlib
import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from astroray import storage
from astroray.errors import ShardError

__all__ = ["BAD_PARQUET", "SUFFIXES", "open_parquet"]

SUFFIXES = (".parquet", ".parq", ".pq")
BAD_PARQUET = (pa.ArrowException, OSError, ValueError)
"""What pyarrow raises of damaged bytes."""


@contextlib.contextmanager
def open_parquet(path: str, source: bytes | Path | None = None) -> Iterator[pq.ParquetFile]:
    """The file, the rows and columns of its row groups counted, and their names found twice.

    No more may be asked of its metadata: `row_group(i).column(j)`, statistics and data set filters
    end the process where a damaged footer says of a column what cannot be (one bit in 200, pyarrow
    26). Reading raises.

    source  the file's bytes, or a copy on this machine's disk, where there are any; then `path` is
            only what errors call it

    Raises ShardError where it is not whole, FileError where it is missing.
    """
    with contextlib.ExitStack() as stack:
        if source is None:
            source = stack.enter_context(storage.local_copy(path))
        try:
            opened = source.as_posix() if isinstance(source, Path) else pa.BufferReader(source)
            file = stack.enter_context(pq.ParquetFile(opened, page_checksum_verification=True))
            _check_groups(file.metadata)
            _check_names(file, _read_footer(source))
        except BAD_PARQUET as error:
            raise ShardError(
                f"{path} is not a whole Parquet file ({error}), expected its footer at the end; "
                "copy or write it again"
            ) from error
        yield file


def _check_groups(footer: pq.FileMetaData) -> None:
    groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
    sizes = [group.num_rows for group in groups]
    if min(sizes, default=0) < 0 or sum(sizes) != footer.num_rows:
        raise ValueError(f"its row groups have {sum(sizes)} rows, its footer {footer.num_rows}")
    if any(group.num_columns != footer.num_columns for group in groups):
        raise ValueError(f"a row group has not the {footer.num_columns} columns of its footer")


def _check_names(file: pq.ParquetFile, footer: bytes) -> None:
    """Raises ValueError where the schema has a column by a name that its row groups have not.

    That is a flipped bit: else it would be an unknown column, and the file one without identifiers
    or positions. Both have the names in the same order, so that they are gone through once.
    """
    names = list(_names(file.schema_arrow)) if file.num_row_groups else []
    end_of_schema = max(_places(names, footer, 0), default=0)
    places = _places(names, footer, end_of_schema + 1)
    lacking = [name for name, place in zip(names, places, strict=True) if place < 0]
    if len(lacking) == 1 < len(names):  # all of them: writers may come to leave them out
        raise ValueError(f"its schema has column {lacking[0]!r}, its row groups have not")


def _places(names: Iterable[str], footer: bytes, start: int) -> Iterator[int]:
    """Where each name stands in a footer, behind the one before it; -1 where it does not."""
    for name in map(str.encode, names):
        text = bytes([len(name)]) + name if len(name) < 128 else name  # behind its length
        place = footer.find(text, start)
        start = max(start, place + 1)
        yield place


def _names(fields: Iterable[pa.Field]) -> Iterator[str]:
    """Names of columns, and of the parts of those that are structs or lists of structs."""
    for field in fields:
        yield field.name
        kind = field.type
        while pa.types.is_list(kind) or pa.types.is_large_list(kind):
            kind = kind.value_type
        if pa.types.is_struct(kind):
            yield from _names(kind.field(i) for i in range(kind.num_fields))


def _read_footer(source: bytes | Path) -> bytes:
    with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as stream:
        stream.seek(-8, io.SEEK_END)
        size = int.from_bytes(stream.read(4), "little")
        stream.seek(-8 - size, io.SEEK_END)
        return stream.read(size)
