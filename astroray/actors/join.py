"""How the partitions of an index are searched, task by task: cell by cell, then exactly.

The vectors of a survey are counted through its partitions. A list of a vector holds the W = K + 1
nearest objects, those of the vector itself among them; the list of an object is that of its
vector without itself. R vectors that are searched exactly.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from astroray import faults, scores, storage
from astroray.actors.index import read_cells
from astroray.actors.search import SearchOutcome, SearchPlan, publish_ranking
from astroray.blocks import Block, Lists, merge_lists
from astroray.candidates import has_native, nearest_by_kernel
from astroray.certificate import Certified, score_of
from astroray.distances import parts
from astroray.neighbors import Neighbors
from astroray.partitions import Partition, open_batches, write_batches
from astroray.scores import LARGEST_GAUSSIAN, Gaussian
from astroray.statistics import Moments
from astroray.twins import without_itself

NUMBERS_AT_ONCE = 2**23
"""Float32 of vectors that are compared with all queries at once, 32 MB."""
ROWS_AT_ONCE = 65_536


@dataclasses.dataclass(frozen=True, kw_only=True)
class JoinPlan:
    """What the tasks of one search are told."""

    partitions: tuple[str, ...]
    """Paths; the numbers of partitions in tasks count from 0 here."""
    cells: str
    objects: str
    scratch: str
    """Beginning of the paths of what is removed when the search is done."""
    num_objects: int
    width: int
    """W."""
    num_probes: int = 0
    """Cells looked into for each cell, itself first; 0: all partitions, so that lists are exact."""

    def near(self, number: int) -> str:
        """Where the lists of a partition's vectors lie."""
        return self.file(f"near-{self.num_probes}-{number:05d}")

    def file(self, name: str) -> str:
        """Where another file of the search lies."""
        return f"{self.scratch}{name}.arrow"


def search_cells(plan: JoinPlan, number: int, score: str) -> np.ndarray:
    """The nearest objects in the cells around, for each vector of a partition; their scores, [V].

    A score is an upper bound: that of all objects of the vector, infinite where too few are near.
    """
    path = plan.near(number)
    partition = Partition(plan.partitions[number])
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


