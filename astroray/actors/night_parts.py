"""How the objects of a night are numbered for a search over partitions, and what it writes.

Each older version has left a layer of the index, with numbers of its own for its objects; the night
adds a layer, built as any index is. Here the objects of all layers get common numbers, in the order
of `object_id`. What is needed until the night is done lies in the folder of the index, in files
whose names depend on the plan alone. A task holds a few numbers of each object. N objects, M of
them searched; a place counts the objects through all layers, the oldest first.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from astroray import schema, storage
from astroray.actors.index import IDENTITY, IndexPlan, Numbering, publish_numbers
from astroray.actors.join import JoinPlan, Vectors, read_column, write_columns
from astroray.actors.night_rows import BEFORE, GROUPS, Searched, publish_night
from astroray.actors.numbering import Numbers, with_places
from astroray.actors.publish import Objects
from astroray.actors.scores_before import Before, ByName, ByNumber
from astroray.actors.search import SearchOutcome, SearchPlan
from astroray.catalog import versions
from astroray.catalog.versions import Inherited
from astroray.neighbors.distances import spread
from astroray.neighbors.partitions import open_batches, read_batches, write_batches
from astroray.neighbors.search import Neighbors
from astroray.neighbors.twins import without_itself
from astroray.scores import drift

__all__ = ["NightPlan", "finish_night", "number_night", "read_before"]

COLUMNS = (*IDENTITY, *GROUPS)
_NO_IDENTITY = with_places(schema.embeddings(1).empty_table().select(COLUMNS))


@dataclasses.dataclass(frozen=True, kw_only=True)
class NightPlan:
    """What the tasks of one night are told."""

    index: IndexPlan
    """Of the night's own layer."""
    older: tuple[str, ...]
    """Where it lies who the objects of the older layers are, the oldest first."""
    rankings: tuple[str, ...]
    """Where it lies what the search of each older layer's version gave."""
    num_catalogs: int
    """Files of the older catalogs that are read, where there is no older layer."""

    def before(self, place: int) -> str:
        """Where the rows of a file of the older catalogs lie, by name."""
        return self.index.scratch(f"before-{place:05d}")

    def layer(self, place: int) -> str:
        """Where the numbers of the objects of a layer lie, its own last; as in `JoinPlan`."""
        return self.index.scratch(f"layer-{place:05d}")

    @property
    def layers(self) -> tuple[str, ...]:
        """Where it lies who the objects of all layers are, its own last."""
        return (*self.older, self.index.path("objects"))

    @property
    def own(self) -> str:
        """Where it lies who the objects of its own layer are, with GROUPS."""
        return self.index.scratch("own")

    @property
    def objects(self) -> str:
        """Where it lies which place each object has, and what was known of it, by number."""
        return self.index.scratch("objects")

    def known_before(self) -> Before:
        """What the older versions know of their objects."""
        if self.older:
            return ByNumber(self.older, self.rankings)
        files = [self.before(place) for place in range(self.num_catalogs)]
        return ByName(files, versions.read_inherited(self.index.run_dir))

    @property
    def listed(self) -> str:
        """Where the certified rows of the reference lie."""
        return self.index.scratch("listed")


def read_before(plan: NightPlan, place: int, file: versions.OlderFile) -> None:
    """What a file of the older catalogs says of its objects, sorted by name.

    Raises LedgerError where the file is missing or differs.
    """
    if storage.exists(plan.before(place)):
        return
    rows = versions.read_file(file, BEFORE)
    _write(plan.before(place), rows.sort_by("object_id").combine_chunks())


