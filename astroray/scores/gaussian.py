"""The Mahalanobis distance: mean and shrunk covariance of a reference, whose bits repeat."""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
from safetensors.numpy import load, save

from astroray.neighbors.distances import parts
from astroray.scores.statistics import Moments, project

__all__ = ["LARGEST_GAUSSIAN", "Gaussian", "square_norm", "squares_from"]

ROWS_AT_ONCE = 4096
LARGEST_GAUSSIAN = 512
"""Dimensions of a Gaussian: its covariance is built exactly, in time that grows as the square."""
LEAST_SHRINKAGE = 1e-9
"""Keeps a covariance invertible where its estimate would not shrink it at all."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gaussian:
    """Mean and shrunk covariance of the objects of a reference, frozen: a night measures by it."""

    mean_D: np.ndarray
    """[D] float64."""
    whiten_DD: np.ndarray
    """[D, D] float64; all zero where the objects were equal."""

    @classmethod
    def of(cls, embedding_ND: np.ndarray) -> "Gaussian | None":
        """That of float32 [N, D]; None with fewer than two objects or more than 512 dimensions."""
        if len(embedding_ND) < 2 or embedding_ND.shape[1] > LARGEST_GAUSSIAN:
            return None
        moments = Moments.of(embedding_ND, outer=True)
        return cls.fit(moments, squares_from(moments.mean_D, embedding_ND))

    @classmethod
    def fit(cls, moments: Moments, square_N: np.ndarray) -> "Gaussian":
        """Of at least two objects: their moments with outer products, their `squares_from`."""
        shrunk_DD = _shrunk(moments.covariance, square_N)
        whiten_DD = _inverse_root(shrunk_DD) if shrunk_DD.any() else shrunk_DD
        # safetensors writes an array as it lies in memory
        return cls(mean_D=moments.mean_D, whiten_DD=np.ascontiguousarray(whiten_DD))

    def to_bytes(self) -> bytes:
        """As a file."""
        return save({"mean": self.mean_D, "whiten": self.whiten_DD})

    @classmethod
    def from_bytes(cls, data: bytes) -> "Gaussian":
        """The one that was written."""
        arrays = load(data)
        return cls(mean_D=arrays["mean"], whiten_DD=arrays["whiten"])

    def distances(self, embedding_ND: np.ndarray) -> np.ndarray:
        """Distance from the mean in units of the covariance, float64 [N].

        To leave each object out of its own mean and covariance, with the same share of shrinkage,
        would change the numbers, but not their order: the square q becomes a multiple of
        q / (1 - c q) for one c (Sherman and Morrison).
        """
        squares = [
            square_norm(project(block, self.whiten_DD))
            for block in _centered(embedding_ND, self.mean_D)
        ]
        return np.sqrt(np.concatenate([np.zeros(0), *squares]))


def squares_from(mean_D: np.ndarray, embedding_ND: np.ndarray) -> np.ndarray:
    """Squared distance of each object from the mean, float64 [N]."""
    squares = [square_norm(block) for block in _centered(embedding_ND, mean_D)]
    return np.concatenate([np.zeros(0), *squares])


def square_norm(vector_BD: np.ndarray) -> np.ndarray:
    """Squared length of each vector, [B], summed over the dimensions from the first to the last."""
    total_B = np.zeros(len(vector_BD))
    for value_B in vector_BD.T:
        total_B += value_B * value_B
    return total_B


def _centered(embedding_ND: np.ndarray, mean_D: np.ndarray) -> Iterator[np.ndarray]:
    """The embeddings less the mean, float64, some rows at a time."""
    return (
        np.subtract(embedding_ND[part], mean_D) for part in parts(len(embedding_ND), ROWS_AT_ONCE)
    )


def _shrunk(covariance_DD: np.ndarray, square_N: np.ndarray) -> np.ndarray:
    """The covariance moved toward a multiple of the identity (Ledoit and Wolf 2004, section 3.2).

    square_N  [N]  squared distances from the mean
    """
    num_objects, dim = len(square_N), len(covariance_DD)
    target_DD = np.eye(dim) * np.trace(covariance_DD) / dim
    spread = np.square(covariance_DD - target_DD).sum()  # d^2 of the paper, times dim
    fourth = math.fsum(np.square(square_N)) / num_objects  # rounded once: any order of objects
    error = max(fourth - np.square(covariance_DD).sum(), 0.0) / num_objects  # b^2, likewise
    share = min(error / spread, 1.0) if spread else 1.0
    share = max(share, LEAST_SHRINKAGE)
    shrunk_DD: np.ndarray = share * target_DD + (1.0 - share) * covariance_DD
    return shrunk_DD


def _inverse_root(matrix_DD: np.ndarray) -> np.ndarray:
    """W with W W^T the inverse of a positive definite matrix, by elimination.

    LAPACK's bits may change with the number of threads, these do not.
    """
    rest_DD, root_DD = matrix_DD.copy(), np.eye(len(matrix_DD))
    for j in range(len(matrix_DD) - 1):
        factor_D = rest_DD[j + 1 :, j] / rest_DD[j, j]
        root_DD[j + 1 :] -= np.multiply.outer(factor_D, root_DD[j])
        rest_DD[j + 1 :] -= np.multiply.outer(factor_D, rest_DD[j])
    return (root_DD / np.sqrt(np.diag(rest_DD))[:, None]).T
