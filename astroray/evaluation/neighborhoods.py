"""Distances among all objects of a protocol, taken once, and the neighbor scores of any draw.

Shape letters: N objects of the protocol, M objects of a draw, I its inliers, K neighbors.
"""

import time

import numpy as np
import torch

from astroray.evaluation.protocols import Draw

__all__ = ["NEIGHBOR_SCORES", "Neighborhoods"]

NEIGHBOR_SCORES = ("kth", "mean")
"""Scores that follow from distances alone: to the k-th neighbor, and the mean over k."""
ROWS_AT_ONCE = 1024
MAX_FLOAT64_DIM = 1024
"""Longer embeddings, such as pixels, are multiplied in float32, twice as fast."""


class Neighborhoods:
    """All pairwise Euclidean distances of embeddings [N, D]; float32 [N, N], once asked for.

    A draw's scores are those that `neighbors.search.search` gives on its rows alone, but for
    rounding: the search proves its list, an evaluation counts over thousands of draws of the
    same objects.
    """

    def __init__(self, embedding_ND: np.ndarray, *, k: int) -> None:
        self.k = k
        self.embedding_ND = embedding_ND
        self.index_s = 0.0
        """Seconds that the distances took."""
        self._distance_NN: np.ndarray | None = None
        self._inlier_I = np.zeros(0, np.int64)
        self._nearest_NK: np.ndarray | None = None

    def build(self) -> np.ndarray:
        """The distances, float32 [N, N]; infinite from an object to itself."""
        if self._distance_NN is None:
            began_s = time.monotonic()
            self._distance_NN = _distances(self.embedding_ND)
            self.index_s = time.monotonic() - began_s
        return self._distance_NN

    def score(self, draw: Draw, name: str) -> np.ndarray:
        """kth or mean distance of each object of the draw to its k nearest others, float64 [M]."""
        near_NK = self._nearest_inliers(draw.row_M[~draw.is_outlier_M])
        drawn_O = draw.row_M[draw.is_outlier_M]
        candidate_MP = np.concatenate(
            [near_NK[draw.row_M], self.build()[np.ix_(draw.row_M, drawn_O)]], axis=1
        )
        k = min(self.k, len(draw.row_M) - 1)
        near_MK = np.partition(candidate_MP, k - 1, axis=1)[:, :k].astype(np.float64)
        return near_MK[:, -1] if name == "kth" else near_MK.mean(axis=1)

    def _nearest_inliers(self, inlier_I: np.ndarray) -> np.ndarray:
        """Distances [N, K] to the nearest inliers but itself; kept, since draws share inliers."""
        if self._nearest_NK is None or not np.array_equal(self._inlier_I, inlier_I):
            k = min(self.k, len(inlier_I))
            parts = [
                np.partition(rows_BN[:, inlier_I], k - 1, axis=1)[:, :k]
                for rows_BN in np.array_split(
                    self.build(), -(-len(self.embedding_ND) // ROWS_AT_ONCE)
                )
            ]
            self._inlier_I, self._nearest_NK = inlier_I, np.concatenate(parts)
        return self._nearest_NK


def _distances(embedding_ND: np.ndarray) -> np.ndarray:
    dtype = torch.float64 if embedding_ND.shape[1] <= MAX_FLOAT64_DIM else torch.float32
    x_ND = torch.from_numpy(embedding_ND).to(torch.float64)
    x_ND = (x_ND - x_ND.median(dim=0).values).to(dtype)  # products lose less near the middle
    square_N = x_ND.square().sum(dim=1)
    distance_NN = torch.empty(len(x_ND), len(x_ND), dtype=torch.float32)
    for start in range(0, len(x_ND), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        square_BN = square_N[part, None] + square_N - 2 * (x_ND[part] @ x_ND.T)
        distance_NN[part] = square_BN.clamp_(min=0).sqrt_().float()
    distance_NN.fill_diagonal_(torch.inf)
    return distance_NN.numpy()
