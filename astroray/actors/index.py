"""How the embeddings of a run become the partitions of its index, task by task.

Groups of shards are told apart by number, so are partitions. Every task publishes one file whose
name depends on the plan alone, and does nothing where that file stands: a task that died is
repeated by itself, and a driver that died goes on with the tasks that are left.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from astroray import faults, ledger, schema, storage
from astroray.actors.numbering import Numbers, sort_names
from astroray.actors.search import embedding_matrix, read_shard
from astroray.grouping import Stored
from astroray.neighbors.blocks import Block
from astroray.neighbors.cells import (
    SAMPLED_PER_CELL,
    distances_from,
    find_cells,
    group_cells,
    train_cells,
)
from astroray.neighbors.distances import parts, spread
from astroray.neighbors.partitions import (
    FOLDER,
    Partition,
    PartitionEntry,
    open_batches,
    open_some,
    write_batches,
)
from astroray.neighbors.search import check_finite
from astroray.receipts import Receipt

ROWS_AT_ONCE = 16_384
IDENTITY = (*schema.IDENTITY.names, "shard", "row", "processing_flags")


@dataclasses.dataclass(frozen=True, kw_only=True)
class IndexPlan:
    """What the tasks of one index are told."""

    run_dir: str
    model_id: str
    source: str
    seed: int
    num_groups: int
    """Groups of shards with embeddings, in the order of their names; a task is told its own."""
    older_cells: str = ""
    """Path of the cells where another run directory has them; "": the index has its own."""
    num_partitions: int = 0
    """Of older cells: so many at most, neighbors among theirs together; 0: as many as theirs."""

    @property
    def cells(self) -> str:
        """Where the cells lie."""
        return self.older_cells or self.path("cells")

    def path(self, name: str) -> str:
        """Where a file that stays lies; its name says from what it was built."""
        return storage.join(self.run_dir, FOLDER, f"{name}-{self.source}.arrow")

    def scratch(self, name: str) -> str:
        """Where a file lies that is removed when the search is done."""
        return storage.join(self.run_dir, FOLDER, f"scratch-{self.source}-{name}.arrow")

    def partition(self, number: int) -> str:
        """Where a partition lies."""
        return storage.join(self.run_dir, FOLDER, f"partition-{self.source}-{number:05d}.arrow")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Numbering:
    """What is known once all objects are numbered."""

    num_objects: int
    num_duplicates: int
    objects_sha256: str
    """Of the file that says who they are; on an object store it is not fetched again for it."""


def identify(
    plan: IndexPlan, group: int, shards: Sequence[Stored], columns: Sequence[str] = IDENTITY
) -> None:
    """Who the objects of a group of shards are; every embeddings file is checked by its receipt.

    Raises LedgerError where one is missing or differs, DataError on a number that is not finite.
    """
    path = plan.scratch(f"identity-{group:05d}")
    if storage.exists(path):
        return
    tables = []
    for run_dir, receipt in shards:
        table = read_shard(run_dir, receipt)
        check_finite(embedding_matrix(table), table["object_id"])
        tables.append(table.select(list(columns)))
    write_batches(path, sort_names(pa.concat_tables(tables)).to_batches())


def number_objects(plan: IndexPlan) -> Numbering:
    """Numbers all objects in the order of `object_id`; of duplicates one stays, as ever.

    Holds a number of each row, and the identities of a range of names. Writes `objects`, a row
    an object by number; `numbers`, a batch a group, -1 for a row that was dropped; the rejects.
    """
    paths = [plan.scratch(f"identity-{group:05d}") for group in range(plan.num_groups)]
    numbers = Numbers([open_batches(path).read_all() for path in paths])
    return publish_numbers(plan, numbers, write_batches(plan.path("objects"), numbers.objects()))


def publish_numbers(plan: IndexPlan, numbers: Numbers, objects_sha256: str) -> Numbering:
    """Writes what `numbers` knows once `objects` is written: `numbers`, the rejects."""
    ledger.write_rejects(plan.run_dir, "duplicates", numbers.rejects, attempt=1)
    groups = np.split(numbers.number_R, numbers.ends[1:-1])
    batches = (pa.record_batch({"number": pa.array(number_B)}) for number_B in groups)
    write_batches(plan.scratch("numbers"), batches)
    return Numbering(
        num_objects=numbers.num_objects,
        num_duplicates=len(numbers.rejects),
        objects_sha256=objects_sha256,
    )


def choose_cells(
    plan: IndexPlan, some: Sequence[Stored], num_cells: int, num_partitions: int
) -> None:
    """Trains the cells on a sample of some shards, and says which partition each belongs to."""
    if storage.exists(plan.path("cells")):
        return
    sample_MD = _sample(some, num_cells * SAMPLED_PER_CELL)
    centroid_CD = train_cells(sample_MD, num_cells, seed=plan.seed)
    count_C = np.bincount(find_cells(sample_MD, centroid_CD), minlength=len(centroid_CD))
    group_C = group_cells(centroid_CD, count_C, num_partitions)
    column = pa.FixedSizeListArray.from_arrays(pa.array(centroid_CD.ravel()), sample_MD.shape[1])
    batch = pa.record_batch({"centroid": column, "partition": pa.array(group_C)})
    write_batches(plan.path("cells"), [batch])


def read_cells(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Centroids, float32 [C, D], and the partition of each cell, int64 [C]."""
    batch = open_batches(path).get_batch(0)
    column = batch.column("centroid")
    flat = column.flatten().to_numpy(zero_copy_only=True)
    centroid_CD = np.array(flat.reshape(len(column), column.type.list_size))
    return centroid_CD, batch.column("partition").to_numpy()


