"""The nearest neighbors of every object, and which index finds them: the only file with FAISS.

`candidates` finds neighbors with no index and proves every row. The indexes of `approximate` give
upper bounds, and `certificate` re-scores those that matter exactly. `distances` measures them. All
work is done in the order of `object_id`, so the result does not depend on the order of the input.
"""

import contextlib
import dataclasses
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from astroray.errors import BackendError, ConfigError, DataError
from astroray.neighbors.approximate import ApproximateIndex, check_gpu_of
from astroray.neighbors.candidates import WIDE, Exact, threads
from astroray.neighbors.certificate import Certified, Proof, certify_top, score_of
from astroray.neighbors.distances import Frame, parts
from astroray.neighbors.twins import Twins

Score = Literal["kth", "mean"]
Index = Literal[
    "auto", "flat", "ivf-flat", "ivf-sq8", "ivf-pq", "hnsw", "gpu-flat", "gpu-ivf-flat", "sharded"
]

Nearest = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

LARGEST_FLAT = 100_000
"""Objects whose neighbors are all found and proven in one process: seconds, whatever they are."""
LARGEST_FLAT_WIDE = 50_000
"""The same of vectors of `WIDE` dimensions or more."""
MEMORY_SHARE = 0.25  # vectors that are not in order are held twice beside the index
ROWS_AT_ONCE = 16_384


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """What to search and how; only `k`, `top` and `score` change what an exact search finds."""

    k: int = 10
    """Neighbors of each object; fewer where the survey has fewer."""
    top: int = 100
    """Length of the list that is certified."""
    score: Score = "kth"
    """Distance to the k-th neighbor, or mean distance to the k neighbors."""
    index: Index = "auto"
    """auto: all in memory (flat), above 100,000 objects over partitions on disk (sharded); see
    docs/scale.md. gpu-: a GPU proposes neighbors, the list is proven on the CPU."""
    seed: int = 0
    """Of the cells of an index, or of its graph."""
    num_threads: int = 1
    """Never changes a result."""
    num_probes: int | None = None
    """Cells looked into for each object, with hnsw vectors kept on a walk; None: by recall on a
    sample."""
    partition_mb: int = 256
    """Vectors of a partition, or of a part of a night, about; a task needs a few times as much."""

    def __post_init__(self) -> None:
        """Refuses what cannot work."""
        for name in ("k", "top", "num_threads", "partition_mb"):
            _check_at_least_one(name, getattr(self, name))
        if self.num_probes is not None:
            _check_at_least_one("num_probes", self.num_probes)
        _check_choice("score", self.score, get_args(Score))
        _check_choice("index", self.index, get_args(Index))
        if not 0 <= self.seed < 2**31:
            raise ConfigError(f"seed is {self.seed}, expected 0..{2**31 - 1}")

    @property
    def is_on_gpu(self) -> bool:
        """Whether a GPU proposes neighbors."""
        return self.index.startswith("gpu-")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Neighbors:
    """Neighbors and scores of all objects, rows in the order of the input; K = min(k, N - 1)."""

    neighbor_NK: np.ndarray
    """[N, K] int64, input rows, nearest first, ties by object_id; -1 where none was found."""
    distance_NK: np.ndarray
    """[N, K] float64, Euclidean; NaN where no neighbor was found."""
    score_N: np.ndarray
    """[N] float64; NaN where there is no other object."""
    is_exact_N: np.ndarray
    """[N] bool; the score is exact, else an upper bound."""
    rank_N: np.ndarray
    """[N] int64 from 1: descending score, ties by object_id, no score last."""
    certified_N: np.ndarray
    """[N] bool; proven to be in the exact top."""
    proof: Proof
    index: str
    """As of `SearchConfig`, but for auto."""
    index_reason: str
    products: str
    """What multiplied in exact searches: native, faiss or slabs; over partitions else reference."""
    num_float64: int
    """Searches in which float32 could not prove the neighbors, so float64 did."""

    def take(self, row_M: np.ndarray | slice) -> "Neighbors":
        """What was found of some objects; neighbors stay rows of the input."""
        return dataclasses.replace(
            self,
            neighbor_NK=self.neighbor_NK[row_M],
            distance_NK=self.distance_NK[row_M],
            score_N=self.score_N[row_M],
            is_exact_N=self.is_exact_N[row_M],
            rank_N=self.rank_N[row_M],
            certified_N=self.certified_N[row_M],
        )


