"""One encoder and one score on one subset: all draws of a seed, and their resamples."""

import dataclasses
import hashlib
import time
from collections.abc import Mapping

import numpy as np

from astroray import storage
from astroray.errors import ConfigError
from astroray.evaluation.metrics import FLAGGED, NUM_RESAMPLES, rates
from astroray.evaluation.models import Encoded
from astroray.evaluation.neighborhoods import NEIGHBOR_SCORES, Neighborhoods
from astroray.evaluation.protocols import NUM_DRAWS, Draw, Subset
from astroray.scores import SCORES, score_objects
from astroray.storage.arrays import publish_arrays, read_arrays

__all__ = ["METRICS", "Scored", "check_scores", "score_subset"]

METRICS = ("auc", "recall", *(f"recall_at_{share:.0%}".rstrip("%") for share in FLAGGED))
FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scored:
    """What the draws of one seed gave."""

    metrics: Mapping[str, float]
    """Means over the draws, by METRICS."""
    auc_R: np.ndarray
    """Mean over the draws under each resample of the objects."""
    recall_R: np.ndarray
    index_s: float
    """Seconds to take all distances of the protocol's objects; 0 for scores that search anew."""
    query_s: float
    """Seconds to score one draw."""
    first_score_M: np.ndarray
    """[M] scores of the first draw, in the order of its rows."""


def check_scores(names: tuple[str, ...]) -> None:
    """Raises ConfigError on a name that is no score."""
    unknown = sorted(set(names) - set(SCORES))
    if unknown or not names:
        raise ConfigError(f"scores are {list(names)}, expected some of {', '.join(SCORES)}")


def score_subset(
    encoded: Encoded,
    near: Neighborhoods,
    subset: Subset,
    *,
    name: str,
    seed: int,
    folder: str,
) -> Scored:
    """Scores the draws of a seed.

    folder  of the protocol's objects; results are kept in it by all that decides them beside

    Raises ConfigError where the encoder lacks what the score needs.
    """
    digest = hashlib.sha256(f"{FORMAT_VERSION} {subset.contamination}".encode())
    for array in (subset.inlier_I, *subset.outliers):
        digest.update(array.astype("<i8").tobytes() + b";")
    label = f"{encoded.model_id}-{subset.name}-{name}-k{near.k}-seed{seed}"
    cached = storage.join(folder, f"{label}-{digest.hexdigest()[:12]}.npz")
    if not storage.exists(cached):
        _score(encoded, near, subset, name, seed, cached)
    arrays = read_arrays(cached)
    return Scored(
        metrics=dict(zip(METRICS, arrays["metrics"].tolist(), strict=True)),
        auc_R=arrays["auc"],
        recall_R=arrays["recall"],
        index_s=float(arrays["index_s"]),
        query_s=float(arrays["query_s"]),
        first_score_M=arrays["first"],
    )


def _score(
    encoded: Encoded, near: Neighborhoods, subset: Subset, name: str, seed: int, cached: str
) -> None:
    weight_NR = subset.weights(NUM_RESAMPLES)
    place = np.concatenate([subset.inlier_I, subset.candidate_O])
    row_of = np.full(len(encoded.embedding_ND), -1)
    row_of[place] = np.arange(len(place))
    metrics, auc_R, recall_R, query_s = [], [], [], 0.0
    first_M = np.zeros(0)
    if name in NEIGHBOR_SCORES:
        near.build()
    for number in range(NUM_DRAWS):
        draw = subset.draw(seed, number)
        began_s = time.monotonic()
        score_M = _scores_of(encoded, near, draw, name, seed)
        query_s += time.monotonic() - began_s
        first_M = score_M if number == 0 else first_M
        plain = rates(score_M, draw.is_outlier_M, np.ones((len(score_M), 1)))
        metrics.append([plain.auc_R[0], plain.recall_R[0], *plain.recall_at_FR[:, 0]])
        resampled = rates(score_M, draw.is_outlier_M, weight_NR[row_of[draw.row_M]])
        auc_R.append(resampled.auc_R)
        recall_R.append(resampled.recall_R)
    arrays = {
        "metrics": np.mean(metrics, axis=0),
        "auc": _mean(auc_R),
        "recall": _mean(recall_R),
        "index_s": np.array(near.index_s if name in NEIGHBOR_SCORES else 0.0),
        "query_s": np.array(query_s / NUM_DRAWS),
        "first": first_M,
    }
    publish_arrays(cached, arrays)


def _scores_of(
    encoded: Encoded, near: Neighborhoods, draw: Draw, name: str, seed: int
) -> np.ndarray:
    if name in NEIGHBOR_SCORES:
        return near.score(draw, name)
    errors_N = encoded.reconstruction_N
    return score_objects(
        name,
        encoded.embedding_ND[draw.row_M],
        k=near.k,
        seed=seed,
        reconstruction_N=None if errors_N is None else errors_N[draw.row_M],
    )


def _mean(values: list[np.ndarray]) -> np.ndarray:
    """Mean over the draws, [R]; a draw whose outliers were never resampled does not count."""
    value_DR = np.array(values)
    known_R = np.isfinite(value_DR).sum(axis=0)
    total_R = np.nansum(value_DR, axis=0)
    return np.where(known_R > 0, total_R / np.maximum(known_R, 1), np.nan)