def cells_of(plan: IndexPlan) -> tuple[np.ndarray, np.ndarray]:
    """Centroids, float32 [C, D], and the partition of each cell, int64 [C], ascending from 0."""
    centroid_CD, partition_C = read_cells(plan.cells)
    num_older = int(partition_C.max()) + 1
    if 0 < plan.num_partitions < num_older:  # numbers near each other are cells near each other
        partition_C = partition_C * plan.num_partitions // num_older
    return centroid_CD, partition_C


def route(plan: IndexPlan, group: int, shards: Sequence[Stored]) -> None:
    """Sends the vectors of a group of shards to their partitions: a batch for each, in one file."""
    path = plan.scratch(f"routed-{group:05d}")
    if storage.exists(path):
        return
    centroid_CD, partition_C = cells_of(plan)
    number_B, vector_BD = numbered_vectors(plan, group, shards)
    cells = [
        find_cells(vector_BD[part], centroid_CD) for part in parts(len(vector_BD), ROWS_AT_ONCE)
    ]
    cell_B = np.concatenate([np.zeros(0, np.int64), *cells])
    order_B = np.argsort(partition_C[cell_B], kind="stable")
    ends = np.searchsorted(partition_C[cell_B][order_B], np.arange(1, partition_C.max() + 1))
    batches = [
        _routed(number_B[row], cell_B[row], vector_BD[row]) for row in np.split(order_B, ends)
    ]
    faults.reach("index.routed", str(group))
    write_batches(path, batches)


def numbered_vectors(
    plan: IndexPlan, group: int, shards: Sequence[Stored]
) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of a group's objects, [B], and their embeddings, float32 [B, D]."""
    number_B = open_some(plan.scratch("numbers")).get_batch(group).column(0).to_numpy()
    tables = [embedding_matrix(read_shard(*stored, ["embedding"])) for stored in shards]
    kept_B = np.flatnonzero(number_B >= 0)
    return number_B[kept_B], np.concatenate(tables)[kept_B]


def build(plan: IndexPlan, number: int) -> PartitionEntry:
    """Builds a partition of what was routed to it; equal vectors become one of several objects."""
    path, sha256 = plan.partition(number), ""
    if not storage.exists(path):
        pieces = [
            open_some(plan.scratch(f"routed-{group:05d}")).get_batch(number)
            for group in range(plan.num_groups)
        ]
        rows = pa.Table.from_batches(pieces).combine_chunks()
        numbers, cells = (rows[name].to_numpy() for name in ("number", "cell"))
        block = Block.of(numbers, embedding_matrix(rows), cells)
        block = block.take(np.argsort(block.cell_U, kind="stable"))
        away_U = distances_from(block.vector_UD, read_cells(plan.cells)[0], block.cell_U)
        faults.reach("index.partition", str(number))
        sha256 = Partition.write(path, away_U, block)
    partition = Partition(path)
    return PartitionEntry(
        uri=path.removeprefix(f"{storage.join(plan.run_dir, FOLDER)}/"),
        sha256=sha256 or storage.checksum(path),
        num_objects=len(partition.member_N),
        num_vectors=len(partition.cell_V),
        cells=tuple(np.unique(partition.cell_V).tolist()),
    )


def dimensions(run_dir: str, receipt: Receipt) -> int:
    """Length of the embeddings of a run, from one shard of it."""
    return int(read_shard(run_dir, receipt).schema.field("embedding").type.list_size)


def _sample(some: Sequence[Stored], most: int) -> np.ndarray:
    """At most so many vectors, float32 [M, D], spread over some shards."""
    end_S = np.cumsum([receipt.rows_embedded for _, receipt in some])
    row_M = spread(int(end_S[-1]), most)
    vectors, start = [], 0
    for stored, end in zip(some, end_S, strict=True):
        rows = row_M[(row_M >= start) & (row_M < end)] - start
        if len(rows):
            vectors.append(embedding_matrix(read_shard(*stored))[rows])
        start = int(end)
    return np.concatenate(vectors)


def _routed(number_B: np.ndarray, cell_B: np.ndarray, vector_BD: np.ndarray) -> pa.RecordBatch:
    column = pa.FixedSizeListArray.from_arrays(pa.array(vector_BD.ravel()), vector_BD.shape[1])
    return pa.record_batch(
        {"number": pa.array(number_B), "cell": pa.array(cell_B), "embedding": column}
    )


def remove_scratch(run_dir: str) -> None:
    """Removes what a search of this or another source left."""
    folder = storage.join(run_dir, FOLDER)
    for file in storage.list_files(folder):
        if file.path.rpartition("/")[2].startswith("scratch-"):
            storage.delete(file.path)
