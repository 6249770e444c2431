"""Which number an object has: its place in the order of `object_id`, a range of names at a time.

Groups of rows come sorted by name and are read where they lie. Names drawn from all of them divide
the alphabet into ranges of about as many rows, and a range has all rows of its names: duplicates
are found in it. What is held of all rows is a number each. R rows of all groups, M of a range.
"""

import bisect
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from astroray.scores import outliers
from astroray.scores.outliers import Unique
from astroray.surveys.shards import Reject

__all__ = ["PLACE", "Numbers", "place_of", "sort_names", "with_places"]

PLACE = "place"
"""Column: the row in its group."""
ROWS_AT_ONCE = 2**16
"""About so many rows are a range."""
SAMPLED = 64
"""Names of a range, about, that the ranges are found by."""


def sort_names(rows: pa.Table) -> pa.Table:
    """Rows of a group in the order of their names, with their places in it."""
    return with_places(rows).sort_by("object_id").combine_chunks()


def with_places(rows: pa.Table) -> pa.Table:
    """Rows of a group that are in the order of their names already, with their places."""
    return rows.append_column(PLACE, pa.array(np.arange(len(rows))))


class Numbers:
    """The numbers of the rows of some groups, each one of `sort_names`.

    Columns that only some groups have are null elsewhere.

    unique  says which rows of a range, all of its names, are objects, and which are rejected
    """

    def __init__(
        self,
        groups: Sequence[pa.Table],
        unique: Callable[[pa.Table], Unique] = outliers.drop_duplicates,
    ) -> None:
        self.groups, self.unique = groups, unique
        self.ends = np.cumsum([0, *map(len, groups)])
        self.number_R = np.full(int(self.ends[-1]), -1, np.int64)
        """[R] int64, of the rows of all groups in their first order; -1 where one was dropped."""
        self.num_objects = 0
        self._dropped: list[tuple[int, Reject]] = []

    @property
    def rejects(self) -> list[Reject]:
        """Of the dropped rows, in the order of the groups."""
        return [reject for _, reject in sorted(self._dropped, key=lambda dropped: dropped[0])]

    def objects(self) -> Iterator[pa.RecordBatch]:
        """The objects by number, without `place`, a batch a range; numbers are given meanwhile."""
        for rows, row_M in self._ranges():
            unique = self.unique(rows)
            self._dropped += zip(row_M[unique.dropped_R].tolist(), unique.rejects, strict=True)
            kept = rows.take(pa.array(unique.kept_M))
            order_M = pc.sort_indices(kept["object_id"]).to_numpy().astype(np.int64)
            end = self.num_objects + len(order_M)
            self.number_R[row_M[unique.kept_M[order_M]]] = np.arange(self.num_objects, end)
            self.num_objects = end
            yield from kept.take(pa.array(order_M)).combine_chunks().to_batches()

    def _ranges(self) -> Iterator[tuple[pa.Table, np.ndarray]]:
        """The rows of each range, and their places among the rows of all groups, [M]."""
        bounds = [*self._splitters(), None]
        starts = [0] * len(self.groups)
        for bound in bounds:
            stops = [place_of(group, bound) for group in self.groups]
            some = [
                group.slice(start, stop - start)
                for group, start, stop in zip(self.groups, starts, stops, strict=True)
            ]
            row_M = [
                rows[PLACE].to_numpy() + first
                for rows, first in zip(some, self.ends[:-1].tolist(), strict=True)
            ]
            rows = pa.concat_tables(some, promote_options="default")  # null where a group has not
            yield rows.drop_columns([PLACE]), np.concatenate(row_M)
            starts = stops

    def _splitters(self) -> list[str]:
        """Names at which ranges begin, but the first, ascending."""
        stride = max(1, ROWS_AT_ONCE // SAMPLED)
        drawn: list[str] = []
        for group in self.groups:
            places = pa.array(np.arange(stride, len(group), stride))
            drawn += group["object_id"].take(places).to_pylist()
        return sorted(set(sorted(drawn)[SAMPLED - 1 :: SAMPLED]))


def place_of(group: pa.Table, name: str | None) -> int:
    """The first row of a group whose name is `name` or comes after it; None: behind all."""
    if name is None:
        return len(group)
    names = group["object_id"]  # the order of UTF-8 is that of Python's characters
    return bisect.bisect_left(range(len(names)), name, key=lambda row: names[row].as_py())
