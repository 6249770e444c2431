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
NUM_EARLY, NUM_LATE = 100, 250  # 150 and 350 keep no more neighbors
EXAGGERATION = 12.0  # of the attraction in the early steps: groups form before they settle
START_SIZE = 1e-4
SPACING = 0.4  # of the grid where the map is large; the kernels are about 1 wide
MIN_NODES, MAX_NODES = 32, 256
QUERIES_AT_ONCE = 512


def neighbor_map(embedding_MD: np.ndarray, start_M2: np.ndarray) -> np.ndarray:
    """Positions [M, 2], centered, the same for the same input; distances across it mean little.

    embedding_MD  [M, D]  finite, M > 0
    start_M2      [M, 2]  where objects are at the beginning, in any unit: the principal plane

    Raises FloatingPointError where positions are not finite.
    """
    from_E, to_E, share_E = _attraction(embedding_MD)
    num_objects = len(start_M2)
    size = float(start_M2[:, 0].std()) or 1.0
    xy_2M = np.round(start_M2.T / size, 6) * START_SIZE  # the last bits depend on threads
    step_2M, gain_2M = np.zeros_like(xy_2M), np.ones_like(xy_2M)
    for number in range(NUM_EARLY + NUM_LATE):
        momentum, exaggeration = (0.5, EXAGGERATION) if number < NUM_EARLY else (0.8, 1.0)
        # With the 4 of the slope one step is that of Belkina et al. 2019, Nat. Commun. 10, 5415:
        # the attraction moves an object to the mean of those that pull it, never beyond.
        rate = num_objects / (4 * exaggeration)
        apart_2E = xy_2M[:, from_E] - xy_2M[:, to_E]
        apart_2E *= share_E / (1 + np.einsum("ae,ae->e", apart_2E, apart_2E))
        pull_2M = np.stack([np.bincount(from_E, axis_E, num_objects) for axis_E in apart_2E])
        push_2M, total = repulsion(xy_2M)
        slope_2M = 4 * (exaggeration * pull_2M - push_2M / total)
        is_onward_2M = (slope_2M > 0) != (step_2M > 0)  # gains of Jacobs 1988
        gain_2M = np.maximum(np.where(is_onward_2M, gain_2M + 0.2, gain_2M * 0.8), 0.01)
        step_2M = momentum * step_2M - rate * gain_2M * slope_2M
        xy_2M += step_2M
        xy_2M -= xy_2M.mean(axis=1)[:, None]
    return np.ascontiguousarray(xy_2M.T)


def repulsion(xy_2M: np.ndarray) -> tuple[np.ndarray, float]:
    """The sums over all others of d / (1 + d^2)^2, [2, M], and over all pairs of 1 / (1 + d^2).

    d is from the other to the object. Cubic interpolation between the nodes of a grid that covers
    the objects: they are spread over 4 x 4 nodes, convolved with the kernels, and gathered.

    Raises FloatingPointError where positions are not finite.
    """
    low_2 = xy_2M.min(axis=1)
    num_nodes, spacing = _grid(float((xy_2M - low_2[:, None]).max()))
    place_2M = (xy_2M - low_2[:, None]) / spacing + 1
    cell_2M = place_2M.astype(np.int64)
    weight_42M = _cubic(place_2M - cell_2M)
    weight_16M = (weight_42M[:, None, 0] * weight_42M[None, :, 1]).reshape(16, -1)
    offset_16 = (np.arange(-1, 3)[:, None] * num_nodes + np.arange(-1, 3)).ravel()
    node_16M = offset_16[:, None] + (cell_2M[0] * num_nodes + cell_2M[1])
    charge_GG = np.bincount(node_16M.ravel(), weight_16M.ravel(), num_nodes**2).reshape(
        num_nodes, num_nodes
    )
    kernel_SS, slope_2SS, size = _kernels(num_nodes, spacing)
    charge_SS = scipy.fft.rfft2(charge_GG.astype(np.float32), (size, size))
    pairs = float(np.vdot(kernel_SS, charge_SS.real**2 + charge_SS.imag**2))  # Parseval
    field_2GG = scipy.fft.irfft2(slope_2SS * charge_SS, (size, size))[:, :num_nodes, :num_nodes]
    field_216M = field_2GG.reshape(2, -1).take(node_16M, axis=1)
    push_2M = np.einsum("apm,pm->am", field_216M, weight_16M, dtype=np.float64)
    return push_2M, max(pairs - xy_2M.shape[1], _least_total(xy_2M))  # without each and itself


