"""What a night costs that is searched in parts: beside one process, a rescan, and as all grows.

The survey is that of `benchmarks.nightly`, 5 % more come in. All tasks run in the process that is
watched, one after another, so that its memory is that of driver and task together. Both ways must
write the same files, to the byte, but for the index.
"""

import hashlib
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from astroray.actors.night import rank_night
from astroray.actors.search import SearchOutcome, SearchPlan
from astroray.neighbors.search import SearchConfig
from astroray.search.sharded import rank_sharded
from astroray.search.sharded_night import rank_night_sharded
from benchmarks.claims import at_least, at_most
from benchmarks.clock import timed
from benchmarks.embedded_runs import begin_night, in_turn, plan_of
from benchmarks.neighbors import ONE_THREAD
from benchmarks.nightly import CEILING, NEW_SHARE, TOP, check_equal, make_runs
from benchmarks.processes import run_fresh, watched
from benchmarks.rows import BenchRow, MeasurementError, measured, run_benchmark, spread

SEARCH = SearchConfig(k=10, top=TOP)

CLAIMS = (
    at_least(
        "night of +5 % in parts: CPU time of the same night in one process over its own",
        0.7,
        peer="astroray.actors.night.rank_night, 1 thread",
    ),
    at_least(
        "night of +5 % in parts: CPU time of a certified rescan in parts over its own",
        12.0,
        peer="astroray.search.sharded.rank_sharded of all objects, index built anew, 1 thread",
        limit=CEILING,
    ),
    at_most(
        "night of +5 % in parts: bytes of its index over those of the reference's",
        0.06,
        limit=NEW_SHARE,
    ),
    at_most(
        "night of +5 % in parts, four times the objects: peak private memory over that before", 1.25
    ),
)


def parts_against_others(folder: str, num_objects: int, runs: int) -> list[dict[str, Any]]:
    """A night in parts, in one process, and a rescan in parts; timed in turns, files compared.

    All tasks run in this process. Returns the fields of the first three rows.
    """
    one, parts, whole = (f"{folder}/{name}" for name in ("one", "parts", "whole"))
    reference = make_runs(folder, num_objects, nights=[one, parts], wholes=[whole])
    rank_sharded(plan_of(reference, SEARCH), in_turn, reason="asked for")
    begin_night(reference, one)
    begin_night(reference, parts)
    night_once(parts, "parts")  # untimed: libraries are loaded here
    ways = {"one": (rank_night, one), "parts": (_rank_in_parts, parts), "whole": (_rescan, whole)}
    cpu_s: dict[str, list[float]] = {way: [] for way in ways}
    wall_s: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(runs):
        for way, (rank, run_dir) in ways.items():
            if way != "one":
                shutil.rmtree(f"{run_dir}/index", ignore_errors=True)
            took = timed(partial(rank, plan_of(run_dir, SEARCH)))
            wall_s[way].append(took.wall_s)
            cpu_s[way].append(took.cpu_s)
        if digest_of(one) != digest_of(parts):
            raise MeasurementError("a night in parts wrote other files than one process")
        check_equal(parts, whole)
    facts = {f"{way}_cpu_s": float(np.median(values)) for way, values in cpu_s.items()}
    facts["objects"] = float(num_objects)

    def over(way: str) -> dict[str, Any]:
        wall_ratio = float(np.median(np.divide(wall_s[way], wall_s["parts"])))
        ratios = np.divide(cpu_s[way], cpu_s["parts"]).tolist()
        return {**spread(ratios), "error": 0.0, "facts": {**facts, "wall_ratio": wall_ratio}}

    written, before = index_bytes(parts), index_bytes(reference)
    sizes = {"bytes": float(written), "bytes_of_reference": float(before)}
    of_bytes = {"value": written / before, "runs": 1, "error": 0.0, "facts": sizes}
    return [over("one"), over("whole"), of_bytes]


def index_bytes(run_dir: str) -> int:
    """Bytes of the index in a run directory, but for the ranks of a scan."""
    files = Path(run_dir, "index").iterdir()
    return sum(f.stat().st_size for f in files if not f.name.startswith("ranking"))


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
    """Hash of all files of a run directory and their names, but for its index."""
    digest = hashlib.sha256()
    for path in sorted(Path(run_dir).rglob("*")):
        if path.is_file() and path.parent.name != "index":
            digest.update(f"{path.relative_to(run_dir)}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _rank_in_parts(plan: SearchPlan) -> SearchOutcome:
    return rank_night_sharded(plan, in_turn, reason="asked for")


def _rescan(plan: SearchPlan) -> SearchOutcome:
    return rank_sharded(plan, in_turn, reason="asked for")


def measure(quick: bool, scratch: Path) -> list[BenchRow]:
    """All rows."""
    size, runs = (20_000, 1) if quick else (200_000, 3)
    sizes = [10_000, 40_000] if quick else [100_000, 400_000]

    def against() -> list[dict[str, Any]]:
        folder = str(scratch / "against")
        return run_fresh(parts_against_others, folder, size, runs, environment=ONE_THREAD).value()

    return [
        *measured(CLAIMS[:3], against),
        *measured(CLAIMS[3:], lambda: [memory(scratch / "memory", sizes)]),
    ]


def main() -> None:
    """`python -m benchmarks.sharded_night`."""
    run_benchmark("sharded_night", "A night in parts beside one process.", measure)


if __name__ == "__main__":
    from benchmarks import sharded_night as module  # so that fresh processes find its functions

    module.main()
