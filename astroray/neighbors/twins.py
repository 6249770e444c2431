"""Objects with identical embeddings are searched once and share what is found.

Blank or saturated pictures often have equal embeddings, by the thousand; each would be at
distance zero from all others, and no padding of candidates could tell the first k of them.
N objects and U different vectors, both in the order of object_id; a vector stands where its first
object does.
"""

import dataclasses

import numpy as np

from astroray.neighbors.distances import parts

NUMBERS_AT_ONCE = 2**17  # uint64, 1 MB: one round stays in the processor's cache


@dataclasses.dataclass(frozen=True, kw_only=True)
class Twins:
    """Which objects share a vector."""

    vector_N: np.ndarray
    """[N] int64, vector of each object."""
    first_U: np.ndarray
    """[U] int64, first object of each vector, ascending."""
    member_N: np.ndarray
    """[N] int64, objects sorted by vector, then by themselves."""
    start_U: np.ndarray
    """[U] int64, where the objects of each vector start in `member_N`."""
    count_U: np.ndarray
    """[U] int64, number of objects of each vector."""

    @classmethod
    def find(cls, embedding_ND: np.ndarray) -> "Twins":
        """Groups equal rows of float32 [N, D]; 0 and -0 are equal."""
        label_N = _label(embedding_ND)
        _, first_U, vector_N, count_U = np.unique(
            label_N, return_index=True, return_inverse=True, return_counts=True
        )
        order_U = np.argsort(first_U, kind="stable")
        place_U = np.empty_like(order_U)
        place_U[order_U] = np.arange(len(order_U))
        vector_N, count_U = place_U[vector_N], count_U[order_U]
        return cls(
            vector_N=vector_N,
            first_U=first_U[order_U],
            member_N=np.argsort(vector_N, kind="stable"),
            start_U=np.cumsum(count_U) - count_U,
            count_U=count_U,
        )

    def neighbors(
        self, row_B: np.ndarray, near_BK: np.ndarray, distance_BK: np.ndarray, num_neighbors: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Neighbors [B, num_neighbors] of objects and their distances, from those of their vectors.

        row_B        [B]     objects
        near_BK      [B, K]  vectors near that of each object, by (distance, vector), as many as
                             there are up to num_neighbors; -1 for none
        distance_BK  [B, K]  their distances, NaN for none

        The nearest k vectors hold the nearest k objects, since a vector stands where its first
        object does and a tie between vectors is decided by it.
        """
        if len(self.first_U) == len(self.vector_N):
            return near_BK, distance_BK
        width = num_neighbors + 1  # the object itself may be among them
        vector_BV = np.concatenate([self.vector_N[row_B][:, None], near_BK], axis=1)
        distance_BV = np.concatenate([np.zeros((len(row_B), 1)), distance_BK], axis=1)
        member_BW, distance_BW = first_members(
            self.member_N, self.start_U, self.count_U, vector_BV, distance_BV, width
        )
        return without_itself(row_B, member_BW, distance_BW)


def first_members(
    member_N: np.ndarray,
    start_U: np.ndarray,
    count_U: np.ndarray,
    vector_BV: np.ndarray,
    distance_BV: np.ndarray,
    width: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The first `width` objects of some vectors, by (distance, object); -1 and NaN beyond.

    member_N           [N]     objects by vector, ascending within each
    start_U, count_U   [U]     where the objects of each vector start in `member_N`, their number
    vector_BV          [B, V]  vectors, -1 for none
    distance_BV        [B, V]  their distances

    Returns both as [B, width].
    """
    entry_row, entry_column = np.nonzero(vector_BV >= 0)
    vector_E = vector_BV[entry_row, entry_column]
    count_E = np.minimum(count_U[vector_E], width)
    place_P = np.arange(count_E.sum()) - np.repeat(np.cumsum(count_E) - count_E, count_E)
    member_P = member_N[np.repeat(start_U[vector_E], count_E) + place_P]
    row_P = np.repeat(entry_row, count_E)
    distance_P = np.repeat(distance_BV[entry_row, entry_column], count_E)
    order_P = np.lexsort((member_P, distance_P, row_P))
    start_B = np.searchsorted(row_P, np.arange(len(vector_BV)))  # row_P ascends
    slot_P = np.arange(len(row_P)) - start_B[row_P]
    kept_P = slot_P < width
    member_BW = np.full((len(vector_BV), width), -1, np.int64)
    distance_BW = np.full(member_BW.shape, np.nan)
    member_BW[row_P[kept_P], slot_P[kept_P]] = member_P[order_P][kept_P]
    distance_BW[row_P[kept_P], slot_P[kept_P]] = distance_P[order_P][kept_P]
    return member_BW, distance_BW


def without_itself(
    row_B: np.ndarray, member_BW: np.ndarray, distance_BW: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Each row's list [B, W - 1] without the object itself, or, where it is not in, the last."""
    is_other_BW = member_BW != row_B[:, None]
    beyond_B = is_other_BW.all(axis=1)  # as many twins or more are before it
    is_other_BW[beyond_B, -1] = False
    shape = (len(row_B), member_BW.shape[1] - 1)
    return member_BW[is_other_BW].reshape(shape), distance_BW[is_other_BW].reshape(shape)


def _label(embedding_ND: np.ndarray) -> np.ndarray:
    """Integers [N], equal where rows are: a hash where it occurs once, else by comparison."""
    odd_D = np.random.default_rng(0).integers(
        0, 2**63, embedding_ND.shape[1], dtype=np.uint64
    ) * np.uint64(2) + np.uint64(1)
    hash_N = np.zeros(len(embedding_ND), np.uint64)
    for part in parts(len(embedding_ND), NUMBERS_AT_ONCE // max(1, embedding_ND.shape[1])):
        hash_N[part] = _bits(embedding_ND[part]).astype(np.uint64) @ odd_D
    _, label_N, count_U = np.unique(hash_N, return_inverse=True, return_counts=True)
    shared_N = np.flatnonzero(count_U[label_N] > 1)
    if len(shared_N):
        _, group = np.unique(_bits(embedding_ND[shared_N]), axis=0, return_inverse=True)
        label_N[shared_N] = len(embedding_ND) + group.reshape(-1)
    return label_N


def _bits(embedding_BD: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(embedding_BD + np.float32(0.0)).view(np.uint32)  # -0 becomes 0
