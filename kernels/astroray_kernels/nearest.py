"""The public search for nearest vectors: what it accepts, and what it finds."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from astroray_kernels.dispatch import select

_OP = "nearest_vectors"


def nearest_vectors(
    query_GD: Tensor,
    vector_VD: Tensor,
    k: int,
    *,
    exclude_G: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """The k nearest vectors of each query by Euclidean distance, exactly.

    query_GD   [G, D]  float32, finite, D >= 1; G may be 0
    vector_VD  [V, D]  float32, finite, of the same device; V may be 0; need not be centered
    k          >= 1
    exclude_G  [G]     int64: the vector that a query may not find (itself), -1 for none
    backend    auto, or one that must run: native, reference

    Returns index_GK, int64 [G, k], and distance_GK, float64 [G, k], nearest first, ties by index;
    -1 and NaN where there are fewer vectors. A distance is the root of the float64 sum, from the
    first dimension to the last, of the squared differences. All backends return the same bits,
    with any number of threads (torch's). The native one rules out pairs by integer products whose
    error it bounds (Higham, Accuracy and Stability, section 3.1) and measures all others.

    Raises TypeError and ValueError on arguments that cannot work, BackendError where this machine
    cannot run what was asked for.
    """
    _check_vectors(query_GD, vector_VD)
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"{_OP}: k is {k!r}, expected an integer of at least 1")
    if exclude_G is not None:
        _check_exclude(exclude_G, query_GD, len(vector_VD))
    function = cast(Callable[..., tuple[Tensor, Tensor]], select(_OP, query_GD.device, backend))
    return function(query_GD.detach(), vector_VD.detach(), k, exclude_G=exclude_G)


def _check_vectors(query_GD: Tensor, vector_VD: Tensor) -> None:
    for name, x in (("query_GD", query_GD), ("vector_VD", vector_VD)):
        if not isinstance(x, Tensor) or x.dtype != torch.float32:
            got = f"dtype {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(
                f"{_OP}: {name} has {got}, expected a tensor of torch.float32; convert it first"
            )
        if x.ndim != 2 or x.shape[1] < 1 or x.shape[1] != query_GD.shape[1]:
            raise ValueError(
                f"{_OP}: {name} has shape {list(x.shape)} and query_GD {list(query_GD.shape)}, "
                "expected [V, D] and [G, D] with one D >= 1"
            )
        if x.device != query_GD.device:
            raise ValueError(
                f"{_OP}: {name} is on {x.device}, expected query_GD's {query_GD.device}; move it"
            )
        if x.numel() and not torch.isfinite(torch.stack(x.aminmax())).all():
            bad_B = ~x.isfinite().all(dim=1)  # ten times as slow
            raise ValueError(
                f"{_OP}: {name} has a NaN or infinite number in row {int(bad_B.nonzero()[0])} "
                f"({int(bad_B.sum())} such rows of {len(x)}), expected finite; leave those out"
            )


def _check_exclude(exclude_G: Tensor, query_GD: Tensor, num_vectors: int) -> None:
    if (
        exclude_G.dtype != torch.int64
        or exclude_G.shape != query_GD.shape[:1]
        or exclude_G.device != query_GD.device
    ):
        raise ValueError(
            f"{_OP}: exclude_G is {exclude_G.dtype} {list(exclude_G.shape)} on "
            f"{exclude_G.device}, expected torch.int64 [{len(query_GD)}] on {query_GD.device}"
        )
    bad_B = (exclude_G < -1) | (exclude_G >= num_vectors)
    if bad_B.any():
        row = int(bad_B.nonzero()[0])
        raise ValueError(
            f"{_OP}: exclude_G is {int(exclude_G[row])} in row {row}, expected -1 (none) to "
            f"{num_vectors - 1}"
        )
