"""Rows are put in order on disk, whatever order and pieces they come in."""

import contextlib
import errno

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astroray.errors import StorageError
from astroray.storage import spill
from astroray.storage.spill import Spill


@settings(max_examples=60)
@given(
    pieces=st.lists(st.lists(st.integers(-3, 40), max_size=12), max_size=6),
    step=st.integers(1, 50),
)
def test_all_rows_come_back_by_number_and_those_of_one_number_as_they_came(pieces, step):
    with Spill() as rows:
        start = 0
        for keys in pieces:
            places = pa.array(range(start, start + len(keys)), pa.int64())
            rows.add(np.array(keys, np.int64), pa.table({"place": places}))
            start += len(keys)
        ranges = list(rows.in_ranges(step))
        assert all(len(some) for some in ranges)
        found = [place for some in ranges for place in some["place"].to_pylist()]
        expected = np.argsort(
            np.array([key for keys in pieces for key in keys], np.int64), kind="stable"
        ).tolist()
        assert found == expected
        if start:
            assert len(rows.between(100, 200)) == 0
            assert len(rows.between(-3, 41)) == start


def test_nothing_stays_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with contextlib.suppress(KeyboardInterrupt), Spill() as rows:
        rows.add(np.arange(3), pa.table({"x": [1, 2, 3]}))
        assert len(rows.between(0, 2)) == 2
        assert list(tmp_path.iterdir())
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_disk_that_stays_full_to_the_end_keeps_nothing(tmp_path, monkeypatch):
    class Full:
        def write_batch(self, _: pa.RecordBatch) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        close = write_batch

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(spill.pa.ipc, "new_file", lambda *_: Full())
    with pytest.raises(StorageError, match="the disk is full"), Spill() as rows:
        rows.add(np.arange(3), pa.table({"x": [1, 2, 3]}))
    assert not list(tmp_path.iterdir())


def test_rows_that_are_on_disk_are_not_held():
    before = pa.total_allocated_bytes()
    with Spill() as rows:
        rows.add(np.arange(300_000), pa.table({"x": np.zeros(300_000)}))
        assert pa.total_allocated_bytes() - before < 100_000


def test_a_full_disk_is_named_with_what_to_do(monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(spill.pa, "OSFile", full)
    with Spill() as rows, pytest.raises(StorageError, match="the disk is full"):
        rows.add(np.arange(3), pa.table({"x": [1, 2, 3]}))
