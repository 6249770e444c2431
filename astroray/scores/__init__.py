"""How unusual an object is by its embedding: every score by name, larger is more unusual.

Only the k-th and the mean distance can be certified, so one of them ranks a catalog; the others
stand beside it.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import numpy as np

from astroray import schema
from astroray.errors import BackendError, ConfigError, DataError
from astroray.neighbors.distances import parts
from astroray.neighbors.search import Neighbors, SearchConfig, search
from astroray.scores.gaussian import LARGEST_GAUSSIAN, Gaussian, square_norm

ROWS_AT_ONCE = 4096
FOREST_TREES = 100
COLUMNS = tuple(column.name for column in schema.FURTHER_SCORES)
"""Columns of the further scores, in the order of CATALOG."""
AVERAGED = ("smoothed", "lof", "gaussian")
"""Scores that did better than the k-th distance on both sets that settings are chosen on."""
Vectors = Callable[[np.ndarray], np.ndarray]
"""Numbers of objects, [B], to their embeddings, [B, D]; what it gives for -1 is unused."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Objects:
    """What a score is made of; neighbors are searched when the first score asks for them."""

    embedding_ND: np.ndarray
    k: int
    seed: int
    reconstruction_N: np.ndarray | None

    @functools.cached_property
    def found(self) -> Neighbors:
        """The exact neighbors of all objects."""
        names = [f"{row:012d}" for row in range(len(self.embedding_ND))]
        config = SearchConfig(k=self.k, index="flat", num_threads=1)
        return search(self.embedding_ND, names, config)


def score_objects(
    name: str,
    embedding_ND: np.ndarray,
    *,
    k: int,
    seed: int = 0,
    reconstruction_N: np.ndarray | None = None,
) -> np.ndarray:
    """One of SCORES for every object among all, itself excluded.

    embedding_ND      [N, D]  finite, in the model's frozen frame
    reconstruction_N  [N]     errors of the autoencoder; only the score of that name wants them

    Returns float64 [N], larger is more unusual; NaN where there is no other object. `seed` changes
    the result of `forest` alone.
    Raises ConfigError on an unknown name, a `k` below one, missing reconstruction errors or more
    than 512 dimensions for `gaussian`; DataError on numbers that are not finite or of the wrong
    count; BackendError where FAISS or, for `forest`, scikit-learn is not installed.
    """
    if name not in SCORES:
        raise ConfigError(f"score is {name!r}, expected one of {', '.join(SCORES)}")
    embedding_ND = np.ascontiguousarray(embedding_ND, np.float32)
    if embedding_ND.ndim != 2 or not np.isfinite(embedding_ND).all():
        raise DataError(
            f"embedding_ND has shape {embedding_ND.shape} and {(~np.isfinite(embedding_ND)).sum()} "
            "numbers that are not finite, expected [N, D], all finite; reject those rows before"
        )
    objects = _Objects(
        embedding_ND=embedding_ND,
        k=k,
        seed=seed,
        reconstruction_N=reconstruction_N,
    )
    return SCORES[name](objects)


def further_scores(
    embedding_ND: np.ndarray, neighbors: Neighbors, gaussian: Gaussian | None
) -> dict[str, np.ndarray]:
    """Scores that need no second search, by their column of CATALOG, float64 [N] each.

    embedding_ND  [N, D]  float32, finite, in the order of the search
    gaussian              `Gaussian.of` these embeddings

    They depend on the embeddings and the neighbor lists, not on the order of the rows: as exact
    as the lists are. NaN where a neighbor that is needed was not found, and where a Gaussian
    cannot be had: fewer than two objects or more than 512 dimensions.
    """
    near_NK = neighbors.neighbor_NK
    found = {
        **list_scores(neighbors.distance_NK, *_reach(neighbors)),
        "mean_shift": mean_shift(embedding_ND, near_NK, embedding_ND.__getitem__),
        "mahalanobis_distance": gaussian.distances(embedding_ND)
        if gaussian
        else np.full(len(embedding_ND), np.nan),
    }
    return {name: found[name] for name in COLUMNS}


