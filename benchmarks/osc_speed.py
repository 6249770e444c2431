"""Quantized linear layers and transformer blocks on a CPU, against torch's bfloat16 and int8.

Layers are the seven of ViT-S and ViT-B blocks; some input channels are 30 times the others. A ratio
over all of them is the geometric mean of the ratios of one round. Both sides have the same malloc
settings, those of astroray's workers. Errors are relative to float64 and come before any timing.

`limit` is what the ratio could be if the integer products ran at the measured peak of their
instruction and nothing else had to be done.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.claims import at_least, at_most
from benchmarks.processes import attempt, why_not_native
from benchmarks.rows import BenchRow, MeasurementError, measured, run_benchmark, spread

if TYPE_CHECKING:  # the parent shall not load torch, and OpenMP with it
    from benchmarks.osc_turns import Turns

SHAPES = (
    (384, 1152), (384, 384), (384, 1536), (1536, 384), (768, 2304), (768, 3072), (3072, 768),
)  # fmt: skip
NUM_TOKENS = 4096
BLOCK_WIDTH = 384
BLOCK_LENGTHS = (64, 192, 256, 320, 4096)
BLOCK_TOKENS = 4096
LARGEST_ERROR_RATIO = 2.0
"""Of W8A8 with outlier channels, to torch's bfloat16."""

