"""The join: each object meets its nearest over partitions of an index, by cells, then exactly.

The vectors of a survey are counted through its partitions. A list of a vector holds the W = K + 1
nearest objects, those of the vector itself among them; the list of an object is that of its
vector without itself. R vectors that are searched exactly.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from astroray import faults, scores, storage
from astroray.actors.index import read_cells
from astroray.errors import LedgerError
from astroray.neighbors.blocks import Block, Lists, merge_lists, nearest_in
from astroray.neighbors.certificate import score_of
from astroray.neighbors.distances import parts
from astroray.neighbors.kernel import nearest_by_kernel
from astroray.neighbors.partitions import Partition, open_batches, write_batches
from astroray.neighbors.twins import without_itself
from astroray.scores.gaussian import LARGEST_GAUSSIAN, Gaussian, squares_from
from astroray.scores.statistics import Moments

NUMBERS_AT_ONCE = 2**24
"""Numbers of vectors that are compared with all queries at once; packed for it they are 32 MB."""
ROWS_AT_ONCE = 65_536


@dataclasses.dataclass(frozen=True, kw_only=True)
class JoinPlan:
    """What the tasks of one search are told."""

    partitions: tuple[str, ...]
    """Paths; the numbers of partitions in tasks count from 0 here."""
    cells: str
    objects: str
    ranking: str
    """Where score, rank and certificate of each object are written, by number."""
    scratch: str
    """Beginning of the paths of what is removed when the search is done."""
    num_objects: int
    width: int
    """W."""
    num_probes: int = 0
    """Cells looked into for each cell, itself first; 0: all partitions, so that lists are exact."""
    layers: tuple[int, ...] = ()
    """Of a night, the layer of each partition; its objects have other numbers in this search."""

    def open(self, number: int) -> Partition:
        """A partition with the numbers that its objects have in this search."""
        return next(self.opened([number]))

    def opened(self, numbers: Iterable[int]) -> Iterator[Partition]:
        """Opens some partitions, one at a time, as `open`; the numbers of a layer are read once."""
        of_layer: dict[int, np.ndarray] = {}
        for number in numbers:
            if not self.layers:
                yield Partition(self.partitions[number])
                continue
            place = self.layers[number]
            if place not in of_layer:
                of_layer[place] = read_column(self.layer(place), "number")
            yield Partition(self.partitions[number], of_layer[place])

    def layer(self, place: int) -> str:
        """Where the numbers lie that the objects of a layer have in this search."""
        return self.file(f"layer-{place:05d}")

    def near(self, number: int) -> str:
        """Where the lists of a partition's vectors lie."""
        return self.file(f"near-{self.num_probes}-{number:05d}")

    def scores(self, number: int) -> str:
        """Where the scores of a partition's vectors that need embeddings lie."""
        return self.file(f"scores-{number:05d}")

    def file(self, name: str) -> str:
        """Where another file of the search lies."""
        return f"{self.scratch}{name}.arrow"


def search_cells(plan: JoinPlan, number: int, score: str) -> np.ndarray:
    """The nearest objects in the cells around, for each vector of a partition; their scores, [V].

    A score is an upper bound: that of all objects of the vector, infinite where too few are near.
    """
    path = plan.near(number)
    partition = plan.open(number)
    if not storage.exists(path):
        faults.reach("search.cells", str(number))
        if plan.num_probes:
            lists = _near_cells(plan, partition)
        else:
            everywhere = range(len(plan.partitions))
            lists = search_partitions(plan, everywhere, plan.partitions[number])
        write_lists(path, lists)
    lists = read_lists(path)
    first_V = partition.member_N[partition.start_V1[:-1]]
    return score_of(without_itself(first_V, *lists)[1], score)


