"""What the attention benchmark runs in fresh processes: turns, growth with N, and memory.

In a round each contender of a case is called once, in an order drawn anew, since a call finds in
the caches what the one before left there; then each instruction that they live on is run. A ratio
is of two times of one round.
"""

import dataclasses
import math
import random
import re
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.instruction_peak import InstructionPeak

if TYPE_CHECKING:  # the parent shall not load torch, and OpenMP with it
    from torch import Tensor

GROWTH_LENGTHS = tuple(2**power for power in range(6, 15))
GROWTH_DIM = 64
IDLE_S = 0.01
"""Threads of OpenMP spin a while after their work, and would disturb what others do next."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """Inputs [1, heads, length, dim] and the names of those who attend to them."""

    heads: int
    length: int
    dim: int = 64
    inputs: str = "random"
    contenders: tuple[str, ...]

    @property
    def flops(self) -> float:
        """Of the two products, where nothing is skipped."""
        return 4.0 * self.heads * self.length**2 * self.dim


@dataclasses.dataclass(frozen=True, kw_only=True)
class Turns:
    """What a case gave; lists have an entry for each round."""

    case: Case
    seconds: dict[str, list[float]]
    """CPU time on one thread, wall time on more."""
    error: dict[str, float]
    """Relative to float64; of VSA what it adds to VFA."""
    largest_error: dict[str, float]
    peak_gflops: dict[str, float]
    """Of our precisions: two products one after the other, each at its instruction's peak."""
    facts: dict[str, dict[str, float]]
    """Shares of tiles, of ours by name; see `attention_cases.tile_facts`."""

    def gflops(self, name: str) -> float:
        """By the fastest round."""
        return self.case.flops / min(self.seconds[name]) / 1e9


def take_turns(cases: Sequence[Case], threads: int, rounds: int) -> list[Turns]:
    """Checks the contenders of each case that this CPU has, then times them in turns."""
    import torch

    torch.set_num_threads(threads)
    with torch.inference_mode():
        return [_turns(case, threads, rounds) for case in cases]


def grow(heads: int, rounds: int) -> dict[int, list[float]]:
    """CPU seconds of bf16 VFA on one thread by length, one for each round."""
    import torch

    from benchmarks import attention_cases as cases

    torch.set_num_threads(1)
    seconds: dict[int, list[float]] = {length: [] for length in GROWTH_LENGTHS}
    with torch.inference_mode():
        inputs = {n: cases.make_inputs("random", heads, n, GROWTH_DIM) for n in GROWTH_LENGTHS}
        for length in GROWTH_LENGTHS[:-1]:
            cases.contenders(inputs[length], None)["bf16"]()
        for _ in range(rounds):
            for length, qkv in inputs.items():
                calls = max(1, (1024 // length) ** 2)
                call = cases.contenders(qkv, None)["bf16"]
                seconds[length].append(_seconds(call, time.process_time, calls) / calls)
    return seconds


def memory_of_call(heads: int, length: int) -> int:
    """Bytes that a call of bf16 VFA takes at its peak beside its inputs and its result."""
    import torch

    from astroray_kernels import vfa_attention

    torch.set_num_threads(1)
    shape = (1, heads, length, GROWTH_DIM)
    attend = partial(vfa_attention, precision="bf16", backend="native")
    with torch.inference_mode():
        attend(*(torch.randn(1, heads, 64, GROWTH_DIM) for _ in range(3)))
        qkv = [torch.randn(shape) for _ in range(3)]
        before = _peak_bytes()
        out = attend(*qkv)
        return _peak_bytes() - before - out.numel() * out.element_size()


def _peak_bytes() -> int:
    """Largest resident memory of this process so far.

    That of getrusage begins with what the parent had before this program was started in its place.
    """
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def _turns(case: Case, threads: int, rounds: int) -> Turns:
    from benchmarks import attention_cases as cases

    inputs = cases.make_inputs(case.inputs, case.heads, case.length, case.dim)
    skip = None
    if "bf16 skip" in case.contenders:
        skip = cases.find_skip(case.heads, case.length, case.dim)
    calls = cases.contenders(inputs, skip)
    names = [name for name in case.contenders if name in calls]
    error, bars = _errors(inputs, {name: calls[name] for name in names}, calls)
    ours = {name: cases.products_of(name) for name in cases.PRECISIONS if name in names}
    peak = InstructionPeak(threads)
    best = dict.fromkeys({name for products in ours.values() for name in products}, 0.0)
    clock = time.process_time if threads == 1 else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in names}
    orders = random.Random(0)
    for _ in range(rounds):
        for name in orders.sample(names, len(names)):
            seconds[name].append(_seconds(calls[name], clock))
        time.sleep(IDLE_S)
        for instruction in best:
            best[instruction] = max(best[instruction], peak.gflops(instruction))
    return Turns(
        case=case,
        seconds=seconds,
        error=error,
        largest_error=bars,
        peak_gflops={
            name: 2 / (1 / best[scores] + 1 / best[values])
            for name, (scores, values) in ours.items()
        },
        facts={
            name: cases.tile_facts(inputs, name, skip)
            for name in names
            if name in (*cases.PRECISIONS, "bf16 skip")
        },
    )


def _errors(
    inputs: tuple["Tensor", "Tensor", "Tensor"],
    called: dict[str, Callable[[], "Tensor"]],
    everyone: dict[str, Callable[[], "Tensor"]],
) -> tuple[dict[str, float], dict[str, float]]:
    """Errors of those who are called, and the largest that each may have."""
    from benchmarks import attention_cases as cases

    exact = cases.exact_part(inputs)
    torch_error = {
        name: cases.relative_error(cases.part_of(everyone[f"torch {name}"]()), exact)
        for name in ("float32", "bfloat16")
    }
    error, bars = {}, {}
    for name, call in called.items():
        precision = name.split()[0]
        if name == "bf16 skip":
            error[name] = cases.relative_error(call(), everyone["bf16"]().double())
            bars[name] = cases.LARGEST_ADDED_ERROR
            continue
        error[name] = cases.relative_error(cases.part_of(call()), exact)
        bars[name] = {
            "torch": math.inf,
            "fp32": 2 * max(torch_error["float32"], 5e-7),
            "bf16": 2 * torch_error["bfloat16"],
            "int8_qk": 0.015,
            "int8": 0.03,
        }[precision]
    return error, bars


def _seconds(call: Callable[[], Any], clock: Callable[[], float], times: int = 1) -> float:
    began_s = clock()
    for _ in range(times):
        call()
    return clock() - began_s
