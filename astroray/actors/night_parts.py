"""How a night is searched in parts, task by task: who is who, parts of vectors, what is written.

A part holds the vectors of a group of shards, old or new, as a partition of an index does, but
without cells: a night searches few objects, and those among all. Files lie in the folder of the
index, under names that depend on the plan alone, until the night is done. What a task holds of
all objects is a few numbers each. N objects, M of them searched, R rows of all groups.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from astroray import drift, faults, ledger, schema, storage, versions
from astroray.actors.index import IDENTITY, IndexPlan, Numbering, numbered_vectors, write_numbers
from astroray.actors.join import JoinPlan, Vectors, read_column
from astroray.actors.night_rows import BEFORE, GROUPS, Searched, publish_night, unique_new
from astroray.actors.numbering import Numbers, place_of
from astroray.actors.publish import Objects
from astroray.actors.search import SearchOutcome, SearchPlan
from astroray.grouping import Stored
from astroray.neighbors.blocks import Block
from astroray.neighbors.distances import spread
from astroray.neighbors.partitions import Partition, open_batches, write_batches
from astroray.neighbors.search import Neighbors
from astroray.neighbors.twins import without_itself
from astroray.outliers import Unique
from astroray.versions import Inherited

__all__ = ["NightPlan", "build_part", "finish_night", "number_night", "read_before"]

COLUMNS = (*IDENTITY, *GROUPS)
_NO_ROWS = schema.CATALOG.empty_table().select(BEFORE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NightPlan:
    """What the tasks of one night are told."""

    index: IndexPlan
    """Its groups are those of the reference, then those of the night."""
    num_old_groups: int
    num_catalogs: int
    """Files of the older catalogs."""

    def before(self, place: int) -> str:
        """Where the rows of a file of the older catalogs lie, by name."""
        return self.index.scratch(f"before-{place:05d}")

    def part(self, group: int) -> str:
        """Where the vectors of a group lie."""
        return self.index.scratch(f"part-{group:05d}")

    @property
    def objects(self) -> str:
        """Where it lies who the objects are, and what their scores were, by number."""
        return self.index.scratch("objects")

    @property
    def listed(self) -> str:
        """Where the certified rows of the reference lie."""
        return self.index.scratch("listed")


def read_before(plan: NightPlan, place: int, version: str, path: str, sha256: str) -> None:
    """What a file of the older catalogs says of its objects, sorted by name.

    Raises LedgerError where the file is missing or differs.
    """
    if storage.exists(plan.before(place)):
        return
    rows = versions.read_file(version, path, sha256, BEFORE)
    _write(plan.before(place), rows.sort_by("object_id").combine_chunks())


def number_night(plan: NightPlan) -> Numbering:
    """Numbers all objects in the order of `object_id`; an object of the reference keeps its row.

    Holds a number of each row, and the rows of a range of names. Writes `objects`, a row an object
    by number, with its score before; `numbers`, a batch a group, -1 for a row that was dropped;
    the certified rows of the reference; the rejects.
    """
    index = plan.index
    paths = [index.scratch(f"identity-{group:05d}") for group in range(index.num_groups)]
    before = _Before([open_batches(plan.before(n)).read_all() for n in range(plan.num_catalogs)])
    old = pa.array(list(versions.read_inherited(index.run_dir).receipts), pa.string())
    numbers = Numbers(
        [open_batches(path).read_all() for path in paths], lambda rows: _unique(rows, before, old)
    )
    listed = [_NO_ROWS]

    def described() -> Iterator[pa.RecordBatch]:
        for batch in numbers.objects():
            known = before.between(batch["object_id"][0].as_py(), batch["object_id"][-1].as_py())
            listed.append(known.filter(known["certified"]))
            yield _described(batch, known)

    write_batches(plan.objects, described())
    _write(plan.listed, pa.concat_tables(listed))
    ledger.write_rejects(index.run_dir, "duplicates", numbers.rejects, attempt=1)
    write_numbers(index, numbers)
    return Numbering(num_objects=numbers.num_objects, num_duplicates=len(numbers.rejects))


def build_part(plan: NightPlan, group: int, shards: Sequence[Stored]) -> None:
    """Writes the vectors of a group; equal ones become one of several objects."""
    if storage.exists(plan.part(group)):
        return
    block, _ = Block.of(*numbered_vectors(plan.index, group, shards))
    nothing = np.zeros(len(block.count_U))
    faults.reach("index.partition", str(group))
    Partition.write(plan.part(group), nothing, nothing, block)


def finish_night(
    plan: NightPlan, join: JoinPlan, search: SearchPlan, found: Neighbors, num_duplicates: int
) -> SearchOutcome:
    """Writes what the night searched and says what the record needs.

    found  proof and index; its arrays are empty
    """
    inherited = versions.read_inherited(search.run_dir)
    vectors, objects = Vectors(join), Objects(plan.objects)
    is_old_N = read_objects(plan, "is_old")
    number_M = np.flatnonzero(read_column(join.ranking, "is_searched"))
    table = objects.take(number_M, COLUMNS)
    number_F, before_score_N = _old_rows(plan, inherited)
    searched = Searched(
        table=table,
        number_M=number_M,
        found=_found(join, vectors, found, number_M),
        is_new_M=~is_old_N[number_M],
        before=open_batches(plan.listed).read_all(),
        num_objects=len(is_old_N),
        num_positions=sum(len(b) - b.column("ra").null_count for b in objects.batches),
        num_duplicates=num_duplicates,
        vectors=vectors.of_objects,
        rows_of=objects.take,
        first_SD=vectors.of_objects(number_F[spread(len(number_F), drift.SAMPLE)]),
        before_score_N=before_score_N,
    )
    return publish_night(search, inherited.versions, searched)


def read_objects(plan: NightPlan, name: str) -> np.ndarray:
    """A column of `objects`, by number, [N]."""
    reader = open_batches(plan.objects)
    batches = [reader.get_batch(place) for place in range(reader.num_record_batches)]
    return np.concatenate([batch.column(name).to_numpy(zero_copy_only=False) for batch in batches])


class _Before:
    """The older catalogs by name: of an object that several have, the row of the latest."""

    def __init__(self, files: Sequence[pa.Table]) -> None:
        self.files = files
        self._last: tuple[tuple[str, str], pa.Table] | None = None

    def between(self, first: str, last: str) -> pa.Table:
        """The rows of names from `first` to `last`."""
        if self._last is None or self._last[0] != (first, last):
            self._last = (first, last), self._latest(first, last)
        return self._last[1]

    def _latest(self, first: str, last: str) -> pa.Table:
        latest_first = [_rows_between(file, first, last) for file in reversed(self.files)]
        rows = pa.concat_tables([_NO_ROWS, *latest_first])
        code_T = rows["object_id"].combine_chunks().dictionary_encode().indices.to_numpy()
        return rows.take(pa.array(np.unique(code_T, return_index=True)[1])).combine_chunks()


def _rows_between(file: pa.Table, first: str, last: str) -> pa.Table:
    start, stop = place_of(file, first), place_of(file, last)
    has_last = stop < len(file) and file["object_id"][stop].as_py() == last
    return file.slice(start, stop + has_last - start)


def _unique(rows: pa.Table, before: _Before, old: pa.Array) -> Unique:
    """Which rows of a range of names are objects.

    old  the shards of older versions, whose dropped rows are no rejects of this night
    """
    ends = pc.min_max(rows["object_id"]).as_py()
    known = before.between(ends["min"] or "", ends["max"] or "")
    place_R = pc.index_in(rows["object_id"], value_set=known["object_id"].combine_chunks())
    same = [pc.equal(rows[name], known[name].take(place_R)) for name in ("shard", "row")]
    is_kept_R = _plain(pc.fill_null(pc.and_(*same), False))
    new_Q = np.flatnonzero(~_plain(pc.is_in(rows["shard"], value_set=old)))
    unique = unique_new(rows.take(pa.array(new_Q)), known["object_id"])
    is_kept_R[new_Q[unique.kept_M]] = True
    return Unique(
        kept_M=np.flatnonzero(is_kept_R),
        dropped_R=new_Q[unique.dropped_R],
        rejects=unique.rejects,
    )


def _described(batch: pa.RecordBatch, known: pa.Table) -> pa.RecordBatch:
    """Objects with what the older catalogs say of them."""
    place = pc.index_in(batch["object_id"], value_set=known["object_id"].combine_chunks())
    columns = {name: batch[name] for name in batch.schema.names} | {
        "is_old": place.is_valid(),
        "was_listed": pc.fill_null(_taken(known, "certified", place), False),
        "score_before": _taken(known, "outlier_score", place),
    }
    return pa.record_batch(columns)


def _taken(table: pa.Table, name: str, place: pa.Array) -> pa.Array:
    return table[name].combine_chunks().take(place)


def _plain(values: pa.ChunkedArray) -> np.ndarray:
    """Truth values that may be changed."""
    return np.array(values.to_numpy(), bool)


def _old_rows(plan: NightPlan, inherited: Inherited) -> tuple[np.ndarray, np.ndarray]:
    """In the order of the embeddings: the objects of the first reference, the scores of all old."""
    reader = open_batches(plan.index.scratch("numbers"))
    some = [reader.get_batch(group).column(0).to_numpy() for group in range(plan.num_old_groups)]
    number_R = np.concatenate([np.zeros(0, np.int64), *some])
    first = inherited.versions[:1]
    is_first_R = np.repeat(
        [[version] == first for version, _ in inherited.receipts.values()],
        [receipt.rows_embedded for _, receipt in inherited.receipts.values()],
    ).astype(bool)
    is_object_R = number_R >= 0
    score_N = read_objects(plan, "score_before")
    return number_R[is_object_R & is_first_R], score_N[number_R[is_object_R]]


def _found(join: JoinPlan, vectors: Vectors, found: Neighbors, number_M: np.ndarray) -> Neighbors:
    """What was found of some objects; nothing where the clock came first."""
    is_exact_M = read_column(join.ranking, "is_exact")[number_M]
    lists = vectors.exact_lists(vectors.vector_N[number_M])
    near_MK, distance_MK = without_itself(number_M, *lists)
    near_MK[~is_exact_M] = -1
    distance_MK[~is_exact_M] = np.nan
    return dataclasses.replace(
        found,
        neighbor_NK=near_MK,
        distance_NK=distance_MK,
        score_N=read_column(join.ranking, "score")[number_M],
        is_exact_N=is_exact_M,
        rank_N=read_column(join.ranking, "rank")[number_M],
        certified_N=read_column(join.ranking, "certified")[number_M],
    )


def _write(path: str, rows: pa.Table) -> None:
    nothing = pa.RecordBatch.from_pylist([], schema=rows.schema)
    write_batches(path, rows.to_batches() or [nothing])