def choose_index(
    num_objects: int,
    dim: int,
    memory_bytes: int | None = None,
    *,
    can_shard: bool = False,
    has_kernel: bool = True,
) -> tuple[str, str]:
    """The index for a survey and the reason in words.

    `memory_bytes` None means enough; `can_shard` where the embeddings lie in a run directory;
    `has_kernel` where the native kernel multiplies, which is as fast as an index and proves all.
    Of what works in one process the first is taken that holds at most MEMORY_SHARE of the memory
    beside the vectors: 2 bytes of each number with flat, or 4 with ivf-flat where there is no
    kernel; 1 with ivf-sq8; else ivf-pq, a byte of four.
    """
    largest = LARGEST_FLAT if dim < WIDE else LARGEST_FLAT_WIDE
    if num_objects <= largest:
        return "flat", f"{num_objects} objects are at most {largest}"
    reason = f"{num_objects} objects are more than {largest}"
    if can_shard:
        return "sharded", reason
    largest_held = ("ivf-flat", "vectors", 4)
    if has_kernel:
        largest_held = ("flat", "integers of 16 bits", 2)
        reason = "the native kernel leaves out whole cells of vectors"
    for index, held, bytes_each in (largest_held, ("ivf-sq8", "codes of 8 bits", 1)):
        size_bytes = bytes_each * num_objects * dim
        if memory_bytes is None or size_bytes <= MEMORY_SHARE * memory_bytes:
            return index, reason
        reason = (
            f"{size_bytes / 1e9:.1f} GB of {held} are more than {MEMORY_SHARE:.0%} of "
            f"{memory_bytes / 1e9:.1f} GB of memory"
        )
    return "ivf-pq", reason


def search(
    embedding_ND: np.ndarray,
    object_id_N: Sequence[str] | pa.Array | pa.ChunkedArray,
    config: SearchConfig,
    *,
    memory_bytes: int | None = None,
    bound_N: np.ndarray | None = None,
    is_late: Callable[[], bool] = lambda: False,
) -> Neighbors:
    """The neighbors of every object among all others, its score, and the certified top.

    embedding_ND  [N, D]  float32, finite, in the model's frozen frame
    object_id_N   [N]     unique strings
    bound_N       [N]     upper bounds of the scores, as those of fewer objects are; infinite where
                          unknown: those are searched among all, others as the top demands,
                          and whoever is not has no neighbors here
    is_late       with bounds: ends the work early, largest bounds first; see `certify_top`

    Raises DataError on a NaN, an identifier that occurs twice or other shapes; BackendError
    where FAISS is not installed.
    """
    if config.index == "sharded":
        raise ConfigError(
            "index 'sharded' searches the embeddings of a run directory, this search has arrays; "
            "scan a survey, or choose another index"
        )
    order_N = _order(embedding_ND, object_id_N)
    is_ordered = bool((order_N[1:] > order_N[:-1]).all())  # then vectors are read where they lie
    ordered_ND = np.ascontiguousarray(embedding_ND) if is_ordered else embedding_ND[order_N]
    with _faiss(config.num_threads) as faiss:
        survey = _Survey(faiss, ordered_ND, config)
        if bound_N is None:
            certified = survey.search(memory_bytes)
        else:
            certified = survey.search_again(bound_N[order_N], is_late)
    neighbor_NK = np.append(order_N, -1)[survey.neighbor_NK]  # -1 stays -1
    back_N = np.argsort(order_N)
    return Neighbors(
        neighbor_NK=neighbor_NK[back_N],
        distance_NK=survey.distance_NK[back_N],
        score_N=certified.score_N[back_N],
        is_exact_N=certified.is_exact_N[back_N],
        rank_N=certified.rank_N[back_N],
        certified_N=certified.certified_N[back_N],
        proof=certified.proof,
        index=survey.index,
        index_reason=survey.index_reason,
        products=survey.exact.products,
        num_float64=survey.exact.num_float64,
    )


def check_finite(embedding_ND: np.ndarray, ids: pa.Array | pa.ChunkedArray) -> None:
    """Raises DataError where an embedding, float32 [N, D], has a NaN or infinite number."""
    bad = np.flatnonzero(~np.isfinite(embedding_ND).all(axis=1))
    if bad.size:
        raise DataError(
            f"the embedding of object {ids[int(bad[0])]} has a NaN or infinite number "
            f"({bad.size} such rows of {len(ids)}), expected finite; reject those rows before"
        )


