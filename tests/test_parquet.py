"""Tables out of bytes: columns in the order asked for, and what is said of other bytes."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from astroray.storage.parquet import read_parquet

TABLE = pa.table({"a": [1, 2, 3], "b": ["x", None, "z"], "c": [[1.5], [], [2.5, 3.5]]})


def data_of(table):
    sink = io.BytesIO()
    pq.write_table(table, sink, write_page_checksum=True)
    return sink.getvalue()


def test_a_table_comes_back_whole_or_by_columns_in_the_order_asked_for():
    data = data_of(TABLE)
    assert read_parquet(data).equals(TABLE)
    assert read_parquet(data, ["c", "a"]).equals(TABLE.select(["c", "a"]))
    assert read_parquet(data_of(TABLE.slice(0, 0))).num_rows == 0


def test_a_column_that_is_missing_is_named():
    with pytest.raises(pa.ArrowInvalid, match=r"a column is missing: .*d"):
        read_parquet(data_of(TABLE), ["a", "d"])


@pytest.mark.parametrize("wrong", [b"", b"no parquet", data_of(TABLE)[:-9]])
def test_other_bytes_are_refused(wrong):
    with pytest.raises((pa.ArrowInvalid, OSError)):
        read_parquet(wrong)


def test_a_changed_page_is_refused_by_its_checksum():
    data = bytearray(data_of(TABLE))
    data[30] ^= 1
    with pytest.raises((pa.ArrowInvalid, OSError)):
        read_parquet(bytes(data))