def list_scores(
    distance_BK: np.ndarray, reach_B: np.ndarray, near_reach_BK: np.ndarray
) -> dict[str, np.ndarray]:
    """Those of the further scores that need lists and `mean_reach` alone, by column, [B]."""
    return {
        "kth_distance": kth_distance(distance_BK),
        "mean_distance": _mean_over_neighbors(distance_BK),
        "local_outlier_factor": _local_outlier_factor(reach_B, near_reach_BK),
    }


def mean_reach(neighbor_BK: np.ndarray, distance_BK: np.ndarray, kth_N: np.ndarray) -> np.ndarray:
    """One over the local reachability density, [B]; `kth_N` is `kth_distance` of all objects."""
    return _mean_over_neighbors(np.maximum(distance_BK, kth_N[neighbor_BK]))  # NaN wins


def kth_distance(distance_BK: np.ndarray) -> np.ndarray:
    """The distance to the last neighbor, [B]; NaN where there is none."""
    return distance_BK[:, -1] if distance_BK.shape[1] else np.full(len(distance_BK), np.nan)


def scores_again(
    embedding_MD: np.ndarray, found: Neighbors, vectors: Vectors, gaussian: Gaussian | None
) -> dict[str, np.ndarray]:
    """The same as `further_scores` for some objects, float64 [M] each, from what a night knows.

    embedding_MD  [M, D]  theirs
    found         [M]     what was found of them
    vectors               neighbors to their embeddings
    gaussian              that of the reference; None where it has none

    `local_outlier_factor` is NaN: it needs the neighbors of the neighbors.
    """
    nothing_M = np.full(len(embedding_MD), np.nan)
    return {
        "kth_distance": kth_distance(found.distance_NK),
        "mean_distance": _mean_over_neighbors(found.distance_NK),
        "mean_shift": mean_shift(embedding_MD, found.neighbor_NK, vectors),
        "local_outlier_factor": nothing_M,
        "mahalanobis_distance": gaussian.distances(embedding_MD) if gaussian else nothing_M,
    }


def _kth(objects: _Objects) -> np.ndarray:
    """Distance to the k-th nearest neighbor (Ramaswamy, Rastogi and Shim 2000)."""
    return kth_distance(objects.found.distance_NK)


def _mean(objects: _Objects) -> np.ndarray:
    """Mean distance to the k nearest neighbors (Angiulli and Pizzuti 2002)."""
    return _mean_over_neighbors(objects.found.distance_NK)


def _smoothed(objects: _Objects) -> np.ndarray:
    """How far mean-shift smoothing moves an object: once, to the mean of its k nearest neighbors.

    Mean-shift outlier detection (Yang, Rahardja and Fränti 2021) without its repeats: on galaxies
    a second and third round, or the k-th distance after smoothing, found fewer.
    """
    return mean_shift(
        objects.embedding_ND, objects.found.neighbor_NK, objects.embedding_ND.__getitem__
    )


def _lof(objects: _Objects) -> np.ndarray:
    """Local outlier factor (Breunig, Kriegel, Ng and Sander 2000)."""
    return _local_outlier_factor(*_reach(objects.found))


def _gaussian(objects: _Objects) -> np.ndarray:
    """Mahalanobis distance from the mean of all, the covariance shrunk (Ledoit and Wolf 2004)."""
    dim = objects.embedding_ND.shape[1]
    if dim > LARGEST_GAUSSIAN:
        raise ConfigError(
            f"the embeddings have {dim} dimensions, expected at most {LARGEST_GAUSSIAN} for the "
            "score 'gaussian'; choose an encoder with fewer"
        )
    gaussian = Gaussian.of(objects.embedding_ND)
    if gaussian is None:
        return np.full(len(objects.embedding_ND), np.nan)
    return gaussian.distances(objects.embedding_ND)


def _forest(objects: _Objects) -> np.ndarray:
    """Isolation forest (Liu, Ting and Zhou 2008) as scikit-learn has it, the outside baseline.

    An object may be among those that a tree was grown from, and their order matters.
    """
    try:
        from sklearn.ensemble import IsolationForest
    except ImportError as error:
        raise BackendError(
            f"scikit-learn cannot be imported ({error}), and the score 'forest' needs it; "
            "pip install 'astroray[evaluate]'"
        ) from None
    forest = IsolationForest(n_estimators=FOREST_TREES, random_state=objects.seed)
    unusual_N: np.ndarray = -forest.fit(objects.embedding_ND).score_samples(objects.embedding_ND)
    return unusual_N