def _least_total(xy_2M: np.ndarray) -> float:
    """What the sum over pairs of 1 / (1 + d^2) is at least: it is convex in d^2 (Jensen 1906).

    Where all are far from all, the grid's error for each and itself is larger than the sum.
    """
    num_objects = xy_2M.shape[1]
    others = max(num_objects - 1, 1)
    mean_square = 2 * num_objects / others * float(xy_2M.var(axis=1).sum())
    return num_objects * others / (1 + mean_square)


def _grid(span: float) -> tuple[int, float]:
    """Nodes along an axis, and their spacing, for a span; few different ones as it grows."""
    if not math.isfinite(span):
        raise FloatingPointError("a position on the map of neighbors is not finite")
    step = 1.1 ** math.ceil(math.log(max(span, 1.0)) / math.log(1.1))
    num_nodes = min(max(math.ceil(step / SPACING) + 4, MIN_NODES), MAX_NODES)
    return num_nodes, step / (num_nodes - 4)


@functools.lru_cache(maxsize=1)  # a map grows: the grid before is not needed again
def _kernels(num_nodes: int, spacing: float) -> tuple[np.ndarray, np.ndarray, int]:
    """Transforms [S, S / 2 + 1] of 1 / (1 + r^2), weighted for sums, and of r / (1 + r^2)^2; S."""
    size = scipy.fft.next_fast_len(2 * num_nodes, real=True)
    offset_S = (scipy.fft.fftfreq(size, 1 / size) * spacing).astype(np.float32)
    kernel_SS = 1 / (1 + offset_S[:, None] ** 2 + offset_S**2)
    slope_SS = offset_S[:, None] * kernel_SS**2
    transform_3SS = scipy.fft.rfft2(np.stack([kernel_SS, slope_SS, slope_SS.T]))
    times_S = np.full(transform_3SS.shape[2], 2.0)  # a real transform leaves the mirrored half out
    times_S[0] = 1
    if size % 2 == 0:
        times_S[-1] = 1
    return transform_3SS[0].real * times_S / size**2, transform_3SS[1:], size


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


def _attraction(embedding_MD: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges of the neighbor graph both ways: from, to and share, each [E].

    The shares are the same, of two neighbors that agree twice as large, and sum to 1.
    """
    centered_MD = (embedding_MD - embedding_MD.mean(axis=0)).astype(np.float32)
    square_M = np.einsum("md,md->m", centered_MD, centered_MD, dtype=np.float64)
    num_objects = len(centered_MD)
    num_nearest = min(NUM_NEAREST, num_objects - 1)
    nearest_MK = np.empty((num_objects, num_nearest), np.int64)
    for start in range(0, num_objects, QUERIES_AT_ONCE):
        part = slice(start, start + QUERIES_AT_ONCE)
        square_GM = slab_squares(centered_MD[part], centered_MD, square_M[part], square_M)
        itself_G = np.arange(len(square_GM))
        square_GM[itself_G, start + itself_G] = np.inf
        nearest_MK[part] = np.argpartition(square_GM, num_nearest, axis=1)[:, :num_nearest]
    ends_M = np.arange(num_objects + 1) * num_nearest
    shape = (num_objects, num_objects)
    directed_MM = scipy.sparse.csr_array(
        (np.ones(nearest_MK.size), nearest_MK.ravel(), ends_M), shape=shape
    )
    edges_MM = scipy.sparse.csr_array(directed_MM + directed_MM.T)
    edges_MM.sort_indices()
    from_E = np.repeat(np.arange(num_objects), np.diff(edges_MM.indptr))
    return from_E, edges_MM.indices.astype(np.int64), edges_MM.data / edges_MM.data.sum()