def number_night(plan: NightPlan) -> Numbering:
    """Numbers all objects in the order of `object_id`; an object of the reference keeps its row.

    Holds a few numbers of each object, and the rows of a range of names of the night's own layer.
    Writes of that layer who its objects are, and `numbers`, a batch a group, -1 for a row that was
    dropped; of each layer the numbers of its objects; what was known of all objects, by number;
    the certified rows of the reference; the rejects.
    """
    index, before = plan.index, plan.known_before()
    groups = [
        open_batches(index.scratch(f"identity-{group:05d}")).read_all()
        for group in range(index.num_groups)
    ] or [_NO_IDENTITY]
    numbers = Numbers(groups, before.unique)
    write_batches(plan.own, _some(numbers.objects(), COLUMNS))
    sha256 = write_batches(index.path("objects"), _some(read_batches(plan.own), IDENTITY))
    own = publish_numbers(index, numbers, sha256)
    place_N = _merge(plan)
    known = before.scores(index.path("objects"), own.num_objects)
    write_columns(plan.objects, place=place_N, **{name: of[place_N] for name, of in known.items()})
    listed_L = place_N[known["certified"][place_N]]
    rows = Objects(*plan.layers).take(listed_L, ["object_id", "shard", "row"])
    for name, column in (("outlier_score", "score"), ("rank",) * 2, ("certified",) * 2):
        rows = rows.append_column(schema.CATALOG.field(name), pa.array(known[column][listed_L]))
    _write(plan.listed, rows.select(BEFORE))
    return dataclasses.replace(own, num_objects=len(place_N))


def _merge(plan: NightPlan) -> np.ndarray:
    """Writes the numbers of the objects of each layer; returns the place of each object, [N]."""
    layers = [[batch.column("object_id") for batch in read_batches(path)] for path in plan.layers]
    names = pa.chunked_array([ids for layer in layers for ids in layer], pa.string())
    place_N = pc.sort_indices(names).to_numpy().astype(np.int64)
    number_S = np.empty(len(place_N), np.int64)
    number_S[place_N] = np.arange(len(place_N))
    ends = np.cumsum([sum(map(len, layer)) for layer in layers])[:-1]
    for place, number_L in enumerate(np.split(number_S, ends)):
        write_columns(plan.layer(place), number=number_L)
    return place_N


def _some(batches: Iterator[pa.RecordBatch], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Some columns of batches; a batch without rows where there is none."""
    nothing = pa.RecordBatch.from_pylist([], schema=_NO_IDENTITY.schema)
    yield next(batches, nothing).select(list(columns))
    yield from (batch.select(list(columns)) for batch in batches)


def finish_night(
    plan: NightPlan, join: JoinPlan, search: SearchPlan, found: Neighbors, num_duplicates: int
) -> SearchOutcome:
    """Writes what the night searched and says what the record needs.

    found  proof and index; its arrays are empty
    """
    inherited = versions.read_inherited(search.run_dir)
    vectors, objects = Vectors(join), Objects(*plan.layers)
    place_N, is_old_N = (read_column(plan.objects, name) for name in ("place", "is_old"))
    number_M = np.flatnonzero(read_column(join.ranking, "is_searched"))
    number_O, number_F = _old_objects(objects, inherited, place_N)
    searched = Searched(
        table=_with_groups(plan, objects.take(place_N[number_M], IDENTITY), place_N[number_M]),
        number_M=number_M,
        found=_found(join, vectors, found, number_M),
        is_new_M=~is_old_N[number_M],
        before=open_batches(plan.listed).read_all(),
        num_objects=len(is_old_N),
        num_positions=sum(len(b) - b.column("ra").null_count for b in objects.batches),
        num_duplicates=num_duplicates,
        vectors=vectors.of_objects,
        rows_of=lambda number_B, columns: objects.take(place_N[number_B], columns),
        first_SD=vectors.of_objects(number_F[spread(len(number_F), drift.SAMPLE)]),
        before_score_N=read_column(plan.objects, "score")[number_O],
    )
    return publish_night(search, inherited.versions, searched)


def _with_groups(plan: NightPlan, rows: pa.Table, place_M: np.ndarray) -> pa.Table:
    """Rows of objects with GROUPS, which are null where an older layer has the object."""
    own = open_batches(plan.own).read_all()
    first_own = sum(open_batches(path).read_all().num_rows for path in plan.older)
    row_M = pa.array(place_M - first_own, mask=place_M < first_own)
    for name in GROUPS:
        rows = rows.append_column(name, own[name].take(row_M))
    return rows


def _old_objects(
    objects: Objects, inherited: Inherited, place_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The older objects in the order of their embeddings, [O], and those of the first reference."""
    known = pa.array(list(inherited.receipts), pa.string())
    shard_S = np.concatenate([_shards(batch, known) for batch in objects.batches])
    row_S = np.concatenate([batch.column("row").to_numpy() for batch in objects.batches])
    shard_N, row_N = shard_S[place_N], row_S[place_N]
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