def _reconstruction(objects: _Objects) -> np.ndarray:
    """Reconstruction error of an autoencoder (Hawkins, He, Williams and Baxter 2002)."""
    if objects.reconstruction_N is None:
        raise ConfigError(
            "the score 'reconstruction' got no reconstruction_N, expected the error of each "
            "object; only autoencoders such as cae and attcae have one"
        )
    error_N = np.asarray(objects.reconstruction_N, np.float64)
    if error_N.shape != (len(objects.embedding_ND),) or not np.isfinite(error_N).all():
        raise DataError(
            f"reconstruction_N has shape {error_N.shape} and {(~np.isfinite(error_N)).sum()} "
            f"numbers that are not finite, expected [{len(objects.embedding_ND)}], all finite"
        )
    return error_N


def _rank_average(objects: _Objects) -> np.ndarray:
    """Mean over AVERAGED of an object's rank from the most usual up; ties share their mean rank.

    Rank averages of detectors are compared by Aggarwal and Sathe (2015).
    """
    import scipy.stats  # half a second, and no scan needs it

    ranks = [scipy.stats.rankdata(SCORES[name](objects)) for name in AVERAGED]
    average_N: np.ndarray = np.mean(ranks, axis=0)
    return average_N


SCORES: Mapping[str, Callable[[_Objects], np.ndarray]] = {
    "kth": _kth,
    "mean": _mean,
    "smoothed": _smoothed,
    "lof": _lof,
    "gaussian": _gaussian,
    "forest": _forest,
    "reconstruction": _reconstruction,
    "rank-average": _rank_average,
}
"""Every score by name. A new one is a function above and a line here."""


def _mean_over_neighbors(value_NK: np.ndarray) -> np.ndarray:
    """Mean along K, nearest first; NaN where a value is NaN or K is 0."""
    total_N = np.zeros(len(value_NK))
    for value_N in value_NK.T:
        total_N += value_N
    return total_N / (value_NK.shape[1] or np.nan)


def mean_shift(embedding_ND: np.ndarray, neighbor_NK: np.ndarray, vectors: Vectors) -> np.ndarray:
    """Distance from an object to the mean of its neighbors, float64 [N]; NaN where one is missing.

    embedding_ND  [N, D]  of the objects
    neighbor_NK   [N, K]  their neighbors, -1 for none
    vectors               neighbors to their embeddings
    """
    num_neighbors = neighbor_NK.shape[1] or np.nan
    square_N = np.empty(len(embedding_ND))
    for part in parts(len(embedding_ND), ROWS_AT_ONCE):
        total_BD = np.zeros(embedding_ND[part].shape)
        for near_B in neighbor_NK[part].T:  # nearest first: the order of rows changes nothing
            total_BD += vectors(near_B)
        square_N[part] = square_norm(total_BD / num_neighbors - embedding_ND[part])
    square_N[(neighbor_NK < 0).any(axis=1)] = np.nan
    return np.sqrt(square_N)


def _local_outlier_factor(reach_B: np.ndarray, near_reach_BK: np.ndarray) -> np.ndarray:
    """How much sparser an object's surroundings are than its neighbors', [B]; 1 where even.

    Infinite where the neighbors lie on top of others, and the object does not. Where distances
    tie, exactly K neighbors count.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio_BK = reach_B[:, None] / near_reach_BK
    ratio_BK[(reach_B[:, None] == 0) & (near_reach_BK == 0)] = 1.0
    return _mean_over_neighbors(ratio_BK)


def _reach(found: Neighbors) -> tuple[np.ndarray, np.ndarray]:
    """`mean_reach` of all objects, [N], and of their neighbors, [N, K]."""
    near_NK, distance_NK = found.neighbor_NK, found.distance_NK
    reach_N = mean_reach(near_NK, distance_NK, kth_distance(distance_NK))
    return reach_N, reach_N[found.neighbor_NK]
