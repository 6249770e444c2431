"""What the order of the tasks costs: the plan of a search of 10^9 objects, with nothing in a task.

The tasks are as many as in the search, in the same stages, and are told the same: an index of
10^9 embeddings of 128 dimensions in 10^5 shards. They run through the same code on a cluster of
many logical nodes on this machine. A test compares the stages with those of a real search.
"""

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from astroray import indexing, workers
from astroray.actors.index import IndexPlan
from astroray.actors.join import JoinPlan
from astroray.ledger import Receipt
from astroray.neighbors import SearchConfig
from astroray.sharded import TASKS_A_ROUND
from benchmarks.processes import run_fresh
from benchmarks.rows import BenchRow, measured, run_benchmark

DIM = 64
ROWS_A_SHARD = 10_000
NUM_ROUNDS = 8
"""Of exact search; that of a million objects with a list of 500 takes one or two."""
BARE_TASKS = 2000
START_TIMEOUT_S = 300
OF_INDEX = ("identify", "number_objects", "choose_cells", "route", "build")
"""Tasks that are told the plan of the index, where others are told that of the join."""
SEARCH_CORE_S = 13 * 3600.0
"""Of 10^9 objects by the projection of docs/scale.md, where CPU time grows as N."""

CLAIMS = (
    partial(
        BenchRow,
        what="plan of a search of 10^9 objects: its tasks a second over those of bare Ray tasks",
        goal=0.5,
        peer="ray.remote tasks that are told nothing, as many at once, on the same nodes",
        limit=1.0,
    ),
    partial(
        BenchRow,
        what="the driver's private memory at the end of the plan over that before it",
        goal=1.5,
        is_at_most=True,
    ),
    partial(
        BenchRow,
        what="cores on which a search of 10^9 objects takes ten times as long as its scheduling",
        goal=100.0,
        unit="cores",
    ),
)


def stages_of(num_partitions: int, num_groups: int, num_rounds: int) -> list[tuple[str, int]]:
    """The stages of a search in their order: the task, and how many of it may run at once."""
    a_round = -(-num_partitions // -(-num_partitions // TASKS_A_ROUND))
    return [
        ("identify", num_groups),
        ("number_objects", 1),
        ("choose_cells", 1),
        ("route", num_groups),
        ("build", num_partitions),
        *[("search_partitions", a_round)],
        ("search_cells", num_partitions),
        *[("search_partitions", a_round)] * num_rounds,
        ("measure_moments", num_partitions),
        ("measure_squares", num_partitions),
        ("score_vectors", num_partitions),
        ("publish_sharded", 1),
    ]


def plans_of(num_objects: int) -> tuple[IndexPlan, JoinPlan]:
    """What the tasks of a search of so many objects are told."""
    receipts = [_receipt(number) for number in range(num_objects // ROWS_A_SHARD)]
    rows_each = indexing._rows_of_partition(num_objects, DIM, SearchConfig().partition_mb)
    index_plan = IndexPlan(
        run_dir="s3://runs/survey",
        model_id="0" * 12,
        source="0" * 12,
        seed=0,
        groups=indexing._grouped(receipts, rows_each),
    )
    paths = [index_plan.partition(number) for number in range(-(-num_objects // rows_each))]
    join_plan = JoinPlan(
        partitions=tuple(paths),
        cells=index_plan.path("cells"),
        objects=index_plan.path("objects"),
        scratch=index_plan.scratch("").removesuffix(".arrow"),
        num_objects=num_objects,
        width=11,
        num_probes=8,
    )
    return index_plan, join_plan


def run_plan(num_objects: int, num_nodes: int) -> dict[str, float]:
    """Seconds and memory of the plan, and of bare tasks, on so many nodes of one CPU."""
    with cluster_of(num_nodes):
        each = workers.each_remotely(num_cpus=workers.CPUS_PER_WORKER, at_once=num_nodes)
        list(each(_nothing, [(place,) for place in range(10 * num_nodes)]))  # workers have started
        bare_s = _seconds(lambda: _run_bare(num_nodes))
        index_plan, join_plan = plans_of(num_objects)
        stages = stages_of(len(join_plan.partitions), len(index_plan.groups), NUM_ROUNDS)
        begin_mb = private_mb()
        peak_mb, seconds = begin_mb, 0.0
        for name, count in stages:
            plan = index_plan if name in OF_INDEX else join_plan
            tasks = [(plan, place) for place in range(count)]
            seconds += _seconds(partial(_run, each, tasks))
            peak_mb = max(peak_mb, private_mb())
    num_tasks = sum(count for _, count in stages)
    return {
        "tasks": float(num_tasks),
        "tasks_per_s": num_tasks / seconds,
        "bare_tasks_per_s": BARE_TASKS / bare_s,
        "begin_mb": begin_mb,
        "peak_mb": peak_mb,
        "nodes": float(num_nodes),
    }


@contextlib.contextmanager
def cluster_of(num_nodes: int) -> Iterator[None]:
    """A cluster of logical nodes of one CPU each; the driver's own has none."""
    import ray
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(num_nodes):
            cluster.add_node(num_cpus=1, wait=False)
        cluster.wait_for_nodes(timeout=START_TIMEOUT_S)
        ray.init(address=cluster.address, log_to_driver=False)
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


def private_mb() -> float:
    """Private memory of this process."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return int(next(x for x in lines if x.startswith("RssAnon")).split()[1]) / 1024


def _nothing(*_: Any) -> None:
    pass


def _run(each: indexing.Each, tasks: list[tuple[Any, ...]]) -> None:
    for _ in each(_nothing, tasks):
        pass


def _run_bare(at_once: int) -> None:
    import ray

    task = ray.remote(num_cpus=workers.CPUS_PER_WORKER)(_nothing)
    running = [task.remote() for _ in range(at_once)]
    for _ in range(BARE_TASKS - at_once):
        done, running = ray.wait(running, num_returns=1)
        ray.get(done[0])
        running.append(task.remote())
    ray.get(running)


def _seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def _receipt(number: int) -> Receipt:
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    return Receipt(
        shard=f"night-2026-11-28/tile-{number:06d}",
        rows_read=ROWS_A_SHARD,
        rows_embedded=ROWS_A_SHARD,
        rows_rejected=0,
        shard_rejected=False,
        checksum=digest,
        attempt=1,
        seconds=12.5,
        bytes_read=491520000,
    )


def measure(quick: bool, scratch: Path) -> list[BenchRow]:
    """All rows; nothing is written to `scratch`."""
    num_objects, num_nodes = (10**8, 4) if quick else (10**9, 32)

    def rows() -> list[dict[str, Any]]:
        got = run_fresh(run_plan, num_objects, num_nodes).value()
        tasks_s = got["tasks"] / got["tasks_per_s"]
        core_s = SEARCH_CORE_S * num_objects / 10**9
        return [
            {"value": got["tasks_per_s"] / got["bare_tasks_per_s"], "runs": 1, "facts": got},
            {"value": got["peak_mb"] / got["begin_mb"], "runs": 1},
            {"value": core_s / (10 * tasks_s), "runs": 1},
        ]

    return measured(CLAIMS, rows)


def main() -> None:
    """`python -m benchmarks.scheduling`."""
    run_benchmark("scheduling", "The order of the tasks of a search of 10^9 objects.", measure)


if __name__ == "__main__":
    from benchmarks import scheduling as module  # so that fresh processes find its functions

    module.main()