def search_partitions(plan: JoinPlan, numbers: Sequence[int], queries: str) -> Lists:
    """The nearest objects in some partitions for the vectors of a file of queries: exact in them.

    A part of a partition is in memory at a time.
    """
    faults.reach("search.partitions", queries)
    batch = open_batches(queries).get_batch(0)
    column = batch.column("embedding")
    query_GD = np.array(column.flatten().to_numpy().reshape(len(column), column.type.list_size))
    found = no_lists(len(query_GD), plan.width)
    for number in numbers:
        partition = Partition(plan.partitions[number])
        num_vectors, dim = partition.vector_VD.shape
        for part in parts(num_vectors, NUMBERS_AT_ONCE // dim):
            found = merge_lists(found, partition.block(part).nearest(query_GD, plan.width))
    return found


def measure_moments(plan: JoinPlan, number: int) -> Moments:
    """The moments of a partition's embeddings, an object at a time."""
    return Moments.merge(
        Moments.of(vector_BD, outer=True) for vector_BD in _embeddings(plan, number)
    )


def measure_squares(plan: JoinPlan, number: int, mean_D: np.ndarray) -> np.ndarray:
    """Squared distances from the mean of a partition's embeddings, an object at a time."""
    return np.concatenate(
        [scores.squares_from(mean_D, vector_BD) for vector_BD in _embeddings(plan, number)]
    )


def score_vectors(plan: JoinPlan, number: int, gaussian: Gaussian | None) -> None:
    """Writes the scores of a partition's vectors that need embeddings, by column of CATALOG."""
    partition = Partition(plan.partitions[number])
    first_V = partition.member_N[partition.start_V1[:-1]]
    near_VK, _ = without_itself(first_V, *final_lists(plan, number))
    columns = {
        "mean_shift": scores.mean_shift(partition.vector_VD, near_VK, Vectors(plan).of_objects),
        "mahalanobis_distance": gaussian.distances(partition.vector_VD)
        if gaussian
        else np.full(len(first_V), np.nan),
    }
    batch = pa.record_batch({name: pa.array(value_V) for name, value_V in columns.items()})
    write_batches(plan.file(f"scores-{number:05d}"), [batch])


def publish_sharded(
    search: SearchPlan, plan: JoinPlan, certified: Certified, reason: str, num_duplicates: int
) -> SearchOutcome:
    """Writes NEIGHBORS and CATALOG; holds the lists of all objects, but no embedding."""
    objects = open_batches(plan.objects).read_all()
    width = plan.width
    neighbor_NK = np.full((plan.num_objects, width - 1), -1, np.int64)
    distance_NK = np.full(neighbor_NK.shape, np.nan)
    further = {
        name: np.full(plan.num_objects, np.nan) for name in ("mean_shift", "mahalanobis_distance")
    }
    for number, path in enumerate(plan.partitions):
        partition, lists = Partition(path), final_lists(plan, number)
        row_N = np.repeat(np.arange(len(partition.cell_V)), partition.count_V)
        for part in parts(len(row_N), ROWS_AT_ONCE):
            member, row = partition.member_N[part], row_N[part]
            neighbor_NK[member], distance_NK[member] = without_itself(
                member, lists[0][row], lists[1][row]
            )
        values = open_batches(plan.file(f"scores-{number:05d}")).get_batch(0)
        for name, value_N in further.items():
            value_N[partition.member_N] = values.column(name).to_numpy()[row_N]
    found = Neighbors(
        neighbor_NK=neighbor_NK,
        distance_NK=distance_NK,
        score_N=certified.score_N,
        is_exact_N=certified.is_exact_N,
        rank_N=certified.rank_N,
        certified_N=certified.certified_N,
        proof=certified.proof,
        index="sharded",
        index_reason=reason,
        products="native" if has_native() else "reference",
        num_float64=0,
    )
    faults.reach("search.found")
    further |= scores.list_scores(neighbor_NK, distance_NK)
    return publish_ranking(search, objects, found, further, num_duplicates=num_duplicates)


class Vectors:
    """The vectors of a survey, wherever they lie, by their number or by that of an object."""

    def __init__(self, plan: JoinPlan) -> None:
        self.partitions = [Partition(path) for path in plan.partitions]
        self.vector_N = open_batches(plan.file("places")).get_batch(0).column(0).to_numpy()
        sizes = [len(partition.cell_V) for partition in self.partitions]
        self.end_P = np.cumsum(sizes)
        self.start_P = self.end_P - sizes

    def of(self, vector_B: np.ndarray) -> np.ndarray:
        """Embeddings, float32 [B, D], of vectors by their number."""
        embedding_BD = np.empty((len(vector_B), self.partitions[0].vector_VD.shape[1]), np.float32)
        partition_B = np.searchsorted(self.end_P, vector_B, side="right")
        for number in np.unique(partition_B):
            row = np.flatnonzero(partition_B == number)
            embedding_BD[row] = self.partitions[number].vector_VD[
                vector_B[row] - self.start_P[number]
            ]
        return embedding_BD

    def of_objects(self, number_B: np.ndarray) -> np.ndarray:
        """Embeddings, float32 [B, D], of objects; any for -1."""
        return self.of(self.vector_N[number_B])


def final_lists(plan: JoinPlan, number: int) -> Lists:
    """The lists of a partition's vectors, exact ones where they were made."""
    near_VW, distance_VW = (np.array(values) for values in read_lists(plan.near(number)))
    sizes = [len(Partition(path).cell_V) for path in plan.partitions[: number + 1]]
    start = sum(sizes[:-1])
    vector_R = open_batches(plan.file("exact")).get_batch(0).column("vector").to_numpy()
    some = slice(*np.searchsorted(vector_R, [start, start + sizes[-1]]).tolist())
    exact = read_lists(plan.file("exact"))
    row = vector_R[some] - start
    near_VW[row], distance_VW[row] = exact[0][some], exact[1][some]
    return near_VW, distance_VW


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
                opened[number] = Partition(plan.partitions[number])
            blocks.append(opened[number].block(opened[number].rows_of(near)))
        query_GD = np.array(partition.vector_VD[rows])
        lists[0][rows], lists[1][rows] = Block.join(blocks).nearest(query_GD, plan.width)
    return lists


def _embeddings(plan: JoinPlan, number: int) -> Iterator[np.ndarray]:
    """The embeddings of a partition, each as often as it has objects, a part at a time."""
    partition = Partition(plan.partitions[number])
    row_N = np.repeat(np.arange(len(partition.cell_V)), partition.count_V)
    for part in parts(len(row_N), ROWS_AT_ONCE) or [slice(0, 0)]:
        yield partition.vector_VD[row_N[part]]


def gaussian_of(moments: Sequence[Moments], square_N: np.ndarray) -> Gaussian | None:
    """The Gaussian of all objects; None where it cannot be had."""
    whole = Moments.merge(moments)
    if whole.count < 2 or len(whole.total_D) > LARGEST_GAUSSIAN:
        return None
    return Gaussian.fit(whole, square_N)
