"""The nearest vectors on a CPU with AVX2: integer products rule out, float64 measures the rest.

The products are 16-bit integers (`vpdpwssd` of AVX-512, else `vpmaddwd`), by which every CPU is at
least as fast as by floats, and their bound is a hundred times closer than bfloat16's: on centered
data few more than k pairs of a query are left to measure. native/knn_search.h has the proof.
"""

import ctypes
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from astroray_kernels import library
from astroray_kernels.dispatch import BackendError
from astroray_kernels.knn.reference import pieces_of

PRECISIONS = ("fp32",)
LARGEST_DIM = 2**17
"""Beyond it sums of products could leave 32 bits."""
LARGEST_NUM = 2**31
"""Vectors; beyond it places in the packed order could leave 64 bits."""
CENTER_SAMPLE = 256
"""Its median is within a tenth of a standard deviation; more would cost more than it saves."""


class _Call(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("query", "vector", "center", "label", "exclude")),
        *((name, ctypes.c_void_p) for name in ("within", "cell", "centers", "index", "distance")),
        *((name, ctypes.c_int64) for name in ("num_queries", "num_vectors", "dim", "k")),
        ("num_cells", ctypes.c_int64),
        ("scale", ctypes.c_double),
        ("threads", ctypes.c_int32),
        ("compared", ctypes.c_int64),
        ("measured", ctypes.c_int64),
    ]


def why_not(device: torch.device) -> str:
    """Why the native code cannot run on that device, in words; "" where it can."""
    return library.why_not(device)


class Counts(NamedTuple):
    """What a search cost; no number of threads changes it."""

    compared: int
    """Pairs whose integer products were computed; those of a block that is not full all count."""
    measured: int
    """Pairs that the products could not rule out, so that they were measured."""


def nearest_vectors(
    query_GD: Tensor,
    vector_VD: Tensor | Sequence[Tensor],
    k: int,
    *,
    exclude_G: Tensor | None,
    within_G: Tensor | None = None,
    cells: tuple[Tensor, Tensor] | None = None,
    label_V: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Indices and distances as `reference.nearest_vectors` has them, to the last bit."""
    index_GK, distance_GK, _ = nearest_vectors_with_counts(
        query_GD, vector_VD, k, exclude_G=exclude_G, within_G=within_G, cells=cells, label_V=label_V
    )
    return index_GK, distance_GK


def nearest_vectors_with_counts(
    query_GD: Tensor,
    vector_VD: Tensor | Sequence[Tensor],
    k: int,
    *,
    exclude_G: Tensor | None = None,
    within_G: Tensor | None = None,
    cells: tuple[Tensor, Tensor] | None = None,
    label_V: Tensor | None = None,
) -> tuple[Tensor, Tensor, Counts]:
    """What `nearest_vectors` finds, and how many pairs were not ruled out on the way.

    Raises BackendError on a machine that cannot run it and on more vectors or dimensions
    than `LARGEST_NUM` and `LARGEST_DIM`.
    """
    vectors = pieces_of(vector_VD)
    num_vectors, dim = sum(map(len, vectors)), query_GD.shape[1]
    if reason := why_not(query_GD.device) or _too_large(num_vectors, dim):
        raise BackendError(f"backend 'native' cannot run: {reason}; ask for backend='reference'")
    query_GD, vectors = query_GD.contiguous(), [some.contiguous() for some in vectors]
    cell_V, center_CD = (None, None) if cells is None else (x.contiguous() for x in cells)
    exclude_G, within_G, label_V = (
        None if x is None else x.contiguous() for x in (exclude_G, within_G, label_V)
    )
    most = min(k, num_vectors)
    index_GK = torch.empty((len(query_GD), most), dtype=torch.int64)
    distance_GK = torch.empty((len(query_GD), most), dtype=torch.float64)
    counts = Counts(0, 0)
    if index_GK.numel():
        middle_D, scale = _frame(query_GD, vectors, center_CD)
        pointer_V = torch.cat([_row_pointers(some) for some in vectors])
        call = _Call(
            query=query_GD.data_ptr(), vector=pointer_V.data_ptr(), center=middle_D.data_ptr(),
            label=_pointer(label_V), exclude=_pointer(exclude_G), within=_pointer(within_G),
            cell=_pointer(cell_V), centers=_pointer(center_CD),
            num_cells=0 if center_CD is None else len(center_CD),
            index=index_GK.data_ptr(), distance=distance_GK.data_ptr(),
            num_queries=len(query_GD), num_vectors=num_vectors, dim=dim, k=most,
            scale=scale, threads=library.num_threads(),
        )  # fmt: skip
        _run(call)
        counts = Counts(compared=int(call.compared), measured=int(call.measured))
    missing = (0, k - most)
    return pad(index_GK, missing, value=-1), pad(distance_GK, missing, value=torch.nan), counts


def _pointer(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def _row_pointers(vector_BD: Tensor) -> Tensor:
    """Where each vector lies, int64 [B]."""
    size = vector_BD.shape[1] * vector_BD.element_size()
    return vector_BD.data_ptr() + size * torch.arange(len(vector_BD))


def _too_large(num: int, dim: int) -> str:
    if num > LARGEST_NUM or dim > LARGEST_DIM:
        return (
            f"vector_VD has shape [{num}, {dim}], expected at most [{LARGEST_NUM}, {LARGEST_DIM}]"
        )
    return ""


def _frame(
    query_GD: Tensor, vectors: Sequence[Tensor], center_CD: Tensor | None
) -> tuple[Tensor, float]:
    """A middle of the vectors, float64 [D], and the power of two that brings norms to at most 1.

    Neither changes a result, only how many pairs are measured.
    """
    step = -(-sum(map(len, vectors)) // CENTER_SAMPLE)
    sample_MD = torch.cat([some[::step] for some in vectors])
    middle_D = sample_MD.median(dim=0).values.double()  # no far outlier carries it away
    others = [] if center_CD is None else [center_CD]
    ends = [
        float(end) for rows in (query_GD, *vectors, *others) if len(rows) for end in rows.aminmax()
    ]
    reach = 2.0 * max(map(abs, ends)) * math.sqrt(len(middle_D))
    return middle_D, 2.0 ** -math.frexp(reach)[1]


def _run(call: _Call) -> None:
    run = library.function("astroray_nearest", ctypes.POINTER(_Call), ctypes.c_int32)
    code = run(ctypes.byref(call), library.features())
    if code == library.NO_MEMORY:
        raise MemoryError(
            f"the search among {call.num_vectors} vectors of {call.dim} dimensions needs half as "
            "much memory again, and there is not enough; search among fewer at once"
        )
    if code:
        raise BackendError(
            "the native library has no search for nearest vectors on this CPU; "
            "ask for backend='reference'"
        )
