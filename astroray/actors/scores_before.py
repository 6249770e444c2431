"""What older versions say of their objects: which rows are theirs, and how they were scored.

The layers of an index that stands have scores by number. Where a night has no such index, the older
catalogs are looked up by name. A place is an object's number, counted through the objects of all
layers; S of them.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from astroray import schema
from astroray.actors.join import read_ranking
from astroray.actors.night_rows import BEFORE, unique_new
from astroray.actors.numbering import place_of
from astroray.catalog.versions import Inherited
from astroray.neighbors.partitions import open_batches, read_batches
from astroray.scores.outliers import Unique

__all__ = ["Before", "ByName", "ByNumber", "Scores"]

Scores = dict[str, np.ndarray]
"""`score`, `rank` and `certified` as the older catalogs have them, by place, and whose `is_old`."""
_NO_ROWS = schema.CATALOG.empty_table().select(BEFORE)


class Before(Protocol):
    """What older versions know, wherever it lies, for numbering the objects of a night."""

    def unique(self, rows: pa.Table) -> Unique:
        """Which rows of a range of names, all that the night's own layer has, are objects."""
        ...

    def scores(self, objects: str, num_own: int) -> Scores:
        """What is known of all objects, once the night's own layer lies in the file `objects`."""
        ...


class ByNumber:
    """What older layers of an index say, by number; the night's own layer has new rows alone.

    layers    paths of who the objects of each layer are
    rankings  paths of what the search of each layer's version gave
    """

    def __init__(self, layers: Sequence[str], rankings: Sequence[str]) -> None:
        self.layers = [open_batches(path).read_all() for path in layers]
        self.rankings = rankings

    def unique(self, rows: pa.Table) -> Unique:
        """The rows whose object no older layer has."""
        ids = rows["object_id"].combine_chunks()
        ends = pc.min_max(ids).as_py()
        known: list[pa.Array] = []
        for layer in self.layers:
            names = _rows_between(layer, ends["min"] or "", ends["max"] or "")["object_id"]
            known += names.filter(pc.is_in(names, value_set=ids)).chunks
        return unique_new(rows, pa.chunked_array(known, ids.type))

    def scores(self, objects: str, num_own: int) -> Scores:
        """What is known of all objects; of one that several versions scored, by the latest."""
        num_older = sum(map(len, self.layers))
        found = {
            "score": np.full(num_older + num_own, np.nan),
            "rank": np.zeros(num_older + num_own, np.int64),
            "certified": np.zeros(num_older + num_own, bool),
        }
        for path in self.rankings:
            batch = read_ranking(path)
            is_some = "number" in batch.schema.names
            place = batch.column("number").to_numpy() if is_some else slice(batch.num_rows)
            for name, values in found.items():
                values[place] = batch.column(name).to_numpy(zero_copy_only=False)
        return found | {"is_old": np.arange(num_older + num_own) < num_older}


class ByName:
    """What older catalogs say, by name; the night's own layer has their objects too.

    files      paths of the rows of the catalogs' files, each by name, the oldest first
    inherited  whose catalogs they are
    """

    def __init__(self, files: Sequence[str], inherited: Inherited) -> None:
        tables = [open_batches(path).read_all() for path in files]
        oldest = inherited.versions[:1]
        num_first = sum([file.version] == oldest for file in inherited.catalogs)
        self.first, self.later = tables[:num_first], tables[num_first:]
        """Files of the first version, most of all, have an object once."""
        self.old = pa.array(list(inherited.receipts), pa.string())
        self._last: tuple[tuple[str, str], pa.Table] | None = None

    def unique(self, rows: pa.Table) -> Unique:
        """The rows that the older catalogs have, and new rows of names that they have not.

        The rows that older versions dropped are no rejects of this night.
        """
        ends = pc.min_max(rows["object_id"]).as_py()
        known = self._between(ends["min"] or "", ends["max"] or "")
        place_R = pc.index_in(rows["object_id"], value_set=known["object_id"].combine_chunks())
        same = [pc.equal(rows[name], known[name].take(place_R)) for name in ("shard", "row")]
        is_kept_R = _truths(pc.fill_null(pc.and_(*same), False))
        new_Q = np.flatnonzero(~_truths(pc.is_in(rows["shard"], value_set=self.old)))
        unique = unique_new(rows.take(pa.array(new_Q)), known["object_id"])
        is_kept_R[new_Q[unique.kept_M]] = True
        return Unique(
            kept_M=np.flatnonzero(is_kept_R),
            dropped_R=new_Q[unique.dropped_R],
            rejects=unique.rejects,
        )

    def scores(self, objects: str, num_own: int) -> Scores:
        """What is known of all objects; of one in several catalogs, by the row of the latest."""
        names = [batch.column("object_id") for batch in read_batches(objects)]
        rows = pa.concat_tables([_NO_ROWS, *(self._of(ids) for ids in names if len(ids))])
        return {
            "score": rows["outlier_score"].to_numpy(),
            "rank": rows["rank"].fill_null(0).to_numpy(),
            "certified": _truths(rows["certified"].fill_null(False)),
            "is_old": _truths(rows["object_id"].is_valid()),
        }

    def _of(self, ids: pa.Array) -> pa.Table:
        """The rows of some objects, in their order by name; null where there is none."""
        known = self._between(ids[0].as_py(), ids[-1].as_py())
        return known.take(pc.index_in(ids, value_set=known["object_id"].combine_chunks()))

    def _between(self, first: str, last: str) -> pa.Table:
        """The rows of names from `first` to `last`."""
        if self._last is None or self._last[0] != (first, last):
            self._last = (first, last), self._latest(first, last)
        return self._last[1]

    def _latest(self, first: str, last: str) -> pa.Table:
        later, rows = (
            pa.concat_tables([_NO_ROWS, *(_rows_between(f, first, last) for f in reversed(files))])
            for files in (self.later, self.first)
        )
        if len(later):
            code_T = later["object_id"].combine_chunks().dictionary_encode().indices.to_numpy()
            later = later.take(pa.array(np.unique(code_T, return_index=True)[1]))
            is_later = pc.is_in(rows["object_id"], value_set=later["object_id"].combine_chunks())
            rows = pa.concat_tables([later, rows.filter(pc.invert(is_later))])
        return rows.combine_chunks()


def _rows_between(file: pa.Table, first: str, last: str) -> pa.Table:
    start, stop = place_of(file, first), place_of(file, last)
    has_last = stop < len(file) and file["object_id"][stop].as_py() == last
    return file.slice(start, stop + has_last - start)


def _truths(values: pa.ChunkedArray) -> np.ndarray:
    """Truth values that may be changed."""
    return np.array(values.to_numpy(), bool)
