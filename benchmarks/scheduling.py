"""What scheduling costs: the plan of a search of 10^9 objects, with nothing to do in a task.

The stages are those of a small search, recorded here, with the number of tasks that an index of
10^9 embeddings in 10^5 shards has, which are told what its tasks are told. They run through the
code of a scan on a cluster of many logical nodes on this machine. What tasks of a search return,
numbers of each object, is left out.
"""

import contextlib
import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from astroray.actors.index import IndexPlan
from astroray.actors.join import JoinPlan
from astroray.execution import workers
from astroray.grouping import grouped, rows_of_partition
from astroray.neighbors.search import SearchConfig
from astroray.receipts import Receipt
from astroray.search import indexing, stages
from astroray.search.exact_rounds import TASKS_A_ROUND
from astroray.search.sharded import rank_sharded
from benchmarks.claims import at_least, at_most
from benchmarks.embedded_runs import in_turn, make_embedded, plan_search
from benchmarks.neighbors import make_embeddings
from benchmarks.processes import run_fresh
from benchmarks.rows import BenchRow, measured, run_benchmark

DIM = 64
ROWS_A_SHARD = 10_000
SMALL_OBJECTS = 20_000
BARE_TASKS = 2000
START_TIMEOUT_S = 300
SEARCH_CORE_S = 13 * 3600.0
"""Of 10^9 objects by the projection of docs/scale.md, where CPU time grows as N."""

CLAIMS = (
    at_least(
        "plan of a search of 10^9 objects: its tasks a second over those of bare Ray tasks",
        0.5,
        peer="ray.remote tasks that are told nothing, as many at once, on the same nodes",
        limit=1.0,
    ),
    at_most("the driver's private memory at the end of the plan over that before it", 1.5),
    at_least(
        "cores on which a search of 10^9 objects takes ten times as long as its scheduling",
        100.0,
        unit="cores",
    ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """Tasks that may run at once."""

    name: str
    is_of_index: bool
    """Whether they are told the plan of the index, or that of the join."""
    count: int


def record_stages(folder: Path) -> list[Stage]:
    """The stages of a small search, as they come."""
    stages = []

    def record(
        function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[int, Any]]:
        told = arguments[0] if arguments else ()
        is_of_index = any(isinstance(value, IndexPlan) for value in told)
        name = function.__name__
        stages.append(Stage(name=name, is_of_index=is_of_index, count=len(arguments)))
        yield from in_turn(function, arguments)

    embedding_ND = make_embeddings(SMALL_OBJECTS, DIM, seed=0)
    ids = [f"{row:06d}" for row in range(SMALL_OBJECTS)]
    run_dir = make_embedded(folder, embedding_ND, ids, rows_each=ROWS_A_SHARD // 10, on_sky=True)
    rank_sharded(plan_search(run_dir, k=10, top=100), record, reason="asked for")
    return stages


def scaled(stages: Sequence[Stage], num_partitions: int) -> list[Stage]:
    """The same stages of a survey of so many partitions, and as many groups of shards.

    A stage of one task has one; an exact round has TASKS_A_ROUND at most.
    """
    a_round = -(-num_partitions // -(-num_partitions // TASKS_A_ROUND))
    return [
        dataclasses.replace(
            stage, count=a_round if stage.name == "search_partitions" else num_partitions
        )
        if stage.count > 1
        else stage
        for stage in stages
    ]


def plans_of(num_objects: int) -> tuple[list[tuple[Any, ...]], JoinPlan]:
    """What each task of the index of so many objects is told, and each one of the join."""
    run_dir = "s3://runs/survey"
    stored = [(run_dir, _receipt(number)) for number in range(num_objects // ROWS_A_SHARD)]
    rows_each = rows_of_partition(
        num_objects, DIM, SearchConfig().partition_mb, least=indexing.LEAST_ROWS
    )
    groups = grouped(stored, rows_each)
    index_plan = IndexPlan(
        run_dir=run_dir,
        model_id="0" * 12,
        source="0" * 12,
        seed=0,
        num_groups=len(groups),
    )
    paths = [index_plan.partition(number) for number in range(-(-num_objects // rows_each))]
    join_plan = JoinPlan(
        partitions=tuple(paths),
        cells=index_plan.path("cells"),
        objects=index_plan.path("objects"),
        ranking=index_plan.path("ranking"),
        scratch=index_plan.scratch("").removesuffix(".arrow"),
        num_objects=num_objects,
        width=11,
        num_probes=8,
    )
    return [(index_plan, *group) for group in enumerate(groups)], join_plan


def run_plan(folder: str, num_objects: int, num_nodes: int) -> dict[str, float]:
    """Seconds and memory of the plan, and of bare tasks, on so many nodes of one CPU."""
    small = record_stages(Path(folder))
    of_index, join_plan = plans_of(num_objects)
    stages = scaled(small, len(join_plan.partitions))
    with cluster_of(num_nodes):
        each = workers.each_remotely(num_cpus=workers.CPUS_PER_WORKER, at_once=num_nodes)
        _run(each, [(place,) for place in range(10 * num_nodes)])  # workers have started
        bare_s = [_seconds(partial(_run_bare, num_nodes))]
        begin_mb = private_mb()
        peak_mb, seconds = begin_mb, 0.0
        for stage in stages:
            of_join = [(join_plan, place) for place in range(stage.count)]
            tasks = of_index[: stage.count] if stage.is_of_index else of_join
            seconds += _seconds(partial(_run, each, tasks))
            peak_mb = max(peak_mb, private_mb())
        bare_s.append(_seconds(partial(_run_bare, num_nodes)))
    num_tasks = sum(stage.count for stage in stages)
    return {
        "tasks": float(num_tasks),
        "stages": float(len(stages)),
        "tasks_per_s": num_tasks / seconds,
        "bare_tasks_per_s": 2 * BARE_TASKS / sum(bare_s),
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
        cluster.shutdown()  # type: ignore[no-untyped-call]


def private_mb() -> float:
    """Private memory of this process."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return int(next(x for x in lines if x.startswith("RssAnon")).split()[1]) / 1024


def _nothing(*_: Any) -> None:
    pass


def _run(each: stages.Each, tasks: list[tuple[Any, ...]]) -> None:
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
    """All rows."""
    num_objects, num_nodes = (10**8, 4) if quick else (10**9, 16)

    def rows() -> list[dict[str, Any]]:
        got = run_fresh(run_plan, str(scratch / "small"), num_objects, num_nodes).value()
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
