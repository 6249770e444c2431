"""In which order the rows of a catalog lie that come in pieces, in any order: sorted on disk.

Rows with a position go by it, the others by rank, ties by object_id, shard and row: one order for
one set of rows. A row group is held at a time, and a number of each row. P rows with a position.
"""

import contextlib
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from astroray import schema
from astroray.catalog import pixels
from astroray.catalog.pixels import CatalogFile
from astroray.storage.spill import Spill

__all__ = ["OrderedRows", "order_rows", "sort_rows"]


class OrderedRows:
    """The rows of a catalog by its files."""

    def __init__(self, placed: "_Sorted", others: "_Sorted", *, rows_per_pixel: int) -> None:
        self._placed, self._others = placed, others
        self.healpix_29_P = placed.key_N
        """[P] of the rows with a position, sorted."""
        num_rows = len(placed.key_N) + len(others.key_N)
        self.files = pixels.divide_sky(placed.key_N, num_rows, rows_per_pixel=rows_per_pixel)

    def groups(self, file: CatalogFile) -> Iterator[pa.Table]:
        """The rows of a file, a row group at a time."""
        rows, first = (self._placed, 0) if file.pixel else (self._others, len(self._placed.key_N))
        for group in file.row_groups:
            yield rows.between(group.start - first, group.stop - first)


@contextlib.contextmanager
def order_rows(
    pieces: Iterable[pa.Table], *, rows_per_pixel: int = pixels.ROWS_PER_PIXEL
) -> Iterator[OrderedRows]:
    """The rows of the pieces, schema.CATALOG, in order while the block lasts.

    Raises SchemaError on other columns, ConfigError on rows_per_pixel below 1, StorageError where
    the disk has no room for them.
    """
    with Spill() as on_sky, Spill() as elsewhere:
        placed, others = _Sorted(on_sky, "_healpix_29"), _Sorted(elsewhere, "rank")
        for piece in pieces:
            rows = schema.conform(piece, schema.CATALOG, "catalog")
            placed.add(rows.filter(pc.is_valid(rows["_healpix_29"])))
            others.add(rows.filter(pc.is_null(rows["_healpix_29"])))
        placed.close()
        others.close()
        yield OrderedRows(placed, others, rows_per_pixel=rows_per_pixel)


def sort_rows(rows: pa.Table, by: str) -> pa.Table:
    """Rows in the order of a column, ties by object_id, shard and row."""
    keys = [(key, "ascending") for key in (by, "object_id", "shard", "row")]
    return rows.sort_by(keys).combine_chunks()  # chunks would show in the bytes of the file


class _Sorted:
    """Rows on disk in the order of a column of whole numbers."""

    def __init__(self, spill: Spill, by: str) -> None:
        self.spill, self.by = spill, by
        self.key_N = np.zeros(0, np.int64)
        """The column, sorted, once all rows are added."""
        self._added = [self.key_N]

    def add(self, rows: pa.Table) -> None:
        self._added.append(rows[self.by].to_numpy())
        self.spill.add(self._added[-1], rows)

    def close(self) -> None:
        self.key_N, self._added = np.sort(np.concatenate(self._added)), []

    def between(self, start: int, stop: int) -> pa.Table:
        """The rows from one place to another."""
        if start == stop:
            return schema.CATALOG.empty_table()
        low, high = self.key_N[[start, stop - 1]].tolist()
        rows = sort_rows(self.spill.between(low, high + 1), self.by)
        return rows.slice(start - int(np.searchsorted(self.key_N, low)), stop - start)
