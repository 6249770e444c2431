"""What a night costs beside a scan of all: CPU time of the search stage, with equal lists.

A survey of embeddings, as published files of its shards, is searched and certified whole; then
5 % more come in, and the night that proves the list again is timed in turns with a search and
certificate of all. Both read and check the files, and write their catalog. Vectors lie in clusters
of several widths with some far from all, positions are spread over the whole sky: for the catalog
the worst case. A night that is searched in parts is timed in turns with the same night in one
process, and its memory is watched as the survey grows; all files must be the same, to the byte.
"""

import dataclasses
import hashlib
import io
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from astroray import ledger, schema, versions
from astroray.actors.night import rank_night
from astroray.actors.search import SearchOutcome, SearchPlan, rank_survey
from astroray.ledger import Receipt
from astroray.neighbors.search import SearchConfig
from astroray.sharded import rank_sharded
from astroray.sharded_night import rank_night_sharded
from benchmarks.embedded_runs import in_turn
from benchmarks.neighbors import ONE_THREAD, make_embeddings
from benchmarks.processes import run_fresh, watched
from benchmarks.rows import BenchRow, MeasurementError, measured, run_benchmark, spread

DIM = 64
TOP = 100
SHARD_ROWS = 5_000
NEW_SHARE = 0.05
SEARCH = SearchConfig(k=10, top=TOP)
CEILING = (1 + NEW_SHARE) / NEW_SHARE
"""A night that searches each new object among all cannot save more than this."""

CLAIMS = tuple(
    partial(
        BenchRow,
        what=f"night of +5 %: CPU time of a certified rescan, index {index}, over the night's",
        goal=12.0,
        limit=CEILING,
        peer=f"astroray's own search stage of all objects, index {index}, 1 thread",
    )
    for index in ("flat", "auto")
)

IN_PARTS = (
    partial(
        BenchRow,
        what="night of +5 % in parts: CPU time of the same night in one process over its own",
        goal=0.5,
        peer="astroray.actors.night.rank_night, 1 thread",
    ),
    partial(
        BenchRow,
        what="night of +5 % in parts, four times the objects: peak private memory over that before",
        goal=1.25,
        is_at_most=True,
    ),
)


def publish_shard(run_dir: str, name: str, ids: Sequence[str], embedding_ND: np.ndarray) -> None:
    """A shard's EMBEDDINGS and done mark, as the embed stage leaves them."""
    num, dim = embedding_ND.shape
    draw = np.random.default_rng(int(hashlib.sha256(name.encode()).hexdigest()[:8], 16))
    dec_deg = np.degrees(np.arcsin(draw.uniform(-1, 1, num)))
    flat = pa.array(np.ascontiguousarray(embedding_ND, np.float32).reshape(-1))
    columns: dict[str, Any] = schema.identity(ids, np.asarray(draw.uniform(0, 360, num)), dec_deg)
    columns |= {
        "shard": pa.array([name] * num, pa.string()),
        "row": pa.array(np.arange(num), pa.int64()),
        "embedding": pa.FixedSizeListArray.from_arrays(flat, dim),
        "processing_flags": pa.array(np.zeros(num, np.int32)),
    }
    columns |= dict.fromkeys(("field", "night", "detector"), pa.nulls(num, pa.string()))
    sink = io.BytesIO()
    pq.write_table(schema.conform(pa.table(columns), schema.embeddings(dim), "embeddings"), sink)
    data = sink.getvalue()
    receipt = Receipt(
        shard=name,
        rows_read=num,
        rows_embedded=num,
        rows_rejected=0,
        shard_rejected=False,
        checksum=hashlib.sha256(data).hexdigest(),
        attempt=1,
        seconds=0.0,
        bytes_read=0,
    )
    ledger.finish_shard(run_dir, receipt, embeddings=data, rejects=[])


def plan_of(run_dir: str, search: SearchConfig) -> SearchPlan:
    """What the search stage of a run directory is told."""
    return SearchPlan(
        run_dir=run_dir,
        name="made",
        created="2026-01-01T00:00:00Z",
        model_id="m",
        search=search,
        num_random=4,
        seed=0,
    )


def begin_night(reference: str, out: str) -> None:
    """A run directory that goes on from a finished one."""
    versions.describe_version(reference).publish(out)


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


def night_against_rescan(folder: str, num_objects: int, index: Any, runs: int) -> Turns:
    """Timed in turns, the certified lists compared to the last bit after each."""
    night, whole = (f"{folder}/{index}/{name}" for name in ("night", "whole"))
    reference = make_runs(f"{folder}/{index}", num_objects, nights=[night], wholes=[whole])
    search = SearchConfig(k=10, top=TOP, index=index)
    rank_survey(plan_of(reference, search))
    begin_night(reference, night)
    begun = rank_night(plan_of(night, search))  # untimed: libraries are loaded here
    turns = Turns(
        night_cpu_s=[], whole_cpu_s=[], night_wall_s=[], whole_wall_s=[],
        rescored=begun.proof["num_rescored"], num_objects=begun.counts["catalog"],
    )  # fmt: skip
    for _ in range(runs):
        _time(rank_night, plan_of(night, search), turns.night_cpu_s, turns.night_wall_s)
        _time(rank_survey, plan_of(whole, search), turns.whole_cpu_s, turns.whole_wall_s)
        check_equal(night, whole)
    return turns


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
        _time(rank_night, plan_of(one, SEARCH), cpu_s["one"], wall_s["one"])
        _time(_rank_in_parts, plan_of(parts, SEARCH), cpu_s["parts"], wall_s["parts"])
        if digest_of(one) != digest_of(parts):
            raise MeasurementError("a night in parts wrote other files than one process")
    facts = {f"{way}_cpu_s": float(np.median(values)) for way, values in cpu_s.items()}
    facts |= {"objects": float(num_objects), "wall_ratio": float(np.median(
        np.divide(wall_s["one"], wall_s["parts"])
    ))}  # fmt: skip
    return {
        **spread(np.divide(cpu_s["one"], cpu_s["parts"]).tolist()),
        "error": 0.0,
        "facts": facts,
    }


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
    """All rows."""
    size, runs = (20_000, 1) if quick else (200_000, 2)

    def rows(index: str) -> list[dict[str, Any]]:
        function = night_against_rescan
        turns = run_fresh(function, str(scratch), size, index, runs, environment=ONE_THREAD)
        return [turns.value().fields()]

    def in_parts() -> dict[str, Any]:
        folder = str(scratch / "parts")
        return run_fresh(parts_against_one, folder, size, runs, environment=ONE_THREAD).value()

    sizes = [10_000, 40_000] if quick else [100_000, 400_000]
    return [
        *measured(CLAIMS[:1], lambda: rows("flat")),
        *measured(CLAIMS[1:], lambda: rows("auto")),
        *measured(IN_PARTS[:1], lambda: [in_parts()]),
        *measured(IN_PARTS[1:], lambda: [memory(scratch / "memory", sizes)]),
    ]


def _time(
    rank: Callable[[SearchPlan], SearchOutcome],
    plan: SearchPlan,
    cpu_s: list[float],
    wall_s: list[float],
) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    rank(plan)
    wall_s.append(time.perf_counter() - wall)
    cpu_s.append(time.process_time() - cpu)


def main() -> None:
    """`python -m benchmarks.nightly`."""
    run_benchmark("nightly", "A night of +5 % against a certified scan of all.", measure)


if __name__ == "__main__":
    from benchmarks import nightly as module  # so that fresh processes find its functions

    module.main()
