"""The number formats of quantized linear layers: what each code means, and how codes are packed.

| format    | codes           | a scale for                               | bytes a number |
| --------- | --------------- | ----------------------------------------- | -------------- |
| int8      | -127..127       | a token, an output channel (float32)      | 1              |
| int4_g32  | -7..7           | 32 channels of one of them (float32)      | 0.625          |
| int4_g64  | -7..7           | 64 channels (float32)                     | 0.5625         |
| int4_g128 | -7..7           | 128 channels (float32)                    | 0.53125        |
| mxfp4     | E2M1, 16 codes  | 32 channels (E8M0: a power of two)        | 0.53125        |
| nvfp4     | E2M1, 16 codes  | 16 channels (E4M3), and the whole, below  | 0.5625         |

Integers are symmetric: the lowest code is not used and there is no integer offset. The code of a
number is round(number * (largest / amax)), ties to even, the scale amax / largest; product and
quotients are of float32 and rounded once each. (A division by the scale would cost a CPU as much
as a tenth of the matrix product, and rounds no better.) MXFP4 is that of `vfa.formats`: the scale
is the smallest power of two under which nothing saturates; minus zero (code 8) is not used.

NVFP4 has two levels of scales. The upper one, float32, is amax / (6 * 448) of all weights of a
layer, and of each token: of all tokens at once, as others have it, one would depend on the others,
and a GPU applies it after the products in either case. The lower one is amax / 6 of 16 channels
over the upper one, rounded to E4M3, ties to even, but at least its smallest and at most its largest
number, 2^-9 and 448; where it was rounded down, numbers beyond 6 of it become 6. A scale, float32,
is the product of both, and the code of a number is that of number * (1 / scale).

Letters: G groups that have a scale each, `...` anything.
"""

import dataclasses

import torch
from torch import Tensor

from astroray_kernels.vfa import formats as mx

TINY = 2.0**-100
"""A group whose numbers are all smaller than this counts as zeros: 127 / amax must be finite."""
E4M3_LARGEST, E4M3_SMALLEST = 448.0, 2.0**-9
"""Of the numbers above zero."""
NV_GROUP = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Format:
    """One number format."""

    bits: int
    group: int | None
    """Consecutive channels that share a scale; None: all of a token or of an output channel."""
    largest: int
    """The largest code of an integer; for E2M1 twice the largest number."""
    is_float: bool = False
    has_levels: bool = False
    """Whether a scale is one of a group times one of the whole."""

    def num_groups(self, num_in: int) -> int:
        """How many scales a row of `num_in` channels has."""
        return 1 if self.group is None else num_in // self.group


FORMATS = {
    "int8": Format(bits=8, group=None, largest=127),
    "int4_g32": Format(bits=4, group=32, largest=7),
    "int4_g64": Format(bits=4, group=64, largest=7),
    "int4_g128": Format(bits=4, group=128, largest=7),
    "mxfp4": Format(bits=4, group=mx.MX_GROUP, largest=12, is_float=True),
    "nvfp4": Format(bits=4, group=NV_GROUP, largest=12, is_float=True, has_levels=True),
}


def encode(x: Tensor, name: str, *, is_whole: bool = False) -> tuple[Tensor, Tensor]:
    """Packed codes and the scales float32 [..., G] of numbers float32 [..., K].

    is_whole  whether the upper scale of nvfp4 is that of all numbers, not of each row

    Codes are int8 [..., K] for int8, else uint8 [..., K / 2]: see `pack_nibbles`. A group that
    holds a NaN or an infinity has a NaN for its scale, in nvfp4 all that share the upper scale.
    A group of zeros has scale 1, in nvfp4 1 times the upper one, which of zeros alone is 1.
    """
    form = FORMATS[name]
    x_G = x.reshape(*x.shape[:-1], form.num_groups(x.shape[-1]), form.group or x.shape[-1])
    if form.has_levels:
        codes, scale = _two_level_codes(x_G, is_whole=is_whole)
    elif form.is_float:
        codes, exponent = mx.mxfp4_codes(x)
        scale = mx.e8m0_values(exponent, torch.float32)
        codes = torch.where(scale.isnan() | (codes == 8), 0, codes)  # zero has one code, plus
    else:
        codes, scale = _integer_codes(x_G, form.largest)
    codes, scale = codes.flatten(-2), scale.squeeze(-1)
    return (codes if form.bits == 8 else pack_nibbles(codes)), scale


