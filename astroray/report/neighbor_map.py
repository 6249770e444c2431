"""Where objects go on a map that keeps those together which are near in embedding space.

t-SNE (van der Maaten & Hinton 2008, JMLR 9, 2579) whose attraction is even over the 15 nearest
(Boehm, Berens & Kobak 2022, JMLR 23, 95), begun in the principal plane (Kobak & Berens 2019, Nat.
Commun. 10, 5416). All objects repel all others; that sum is taken on a grid by Fourier transforms
(Linderman et al. 2019, Nat. Methods 16, 243), so that a step costs as much as the objects are many.
M objects, E edges of the neighbor graph, G nodes of the grid along an axis, S after padding.
"""

import functools
import math

import numpy as np
import scipy.fft
import scipy.sparse

from astroray.neighbors.distances import slab_squares

__all__ = ["MIN_OBJECTS", "neighbor_map", "repulsion"]

MIN_OBJECTS = 100
"""Of fewer the principal plane is as good a map."""
NUM_NEAREST = 15
NUM_EARLY, NUM_LATE = 150, 350  # twice as many steps keep no more neighbors
EXAGGERATION = 12.0  # of the attraction in the early steps: groups form before they settle
START_SIZE = 1e-4
SPACING = 0.4  # of the grid where the map is small; the kernels are about 1 wide
MAX_NODES = 256
QUERIES_AT_ONCE = 512


def neighbor_map(embedding_MD: np.ndarray, start_M2: np.ndarray) -> np.ndarray:
    """Positions [M, 2], centered, the same for the same input; distances across it mean little.

    embedding_MD  [M, D]  finite, M > NUM_NEAREST
    start_M2      [M, 2]  where objects are at the beginning, in any unit: the principal plane
    """
    edges_MM = _attraction(embedding_MD)
    from_E = np.repeat(np.arange(len(start_M2)), np.diff(edges_MM.indptr))
    share_E, weight_MM = edges_MM.data, edges_MM.copy()
    size = float(start_M2[:, 0].std()) or 1.0
    xy_M2 = np.round(start_M2 / size, 6) * START_SIZE  # the last bits depend on threads
    step_M2, gain_M2 = np.zeros_like(xy_M2), np.ones_like(xy_M2)
    rate = max(len(xy_M2) / EXAGGERATION, 50.0)  # Belkina et al. 2019, Nat. Commun. 10, 5415
    for number in range(NUM_EARLY + NUM_LATE):
        is_early = number < NUM_EARLY
        apart_E2 = xy_M2[from_E] - xy_M2[edges_MM.indices]
        weight_MM.data = share_E / (1 + np.einsum("ed,ed->e", apart_E2, apart_E2))
        pull_M2 = xy_M2 * weight_MM.sum(axis=1)[:, None] - weight_MM @ xy_M2
        push_M2, total = repulsion(xy_M2)
        slope_M2 = 4 * ((EXAGGERATION if is_early else 1.0) * pull_M2 - push_M2 / total)
        is_onward_M2 = (slope_M2 > 0) != (step_M2 > 0)  # gains of Jacobs 1988
        gain_M2 = np.maximum(np.where(is_onward_M2, gain_M2 + 0.2, gain_M2 * 0.8), 0.01)
        step_M2 = (0.5 if is_early else 0.8) * step_M2 - rate * gain_M2 * slope_M2
        xy_M2 = xy_M2 + step_M2
        xy_M2 -= xy_M2.mean(axis=0)
    return xy_M2


