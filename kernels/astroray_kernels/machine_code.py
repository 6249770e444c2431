"""Machine code of Triton's kernels without a GPU: compiled ahead of time, its loops counted.

The counts are static: instructions of one thread in one pass of a loop. They say what a loop is
made of, not how fast it runs.
"""

import collections
import dataclasses
import re
import subprocess
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

__all__ = ["ARCHITECTURES", "COUNTED", "Loop", "MachineCode", "assemble"]

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
class MachineCode:
    """A compiled kernel: its resources, and its loops, those that end first first."""

    registers: int
    stack_bytes: int
    shared_bytes: int
    opcodes: frozenset[str]
    """Names of the matrix instructions, without their modifiers."""
    loops: list[Loop]

    @property
    def products(self) -> list[Loop]:
        """The loops with a matrix product."""
        return [loop for loop in self.loops if loop.counts["MMA"]]


def assemble(
    function: Any,
    types: Mapping[str, str],
    constants: Mapping[str, Any],
    *,
    arch: int,
    warps: int,
    fused: bool,
    aligned: Collection[str],
) -> MachineCode:
    """Compiles a kernel for sm_<arch>, and counts.

    types    of its arguments as Triton names them, "constexpr" for the `constants`
    fused    whether a product and a sum may be one instruction
    aligned  arguments that are multiples of 16
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    attributes = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(function.arg_names)
        if name in aligned
    }
    compiled = triton.compile(
        ASTSource(function, dict(types), dict(constants), attributes),
        target=GPUTarget("cuda", arch, 32),
        options={"num_warps": warps, "enable_fp_fusion": fused},
    )
    listing, resources = _disassemble(compiled.asm["cubin"])
    return MachineCode(
        registers=_resource("REG", resources),
        stack_bytes=_resource("STACK", resources),
        shared_bytes=int(compiled.metadata.shared),
        opcodes=frozenset(re.findall(r"\b([A-Z]*MMA)\b", listing)),
        loops=loops_of(listing),
    )


def _disassemble(cubin: bytes) -> tuple[str, str]:
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


def _resource(name: str, text: str) -> int:
    """A number of what `_disassemble` says of resources, as REG or STACK."""
    found = re.search(rf"\b{name}:(\d+)", text)
    if found is None:
        raise ValueError(f"cuobjdump printed no {name} in {text!r}")
    return int(found[1])
