"""The exact lists of vectors, each found in all partitions when it is first asked for.

A task searches some partitions. Each vector is searched first by the task that holds most of its
cell; the distance to its last neighbor there is as far as all other tasks look, and what lies in
cells beyond it is not compared. Tasks run in parallel and partial lists are merged as they come.
What is held is a number of each vector, and the lists of those that were searched. G vectors of a
round, R of all rounds; letters of lists as in `neighbors/blocks.py`.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from astroray.actors import join
from astroray.actors.join import JoinPlan, Vectors, write_columns
from astroray.neighbors.blocks import Lists
from astroray.neighbors.certificate import Proof, score_of
from astroray.neighbors.kernel import has_native
from astroray.neighbors.partitions import write_batches
from astroray.neighbors.search import Neighbors
from astroray.neighbors.twins import without_itself
from astroray.search.stages import Each, Note, noted

__all__ = ["TASKS_A_ROUND", "ExactLists", "Places"]

TASKS_A_ROUND = 64
"""Tasks that share the partitions in a round, at most."""
LEAST_VECTORS, MOST_VECTORS = 2**16, 2**18
"""Of a task. Each packs its own twice and merges lists, so there are no more tasks than are at work
at once, unless they grew beyond the second; of many vectors `TASKS_A_ROUND` decides."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Places:
    """Which vector each object has; the vectors are counted through the partitions."""

    vector_N: np.ndarray
    """[N] int64, the vector of each object."""
    first_V: np.ndarray
    """[V] int64, first object of each vector."""
    cell_V: np.ndarray
    """[V] int32, its cell."""

    @classmethod
    def of(cls, plan: JoinPlan) -> "Places":
        """Those of a search; the first and the sizes of partitions are published for the tasks."""
        vector_N = np.zeros(plan.num_objects, np.int64)
        firsts, cells, start = [], [], 0
        for partition in plan.opened(range(len(plan.partitions))):
            vector_N[partition.member_N] = start + np.repeat(
                np.arange(len(partition.cell_V)), partition.count_V
            )
            firsts.append(partition.member_N[partition.start_V1[:-1]])
            cells.append(partition.cell_V)
            start += len(partition.cell_V)
        write_columns(plan.file("places"), vector=vector_N)
        write_columns(plan.file("sizes"), size=np.array([len(cell_V) for cell_V in cells]))
        return cls(vector_N=vector_N, first_V=np.concatenate(firsts), cell_V=np.concatenate(cells))