class _Survey:
    """All objects in the order of their identifiers; equal embeddings are searched once."""

    def __init__(self, faiss: ModuleType, embedding_ND: np.ndarray, config: SearchConfig) -> None:
        self.faiss, self.config = faiss, config
        self.twins = Twins.find(embedding_ND)
        if len(self.twins.first_U) < len(embedding_ND):
            vectors = embedding_ND[self.twins.first_U]
        else:
            vectors = embedding_ND
        self.exact = Exact(faiss, Frame.of(vectors), k=config.k)
        num_neighbors = min(config.k, max(len(embedding_ND) - 1, 0))
        self.neighbor_NK = np.full((len(embedding_ND), num_neighbors), -1, np.int64)
        self.distance_NK = np.full(self.neighbor_NK.shape, np.nan)
        self.index = self.index_reason = ""

    def search(self, memory_bytes: int | None) -> Certified:
        """Fills in the neighbors of all objects and certifies the top."""
        nearest = self._nearest(memory_bytes)
        all_N, all_U = np.arange(len(self.neighbor_NK)), np.arange(len(self.twins.first_U))
        is_exact = nearest == self.exact.nearest
        return self._certify(self._fill(all_N, all_U, nearest), is_exact, lambda: False)

    def search_again(self, bound_N: np.ndarray, is_late: Callable[[], bool]) -> Certified:
        """Fills in the neighbors of those whose bound demands it and certifies the top."""
        self.index, self.index_reason = "flat", "the scores before are the bounds"
        if len(bound_N) < 2:
            return self._certify(np.full(len(bound_N), np.nan), True, is_late)
        return self._certify(bound_N, False, is_late)

    def _certify(self, score_N: np.ndarray, exact: bool, is_late: Callable[[], bool]) -> Certified:
        return certify_top(
            score_N,
            np.full(len(score_N), exact),
            lambda row_B: self._fill(
                row_B, np.unique(self.twins.vector_N[row_B]), self.exact.nearest
            ),
            top=self.config.top,
            k=self.config.k,
            score=self.config.score,
            is_late=is_late,
        )

    def _nearest(self, memory_bytes: int | None) -> Nearest:
        """The search to use; with `auto`, none where an index would find too little."""
        self.index, self.index_reason = self.config.index, "asked for"
        if self.index == "auto":
            num_objects, dim = len(self.neighbor_NK), self.exact.frame.embedding_UD.shape[1]
            self.index, self.index_reason = choose_index(
                num_objects, dim, memory_bytes, has_kernel=self.exact.products == "native"
            )
        if self.config.is_on_gpu:
            check_gpu_of(self.faiss)
        if self.index == "flat" or not self.exact.num_neighbors:
            return self.exact.nearest
        approximate = ApproximateIndex(
            self.faiss,
            self.exact,
            kind=self.index,
            seed=self.config.seed,
            num_probes=self.config.num_probes,
        )
        if self.config.index == "auto" and not approximate.is_good:
            self.index_reason = f"{self.index} would not help: {approximate.sentence}"
            self.index = "flat"
            return self.exact.nearest
        self.index_reason += f"; {approximate.sentence}"
        return approximate.nearest

    def _fill(self, row_B: np.ndarray, vector_G: np.ndarray, nearest: Nearest) -> np.ndarray:
        """Stores the neighbors of `row_B`, whose vectors are `vector_G`; returns their scores."""
        near_GK, distance_GK = nearest(vector_G)
        for part in parts(len(row_B), ROWS_AT_ONCE):
            row = row_B[part]
            place = np.searchsorted(vector_G, self.twins.vector_N[row])
            self.neighbor_NK[row], self.distance_NK[row] = self.twins.neighbors(
                row, near_GK[place], distance_GK[place], self.neighbor_NK.shape[1]
            )
        return score_of(self.distance_NK[row_B], self.config.score)


def _order(
    embedding_ND: np.ndarray, object_id_N: Sequence[str] | pa.Array | pa.ChunkedArray
) -> np.ndarray:
    """Rows in the order of their identifiers, int64 [N], after checks of both inputs."""
    ids = object_id_N
    if not isinstance(ids, pa.Array | pa.ChunkedArray):
        ids = pa.array(list(object_id_N), pa.string())
    if embedding_ND.ndim != 2 or embedding_ND.dtype != np.float32 or len(embedding_ND) != len(ids):
        raise DataError(
            f"embedding_ND is {embedding_ND.dtype} {embedding_ND.shape} for {len(ids)} "
            "identifiers, expected float32 [N, D]; read it from EMBEDDINGS"
        )
    check_finite(embedding_ND, ids)
    order_N = pc.sort_indices(ids).to_numpy().astype(np.int64)
    ordered = ids.take(pa.array(order_N))
    is_repeat = pc.equal(ordered[1:], ordered[:-1])
    twice = np.flatnonzero(is_repeat.to_numpy(zero_copy_only=False))
    if twice.size:
        raise DataError(
            f"object_id {ordered[int(twice[0])]} occurs more than once, expected unique; "
            "drop duplicates before the search"
        )
    return order_N


def check_faiss() -> None:
    """Raises BackendError where FAISS is not installed, without loading it: before long work."""
    if importlib.util.find_spec("faiss") is None:
        raise _no_faiss("it is not installed")


def check_gpu() -> None:
    """Raises BackendError where FAISS is not installed, or has no GPU here, saying why."""
    with _faiss(1) as faiss:
        check_gpu_of(faiss)


def _no_faiss(reason: object) -> BackendError:
    return BackendError(
        f"FAISS cannot be imported ({reason}), and the neighbor search needs it; "
        "pip install 'astroray[cpu]' or 'astroray[gpu]'"
    )


@contextlib.contextmanager
def _faiss(num_threads: int) -> Iterator[ModuleType]:
    """FAISS with its matrix products on for small batches, and `num_threads` threads."""
    try:
        import faiss
    except ImportError as error:
        raise _no_faiss(error) from None
    before = faiss.cvar.distance_compute_blas_threshold
    faiss.cvar.distance_compute_blas_threshold = 20  # 4.5 times faster below 2,000 queries
    try:
        with threads(faiss, num_threads):
            yield faiss
    finally:
        faiss.cvar.distance_compute_blas_threshold = before


def _check_at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"{name} is {value}, expected at least 1")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{name} is {value!r}, expected one of {', '.join(choices)}")
