"""The norm of tokens before they are quantized: sums in one order, so that all codes are the same.

Letters: M tokens, K input channels.
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Norm"]

LANES = 64


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Norm:
    """A layer norm of each token, or an RMS norm, which does not take away the mean.

    Its tensors must not change once a layer has run: native code has its own copy of them.

    weight_K  float32 [K], or None: 1
    bias_K    float32 [K], or None: 0
    epsilon   added to the mean square
    """

    weight_K: Tensor | None = None
    bias_K: Tensor | None = None
    epsilon: float = 1e-5
    takes_mean: bool = True

    def __call__(self, x_MK: Tensor) -> Tensor:
        """Normalized tokens, float32 [M, K], each operation rounded once."""
        x_MK = x_MK.float()
        if self.takes_mean:
            x_MK = x_MK - _mean_of(x_MK)
        spread_M1 = _mean_of(x_MK * x_MK) + self.epsilon
        # torch's float32 square root may be off by one in the last place
        root_M1 = spread_M1.double().sqrt().float()
        x_MK = x_MK * (torch.ones_like(root_M1) / root_M1)
        if self.weight_K is not None:
            x_MK = x_MK * self.weight_K
        return x_MK if self.bias_K is None else x_MK + self.bias_K

    def to(self, device: torch.device | str) -> "Norm":
        """The norm on another device."""
        weight_K, bias_K = (
            None if one is None else one.to(device) for one in (self.weight_K, self.bias_K)
        )
        return dataclasses.replace(self, weight_K=weight_K, bias_K=bias_K)


def _mean_of(x_MK: Tensor) -> Tensor:
    """[M, 1]: `LANES` sums from the first channels to the last, folded by halves."""
    num_in = x_MK.shape[1]
    x_MCL = F.pad(x_MK, (0, -num_in % LANES)).reshape(len(x_MK), -1, LANES)
    sum_ML = x_MCL[:, 0]
    for chunk in range(1, x_MCL.shape[1]):
        sum_ML = sum_ML + x_MCL[:, chunk]
    while sum_ML.shape[1] > 1:
        left, right = sum_ML.chunk(2, dim=1)
        sum_ML = left + right
    return sum_ML / torch.full_like(sum_ML, num_in)  # by a tensor: a number would round twice
