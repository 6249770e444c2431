"""Machine code of the attention kernels, compiled without a GPU."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from astroray_kernels.machine_code import Loop, assemble

__all__ = ["Machine", "compile_kernel", "main_loop"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """A compiled kernel: its resources, and its main loop over full blocks without masks."""

    kernel: str
    arch: int
    precision: str
    dim: int
    row_sum: str
    registers: int
    stack_bytes: int
    shared_bytes: int
    loop: Loop


def compile_kernel(
    kernel: str,
    arch: int,
    *,
    precision: str = "bf16",
    dim: int = 64,
    row_sum: str = "",
    changed: dict[str, str | int | bool] | None = None,
) -> Machine:
    """Compiles "vfa", "flash" or "mxfp4" with the tiles it has on sm_<arch>, and counts.

    row_sum  "ones" or "partial" in place of what the tiles say; only for "vfa"
    changed  compile-time arguments in place of the ordinary ones, as {"SKIP": True}
    """
    from astroray_kernels.vfa import _triton_flash, _triton_kernels, _triton_mxfp4
    from astroray_kernels.vfa._triton_tiles import TILES

    padded = 1 << (dim - 1).bit_length()
    tiles = TILES[arch, padded, precision]
    function = {
        "vfa": _triton_kernels.vfa_forward,
        "flash": _triton_flash.flash_forward,
        "mxfp4": _triton_mxfp4.mxfp4_forward,
    }[kernel]
    row_sum = row_sum or tiles.row_sum
    constants: dict[str, Any] = {
        "DIM": dim, "D": max(padded, 64) if kernel == "mxfp4" else padded,
        "BLOCK_M": tiles.block_m, "BLOCK_N": tiles.block_n, "STAGES": tiles.stages,
        "INT8": precision == "int8_qk", "ESTIMATE": "cauchy_schwarz", "SHIFT": 0, "SKIP": False,
        "HAS_MASK": False, "ROW_SUM": row_sum, "RECORD": False, "INTERPRET": False,
    } | (changed or {})  # fmt: skip
    names = function.arg_names
    code = assemble(
        function,
        {name: _argument_type(name, precision) for name in names},
        {name: value for name, value in constants.items() if name in names},
        arch=arch,
        warps=tiles.warps,
        fused=True,
        aligned=[n for n in names if n.endswith("_ptr") or "stride" in n or "padded" in n],
    )
    return Machine(
        kernel=kernel,
        arch=arch,
        precision=precision,
        dim=dim,
        row_sum="reduce" if kernel == "flash" else row_sum,
        registers=code.registers,
        stack_bytes=code.stack_bytes,
        shared_bytes=code.shared_bytes,
        loop=main_loop(code.loops),
    )


def main_loop(loops: Sequence[Loop]) -> Loop:
    """The first loop of a kernel that takes exponentials.

    The kernels run their pipelined loop over full unmasked blocks before every other loop with an
    exponential, and machine code keeps that order. The loops of the ragged end and of the fallback
    multiply as much, so the number of matrix instructions would not tell them apart.
    """
    return next(loop for loop in loops if loop.counts["EX2"])


def _argument_type(name: str, precision: str) -> str:
    if name in ("q_ptr", "k_ptr", "v_ptr", "out_ptr", "repr_ptr"):
        return "*fp32" if precision == "fp32" else "*bf16"
    special = {"mask_ptr": "*u8", "codes_ptr": "*i8", "facts_ptr": "*i32"}
    if precision == "mxfp4" and re.match(r"[kv]_(codes|scale)", name):
        return "*u8"
    if name in special or name.endswith("_ptr"):
        return special.get(name, "*fp32")
    if name in ("scale_log2", "skip_log2", "l_lo", "l_hi"):
        return "fp32"
    return "constexpr" if name.isupper() else "i32"
