"""The encode stage of a scan on fewer bits, against PyTorch's best way and onnxruntime's int8.

One transformer, the weights that come with astroray, on simulated galaxies of 64 px in three bands,
encoded by the class that a scan's workers run, on one thread with their settings. All ways take
turns on the same batches; PyTorch's best is, in each round, the fastest of float32, bfloat16 and
dynamic int8. Errors of the embeddings, over their spread, are checked before any timing. A way of
ours may not be further from float32 than PyTorch's int8; on 4 bits it may, and is reported.

The last rows are whole scans through Ray: objects/s of one worker in the steady state, reading and
preparing included, of our fastest way and of PyTorch's.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from astroray import workers
from astroray.surveys.simulated import write_survey
from benchmarks.processes import attempt, run_fresh, why_not_native
from benchmarks.rows import BenchRow, MeasurementError, measured, run_benchmark, spread

if TYPE_CHECKING:  # the parent shall not load torch, and OpenMP with it
    from benchmarks.encode_turns import EncodeTurns
    from benchmarks.scan import Marks

ENCODER = "vit-tiny"
SURVEY = "sim:galaxies?count={count}&seed=5&size=64&outliers=0.01&shard_rows=256"
WAYS: Mapping[str, tuple[str, str]] = {
    "torch float32": ("none", "sdpa"),
    "torch bfloat16": ("bf16", "sdpa"),
    "torch int8": ("torch-int8", "sdpa"),
    "w8a8": ("w8a8", "sdpa"),
    "w8a8o": ("w8a8o", "sdpa"),
    "osc-w4a4": ("osc-w4a4", "sdpa"),
    "float32, VFA": ("none", "vfa"),
    "w8a8o, VFA": ("w8a8o", "vfa"),
    "osc-w4a4, VFA": ("osc-w4a4", "vfa"),
}
"""`encoder.quantize` and `encoder.attention` by name."""
TORCH = ("torch float32", "torch bfloat16", "torch int8")
BEST_TORCH, ONNX = "the fastest of torch float32, bfloat16 and int8", "onnxruntime int8"
OURS = tuple(name for name in WAYS if name not in TORCH)
GOALS = {"w8a8o": 1.3, "w8a8o, VFA": 1.3}
"""Over PyTorch's best."""
FASTEST = "w8a8o, VFA"
LARGEST_ERROR = {"w8a8": 1.0, "w8a8o": 1.0, "float32, VFA": 1.0, "w8a8o, VFA": 1.0}
"""Of ours over that of PyTorch's int8."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """One row to be: how much faster one way is than a peer, by one clock."""

    ours: str
    peer: str
    clock: str
    """`cpu_s` or `wall_s`."""

    def row(self) -> Callable[..., BenchRow]:
        """The row without what is measured."""
        clock = {"cpu_s": "CPU time", "wall_s": "wall time"}[self.clock]
        goal = GOALS.get(self.ours) if self.peer == BEST_TORCH else None
        what = f"{ENCODER} encodes with {self.ours} against {self.peer}, {clock} of 1 thread"
        return partial(BenchRow, what=what, goal=goal, peer=self.peer)

    def fields(self, turns: "EncodeTurns") -> dict[str, Any]:
        """What was measured, as fields of the row. Raises MeasurementError on wrong results."""
        seconds: Mapping[str, list[float]] = getattr(turns, self.clock)
        if self.peer != BEST_TORCH and self.peer not in seconds:
            raise MeasurementError(f"{self.peer} is not installed; pip install onnx onnxruntime")
        largest = LARGEST_ERROR.get(self.ours, np.inf) * turns.error["torch int8"]
        if not turns.error[self.ours] <= largest:
            raise MeasurementError(
                f"the embeddings of {self.ours} have error {turns.error[self.ours]:.2g}, expected "
                f"at most {largest:.2g}"
            )
        peers = TORCH if self.peer == BEST_TORCH else (self.peer,)
        peer_s = np.min([seconds[name] for name in peers], axis=0)
        facts = {
            f"{name}_per_s": turns.num_objects / float(np.median(seconds[name]))
            for name in (self.ours, *peers)
        }
        facts |= {f"{name}_error": turns.error[name] for name in (*peers,)}
        return {
            **spread((peer_s / np.array(seconds[self.ours])).tolist()),
            "error": turns.error[self.ours],
            "facts": {name.replace(" ", "_").replace(",", ""): v for name, v in facts.items()},
        }


def claims() -> list[Claim]:
    """Every way of ours against both peers by both clocks."""
    return [
        Claim(ours=ours, peer=peer, clock=clock)
        for clock in ("cpu_s", "wall_s")
        for ours in OURS
        for peer in (BEST_TORCH, ONNX)
    ]


def measure(quick: bool, scratch: Path) -> Iterator[BenchRow]:
    """All rows."""
    batches, rounds, shards, turns = (4, 3, 3, 1) if quick else (12, 9, 5, 3)
    survey = SURVEY.format(count=512)
    taken = attempt(
        why_not_native("osc_linear", 1), 1, _turns, survey, str(scratch), batches, rounds
    )
    for claim in claims():
        yield from measured([claim.row()], partial(_fields, claim, taken))
    scan_claim = partial(
        BenchRow, goal=GOALS[FASTEST], peer=BEST_TORCH,
        what=f"objects/s of the embed stage of a scan, one worker, {ENCODER} with {FASTEST} "
        "against the same with PyTorch's fastest way",
    )  # fmt: skip
    measure_them = partial(measure_scans, taken, scratch, shards, turns)
    yield from measured([scan_claim], measure_them)


def measure_scans(
    taken: Callable[[], "EncodeTurns"],
    scratch: Path,
    num_shards: int,
    num_turns: int,
) -> list[dict[str, Any]]:
    """The row of whole scans: ours and PyTorch's fastest, one after the other in one cluster."""
    from benchmarks.scan import steady

    encoded = taken()
    paths = encoded.paths
    best = min(TORCH, key=lambda name: float(np.median(encoded.cpu_s[name])))
    write_survey(SURVEY.format(count=256 * num_shards), str(scratch / "survey"))
    survey = str(scratch / "survey" / "shards")
    found: dict[str, list[tuple[float, float]]] = {best: [], FASTEST: []}
    for turn in range(num_turns):
        outs = {name: str(scratch / f"scan-{turn}-{place}") for place, name in enumerate(found)}
        asked = {name: (paths.get(WAYS[name][0], paths["none"]), *WAYS[name]) for name in found}
        fresh = run_fresh(run_ways, survey, asked, outs)
        for name, out in outs.items():
            found[name].append(steady(out, fresh))
    ratios = [ours[0] / theirs[0] for ours, theirs in zip(found[FASTEST], found[best], strict=True)]
    medians = {name: np.median(values, axis=0) for name, values in found.items()}
    facts = {
        "per_s": float(medians[FASTEST][0]),
        f"{best.replace(' ', '_')}_per_s": float(medians[best][0]),
        "cpu_ratio": float(medians[best][1] / medians[FASTEST][1]),
    }
    return [{**spread(ratios), "error": encoded.error[FASTEST], "facts": facts}]


def run_ways(
    survey: str, asked: Mapping[str, tuple[str, str, str]], outs: Mapping[str, str]
) -> dict[str, "Marks"]:
    """Scans by name: model, `encoder.quantize` and `encoder.attention`; a worker each, in turn."""
    from benchmarks.scan import run_scan

    with workers.cluster():
        return {
            name: run_scan(
                survey, model, outs[name], "1",
                settings={"quantize": quantize, "attention": attention},
            )
            for name, (model, quantize, attention) in asked.items()
        }  # fmt: skip


def _turns(survey: str, folder: str, batches: int, rounds: int) -> "EncodeTurns":
    from benchmarks.encode_turns import encode_turns

    return encode_turns(ENCODER, survey, folder, WAYS, batches, rounds)


def _fields(claim: Claim, taken: Callable[[], "EncodeTurns"]) -> Sequence[dict[str, Any]]:
    return [claim.fields(taken())]


def main() -> None:
    """`python -m benchmarks.encode`."""
    run_benchmark("encode", "Encoding on fewer bits against PyTorch and onnxruntime.", measure)


if __name__ == "__main__":
    from benchmarks import encode as module  # so that fresh processes find its functions by name

    module.main()
