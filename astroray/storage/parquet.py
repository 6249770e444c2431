"""How a table becomes a Parquet file, and its bytes a table, by no thread that outlives us."""

import io
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from astroray import storage

__all__ = ["parquet_bytes", "publish_parquet", "read_batches", "read_parquet"]


def publish_parquet(path: str, table: pa.Table) -> None:
    """Publishes a table as one file, whole or absent; its bytes are made in memory."""
    storage.publish(path, parquet_bytes(table))


def parquet_bytes(
    table: pa.Table,
    *,
    compression: str | Mapping[str, str] = "zstd",
    use_dictionary: bool | Sequence[str] = True,
    row_group_size: int | None = None,
) -> bytes:
    """A table as the bytes of a Parquet file.

    compression     of all columns, or of each by name
    use_dictionary  whether values that occur again are written once, or in which columns
    """
    sink = io.BytesIO()
    pq.write_table(
        table,
        sink,
        row_group_size=row_group_size,
        compression=compression,
        use_dictionary=use_dictionary,
    )
    return sink.getvalue()


def read_parquet(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """The table in the bytes of a Parquet file, pages checked; some columns, in the order given.

    The bytes are copied into memory of Arrow's own, and `pq.read_table` is not used: a thread of
    Arrow's may drop its source when the interpreter has ended already, and where that are Python's
    bytes, the process aborts (one end in eight with pyarrow 26).

    Raises ArrowInvalid or OSError where the bytes are no such file.
    """
    with _opened(data) as file:
        table = file.read(columns=None if columns is None else list(columns))
    try:
        return table if columns is None else table.select(list(columns))
    except KeyError as error:
        raise pa.ArrowInvalid(f"a column is missing: {error}") from None


def read_batches(
    data: bytes, num_rows: int, columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """The rows of a Parquet file, as `read_parquet`, at most `num_rows` of them at a time."""
    with _opened(data) as file:
        yield from file.iter_batches(num_rows, columns=None if columns is None else list(columns))


def _opened(data: bytes) -> pq.ParquetFile:
    owned = pa.allocate_buffer(len(data))
    memoryview(owned).cast("B")[:] = data
    return pq.ParquetFile(pa.BufferReader(owned), page_checksum_verification=True)
