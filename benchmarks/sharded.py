"""What the search over partitions costs: against peers, with a second worker, as surveys grow.

A search is index, join and certificate, from embeddings on disk to the certified list; peers write
no catalog, so the memory of writing one is a row of its own. Lists and scores are compared before
any timing. Vectors are those of `benchmarks.neighbors`: clusters of several widths, one in a
hundred far off.
"""

import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from astroray.execution import workers
from astroray.neighbors.certificate import Certified
from astroray.neighbors.search import SearchConfig, search
from astroray.report.rows import read_rows, read_top
from astroray.search.sharded import ShardedSearch
from benchmarks.cells import make_survey
from benchmarks.claims import at_least, at_most
from benchmarks.clock import timed
from benchmarks.embedded_runs import in_turn, make_embedded, plan_search
from benchmarks.neighbors import BLAS_THRESHOLD, ONE_THREAD, distances_to_others, make_embeddings
from benchmarks.processes import run_fresh, watched
from benchmarks.rows import BenchRow, MeasurementError, measured, run_benchmark, spread

K = 10
TOP = 500
LARGEST_ERROR = 1e-5
ROWS_A_SHARD = 10_000

CLAIMS = (
    at_least(
        "certified top 500, 256 dimensions: time of scikit-learn brute over ours",
        10.0,
        peer="sklearn.neighbors.NearestNeighbors(algorithm='brute'), 1 thread",
    ),
    at_least(
        "certified top 500, 256 dimensions: time of FAISS IndexFlatL2 over ours",
        3.0,
        peer="faiss.IndexFlatL2, self-search, distance_compute_blas_threshold 20, 1 thread",
    ),
    at_least(
        "certified top 500, 256 dimensions: time of our search of all in memory over ours",
        1.0,
        peer="astroray.neighbors.search.search with index flat, 1 thread",
    ),
    at_least(
        "self-join in the cells around, 64 dimensions: two workers over one",
        1.8,
        peer="the same tasks on one Ray worker",
        limit=2.0,
    ),
    at_most(
        "CPU time of a search from the smallest to the largest survey: exponent of N", 1.3, unit=""
    ),
    at_most("peak private memory at the largest survey over that at the smallest", 1.5),
    at_most("the same while NEIGHBORS and CATALOG are written, four times the objects", 1.25),
    at_most("exponent of N of the CPU time, 128 dimensions", 1.3, unit=""),
    at_most("exponent of N of the CPU time, real digits repeated and moved", 1.3, unit=""),
    at_most("CPU time of a certified list of 1 % of the objects over that of one of .1 %", 1.5),
)


def against_peers(folder: str, num_objects: int) -> list[dict[str, Any]]:
    """Ours against scikit-learn, FAISS and our own search of all, in turns, one thread each."""
    import faiss
    from sklearn.neighbors import NearestNeighbors

    embedding_ND = make_embeddings(num_objects, 256, seed=1)
    run_dir = make_embedded(Path(folder), embedding_ND, _names(num_objects), rows_each=ROWS_A_SHARD)

    def by_sklearn() -> np.ndarray:
        found = NearestNeighbors(n_neighbors=K + 1, algorithm="brute", n_jobs=1).fit(embedding_ND)
        return np.asarray(found.kneighbors(embedding_ND, return_distance=False))

    def by_faiss() -> np.ndarray:
        faiss.omp_set_num_threads(1)
        faiss.cvar.distance_compute_blas_threshold = BLAS_THRESHOLD
        index = faiss.IndexFlatL2(embedding_ND.shape[1])
        index.add(embedding_ND)
        return np.asarray(index.search(embedding_ND, K + 1)[1])

    def by_flat() -> Any:
        config = SearchConfig(k=K, top=TOP, index="flat", num_threads=1)
        return search(embedding_ND, _names(num_objects), config)

    ways = {
        "ours": lambda: find(run_dir),
        "sklearn": by_sklearn,
        "faiss": by_faiss,
        "flat": by_flat,
    }
    find(run_dir)  # libraries are loaded and files are in memory
    took = {name: timed(way) for name, way in ways.items()}
    found = {name: one.result for name, one in took.items()}
    _check_top(found["ours"], found["flat"])
    rows = []
    for name in ("sklearn", "faiss", "flat"):
        error = 0.0
        if name != "flat":
            error = _error(embedding_ND, found[name], found["flat"])
        ratio = took[name].wall_s / took["ours"].wall_s
        facts = {
            "ours_s": took["ours"].wall_s,
            "peer_s": took[name].wall_s,
            "cpu_ratio": took[name].cpu_s / took["ours"].cpu_s,
            "rescored": float(found["ours"].proof.num_rescored),
            "objects": float(num_objects),
        }
        rows.append({**spread([ratio]), "error": error, "facts": facts})
    return rows


