"""The nearest vectors of one query, exactly, without an index and without loading torch.

A search for one query reads every vector once, so it is bound by memory. A float32 pass over the
differences rules out nearly all of them; the rest is measured as distances are published.
V vectors, M found.
"""

import numpy as np

from astroray.neighbors.distances import UNIT_FLOAT32, pair_distances, parts

__all__ = ["nearest_of"]

NUMBERS_AT_ONCE = 2**17
"""Differences of one round, 512 kB: they stay in the processor's cache."""
LEAST = 2.0**-100
"""More than what float32 squares lose below their range, all dimensions together."""
LARGEST = 2.0**126
"""Squares above it may have overflowed."""


def nearest_of(query_D: np.ndarray, vector_VD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest vectors, and all that are as near as the last of them.

    query_D    [D]     float32, finite
    vector_VD  [V, D]  float32, finite; may be memory-mapped

    Returns index_M, int64 [M], and the published distance_M, float64 [M], nearest first, ties by
    index; all V where there are at most k.
    """
    query_D = np.asarray(query_D, np.float32)
    index_P = np.arange(len(vector_VD))
    if len(vector_VD) > k:
        index_P = _candidates(_squares(query_D, vector_VD), k, len(query_D))
    pair_PD = np.concatenate([query_D[None], vector_VD[index_P]])
    other_P = np.arange(1, len(pair_PD))
    distance_P = pair_distances(pair_PD, np.zeros(len(other_P), np.int64), other_P)
    order_P = np.argsort(distance_P, kind="stable")  # index_P ascends
    if len(order_P) > k:
        order_P = order_P[distance_P[order_P] <= distance_P[order_P[k - 1]]]
    return index_P[order_P], distance_P[order_P]


def _squares(query_D: np.ndarray, vector_VD: np.ndarray) -> np.ndarray:
    """Squared distances in float32, [V]."""
    square_V = np.empty(len(vector_VD), np.float32)
    with np.errstate(over="ignore"):
        for some in parts(len(vector_VD), NUMBERS_AT_ONCE // len(query_D)):
            away_BD = vector_VD[some] - query_D
            square_V[some] = np.einsum("bd,bd->b", away_BD, away_BD)
    return square_V


def _candidates(square_V: np.ndarray, k: int, dim: int) -> np.ndarray:
    """All that may be among the k nearest or as near as the k-th, ascending.

    A term passes through one rounding of the difference, twice, one of the square and at most D
    of the sum, and no term is negative: a computed square s of a true one t has
    |s - t| <= g t + LEAST with g = (D + 3) u / (1 - (D + 3) u) (Higham, Accuracy and Stability,
    section 3.1). The k-th smallest computed square bounds the k-th true one, which bounds the
    computed ones of all that belong; D + 8 for D + 3 covers the published distances' own
    rounding and the factors of g among each other.
    """
    kth = float(np.partition(square_V, k - 1)[k - 1])
    roundings = (dim + 8) * UNIT_FLOAT32
    error = roundings / (1.0 - roundings)
    limit = ((kth + LEAST) / (1.0 - error)) * (1.0 + error) + LEAST
    if not limit < LARGEST or error > 0.5:
        return np.arange(len(square_V))
    return np.flatnonzero(square_V <= limit)
