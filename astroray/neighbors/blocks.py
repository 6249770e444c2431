"""The nearest objects of query vectors in a block of vectors, and how lists of blocks are merged.

An object is known by its number, its place in the order of `object_id` over the whole survey, so
that a tie between numbers is decided as one between identifiers. U different vectors; W objects
of each list, itself among them: K + 1. A list that is too short ends in -1 and NaN.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from astroray.neighbors.distances import parts
from astroray.neighbors.kernel import nearest_by_kernel
from astroray.neighbors.twins import Twins, first_members

ROWS_AT_ONCE = 16_384
LEAST_IN_A_CELL = 16
"""Vectors of a cell on the average: with fewer, centers cost more than they may spare."""

Lists = tuple[np.ndarray, np.ndarray]
"""Objects [G, W], int64, and distances [G, W], float64; nearest first, ties by object."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Block:
    """Vectors in any order, and the objects of each."""

    vector_UD: np.ndarray
    """[U, D] float32."""
    member_N: np.ndarray
    """[N] int64, objects by vector, ascending within each."""
    count_U: np.ndarray
    """[U] int64, number of objects of each vector."""
    cell_U: np.ndarray
    """[U] int32, the cell of each vector."""

    @property
    def start_U(self) -> np.ndarray:
        """[U] int64, where the objects of each vector start in `member_N`."""
        return np.cumsum(self.count_U) - self.count_U

    @classmethod
    def of(cls, number_N: np.ndarray, vector_ND: np.ndarray, cell_N: np.ndarray) -> "Block":
        """The block of some objects in any order: float32 [N, D], and the cell of each, [N]."""
        order_N = np.argsort(number_N)
        vector_ND = vector_ND[order_N]
        twins = Twins.find(vector_ND)
        return cls(
            vector_UD=vector_ND[twins.first_U],
            member_N=number_N[order_N][twins.member_N],
            count_U=twins.count_U,
            cell_U=cell_N[order_N[twins.first_U]].astype(np.int32),
        )

    @classmethod
    def join(cls, blocks: Sequence["Block"]) -> "Block":
        """One block of at least one; a vector that several have is there several times."""
        vector_UD = np.concatenate([block.vector_UD for block in blocks])
        member_N = np.concatenate([block.member_N for block in blocks])
        count_U = np.concatenate([block.count_U for block in blocks])
        cell_U = np.concatenate([block.cell_U for block in blocks])
        return cls(vector_UD=vector_UD, member_N=member_N, count_U=count_U, cell_U=cell_U)

    def take(self, order_U: np.ndarray) -> "Block":
        """The vectors in another order, each with its objects."""
        start_U, count_U = self.start_U[order_U], self.count_U[order_U]
        if len(self.member_N) > len(self.count_U):
            step_N = np.arange(count_U.sum()) - np.repeat(np.cumsum(count_U) - count_U, count_U)
            member_N = self.member_N[np.repeat(start_U, count_U) + step_N]
        else:
            member_N = self.member_N[start_U]
        return Block(
            vector_UD=self.vector_UD[order_U],
            member_N=member_N,
            count_U=count_U,
            cell_U=self.cell_U[order_U],
        )

    def nearest(self, query_GD: np.ndarray, width: int) -> Lists:
        """The `width` nearest objects of each query, as `nearest_in` of this block alone."""
        return nearest_in([self], query_GD, width)


def nearest_in(
    blocks: Sequence[Block],
    query_GD: np.ndarray,
    width: int,
    *,
    within_G: np.ndarray | None = None,
    centroid_CD: np.ndarray | None = None,
) -> Lists:
    """The `width` nearest objects of each query, float32 [G, D], in blocks without common objects.

    within_G     [G]     the largest distance that is looked for; None: any
    centroid_CD  [C, D]  centroids of all cells; what they rule out is not compared

    Vectors are read where they lie. The nearest `width` vectors hold the objects, since a tie
    between vectors is decided by their first objects.
    """
    member_N, count_U, cell_U = (
        np.concatenate([getattr(block, name) for block in blocks])
        for name in ("member_N", "count_U", "cell_U")
    )
    start_U = np.cumsum(count_U) - count_U
    first_U = member_N[start_U]
    near_GV, distance_GV = nearest_by_kernel(
        query_GD,
        [block.vector_UD for block in blocks],
        width,
        within_G=within_G,
        cells=None if centroid_CD is None else _cells(cell_U, centroid_CD),
        label_V=first_U,
    )
    if len(count_U) == len(member_N):
        return near_GV, distance_GV
    order_U = np.argsort(first_U)
    row_GV = order_U[np.searchsorted(first_U[order_U], near_GV)]
    near_GV = np.where(near_GV >= 0, row_GV, -1)
    found = [
        first_members(member_N, start_U, count_U, near_GV[part], distance_GV[part], width)
        for part in parts(len(query_GD), ROWS_AT_ONCE)
    ]
    return _stack(found, width)


def _cells(cell_U: np.ndarray, centroid_CD: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The cells that there are, counted from 0, of each vector, and their centroids."""
    held_H = np.flatnonzero(np.bincount(cell_U, minlength=len(centroid_CD)))
    if len(cell_U) < LEAST_IN_A_CELL * len(held_H):
        return None
    place_C = np.zeros(len(centroid_CD), np.int64)
    place_C[held_H] = np.arange(len(held_H))
    return place_C[cell_U], centroid_CD[held_H]


def merge_lists(first: Lists, second: Lists) -> Lists:
    """The nearest W objects of two lists of the same queries from blocks without common objects.

    The order of the two does not matter, so lists may be merged as they come.
    """
    width = first[0].shape[1]
    member_GV = np.concatenate([first[0], second[0]], axis=1)
    distance_GV = np.concatenate([first[1], second[1]], axis=1)
    order_GW = np.lexsort((member_GV, distance_GV), axis=-1)[:, :width]  # NaN last
    return (
        np.take_along_axis(member_GV, order_GW, axis=1),
        np.take_along_axis(distance_GV, order_GW, axis=1),
    )


def _stack(lists: Sequence[Lists], width: int) -> Lists:
    none = np.zeros((0, width))
    return (
        np.concatenate([none.astype(np.int64), *(members for members, _ in lists)]),
        np.concatenate([none, *(distances for _, distances in lists)]),
    )
