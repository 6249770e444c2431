"""How a search over partitions becomes NEIGHBORS and CATALOG, a task a file.

A task holds one row group of its file: who the objects are, their lists and scores are gathered
by number from files that are read where they lie. What is known of all objects at once is a few
numbers each.
"""

import bisect
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from astroray import faults, scores
from astroray.actors import catalog_parts
from astroray.actors.join import JoinPlan, Vectors, read_column
from astroray.actors.search import (
    SearchOutcome,
    SearchPlan,
    outcome_of,
    rows_by_shard,
    shown_objects,
)
from astroray.catalog import pixels
from astroray.catalog.pixels import CatalogFile
from astroray.neighbors.blocks import Lists
from astroray.neighbors.distances import parts
from astroray.neighbors.partitions import Partition, open_batches, write_batches
from astroray.neighbors.search import Neighbors
from astroray.neighbors.twins import without_itself
from astroray.run_record import Counts
from astroray.scores import outliers

__all__ = ["PublishPlan", "finish", "lay_out", "measure_reach", "write_file"]

ROWS_AT_ONCE = 16_384


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishPlan:
    """What the tasks that write a catalog are told."""

    search: SearchPlan
    join: JoinPlan
    found: Neighbors
    """Proof and index; its arrays are empty."""
    num_duplicates: int

    @property
    def order(self) -> str:
        """The numbers of all objects in the order of the catalog's files."""
        return self.join.file("order")


def measure_reach(plan: JoinPlan, number: int) -> np.ndarray:
    """`scores.mean_reach` of the objects of a partition, in their order in it, [N]."""
    kth_N = read_column(plan.file("kth"), "kth")
    vectors, member_N = Vectors(plan), Partition(plan.partitions[number]).member_N
    reach = [
        scores.mean_reach(*_lists(vectors, member_N[part]), kth_N)
        for part in parts(len(member_N), ROWS_AT_ONCE)
    ]
    return np.concatenate([np.zeros(0), *reach])


def lay_out(plan: PublishPlan) -> list[CatalogFile]:
    """Which file each object goes to: by position, those without one by rank; writes the order.

    Objects are numbered by `object_id`, so that a stable sort puts ties in its order.
    """
    faults.reach("search.found")
    healpix_29_N, is_placed_N = _positions(plan)
    rank_N = read_column(plan.join.ranking, "rank")
    order_N = catalog_parts.in_order(healpix_29_N, is_placed_N, rank_N)
    write_batches(plan.order, [pa.record_batch({"number": pa.array(order_N)})])
    return pixels.divide_sky(healpix_29_N[order_N[: is_placed_N.sum()]], len(order_N))


def write_file(plan: PublishPlan, file: CatalogFile, place: int) -> pq.FileMetaData:
    """Writes a file of CATALOG, and its rows' NEIGHBORS as part `place`; returns its footer."""
    rows = Rows(plan)
    number_N = read_column(plan.order, "number")
    groups = (rows.of(number_N[group]) for group in file.row_groups)
    return catalog_parts.write_part(plan.search.run_dir, file, place, groups)


def finish(
    plan: PublishPlan, files: Sequence[CatalogFile], footers: Sequence[pq.FileMetaData]
) -> SearchOutcome:
    """Writes what joins the files of CATALOG; says what the report shows."""
    healpix_29_N, is_placed_N = _positions(plan)
    search = plan.search
    catalog_parts.join_parts(
        search.run_dir, files, footers, healpix_29_N[is_placed_N],
        name=search.name, created=search.created,
    )  # fmt: skip
    counts = Counts(
        duplicates=plan.num_duplicates,
        catalog=len(is_placed_N),
        positions=int(is_placed_N.sum()),
    )
    return outcome_of(search, plan.found, counts=counts, wanted=_wanted(plan))


class Rows:
    """Rows of CATALOG by the numbers of their objects."""

    def __init__(self, plan: PublishPlan) -> None:
        self.plan, self.vectors = plan, Vectors(plan.join)
        self.objects = Objects(plan.join.objects)
        ranking = open_batches(plan.join.ranking).get_batch(0)
        self.ranking = dict(zip(ranking.schema.names, ranking.columns, strict=True))
        self.reach_N = read_column(plan.join.file("reach"), "reach")

    def of(self, number_M: np.ndarray) -> pa.Table:
        """Rows of CATALOG, in the order of the numbers; what they are made of is held in parts."""
        some = parts(len(number_M), ROWS_AT_ONCE) or [slice(0, 0)]
        return pa.concat_tables([self._some(number_M[part]) for part in some])

    def _some(self, number_B: np.ndarray) -> pa.Table:
        near_BK, distance_BK = _lists(self.vectors, number_B)
        take = pa.array(number_B)
        score_B, is_exact_B, rank_B, certified_B = (
            self.ranking[name].take(take).to_numpy(zero_copy_only=False)
            for name in ("score", "is_exact", "rank", "certified")
        )
        found = dataclasses.replace(
            self.plan.found,
            neighbor_NK=near_BK,
            distance_NK=distance_BK,
            score_N=score_B,
            is_exact_N=is_exact_B,
            rank_N=rank_B,
            certified_N=certified_B,
        )
        return outliers.catalog_table(
            self.objects.take(number_B),
            found,
            self._further(number_B, near_BK, distance_BK),
            model_id=self.plan.search.model_id,
            names_of=self.objects.names,
        )

    def _further(
        self, number_B: np.ndarray, near_BK: np.ndarray, distance_BK: np.ndarray
    ) -> Mapping[str, np.ndarray]:
        reach_B, near_reach_BK = self.reach_N[number_B], self.reach_N[near_BK]
        return self.vectors.scores(self.vectors.vector_N[number_B]) | scores.list_scores(
            distance_BK, reach_B, near_reach_BK
        )