def integers(codes: Tensor, name: str) -> Tensor:
    """The whole numbers int8 [..., K] of packed codes: number = integer * scale * `unit`."""
    form = FORMATS[name]
    if form.bits == 8:
        return codes
    nibbles = unpack_nibbles(codes)
    if form.is_float:
        return (2 * mx.e2m1_values(nibbles, torch.float32)).to(torch.int8)
    return (nibbles.to(torch.int8) ^ 8) - 8  # the sign bit of four, spread over eight


def unit(name: str) -> float:
    """What one step of `integers` is worth, in scales: a half for E2M1, whose steps are halves."""
    return 0.5 if FORMATS[name].is_float else 1.0


def levels(scale_NG: Tensor, *, is_whole: bool) -> tuple[Tensor, Tensor]:
    """The two levels of nvfp4's scales float32 [N, G] of `encode`.

    The largest group of those that share an upper scale has the largest E4M3 number for its own.

    Returns the lower ones, E4M3 [N, G], and the upper ones, float32 [N], equal but for a rounding.
    """
    top = scale_NG.amax() if is_whole else scale_NG.amax(dim=1, keepdim=True)
    upper_N1 = (top / E4M3_LARGEST).expand(len(scale_NG), 1)
    return (scale_NG / upper_N1).to(torch.float8_e4m3fn), upper_N1[:, 0].contiguous()


def pack_nibbles(codes: Tensor) -> Tensor:
    """Two codes a byte, uint8 [..., K / 2]: channel 2i in bits 0 to 3, channel 2i + 1 in 4 to 7."""
    pairs = codes.to(torch.uint8).reshape(*codes.shape[:-1], codes.shape[-1] // 2, 2) & 0x0F
    return pairs[..., 0] | (pairs[..., 1] << 4)


def unpack_nibbles(packed: Tensor) -> Tensor:
    """The codes 0 to 15, uint8 [..., K], of `pack_nibbles`."""
    return torch.stack((packed & 0x0F, packed >> 4), dim=-1).flatten(-2)


def _two_level_codes(x_G: Tensor, *, is_whole: bool) -> tuple[Tensor, Tensor]:
    """E2M1 codes [..., G, 16] and scales [..., G, 1]."""
    top_G = x_G.abs().amax(dim=-1, keepdim=True)
    top = top_G.amax() if is_whole else top_G.amax(dim=-2, keepdim=True)
    upper = torch.where(top < TINY, 1.0, top / torch.full_like(top, 6 * E4M3_LARGEST))
    upper = upper.where(top.isfinite(), torch.nan).expand_as(top_G)
    wanted = top_G / torch.full_like(top_G, 6.0) / upper
    wanted = wanted.clamp(E4M3_SMALLEST, E4M3_LARGEST)  # NaN stays one
    lower = wanted.to(torch.float8_e4m3fn).float().where(top_G >= TINY, 1.0)
    scale = lower * upper
    scaled = (x_G * (torch.ones_like(scale) / scale)).nan_to_num(0.0).where(top_G >= TINY, 0.0)
    codes = mx.e2m1_codes(scaled)
    return torch.where(scale.isnan() | (codes == 8), 0, codes), scale


def _integer_codes(x_G: Tensor, largest: int) -> tuple[Tensor, Tensor]:
    amax = x_G.abs().amax(dim=-1, keepdim=True)
    is_zero = amax < TINY
    # Of two tensors: with a plain number torch multiplies by a reciprocal, which rounds twice.
    most = torch.full_like(amax, largest)
    inverse = torch.where(is_zero, 0.0, most / amax)
    scale = torch.where(is_zero, 1.0, amax / most)
    scale = torch.where(amax.isfinite(), scale, torch.nan)
    codes = torch.round(x_G * inverse).nan_to_num(0.0, 0.0, 0.0).clamp(-largest, largest)
    return torch.where(scale.isnan(), 0, codes).to(torch.int8), scale
