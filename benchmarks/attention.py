"""Attention on a CPU: ours against torch's, VFA against its own twin, VSA against VFA.

Torch is scaled_dot_product_attention, in each round the faster of float32 and bfloat16. The twin is
our own kernel with the ordinary online softmax of FlashAttention: what VFA gains over it is VFA's,
the rest is the kernel's. Both sides have the same malloc settings, those of astroray's workers: no
result is mapped anew for each call.

`limit` is what the ratio could be if both products ran at the measured peak of their instructions
and nothing else had to be done.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.attention_turns import (
    GROWTH_LENGTHS,
    Case,
    Turns,
    grow,
    memory_of_call,
    take_turns,
)
from benchmarks.claims import at_least, at_most
from benchmarks.processes import attempt, why_not_native
from benchmarks.rows import BenchRow, MeasurementError, measured, run_benchmark, spread

TORCH = ("torch float32", "torch bfloat16")
PEERS_IN_WORDS = {
    TORCH: "torch scaled_dot_product_attention, in each round the faster of float32 and bfloat16",
    ("bf16 online",): "our native kernel with the online softmax, bf16",
    ("int8_qk online",): "our native kernel with the online softmax, int8_qk",
    ("bf16",): "VFA, our native kernel, bf16",
}
NAMES = {
    "fp32": "float32 VFA",
    "bf16": "bf16 VFA",
    "int8_qk": "int8 QK VFA",
    "int8": "int8 / int8 with the true maximum",
    "bf16 in and out": "bf16 VFA, bfloat16 in and out",
}
GOALS: dict[str, dict[int, float | None]] = {
    "bf16": {256: 3.8, 1024: 4.3, 4096: 4.5},
    "int8_qk": {256: 4.3, 1024: 5.0, 4096: 5.5},
    "int8": {256: 4.5, 1024: 5.4, 4096: 5.7},
    "fp32": {256: 2.0, 1024: 2.2, 4096: 2.3},
    "bf16 in and out": {256: None, 1024: None, 4096: None},
}
TWIN_GOALS = {"bf16": 1.05, "int8_qk": 1.08}
"""At the longest of `GOALS`; the shorter ones are shown."""
HEADS = {256: 192, 1024: 24, 4096: 4}
STAMP_LENGTHS = (64, 192, 320)
STAMP_DIMS = (32, 64)
STAMP_ROWS = 49_152
"""Positions of all heads together: a batch of stamps."""
LARGEST_EXPONENT = 2.1
LARGEST_MEMORY_GROWTH = 1.05
MEMORY_LENGTHS = (4096, 16384)
GROWTH_HEADS = 4

LARGEST_BLOCK_ERROR = 0.002
"""Relative to the block's result with torch in float32."""

