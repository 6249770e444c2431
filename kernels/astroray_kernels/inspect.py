"""`python -m astroray_kernels.inspect`: what the Triton kernels are made of, on any machine.

Compiles them ahead of time, the FlashAttention twin and VFA or, with --op osc_linear, the quantized
layers, and prints, of one thread and one pass of the main loop, how many instructions of each kind
there are. No GPU is needed, only Triton.
"""

import argparse
import dataclasses
import itertools
import json
import sys
from collections.abc import Iterator

from astroray_kernels.machine_code import ARCHITECTURES, COUNTED
from astroray_kernels.osc._triton_compile import compile_multiply
from astroray_kernels.osc.formats import FORMATS
from astroray_kernels.vfa._triton_compile import Machine, compile_kernel


def machines(architectures: list[int], dim: int) -> Iterator[Machine]:
    """Every kernel of the table, compiled one after another."""
    for arch in architectures:
        for precision in ("bf16", "int8_qk"):
            yield compile_kernel("flash", arch, precision=precision, dim=dim)
            for row_sum in ("partial", "ones"):
                yield compile_kernel("vfa", arch, precision=precision, dim=dim, row_sum=row_sum)
        if arch >= 100:
            yield compile_kernel("mxfp4", arch, precision="mxfp4", dim=dim)


def table(rows: list[Machine]) -> str:
    """The rows as a Markdown table."""
    resources = ("registers", "stack", "shared", "loop")
    names = ("sm", "kernel", "precision", "row sum", *resources, *COUNTED, "vector / EX2")
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in rows:
        loop = row.loop
        cells = [row.arch, row.kernel, row.precision, row.row_sum]
        cells += [row.registers, row.stack_bytes, row.shared_bytes, loop.size]
        cells += [loop.counts[name] for name in COUNTED]
        cells.append(f"{loop.vector_per_exp():.2f}")
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def layer_table(architectures: list[int]) -> str:
    """The quantized layers in every format, compiled one after another, as a Markdown table."""
    counted = ("MMA", "I2F", "FMUL", "FFMA", "STL", "LDL")
    names = ("sm", "format", "matrix units", "registers", "stack", "shared", "loop", *counted)
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for arch, name in itertools.product(architectures, FORMATS):
        code = compile_multiply(name, arch)
        loop = code.products[0]
        cells = [arch, name, ", ".join(sorted(code.opcodes)), code.registers]
        cells += [code.stack_bytes, code.shared_bytes, loop.size]
        cells += [loop.counts[name] for name in counted]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Prints the table, or with --json one line for each kernel."""
    parser = argparse.ArgumentParser(prog="python -m astroray_kernels.inspect")
    known = ",".join(str(arch) for arch in ARCHITECTURES)
    parser.add_argument("--arch", default=known, help=f"compute capabilities, of {known}")
    parser.add_argument("--dim", type=int, default=64, choices=(32, 64, 96, 128))
    parser.add_argument("--json", action="store_true", help="one JSON line for each kernel")
    parser.add_argument("--op", default="vfa_attention", choices=("vfa_attention", "osc_linear"))
    options = parser.parse_args(arguments)
    unknown = set(options.arch.split(",")) - set(known.split(","))
    if unknown:
        parser.error(f"--arch has {', '.join(sorted(unknown))}, expected some of {known}")
    architectures = [int(arch) for arch in options.arch.split(",")]
    if options.op == "osc_linear":
        sys.stdout.write(layer_table(architectures) + "\n")
        return
    rows = []
    for row in machines(architectures, options.dim):
        rows.append(row)
        if options.json:
            ratio = {"vector_per_exp": round(row.loop.vector_per_exp(), 2)}
            sys.stdout.write(json.dumps(dataclasses.asdict(row) | ratio) + "\n")
    if not options.json:
        sys.stdout.write(table(rows) + "\n")


if __name__ == "__main__":
    main()
