"""How well scores find the outliers: AUC and recall, of one draw and of its resamples.

Shape letters: N objects of a draw, I inliers, G distinct scores of outliers, R resamples.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

__all__ = ["FLAGGED", "NUM_RESAMPLES", "Estimate", "Rates", "rates", "resampled"]

NUM_RESAMPLES = 500
FLAGGED = (0.05, 0.10, 0.15)
"""Shares of the objects that are flagged for the recalls beside the one at the true rate."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number, and the central 95 % of what resamples gave (Efron 1979, Ann. Stat. 7, 1)."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, value_R: np.ndarray) -> "Estimate":
        """Of the number itself and that of each resample, NaN left out; NaN where all are."""
        known_R = value_R[~np.isnan(value_R)]
        low, high = np.quantile(known_R, [0.025, 0.975]) if len(known_R) else (np.nan, np.nan)
        return cls(value=float(value), low=float(low), high=float(high))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rates:
    """AUC and recalls of R resamples."""

    auc_R: np.ndarray
    """Chance that an outlier has a higher score than an inlier; a tie counts half."""
    recall_R: np.ndarray
    """Share of the outliers found when as many objects are flagged as there are outliers;
    recall, precision and F1 are one number there."""
    recall_at_FR: np.ndarray
    """[F, R] share of the outliers found when 5, 10 and 15 % of the objects are flagged."""


def resampled(sizes: Sequence[int], num_resamples: int, random: np.random.Generator) -> np.ndarray:
    """How often each object is in each resample of its group, float32 [sum of sizes, R].

    Groups are resampled apart, each to its own number; they follow one another.
    """
    parts = [random.multinomial(n, np.full(n, 1 / n), size=num_resamples).T for n in sizes]
    return np.concatenate(parts).astype(np.float32)


def rates(score_N: np.ndarray, is_outlier_N: np.ndarray, weight_NR: np.ndarray) -> Rates:
    """AUC and recalls of one draw under each column of weights.

    score_N       [N]     higher is more unusual; finite or infinite, no NaN
    is_outlier_N  [N]     bool
    weight_NR     [N, R]  how often an object is in a resample; a column of ones is the draw itself

    Objects with equal scores are flagged in random order: the expected value is given. A column
    without an inlier or an outlier gives NaN.
    Fawcett 2006, Pattern Recognition Letters 27, 861 (ROC curves, ties, AUC).
    """
    inlier_I = np.flatnonzero(~is_outlier_N)
    inlier_I = inlier_I[np.argsort(-score_N[inlier_I], kind="stable")]
    sorted_I = -score_N[inlier_I]
    before_R = np.zeros((1, weight_NR.shape[1]))
    # float64 sums of small whole numbers are exact
    found_IR = np.concatenate([before_R, np.cumsum(weight_NR[inlier_I], axis=0, dtype=np.float64)])
    outlier_O = np.flatnonzero(is_outlier_N)
    level_G, group_O = np.unique(-score_N[outlier_O], return_inverse=True)
    weight_GR = np.zeros((len(level_G), weight_NR.shape[1]))
    np.add.at(weight_GR, group_O, weight_NR[outlier_O])
    above_GR = found_IR[np.searchsorted(sorted_I, level_G, "left")]
    tied_GR = found_IR[np.searchsorted(sorted_I, level_G, "right")] - above_GR
    inliers_R, outliers_R = found_IR[-1], weight_GR.sum(axis=0)
    flagged_GR = above_GR + np.cumsum(weight_GR, axis=0) - weight_GR

    def recall(flagged_R: np.ndarray) -> np.ndarray:
        total_GR = np.maximum(tied_GR + weight_GR, 1e-12)
        taken_GR = np.clip((flagged_R - flagged_GR) / total_GR, 0.0, 1.0)
        return (taken_GR * weight_GR).sum(axis=0) / outliers_R

    with np.errstate(divide="ignore", invalid="ignore"):
        beaten_GR = inliers_R - above_GR - 0.5 * tied_GR
        return Rates(
            auc_R=(weight_GR * beaten_GR).sum(axis=0) / (inliers_R * outliers_R),
            recall_R=recall(outliers_R),
            recall_at_FR=np.stack([recall(share * (inliers_R + outliers_R)) for share in FLAGGED]),
        )
