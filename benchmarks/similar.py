"""What is nearest to one object: our proven search of a run's index beside raw FAISS.

All read memory-mapped files in one process, one thread each, turn by turn over the same queries:
objects spread over the survey. FAISS's flat index finds the same neighbors by reading every
vector; its inverted file reads few and proves nothing. Distances are compared with those of the
flat index before any timing.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from astroray import moments
from astroray.actors.search import SearchOutcome
from astroray.run_folders import record_of
from astroray.run_record import ModelRef, RunRecord
from astroray.search.nearby import IndexedRun, open_indexed
from astroray.search.sharded import rank_sharded
from astroray.search.sharded_night import rank_night_sharded
from benchmarks.claims import at_most
from benchmarks.embedded_runs import begin_night, in_turn, make_embedded, plan_search
from benchmarks.neighbors import ONE_THREAD, make_embeddings
from benchmarks.processes import run_fresh, watched
from benchmarks.rows import BenchRow, MeasurementError, measured, run_benchmark

NUM_NEAREST = 20
DIM = 64
ROWS_EACH = 10_000
"""Of a shard: one is read whole for the embedding of one of its objects."""
LARGEST_ERROR = 1e-5
RECALL = 0.99
WARM_UP = 5
COMMAND = "from astroray.cli import cli; cli()"

_FLAT = "faiss.IndexFlatL2, read with IO_FLAG_MMAP_IFC, 1 thread"
_IVF = "faiss.IndexIVFFlat, read with IO_FLAG_MMAP, fewest probes with recall .99, 1 thread"

CLAIMS = (
    at_most("20 nearest of one object, proven: p50 of ours over FAISS flat", 1.2, peer=_FLAT),
    at_most("20 nearest of one object, proven: p99 of ours over FAISS flat", 1.2, peer=_FLAT),
    at_most(
        "20 nearest of one object: p50 of ours, proven, over FAISS IVF, approximate", 1.2, peer=_IVF
    ),
    at_most("`astroray similar` by object, a new process from start to end", 3.0, unit="s"),
    at_most("the same of a night of +5 %, over its layers", 3.0, unit="s"),
    at_most("20 nearest of one object of that night with their ranks: p50", 100.0, unit="ms"),
    at_most("20 nearest in that night: peak private memory over that of the scan before it", 1.25),
)


def against_faiss(folder: str, num_objects: int, num_queries: int) -> list[dict[str, Any]]:
    """Ours, FAISS flat and FAISS IVF in turns over the same queries."""
    embedding_ND = make_embeddings(num_objects, DIM, seed=5)
    run = _indexed(folder, embedding_ND)
    query_QD = embedding_ND[np.linspace(0, num_objects - 1, num_queries).astype(int)]
    by_flat, by_ivf = _peers(folder, embedding_ND, query_QD)
    ways: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "ours": lambda query_D: run.nearest(query_D, NUM_NEAREST)[1],
        "flat": by_flat,
        "ivf": by_ivf,
    }
    error = max(float(np.max(np.abs(ways["ours"](q) - by_flat(q)))) for q in query_QD)
    scale = float(np.median(by_flat(query_QD[0])))
    if not error <= LARGEST_ERROR**0.5 * scale:  # FAISS's own root of a float32 square near 0
        raise MeasurementError(f"distances differ by {error:.2g}, of about {scale:.2g}")
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn, query_D in enumerate([*query_QD[:WARM_UP], *query_QD]):
        for name, way in ways.items():
            started = time.perf_counter()
            way(query_D)
            if turn >= WARM_UP:
                seconds[name].append(time.perf_counter() - started)
    facts = {
        f"{name}_p{rank}_ms": float(np.percentile(values, rank)) * 1e3
        for name, values in seconds.items()
        for rank in (50, 99)
    } | {"objects": float(num_objects), "dim": float(DIM)}
    fields = []
    for peer, rank in (("flat", 50), ("flat", 99), ("ivf", 50)):
        value = facts[f"ours_p{rank}_ms"] / facts[f"{peer}_p{rank}_ms"]
        fields.append({"value": value, "runs": num_queries, "error": error, "facts": facts})
    return fields


def from_start_to_end(folder: str, runs: int) -> dict[str, Any]:
    """Seconds of the command; files are in memory, nothing else is."""
    seconds = []
    for row in range(runs):
        command = [sys.executable, "-c", COMMAND, "similar", folder, _name(row), "--json"]
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
    return {
        "value": float(np.median(seconds)), "low": min(seconds), "high": max(seconds), "runs": runs
    }  # fmt: skip


def make_night(folder: str, num_objects: int) -> str:
    """A finished night of 5 % more objects after the run in `folder`, beside it."""
    night, num_new = f"{folder}-night", num_objects // 20
    begin_night(folder, night)
    ids = [_name(num_objects + row) for row in range(num_new)]
    embedding_ND = make_embeddings(num_new, DIM, seed=6)
    make_embedded(night, embedding_ND, ids, rows_each=ROWS_EACH, name="shard-new")
    outcome = rank_night_sharded(plan_search(night, k=10, top=500), in_turn, reason="asked for")
    _finish(night, outcome)
    return night


def answer(run_dir: str, num_queries: int) -> dict[str, float]:
    """Milliseconds of queries at the median and peak private memory, opening the run included."""

    def ask() -> list[float]:
        run = open_indexed(run_dir, record_of(run_dir))
        if run is None:
            raise MeasurementError(f"{run_dir} has no index")
        seconds = []
        for number in np.linspace(0, run.num_objects - 1, num_queries).astype(int).tolist():
            embedding_D = run.embedding(number)
            started = time.perf_counter()
            run.rows(run.nearest(embedding_D, NUM_NEAREST, exclude=number)[0])
            seconds.append(time.perf_counter() - started)
        return seconds

    seconds, spent = watched(ask)
    return {"p50_ms": float(np.median(seconds)) * 1e3, "memory_mb": spent["memory_mb"]}


def of_a_night(folder: str, num_objects: int, num_queries: int) -> list[dict[str, Any]]:
    """The night's command, its answers warm, and its memory beside the scan's."""
    night = run_fresh(make_night, folder, num_objects, environment=ONE_THREAD).value()
    names = {"scan": folder, "night": night}
    got = {
        name: run_fresh(answer, run_dir, num_queries, environment=ONE_THREAD).value()
        for name, run_dir in names.items()
    }
    facts = {f"{name}_{what}": value for name in got for what, value in got[name].items()}
    memory = facts["night_memory_mb"] / facts["scan_memory_mb"]
    return [
        from_start_to_end(night, 3),
        {"value": facts["night_p50_ms"], "runs": num_queries, "facts": facts},
        {"value": memory, "runs": 1, "facts": facts},
    ]


def measure(quick: bool, scratch: Path) -> list[BenchRow]:
    """All rows; what is written goes to `scratch`."""
    num_objects, num_queries = (20_000, 50) if quick else (1_000_000, 200)
    folder = str(scratch / "run")

    def in_process() -> list[dict[str, Any]]:
        return run_fresh(
            against_faiss, folder, num_objects, num_queries, environment=ONE_THREAD
        ).value()

    return [
        *measured(CLAIMS[:3], in_process),
        *measured(CLAIMS[3:4], lambda: [from_start_to_end(folder, 3)]),
        *measured(CLAIMS[4:], lambda: of_a_night(folder, num_objects, num_queries)),
    ]


def _indexed(folder: str, embedding_ND: np.ndarray) -> IndexedRun:
    """The index of a finished run of these embeddings."""
    ids = [_name(row) for row in range(len(embedding_ND))]
    run_dir = make_embedded(Path(folder), embedding_ND, ids, rows_each=ROWS_EACH)
    outcome = rank_sharded(plan_search(run_dir, k=10, top=500), in_turn, reason="asked for")
    record = _finish(run_dir, outcome)
    run = open_indexed(run_dir, record)
    if run is None:
        raise MeasurementError("the run has no index")
    return run


def _finish(run_dir: str, outcome: SearchOutcome) -> RunRecord:
    """Publishes the record of a run that was searched."""
    record = RunRecord(
        survey="made",
        fingerprint="f",
        config={"search": {"k": 10}},
        created=moments.now(),
        state="done",
        model=ModelRef(model_id="m0", encoder="pca", dim=DIM),
        proof=outcome.proof,
        counts=outcome.counts,
        backends=outcome.backends,
    )
    record.publish(run_dir)
    return record


def _peers(
    folder: str, embedding_ND: np.ndarray, query_QD: np.ndarray
) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    """Distances [K] of one query [D] by FAISS's flat index and by its inverted file."""
    import faiss

    faiss.omp_set_num_threads(1)
    exact = faiss.IndexFlatL2(DIM)
    exact.add(embedding_ND)
    faiss.write_index(exact, f"{folder}/flat.faiss")
    flat = faiss.read_index(f"{folder}/flat.faiss", faiss.IO_FLAG_MMAP_IFC)
    num_cells = 2 ** round(float(np.log2(np.sqrt(len(embedding_ND)))))
    cells = faiss.IndexIVFFlat(faiss.IndexFlatL2(DIM), DIM, num_cells)
    cells.cp.min_points_per_centroid = 1
    cells.train(embedding_ND[:: max(1, len(embedding_ND) // (64 * num_cells))])
    cells.add(embedding_ND)
    faiss.write_index(cells, f"{folder}/ivf.faiss")
    ivf: Any = faiss.read_index(f"{folder}/ivf.faiss", faiss.IO_FLAG_MMAP)
    true_QK = flat.search(query_QD, NUM_NEAREST)[1]
    while _recall(ivf.search(query_QD, NUM_NEAREST)[1], true_QK) < RECALL:
        ivf.nprobe *= 2

    def nearest(index: Any, query_D: np.ndarray) -> np.ndarray:
        return np.sqrt(np.maximum(index.search(query_D[None], NUM_NEAREST)[0][0], 0.0))

    return partial(nearest, flat), partial(nearest, ivf)


def _recall(near_QK: np.ndarray, true_QK: np.ndarray) -> float:
    pairs = zip(near_QK, true_QK, strict=True)
    return float(np.mean([np.isin(true_K, near_K).mean() for near_K, true_K in pairs]))


def _name(row: int) -> str:
    return f"{row:09d}"


def main() -> None:
    """`python -m benchmarks.similar`."""
    run_benchmark("similar", "What is nearest to one object, beside raw FAISS.", measure)


if __name__ == "__main__":
    from benchmarks import similar as module  # so that fresh processes find its functions

    module.main()
