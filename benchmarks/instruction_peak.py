"""How fast this CPU runs the instructions that attention's products are made of, and nothing else.

24 sums that do not wait for one another, operands in registers: the most that a kernel made of
them could reach. Of AVX2 12, and vpmaddwd and vpmaddubsw are followed by what adds their products,
of two vpmaddubsw in EIGHTS by vpaddw and vpmaddwd before that.
The native library runs the instructions; time is taken here. A product and a sum are two
operations, of integers too.
"""

import ctypes
import functools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.processes import run_fresh
from benchmarks.rows import BenchRow, MeasurementError, measured, run_benchmark, spread

EIGHTS = "2 vpmaddubsw, vpmaddwd"
"""Products of 8 bits to sums of 32, by AVX2."""
INSTRUCTIONS = {
    "vfmadd231ps": 0, "vpdpwssd": 1, "vpdpbusd": 2, "vdpbf16ps": 3, "vfmadd231ph": 4,
    "tdpbusd": 5, "tdpbf16ps": 6, "vpmaddwd": 7, "vpmaddubsw": 8, EIGHTS: 9,
}  # fmt: skip
"""Codes of native/peak.h."""

STEPS = 500_000
"""About 2 ms: short enough to be undisturbed, long enough to start threads for."""


class InstructionPeak:
    """Runs instructions on one thread or on several at once."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._run = _native_peak()
        self._pool = ThreadPoolExecutor(threads)

    def gflops(self, instruction: str) -> float:
        """1e9 operations a second of all threads together; CPU time of one, wall time of more.

        Raises MeasurementError where the CPU lacks the instruction.
        """
        code = INSTRUCTIONS[instruction]
        clock = time.process_time if self.threads == 1 else time.perf_counter
        began_s = clock()
        if self.threads == 1:
            flops = self._run(code, STEPS)
        else:  # ctypes lets other threads run meanwhile
            flops = sum(self._pool.map(self._run, [code] * self.threads, [STEPS] * self.threads))
        seconds = clock() - began_s
        if not flops:
            raise MeasurementError(f"this CPU, or this build of the library, has no {instruction}")
        return float(flops / seconds / 1e9)


def peaks_of(instruction: str, threads: int, runs: int) -> list[float]:
    """1e9 operations a second of each run."""
    peak = InstructionPeak(threads)
    peak.gflops(instruction)  # clocks rise, threads start
    return [peak.gflops(instruction) for _ in range(runs)]


def measure(quick: bool, scratch: Path) -> list[BenchRow]:
    """A row for each instruction and number of threads; nothing is written."""
    rows = []
    for threads in (1, 2):
        for name in INSTRUCTIONS:
            what = f"operations of {name}, {threads} thread{'s'[: threads > 1]}"
            claim = functools.partial(BenchRow, what=what, goal=None, unit="1e9/s")
            fields = functools.partial(_fields, name, threads, 10 if quick else 50)
            rows += measured([claim], fields)
    return rows


def _fields(instruction: str, threads: int, runs: int) -> list[dict[str, Any]]:
    # With a reason instead of an exception, the fresh process says nothing on standard error.
    found = run_fresh(_peaks_or_reason, instruction, threads, runs).value()
    if isinstance(found, str):
        raise MeasurementError(found)
    return [{**spread(found), "facts": {"best": max(found)}}]


def _peaks_or_reason(instruction: str, threads: int, runs: int) -> list[float] | str:
    try:
        return peaks_of(instruction, threads, runs)
    except MeasurementError as error:
        return str(error)


def _native_peak() -> Callable[[int, int], int]:
    import torch

    from astroray_kernels import library

    if reason := library.why_not(torch.device("cpu")):
        raise MeasurementError(f"native kernels cannot run: {reason}")
    types = (ctypes.c_int32, ctypes.c_int64)
    return library.function("astroray_peak", *types, result=ctypes.c_int64)


def main() -> None:
    """`python -m benchmarks.instruction_peak`."""
    run_benchmark("instruction_peak", "The instruction peaks of this CPU.", measure)


if __name__ == "__main__":
    from benchmarks import instruction_peak as module  # so that fresh processes find its functions

    module.main()
