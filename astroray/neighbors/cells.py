"""Where the cells of an index lie, which cell a vector is in, and which cells are one partition.

Cells are trained on a frozen sample and depend on it and the seed alone: distances to centroids
are the published ones, which neither threads nor other vectors change, so equal vectors are
always in one cell. C cells, M vectors of the sample.
"""

import math

import numpy as np

from astroray.neighbors.candidates import nearest_by_kernel
from astroray.neighbors.distances import parts

__all__ = ["distances_from", "find_cells", "group_cells", "num_cells_of", "train_cells"]

POINTS_PER_CELL = 64
"""Of the sample."""
MAX_CELLS = 2**16
ROUNDS = 8
ROWS_AT_ONCE = 16_384


def num_cells_of(num_objects: int) -> int:
    """About sqrt(N), a power of two, with at least POINTS_PER_CELL objects a cell."""
    wanted = round(math.log2(math.sqrt(max(1, num_objects))))
    affordable = int(math.log2(max(1, num_objects // POINTS_PER_CELL)))
    return min(2 ** min(wanted, affordable), MAX_CELLS)


def train_cells(sample_MD: np.ndarray, num_cells: int, *, seed: int) -> np.ndarray:
    """Centroids, float32 [C, D], by Lloyd's iterations (1982) from vectors drawn from the sample.

    sample_MD  [M, D]  float32, finite, at least one vector

    There are fewer than `num_cells` where the sample has fewer different vectors.
    """
    different_MD = np.unique(sample_MD, axis=0)
    drawn = np.random.default_rng(seed).permutation(len(different_MD))[:num_cells]
    centroid_CD = different_MD[np.sort(drawn)]
    for _ in range(ROUNDS):
        cell_M = find_cells(sample_MD, centroid_CD)
        order_M = np.argsort(cell_M, kind="stable")
        start_C = np.flatnonzero(np.diff(cell_M[order_M], prepend=-1))
        total_CD = np.add.reduceat(sample_MD[order_M].astype(np.float64), start_C, axis=0)
        count_C = np.diff(start_C, append=len(sample_MD))
        centroid_CD[cell_M[order_M][start_C]] = total_CD / count_C[:, None]
    return centroid_CD


def find_cells(vector_BD: np.ndarray, centroid_CD: np.ndarray) -> np.ndarray:
    """The cell of each vector, int64 [B]: that of the nearest centroid, of equal ones the first."""
    return nearest_by_kernel(vector_BD, centroid_CD, 1)[0][:, 0]


def distances_from(
    vector_BD: np.ndarray, centroid_CD: np.ndarray, cell_B: np.ndarray
) -> np.ndarray:
    """How far each vector is from the centroid of its cell, [B]: float64 rounded to float32."""
    distance_B = np.empty(len(vector_BD), np.float32)
    for part in parts(len(vector_BD), ROWS_AT_ONCE):
        away_BD = vector_BD[part].astype(np.float64) - centroid_CD[cell_B[part]]
        distance_B[part] = np.sqrt(np.einsum("bd,bd->b", away_BD, away_BD))
    return distance_B


def group_cells(centroid_CD: np.ndarray, count_C: np.ndarray, num_groups: int) -> np.ndarray:
    """The group of each cell, int64 [C]: cells near each other, about as many objects in each.

    count_C  [C]  objects of the sample in each cell

    Halves are cut again and again across the direction in which the centroids differ most.
    """
    group_C = np.zeros(len(centroid_CD), np.int64)
    todo = [(np.arange(len(centroid_CD)), 0, min(num_groups, len(centroid_CD)))]
    while todo:
        cell_H, first, num = todo.pop()
        group_C[cell_H] = first
        if num < 2:
            continue
        center_HD = centroid_CD[cell_H].astype(np.float64)
        axis = int(np.argmax(center_HD.max(axis=0) - center_HD.min(axis=0)))
        cell_H = cell_H[np.argsort(center_HD[:, axis], kind="stable")]
        weight_H = np.cumsum(count_C[cell_H] + 1.0)
        left = num // 2
        cut = int(np.searchsorted(weight_H, weight_H[-1] * left / num))
        cut = min(max(cut, left), len(cell_H) - (num - left))  # no group stays empty
        todo += [(cell_H[:cut], first, left), (cell_H[cut:], first + left, num - left)]
    return group_C