BFLOAT16, INT8, ONNX = "torch bfloat16", "torch dynamic int8", "onnxruntime int8"
FLOAT32 = "torch float32"
W8A8O = "int8 with outliers"
HALF = "int8 with outliers, tokens of bfloat16"
"""Reads and writes half of what the others do, as torch's bfloat16."""
LAYER_GOALS: dict[tuple[str, str], float | None] = {
    (W8A8O, BFLOAT16): 1.75,
    (W8A8O, INT8): 0.95,
    ("int8", INT8): 1.05,
    (W8A8O, ONNX): None,
    (HALF, BFLOAT16): None,
    ("int4_g32 with outliers", INT8): None,
    ("int4_g128 with outliers", INT8): None,
    ("mxfp4 with outliers", INT8): None,
    (W8A8O, FLOAT32): None,
    ("int4_g32 with outliers", FLOAT32): None,
    ("int4_g128 with outliers", FLOAT32): None,
    ("mxfp4 with outliers", FLOAT32): None,
}
BLOCK_GOALS: dict[tuple[str, int], float] = {
    (BFLOAT16, 256): 1.9, (INT8, 256): 1.4, (BFLOAT16, 4096): 3.8, (INT8, 4096): 3.5,
}  # fmt: skip
BLOCKS = {
    "int8 with outliers, bf16 VFA": 0.03,
    "int8 with outliers, int8_qk VFA": 0.03,
    "int4_g32 with outliers, bf16 VFA": 0.25,
}
"""The largest error of each, of what the block adds, relative to float32."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """One row to be: who is faster than whom, in one block or over all layers."""

    what: str
    ours: str
    peer: str
    goal: float | None
    block: str = ""

    def row(self, threads: int) -> Callable[..., BenchRow]:
        """The row without what is measured."""
        clock = "CPU time of 1 thread" if threads == 1 else f"wall time of {threads} threads"
        return at_least(f"{self.what}, {clock}", self.goal, peer=self.peer)

    def fields(self, taken: Sequence["Turns"]) -> dict[str, Any]:
        """What was measured, as fields of the row. Raises MeasurementError on wrong results."""
        turns = [one for one in taken if one.name == self.block or not self.block]
        if any(self.ours not in one.seconds for one in turns):
            raise MeasurementError(f"this CPU has no {self.ours}")
        if any(self.peer not in one.seconds for one in turns):
            raise MeasurementError(f"{self.peer} is not installed; pip install onnx onnxruntime")
        for one in turns:
            self._check(one)
        logs = [np.log(one.seconds[self.peer]) - np.log(one.seconds[self.ours]) for one in turns]
        facts: dict[str, float] = {}
        for one in turns:
            name = one.name.replace(" ", "_")
            rates = {who: one.operations / min(one.seconds[who]) / 1e9 for who in self._names()}
            facts |= {f"{name}_gops": rates[self.ours], f"{name}_peer_gops": rates[self.peer]}
            facts[f"{name}_share_of_peak"] = rates[self.ours] / one.peak_of(self.ours)
        shares = [
            one.operations / min(one.seconds[self.peer]) / 1e9 / one.peak_of(self.ours)
            for one in turns
        ]
        return {
            **spread(np.exp(np.mean(logs, axis=0)).tolist()),
            "error": max(one.error[self.ours] for one in turns),
            "limit": float(np.exp(-np.mean(np.log(shares)))),
            "facts": facts,
        }

    def _names(self) -> tuple[str, str]:
        return self.ours, self.peer

    def _check(self, one: "Turns") -> None:
        error = one.error[self.ours]
        largest = BLOCKS[self.ours] if self.block else 0.25
        if self.ours in (W8A8O, HALF):
            largest = LARGEST_ERROR_RATIO * one.error[BFLOAT16]
        if not error <= largest:
            raise MeasurementError(
                f"the relative error of {self.ours} is {error:.2g} in {one.name}, expected at "
                f"most {largest:.2g}"
            )


def layer_claims() -> list[Claim]:
    """What is claimed of the seven layers."""
    return [
        Claim(what=f"{ours} against {peer}, seven layers", ours=ours, peer=peer, goal=goal)
        for (ours, peer), goal in LAYER_GOALS.items()
    ]


def block_claims() -> list[Claim]:
    """What is claimed of a ViT-S block."""
    return [
        Claim(
            what=f"a ViT-S block of {ours} against {peer}, N={length}",
            ours=ours, peer=peer, block=f"N={length}",
            goal=BLOCK_GOALS.get((peer, length)) if ours.startswith("int8") else None,
        )
        for length in BLOCK_LENGTHS
        for ours in BLOCKS
        for peer in (FLOAT32, BFLOAT16, INT8)
    ]  # fmt: skip


def measure(quick: bool, scratch: Path) -> Iterator[BenchRow]:
    """All rows; nothing is written."""
    tokens, rounds = (1024, 3) if quick else (NUM_TOKENS, 9)
    for threads in (1, 2):
        layers = _attempt(threads, _layers, SHAPES, tokens, threads, rounds)
        for claim in layer_claims():
            yield from measured([claim.row(threads)], partial(_fields, claim, layers))
        if threads == 1:
            yield from _error_rows(layers)
        blocks = _attempt(
            threads, _blocks, BLOCK_LENGTHS, BLOCK_TOKENS, BLOCK_WIDTH, threads, rounds
        )
        for claim in block_claims():
            yield from measured([claim.row(threads)], partial(_fields, claim, blocks))


def _error_rows(layers: Callable[[], list["Turns"]]) -> Iterator[BenchRow]:
    for ours, goal in ((W8A8O, LARGEST_ERROR_RATIO), ("int8", None), (INT8, None)):
        claim = at_most(
            f"largest error of {ours} over that of torch bfloat16, seven layers",
            goal,
            peer=BFLOAT16,
        )
        yield from measured([claim], partial(_error_fields, ours, layers))


def _error_fields(ours: str, layers: Callable[[], list["Turns"]]) -> list[dict[str, Any]]:
    taken = layers()
    ratios = [one.error[ours] / one.error[BFLOAT16] for one in taken]
    facts = {one.name.replace(" ", "_"): one.error[ours] for one in taken}
    error = max(one.error[ours] for one in taken)
    return [{**spread(ratios), "value": max(ratios), "error": error, "facts": facts}]


def _fields(claim: Claim, taken: Callable[[], list["Turns"]]) -> list[dict[str, Any]]:
    return [claim.fields(taken())]


def _layers(*arguments: Any) -> Any:
    from benchmarks.osc_turns import linear_turns

    return linear_turns(*arguments)


def _blocks(*arguments: Any) -> Any:
    from benchmarks.osc_turns import block_turns

    return block_turns(*arguments)


def _attempt(threads: int, function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    return attempt(_why_not(threads), threads, function, *arguments)


def _why_not(threads: int) -> str:
    return why_not_native("osc_linear", threads)


def main() -> None:
    """`python -m benchmarks.osc_speed`."""
    run_benchmark("osc_speed", "Quantized layers against torch's bfloat16 and int8.", measure)


if __name__ == "__main__":
    from benchmarks import osc_speed as module  # so that fresh processes find its functions

    module.main()