GROWTH_CLAIM = at_most(
    "power of N that the CPU time of bf16 VFA grows with, N=1024 to 16384, D=64",
    LARGEST_EXPONENT,
    unit="power",
)
MEMORY_CLAIM = at_most(
    "memory of a bf16 VFA call per position, N=16384 against N=4096, D=64",
    LARGEST_MEMORY_GROWTH,
    peer="the same call at N=4096",
    limit=1.0,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """One row to be: who is faster than whom on which inputs."""

    what: str
    goal: float | None
    inputs: str
    length: int
    dim: int
    ours: str
    peers: tuple[str, ...]

    def row(self, threads: int) -> Callable[..., BenchRow]:
        """The row without what is measured."""
        peer = PEERS_IN_WORDS[self.peers]
        clock = "CPU time of 1 thread" if threads == 1 else f"wall time of {threads} threads"
        return at_least(f"{self.what}, {clock}", self.goal, peer=peer)

    def fields(self, turns: Turns) -> dict[str, Any]:
        """What was measured, as fields of the row. Raises MeasurementError on wrong results."""
        for name in (self.ours, *self.peers):
            if name not in turns.seconds:
                raise MeasurementError(f"this CPU has no {name}")
            if not turns.error[name] <= turns.largest_error[name]:
                raise MeasurementError(
                    f"the relative error of {name} is {turns.error[name]:.2g}, expected at most "
                    f"{turns.largest_error[name]:.2g}"
                )
        peer_s = np.min([turns.seconds[name] for name in self.peers], axis=0)
        ratios = (peer_s / np.asarray(turns.seconds[self.ours])).tolist()
        facts = {"heads": float(turns.case.heads)}
        limit = None
        if self.peers == TORCH:
            gflops, peak = turns.gflops(self.ours), turns.peak_gflops[self.ours.split()[0]]
            rates = {f"{name.replace(' ', '_')}_gflops": turns.gflops(name) for name in TORCH}
            limit = peak / max(rates.values())
            facts |= {
                "gflops": gflops,
                "peak_gflops": peak,
                "share_of_peak": gflops / peak,
                **rates,
            }
        else:
            facts |= {
                "ours_s": min(turns.seconds[self.ours]),
                "peer_s": float(peer_s.min()),
            }
        facts |= turns.facts.get(self.ours, {})
        error = turns.error[self.ours]
        return {**spread(ratios), "error": error, "limit": limit, "facts": facts}


def claims() -> list[Claim]:
    """All that is claimed for one number of threads."""
    found = [
        _against_torch(ours, length, 64, goal)
        for ours, goals in GOALS.items()
        for length, goal in goals.items()
    ]
    found += [
        _against_torch(ours, length, dim, None)
        for ours in ("bf16", "int8_qk")
        for dim in STAMP_DIMS
        for length in STAMP_LENGTHS
    ]
    longest = max(HEADS)
    for ours, goal in TWIN_GOALS.items():
        for length in HEADS:
            what = f"{NAMES[ours]} against its twin of online softmax, N={length}, D=64"
            found.append(
                Claim(
                    what=what, goal=goal if length == longest else None, inputs="random",
                    length=length, dim=64, ours=ours, peers=(f"{ours} online",),
                )
            )  # fmt: skip
    for inputs, goal, what in (
        ("peaked", 1.3, "VSA against VFA in bf16, peaked inputs"),
        ("random", 0.95, "VSA against VFA in bf16, nothing to skip"),
    ):
        found.append(
            Claim(
                what=f"{what}, N={longest}, D=64", goal=goal, inputs=inputs,
                length=longest, dim=64, ours="bf16 skip", peers=("bf16",),
            )
        )  # fmt: skip
    return found


def cases(quick: bool) -> list[Case]:
    """The inputs that the claims need, each with all who must attend to it.

    VSA has a case of its own, so that its facts are not those of VFA.
    """
    wanted: dict[tuple[str, int, int, bool], list[str]] = {}
    for claim in claims():
        key = claim.inputs, claim.length, claim.dim, claim.ours == "bf16 skip"
        names = wanted.setdefault(key, [])
        names += [name for name in (*claim.peers, claim.ours) if name not in names]
    found = []
    for (inputs, length, dim, _), names in wanted.items():
        heads = HEADS.get(length) or STAMP_ROWS // length
        if quick:
            heads = max(2, heads // 4)
        contenders = tuple(names)
        found.append(
            Case(inputs=inputs, heads=heads, length=length, dim=dim, contenders=contenders)
        )
    return found


def measure(quick: bool, scratch: Path) -> Iterator[BenchRow]:
    """All rows; nothing is written."""
    for threads in (1, 2):
        taken = _attempt(threads, take_turns, cases(quick), threads, 3 if quick else 15)
        for claim in claims():
            yield from measured([claim.row(threads)], partial(_fields, claim, taken))
    blocks = _attempt(1, _time_blocks, STAMP_LENGTHS, STAMP_DIMS, 3 if quick else 15)
    for dim in STAMP_DIMS:
        for length in STAMP_LENGTHS:
            yield from measured(
                [_block_claim(length, dim)], partial(block_fields, length, dim, blocks)
            )
    grown = _attempt(1, grow, 1 if quick else GROWTH_HEADS, 1 if quick else 5)
    yield from measured([GROWTH_CLAIM], lambda: [growth_fields(grown())])
    used = [_attempt(1, memory_of_call, GROWTH_HEADS, length) for length in MEMORY_LENGTHS]
    yield from measured([MEMORY_CLAIM], lambda: [memory_fields([result() for result in used])])


def block_fields(length: int, dim: int, blocks: Callable[[], list[Any]]) -> list[dict[str, Any]]:
    """Fields of the row of a whole block. Raises MeasurementError on wrong results."""
    taken = next(b for b in blocks() if (b.length, b.dim) == (length, dim))
    if not taken.error <= LARGEST_BLOCK_ERROR:
        raise MeasurementError(
            f"the block's result with VFA is off by {taken.error:.2g}, expected at most "
            f"{LARGEST_BLOCK_ERROR}"
        )
    ratios = (np.asarray(taken.with_torch) / np.asarray(taken.with_vfa)).tolist()
    facts = {
        "share_of_torch": min(taken.torch_alone) / min(taken.with_torch),
        "share_of_vfa": min(taken.vfa_alone) / min(taken.with_vfa),
    }
    return [{**spread(ratios), "error": taken.error, "facts": facts}]


def growth_fields(seconds: Mapping[int, Sequence[float]]) -> dict[str, Any]:
    """Fields of the row of growth, from the seconds of each round by length."""
    longest = max(GROWTH_LENGTHS)
    exponents = [
        math.log(long_s / short_s) / math.log(longest / 1024)
        for short_s, long_s in zip(seconds[1024], seconds[longest], strict=True)
    ]
    facts = {f"ms_at_{length}": 1e3 * min(times) for length, times in seconds.items()}
    return {**spread(exponents), "facts": facts}


def memory_fields(used: Sequence[int]) -> dict[str, Any]:
    """Fields of the row of memory, from the bytes at each of `MEMORY_LENGTHS`."""
    per_position = [bytes_ / n for bytes_, n in zip(used, MEMORY_LENGTHS, strict=True)]
    if min(per_position) <= 0:
        raise MeasurementError(f"calls took {list(used)} bytes, expected more than nothing")
    facts = {f"mib_at_{n}": bytes_ / 2**20 for bytes_, n in zip(used, MEMORY_LENGTHS, strict=True)}
    return {**spread([per_position[1] / per_position[0]]), "facts": facts}


def _fields(claim: Claim, taken: Callable[[], list[Turns]]) -> list[dict[str, Any]]:
    names = {claim.ours, *claim.peers}
    turns = next(
        turns
        for turns in taken()
        if (turns.case.inputs, turns.case.length, turns.case.dim)
        == (claim.inputs, claim.length, claim.dim)
        and names <= set(turns.case.contenders)
    )
    return [claim.fields(turns)]


def _block_claim(length: int, dim: int) -> Callable[..., BenchRow]:
    what = f"a ViT-tiny block with bf16 VFA against torch's attention, N={length}, D={dim}"
    return at_least(f"{what}, CPU time of 1 thread", None, peer="the same float32 block")


def _time_blocks(*arguments: Any) -> Any:
    from benchmarks.attention_block import time_blocks

    return time_blocks(*arguments)


def _against_torch(ours: str, length: int, dim: int, goal: float | None) -> Claim:
    what = f"{NAMES[ours]} against torch, N={length}, D={dim}"
    return Claim(
        what=what, goal=goal, inputs="random", length=length, dim=dim, ours=ours, peers=TORCH
    )


def _attempt(threads: int, function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    return attempt(_why_not(threads), threads, function, *arguments)


def _why_not(threads: int) -> str:
    return why_not_native("vfa_attention", threads)


def main() -> None:
    """`python -m benchmarks.attention`."""
    run_benchmark("attention", "Attention against torch, and against itself.", measure)


if __name__ == "__main__":
    from benchmarks import attention as module  # so that fresh processes find its functions

    module.main()