def repulsion(xy_M2: np.ndarray) -> tuple[np.ndarray, float]:
    """The sums over all others of d / (1 + d^2)^2, [M, 2], and over all pairs of 1 / (1 + d^2).

    d is from the other to the object. Cubic interpolation between the nodes of a grid that covers
    the objects: charges are spread over 4 x 4 nodes, convolved with the kernels, and gathered.
    """
    low_2 = xy_M2.min(axis=0)
    num_nodes, spacing = _grid(float((xy_M2 - low_2).max()))
    place_M2 = (xy_M2 - low_2) / spacing + 1
    cell_M2 = np.floor(place_M2).astype(np.int64)
    weight_42M = _cubic((place_M2 - cell_M2).T)
    weight_16M = (weight_42M[:, None, 0] * weight_42M[None, :, 1]).reshape(16, -1)
    row_4M, column_4M = (cell_M2[:, axis] + np.arange(-1, 3)[:, None] for axis in (0, 1))
    node_16M = (row_4M[:, None] * num_nodes + column_4M[None]).reshape(16, -1)
    charge_3M = np.stack([np.ones(len(xy_M2)), *xy_M2.T])
    spread = [np.bincount(node_16M.ravel(), (weight_16M * charge_M).ravel(), num_nodes**2)
              for charge_M in charge_3M]  # fmt: skip
    charge_3GG = np.stack(spread).reshape(3, num_nodes, num_nodes).astype(np.float32)
    kernel_2SS, size = _kernels(num_nodes, spacing)
    charge_3SS = scipy.fft.rfft2(charge_3GG, (size, size))
    product_4SS = np.concatenate([charge_3SS[:1] * kernel_2SS[0], charge_3SS * kernel_2SS[1]])
    field_4GG = scipy.fft.irfft2(product_4SS, (size, size))[:, :num_nodes, :num_nodes]
    field_4M = np.einsum(
        "fpm,pm->fm", field_4GG.reshape(4, -1)[:, node_16M], weight_16M, dtype=np.float64
    )
    total = float(field_4M[0].sum()) - len(xy_M2)  # each object also meets itself, at distance 0
    return xy_M2 * field_4M[1][:, None] - field_4M[2:].T, max(total, 1e-12)


def _grid(span: float) -> tuple[int, float]:
    """Nodes along an axis, and their spacing, for a span; few different ones as it grows."""
    step = 1.1 ** math.ceil(math.log(max(span, 1.0)) / math.log(1.1))
    num_nodes = min(math.ceil(step / SPACING) + 4, MAX_NODES)
    return num_nodes, max(step / (num_nodes - 4), SPACING)


@functools.lru_cache(maxsize=1)  # a map grows: the grid before is not needed again
def _kernels(num_nodes: int, spacing: float) -> tuple[np.ndarray, int]:
    """Transforms of 1 / (1 + r^2) and of its square, [2, S, S / 2 + 1], and S."""
    size = scipy.fft.next_fast_len(2 * num_nodes, real=True)
    offset_S = np.arange(size)
    offset_S = np.minimum(offset_S, size - offset_S) * spacing
    kernel_SS = 1 / (1 + offset_S[:, None] ** 2 + offset_S**2)
    both_2SS = np.stack([kernel_SS, kernel_SS**2]).astype(np.float32)
    return scipy.fft.rfft2(both_2SS), size


def _cubic(part_2M: np.ndarray) -> np.ndarray:
    """Weights [4, 2, M] of Lagrange's cubic at nodes -1, 0, 1 and 2 of a place in 0..1."""
    t = part_2M
    return np.stack(
        [
            -t * (t - 1) * (t - 2) / 6,
            (t + 1) * (t - 1) * (t - 2) / 2,
            -(t + 1) * t * (t - 2) / 2,
            (t + 1) * t * (t - 1) / 6,
        ]
    )


def _attraction(embedding_MD: np.ndarray) -> scipy.sparse.csr_array:
    """The neighbor graph, symmetric, [M, M]: each edge the same, two that agree twice it, sum 1."""
    centered_MD = (embedding_MD - embedding_MD.mean(axis=0)).astype(np.float32)
    square_M = np.einsum("md,md->m", centered_MD, centered_MD, dtype=np.float64)
    num_objects = len(centered_MD)
    nearest_MK = np.empty((num_objects, NUM_NEAREST), np.int64)
    for start in range(0, num_objects, QUERIES_AT_ONCE):
        part = slice(start, start + QUERIES_AT_ONCE)
        square_GM = slab_squares(centered_MD[part], centered_MD, square_M[part], square_M)
        itself_G = np.arange(len(square_GM))
        square_GM[itself_G, start + itself_G] = np.inf
        nearest_MK[part] = np.argpartition(square_GM, NUM_NEAREST, axis=1)[:, :NUM_NEAREST]
    ends_M = np.arange(num_objects + 1) * NUM_NEAREST
    shape = (num_objects, num_objects)
    directed_MM = scipy.sparse.csr_array(
        (np.ones(nearest_MK.size), nearest_MK.ravel(), ends_M), shape=shape
    )
    edges_MM = scipy.sparse.csr_array(directed_MM + directed_MM.T)
    edges_MM.sort_indices()
    edges_MM.data /= edges_MM.data.sum()
    return edges_MM
