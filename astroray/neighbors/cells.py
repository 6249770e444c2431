"""Where the cells of an index lie, which cell a vector is in, and which cells are one partition.

Cells are trained on a frozen sample and depend on it and the seed alone: distances to centroids
are the published ones, which neither threads nor other vectors change, so equal vectors are
always in one cell. C cells, M vectors of the sample.
"""

import math

import numpy as np

from astroray.neighbors.distances import UNIT_FLOAT32, Frame, parts
from astroray.neighbors.kernel import nearest_by_kernel

__all__ = ["distances_from", "find_cells", "group_cells", "num_cells_of", "train_cells"]

POINTS_PER_CELL = 64
"""Objects, at least."""
SAMPLED_PER_CELL = 16
"""Vectors that the cells are trained on."""
MAX_CELLS = 2**16
ROUNDS = 4
ROWS_AT_ONCE = 16_384
SQUARES_AT_ONCE = 2**19
"""Float32, 2 MB: they stay in the processor's cache."""


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
        total_CD = np.add.reduceat(sample_MD[order_M], start_C, axis=0, dtype=np.float64)
        count_C = np.diff(start_C, append=len(sample_MD))
        centroid_CD[cell_M[order_M][start_C]] = total_CD / count_C[:, None]
    return centroid_CD


def find_cells(vector_BD: np.ndarray, centroid_CD: np.ndarray) -> np.ndarray:
    """The cell of each vector, int64 [B]: that of the nearest centroid, of equal ones the first.

    Nearest by published distance. A float32 product decides where its error cannot matter, so
    that no library has a say in the result; the kernel measures the rest.
    """
    frame = Frame.of(centroid_CD)
    framed_CD, square_C = frame.rows(slice(None), np.float32), frame.norm_U.astype(np.float32) ** 2
    cell_B = np.empty(len(vector_BD), np.int64)
    is_proven_B = np.empty(len(vector_BD), bool)
    with np.errstate(over="ignore", invalid="ignore"):  # which proves nothing
        for part in parts(len(vector_BD), SQUARES_AT_ONCE // len(centroid_CD)):
            cell_B[part], is_proven_B[part] = _propose(vector_BD[part], frame, framed_CD, square_C)
    left_L = np.flatnonzero(~is_proven_B)
    cell_B[left_L] = nearest_by_kernel(vector_BD[left_L], centroid_CD, 1)[0][:, 0]
    return cell_B


def _propose(
    vector_GD: np.ndarray, frame: Frame, framed_CD: np.ndarray, square_C: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest centroid of each vector by float32 squares, and whether no other can be."""
    framed_GD = frame.move(vector_GD, np.float32)
    square_G = np.einsum("gd,gd->g", framed_GD, framed_GD)
    square_GC = framed_GD @ framed_CD.T
    square_GC *= np.float32(-2.0)
    square_GC += square_C
    row_G, cell_G = np.arange(len(square_GC)), square_GC.argmin(axis=1)
    best_G = square_GC[row_G, cell_G] + square_G
    square_GC[row_G, cell_G] = np.inf
    second_G = square_GC.min(axis=1) + square_G
    error = frame.product_error(UNIT_FLOAT32)
    limit_G = frame.limit(np.sqrt(square_G, dtype=np.float64), best_G.astype(np.float64), error)
    return cell_G, second_G > limit_G


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