def two_workers(folder: str, num_objects: int, dim: int) -> dict[str, Any]:
    """The self-join on one Ray worker and on two, in turns."""
    embedding_ND = make_embeddings(num_objects, dim, seed=2)
    run_dir = make_embedded(Path(folder), embedding_ND, _names(num_objects), rows_each=ROWS_A_SHARD)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    bounds = []
    with workers.cluster(num_cpus=2):
        both = workers.each_remotely(num_cpus=0.75, at_once=2)
        searched = ShardedSearch(plan_search(run_dir, k=K, top=TOP), both, reason="asked for")
        searched.choose_probes()
        searched.bounds()  # workers have started and files are in memory
        for _ in range(2):
            for num in seconds:
                searched.each = workers.each_remotely(num_cpus=0.75, at_once=num)
                for file in (Path(run_dir) / "index").glob("scratch-*-near-*"):
                    file.unlink()
                started = time.perf_counter()
                bounds.append(searched.bounds())
                seconds[num].append(time.perf_counter() - started)
    if any(not np.array_equal(bounds[0], other) for other in bounds):
        raise MeasurementError("one worker and two found different bounds")
    ratio = (np.array(seconds[1]) / np.array(seconds[2])).tolist()
    facts = {
        "one_s": float(np.median(seconds[1])),
        "two_s": float(np.median(seconds[2])),
        "objects": float(num_objects),
    }
    return {**spread(ratio), "error": 0.0, "facts": facts}


def search_once(run_dir: str) -> dict[str, float]:
    """CPU seconds and peak private memory of one search, all tasks in this process."""
    certified, got = watched(lambda: find(run_dir))
    return {**got, "rescored": float(certified.proof.num_rescored)}


def write_once(run_dir: str) -> dict[str, float]:
    """The same of what follows: scores, NEIGHBORS, CATALOG, and the rows of the report.

    Beside it the files of the run directory, and their megabytes.
    """
    searched = ShardedSearch(plan_search(run_dir, k=K, top=TOP), in_turn, reason="asked for")
    certified = searched.certify()

    def write() -> None:
        searched.publish(certified)
        read_rows(run_dir, read_top(run_dir, TOP), [])

    facts = watched(write)[1]
    sizes = [path.stat().st_size for path in Path(run_dir).rglob("*") if path.is_file()]
    return {**facts, "files": float(len(sizes)), "run_mb": sum(sizes) / 2**20}


def find_lists(run_dir: str, num_objects: int) -> dict[str, Any]:
    """How the cost of a search grows with its list: the fields of a row, facts of each length."""
    find(run_dir)  # libraries are loaded and files are in memory
    facts: dict[str, float] = {"objects": float(num_objects)}
    for share in (0.001, 0.003, 0.01, 0.03):
        top = int(share * num_objects)
        took = timed(partial(find, run_dir, top))
        facts |= {f"cpu_s_{top}": took.cpu_s, f"rescored_{top}": took.result.proof.num_rescored}
    ratio = facts[f"cpu_s_{num_objects // 100}"] / facts[f"cpu_s_{num_objects // 1000}"]
    return {"value": ratio, "runs": 1, "facts": facts}


def list_lengths(scratch: Path, num_objects: int) -> list[dict[str, Any]]:
    """The same in a fresh process, of embeddings that it finds on disk."""
    embedding_ND = make_embeddings(num_objects, 64, seed=3)
    run_dir = make_embedded(
        scratch / "lists", embedding_ND, _names(num_objects), rows_each=ROWS_A_SHARD
    )
    return [run_fresh(find_lists, run_dir, num_objects, environment=ONE_THREAD).value()]


def find(run_dir: str, top: int = TOP) -> Certified:
    """Index, join and certificate anew, all tasks in this process."""
    for file in (Path(run_dir) / "index").glob("*"):
        file.unlink()
    return ShardedSearch(plan_search(run_dir, k=K, top=top), in_turn, reason="asked for").certify()


