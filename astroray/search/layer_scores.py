"""Scores and ranks of the objects of all layers of an index, from what each version's search gave.

A scan's ranking has all objects, by number. A night's has those that it searched: their numbers
among the objects of all layers, and their scores; that of any other stands in an older one. No
score counts as the lowest. N objects of all layers, L of them searched by nights.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from astroray.actors.join import read_column
from astroray.actors.publish import Objects
from astroray.neighbors.distances import parts
from astroray.neighbors.partitions import open_batches

__all__ = ["LayerScores"]

ROWS_AT_ONCE = 2**18
"""Scores that are looked through at once, 2 MB."""


class LayerScores:
    """What the catalog of a version says of its objects, by number; scores lie where they are.

    rankings  paths, the oldest first
    """

    def __init__(self, rankings: Sequence[str], objects: Objects, num_objects: int) -> None:
        self.objects, self.num_objects = objects, num_objects
        self.rank_N = self.score_N = np.zeros(0)
        """Of the first version, where that was a scan."""
        numbers, scores = [np.zeros(0, np.int64)], [np.zeros(0)]
        for path in rankings:
            names = open_batches(path).schema.names
            if "number" not in names:
                self.rank_N, self.score_N = (read_column(path, name) for name in ("rank", "score"))
            else:
                numbers.insert(0, read_column(path, "number"))
                scores.insert(0, read_column(path, "score"))
        self.later_L, first_L = np.unique(np.concatenate(numbers), return_index=True)
        self.later_score_L = np.concatenate(scores)[first_L]

    def score(self, number_B: np.ndarray) -> np.ndarray:
        """Score of each object, [B]; NaN where it has none."""
        score_B = np.full(len(number_B), np.nan)
        is_first_B = number_B < len(self.score_N)
        score_B[is_first_B] = self.score_N[number_B[is_first_B]]
        place_B = np.searchsorted(self.later_L, number_B)
        is_later_B = np.append(self.later_L, -1)[place_B] == number_B
        score_B[is_later_B] = self.later_score_L[place_B[is_later_B]]
        return score_B

    def rank(self, number_B: np.ndarray) -> np.ndarray:
        """Rank of each object, int64 [B]: descending score, ties by `object_id`."""
        if not len(self.later_L):
            return self.rank_N[number_B]
        score_B, place_B = np.unique(_ordered(self.score(number_B)), return_inverse=True)
        above_B = np.zeros(len(score_B), np.int64)
        ties_B: list[list[np.ndarray]] = [[] for _ in score_B]
        for part in parts(self.num_objects, ROWS_AT_ONCE):
            score_P = self._part(part)
            for place, score in enumerate(score_B.tolist()):
                above_B[place] += np.count_nonzero(score_P > score)
                ties_B[place].append(np.flatnonzero(score_P == score) + part.start)
        tied = [np.concatenate(some) for some in ties_B]
        rank_B = above_B[place_B] + 1
        for row, place in enumerate(place_B.tolist()):
            if len(tied[place]) > 1:
                rank_B[row] += self._before(tied[place], int(number_B[row]))
        return rank_B

    def order(self, number_M: np.ndarray, distance_M: np.ndarray) -> np.ndarray:
        """The order of some objects by distance, ties by rank, int64 [M]."""
        keys = {
            "distance": distance_M,
            "score": -_ordered(self.score(number_M)),
            "object_id": self.objects.names(number_M),
        }
        ascending = [(name, "ascending") for name in keys]
        order_M = pc.sort_indices(pa.table(keys), sort_keys=ascending)
        return np.asarray(order_M.to_numpy(), np.int64)

    def _part(self, part: slice) -> np.ndarray:
        """Scores of some objects that follow one another, no score as the lowest."""
        score_P = np.full(part.stop - part.start, np.nan)
        first = self.score_N[part]
        score_P[: len(first)] = first
        start, stop = np.searchsorted(self.later_L, [part.start, part.stop])
        score_P[self.later_L[start:stop] - part.start] = self.later_score_L[start:stop]
        return _ordered(score_P)

    def _before(self, tied_T: np.ndarray, number: int) -> int:
        """How many of some objects come before one of them by name."""
        (name,) = self.objects.names(np.array([number])).to_pylist()
        return int(pc.sum(pc.less(self.objects.names(tied_T), name)).as_py())


def _ordered(score_B: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(score_B), -np.inf, score_B)
