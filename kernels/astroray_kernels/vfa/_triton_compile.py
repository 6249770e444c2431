"""Machine code of the attention kernels without a GPU: ahead-of-time compilation and counting.

The counts are static: instructions of one thread in one pass of a loop. They say what a loop is
made of, not how fast it runs.
"""

import collections
import dataclasses
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

ARCHITECTURES = (80, 90, 100)
COUNTED = ("EX2", "FMNMX", "SHFL", "FADD", "FMUL", "FFMA", "I2F", "MMA", "STL", "LDL")
VECTOR = ("FMNMX", "SHFL", "FADD", "FMUL", "FFMA", "I2F")
"""What the vector pipes do for a score beside its exponential."""

_OPCODES = {
    "EX2": re.compile(r"MUFU\.EX2"),
    "FMNMX": re.compile(r"FMNMX"),  # on sm_100 also FMNMX3, of three numbers
    "SHFL": re.compile(r"SHFL"),
    "FADD": re.compile(r"FADD"),  # on sm_100 also FADD2, FMUL2 and FFMA2, of two pairs
    "FMUL": re.compile(r"FMUL"),
    "FFMA": re.compile(r"FFMA"),
    "I2F": re.compile(r"I2F"),
    "MMA": re.compile(r"(UTC|H|I|Q|O|HG|IG|QG)+MMA"),
    "STL": re.compile(r"STL"),
    "LDL": re.compile(r"LDL"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loop:
    """One loop of a kernel: the instructions between a label and the branch back to it."""

    size: int
    counts: dict[str, int]
    """By the names of `COUNTED`, per thread and pass."""

    def vector_per_exp(self) -> float:
        """Vector instructions for each exponential."""
        return sum(self.counts[name] for name in VECTOR) / max(self.counts["EX2"], 1)


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
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

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
    signature = {name: _argument_type(name, precision) for name in names}
    constants = {name: value for name, value in constants.items() if name in names}
    is_aligned = [name.endswith("_ptr") or "stride" in name or "padded" in name for name in names]
    attributes = {(i,): [["tt.divisibility", 16]] for i, yes in enumerate(is_aligned) if yes}
    compiled = triton.compile(
        ASTSource(function, signature, constants, attributes),
        target=GPUTarget("cuda", arch, 32),
        options={"num_warps": tiles.warps, "enable_fp_fusion": True},
    )
    listing, resources = disassemble(compiled.asm["cubin"])
    return Machine(
        kernel=kernel,
        arch=arch,
        precision=precision,
        dim=dim,
        row_sum="reduce" if kernel == "flash" else row_sum,
        registers=resource("REG", resources),
        stack_bytes=resource("STACK", resources),
        shared_bytes=int(compiled.metadata.shared),
        loop=count_loop(listing),
    )


def disassemble(cubin: bytes) -> tuple[str, str]:
    """The listing and the resource usage of a cubin, by the tools that Triton brings."""
    import triton.backends.nvidia

    tools = Path(triton.backends.nvidia.__file__).parent / "bin"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)

        def output(tool: str, option: str) -> str:
            command = [str(tools / tool), option, str(path)]
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout

        return output("nvdisasm", "-c"), output("cuobjdump", "--dump-resource-usage")


def count_loop(listing: str) -> Loop:
    """The main loop of a listing: the first backward branch range that takes exponentials.

    The kernels run their pipelined loop over full unmasked blocks before every other loop with an
    exponential, and machine code keeps that order. The loops of the ragged end and of the fallback
    multiply as much, so the number of matrix instructions would not tell them apart.
    """
    return next(loop for loop in loops_of(listing) if loop.counts["EX2"])


def loops_of(listing: str) -> list[Loop]:
    """All loops of a listing, those that end first first."""
    opcodes, ranges = _parse(listing)
    return [_loop(opcodes[start:end]) for start, end in ranges]


def _loop(opcodes: list[str]) -> Loop:
    counts: collections.Counter[str] = collections.Counter()
    for opcode in opcodes:
        counts.update(name for name, pattern in _OPCODES.items() if pattern.match(opcode))
    return Loop(size=len(opcodes), counts={name: counts[name] for name in COUNTED})


def _parse(listing: str) -> tuple[list[str], list[tuple[int, int]]]:
    """Opcodes in order, and the ranges [label, backward branch), those that end first first."""
    opcodes: list[str] = []
    labels: dict[str, int] = {}
    ranges: list[tuple[int, int]] = []
    for line in listing.splitlines():
        if label := re.match(r"\s*(\.L_\w+):", line):
            labels[label[1]] = len(opcodes)
        # A predicate such as @!UP0 may stand before the opcode.
        code = re.match(r"\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)(.*)", line)
        if code is None:
            continue
        opcodes.append(code[1])
        target = re.search(r"\.L_\w+", code[2]) if code[1].startswith("BRA") else None
        if target and target[0] in labels:
            ranges.append((labels[target[0]], len(opcodes)))
    return opcodes, ranges


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


def resource(name: str, text: str) -> int:
    """A number of what `disassemble` says of resources, as REG or STACK."""
    found = re.search(rf"\b{name}:(\d+)", text)
    if found is None:
        raise ValueError(f"cuobjdump printed no {name} in {text!r}")
    return int(found[1])
