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
def open_parquet(path: str, data: bytes | None = None) -> Iterator[pq.ParquetFile]:
    """The file, the rows and columns of its row groups counted.

    No more may be asked of its metadata: `row_group(i).column(j)`, statistics and data set filters
    end the process where a damaged footer says of a column what cannot be (one bit in 200, pyarrow
    26). Reading raises.

    data  the file's bytes where they are at hand; then `path` is only what errors call it

    Raises ShardError where it is not whole, FileError where it is missing.
    """
    with contextlib.ExitStack() as stack:
        copy = stack.enter_context(storage.local_copy(path)) if data is None else None
        try:
            source = copy.as_posix() if copy else pa.BufferReader(data)
            file = stack.enter_context(pq.ParquetFile(source, page_checksum_verification=True))
            _check_groups(file.metadata)
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
