"""The nearest objects in the index of a run, exactly; what lies too far is not read.

For a query q and a vector v of a cell with centroid c, |q - v| >= ||q - c| - |v - c||, the triangle
inequality. The distances |v - c| stand in the partitions, so once k vectors are found, most others
are ruled out by one number each; the rest is compared where it lies. N objects, V vectors of a
partition, C cells.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from astroray import storage
from astroray.actors.index import read_cells
from astroray.actors.publish import Objects
from astroray.actors.search import embedding_matrix, read_embeddings
from astroray.catalog import versions
from astroray.errors import LedgerError
from astroray.neighbors.lookup import nearest_of
from astroray.neighbors.partitions import Manifest, Partition
from astroray.run_record import RunRecord
from astroray.search.layer_scores import LayerScores

__all__ = ["IndexedRun", "open_indexed"]

SLACK = 4e-6
"""Of |q - c| and of |q - c| + |q - v|: more than was lost where distances became float32."""
ROWS_AT_ONCE = 16_384
FIRST_CELLS = 4
"""Cells that are looked into for the first k."""


def open_indexed(run_dir: str, record: RunRecord) -> "IndexedRun | None":
    """The index of a finished run; None where it has none that holds all that its catalog does.

    An older version may have left no scores by number, and the shortlist of a run on fewer bits
    was ranked by another model.
    """
    if record.backends.index != "sharded" or record.backends.fewer_bits:
        return None
    manifest = Manifest.load(run_dir)
    if manifest is None or manifest.model_id != record.fitted.model_id:
        return None
    if not all(storage.exists(manifest.path(run_dir, one.ranking)) for one in manifest.layers):
        return None
    return IndexedRun(run_dir, record, manifest)


class IndexedRun:
    """Objects of a run by their number, and who is near a vector.

    The numbers of the layers of a night follow one another.
    """

    def __init__(self, run_dir: str, record: RunRecord, manifest: Manifest) -> None:
        self.run_dir, self.record = run_dir, record

        def path(uri: str) -> str:
            return manifest.path(run_dir, uri)

        layers = manifest.layers
        self.objects = Objects(*(path(layer.objects) for layer in layers))
        self.num_objects = sum(layer.num_objects for layer in layers)
        self.scores = LayerScores(
            [path(layer.ranking) for layer in layers], self.objects, self.num_objects
        )
        self.centroid_CD, _ = read_cells(path(manifest.cells))
        entries = [entry for layer in layers for entry in layer.partitions]
        self.partitions = [Partition(path(entry.uri)) for entry in entries]
        ends = np.cumsum([0, *(layer.num_objects for layer in layers)])[:-1]
        self.start_P = np.repeat(ends, [len(layer.partitions) for layer in layers])
        """What the numbers of a partition's objects begin at."""
        self.cells = [np.array(entry.cells, np.int64) for entry in entries]
        self.counts = [
            np.diff(np.searchsorted(partition.cell_V, cell_H), append=len(partition.cell_V))
            for partition, cell_H in zip(self.partitions, self.cells, strict=True)
        ]
        self.places_C: dict[int, list[int]] = {}
        for place, cell_H in enumerate(self.cells):
            for cell in cell_H.tolist():
                self.places_C.setdefault(cell, []).append(place)

    def find(self, object_id: str) -> int | None:
        """The number of an object; None where the index does not hold it."""
        return self.objects.find(object_id)

    def embedding(self, number: int) -> np.ndarray:
        """The embedding [D] of an object, from its shard's file, which is checked."""
        (where,) = self.objects.take(np.array([number]), ["shard", "row"]).to_pylist()
        name, receipts = where["shard"], versions.read_all_receipts(self.run_dir)
        some = {name: receipts[name]} if name in receipts else {}
        rows = read_embeddings(some, ["row", "embedding"])
        place = pc.index(rows["row"], where["row"]).as_py()
        if place < 0:
            raise LedgerError(
                f"row {where['row']} of shard {name} of {self.run_dir} has no embedding, expected "
                "one for each object; run the same command again to write the catalog anew"
            )
        return embedding_matrix(rows.slice(place, 1))[0]

    def rows(self, number_K: np.ndarray) -> pa.Table:
        """Identity, rank and score of objects, as columns of CATALOG."""
        table = self.objects.take(number_K, ["object_id", "ra", "dec"])
        score_K = self.scores.score(number_K)
        table = table.append_column("rank", pa.array(self.scores.rank(number_K)))
        return table.append_column("outlier_score", pa.array(score_K, mask=np.isnan(score_K)))

    def nearest(
        self, embedding_D: np.ndarray, k: int, *, exclude: int = -1
    ) -> tuple[np.ndarray, np.ndarray]:
        """Numbers [K] and published distances [K] of the k nearest objects, ties by rank.

        exclude  the number of an object that may not be found
        """
        embedding_D = np.asarray(embedding_D, np.float32)
        members, distances = self._objects_near(embedding_D, k if exclude < 0 else k + 1)
        order_M = self.scores.order(members, distances)
        order_M = order_M[members[order_M] != exclude][:k]
        return members[order_M], distances[order_M]

    def _objects_near(self, query_D: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Numbers and distances of the objects of the k nearest vectors, and of equally near ones.

        They hold the k nearest objects, since every vector has an object at least.
        """
        away_C = np.linalg.norm(self.centroid_CD - query_D.astype(np.float64), axis=1)
        found = _Found(self.partitions, query_D, k)
        first = np.argsort(away_C, kind="stable")[:FIRST_CELLS].tolist()
        for cell in first:
            for number in self.places_C.get(cell, []):
                rows = self.partitions[number].rows_of(cell)
                found.look(number, np.arange(rows.start, rows.stop))
        found.compare()
        low_C = (away_C - found.limit - SLACK * away_C).astype(np.float32)
        high_C = ((away_C + found.limit) * (1.0 + SLACK)).astype(np.float32)
        for number, partition in enumerate(self.partitions):
            cell_H, count_H = self.cells[number], self.counts[number]
            is_near_V = partition.away_V >= np.repeat(low_C[cell_H], count_H)
            is_near_V &= partition.away_V <= np.repeat(high_C[cell_H], count_H)
            for cell in first:
                is_near_V[partition.rows_of(cell)] = False
            found.look(number, np.flatnonzero(is_near_V))
        found.compare()
        return found.objects(self.start_P)


class _Found:
    """The k nearest vectors so far, and all that are as near as the last of them."""

    def __init__(self, partitions: Sequence[Partition], query_D: np.ndarray, k: int) -> None:
        self.partitions, self.query_D, self.k = partitions, query_D, k
        self.limit = np.inf
        self.near: list[tuple[float, int, int]] = []
        self.todo: list[tuple[int, np.ndarray]] = []
        self.num_todo = 0

    def look(self, number: int, row_M: np.ndarray) -> None:
        """Some rows of a partition will be compared, with others if they are few."""
        for start in range(0, len(row_M), ROWS_AT_ONCE):
            row_B = row_M[start : start + ROWS_AT_ONCE]
            self.todo.append((number, row_B))
            self.num_todo += len(row_B)
            if self.num_todo >= ROWS_AT_ONCE:
                self.compare()

    def compare(self) -> None:
        """Compares the query with what is to be looked at."""
        if self.todo:
            vectors = [self.partitions[number].vector_VD[row_B] for number, row_B in self.todo]
            near_M, distance_M = nearest_of(self.query_D, np.concatenate(vectors), self.k)
            end_T = np.cumsum([len(row_B) for _, row_B in self.todo])
            for place, distance in zip(near_M.tolist(), distance_M.tolist(), strict=True):
                which = int(np.searchsorted(end_T, place, side="right"))
                number, row_B = self.todo[which]
                row = int(row_B[place - end_T[which] + len(row_B)])
                self.near.append((distance, number, row))
        self.todo, self.num_todo = [], 0
        self.near.sort(key=lambda one: one[0])
        if len(self.near) >= self.k:
            self.limit = self.near[self.k - 1][0]
            self.near = [one for one in self.near if one[0] <= self.limit]

    def objects(self, start_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Numbers and distances of their objects; those of a partition begin at `start_P`."""
        members, distances = [np.zeros(0, np.int64)], [np.zeros(0)]
        for distance, number, row in self.near:
            partition = self.partitions[number]
            some = partition.member_N[slice(*partition.start_V1[row : row + 2].tolist())]
            members.append(some + start_P[number])
            distances.append(np.full(len(some), distance))
        return np.concatenate(members), np.concatenate(distances)
