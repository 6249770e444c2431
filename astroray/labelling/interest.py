"""What a person's labels say of all other objects: an order of interest, learnt in a moment.

An outlier need not be interesting; what is, only a person can say (Astronomaly: Lochner & Bassett
2021, Astronomy & Computing 36, 100481). Three opinions are added, each in units of its own scatter
over the objects:

    head     a Gaussian for what is interesting and one for what is not, with the survey's own
             covariance: a direction where there are labels of both kinds; nothing is trained
    ridge    kernel ridge regression of the interest, which follows several families; its
             posterior variance is the doubt. Exact up to 512 labels; of more, 512 drawn ones are
             the landmarks of all (Quinonero-Candela & Rasmussen 2005, JMLR 6, 1939)
    outlier  the place in the outlier ranking: all there is before the first label

The certified ranking is changed by none of it.
N objects, M labelled, L of these landmarks of the kernel, D dimensions, B rows at once.
"""

import dataclasses
from collections.abc import Callable
from functools import partial

import numpy as np

__all__ = ["Learnt", "Reranker"]

NUM_LANDMARKS = 512
ROWS_AT_ONCE = 16_384
WIDTH = 2.5
"""Width of the kernel in units of the survey's median outlier score, the typical spacing."""
NOISE = 0.3
"""Standard deviation of an interest of 0..1 beside what the embedding explains."""
SHRINKAGE = 0.1
JITTER = 1e-4
"""Added to a landmark's kernel with itself, for labelled objects that are alike."""
OUTLIER_WEIGHT = 0.3
COVARIANCE_ROWS = 65_536


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learnt:
    """What is expected of each object."""

    value_N: np.ndarray
    """[N] float64, larger is likelier to interest; only its order means anything."""
    doubt_of: Callable[[np.ndarray], np.ndarray]
    """How little the labels say of some rows, [B] to [B]: from 0 to about 1, nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Ridge:
    """Kernel ridge regression, of the kernel k of an object with the landmarks, [L]."""

    landmark_LD: np.ndarray
    weight_L: np.ndarray
    """k weight is what is expected of the object."""
    known_LL: np.ndarray
    """|k known|^2 is the share of its variance that the labels take away."""


class Reranker:
    """Learns from labels how interesting every object is; what needs no label is made once."""

    def __init__(self, embedding_ND: np.ndarray, outlier_score_N: np.ndarray) -> None:
        """outlier_score_N  [N]  larger is more unusual; NaN where there is none"""
        self._embedding_ND = embedding_ND
        finite_N = np.isfinite(outlier_score_N)
        self._outlier_N = np.zeros(len(outlier_score_N))
        order_M = np.argsort(outlier_score_N[finite_N], kind="stable")
        self._outlier_N[np.flatnonzero(finite_N)[order_M]] = np.arange(1, len(order_M) + 1)
        typical = np.median(outlier_score_N[finite_N]) if finite_N.any() else 0.0
        self._width = WIDTH * typical if typical > 0 else 1.0
        self._precision_DD = _precision(embedding_ND, np.random.default_rng(0))

    def learn(self, row_M: np.ndarray, interest_M: np.ndarray) -> Learnt:
        """What the labels of some rows say of all.

        row_M       [M]  int64, rows of the embedding
        interest_M  [M]  0 of no interest to 1
        """
        if not len(row_M):
            return Learnt(
                value_N=self._outlier_N.copy(), doubt_of=lambda row_B: np.ones(len(row_B))
            )
        interest_M = interest_M.astype(np.float64)
        ridge = self._fit_ridge(row_M, interest_M - interest_M.mean())
        direction_D = self._direction(row_M, interest_M)
        head_N, ridge_N = (np.empty(len(self._embedding_ND)) for _ in range(2))
        for start in range(0, len(self._embedding_ND), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            embedding_BD = self._embedding_ND[part]
            head_N[part] = embedding_BD @ direction_D
            ridge_N[part] = self._kernel(embedding_BD, ridge.landmark_LD) @ ridge.weight_L
        value_N = _standard(head_N) + _standard(ridge_N)
        value_N += OUTLIER_WEIGHT * _standard(self._outlier_N)
        return Learnt(value_N=value_N, doubt_of=partial(self._doubt, ridge))

    def _doubt(self, ridge: _Ridge, row_B: np.ndarray) -> np.ndarray:
        known_BL = self._kernel(self._embedding_ND[row_B], ridge.landmark_LD) @ ridge.known_LL
        variance_B = 1 - np.einsum("bl,bl->b", known_BL, known_BL)
        return np.sqrt(np.maximum(variance_B, 0))

    def _fit_ridge(self, row_M: np.ndarray, above_mean_M: np.ndarray) -> _Ridge:
        landmark_LD = self._embedding_ND[_some_of(row_M)]
        kernel_LL = self._kernel(landmark_LD, landmark_LD).astype(np.float64)
        root_LL = np.linalg.cholesky(kernel_LL + JITTER * np.eye(len(kernel_LL)))
        feature_LL = np.linalg.inv(root_LL).T  # k feature: numbers whose products are the kernel
        feature_ML = self._kernel(self._embedding_ND[row_M], landmark_LD) @ feature_LL
        strength_L, axis_LL = np.linalg.eigh(feature_ML.T @ feature_ML)
        strength_L = np.maximum(strength_L, 0)
        feature_LL = feature_LL @ axis_LL
        weight_L = axis_LL.T @ (feature_ML.T @ above_mean_M) / (strength_L + NOISE**2)
        known_L = strength_L / (strength_L + NOISE**2)
        return _Ridge(
            landmark_LD=landmark_LD,
            weight_L=(feature_LL @ weight_L).astype(np.float32),
            known_LL=(feature_LL * np.sqrt(known_L)).astype(np.float32),
        )

    def _direction(self, row_M: np.ndarray, interest_M: np.ndarray) -> np.ndarray:
        """Of growing likelihood ratio, [D]; zero where all labels are of one kind."""
        labelled_MD = self._embedding_ND[row_M].astype(np.float64)
        for_, against = interest_M.sum(), (1 - interest_M).sum()
        if min(for_, against) <= 0:
            return np.zeros(labelled_MD.shape[1])
        difference_D = interest_M @ labelled_MD / for_ - (1 - interest_M) @ labelled_MD / against
        return self._precision_DD @ difference_D

    def _kernel(self, x_BD: np.ndarray, y_LD: np.ndarray) -> np.ndarray:
        """exp(-|x - y|^2 / (2 width^2)), [B, L] float32."""
        x_BD, y_LD = (x / np.float32(self._width) for x in (x_BD, y_LD))
        squares_L = np.einsum("ld,ld->l", y_LD, y_LD)
        squares_B = np.einsum("bd,bd->b", x_BD, x_BD)
        exponent_BL = x_BD @ y_LD.T
        exponent_BL -= squares_L / 2
        exponent_BL -= squares_B[:, None] / 2
        np.minimum(exponent_BL, 0, out=exponent_BL)
        return np.exp(exponent_BL, out=exponent_BL)


def _some_of(row_M: np.ndarray) -> np.ndarray:
    """At most as many rows as there may be landmarks, drawn where there are more."""
    if len(row_M) <= NUM_LANDMARKS:
        return row_M
    return np.random.default_rng(0).choice(row_M, NUM_LANDMARKS, replace=False)


def _precision(embedding_ND: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Inverse covariance of the survey, shrunk towards a ball, [D, D]; of a sample where large."""
    dim = embedding_ND.shape[1]
    if len(embedding_ND) < 2:
        return np.eye(dim)
    sample_BD = embedding_ND
    if len(embedding_ND) > COVARIANCE_ROWS:
        sample_BD = embedding_ND[random.choice(len(embedding_ND), COVARIANCE_ROWS, replace=False)]
    covariance_DD = np.atleast_2d(np.cov(sample_BD.astype(np.float64).T))
    mean_variance = np.trace(covariance_DD) / dim
    if mean_variance == 0:
        return np.eye(dim)
    return np.linalg.inv(covariance_DD + SHRINKAGE * mean_variance * np.eye(dim))


def _standard(value_N: np.ndarray) -> np.ndarray:
    """Minus the mean, over the standard deviation; zero where all are equal."""
    scatter = value_N.std()
    return (value_N - value_N.mean()) / scatter if scatter > 0 else np.zeros(len(value_N))
