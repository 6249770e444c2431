"""How the Parquet files of a survey are opened: whole or not at all."""

import contextlib
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from astroray import storage
from astroray.errors import ShardError

__all__ = ["BAD_PARQUET", "SUFFIXES", "open_parquet"]

SUFFIXES = (".parquet", ".parq", ".pq")
BAD_PARQUET = (pa.ArrowException, OSError, ValueError)
"""What pyarrow raises of damaged bytes."""


@contextlib.contextmanager
def open_parquet(
    path: str, data: bytes | None = None, *, same_columns: bool = False
) -> Iterator[pq.ParquetFile]:
    """The file, the row counts of its footer checked.

    data          the file's bytes where they are at hand; then `path` is only what errors call it
    same_columns  whether the columns of each row group are checked, too: not in what a stranger
                  sends, since pyarrow ends the process where a damaged footer says of a column
                  what cannot be

    Raises ShardError where it is not whole, FileError where it is missing.
    """
    with contextlib.ExitStack() as stack:
        copy = stack.enter_context(storage.local_copy(path)) if data is None else None
        try:
            source = copy.as_posix() if copy else pa.BufferReader(data)
            file = stack.enter_context(pq.ParquetFile(source, page_checksum_verification=True))
            _check_rows(file)
            if same_columns:
                _check_columns(file)
        except BAD_PARQUET as error:
            raise ShardError(
                f"{path} is not a whole Parquet file ({error}), expected its footer at the end; "
                "copy or write it again"
            ) from error
        yield file


def _check_rows(file: pq.ParquetFile) -> None:
    footer = file.metadata
    sizes = [footer.row_group(i).num_rows for i in range(footer.num_row_groups)]
    if min(sizes, default=0) < 0 or sum(sizes) != footer.num_rows:
        raise ValueError(f"its row groups have {sum(sizes)} rows, its footer {footer.num_rows}")


def _check_columns(file: pq.ParquetFile) -> None:
    footer = file.metadata
    known = {file.schema.column(i).path for i in range(len(file.schema))}
    for group in (footer.row_group(i) for i in range(footer.num_row_groups)):
        if {group.column(i).path_in_schema for i in range(group.num_columns)} != known:
            raise ValueError("a row group has other columns than the footer")
