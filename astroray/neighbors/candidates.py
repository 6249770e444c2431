"""The proven nearest vectors of any of them, with no index to build: measured distances decide.

The native kernel of astroray_kernels multiplies, and leaves out whole cells of vectors that are
proven too far where many are asked for; where it does not run FAISS does, or, for wide vectors,
products in slabs: their float32 proposes.

FAISS itself is handed in; `neighbors` alone imports it. U vectors, all different, in the order of
object_id; G queries among them; C candidates of each.
"""

import contextlib
import functools
from collections.abc import Iterator
from types import ModuleType

import numpy as np

from astroray.neighbors.cells import SAMPLED_PER_CELL, find_cells, num_cells_of, train_cells
from astroray.neighbors.distances import (
    UNIT_FLOAT32,
    Frame,
    pair_distances,
    parts,
    slab_squares,
    spread,
)
from astroray.neighbors.kernel import has_native, nearest_by_kernel

PADS = (8, 100)
"""Candidates beyond k, so that the float32 error seldom reaches the k-th: first and second try."""
CANDIDATES_AT_ONCE = 2**18
VECTORS_AT_ONCE = 2**18
WIDE = 1024
"""Dimensions from which on products are summed by slabs: FAISS's would prove too few rows."""
TILE_SIZE = 2**24  # float32 numbers, 64 MB
MANY = 8192
"""Queries from which on the kernel gets cells: to find them costs more than they spare fewer."""


