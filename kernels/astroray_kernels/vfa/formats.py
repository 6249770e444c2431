"""The number formats of low-bit attention: what each code means and which code a number gets.

Letters: B batch, H heads, N positions, D channels of a head, G groups, `...` anything.
All divisions are correctly rounded and every rounding is to nearest, ties to even: that is what
vcvtps2dq does, what adding and taking away 1.5 * 2**23 does, and what OCP MX 1.0 asks for.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

INT8_MAX = 127
"""Codes are symmetric: -128 is not used, and there is no integer offset."""
UINT8_MAX = 255
KEY_GROUP = 64
"""Consecutive keys that share one int8 scale."""
MX_GROUP = 32
"""Consecutive numbers that share one E8M0 scale."""
E2M1_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Magnitudes of the codes 0 to 7; codes 8 to 15 are the same with a minus sign."""
E8M0_BIAS = 127
E8M0_NAN = 255


def round_to(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The numbers rounded to `dtype`, still held in their own type."""
    return x.to(dtype).to(x.dtype)


def int8_codes(x: Tensor, dim: int | tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Codes int8 and one scale for all numbers along `dim`; number = code * scale.

    The largest magnitude gets code 127 or -127. Only zeros: scale 1. A NaN or an infinity makes
    its scale NaN or infinite, and with it every number of that scale.
    """
    amax = x.abs().amax(dim=dim, keepdim=True)
    scale = torch.where(amax == 0, 1.0, amax / INT8_MAX)
    codes = torch.round(x / scale).nan_to_num(0.0).clamp(-INT8_MAX, INT8_MAX)
    return codes.to(torch.int8), scale


def int8_key_groups(k_BHND: Tensor) -> tuple[Tensor, Tensor]:
    """Codes int8 [B, H, N, D] and scales [B, H, N, 1], one per `KEY_GROUP` consecutive keys.

    A last group that is not full has its scale from the keys it has.
    """
    length = k_BHND.shape[2]
    k_BHNGD = _grouped(k_BHND, KEY_GROUP, dim=2)
    codes, scale = int8_codes(k_BHNGD, dim=(3, 4))
    scale = scale.expand(*k_BHNGD.shape[:4], 1)
    return codes.flatten(2, 3)[:, :, :length], scale.flatten(2, 3)[:, :, :length]


def uint8_weights(exponent: Tensor) -> Tensor:
    """255 * 2**exponent as whole numbers 0 to 255, held in the type of `exponent`.

    A weight above 255.5 has no code and becomes infinity, so that a row sum shows it.
    """
    codes = torch.round(UINT8_MAX * torch.exp2(exponent))
    return torch.where(codes > UINT8_MAX, torch.inf, codes)


def e2m1_codes(x: Tensor) -> Tensor:
    """Codes uint8 0 to 15 of numbers already divided by their scale; beyond 6 they saturate."""
    magnitude = x.abs()
    code = torch.zeros_like(x, dtype=torch.uint8)
    for lower, (below, above) in enumerate(itertools.pairwise(E2M1_VALUES)):
        middle = (below + above) / 2
        # A tie goes to the even code: up from an odd one, down to an even one.
        code += magnitude >= middle if lower % 2 else magnitude > middle
    return code + 8 * torch.signbit(x).to(torch.uint8)


def e2m1_values(codes: Tensor, dtype: torch.dtype) -> Tensor:
    """The numbers of codes 0 to 15."""
    values = [*E2M1_VALUES, *(-value for value in E2M1_VALUES)]
    return torch.tensor(values, dtype=dtype, device=codes.device)[codes.long()]


def e8m0_codes(amax: Tensor) -> Tensor:
    """Scale codes uint8 of groups by their largest magnitude.

    The scale is the smallest power of two with amax <= 6 scales, so that nothing saturates. (The
    rule in OCP MX 1.0, always rounded down, cuts numbers of 6 to 8 scales to 6: a fifth off the
    largest channel, or off the weight that rules a row.) Code = exponent + 127. Only zeros: scale
    1. NaN or infinity in the group: code 255, which means NaN.
    """
    mantissa, exponent = torch.frexp(amax)  # amax = mantissa * 2**exponent, 0.5 <= mantissa < 1
    code = (exponent - 3 + (mantissa > 0.75)).clamp(-E8M0_BIAS, E8M0_BIAS) + E8M0_BIAS
    code = torch.where(amax == 0, E8M0_BIAS, code)
    return torch.where(amax.isfinite(), code, E8M0_NAN).to(torch.uint8)


def e8m0_values(codes: Tensor, dtype: torch.dtype) -> Tensor:
    """The powers of two of scale codes; 255 is NaN."""
    exponent = codes.to(torch.int32) - E8M0_BIAS
    scale = torch.ldexp(torch.ones_like(exponent, dtype=dtype), exponent)
    return torch.where(codes == E8M0_NAN, torch.nan, scale)


def mxfp4_codes(x: Tensor) -> tuple[Tensor, Tensor]:
    """E2M1 codes [..., G, 32] and E8M0 codes [..., G, 1] of groups along the last axis.

    A last group that is not full is filled with zeros.
    """
    x_G = _grouped(x, MX_GROUP, dim=x.ndim - 1)
    scale_codes = e8m0_codes(x_G.abs().amax(dim=-1, keepdim=True))
    return e2m1_codes(x_G / e8m0_values(scale_codes, x.dtype)), scale_codes


def round_to_mxfp4(x: Tensor, dim: int) -> Tensor:
    """The numbers after a way through MXFP4 in groups of 32 along `dim`, in their own type."""
    x_last = x.movedim(dim, -1)
    codes, scale_codes = mxfp4_codes(x_last)
    values = e2m1_values(codes, x.dtype) * e8m0_values(scale_codes, x.dtype)
    return values.flatten(-2)[..., : x_last.shape[-1]].movedim(-1, dim)


def _grouped(x: Tensor, size: int, dim: int) -> Tensor:
    """The axis `dim` cut into groups of `size`, the last one filled with zeros."""
    missing = -x.shape[dim] % size
    x_full = F.pad(x, [0, 0] * (x.ndim - 1 - dim) + [0, missing])
    return x_full.reshape(*x.shape[:dim], x_full.shape[dim] // size, size, *x.shape[dim + 1 :])
