"""Quantized linear layers on a GPU, or in Triton's interpreter: which tiles run, and with what.

MXFP4 and NVFP4 go to the matrix unit as they are on sm_100. Elsewhere MXFP4, as INT4 always, is
unpacked to int8; NVFP4, whose groups are shorter than the matrix unit's steps, to bfloat16. What
sm_100 does with NVFP4 is compiled and was not run: the interpreter has E8M0 scales only.
"""

import dataclasses
import importlib.util
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from astroray_kernels.osc import formats
from astroray_kernels.osc.formats import FORMATS
from astroray_kernels.osc.norms import Norm
from astroray_kernels.osc.packed import PackedWeights
from astroray_kernels.osc.reference import QuantizedActivations
from astroray_kernels.vfa import _triton

PRECISIONS = tuple(FORMATS)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
WARPS = 4
"""Of a token that is quantized."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Scales:
    """The scales of one operand as `multiply` reads them; None where its tiles do not."""

    scale: Tensor
    """float32 [M, G]; of two levels the lower one."""
    codes: Tensor | None = None
    """uint8 [M, G], E8M0 or E4M3."""
    upper: Tensor | None = None
    """float32 [M]."""

    @classmethod
    def of(cls, scale_MG: Tensor, tiles: dict[str, Any], *, is_whole: bool) -> "_Scales":
        """The scales of `formats.encode` as these tiles take them."""
        if tiles["HAS_LEVELS"]:
            lower_MG, upper_M = formats.levels(scale_MG, is_whole=is_whole)
            return cls(scale=lower_MG.float(), codes=lower_MG.view(torch.uint8), upper=upper_M)
        return cls(scale=scale_MG, codes=_powers(scale_MG) if tiles["SCALED"] else None)


def why_not(device: torch.device) -> str:
    """Why Triton cannot run on that device, in words; "" where it can."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install triton)"
    return _triton.why_not(device)


def quantize_activations(
    x_MK: Tensor, packed: PackedWeights, *, norm: Norm | None
) -> QuantizedActivations:
    """Codes, scales and outlier channels, to the bit as `reference.quantize_activations` has.

    A norm is torch's own, whose sums have another order: then scales differ in their last bits.
    """
    from astroray_kernels.osc import _triton_kernels

    x_MK = x_MK if norm is None else _normalized(x_MK, norm)
    form, num_in = FORMATS[packed.format], packed.num_in
    num_groups, num_outliers = packed.scale_NG.shape[1], len(packed.outlier_O)
    x_MK = x_MK if x_MK.stride(1) == 1 else x_MK.contiguous()
    quantized = QuantizedActivations(
        codes=packed.codes.new_empty((len(x_MK), packed.codes.shape[1])),
        scale_MG=packed.scale_NG.new_empty((len(x_MK), num_groups)),
        outlier_MO=packed.outlier_ON.new_empty((len(x_MK), num_outliers)),
    )
    if not len(x_MK):
        return quantized
    kept_K = torch.ones(num_in, dtype=torch.uint8, device=x_MK.device)
    kept_K[packed.outlier_O] = 0
    block = max(_power(num_in), form.group or 1, 2)
    _triton_kernels.quantize_tokens[(len(x_MK),)](
        x_MK, kept_K, packed.outlier_O, quantized.codes, quantized.scale_MG,
        quantized.outlier_MO.view(torch.uint16), x_MK.stride(0), num_in, num_groups, num_outliers,
        BLOCK_K=block, GROUP=form.group or block, BLOCK_O=_power(max(num_outliers, 1)),
        BITS=form.bits, IS_FLOAT=form.is_float, HAS_LEVELS=form.has_levels, LARGEST=form.largest,
        num_warps=WARPS, enable_fp_fusion=False,
    )  # fmt: skip
    return quantized


def osc_linear(
    x_MK: Tensor,
    packed: PackedWeights,
    *,
    activation: str,
    norm: Norm | None,
) -> Tensor:
    """act(norm(x) W^T + bias) [M, N]: whole numbers exact, all else in float32."""
    quantized = quantize_activations(x_MK, packed, norm=norm)
    return _multiplied(quantized, packed, activation, x_MK.dtype)


