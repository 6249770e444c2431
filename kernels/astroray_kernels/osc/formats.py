"""The number formats of quantized linear layers: what each code means, and how codes are packed.

| format    | codes           | a scale for                               | bytes a number |
| --------- | --------------- | ----------------------------------------- | -------------- |
| int8      | -127..127       | a token, an output channel (float32)      | 1              |
| int4_g32  | -7..7           | 32 channels of one of them (float32)      | 0.625          |
| int4_g64  | -7..7           | 64 channels (float32)                     | 0.5625         |
| int4_g128 | -7..7           | 128 channels (float32)                    | 0.53125        |
| mxfp4     | E2M1, 16 codes  | 32 channels (E8M0: a power of two)        | 0.53125        |

Integers are symmetric: the lowest code is not used and there is no integer offset. The code of a
number is round(number * (largest / amax)), ties to even, the scale amax / largest; product and
quotients are of float32 and rounded once each. (A division by the scale would cost a CPU as much
as a tenth of the matrix product, and rounds no better.) MXFP4 is that of `vfa.formats`: the scale
is the smallest power of two under which nothing saturates; minus zero (code 8) is not used.

Letters: G groups that have a scale each, `...` anything.
"""

import dataclasses

import torch
from torch import Tensor

from astroray_kernels.vfa import formats as mx

TINY = 2.0**-100
"""A group whose numbers are all smaller than this counts as zeros: 127 / amax must be finite."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Format:
    """One number format."""

    bits: int
    group: int | None
    """Consecutive channels that share a scale; None: all of a token or of an output channel."""
    largest: int
    """The largest code of an integer; for E2M1 twice the largest number."""
    is_float: bool = False

    def num_groups(self, num_in: int) -> int:
        """How many scales a row of `num_in` channels has."""
        return 1 if self.group is None else num_in // self.group


FORMATS = {
    "int8": Format(bits=8, group=None, largest=127),
    "int4_g32": Format(bits=4, group=32, largest=7),
    "int4_g64": Format(bits=4, group=64, largest=7),
    "int4_g128": Format(bits=4, group=128, largest=7),
    "mxfp4": Format(bits=4, group=mx.MX_GROUP, largest=12, is_float=True),
}


def encode(x: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Packed codes and the scales float32 [..., G] of numbers float32 [..., K].

    Codes are int8 [..., K] for int8, else uint8 [..., K / 2]: see `pack_nibbles`. A group that
    holds a NaN or an infinity has a NaN for its scale. A group of zeros has scale 1.
    """
    form = FORMATS[name]
    x_G = x.reshape(*x.shape[:-1], form.num_groups(x.shape[-1]), form.group or x.shape[-1])
    if form.is_float:
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


def pack_nibbles(codes: Tensor) -> Tensor:
    """Two codes a byte, uint8 [..., K / 2]: channel 2i in bits 0 to 3, channel 2i + 1 in 4 to 7."""
    pairs = codes.to(torch.uint8).reshape(*codes.shape[:-1], codes.shape[-1] // 2, 2) & 0x0F
    return pairs[..., 0] | (pairs[..., 1] << 4)


def unpack_nibbles(packed: Tensor) -> Tensor:
    """The codes 0 to 15, uint8 [..., K], of `pack_nibbles`."""
    return torch.stack((packed & 0x0F, packed >> 4), dim=-1).flatten(-2)


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
