"""What a night costs beside a scan of all: CPU time of the search stage, with equal lists.

A survey of embeddings, as published files of its shards, is searched and certified whole; then
5 % more come in, and the night that proves the list again is timed in turns with a search and
certificate of all. Both read and check the files, and write their catalog. Vectors lie in clusters
of several widths with some far from all, positions are spread over the whole sky: for the catalog
the worst case.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from astroray.actors.night import rank_night
from astroray.actors.search import rank_survey
from astroray.catalog import versions
from astroray.neighbors.search import SearchConfig
from benchmarks.claims import at_least
from benchmarks.clock import timed
from benchmarks.embedded_runs import begin_night, plan_of, publish_shard
from benchmarks.neighbors import ONE_THREAD, make_embeddings
from benchmarks.processes import run_fresh
from benchmarks.rows import BenchRow, MeasurementError, measured, run_benchmark, spread

DIM = 64
TOP = 100
SHARD_ROWS = 5_000
NEW_SHARE = 0.05
CEILING = (1 + NEW_SHARE) / NEW_SHARE
"""A night that searches each new object among all cannot save more than this."""

CLAIMS = (
    at_least(
        "night of +5 % in one process: CPU time of a certified rescan over the night's",
        12.0,
        peer="astroray's own search stage of all objects, without an index, 1 thread",
        limit=CEILING,
    ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Turns:
    """CPU and wall seconds of both ways in turns, after their lists were compared."""

    night_cpu_s: list[float]
    whole_cpu_s: list[float]
    night_wall_s: list[float]
    whole_wall_s: list[float]
    rescored: int
    num_objects: int

    def fields(self) -> dict[str, Any]:
        """As the fields of a row."""
        facts = {
            "objects": float(self.num_objects),
            "rescored": float(self.rescored),
            "night_cpu_s": float(np.median(self.night_cpu_s)),
            "rescan_cpu_s": float(np.median(self.whole_cpu_s)),
            "wall_ratio": float(np.median(np.divide(self.whole_wall_s, self.night_wall_s))),
        }
        ratios = np.divide(self.whole_cpu_s, self.night_cpu_s).tolist()
        return {**spread(ratios), "error": 0.0, "facts": facts}


def make_runs(
    folder: str, num_objects: int, *, nights: Sequence[str], wholes: Sequence[str]
) -> str:
    """A reference to be searched, nights of 5 % more that are not begun, and runs of all of it."""
    num_new = round(NEW_SHARE * num_objects)
    embedding_ND = make_embeddings(num_objects + num_new, DIM, seed=4)
    reference = f"{folder}/ref"
    for start in range(0, len(embedding_ND), SHARD_ROWS):
        rows = range(start, min(start + SHARD_ROWS, len(embedding_ND)))
        ids = [f"object-{row:08d}" for row in rows]
        shard = f"shard-{start // SHARD_ROWS:05d}"
        for run_dir in [reference, *wholes] if start < num_objects else [*nights, *wholes]:
            publish_shard(run_dir, shard, ids, embedding_ND[rows.start : rows.stop])
    return reference


def night_against_rescan(folder: str, num_objects: int, runs: int) -> Turns:
    """Timed in turns, the certified lists compared to the last bit after each."""
    night, whole = f"{folder}/night", f"{folder}/whole"
    reference = make_runs(folder, num_objects, nights=[night], wholes=[whole])
    search = SearchConfig(k=10, top=TOP, index="flat")
    rank_survey(plan_of(reference, search))
    begin_night(reference, night)
    begun = rank_night(plan_of(night, search))  # untimed: libraries are loaded here
    turns = Turns(
        night_cpu_s=[], whole_cpu_s=[], night_wall_s=[], whole_wall_s=[],
        rescored=begun.proof.num_rescored, num_objects=begun.proof.num_objects,
    )  # fmt: skip
    for _ in range(runs):
        for rank, run_dir, wall_s, cpu_s in (
            (rank_night, night, turns.night_wall_s, turns.night_cpu_s),
            (rank_survey, whole, turns.whole_wall_s, turns.whole_cpu_s),
        ):
            took = timed(partial(rank, plan_of(run_dir, search)))
            wall_s.append(took.wall_s)
            cpu_s.append(took.cpu_s)
        check_equal(night, whole)
    return turns


def check_equal(night: str, whole: str) -> None:
    """Raises MeasurementError where two versions' certified rows differ in any bit."""
    columns = ["object_id", "rank", "outlier_score", "neighbor_id", "neighbor_distance"]
    lists = []
    for run_dir in (night, whole):
        table = versions.read_version(run_dir)
        lists.append(table.filter(table["certified"]).select(columns).combine_chunks())
    if not lists[0].equals(lists[1]):
        raise MeasurementError("the certified lists of the night and of the rescan differ")


def measure(quick: bool, scratch: Path) -> list[BenchRow]:
    """Its row."""
    size, runs = (20_000, 1) if quick else (200_000, 2)

    def rows() -> list[dict[str, Any]]:
        function = night_against_rescan
        turns = run_fresh(function, str(scratch), size, runs, environment=ONE_THREAD)
        return [turns.value().fields()]

    return list(measured(CLAIMS, rows))


def main() -> None:
    """`python -m benchmarks.nightly`."""
    run_benchmark("nightly", "A night of +5 % against a certified scan of all.", measure)


if __name__ == "__main__":
    from benchmarks import nightly as module  # so that fresh processes find its functions

    module.main()