def osc_mlp(
    x_MK: Tensor,
    first: PackedWeights,
    second: PackedWeights,
    *,
    activation: str,
    norm: Norm | None,
) -> Tensor:
    """Two layers, one after the other: the scale of a token needs all channels between them."""
    quantized = quantize_activations(x_MK, first, norm=norm)
    hidden_MK = _multiplied(quantized, first, activation, torch.float32)
    quantized = quantize_activations(hidden_MK, second, norm=None)
    return _multiplied(quantized, second, "none", x_MK.dtype)


def _normalized(x_MK: Tensor, norm: Norm) -> Tensor:
    shape = (x_MK.shape[1],)
    if norm.takes_mean:
        return F.layer_norm(x_MK.float(), shape, norm.weight_K, norm.bias_K, norm.epsilon)
    y_MK = F.rms_norm(x_MK.float(), shape, norm.weight_K, norm.epsilon)
    return y_MK if norm.bias_K is None else y_MK + norm.bias_K


def _multiplied(
    quantized: QuantizedActivations, packed: PackedWeights, activation: str, dtype: torch.dtype
) -> Tensor:
    from astroray_kernels.osc import _triton_kernels

    num_tokens, device = len(quantized.codes), quantized.codes.device
    y_MN = torch.empty((num_tokens, packed.num_out), dtype=dtype, device=device)
    tiles = tiles_of(packed.format, _arch(device))
    a = _Scales.of(quantized.scale_MG, tiles, is_whole=False)
    b = _Scales.of(packed.scale_NG, tiles, is_whole=True)
    worth = 1.0 if tiles["HAS_LEVELS"] else formats.unit(packed.format) ** 2  # of whole numbers
    grid = (-(-num_tokens // tiles["BLOCK_M"]), -(-packed.num_out // tiles["BLOCK_N"]))
    _triton_kernels.multiply[grid](
        quantized.codes, packed.codes, a.scale, b.scale * worth,
        quantized.outlier_MO, packed.outlier_ON, packed.bias_N, y_MN,
        a.codes, b.codes, a.upper, b.upper,
        num_tokens, packed.num_out, packed.num_in, packed.scale_NG.shape[1],
        len(packed.outlier_O), HAS_OUTLIERS=len(packed.outlier_O) > 0,
        HAS_BIAS=packed.bias_N is not None, GELU=activation == "gelu",
        INTERPRET=_is_interpreting(), num_warps=warps_of(tiles), **tiles,
    )  # fmt: skip
    return y_MN


def tiles_of(name: str, arch: int) -> dict[str, Any]:
    """The compile-time arguments of `multiply` for a format on sm_<arch>; 0 is the interpreter."""
    form = FORMATS[name]
    scaled = form.is_float and arch in ((100,) if form.has_levels else (0, 100))
    grouped = form.group is not None and not scaled and not form.has_levels
    widened = form.has_levels and not scaled
    size = 32 if arch == 0 else 128
    return {
        "BLOCK_M": size, "BLOCK_N": min(size, 64) if grouped else size,
        "BLOCK_K": form.group if grouped else 64 if widened else 128, "STAGES": 3,
        "BITS": form.bits, "IS_FLOAT": form.is_float, "GROUPED": grouped, "SCALED": scaled,
        "HAS_LEVELS": form.has_levels,
    }  # fmt: skip


def warps_of(tiles: dict[str, Any]) -> int:
    """How many warps share a tile: twice as many where it is twice as wide, so that none spills."""
    return 8 if tiles["BLOCK_N"] == 128 else 4


def _powers(scale: Tensor) -> Tensor:
    """E8M0 codes of powers of two: the exponent bits of a float32, 255 for NaN."""
    return ((scale.view(torch.int32) >> 23) & 255).to(torch.uint8)


def _power(size: int) -> int:
    return 1 << (size - 1).bit_length()


def _arch(device: torch.device) -> int:
    return _triton._arch(device)


def _is_interpreting() -> bool:
    return _triton._is_interpreting()
