"""What the nearest vectors and their distances are, in plain PyTorch on any device; slow."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

PRECISIONS = ("fp32",)
PAIRS_AT_ONCE = 2**22  # float64 numbers, 32 MB


def why_not(device: torch.device) -> str:
    """Nothing stands in its way on any device."""
    del device
    return ""


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
    """Indices, int64 [G, k], and distances, float64 [G, k], of what `nearest` describes.

    A distance is the square root of the sum, from the first dimension to the last, of the squares
    of the differences, all in float64: it depends on the two vectors alone, not on the library
    that sums. Ties go to the smaller label, which is the index where there is none.
    """
    del cells  # every vector is compared
    vector_VD = torch.cat(pieces_of(vector_VD))
    if label_V is None:
        label_V = torch.arange(len(vector_VD), device=query_GD.device)
    label_V, order_V = label_V.sort()
    vector_VD = vector_VD[order_V]
    num_queries, num_vectors = len(query_GD), len(vector_VD)
    index_GK = query_GD.new_full((num_queries, k), -1, dtype=torch.int64)
    distance_GK = query_GD.new_full((num_queries, k), torch.nan, dtype=torch.float64)
    step = max(1, PAIRS_AT_ONCE // max(1, num_vectors))
    for start in range(0, num_queries, step):
        rows = slice(start, start + step)
        distance_BV = _distances(query_GD[rows], vector_VD)
        if exclude_G is not None:
            distance_BV[label_V == exclude_G[rows, None]] = torch.inf
        if within_G is not None:
            distance_BV[distance_BV > within_G[rows, None]] = torch.inf
        distance_BV, index_BV = distance_BV.sort(dim=1, stable=True)
        found_BV = distance_BV[:, :k] < torch.inf  # distances of finite float32 vectors are finite
        most = found_BV.shape[1]
        index_GK[rows, :most] = label_V[index_BV[:, :k]].where(found_BV, -1)
        distance_GK[rows, :most] = distance_BV[:, :k].where(found_BV, torch.nan)
    return index_GK, distance_GK


def pieces_of(vector_VD: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """One tensor of vectors, or several that follow one another, as a list."""
    return [vector_VD] if isinstance(vector_VD, Tensor) else list(vector_VD)


def _distances(query_BD: Tensor, vector_VD: Tensor) -> Tensor:
    total_BV = query_BD.new_zeros((len(query_BD), len(vector_VD)), dtype=torch.float64)
    for query_B, vector_V in zip(query_BD.double().T, vector_VD.double().T, strict=True):
        difference_BV = query_B[:, None] - vector_V
        total_BV += difference_BV * difference_BV  # two roundings: addcmul may fuse them
    # Torch's own root is not the rounded one everywhere: MKL's may be off by a bit.
    return torch.from_numpy(np.sqrt(total_BV.cpu().numpy())).to(query_BD.device)
