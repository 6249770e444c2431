"""Machine code of the quantized linear layers, compiled without a GPU."""

from typing import Any

from astroray_kernels.machine_code import MachineCode, assemble
from astroray_kernels.osc import _triton
from astroray_kernels.osc.formats import FORMATS

__all__ = ["compile_multiply", "compile_quantize"]

_TYPES = {
    "x_ptr": "*bf16", "y_ptr": "*bf16", "a_outlier_ptr": "*bf16", "b_outlier_ptr": "*bf16",
    "outlier_ptr": "*i64", "kept_ptr": "*u8", "token_outlier_ptr": "*u16",
    "a_power_ptr": "*u8", "b_power_ptr": "*u8",
}  # fmt: skip


def compile_multiply(name: str, arch: int) -> MachineCode:
    """The kernel that multiplies, for bfloat16 in and out, with outliers and bias."""
    from astroray_kernels.osc import _triton_kernels

    constants = {
        "HAS_OUTLIERS": True, "HAS_BIAS": True, "GELU": False, "INTERPRET": False,
        **_triton.tiles_of(name, arch),
    }  # fmt: skip
    warps = _triton.warps_of(constants)
    return _compile(_triton_kernels.multiply, name, arch, constants, warps=warps, fused=True)


def compile_quantize(name: str, arch: int) -> MachineCode:
    """The kernel that quantizes tokens, of 1,024 channels."""
    from astroray_kernels.osc import _triton_kernels

    form = FORMATS[name]
    constants = {
        "BLOCK_K": 1024, "GROUP": form.group or 1024, "BLOCK_O": 32, "BITS": form.bits,
        "IS_FLOAT": form.is_float, "HAS_LEVELS": form.has_levels, "LARGEST": form.largest,
    }  # fmt: skip
    warps = _triton.WARPS
    return _compile(
        _triton_kernels.quantize_tokens, name, arch, constants, warps=warps, fused=False
    )


def _compile(
    function: Any, name: str, arch: int, constants: dict[str, Any], *, warps: int, fused: bool
) -> MachineCode:
    names = function.arg_names
    codes = "*i8" if FORMATS[name].bits == 8 else "*u8"
    types = {"a_ptr": codes, "b_ptr": codes, "codes_ptr": codes} | _TYPES
    signature = {
        one: types.get(one) or ("*fp32" if one.endswith("_ptr") else "i32") for one in names
    }
    signature |= dict.fromkeys(constants, "constexpr")
    strides = ("stride", "K", "N", "num_outliers")
    return assemble(
        function,
        signature,
        constants,
        arch=arch,
        warps=warps,
        fused=fused,
        aligned=[one for one in names if one.endswith("_ptr") or one in strides],
    )
