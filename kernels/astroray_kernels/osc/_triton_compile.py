"""Machine code of the quantized linear layers without a GPU: compiled ahead of time and counted.

The counts are static: instructions of one thread in one pass of a loop. They say what a loop is
made of, not how fast it runs.
"""

import dataclasses
import re
from typing import Any

from astroray_kernels.osc import _triton
from astroray_kernels.osc.formats import FORMATS
from astroray_kernels.vfa._triton_compile import (
    ARCHITECTURES,
    Loop,
    disassemble,
    loops_of,
    resource,
)

__all__ = ["ARCHITECTURES", "Machine", "compile_multiply", "compile_quantize"]

_TYPES = {
    "x_ptr": "*bf16", "y_ptr": "*bf16", "a_outlier_ptr": "*bf16", "b_outlier_ptr": "*bf16",
    "outlier_ptr": "*i64", "kept_ptr": "*u8", "token_outlier_ptr": "*u16",
    "a_power_ptr": "*u8", "b_power_ptr": "*u8",
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """A compiled kernel: its resources, and its loops with a matrix product in program order."""

    format: str
    arch: int
    registers: int
    stack_bytes: int
    shared_bytes: int
    opcodes: frozenset[str]
    """Names of the matrix instructions, without their modifiers."""
    loops: list[Loop]


def compile_multiply(name: str, arch: int) -> Machine:
    """The kernel that multiplies, for bfloat16 in and out, with outliers and bias."""
    from astroray_kernels.osc import _triton_kernels

    constants = {
        "HAS_OUTLIERS": True, "HAS_BIAS": True, "GELU": False, "INTERPRET": False,
        **_triton.tiles_of(name, arch),
    }  # fmt: skip
    warps = _triton.warps_of(constants)
    return _compile(_triton_kernels.multiply, name, arch, constants, warps=warps, fused=True)


def compile_quantize(name: str, arch: int, num_in: int = 1024) -> Machine:
    """The kernel that quantizes tokens of `num_in` channels."""
    from astroray_kernels.osc import _triton_kernels

    form = FORMATS[name]
    constants = {
        "BLOCK_K": num_in, "GROUP": form.group or num_in, "BLOCK_O": 32, "BITS": form.bits,
        "IS_FLOAT": form.is_float, "HAS_LEVELS": form.has_levels, "LARGEST": form.largest,
    }  # fmt: skip
    warps = _triton.WARPS
    return _compile(
        _triton_kernels.quantize_tokens, name, arch, constants, warps=warps, fused=False
    )


def _compile(
    function: Any, name: str, arch: int, constants: dict[str, Any], *, warps: int, fused: bool
) -> Machine:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = function.arg_names
    codes = "*i8" if FORMATS[name].bits == 8 else "*u8"
    types = {"a_ptr": codes, "b_ptr": codes, "codes_ptr": codes} | _TYPES
    signature = {
        one: types.get(one) or ("*fp32" if one.endswith("_ptr") else "i32") for one in names
    }
    signature |= dict.fromkeys(constants, "constexpr")
    aligned = [one.endswith("_ptr") or one in ("stride", "K", "N", "num_outliers") for one in names]
    attributes = {(i,): [["tt.divisibility", 16]] for i, yes in enumerate(aligned) if yes}
    compiled = triton.compile(
        ASTSource(function, signature, constants, attributes),
        target=GPUTarget("cuda", arch, 32),
        options={"num_warps": warps, "enable_fp_fusion": fused},
    )
    listing, resources = disassemble(compiled.asm["cubin"])
    return Machine(
        format=name,
        arch=arch,
        registers=resource("REG", resources),
        stack_bytes=resource("STACK", resources),
        shared_bytes=int(compiled.metadata.shared),
        opcodes=frozenset(re.findall(r"\b([A-Z]*MMA)\b", listing)),
        loops=[loop for loop in loops_of(listing) if loop.counts["MMA"]],
    )
