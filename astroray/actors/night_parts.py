"""How a night is searched in partitions, task by task: who is who, and what is written.

Older layers of the index stand with their objects, numbered by themselves; the night's own layer
is built as an index is. All are numbered together here, by name. Other files lie in the folder of
the index, under names that depend on the plan alone, until the night is done. What a task holds
of all objects is a few numbers each. N objects, M of them searched, R rows of all groups.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from astroray import ledger, schema, storage
from astroray.actors.index import IDENTITY, IndexPlan, Numbering, write_numbers
from astroray.actors.join import JoinPlan, Vectors, read_column
from astroray.actors.night_rows import BEFORE, GROUPS, Searched, publish_night, unique_new
from astroray.actors.numbering import Numbers, place_of, with_places
from astroray.actors.publish import Objects
from astroray.actors.search import SearchOutcome, SearchPlan
from astroray.catalog import versions
from astroray.catalog.versions import Inherited
from astroray.errors import LedgerError
from astroray.neighbors.distances import parts, spread
from astroray.neighbors.partitions import open_batches, write_batches
from astroray.neighbors.search import Neighbors
from astroray.neighbors.twins import without_itself
from astroray.scores import drift
from astroray.scores.outliers import Unique

__all__ = ["NightPlan", "finish_night", "number_night", "read_before"]

COLUMNS = (*IDENTITY, *GROUPS)
ROWS_AT_ONCE = 65_536
_NO_ROWS = schema.CATALOG.empty_table().select(BEFORE)
_NO_IDENTITY = with_places(schema.embeddings(1).empty_table().select(COLUMNS))


@dataclasses.dataclass(frozen=True, kw_only=True)
class NightPlan:
    """What the tasks of one night are told."""

    index: IndexPlan
    """Of the night's own layer."""
    older: tuple[str, ...]
    """Where it lies who the objects of the older layers are, the oldest first."""
    num_catalogs: int
    """Files of the older catalogs."""

    def before(self, place: int) -> str:
        """Where the rows of a file of the older catalogs lie, by name."""
        return self.index.scratch(f"before-{place:05d}")

    def layer(self, place: int) -> str:
        """Where the numbers of the objects of a layer lie, its own last; as in `JoinPlan`."""
        return self.index.scratch(f"layer-{place:05d}")

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
    by number, with its score before; of each layer the numbers of its objects; of the night's own
    layer who its objects are, and `numbers`, those of its layer, a batch a group, -1 for a row
    that was dropped; the certified rows of the reference; the rejects.
    """
    index = plan.index
    older = [with_places(open_batches(path).read_all()) for path in plan.older]
    own = [
        open_batches(index.scratch(f"identity-{group:05d}")).read_all()
        for group in range(index.num_groups)
    ] or [_NO_IDENTITY]
    inherited = versions.read_inherited(index.run_dir)
    before = _Before.of(plan, inherited)
    old = pa.array(list(inherited.receipts), pa.string())
    numbers = Numbers([*older, *own], lambda rows: _unique(rows, before, old))
    listed = [_NO_ROWS]

    def described() -> Iterator[pa.RecordBatch]:
        for batch in numbers.objects():
            known = before.between(batch["object_id"][0].as_py(), batch["object_id"][-1].as_py())
            listed.append(known.filter(known["certified"]))
            yield _described(batch, known)

    write_batches(plan.objects, described())
    _write(plan.listed, pa.concat_tables(listed))
    ledger.write_rejects(index.run_dir, "duplicates", numbers.rejects, attempt=1)
    _write_layers(plan, np.split(numbers.number_R, numbers.ends[1:-1]))
    return Numbering(num_objects=numbers.num_objects, num_duplicates=len(numbers.rejects))


def _write_layers(plan: NightPlan, groups: Sequence[np.ndarray]) -> None:
    """Writes who is who in each layer from the numbers of all groups, older layers first."""
    num_older, is_old_N = len(plan.older), read_objects(plan, "is_old")
    for place, number_L in enumerate(groups[:num_older]):
        if (number_L < 0).any() or not is_old_N[number_L].all():
            raise LedgerError(
                f"{plan.older[place]} names rows that the older catalogs do not have, expected "
                "the objects of a version; delete the manifest beside it, then the same command "
                "builds an index from the embeddings"
            )
        write_batches(plan.layer(place), [pa.record_batch({"number": pa.array(number_L)})])
    all_R = np.concatenate([np.zeros(0, np.int64), *groups[num_older:]])
    number_L = np.sort(all_R[all_R >= 0])
    write_batches(plan.layer(num_older), [pa.record_batch({"number": pa.array(number_L)})])
    of_layer = [
        np.where(number_B < 0, -1, np.searchsorted(number_L, number_B))
        for number_B in groups[num_older:]
    ]
    write_numbers(plan.index, of_layer)
    objects = Objects(plan.objects)
    some = (objects.take(number_L[p], IDENTITY) for p in parts(len(number_L), ROWS_AT_ONCE))
    batches = (batch for rows in some for batch in rows.combine_chunks().to_batches())
    nothing = pa.RecordBatch.from_pylist([], schema=_NO_IDENTITY.select(IDENTITY).schema)
    write_batches(plan.index.path("objects"), batches if len(number_L) else [nothing])


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
    number_O, number_F = _old_objects(objects, inherited)
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
        before_score_N=read_objects(plan, "score_before")[number_O],
    )
    return publish_night(search, inherited.versions, searched)


def read_objects(plan: NightPlan, name: str) -> np.ndarray:
    """A column of `objects`, by number, [N]."""
    reader = open_batches(plan.objects)
    batches = [reader.get_batch(place) for place in range(reader.num_record_batches)]
    return np.concatenate([batch.column(name).to_numpy(zero_copy_only=False) for batch in batches])


class _Before:
    """The older catalogs by name: of an object that several have, the row of the latest."""

    def __init__(self, first: Sequence[pa.Table], later: Sequence[pa.Table]) -> None:
        self.first, self.later = first, later
        self._last: tuple[tuple[str, str], pa.Table] | None = None

    @classmethod
    def of(cls, plan: NightPlan, inherited: Inherited) -> "_Before":
        """Those of a night; files of the first version, most of all, have an object once."""
        files = [open_batches(plan.before(n)).read_all() for n in range(plan.num_catalogs)]
        first = inherited.versions[:1]
        num_first = sum([version] == first for version, _, _ in inherited.catalogs)
        return cls(files[:num_first], files[num_first:])

    def between(self, first: str, last: str) -> pa.Table:
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


def _old_objects(objects: Objects, inherited: Inherited) -> tuple[np.ndarray, np.ndarray]:
    """The older objects in the order of their embeddings, [O], and those of the first reference."""
    known = pa.array(list(inherited.receipts), pa.string())
    nothing = np.zeros(0, np.int64)
    shard_N = np.concatenate([nothing, *(_shards(batch, known) for batch in objects.batches)])
    row_N = np.concatenate([nothing, *(batch["row"].to_numpy() for batch in objects.batches)])
    number_O = np.flatnonzero(shard_N >= 0)
    number_O = number_O[np.lexsort((row_N[number_O], shard_N[number_O]))]
    first = inherited.versions[:1]
    is_first_S = np.array([[version] == first for version, _ in inherited.receipts.values()], bool)
    return number_O, number_O[is_first_S[shard_N[number_O]]]


def _shards(batch: pa.RecordBatch, known: pa.Array) -> np.ndarray:
    """Places of the objects' shards among the known ones, -1 where there is none, int32 [B]."""
    return pc.fill_null(pc.index_in(batch["shard"], value_set=known), -1).to_numpy()


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
