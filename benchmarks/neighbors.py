"""The proven neighbors of all objects, and what others take for theirs.

Vectors lie in clusters of several widths with some far from all, as embeddings do; or they are
drawn alike, so that no cells of them can be left out. The search without an index, cells and all,
is compared with FAISS's flat index and with scikit-learn's brute force, on one thread each; both
find float32 or unproven neighbors, ours are proven in float64. Of PyOD, where it is installed,
the scores of whole detectors are compared.
"""

import dataclasses
import functools
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from astroray.neighbors.search import Neighbors, SearchConfig, search
from astroray.scores import score_objects
from benchmarks.claims import at_least
from benchmarks.clock import timed
from benchmarks.processes import run_fresh
from benchmarks.rows import BenchRow, MeasurementError, measured, run_benchmark, spread

K = 10
TOP = 100
DIM = 128
LARGEST_ERROR = 1e-5
BLAS_THRESHOLD = 20
ONE_THREAD = {
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
}  # fmt: skip

CLAIMS = (
    at_least(
        "exact neighbors, proven: time of FAISS IndexFlatL2 over ours",
        4.0,
        peer="faiss.IndexFlatL2, self-search, distance_compute_blas_threshold 20, 1 thread",
    ),
    at_least(
        "the same of vectors drawn alike",
        1.0,
        peer="faiss.IndexFlatL2, self-search, distance_compute_blas_threshold 20, 1 thread",
    ),
    at_least(
        "exact neighbors, proven: time of scikit-learn brute over ours",
        6.0,
        peer="sklearn.neighbors.NearestNeighbors(algorithm='brute'), 1 thread",
    ),
    at_least(
        "score kth, proven: time of PyOD's KNN over ours",
        1.0,
        peer="pyod.models.knn.KNN(method='largest'), 1 thread",
    ),
    at_least(
        "score lof: time of PyOD's LOF over ours",
        1.0,
        peer="pyod.models.lof.LOF, 1 thread",
    ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pairs:
    """Times of two ways in turns, after their results were compared."""

    error: float
    ours_wall_s: list[float]
    peer_wall_s: list[float]
    ours_cpu_s: list[float]
    peer_cpu_s: list[float]

    def fields(self) -> dict[str, Any]:
        """As the fields of a row."""
        ratios = np.divide(self.peer_wall_s, self.ours_wall_s).tolist()
        cpu = np.divide(self.peer_cpu_s, self.ours_cpu_s)
        facts = {
            "ours_s": float(np.median(self.ours_wall_s)),
            "peer_s": float(np.median(self.peer_wall_s)),
            "cpu_ratio": float(np.median(cpu)),
        }
        return {**spread(ratios), "error": self.error, "facts": facts}


def make_embeddings(num_objects: int, dim: int, *, seed: int) -> np.ndarray:
    """Float32 [N, D]: clusters of several widths, and one object in a hundred far from all."""
    draw = np.random.default_rng(seed)
    num_clusters = 50
    center_MD = draw.normal(size=(num_clusters, dim))
    width_M = draw.uniform(0.2, 0.6, num_clusters)
    which_N = draw.integers(0, num_clusters, num_objects)
    spread_ND = draw.normal(size=(num_objects, dim)) * width_M[which_N, None]
    spread_ND[draw.random(num_objects) < 0.01] *= 2.5
    return (center_MD[which_N] + spread_ND).astype(np.float32)


def against_faiss(num_objects: int, runs: int) -> Pairs:
    """Ours against FAISS's flat index."""
    return _against_faiss(make_embeddings(num_objects, DIM, seed=1), runs)


def against_faiss_of_drawn_alike(num_objects: int, runs: int) -> Pairs:
    """The same of normal numbers, which have no clusters."""
    draw = np.random.default_rng(1)
    return _against_faiss(draw.normal(size=(num_objects, DIM)).astype(np.float32), runs)


def _against_faiss(embedding_ND: np.ndarray, runs: int) -> Pairs:
    import faiss

    def peer() -> np.ndarray:
        faiss.omp_set_num_threads(1)
        before = faiss.cvar.distance_compute_blas_threshold
        faiss.cvar.distance_compute_blas_threshold = BLAS_THRESHOLD
        index = faiss.IndexFlatL2(DIM)
        index.add(embedding_ND)
        _, near_NK = index.search(embedding_ND, K + 1)  # itself among them
        faiss.cvar.distance_compute_blas_threshold = before
        return np.asarray(near_NK)

    return _against(embedding_ND, peer, runs)


def against_sklearn(num_objects: int, runs: int) -> Pairs:
    """Ours against scikit-learn's brute force."""
    from sklearn.neighbors import NearestNeighbors

    embedding_ND = make_embeddings(num_objects, DIM, seed=1)

    def peer() -> np.ndarray:
        found = NearestNeighbors(n_neighbors=K + 1, algorithm="brute", n_jobs=1).fit(embedding_ND)
        return np.asarray(found.kneighbors(embedding_ND, return_distance=False))

    return _against(embedding_ND, peer, runs)


def against_pyod_knn(num_objects: int, runs: int) -> Pairs:
    """Our k-th distance of each object against PyOD's."""
    return _against_pyod("knn.KNN", "kth", num_objects, runs)


def against_pyod_lof(num_objects: int, runs: int) -> Pairs:
    """Our local outlier factor of each object against PyOD's."""
    return _against_pyod("lof.LOF", "lof", num_objects, runs)


def _against_pyod(detector: str, score: str, num_objects: int, runs: int) -> Pairs:
    """Scores of a detector of PyOD (Zhao et al. 2019, JMLR 20, 96) against ours of that name."""
    module, _, name = detector.partition(".")
    try:
        make = getattr(importlib.import_module(f"pyod.models.{module}"), name)
    except ImportError as error:
        raise MeasurementError(f"PyOD is not installed ({error}); pip install pyod") from None
    embedding_ND = make_embeddings(num_objects, DIM, seed=1)
    wide_ND = embedding_ND.astype(np.float64)  # scikit-learn's float32 distances are rougher

    def ours() -> np.ndarray:
        return score_objects(score, embedding_ND, k=K)

    def peer() -> np.ndarray:
        return np.asarray(make(n_neighbors=K).fit(wide_ND).decision_scores_)

    apart = float(np.max(np.abs(peer() / ours() - 1)))
    if not apart <= LARGEST_ERROR:
        raise MeasurementError(f"scores differ by {apart:.2g}, expected at most {LARGEST_ERROR:g}")
    return _in_turns(ours, peer, runs, apart)


def measure(quick: bool, scratch: Path) -> Iterator[BenchRow]:
    """All rows, as they come; nothing is written."""
    brute, alike, pyod = (
        ((10_000, 3), (10_000, 3), (5_000, 3))
        if quick
        else ((100_000, 2), (30_000, 2), (20_000, 3))
    )

    def rows(function: Callable[[int, int], Pairs], size: int, runs: int) -> list[dict[str, Any]]:
        pairs = run_fresh(function, size, runs, environment=ONE_THREAD).value()
        fields = pairs.fields()
        fields["facts"] |= {"objects": float(size)}
        return [fields]

    compared = (
        (against_faiss, brute), (against_faiss_of_drawn_alike, alike), (against_sklearn, brute),
        (against_pyod_knn, pyod), (against_pyod_lof, pyod),
    )  # fmt: skip
    for claim, (function, size_and_runs) in zip(CLAIMS, compared, strict=True):
        yield from measured([claim], functools.partial(rows, function, *size_and_runs))


def _against(embedding_ND: np.ndarray, peer: Callable[[], np.ndarray], runs: int) -> Pairs:
    """Ours against a peer that returns each object's neighbors [N, K + 1], itself among them."""
    ours = _search(embedding_ND)
    distance_NK = distances_to_others(embedding_ND, peer())
    error = float(np.max(np.abs(distance_NK / ours.distance_NK - 1)))
    if not error <= LARGEST_ERROR:
        raise MeasurementError(
            f"distances of neighbors differ by {error:.2g} of themselves, expected at most "
            f"{LARGEST_ERROR:g}"
        )
    return _in_turns(lambda: _search(embedding_ND), peer, runs, error)


def distances_to_others(embedding_ND: np.ndarray, near_NK: np.ndarray) -> np.ndarray:
    """Ascending float64 distances [N, K] of the neighbors but the object itself."""
    distance_NK = np.empty(near_NK.shape)
    for row, near_K in enumerate(near_NK):
        difference_KD = embedding_ND[near_K].astype(np.float64) - embedding_ND[row]
        distance_NK[row] = np.sqrt((difference_KD**2).sum(axis=1))
        distance_NK[row, near_K == row] = -1.0
    return np.sort(distance_NK, axis=1)[:, 1:]


def _in_turns(
    ours: Callable[[], object], peer: Callable[[], object], runs: int, error: float
) -> Pairs:
    pairs = Pairs(error=error, ours_wall_s=[], peer_wall_s=[], ours_cpu_s=[], peer_cpu_s=[])
    for _ in range(runs):
        for function, wall, cpu in (
            (ours, pairs.ours_wall_s, pairs.ours_cpu_s),
            (peer, pairs.peer_wall_s, pairs.peer_cpu_s),
        ):
            _, wall_s, cpu_s = timed(function)
            wall.append(wall_s)
            cpu.append(cpu_s)
    return pairs


def _search(embedding_ND: np.ndarray) -> Neighbors:
    ids = [f"{row:08d}" for row in range(len(embedding_ND))]
    return search(embedding_ND, ids, SearchConfig(k=K, top=TOP, index="flat", num_threads=1))


def main() -> None:
    """`python -m benchmarks.neighbors`."""
    run_benchmark("neighbors", "The neighbor search against FAISS, scikit-learn and PyOD.", measure)


if __name__ == "__main__":
    from benchmarks import neighbors as module  # so that fresh processes find its functions

    module.main()
