"""Quantized linear layers in plain PyTorch: the meaning that every backend is compared with.

OSC, arXiv 2604.12782, Algorithm 2 and Equation 5: the outlier channels of a token are taken out and
multiplied in 16 bits (path B), the rest is quantized and multiplied in whole numbers (path A). What
the paper leaves open is settled so:
- The outlier channels are a list of places, so groups without one cost nothing.
- Their columns of the weights are zero in path A, before its scales are measured.
- A token that holds a NaN or an infinity, or an outlier that is infinite in bfloat16, gives NaN in
  all its outputs, and no other token does.

Letters: M tokens, K input channels, N output channels, G groups, O outlier channels.
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from astroray_kernels.osc import formats
from astroray_kernels.osc.formats import FORMATS
from astroray_kernels.osc.norms import Norm
from astroray_kernels.osc.packed import PackedWeights

PRECISIONS = tuple(FORMATS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizedActivations:
    """What a layer multiplies, token by token.

    codes        int8 [M, K], or, two codes a byte, uint8 [M, K / 2]; zero at outlier channels
    scale_MG     float32 [M, G]; NaN in all groups of a token that is not finite
    outlier_MO   bfloat16 [M, O]
    """

    codes: Tensor
    scale_MG: Tensor
    outlier_MO: Tensor


def why_not(device: torch.device) -> str:
    """The reference runs wherever torch does."""
    return ""


def quantize_activations(
    x_MK: Tensor, packed: PackedWeights, *, norm: Norm | None
) -> QuantizedActivations:
    """Gathers the outlier channels, zeroes them, then scales and packs the rest of each token."""
    x_MK = x_MK.float() if norm is None else norm(x_MK)
    outlier_MO = x_MK[:, packed.outlier_O].to(torch.bfloat16)
    is_good_M = x_MK.isfinite().all(dim=1) & outlier_MO.isfinite().all(dim=1)
    x_MK = x_MK.index_fill(1, packed.outlier_O, 0.0)
    x_MK = torch.where(is_good_M[:, None], x_MK, torch.nan)
    codes, scale_MG = formats.encode(x_MK, packed.format)
    return QuantizedActivations(codes=codes, scale_MG=scale_MG, outlier_MO=outlier_MO)


def osc_linear(
    x_MK: Tensor,
    packed: PackedWeights,
    *,
    activation: str,
    norm: Norm | None,
) -> Tensor:
    """act(norm(x) W^T + bias), [M, N] in the type of x.

    Whole numbers are exact, all else but the norm is in float64.
    """
    return _linear(x_MK, packed, activation=activation, norm=norm).to(x_MK.dtype)


def osc_mlp(
    x_MK: Tensor,
    first: PackedWeights,
    second: PackedWeights,
    *,
    activation: str,
    norm: Norm | None,
) -> Tensor:
    """Two layers; what is between them is float32 before it is quantized, whatever x is."""
    hidden_MK = _linear(x_MK, first, activation=activation, norm=norm).float()
    return _linear(hidden_MK, second, activation="none", norm=None).to(x_MK.dtype)


def _linear(x_MK: Tensor, packed: PackedWeights, *, activation: str, norm: Norm | None) -> Tensor:
    quantized = quantize_activations(x_MK, packed, norm=norm)
    unit = formats.unit(packed.format)
    scale_MG, scale_NG = quantized.scale_MG.double() * unit, packed.scale_NG.double() * unit
    x_MGK, weight_NGK = (
        formats.integers(codes, packed.format).double().reshape(len(codes), scale_NG.shape[1], -1)
        for codes in (quantized.codes, packed.codes)
    )
    y_MN = quantized.outlier_MO.double() @ packed.outlier_ON.double()
    for group in range(scale_NG.shape[1]):
        sum_MN = x_MGK[:, group] @ weight_NGK[:, group].T  # whole numbers, below 2^53
        y_MN += sum_MN * scale_MG[:, group, None] * scale_NG[:, group]
    y_MN = y_MN.where(scale_MG[:, :1].isfinite(), torch.nan)
    if packed.bias_N is not None:
        y_MN = y_MN + packed.bias_N
    if activation == "gelu":
        y_MN = F.gelu(y_MN)
    return y_MN
