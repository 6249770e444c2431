"""How more rows than memory holds are put in order: on disk, by a whole number each row has.

Rows come in pieces; a piece is put in order by itself and written behind the others, uncompressed,
to a file in the folder for temporary files. It is then read where it lies, a range of the numbers
at a time. What is held is a piece, then the rows of a range. B rows of a piece.
"""

import contextlib
from collections.abc import Iterator
from typing import Self

import numpy as np
import pyarrow as pa

from astroray import storage
from astroray.storage.disk_errors import writing

__all__ = ["Spill"]

_KEY = "spill_key"


class Spill:
    """Rows of one schema on this machine's disk, deleted when the block ends.

    First all pieces are added, then ranges are read. Raises StorageError where the disk is full.
    """

    def __init__(self) -> None:
        self.num_rows = 0
        self._nothing = pa.table({})
        self._opens = contextlib.ExitStack()
        self._writer: pa.ipc.RecordBatchFileWriter | None = None
        self._batches: list[tuple[np.ndarray, pa.RecordBatch]] | None = None

    def __enter__(self) -> Self:
        self._path = str(self._opens.enter_context(storage.scratch_folder()) / "rows.arrow")
        return self

    def __exit__(self, *_: object) -> None:
        self._writer = self._batches = None
        self._opens.close()

    def add(self, key_B: np.ndarray, rows: pa.Table) -> None:
        """Adds rows, all of one schema; `key_B` are their numbers, int64."""
        order_B = np.argsort(key_B, kind="stable")
        keyed = rows.append_column(_KEY, pa.array(np.asarray(key_B, np.int64)))
        self._nothing = rows.schema.empty_table()
        with writing(self._path, place=storage.TEMPORARY_PLACE):
            if self._writer is None:
                self._sink = self._opens.enter_context(pa.OSFile(self._path, "wb"))
                self._writer = pa.ipc.new_file(self._sink, keyed.schema)
            for batch in keyed.take(pa.array(order_B)).combine_chunks().to_batches():
                self._writer.write_batch(batch)
        self.num_rows += len(rows)

    def in_ranges(self, step: int) -> Iterator[pa.Table]:
        """All rows by number: those of `step` numbers at a time, where there are some."""
        begin_Q = [int(key_B[0]) for key_B, _ in self._opened()]
        while begin_Q:
            end = min(begin_Q) + step
            yield self.between(min(begin_Q), end)
            place_Q = [int(np.searchsorted(key_B, end)) for key_B, _ in self._opened()]
            begin_Q = [
                int(key_B[place])
                for place, (key_B, _) in zip(place_Q, self._opened(), strict=True)
                if place < len(key_B)
            ]

    def between(self, first: int, end: int) -> pa.Table:
        """The rows whose number is at least `first` and below `end`, by number.

        Rows of one number are in the order in which they were added.
        """
        found, keys = [], []
        for key_B, batch in self._opened():
            start, stop = np.searchsorted(key_B, [first, end]).tolist()
            if start < stop:
                found.append(batch.slice(start, stop - start))
                keys.append(key_B[start:stop])
        if not found:
            return self._nothing
        table = pa.Table.from_batches(found)
        order_M = np.argsort(np.concatenate(keys), kind="stable")
        return table.take(pa.array(order_M)).combine_chunks()

    def _opened(self) -> list[tuple[np.ndarray, pa.RecordBatch]]:
        """The batches where they lie, each with its numbers."""
        if self._batches is None:
            self._batches = []
            if self._writer is not None:
                with writing(self._path, place=storage.TEMPORARY_PLACE):
                    self._writer.close()
                    self._sink.close()
                reader = pa.ipc.open_file(pa.memory_map(self._path))
                for place in range(reader.num_record_batches):
                    batch = reader.get_batch(place)
                    key_B = batch.column(_KEY).to_numpy()
                    self._batches.append((key_B, batch.drop_columns([_KEY])))
        return self._batches
