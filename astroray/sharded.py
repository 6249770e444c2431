"""A search of more embeddings than one process holds: index, join, certify, publish.

The tasks are in `actors/join.py`; here is their order, and what is known of all objects at once:
a few numbers each, never an embedding. Nothing here knows of Ray.
"""

import dataclasses

import numpy as np
import pyarrow as pa

from astroray import storage
from astroray.actors import index, join, publish, write
from astroray.actors.join import JoinPlan, Vectors
from astroray.actors.publish import PublishPlan
from astroray.actors.search import SearchOutcome, SearchPlan, publish_gaussian
from astroray.indexing import Each, Note, build_index, noted, run_all
from astroray.neighbors.blocks import Lists, merge_lists
from astroray.neighbors.candidates import (
    LARGEST_PROBED_SHARE,
    RECALL_GOAL,
    RECALL_SAMPLE,
    has_native,
    nearest_by_kernel,
)
from astroray.neighbors.certificate import Certified, Proof, certify_top, score_of
from astroray.neighbors.distances import parts, spread
from astroray.neighbors.partitions import FOLDER, Partition, open_batches, write_batches
from astroray.neighbors.search import Neighbors
from astroray.neighbors.twins import without_itself
from astroray.scores import LARGEST_GAUSSIAN
from astroray.statistics import Moments

__all__ = ["ShardedSearch", "rank_sharded"]

TASKS_A_ROUND = 64
"""Tasks that share the partitions in a round of exact search."""


def rank_sharded(
    search: SearchPlan, each: Each, *, reason: str, note: Note = lambda *_: None
) -> SearchOutcome:
    """Scores and certifies all embedded objects of a run over partitions of its index.

    note  is told what is being done, how many tasks of it are done, and of how many

    The certified list is that of `actors.search.rank_survey`, to the last bit.
    Raises LedgerError where a done shard's embeddings are missing or differ from its receipt.
    """
    searched = ShardedSearch(search, each, reason=reason, note=note)
    outcome = searched.publish(searched.certify())
    _remove_scratch(search.run_dir)
    return outcome