def search_partitions(
    plan: JoinPlan,
    numbers: Sequence[int],
    queries: str,
    row_B: np.ndarray | None = None,
    within: str = "",
) -> Lists:
    """The nearest objects in some partitions for vectors of a file of queries: exact in them.

    row_B   which of the queries, [B]; None: all
    within  file of the largest distance that each query of the file looks for; "": any

    A part of a partition is in memory at a time; what is found in it bounds what the next one is
    searched for, and no vector is compared that cells rule out.
    """
    faults.reach("search.partitions", queries)
    batch = open_batches(queries).get_batch(0)
    column = batch.column("embedding")
    query_GD = column.flatten().to_numpy().reshape(len(column), column.type.list_size)
    query_BD = np.array(query_GD if row_B is None else query_GD[row_B])
    within_B = np.full(len(query_BD), np.inf)
    if within:
        within_B = np.array(
            read_column(within, "distance")[slice(None) if row_B is None else row_B]
        )
    found = no_lists(len(query_BD), plan.width)
    centroid_CD, _ = read_cells(plan.cells)
    for blocks in _blocks(plan, numbers, NUMBERS_AT_ONCE // query_BD.shape[1]):
        limit_B = np.fmin(within_B, found[1][:, -1])  # NaN where the list is not full
        lists = nearest_in(blocks, query_BD, plan.width, within_G=limit_B, centroid_CD=centroid_CD)
        add_lists(found, lists)
    return found


def add_lists(whole: Lists, some: Lists, row_B: np.ndarray | None = None) -> None:
    """Merges lists into those of the rows [B] of `whole`, all rows if there are none named."""
    has_any_B = some[0][:, 0] >= 0
    row_B = np.flatnonzero(has_any_B) if row_B is None else row_B[has_any_B]
    before = whole[0][row_B], whole[1][row_B]
    merged = merge_lists(before, (some[0][has_any_B], some[1][has_any_B]))
    for lists, part in zip(whole, merged, strict=True):
        lists[row_B] = part


def _blocks(plan: JoinPlan, numbers: Sequence[int], most: int) -> Iterator[list[Block]]:
    """Some partitions, in parts of at most so many vectors: small ones go together."""
    some: list[Block] = []
    num = 0
    for partition in plan.opened(numbers):
        for part in parts(len(partition.cell_V), most):
            if some and num + part.stop - part.start > most:
                yield some
                some, num = [], 0
            some.append(partition.block(part))
            num += part.stop - part.start
    if some:
        yield some


def measure_moments(plan: JoinPlan, number: int) -> Moments:
    """The moments of a partition's embeddings, an object at a time."""
    return Moments.merge(
        Moments.of(vector_BD, outer=True) for vector_BD in _embeddings(plan, number)
    )


def measure_squares(plan: JoinPlan, number: int, mean_D: np.ndarray) -> np.ndarray:
    """Squared distances from the mean of a partition's embeddings, an object at a time."""
    return np.concatenate(
        [squares_from(mean_D, vector_BD) for vector_BD in _embeddings(plan, number)]
    )


def score_vectors(plan: JoinPlan, number: int, gaussian: Gaussian | None) -> np.ndarray:
    """Writes the scores of a partition's vectors that need embeddings, by column of CATALOG.

    Returns the distance to the last neighbor of each, [V].
    """
    partition = plan.open(number)
    vectors = Vectors(plan)
    first_V = partition.member_N[partition.start_V1[:-1]]
    near_VK, distance_VK = without_itself(first_V, *vectors.lists(vectors.in_partition(number)))
    columns = {
        "mean_shift": scores.mean_shift(partition.vector_VD, near_VK, vectors.of_objects),
        "mahalanobis_distance": gaussian.distances(partition.vector_VD)
        if gaussian
        else np.full(len(first_V), np.nan),
    }
    batch = pa.record_batch({name: pa.array(value_V) for name, value_V in columns.items()})
    write_batches(plan.scores(number), [batch])
    return scores.kth_distance(distance_VK)


class Vectors:
    """The vectors of a survey, wherever they lie, by their number or by that of an object.

    A file of a partition is opened when it is first asked for, and once.
    """

    def __init__(self, plan: JoinPlan) -> None:
        self.plan = plan
        self.vector_N = read_column(plan.file("places"), "vector")
        size_P = read_column(plan.file("sizes"), "size")
        self.end_P = np.cumsum(size_P)
        self.start_P = self.end_P - size_P
        self._partition = functools.cache(lambda number: Partition(plan.partitions[number]))
        self._near = functools.cache(lambda number: read_lists(plan.near(number)))
        self._scores = functools.cache(lambda number, name: read_column(plan.scores(number), name))

    @functools.cached_property
    def dim(self) -> int:
        """D of the embeddings."""
        return int(open_batches(self.plan.cells).schema.field("centroid").type.list_size)

    def in_partition(self, number: int) -> np.ndarray:
        """The numbers of a partition's vectors."""
        return np.arange(self.start_P[number], self.end_P[number])

    def of(self, vector_B: np.ndarray) -> np.ndarray:
        """Embeddings, float32 [B, D], of vectors by their number."""
        embedding_BD = np.empty((len(vector_B), self.dim), np.float32)
        for number, place_B, row_B in self.by_partition(vector_B):
            embedding_BD[place_B] = self._partition(number).vector_VD[row_B]
        return embedding_BD

    def of_objects(self, number_B: np.ndarray) -> np.ndarray:
        """Embeddings, float32 [B, D], of objects; any for -1."""
        return self.of(self.vector_N[number_B])

    def lists(self, vector_B: np.ndarray) -> Lists:
        """The lists of vectors, exact ones where they were made."""
        found = no_lists(len(vector_B), self.plan.width)
        for number, place_B, row_B in self.by_partition(vector_B):
            for whole, part in zip(found, self._near(number), strict=True):
                whole[place_B] = part[row_B]
        return self._with_exact(found, vector_B)

    def exact_lists(self, vector_B: np.ndarray) -> Lists:
        """The lists of vectors that were searched exactly, and nothing for others."""
        return self._with_exact(no_lists(len(vector_B), self.plan.width), vector_B)

    @functools.cached_property
    def _exact(self) -> tuple[np.ndarray, Lists]:
        """The vectors that were searched exactly, ascending, and their lists."""
        path = self.plan.file("exact")
        return read_column(path, "vector"), read_lists(path)

    def _with_exact(self, found: Lists, vector_B: np.ndarray) -> Lists:
        vector_R, lists = self._exact
        place_B = np.searchsorted(vector_R, vector_B)
        is_exact_B = np.append(vector_R, -1)[place_B] == vector_B
        for whole, part in zip(found, lists, strict=True):
            whole[is_exact_B] = part[place_B[is_exact_B]]
        return found

    def scores(self, vector_B: np.ndarray) -> dict[str, np.ndarray]:
        """What `score_vectors` wrote of vectors, by column of CATALOG."""
        found = {name: np.empty(len(vector_B)) for name in ("mean_shift", "mahalanobis_distance")}
        for number, place_B, row_B in self.by_partition(vector_B):
            for name, value_B in found.items():
                value_B[place_B] = self._scores(number, name)[row_B]
        return found

    def by_partition(self, vector_B: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Number of each partition with some of the vectors, their places in [B], its rows."""
        partition_B = np.searchsorted(self.end_P, vector_B, side="right")
        partition_B = partition_B.astype(np.min_scalar_type(len(self.end_P)))  # sorted by radix
        order_B = np.argsort(partition_B, kind="stable")
        number_Q, start_Q = np.unique(partition_B[order_B], return_index=True)
        for number, place_B in zip(number_Q.tolist(), np.split(order_B, start_Q[1:]), strict=False):
            yield number, place_B, vector_B[place_B] - self.start_P[number]


def read_column(path: str, name: str) -> np.ndarray:
    """A column of a file of one batch, read-only; numbers are read where they lie."""
    column = open_batches(path).get_batch(0).column(name)
    return np.asarray(column.to_numpy(zero_copy_only=False))


def write_columns(path: str, **columns: np.ndarray) -> None:
    """Publishes what is known of all objects, by number, so that tasks can read it."""
    write_batches(path, [_columns(columns)])


def write_ranking(path: str, **columns: np.ndarray) -> None:
    """Publishes scores that later nights take for bounds, by number, with their checksum."""
    batch = _columns(columns)
    write_batches(path, [batch.replace_schema_metadata({"sha256": _checksum(batch)})])


def read_ranking(path: str) -> pa.RecordBatch:
    """What a search left of the objects: `score`, `rank`, `certified`; `number` where not of all.

    Raises LedgerError where the file is missing or damaged, or of another version of astroray.
    """
    batch = open_batches(path).get_batch(0)
    if missing := {"score", "rank", "certified"} - set(batch.schema.names):
        raise LedgerError(
            f"{path} has no {', '.join(sorted(missing))}, as another version of astroray wrote it"
        )
    if (batch.schema.metadata or {}).get(b"sha256", b"").decode() != _checksum(batch):
        raise LedgerError(f"{path} has other scores than were written")
    return batch


def _columns(columns: Mapping[str, np.ndarray]) -> pa.RecordBatch:
    return pa.record_batch({name: pa.array(values) for name, values in columns.items()})


def _checksum(batch: pa.RecordBatch) -> str:
    digest = hashlib.sha256()
    for column in batch.columns:
        digest.update(np.ascontiguousarray(column.to_numpy(zero_copy_only=False)))
    return digest.hexdigest()


def write_lists(path: str, lists: Lists, **columns: np.ndarray) -> None:
    """Publishes lists, with further columns of theirs."""
    width = lists[0].shape[1]
    arrays = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), width)
        for name, values in zip(("objects", "distance"), lists, strict=True)
    }
    arrays |= {name: pa.array(values) for name, values in columns.items()}
    write_batches(path, [pa.record_batch(arrays)])


def read_lists(path: str) -> Lists:
    """The lists of a file, read-only."""
    batch = open_batches(path).get_batch(0)
    found = []
    for name in ("objects", "distance"):
        column = batch.column(name)
        flat = column.flatten().to_numpy(zero_copy_only=False)
        found.append(flat.reshape(len(column), column.type.list_size))
    return found[0], found[1]


def no_lists(num: int, width: int) -> Lists:
    """Lists in which nothing was found yet."""
    return np.full((num, width), -1, np.int64), np.full((num, width), np.nan)


def _near_cells(plan: JoinPlan, partition: Partition) -> Lists:
    """Lists of all vectors of a partition from the cells around theirs."""
    centroid_CD, partition_C = read_cells(plan.cells)
    cell_H = np.unique(partition.cell_V)
    lists = no_lists(len(partition.cell_V), plan.width)
    if len(cell_H) == 0:
        return lists
    near_HP, _ = nearest_by_kernel(centroid_CD[cell_H], centroid_CD, plan.num_probes)
    opened: dict[int, Partition] = {}
    for cell, near_P in zip(cell_H.tolist(), near_HP, strict=True):
        rows = partition.rows_of(cell)
        blocks = []
        for near in near_P[near_P >= 0].tolist():
            number = int(partition_C[near])
            if number not in opened:
                opened[number] = plan.open(number)
            blocks.append(opened[number].block(opened[number].rows_of(near)))
        query_GD = np.array(partition.vector_VD[rows])
        lists[0][rows], lists[1][rows] = Block.join(blocks).nearest(query_GD, plan.width)
    return lists


def _embeddings(plan: JoinPlan, number: int) -> Iterator[np.ndarray]:
    """The embeddings of a partition, each as often as it has objects, a part at a time."""
    partition = plan.open(number)
    row_N = np.repeat(np.arange(len(partition.cell_V)), partition.count_V)
    for part in parts(len(row_N), ROWS_AT_ONCE) or [slice(0, 0)]:
        yield partition.vector_VD[row_N[part]]


def gaussian_of(moments: Sequence[Moments], square_N: np.ndarray) -> Gaussian | None:
    """The Gaussian of all objects; None where it cannot be had."""
    whole = Moments.merge(moments)
    if whole.count < 2 or len(whole.total_D) > LARGEST_GAUSSIAN:
        return None
    return Gaussian.fit(whole, square_N)