class Objects:
    """Who the objects of an index are, by number; a batch of a file is looked into at a time.

    paths  of the objects of each layer, whose numbers follow one another; in each by `object_id`
    """

    def __init__(self, *paths: str) -> None:
        readers = [open_batches(path) for path in paths]
        self.batches = [
            reader.get_batch(place)
            for reader in readers
            for place in range(reader.num_record_batches)
        ]
        self.layer_Q = np.repeat(np.arange(len(paths)), [r.num_record_batches for r in readers])
        self.end_Q = np.cumsum([batch.num_rows for batch in self.batches])

    def take(self, number_B: np.ndarray, columns: Sequence[str] | None = None) -> pa.Table:
        """Identity, shard, row and flags, in the order of the numbers; or some columns."""
        batch_B = np.searchsorted(self.end_Q, number_B, side="right")
        batch_B = batch_B.astype(np.min_scalar_type(len(self.end_Q)))  # sorted by radix
        order_B = np.argsort(batch_B, kind="stable")
        tables = []
        for place in np.unique(batch_B).tolist():
            batch = self.batches[place] if columns is None else self.batches[place].select(columns)
            first = self.end_Q[place] - batch.num_rows
            some_B = order_B[slice(*np.searchsorted(batch_B[order_B], [place, place + 1]).tolist())]
            taken = batch.take(pa.array(number_B[some_B] - first))
            tables.append(pa.Table.from_batches([taken]))
        if not tables:
            empty = pa.Table.from_batches([self.batches[0]]).slice(0, 0)
            return empty if columns is None else empty.select(columns)
        back_B = np.empty_like(order_B)  # places among the rows as they were found
        back_B[order_B] = np.arange(len(order_B))
        return pa.concat_tables(tables).combine_chunks().take(pa.array(back_B)).combine_chunks()

    def find(self, object_id: str) -> int | None:
        """The number of an object; None where no layer holds it."""
        for layer in np.unique(self.layer_Q).tolist():
            places = np.flatnonzero(self.layer_Q == layer).tolist()
            names = [self.batches[place].column("object_id") for place in places]
            last = [ids[-1].as_py() if len(ids) else "" for ids in names]
            at = bisect.bisect_left(last, object_id)
            if at == len(last):
                continue
            ids = names[at]
            row = _row_of(ids, object_id)
            if row < len(ids) and ids[row].as_py() == object_id:
                return int(self.end_Q[places[at]]) - len(ids) + row
        return None

    def names(self, number_B: np.ndarray) -> pa.Array:
        """Their `object_id`."""
        return self.take(number_B, ["object_id"])["object_id"].combine_chunks()


def _row_of(ids: pa.Array, object_id: str) -> int:
    """The first row whose name is `object_id` or comes after it."""
    return bisect.bisect_left(range(len(ids)), object_id, key=lambda row: ids[row].as_py())


def _lists(vectors: Vectors, number_B: np.ndarray) -> Lists:
    """The lists of objects, themselves left out."""
    return without_itself(number_B, *vectors.lists(vectors.vector_N[number_B]))


def _positions(plan: PublishPlan) -> tuple[np.ndarray, np.ndarray]:
    """HEALPix index of each object by number, and whether it has one, [N]."""
    objects = Objects(plan.join.objects)
    columns = [batch.column("_healpix_29") for batch in objects.batches]
    healpix_29_N = np.concatenate([column.fill_null(0).to_numpy() for column in columns])
    valid = [column.is_valid().to_numpy(zero_copy_only=False) for column in columns]
    return healpix_29_N, np.concatenate(valid)


def _wanted(plan: PublishPlan) -> dict[str, list[int]]:
    """Rows by shard of what the report shows."""
    vectors = Vectors(plan.join)
    number_R = np.argsort(read_column(plan.join.ranking, "rank"))
    number_M = shown_objects(plan.search, number_R, lambda number_T: _lists(vectors, number_T)[0])
    return rows_by_shard(Objects(plan.join.objects).take(number_M, ["shard", "row"]))
