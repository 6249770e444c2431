"""The native code on AVX2 alone, as most laptops have it, against peers that have no more either.

The environment of the fresh processes keeps every library from AVX-512: ours, FAISS, OpenBLAS
(which FAISS and numpy multiply with), and torch with MKL and oneDNN. What a CPU without AVX-512
would do at its own clock, this cannot say.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.claims import at_least
from benchmarks.clock import timed
from benchmarks.neighbors import ONE_THREAD, against_faiss, against_sklearn
from benchmarks.processes import run_fresh
from benchmarks.rows import BenchRow, MeasurementError, measured, run_benchmark, spread

AVX2 = {
    **ONE_THREAD,
    "ASTRORAY_INSTRUCTIONS": "avx2", "FAISS_OPT_LEVEL": "avx2", "OPENBLAS_CORETYPE": "Haswell",
    "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2",
}  # fmt: skip
HEADS = {256: 96, 1024: 12, 4096: 2}
"""By N: as many as keep a call at some 0.1 s."""
PRECISIONS = ("fp32", "bf16")
SEARCHES = (
    (against_faiss, "FAISS IndexFlatL2", "faiss.IndexFlatL2, self-search, AVX2, 1 thread"),
    (against_sklearn, "scikit-learn brute", "NearestNeighbors(algorithm='brute'), AVX2, 1 thread"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Turns:
    """CPU seconds of one length, one for each round, and errors relative to float64."""

    seconds: dict[str, list[float]]
    error: dict[str, float]


def attend_in_turns(length: int, rounds: int) -> Turns:
    """Torch's attention in float32 and ours in turns, on one thread."""
    import torch

    from astroray_kernels import library
    from benchmarks import attention_cases as cases

    if library.instructions() != "avx2":
        raise MeasurementError(f"native code runs on {library.instructions() or 'nothing'} here")
    torch.set_num_threads(1)
    inputs = cases.make_inputs("random", HEADS[length], length, 64)
    everyone = cases.contenders(inputs, None)
    calls = {name: everyone[name] for name in ("torch float32", *PRECISIONS)}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    with torch.inference_mode():
        exact = cases.exact_part(inputs)
        error = {
            name: cases.relative_error(cases.part_of(call()), exact) for name, call in calls.items()
        }
        for _ in range(rounds):
            for name, call in calls.items():
                seconds[name].append(timed(call).cpu_s)
    return Turns(seconds=seconds, error=error)


def attention_fields(precision: str, turns: Turns) -> dict[str, Any]:
    """Fields of a row. Raises MeasurementError on wrong results."""
    largest = max(2 * turns.error["torch float32"], 1e-6) if precision == "fp32" else 6e-3
    if not turns.error[precision] <= largest:
        raise MeasurementError(
            f"the relative error of {precision} is {turns.error[precision]:.2g}, expected at most "
            f"{largest:.2g}"
        )
    ours_s, peer_s = turns.seconds[precision], turns.seconds["torch float32"]
    facts = {"ours_s": float(np.median(ours_s)), "peer_s": float(np.median(peer_s))}
    ratios = np.divide(peer_s, ours_s).tolist()
    return {**spread(ratios), "error": turns.error[precision], "facts": facts}


def measure(quick: bool, scratch: Path) -> list[BenchRow]:
    """All rows; nothing is written."""
    rows: list[BenchRow] = []
    for function, name, peer in SEARCHES:
        what = f"exact neighbors, proven, on AVX2: time of {name} over ours"
        claim = at_least(what, None, peer=peer)
        rows += measured([claim], partial(_search_fields, function, 10_000 if quick else 30_000))
    for length in HEADS:
        taken = _taken(length, 5 if quick else 15)
        for precision in PRECISIONS:
            what = f"{precision} VFA on AVX2 against torch, N={length}, D=64, CPU time of 1 thread"
            claim = at_least(what, 1.0, peer="torch's attention, float32, AVX2, 1 thread")
            rows += measured([claim], partial(_attention_rows, precision, taken))
    return rows


def _search_fields(function: Callable[..., Any], size: int) -> list[dict[str, Any]]:
    return [run_fresh(function, size, 3, environment=AVX2).value().fields()]


def _taken(length: int, rounds: int) -> Turns | MeasurementError:
    try:
        return run_fresh(attend_in_turns, length, rounds, environment=AVX2).value()
    except MeasurementError as error:
        return error


def _attention_rows(precision: str, taken: Turns | MeasurementError) -> list[dict[str, Any]]:
    if isinstance(taken, MeasurementError):
        raise taken
    return [attention_fields(precision, taken)]


def main() -> None:
    """`python -m benchmarks.avx2`."""
    run_benchmark("avx2", "Native code on AVX2 against peers on AVX2.", measure)


if __name__ == "__main__":
    from benchmarks import avx2 as module  # so that fresh processes find its functions

    module.main()
