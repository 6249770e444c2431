"""The native search for nearest vectors, from and to arrays of numpy."""

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def has_native() -> bool:
    """Whether this machine runs the native nearest-neighbor kernel."""
    from astroray_kernels.dispatch import why_not

    return not why_not("nearest_vectors", "native", "cpu")


def nearest_by_kernel(
    query_GD: np.ndarray,
    vector_VD: np.ndarray | Sequence[np.ndarray],
    k: int,
    *,
    exclude_G: np.ndarray | None = None,
    within_G: np.ndarray | None = None,
    cells: tuple[np.ndarray, np.ndarray] | None = None,
    label_V: np.ndarray | None = None,
    num_threads: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Indices [G, k] and published distances [G, k] of the nearest, ties by index; -1 and NaN.

    vector_VD      one or several arrays, one after another, read where they lie
    within_G  [G]  float64, the largest distance that is looked for
    cells          the cell of each vector, int64 [V], and a center of each, float32 [C, D]: they
                   spare comparisons and change no result
    label_V   [V]  int64, what each vector is called in place of its index

    The native kernel where this machine runs it, else its reference: the same bits.
    """
    import torch

    from astroray_kernels.nearest import nearest_vectors

    vectors = [vector_VD] if isinstance(vector_VD, np.ndarray) else vector_VD
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        near_GK, distance_GK = nearest_vectors(
            _tensor(query_GD),
            [_tensor(some) for some in vectors],
            k,
            exclude_G=None if exclude_G is None else _tensor(exclude_G),
            within_G=None if within_G is None else _tensor(within_G),
            cells=None if cells is None else (_tensor(cells[0]), _tensor(cells[1])),
            label_V=None if label_V is None else _tensor(label_V),
            backend="native" if has_native() else "reference",
        )
    finally:
        torch.set_num_threads(before)
    return near_GK.numpy(), distance_GK.numpy()


def _tensor(values: np.ndarray) -> "torch.Tensor":
    """Numbers that are read alone, where they lie; Torch knows none that may not be written."""
    import torch

    if not values.flags.writeable and values.flags.c_contiguous and values.size:
        there = (ctypes.c_char * values.nbytes).from_address(values.ctypes.data)
        values = np.frombuffer(there, values.dtype).reshape(values.shape)
    return torch.from_numpy(np.require(values, requirements="W"))