def scaling(
    scratch: Path, sizes: list[int], dim: int = 64, survey: str = ""
) -> list[dict[str, Any]]:
    """How CPU time and memory grow; the facts hold each size.

    survey  one of `benchmarks.cells`, of 64 dimensions; empty: clusters that are made here
    """
    facts: dict[str, float] = {"dim": float(dim)}
    for size in sizes:
        embedding_ND = make_survey(survey, size) if survey else make_embeddings(size, dim, seed=3)
        folder = scratch / f"{survey}{size}x{dim}"
        run_dir = make_embedded(folder, embedding_ND, _names(size), rows_each=ROWS_A_SHARD)
        got = run_fresh(search_once, run_dir, environment=ONE_THREAD).value()
        facts |= {f"{name}_{size}": value for name, value in got.items()}
    first, last = sizes[0], sizes[-1]
    growth = np.log(facts[f"cpu_s_{last}"] / facts[f"cpu_s_{first}"]) / np.log(last / first)
    memory = facts[f"memory_mb_{last}"] / facts[f"memory_mb_{first}"]
    return [{"value": float(growth), "runs": 1, "facts": facts}, {"value": memory, "runs": 1}]


def writing(scratch: Path, sizes: list[int], dim: int) -> list[dict[str, Any]]:
    """How memory grows while a catalog is written, to the second size; the facts hold each."""
    facts: dict[str, float] = {"dim": float(dim)}
    for size in sizes:
        run_dir = make_embedded(
            scratch / f"catalog-{size}", make_embeddings(size, dim, seed=4), _names(size),
            rows_each=ROWS_A_SHARD, on_sky=True,
        )  # fmt: skip
        got = run_fresh(write_once, run_dir, environment=ONE_THREAD).value()
        facts |= {f"{name}_{size}": value for name, value in got.items()}
    value = facts[f"memory_mb_{sizes[1]}"] / facts[f"memory_mb_{sizes[0]}"]
    return [{"value": value, "runs": 1, "facts": facts}]


def measure(quick: bool, scratch: Path) -> list[BenchRow]:
    """All rows; what is written goes to `scratch`."""
    peers, workers_size = (10_000, 50_000) if quick else (50_000, 300_000)
    written = [10_000, 40_000] if quick else [100_000, 400_000, 1_000_000]
    sizes = [20_000, 60_000] if quick else [100_000, 300_000, 1_000_000]

    def against() -> list[dict[str, Any]]:
        folder = str(scratch / "peers")
        return run_fresh(against_peers, folder, peers, environment=ONE_THREAD).value()

    def workers_row() -> list[dict[str, Any]]:
        return [run_fresh(two_workers, str(scratch / "workers"), workers_size, 64).value()]

    return [
        *measured(CLAIMS[:3], against),
        *measured(CLAIMS[3:4], workers_row),
        *measured(CLAIMS[4:6], lambda: scaling(scratch, sizes)),
        *measured(CLAIMS[6:7], lambda: writing(scratch, written, 64)),
        *measured(CLAIMS[7:8], lambda: scaling(scratch, sizes, 128)[:1]),
        *measured(CLAIMS[8:9], lambda: scaling(scratch, sizes, survey="digits 0.3")[:1]),
        *measured(CLAIMS[9:], lambda: list_lengths(scratch, sizes[-2])),
    ]


def _names(num: int) -> list[str]:
    return [f"{row:09d}" for row in range(num)]


def _check_top(ours: Certified, flat: Any) -> None:
    best = np.argsort(flat.rank_N)[:TOP]
    if not np.array_equal(np.argsort(ours.rank_N)[:TOP], best):
        raise MeasurementError("the certified list differs from that without an index")
    if not np.array_equal(ours.score_N[best], flat.score_N[best]):
        raise MeasurementError("certified scores differ from those without an index")


def _error(embedding_ND: np.ndarray, near_NK: np.ndarray, flat: Any) -> float:
    distance_NK = distances_to_others(embedding_ND, near_NK)
    error = float(np.max(np.abs(distance_NK / flat.distance_NK - 1)))
    if not error <= LARGEST_ERROR:
        raise MeasurementError(f"a peer's distances differ by {error:.2g} of themselves")
    return error


def main() -> None:
    """`python -m benchmarks.sharded`."""
    run_benchmark("sharded", "The search over partitions, its peers and its growth.", measure)


if __name__ == "__main__":
    from benchmarks import sharded as module  # so that fresh processes find its functions

    module.main()
