"""The encode stage of a scan on fewer bits, against PyTorch's best way and onnxruntime's int8.

One transformer, the weights that come with astroray, on simulated galaxies of 64 px in three bands,
encoded by the class that a scan's workers run, on one thread with their settings. All ways take
turns on the same batches; PyTorch's best is, in each round, the fastest of float32, bfloat16 and
dynamic int8. Errors of the embeddings, over their spread, are checked before any timing. A way of
ours may not be further from float32 than PyTorch's int8; on 4 bits it may, and is reported.

The last rows are whole scans through Ray with `auto`, which `astroray quantize` decides on objects
enough for it (`--auto MODEL` takes a file that it has made, else one is made first): objects/s of
one worker in the steady state, reading and preparing included, against the same with PyTorch's
fastest way, and with onnxruntime in the worker in place of the network. `cpu_ratio` compares CPU
seconds an object, driver and daemons included.
"""

import argparse
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np

from astroray.execution import workers
from astroray.surveys.simulated_files import write_survey
from benchmarks.claims import at_least
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
AUTO = "auto"
SCANNED: Mapping[str, float | None] = {BEST_TORCH: 1.3, ONNX: None}
"""Peers of whole scans with `auto`, and goals."""
DECIDED_OBJECTS = 12_000
"""Of which 10,000 and more can be used."""
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
        return at_least(what, goal, peer=self.peer)

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


def measure(quick: bool, scratch: Path, auto: str = "") -> Iterator[BenchRow]:
    """All rows; a quick run does not make the model of `auto`, which takes minutes."""
    batches, rounds, shards, turns = (4, 3, 3, 1) if quick else (12, 9, 5, 3)
    survey = SURVEY.format(count=512)
    taken = attempt(
        why_not_native("osc_linear", 1), 1, _turns, survey, str(scratch), batches, rounds
    )
    for claim in claims():
        yield from measured([claim.row()], partial(_fields, claim, taken))
    claims_of_scans = [
        at_least(
            f"objects/s of the embed stage of a scan, one worker, {ENCODER} with auto "
            f"against the same with {peer}",
            goal,
            peer=peer,
        )
        for peer, goal in SCANNED.items()
    ]
    reason = "" if auto or not quick else "it takes minutes to decide auto; give --auto MODEL"
    measure_them = partial(measure_scans, taken, auto, reason, scratch, shards, turns)
    yield from measured(claims_of_scans, measure_them)


def measure_scans(
    taken: Callable[[], "EncodeTurns"],
    auto: str,
    reason: str,
    scratch: Path,
    num_shards: int,
    num_turns: int,
) -> list[dict[str, Any]]:
    """The rows of whole scans: auto and its peers, one after the other in one cluster.

    auto    the file that a decision was stored in; "" to make one
    reason  why they are not to be run; "" where they are
    """
    from astroray.encoders import read_model_file
    from benchmarks.scan import steady

    encoded = taken()
    made = str(scratch / "auto.safetensors")
    if reason or not auto:
        auto = attempt(reason, 1, _decide, encoded.paths["none"], made)()
    kept = _facts(read_model_file(auto).fit)
    best = min(TORCH, key=lambda name: float(np.median(encoded.cpu_s[name])))
    asked = {  # the file holds the network in float32 too
        BEST_TORCH: (auto, *WAYS[best]), ONNX: (auto, "none", "sdpa"), AUTO: (auto, "auto", "auto"),
    }  # fmt: skip
    if ONNX not in encoded.cpu_s:
        del asked[ONNX]
    write_survey(SURVEY.format(count=256 * num_shards), str(scratch / "survey"))
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in asked}
    for turn in range(num_turns):
        outs = {name: str(scratch / f"scan-{turn}-{place}") for place, name in enumerate(asked)}
        fresh = run_fresh(run_ways, str(scratch / "survey" / "shards"), asked, outs)
        for name in asked:
            found[name].append(steady(outs[name], fresh))
    return [_against(found, peer, kept) for peer in SCANNED]


def _facts(fit: Mapping[str, Any]) -> dict[str, float]:
    """What a model's decision measured. Raises MeasurementError where it is the reference."""
    decision = (fit.get("quantized") or {}).get("decision")
    if decision is None:
        raise MeasurementError("the model has no decision; use astroray quantize --scheme auto")
    ways = {f"{way['numbers']}, {way['attention']}": way for way in decision["ways"]}
    chosen = ways[decision["chosen"]]
    if chosen["kept"] is None:
        raise MeasurementError(f"auto is {decision['chosen']}: {decision['reason']}")
    return {"list_kept": chosen["kept"], "speed_of_network": chosen["speed"]}


def _against(
    found: Mapping[str, list[tuple[float, float]]], peer: str, facts: Mapping[str, float]
) -> dict[str, Any]:
    """A row from objects/s and CPU seconds an object, scan by scan."""
    if peer not in found:
        return {"reason": f"{peer} is not installed; pip install onnx onnxruntime"}
    medians = {name: np.median(values, axis=0) for name, values in found.items()}
    facts = {
        "per_s": float(medians[AUTO][0]), "peer_per_s": float(medians[peer][0]),
        "cpu_ratio": float(medians[peer][1] / medians[AUTO][1]), **facts,
    }  # fmt: skip
    ratios = [ours[0] / theirs[0] for ours, theirs in zip(found[AUTO], found[peer], strict=True)]
    return {**spread(ratios), "facts": facts}


def run_ways(
    survey: str, asked: Mapping[str, tuple[str, str, str]], outs: Mapping[str, str]
) -> dict[str, "Marks"]:
    """Scans by name: model, `encoder.quantize` and `encoder.attention`; a worker each, in turn."""
    from astroray.actors.embed import Embedder
    from benchmarks.encode_turns import OnnxEmbedder
    from benchmarks.scan import run_scan

    marks = {}
    with workers.cluster():
        for name, (model, quantize, attention) in asked.items():
            worker = OnnxEmbedder if name == ONNX else Embedder
            settings = {"quantize": quantize, "attention": attention}
            with mock.patch("astroray.execution.streams.Embedder", worker):
                marks[name] = run_scan(survey, model, outs[name], "1", settings=settings)
    return marks


def _turns(survey: str, folder: str, batches: int, rounds: int) -> "EncodeTurns":
    from benchmarks.encode_turns import encode_turns

    return encode_turns(ENCODER, survey, folder, WAYS, batches, rounds)


def _decide(model: str, out: str) -> str:
    from benchmarks.encode_turns import decide_auto

    return decide_auto(model, SURVEY.format(count=DECIDED_OBJECTS), out)


def _fields(claim: Claim, taken: Callable[[], "EncodeTurns"]) -> Sequence[dict[str, Any]]:
    return [claim.fields(taken())]


def main() -> None:
    """`python -m benchmarks.encode`."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--auto", metavar="MODEL", default="")
    asked, rest = parser.parse_known_args()
    claim = (
        "Encoding on fewer bits against PyTorch and onnxruntime. --auto MODEL is a file of "
        "`astroray quantize --scheme auto`; without it one is made, which takes minutes."
    )
    run_benchmark("encode", claim, partial(measure, auto=asked.auto), rest)


if __name__ == "__main__":
    from benchmarks import encode as module  # so that fresh processes find its functions by name

    module.main()
