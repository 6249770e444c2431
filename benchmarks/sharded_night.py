"""What a night costs that is searched in parts: beside one process, and as the survey grows.

The survey is that of `benchmarks.nightly`, 5 % more come in. All tasks run in the process that is
watched, one after another, so that its memory is that of driver and task together. Both ways must
write the same files, to the byte.
"""

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from astroray.actors.night import rank_night
from astroray.actors.search import SearchOutcome, SearchPlan
from astroray.neighbors.search import SearchConfig
from astroray.sharded import rank_sharded
from astroray.sharded_night import rank_night_sharded
from benchmarks.embedded_runs import in_turn
from benchmarks.neighbors import ONE_THREAD
from benchmarks.nightly import TOP, begin_night, make_runs, plan_of, timed
from benchmarks.processes import run_fresh, watched
from benchmarks.rows import BenchRow, MeasurementError, measured, run_benchmark, spread

SEARCH = SearchConfig(k=10, top=TOP)

CLAIMS = (
    partial(
        BenchRow,
        what="night of +5 % in parts: CPU time of the same night in one process over its own",
        goal=0.7,
        peer="astroray.actors.night.rank_night, 1 thread",
    ),
    partial(
        BenchRow,
        what="night of +5 % in parts, four times the objects: peak private memory over that before",
        goal=1.25,
        is_at_most=True,
    ),
)


def parts_against_one(folder: str, num_objects: int, runs: int) -> dict[str, Any]:
    """A night in parts, all tasks in this process, and in one; timed in turns, files compared."""
    one, parts = (f"{folder}/{name}" for name in ("one", "parts"))
    reference = make_runs(folder, num_objects, nights=[one, parts], wholes=[])
    rank_sharded(plan_of(reference, SEARCH), in_turn, reason="asked for")
    begin_night(reference, one)
    begin_night(reference, parts)
    night_once(parts, "parts")  # untimed: libraries are loaded here
    cpu_s: dict[str, list[float]] = {"one": [], "parts": []}
    wall_s: dict[str, list[float]] = {"one": [], "parts": []}
    for _ in range(runs):
        timed(rank_night, plan_of(one, SEARCH), cpu_s["one"], wall_s["one"])
        timed(_rank_in_parts, plan_of(parts, SEARCH), cpu_s["parts"], wall_s["parts"])
        if digest_of(one) != digest_of(parts):
            raise MeasurementError("a night in parts wrote other files than one process")
    facts = {f"{way}_cpu_s": float(np.median(values)) for way, values in cpu_s.items()}
    facts["objects"] = float(num_objects)
    facts["wall_ratio"] = float(np.median(np.divide(wall_s["one"], wall_s["parts"])))
    ratios = np.divide(cpu_s["one"], cpu_s["parts"]).tolist()
    return {**spread(ratios), "error": 0.0, "facts": facts}


def night_once(run_dir: str, way: str) -> dict[str, float]:
    """CPU seconds and peak private memory of a night that is begun, all tasks in this process."""
    rank = _rank_in_parts if way == "parts" else rank_night
    return watched(lambda: rank(plan_of(run_dir, SEARCH)))[1]


def memory(scratch: Path, sizes: Sequence[int]) -> dict[str, Any]:
    """How the memory of both ways grows; the facts hold each size."""
    facts: dict[str, float] = {}
    for size in sizes:
        night = str(scratch / f"{size}" / "night")
        reference = make_runs(str(scratch / f"{size}"), size, nights=[night], wholes=[])
        rank_sharded(plan_of(reference, SEARCH), in_turn, reason="asked for")
        begin_night(reference, night)
        digests = set()
        for way in ("parts", "one"):
            got = run_fresh(night_once, night, way, environment=ONE_THREAD).value()
            facts[f"{way}_memory_mb_{size}"] = got["memory_mb"]
            digests.add(digest_of(night))
        if len(digests) > 1:
            raise MeasurementError("a night in parts wrote other files than one process")
    value = facts[f"parts_memory_mb_{sizes[-1]}"] / facts[f"parts_memory_mb_{sizes[0]}"]
    return {"value": value, "runs": 1, "error": 0.0, "facts": facts}


def digest_of(run_dir: str) -> str:
    """Hash of all files of a run directory and their names."""
    digest = hashlib.sha256()
    for path in sorted(Path(run_dir).rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(run_dir)}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _rank_in_parts(plan: SearchPlan) -> SearchOutcome:
    return rank_night_sharded(plan, in_turn, reason="asked for")


def measure(quick: bool, scratch: Path) -> list[BenchRow]:
    """All rows."""
    size, runs = (20_000, 1) if quick else (200_000, 3)
    sizes = [10_000, 40_000] if quick else [100_000, 400_000]

    def against() -> dict[str, Any]:
        folder = str(scratch / "against")
        return run_fresh(parts_against_one, folder, size, runs, environment=ONE_THREAD).value()

    return [
        *measured(CLAIMS[:1], lambda: [against()]),
        *measured(CLAIMS[1:], lambda: [memory(scratch / "memory", sizes)]),
    ]


def main() -> None:
    """`python -m benchmarks.sharded_night`."""
    run_benchmark("sharded_night", "A night in parts beside one process.", measure)


if __name__ == "__main__":
    from benchmarks import sharded_night as module  # so that fresh processes find its functions

    module.main()
