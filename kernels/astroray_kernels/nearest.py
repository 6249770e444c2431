"""The public search for nearest vectors: what it accepts, and what it finds."""

from collections.abc import Sequence

import torch
from torch import Tensor

from astroray_kernels.dispatch import select
from astroray_kernels.knn.reference import pieces_of

_OP = "nearest_vectors"

Cells = tuple[Tensor, Tensor]
"""The cell of each vector, int64 [V], and a center of each cell, float32 [C, D], finite."""


def nearest_vectors(
    query_GD: Tensor,
    vector_VD: Tensor | Sequence[Tensor],
    k: int,
    *,
    exclude_G: Tensor | None = None,
    within_G: Tensor | None = None,
    cells: Cells | None = None,
    label_V: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """The k nearest vectors of each query by Euclidean distance, exactly.

    query_GD   [G, D]  float32, finite, D >= 1; G may be 0
    vector_VD  [V, D]  float32, finite, of the same device; V may be 0; need not be centered; or
                       several such, one after another: none is copied
    k          >= 1
    exclude_G  [G]     int64: the vector that a query may not find (itself), -1 for none
    label_V    [V]     int64, all different: what a vector is called here; without them its index
    within_G   [G]     float64, not negative: the largest distance that a query may find
    cells              where the vectors lie, so that fewer are compared; changes no result
    backend    auto, or one that must run: native, reference

    Returns index_GK, int64 [G, k], and distance_GK, float64 [G, k], nearest first, ties by index
    (or label); -1 and NaN where there are fewer vectors, or fewer within reach. A distance is the
    root of the float64 sum, from the first dimension to the last, of the squared differences. All
    backends return the same bits, with any number of threads (torch's). The native one rules out
    pairs by integer products whose error it bounds (Higham, Accuracy and Stability, section 3.1)
    and measures all others. Where there are cells it rules out blocks of them first, by the
    triangle inequality; that saves most where queries of one cell are given one after another.

    Raises TypeError and ValueError on arguments that cannot work, BackendError where this machine
    cannot run what was asked for.
    """
    vectors = pieces_of(vector_VD)
    _check_vectors(query_GD, *vectors)
    num_vectors = sum(map(len, vectors))
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"{_OP}: k is {k!r}, expected an integer of at least 1")
    if label_V is not None:
        _check_whole("label_V", label_V, num_vectors, query_GD)
    if exclude_G is not None:
        _check_whole("exclude_G", exclude_G, len(query_GD), query_GD)
        if label_V is None:
            _check_exclude(exclude_G, num_vectors)
    if within_G is not None:
        _check_within(within_G, query_GD)
    if cells is not None:
        _check_cells(cells, query_GD, num_vectors)
    function = select(_OP, query_GD.device, backend)
    found: tuple[Tensor, Tensor] = function(
        query_GD.detach(),
        [some.detach() for some in vectors],
        k,
        exclude_G=exclude_G,
        within_G=within_G,
        cells=cells,
        label_V=label_V,
    )
    return found


def _check_within(within_G: Tensor, query_GD: Tensor) -> None:
    if (
        within_G.dtype != torch.float64
        or within_G.shape != query_GD.shape[:1]
        or within_G.device != query_GD.device
    ):
        raise ValueError(
            f"{_OP}: within_G is {within_G.dtype} {list(within_G.shape)} on {within_G.device}, "
            f"expected torch.float64 [{len(query_GD)}] on {query_GD.device}"
        )
    bad_B = ~(within_G >= 0)
    if bad_B.any():
        row = int(bad_B.nonzero()[0])
        raise ValueError(
            f"{_OP}: within_G is {float(within_G[row])} in row {row}, expected a distance of at "
            "least 0, infinity for any"
        )


def _check_cells(cells: Cells, query_GD: Tensor, num_vectors: int) -> None:
    cell_V, center_CD = cells
    _check_vectors(query_GD, center_CD, name="the centers of cells")
    _check_whole("the cell of each vector", cell_V, num_vectors, query_GD)
    num_cells = len(center_CD)
    if len(cell_V) and not 0 <= int(cell_V.min()) <= int(cell_V.max()) < num_cells:
        raise ValueError(
            f"{_OP}: vectors lie in cells {int(cell_V.min())} to {int(cell_V.max())}, expected "
            f"0 to {num_cells - 1}, since there are {num_cells} centers"
        )


def _check_vectors(query_GD: Tensor, *vectors: Tensor, name: str = "vector_VD") -> None:
    if not vectors:
        raise ValueError(f"{_OP}: {name} is an empty sequence, expected at least one tensor")
    names = ["query_GD", *[name] * len(vectors)]
    for said, x in zip(names, (query_GD, *vectors), strict=True):
        if not isinstance(x, Tensor) or x.dtype != torch.float32:
            got = f"dtype {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(
                f"{_OP}: {said} has {got}, expected a tensor of torch.float32; convert it first"
            )
        if x.ndim != 2 or x.shape[1] < 1 or x.shape[1] != query_GD.shape[1]:
            raise ValueError(
                f"{_OP}: {said} has shape {list(x.shape)} and query_GD {list(query_GD.shape)}, "
                "expected [V, D] and [G, D] with one D >= 1"
            )
        if x.device != query_GD.device:
            raise ValueError(
                f"{_OP}: {said} is on {x.device}, expected query_GD's {query_GD.device}; move it"
            )
        if x.numel() and not torch.isfinite(torch.stack(x.aminmax())).all():
            bad_B = ~x.isfinite().all(dim=1)  # ten times as slow
            raise ValueError(
                f"{_OP}: {said} has a NaN or infinite number in row {int(bad_B.nonzero()[0])} "
                f"({int(bad_B.sum())} such rows of {len(x)}), expected finite; leave those out"
            )


def _check_whole(name: str, number_B: Tensor, num_rows: int, like: Tensor) -> None:
    if (
        number_B.dtype != torch.int64
        or number_B.shape != (num_rows,)
        or number_B.device != like.device
    ):
        raise ValueError(
            f"{_OP}: {name} is {number_B.dtype} {list(number_B.shape)} on {number_B.device}, "
            f"expected torch.int64 [{num_rows}] on {like.device}"
        )


def _check_exclude(exclude_G: Tensor, num_vectors: int) -> None:
    bad_B = (exclude_G < -1) | (exclude_G >= num_vectors)
    if bad_B.any():
        row = int(bad_B.nonzero()[0])
        raise ValueError(
            f"{_OP}: exclude_G is {int(exclude_G[row])} in row {row}, expected -1 (none) to "
            f"{num_vectors - 1}"
        )
