"""Which vectors the approximate indexes of FAISS propose as neighbors, measured.

An index proposes candidates by distances of its own: of codes, in float32, on a GPU. Each candidate
is measured as distances are published, so a score over what was found is an upper bound whatever
the index computed, and `certificate` re-scores those that matter exactly, on the CPU.

FAISS itself is handed in; `neighbors.search` alone imports it. Letters as in `candidates`.
"""

import math
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from astroray.errors import BackendError, ConfigError
from astroray.neighbors.candidates import (
    PADS,
    VECTORS_AT_ONCE,
    Exact,
    measure,
    rows_at_once,
    threads,
)
from astroray.neighbors.distances import Frame, parts, spread

__all__ = [
    "LARGEST_COMPARED_SHARE",
    "RECALL_GOAL",
    "RECALL_SAMPLE",
    "ApproximateIndex",
    "check_gpu_of",
]

POINTS_PER_CELL = 64  # of the training sample
LARGEST_COMPARED_SHARE = 0.25  # a vector of an index costs about twice one without
RECALL_SAMPLE = 1_000
RECALL_GOAL = 0.99
DIMENSIONS_PER_CODE = 4
BITS_PER_CODE = 8
REFINED = 5
"""Times as many candidates where product-quantized codes propose them."""
LINKS = 32
"""Of each vector of a graph; twice as many in its lowest layer."""
LARGEST_ON_GPU = 2048
"""Candidates of a query, and cells looked into: FAISS's own limit."""


class _Proposer(Protocol):
    """An index that holds all vectors of a frame."""

    index: Any
    """FAISS's own."""

    @property
    def probes(self) -> tuple[int, int, int]:
        """Probes of a search: the fewest, the most that are worth it, the most there are.

        Those that are worth it compare LARGEST_COMPARED_SHARE of all vectors.
        """
        ...

    def propose(self, query_BD: np.ndarray, num_candidates: int, num_probes: int) -> np.ndarray:
        """Candidates [B, C], -1 for none, of queries in the frame, float32."""
        ...

    def in_words(self, num_probes: int) -> str:
        """How far a search looks."""
        ...