class ShardedSearch:
    """One search of an index; N objects, V vectors of all partitions."""

    def __init__(
        self, search: SearchPlan, each: Each, *, reason: str, note: Note = lambda *_: None
    ) -> None:
        self.search, self.config, self.note = search, search.search, note
        self.each = noted(each, note)
        self.each_exactly = each
        self.manifest, plan = build_index(search, self.each, reason=reason)
        manifest = self.manifest
        paths = [manifest.path(search.run_dir, entry.uri) for entry in manifest.partitions]
        num_neighbors = min(self.config.k, manifest.num_objects - 1)
        self.plan = JoinPlan(
            partitions=tuple(paths),
            cells=manifest.path(search.run_dir, manifest.cells),
            objects=manifest.path(search.run_dir, manifest.objects),
            ranking=plan.path("ranking"),
            scratch=plan.scratch("").removesuffix(".arrow"),
            num_objects=manifest.num_objects,
            width=num_neighbors + 1,
        )
        self.vector_N, self.first_V, self.cell_V = self._places()
        self.vectors = Vectors(self.plan)
        self.exact: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.num_rounds = 0
        self.reason = ""

    def certify(self) -> Certified:
        """Bounds from the cells around, then exact scores where they matter."""
        self.choose_probes()
        return self._certify(self.bounds())

    def publish(self, certified: Certified) -> SearchOutcome:
        """Further scores, NEIGHBORS and CATALOG, a task a file."""
        kth_N = self._score_embeddings()[self.vector_N]
        self._write(self.plan.file("kth"), kth=kth_N)
        numbers = range(len(self.plan.partitions))
        reach = run_all(self.each, publish.measure_reach, [(self.plan, n) for n in numbers])
        reach_N = np.empty(self.plan.num_objects)
        for path, reach_M in zip(self.plan.partitions, reach, strict=True):
            reach_N[Partition(path).member_N] = reach_M
        self._write(self.plan.file("reach"), reach=reach_N)
        self._write(
            self.plan.ranking,
            score=certified.score_N,
            is_exact=certified.is_exact_N,
            rank=certified.rank_N,
            certified=certified.certified_N,
        )
        plan = PublishPlan(
            search=self.search,
            join=self.plan,
            found=_nothing_but(certified.proof, self.reason),
            num_duplicates=self.manifest.num_duplicates,
        )
        (files,) = run_all(self.each, publish.lay_out, [(plan,)])
        write.make_room(self.search.run_dir, files)
        tasks = [(plan, file, place) for place, file in enumerate(files)]
        footers = run_all(self.each, publish.write_file, tasks)
        (outcome,) = run_all(self.each, publish.finish, [(plan, files, footers)])
        return outcome

    def _write(self, path: str, **columns: np.ndarray) -> None:
        """Publishes what is known of all objects, by number, so that tasks can read it."""
        arrays = {column: pa.array(values) for column, values in columns.items()}
        write_batches(path, [pa.record_batch(arrays)])

    def _places(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The vector of each object, [N]; first object and cell of each vector, [V].

        The first is published, so that tasks can find the vectors of objects.
        """
        vector_N = np.zeros(self.plan.num_objects, np.int64)
        firsts, cells, start = [], [], 0
        for path in self.plan.partitions:
            partition = Partition(path)
            vector_N[partition.member_N] = start + np.repeat(
                np.arange(len(partition.cell_V)), partition.count_V
            )
            firsts.append(partition.member_N[partition.start_V1[:-1]])
            cells.append(partition.cell_V)
            start += len(partition.cell_V)
        self._write(self.plan.file("places"), vector=vector_N)
        return vector_N, np.concatenate(firsts), np.concatenate(cells)

    def choose_probes(self) -> None:
        """Decides how many cells are looked into; `reason` says why."""
        num_cells = open_batches(self.plan.cells).get_batch(0).num_rows
        most = max(1, int(LARGEST_PROBED_SHARE * num_cells))
        num_probes, is_all, how = self.config.num_probes, False, "asked for"
        if num_probes is None:
            num_probes, recall, num = self._measure_recall(most)
            is_all, how = recall < RECALL_GOAL, f"recall {recall:.4f} on {num} objects"
        how = f"{min(num_probes, num_cells)} of {num_cells} cells looked into, {how}"
        if is_all:
            how = f"cells would not help: {how}; so every partition is searched for every object"
        is_all = is_all or num_probes >= num_cells
        self.plan = dataclasses.replace(self.plan, num_probes=0 if is_all else num_probes)
        self.reason = f"{self.manifest.reason}; {how}"

    def _measure_recall(self, most: int) -> tuple[int, float, int]:
        """The fewest cells that hold RECALL_GOAL of the neighbors of a sample; recall, its size."""
        number_S = spread(self.plan.num_objects, RECALL_SAMPLE)
        home_S = self.cell_V[self.vector_N[number_S]]
        near_SK, _ = without_itself(number_S, *self._search_exactly(self.vector_N[number_S]))
        if near_SK.size == 0:
            return 1, 1.0, len(number_S)
        centroid_CD, _ = index.read_cells(self.plan.cells)
        cell_SP, _ = nearest_by_kernel(centroid_CD[home_S], centroid_CD, most)
        found_P = np.zeros(most)
        for cell_P, near_K in zip(cell_SP, near_SK, strict=True):
            found_P += _held(cell_P, self._cells_of(near_K))
        recall_P = np.cumsum(found_P) / near_SK.size
        enough = int(np.searchsorted(recall_P, RECALL_GOAL))
        num_probes = min(enough + 1, most)
        return num_probes, float(recall_P[num_probes - 1]), len(number_S)

    def _cells_of(self, number_K: np.ndarray) -> np.ndarray:
        return self.cell_V[self.vector_N[number_K]]

    def bounds(self) -> np.ndarray:
        """Upper bounds of the scores of all vectors, [V], from the cells around them."""
        numbers = range(len(self.plan.partitions))
        scores = run_all(
            self.each, join.search_cells, [(self.plan, n, self.config.score) for n in numbers]
        )
        return np.concatenate(scores)

    def _certify(self, bound_V: np.ndarray) -> Certified:
        """The certified top; every object whose exact list is known counts as exact.

        The second time nothing is searched: what shares a vector with a re-scored object is
        exact too, at most its bound, and so below the threshold wherever that was.
        """
        for _ in range(2):
            score_V, is_exact_V = self._known(bound_V)
            certified = certify_top(
                score_V[self.vector_N],
                is_exact_V[self.vector_N],
                self._rescore,
                top=self.config.top,
                k=self.config.k,
                score=self.config.score,
            )
        vector_R = np.array(sorted(self.exact), np.int64)
        lists = self._exact_lists(vector_R)
        join.write_lists(self.plan.file("exact"), lists, vector=vector_R)
        return certified

    def _known(self, bound_V: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores of all vectors, exact ones where they are known, and which are."""
        is_exact_V = np.full(len(bound_V), self.plan.num_probes == 0)
        vector_R = np.array(sorted(self.exact), np.int64)
        lists = self._exact_lists(vector_R)
        _, distance_RK = without_itself(self.first_V[vector_R], *lists)
        score_V = bound_V.copy()
        score_V[vector_R] = score_of(distance_RK, self.config.score)
        is_exact_V[vector_R] = True
        return score_V, is_exact_V

    def _rescore(self, number_B: np.ndarray) -> np.ndarray:
        """The exact scores of objects, in all partitions."""
        vector_G, place_B = np.unique(self.vector_N[number_B], return_inverse=True)
        todo_G = np.array([v for v in vector_G.tolist() if v not in self.exact], np.int64)
        if len(todo_G):
            self._search_exactly(todo_G)
        _, distance_GK = without_itself(self.first_V[vector_G], *self._exact_lists(vector_G))
        return score_of(distance_GK, self.config.score)[place_B]

    def _exact_lists(self, vector_R: np.ndarray) -> Lists:
        """The exact lists of vectors that were searched exactly."""
        lists = join.no_lists(len(vector_R), self.plan.width)
        for row, vector in enumerate(vector_R.tolist()):
            lists[0][row], lists[1][row] = self.exact[vector]
        return lists

    def _search_exactly(self, vector_G: np.ndarray) -> Lists:
        """The exact lists of some vectors: partitions in parallel, partial lists merged."""
        queries = self.plan.file(f"queries-{self.num_rounds:05d}")
        self.num_rounds += 1
        query_GD = self.vectors.of(vector_G)
        column = pa.FixedSizeListArray.from_arrays(pa.array(query_GD.ravel()), query_GD.shape[1])
        write_batches(queries, [pa.record_batch({"embedding": column})])
        size = -(-len(self.plan.partitions) // TASKS_A_ROUND)
        groups = parts(len(self.plan.partitions), size)
        found = join.no_lists(len(vector_G), self.plan.width)
        what = f"exact round {self.num_rounds}, {len(vector_G)} objects"
        for _, lists in noted(self.each_exactly, self.note, what)(
            join.search_partitions,
            [(self.plan, range(group.start, group.stop), queries) for group in groups],
        ):
            found = merge_lists(found, lists)
        for vector, near_W, distance_W in zip(vector_G.tolist(), *found, strict=True):
            self.exact[vector] = near_W, distance_W
        return found

    def _score_embeddings(self) -> np.ndarray:
        """Further scores that need embeddings: mean shift, Mahalanobis distance.

        Returns the distance to the last neighbor of each vector, [V].
        """
        numbers = range(len(self.plan.partitions))
        gaussian = None
        if self.manifest.dim <= LARGEST_GAUSSIAN:
            moments = run_all(self.each, join.measure_moments, [(self.plan, n) for n in numbers])
            mean_D = Moments.merge(moments).mean_D
            squares = run_all(
                self.each, join.measure_squares, [(self.plan, n, mean_D) for n in numbers]
            )
            gaussian = join.gaussian_of(moments, np.concatenate(squares))
            publish_gaussian(self.search.run_dir, gaussian)
        kth = run_all(self.each, join.score_vectors, [(self.plan, n, gaussian) for n in numbers])
        return np.concatenate(kth)


def _held(cell_P: np.ndarray, cell_K: np.ndarray) -> np.ndarray:
    """How many of the neighbors' cells each of the cells around is, [P]."""
    return (cell_P[:, None] == cell_K).sum(axis=1)


def _nothing_but(proof: Proof, reason: str) -> Neighbors:
    """What is found, without the objects."""
    nothing = np.zeros(0)
    return Neighbors(
        neighbor_NK=nothing,
        distance_NK=nothing,
        score_N=nothing,
        is_exact_N=nothing,
        rank_N=nothing,
        certified_N=nothing,
        proof=proof,
        index="sharded",
        index_reason=reason,
        products="native" if has_native() else "reference",
        num_float64=0,
    )


def _remove_scratch(run_dir: str) -> None:
    """Removes what a search of this or another source left."""
    folder = storage.join(run_dir, FOLDER)
    for file in storage.list_files(folder):
        if file.path.rpartition("/")[2].startswith("scratch-"):
            storage.delete(file.path)