class ExactLists:
    """The lists of vectors; needs the published `Places`.

    at_once  tasks of `each` that run at once; no list depends on it
    """

    def __init__(
        self, plan: JoinPlan, places: Places, each: Each, note: Note, *, at_once: int
    ) -> None:
        self.plan, self.places, self.each, self.note = plan, places, each, note
        self.vectors = Vectors(plan)
        self.tasks = _share(self.vectors, at_once)
        self.home_C = _homes(self.vectors, self.tasks, places.cell_V)
        self._place_V = np.full(len(places.first_V), -1, np.int64)
        """Place among the lists of all rounds, -1 where not searched yet."""
        self._rounds: list[Lists] = []
        self._ends: list[int] = []

    @property
    def vector_R(self) -> np.ndarray:
        """The vectors that were searched, ascending."""
        return np.flatnonzero(self._place_V >= 0)

    def of(self, vector_G: np.ndarray) -> Lists:
        """The lists of some vectors; those not searched yet are."""
        todo_G = np.unique(vector_G[self._place_V[vector_G] < 0])
        if len(todo_G):
            self._search(todo_G)
        lists = join.no_lists(len(vector_G), self.plan.width)
        place_G = self._place_V[vector_G]
        round_G = np.searchsorted(self._ends, place_G, side="right")
        for number in np.unique(round_G).tolist():
            row_B = np.flatnonzero(round_G == number)
            found = self._rounds[number]
            from_end_B = place_G[row_B] - self._ends[number]
            for whole, some in zip(lists, found, strict=True):
                whole[row_B] = some[from_end_B]
        return lists

    def scores(self, number_B: np.ndarray, score: str) -> np.ndarray:
        """The exact scores of objects, [B]."""
        vector_G, place_B = np.unique(self.places.vector_N[number_B], return_inverse=True)
        _, distance_GK = without_itself(self.places.first_V[vector_G], *self.of(vector_G))
        return score_of(distance_GK, score)[place_B]

    def without_objects(self, proof: Proof, reason: str) -> Neighbors:
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

    def publish(self) -> None:
        """Writes all lists, so that tasks can read them."""
        lists = join.no_lists(0, self.plan.width)
        if self._rounds:
            place_R = self._place_V[self.vector_R]
            near, distance = (
                np.concatenate(some)[place_R] for some in zip(*self._rounds, strict=True)
            )
            lists = near, distance
        join.write_lists(self.plan.file("exact"), lists, vector=self.vector_R)

    def _search(self, vector_G: np.ndarray) -> None:
        cell_G = self.places.cell_V[vector_G]
        order_G = np.lexsort((cell_G, self.home_C[cell_G]))  # tiles of queries share their cells
        queries = self.plan.file(f"queries-{len(self._rounds):05d}")
        query_GD = self.vectors.of(vector_G[order_G])
        column = pa.FixedSizeListArray.from_arrays(pa.array(query_GD.ravel()), query_GD.shape[1])
        write_batches(queries, [pa.record_batch({"embedding": column})])
        home_G = self.home_C[cell_G[order_G]]
        found = join.no_lists(len(vector_G), self.plan.width)
        self._add(found, queries, [np.flatnonzero(home_G == t) for t in range(len(self.tasks))])
        within = self.plan.file(f"within-{len(self._rounds):05d}")
        write_columns(within, distance=np.nan_to_num(found[1][:, -1], nan=np.inf))
        rest = [np.flatnonzero(home_G != t) for t in range(len(self.tasks))]
        self._add(found, queries, rest, within)
        start = self._ends[-1] if self._ends else 0
        self._place_V[vector_G[order_G]] = np.arange(start, start + len(vector_G))
        self._rounds.append(found)
        self._ends.append(start + len(vector_G))

    def _add(
        self, found: Lists, queries: str, rows: Sequence[np.ndarray], within: str = ""
    ) -> None:
        """Adds to lists of a round what each task finds of some rows of it."""
        asked = [(task, row_B) for task, row_B in zip(self.tasks, rows, strict=True) if len(row_B)]
        if not asked:
            return
        where = "beyond" if within else "around"
        what = f"exact round {len(self._rounds) + 1}, {len(found[0])} objects, {where} their cells"
        for place, lists in noted(self.each, self.note, what)(
            join.search_partitions,
            [(self.plan, task, queries, row_B, within) for task, row_B in asked],
        ):
            join.add_lists(found, lists, asked[place][1])


def _share(vectors: Vectors, at_once: int) -> list[range]:
    """The partitions of each task of a round: neighbors in order, about as many vectors."""
    num_vectors = int(vectors.end_P[-1])
    wanted = min(max(-(-num_vectors // at_once), LEAST_VECTORS), MOST_VECTORS)
    size = max(-(-num_vectors // TASKS_A_ROUND), wanted)
    _, first_T = np.unique(vectors.start_P // size, return_index=True)
    ends = [*first_T[1:].tolist(), len(vectors.end_P)]
    return [range(first, end) for first, end in zip(first_T.tolist(), ends, strict=True)]


def _homes(vectors: Vectors, tasks: Sequence[range], cell_V: np.ndarray) -> np.ndarray:
    """The task that holds most vectors of each cell, int64 [C]."""
    num_cells = int(cell_V.max(initial=0)) + 1
    home_C, most_C = np.zeros(num_cells, np.int64), np.zeros(num_cells, np.int64)
    for place, task in enumerate(tasks):
        some = cell_V[vectors.start_P[task[0]] : vectors.end_P[task[-1]]]
        count_C = np.bincount(some, minlength=num_cells)
        home_C[count_C > most_C] = place
        most_C = np.maximum(most_C, count_C)
    return home_C
