"""A search of more embeddings than one process holds: index, join, certify, publish.

The tasks are in `actors/join.py`; here is their order, and what is known of all objects at once:
a few numbers each, never an embedding. Nothing here knows of Ray.
"""

import dataclasses

import numpy as np

from astroray.actors import catalog_parts, index, join, publish
from astroray.actors.join import JoinPlan, write_columns, write_ranking
from astroray.actors.publish import PublishPlan
from astroray.actors.search import SearchOutcome, SearchPlan, publish_gaussian
from astroray.neighbors.approximate import LARGEST_COMPARED_SHARE, RECALL_GOAL, RECALL_SAMPLE
from astroray.neighbors.certificate import Certified, certify_top, score_of
from astroray.neighbors.distances import spread
from astroray.neighbors.kernel import nearest_by_kernel
from astroray.neighbors.partitions import Partition, open_batches
from astroray.neighbors.twins import without_itself
from astroray.scores.gaussian import LARGEST_GAUSSIAN
from astroray.scores.statistics import Moments
from astroray.search.exact_rounds import ExactLists, Places
from astroray.search.indexing import build_index
from astroray.search.stages import Each, Note, noted, run_all

__all__ = ["ShardedSearch", "rank_sharded"]


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
    index.remove_scratch(search.run_dir)
    return outcome


class ShardedSearch:
    """One search of an index; N objects, V vectors of all partitions."""

    def __init__(
        self, search: SearchPlan, each: Each, *, reason: str, note: Note = lambda *_: None
    ) -> None:
        self.search, self.config, self.note = search, search.search, note
        self.each = noted(each, note)
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
        self.places = Places.of(self.plan)
        self.exact = ExactLists(self.plan, self.places, each, note, at_once=self.config.num_threads)
        self.reason = ""

    def certify(self) -> Certified:
        """Bounds from the cells around, then exact scores where they matter."""
        self.choose_probes()
        return self._certify(self.bounds())

    def publish(self, certified: Certified) -> SearchOutcome:
        """Further scores, NEIGHBORS and CATALOG, a task a file."""
        kth_N = self._score_embeddings()[self.places.vector_N]
        write_columns(self.plan.file("kth"), kth=kth_N)
        numbers = range(len(self.plan.partitions))
        reach = run_all(self.each, publish.measure_reach, [(self.plan, n) for n in numbers])
        reach_N = np.empty(self.plan.num_objects)
        for path, reach_M in zip(self.plan.partitions, reach, strict=True):
            reach_N[Partition(path).member_N] = reach_M
        write_columns(self.plan.file("reach"), reach=reach_N)
        write_ranking(
            self.plan.ranking,
            score=certified.score_N,
            is_exact=certified.is_exact_N,
            rank=certified.rank_N,
            certified=certified.certified_N,
        )
        plan = PublishPlan(
            search=self.search,
            join=self.plan,
            found=self.exact.without_objects(certified.proof, self.reason),
            num_duplicates=self.manifest.num_duplicates,
        )
        (files,) = run_all(self.each, publish.lay_out, [(plan,)])
        catalog_parts.make_room(self.search.run_dir, files)
        tasks = [(plan, file, place) for place, file in enumerate(files)]
        footers = run_all(self.each, publish.write_file, tasks)
        (outcome,) = run_all(self.each, publish.finish, [(plan, files, footers)])
        return outcome

    def choose_probes(self) -> None:
        """Decides how many cells are looked into; `reason` says why."""
        num_cells = open_batches(self.plan.cells).get_batch(0).num_rows
        most = max(1, int(LARGEST_COMPARED_SHARE * num_cells))
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
        vector_S = self.places.vector_N[number_S]
        home_S = self.places.cell_V[vector_S]
        near_SK, _ = without_itself(number_S, *self.exact.of(vector_S))
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
        return self.places.cell_V[self.places.vector_N[number_K]]

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
                score_V[self.places.vector_N],
                is_exact_V[self.places.vector_N],
                lambda number_B: self.exact.scores(number_B, self.config.score),
                top=self.config.top,
                k=self.config.k,
                score=self.config.score,
            )
        self.exact.publish()
        return certified

    def _known(self, bound_V: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores of all vectors, exact ones where they are known, and which are."""
        is_exact_V = np.full(len(bound_V), self.plan.num_probes == 0)
        vector_R = self.exact.vector_R
        _, distance_RK = without_itself(self.places.first_V[vector_R], *self.exact.of(vector_R))
        score_V = bound_V.copy()
        score_V[vector_R] = score_of(distance_RK, self.config.score)
        is_exact_V[vector_R] = True
        return score_V, is_exact_V

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