class ApproximateIndex:
    """Finds near others of a vector among those that an index proposes; at least two vectors.

    kind        ivf-flat, ivf-sq8, ivf-pq, hnsw, gpu-flat or gpu-ivf-flat
    num_probes  how far a search looks, see `SearchConfig`; None: as far as a sample's recall asks

    What is found depends on the vectors, the seed and the kind, never on threads; what a GPU
    proposes may depend on that GPU, which must be there: `check_gpu_of`.
    """

    def __init__(
        self, faiss: ModuleType, exact: Exact, *, kind: str, seed: int, num_probes: int | None
    ) -> None:
        self.frame, self.num_neighbors = exact.frame, exact.num_neighbors
        self.num_candidates = self.num_neighbors + 1 + PADS[0]
        if kind.startswith("gpu-") and self.num_candidates > LARGEST_ON_GPU:
            raise ConfigError(
                f"k is {self.num_neighbors}, expected at most {LARGEST_ON_GPU - 1 - PADS[0]} with "
                f"index {kind}; take a smaller k or another index"
            )
        self.proposer: _Proposer
        if kind == "hnsw":
            self.proposer = _Graph(faiss, self.frame, seed, self.num_candidates)
        elif kind == "gpu-flat":
            self.proposer = _AllOnGpu(faiss, self.frame)
        else:
            self.proposer = _Cells(faiss, self.frame, kind, seed)
        if kind == "ivf-pq":
            self.num_candidates *= REFINED
        self.is_good = True
        """Whether the probes find RECALL_GOAL of the true neighbors, or were asked for."""
        self.num_probes, how = self._choose_probes(exact, num_probes)
        self.sentence = f"{self.proposer.in_words(self.num_probes)}, {how}"

    def nearest(self, vector_G: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Indices [G, K] and published distances [G, K]; -1 and NaN where none was found."""
        near_GK = np.full((len(vector_G), self.num_neighbors), -1, np.int64)
        distance_GK = np.full(near_GK.shape, np.nan)
        for part in parts(len(vector_G), rows_at_once(self.num_candidates)):
            query_BD = self.frame.rows(vector_G[part], np.float32)
            candidate_BC = self.proposer.propose(query_BD, self.num_candidates, self.num_probes)
            near_GK[part], distance_GK[part] = measure(
                self.frame, vector_G[part], candidate_BC, self.num_neighbors
            )
        return near_GK, distance_GK

    def _choose_probes(self, exact: Exact, asked: int | None) -> tuple[int, str]:
        """The fewest probes, doubling, that reach RECALL_GOAL on a sample, else the most."""
        fewest, worthwhile, most = self.proposer.probes
        if asked is not None:
            return min(asked, most), "asked for"
        sample = spread(len(self.frame.embedding_UD), RECALL_SAMPLE)
        truth_GK, _ = exact.nearest(sample)
        self.num_probes = fewest
        recall = _recall(self.nearest(sample)[0], truth_GK)
        while recall < RECALL_GOAL and 2 * self.num_probes <= worthwhile:
            self.num_probes *= 2
            recall = _recall(self.nearest(sample)[0], truth_GK)
        self.is_good = recall >= RECALL_GOAL
        return self.num_probes, f"recall {recall:.4f} on {len(sample)} objects"


class _Cells:
    """An inverted file: vectors, or codes of them, by the cell that they lie in."""

    def __init__(self, faiss: ModuleType, frame: Frame, kind: str, seed: int) -> None:
        self.faiss, self.is_on_gpu = faiss, kind.startswith("gpu-")
        size, dim = frame.embedding_UD.shape
        num_cells = num_sampled = _num_cells(size)
        is_pq = kind == "ivf-pq"
        self.num_filled = -dim % DIMENSIONS_PER_CODE if is_pq else 0
        """Dimensions that are filled with zeros, which changes no distance."""
        dim += self.num_filled
        self.quantizer = faiss.IndexFlatL2(dim)
        self.index: Any
        if is_pq:
            bits = min(BITS_PER_CODE, int(math.log2(size)))  # each code is trained on a vector
            num_sampled = max(num_cells, 2**bits)
            codes = dim // DIMENSIONS_PER_CODE
            self.index = faiss.IndexIVFPQ(self.quantizer, dim, num_cells, codes, bits)
            _set_training(self.index.pq.cp, seed)
        elif kind == "ivf-sq8":
            code = faiss.ScalarQuantizer.QT_8bit
            self.index = faiss.IndexIVFScalarQuantizer(self.quantizer, dim, num_cells, code)
        else:
            self.index = faiss.IndexIVFFlat(self.quantizer, dim, num_cells)
        _set_training(self.index.cp, seed)
        sample = spread(size, num_sampled * POINTS_PER_CELL)
        with threads(faiss, 1):  # no sum over threads decides where a cell lies or who is in it
            self.index.train(self._filled(frame.rows(sample, np.float32)))
            for part in parts(size, VECTORS_AT_ONCE):
                self.index.add(self._filled(frame.rows(part, np.float32)))
        most = min(num_cells, LARGEST_ON_GPU) if self.is_on_gpu else num_cells
        self.probes = (1, min(int(LARGEST_COMPARED_SHARE * num_cells), most), most)
        self.num_cells = num_cells
        if self.is_on_gpu:
            self.index = _to_gpu(faiss, self.index)

    def propose(self, query_BD: np.ndarray, num_candidates: int, num_probes: int) -> np.ndarray:
        """As of `_Proposer`."""
        query_BD = self._filled(query_BD)
        self.index.nprobe = num_probes
        if self.is_on_gpu:
            return np.asarray(self.index.search(query_BD, num_candidates)[1])
        with threads(self.faiss, 1):  # a product's last bits may choose another cell
            square_BP, cell_BP = self.quantizer.search(query_BD, num_probes)
        found = self.index.search_preassigned(query_BD, num_candidates, cell_BP, square_BP)
        return np.asarray(found[1])

    def in_words(self, num_probes: int) -> str:
        """As of `_Proposer`."""
        where = f" on a GPU by {_library(self.faiss)}" if self.is_on_gpu else ""
        return f"{num_probes} of {self.num_cells} cells looked into{where}"

    def _filled(self, row_BD: np.ndarray) -> np.ndarray:
        return np.pad(row_BD, ((0, 0), (0, self.num_filled))) if self.num_filled else row_BD


class _Graph:
    """A graph of layers (HNSW: Malkov & Yashunin 2020, IEEE TPAMI 42, 824).

    A probe is a vector that a walk through its lowest layer keeps, FAISS's `efSearch`.
    """

    def __init__(self, faiss: ModuleType, frame: Frame, seed: int, num_candidates: int) -> None:
        size, dim = frame.embedding_UD.shape
        self.index = faiss.IndexHNSWFlat(dim, LINKS)
        self.index.hnsw.rng = faiss.RandomGenerator(seed)
        with threads(faiss, 1):  # several would link vectors in the order of their race
            for part in parts(size, VECTORS_AT_ONCE):
                self.index.add(frame.rows(part, np.float32))
        worthwhile = int(LARGEST_COMPARED_SHARE * size / (2 * LINKS))
        self.probes = (min(num_candidates, size), worthwhile, size)

    def propose(self, query_BD: np.ndarray, num_candidates: int, num_probes: int) -> np.ndarray:
        """As of `_Proposer`."""
        self.index.hnsw.efSearch = num_probes
        return np.asarray(self.index.search(query_BD, num_candidates)[1])

    def in_words(self, num_probes: int) -> str:
        """As of `_Proposer`."""
        return f"{num_probes} vectors kept on a walk through a graph of {LINKS} links a vector"


class _AllOnGpu:
    """All vectors, compared on a GPU."""

    probes = (1, 1, 1)

    def __init__(self, faiss: ModuleType, frame: Frame) -> None:
        self.library = _library(faiss)
        self.index = _to_gpu(faiss, faiss.IndexFlatL2(frame.embedding_UD.shape[1]))
        for part in parts(len(frame.embedding_UD), VECTORS_AT_ONCE):
            self.index.add(frame.rows(part, np.float32))

    def propose(self, query_BD: np.ndarray, num_candidates: int, num_probes: int) -> np.ndarray:
        """As of `_Proposer`."""
        del num_probes
        return np.asarray(self.index.search(query_BD, num_candidates)[1])

    def in_words(self, num_probes: int) -> str:
        """As of `_Proposer`."""
        del num_probes
        return f"all compared on a GPU by {self.library}"


def check_gpu_of(faiss: ModuleType) -> None:
    """Raises BackendError where FAISS has no GPU to search on, saying why."""
    options = faiss.get_compile_options()
    if "GPU" not in options.split():
        why = f"FAISS {faiss.__version__} is built without GPUs ({options.strip()})"
        raise _no_gpu(f"{why}; pip install 'astroray[gpu]'")
    if not faiss.get_num_gpus():
        raise _no_gpu("FAISS sees no GPU; see nvidia-smi and CUDA_VISIBLE_DEVICES")


def _no_gpu(why: str) -> BackendError:
    return BackendError(f"an index on a GPU is asked for, and {why}, or take another search.index")


def _library(faiss: ModuleType) -> str:
    """Whose kernels search on a GPU: cuVS where FAISS is built with it."""
    return "cuVS" if "CUVS" in faiss.get_compile_options() else "FAISS"


def _to_gpu(faiss: ModuleType, index: Any) -> Any:
    """The index on the first GPU that this process sees."""
    options = faiss.GpuClonerOptions()
    options.use_cuvs = _library(faiss) == "cuVS"
    return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index, options)


def _set_training(clustering: Any, seed: int) -> None:
    clustering.seed = seed
    clustering.min_points_per_centroid = 1  # FAISS warns on a short sample
    clustering.max_points_per_centroid = POINTS_PER_CELL


def _num_cells(num_vectors: int) -> int:
    """About 4 sqrt(U), a power of two, with POINTS_PER_CELL vectors a cell at least."""
    wanted = round(math.log2(4.0 * math.sqrt(num_vectors)))
    affordable = int(math.log2(max(1, num_vectors // POINTS_PER_CELL)))
    return 2 ** min(wanted, affordable)


def _recall(near_GK: np.ndarray, truth_GK: np.ndarray) -> float:
    """Share of the true neighbors that were found."""
    row_G1 = np.arange(len(truth_GK))[:, None] * (int(max(truth_GK.max(), near_GK.max())) + 1)
    found_GK = np.isin(row_G1 + truth_GK, (row_G1 + near_GK)[near_GK >= 0])
    return float(found_GK.mean())
