"""What a person's labels say of all other objects: an order of interest, learnt in a moment.

An outlier need not be interesting; what is, only a person can say (Astronomaly: Lochner & Bassett
2021, Astronomy & Computing 36, 100481). Three opinions are added, each in units of its own scatter
over the objects:

    head     a Gaussian for what is interesting and one for what is not, with the survey's own
             covariance: a direction where there are labels of both kinds; nothing is trained
    ridge    kernel ridge regression of the interest on random Fourier features (Rahimi & Recht
             2007), which follows several families; its posterior variance is the doubt
    outlier  the place in the outlier ranking: all there is before the first label

The certified ranking is changed by none of it.
N objects, M labelled, D dimensions, F features, B rows at once.
"""

import dataclasses

import numpy as np

__all__ = ["Learnt", "Reranker"]

NUM_FEATURES = 512
ROWS_AT_ONCE = 16_384
WIDTH = 2.0
"""Width of the kernel in units of the survey's median outlier score, the typical spacing."""
NOISE = 0.3
"""Standard deviation of an interest of 0..1 beside what the embedding explains."""
SHRINKAGE = 0.1
OUTLIER_WEIGHT = 0.3
COVARIANCE_ROWS = 65_536


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learnt:
    """What is expected of each object."""

    value_N: np.ndarray
    """[N] float64, larger is likelier to interest; only its order means anything."""
    doubt_N: np.ndarray
    """[N] float64, how little the labels say of the object: from 0 to about 1, nothing."""


class Reranker:
    """Learns from labels how interesting every object is; what needs no label is made once."""

    def __init__(self, embedding_ND: np.ndarray, outlier_score_N: np.ndarray) -> None:
        """outlier_score_N  [N]  larger is more unusual; NaN where there is none"""
        self._embedding_ND = embedding_ND
        finite_N = np.isfinite(outlier_score_N)
        self._outlier_N = np.zeros(len(outlier_score_N))
        order_M = np.argsort(outlier_score_N[finite_N], kind="stable")
        place_M = np.empty(len(order_M))
        place_M[order_M] = np.arange(1, len(order_M) + 1) / max(1, len(order_M))
        self._outlier_N[finite_N] = place_M
        typical = np.median(outlier_score_N[finite_N]) if finite_N.any() else 0.0
        width = WIDTH * typical if typical > 0 else 1.0
        random = np.random.default_rng(0)
        dim = embedding_ND.shape[1]
        self._frequency_DF = (random.normal(size=(dim, NUM_FEATURES)) / width).astype(np.float32)
        self._phase_F = random.uniform(0, 2 * np.pi, NUM_FEATURES).astype(np.float32)
        self._precision_DD = _precision(embedding_ND, random)

    def learn(self, row_M: np.ndarray, interest_M: np.ndarray) -> Learnt:
        """What the labels of some rows say of all.

        row_M       [M]  int64, rows of the embedding
        interest_M  [M]  0 of no interest to 1
        """
        if not len(row_M):
            return Learnt(value_N=self._outlier_N.copy(), doubt_N=np.ones(len(self._outlier_N)))
        head_N, ridge_N, doubt_N = self._opinions(row_M, interest_M.astype(np.float64))
        value_N = _standard(head_N) + _standard(ridge_N)
        value_N += OUTLIER_WEIGHT * _standard(self._outlier_N)
        return Learnt(value_N=value_N, doubt_N=doubt_N)

    def _opinions(
        self, row_M: np.ndarray, interest_M: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        direction_D = self._direction(row_M, interest_M)
        feature_MF = self._features(self._embedding_ND[row_M]).astype(np.float64)
        gram_FF = feature_MF.T @ feature_MF + NOISE**2 * np.eye(NUM_FEATURES)
        root_FF = np.linalg.cholesky(gram_FF)
        inverse_FF = np.linalg.inv(root_FF)  # of the root: |inverse f|^2 is f' gram^-1 f
        mean = interest_M.mean()
        weight_F = inverse_FF.T @ (inverse_FF @ (feature_MF.T @ (interest_M - mean)))
        head_N, ridge_N, doubt_N = (np.empty(len(self._embedding_ND)) for _ in range(3))
        inverse_FF = inverse_FF.astype(np.float32)
        for start in range(0, len(self._embedding_ND), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            feature_BF = self._features(self._embedding_ND[part])
            head_N[part] = self._embedding_ND[part] @ direction_D
            ridge_N[part] = feature_BF @ weight_F.astype(np.float32)
            spread_BF = feature_BF @ inverse_FF.T
            doubt_N[part] = NOISE * np.sqrt(np.einsum("bf,bf->b", spread_BF, spread_BF))
        return head_N, ridge_N, doubt_N

    def _direction(self, row_M: np.ndarray, interest_M: np.ndarray) -> np.ndarray:
        """Of growing likelihood ratio, [D]; zero where all labels are of one kind."""
        labelled_MD = self._embedding_ND[row_M].astype(np.float64)
        for_, against = interest_M.sum(), (1 - interest_M).sum()
        if min(for_, against) <= 0:
            return np.zeros(labelled_MD.shape[1])
        difference_D = interest_M @ labelled_MD / for_ - (1 - interest_M) @ labelled_MD / against
        return self._precision_DD @ difference_D

    def _features(self, embedding_BD: np.ndarray) -> np.ndarray:
        """[B, F] float32, whose products are about exp(-|x - y|^2 / (2 width^2))."""
        angle_BF = embedding_BD.astype(np.float32) @ self._frequency_DF
        angle_BF += self._phase_F
        np.cos(angle_BF, out=angle_BF)
        angle_BF *= np.float32(np.sqrt(2 / NUM_FEATURES))
        return angle_BF


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