class Exact:
    """Finds the proven nearest others of a vector among all."""

    def __init__(self, faiss: ModuleType, frame: Frame, *, k: int) -> None:
        self.faiss, self.frame = faiss, frame
        self.num_neighbors = max(0, min(k, len(frame.embedding_UD) - 1))
        self.is_wide = frame.embedding_UD.shape[1] >= WIDE
        self.products = "slabs" if self.is_wide else "native" if has_native() else "faiss"
        """What multiplies and proves: float32 slabs, the native kernel on int16, or FAISS."""
        self.num_float64 = 0
        """Searches in which float32 could not prove the neighbors, so float64 did."""

    def nearest(self, vector_G: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Indices [G, K] and published distances [G, K], nearest first, ties by index."""
        near_GK = np.zeros((len(vector_G), self.num_neighbors), np.int64)
        distance_GK = np.zeros(near_GK.shape)
        if near_GK.size == 0:
            return near_GK, distance_GK
        if self.products == "native":  # whose blocks of wide vectors would leave the cache
            is_many = len(vector_G) >= MANY
            return self._among_cells(vector_G) if is_many else self._by_kernel(vector_G)
        for part in parts(len(vector_G), self._rows_at_once()):
            near_GK[part], distance_GK[part] = self._nearest(vector_G[part])
        return near_GK, distance_GK

    def _by_kernel(
        self, vector_G: np.ndarray, cells: tuple[np.ndarray, np.ndarray] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same by the native kernel, whose distances are the published ones to the last bit."""
        return nearest_by_kernel(
            self.frame.embedding_UD[vector_G],
            self.frame.embedding_UD,
            self.num_neighbors,
            exclude_G=vector_G,
            cells=cells,
            num_threads=self.faiss.omp_get_max_threads(),
        )

    def _among_cells(self, vector_G: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same: fewer pairs are compared, most so where queries of a cell follow each other."""
        cell_U, center_CD = self._cells
        order_G = np.argsort(cell_U[vector_G], kind="stable")
        near_GK, distance_GK = self._by_kernel(vector_G[order_G], (cell_U, center_CD))
        back_G = np.argsort(order_G)
        return near_GK[back_G], distance_GK[back_G]

    @functools.cached_property
    def _cells(self) -> tuple[np.ndarray, np.ndarray]:
        """The cell of each vector, int64 [U], and their centers, float32 [C, D]."""
        vector_UD = self.frame.embedding_UD
        num_cells = num_cells_of(len(vector_UD))
        sample_MD = vector_UD[spread(len(vector_UD), num_cells * SAMPLED_PER_CELL)]
        center_CD = train_cells(sample_MD, num_cells, seed=0)
        return find_cells(vector_UD, center_CD), center_CD

    def _nearest(self, vector_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        near_BK = np.zeros((len(vector_B), self.num_neighbors), np.int64)
        distance_BK = np.zeros(near_BK.shape)
        left_B = np.arange(len(vector_B))
        for pad in PADS:
            if len(left_B):
                near_BK[left_B], distance_BK[left_B], is_proven_B = self._propose(
                    vector_B[left_B], pad
                )
                left_B = left_B[~is_proven_B]
        near_BK[left_B], distance_BK[left_B] = self.frame.nearest(
            vector_B[left_B], self.num_neighbors
        )
        self.num_float64 += len(left_B)
        return near_BK, distance_BK

    def _rows_at_once(self) -> int:
        if self.is_wide:  # all, whose candidates are small beside them: each product serves two
            return len(self.frame.embedding_UD)
        return rows_at_once(self.num_neighbors + PADS[0])

    def _propose(self, vector_B: np.ndarray, pad: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The nearest of float32 candidates, and for which rows that is proven."""
        frame = self.frame
        num_candidates = min(self.num_neighbors + 1 + pad, len(frame.embedding_UD))
        propose = _by_tiles if self.is_wide else _by_faiss
        square_BC, near_BC, error = propose(self.faiss, frame, vector_B, num_candidates)
        norm_B = frame.norm_U[vector_B]
        # Whatever was left out has a computed square of at least the last candidate's.
        left_out_B = square_BC[:, -1].copy()
        square_BC[near_BC == vector_B[:, None]] = np.inf
        kth_B = np.partition(square_BC, self.num_neighbors - 1)[:, self.num_neighbors - 1]
        limit_B = frame.limit(norm_B, kth_B, error)
        near_BC[square_BC > limit_B[:, None]] = -1
        near_BK, distance_BK = measure(frame, vector_B, near_BC, self.num_neighbors)
        if num_candidates == len(frame.embedding_UD):
            return near_BK, distance_BK, np.ones(len(vector_B), bool)
        square_B = (distance_BK[:, -1] * frame.scale) ** 2
        return near_BK, distance_BK, left_out_B > square_B + frame.slack(norm_B, square_B, error)


def why_products(products: str) -> str:
    """Why exact searches are multiplied by that, `Exact.products`: the native path, or its lack."""
    from astroray_kernels import library
    from astroray_kernels.dispatch import why_not

    if products == "slabs":
        return f"vectors have {WIDE} dimensions or more"
    return library.path() if products == "native" else why_not("nearest_vectors", "native", "cpu")


@contextlib.contextmanager
def threads(faiss: ModuleType, num_threads: int) -> Iterator[None]:
    """FAISS on so many threads; restored after."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(num_threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _by_faiss(
    faiss: ModuleType, frame: Frame, vector_B: np.ndarray, num_candidates: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Computed squares [B, C], ascending, of the candidates [B, C], and the error of a square."""
    query_BD = frame.rows(vector_B, np.float32)
    found = faiss.ResultHeap(len(vector_B), num_candidates)
    for part in parts(len(frame.embedding_UD), VECTORS_AT_ONCE):
        vectors = frame.rows(part, np.float32)
        square_BC, near_BC = faiss.knn(query_BD, vectors, min(num_candidates, len(vectors)))
        found.add_result(square_BC, near_BC + part.start)
    found.finalize()
    return found.D, found.I, frame.product_error(UNIT_FLOAT32)


def _by_tiles(
    faiss: ModuleType, frame: Frame, vector_B: np.ndarray, num_candidates: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """The same by products of slabs; where all are queries, one product serves both its sides."""
    size, dim = frame.embedding_UD.shape
    square_U = frame.norm_U**2
    is_all = len(vector_B) == size and bool((vector_B == np.arange(size)).all())
    found = faiss.ResultHeap(len(vector_B), num_candidates)
    for rows in parts(len(vector_B), TILE_SIZE // dim):
        row_G = np.arange(rows.start, rows.stop)
        query_GD = frame.rows(vector_B[rows], np.float32)
        for part in parts(size, TILE_SIZE // dim):
            if is_all and part.start < rows.start:
                continue
            vector_V = np.arange(part.start, part.stop)
            square_GV = slab_squares(
                query_GD, frame.rows(part, np.float32), square_U[vector_B[rows]], square_U[part]
            )
            found.add_result_subset(row_G, square_GV, vector_V)
            if is_all and part != rows:
                found.add_result_subset(vector_V, square_GV.T, row_G)
    found.finalize()
    return found.D, found.I, frame.slab_error()


def measure(
    frame: Frame, vector_B: np.ndarray, candidate_BC: np.ndarray, num_neighbors: int
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest [B, K] of candidates (-1: none) by published distance, itself left out."""
    distance_BC = np.full(candidate_BC.shape, np.nan)
    is_other_BC = (candidate_BC >= 0) & (candidate_BC != vector_B[:, None])
    distance_BC[is_other_BC] = pair_distances(
        frame.embedding_UD,
        np.repeat(vector_B, is_other_BC.sum(axis=1)),
        candidate_BC[is_other_BC],
    )
    order_BK = np.lexsort((candidate_BC, distance_BC), axis=-1)[:, :num_neighbors]  # NaN last
    distance_BK = np.take_along_axis(distance_BC, order_BK, axis=1)
    near_BK = np.take_along_axis(candidate_BC, order_BK, axis=1)
    return np.where(np.isnan(distance_BK), -1, near_BK), distance_BK


def rows_at_once(num_candidates: int) -> int:
    """Queries whose candidates are held together."""
    return max(256, CANDIDATES_AT_ONCE // num_candidates)
