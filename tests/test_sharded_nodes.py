"""A node that goes while partitions are searched takes its tasks with it, and nothing else."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from astroray.catalog import read_catalog
from astroray.search import night_index
from astroray.search.sharded_night import rank_night_sharded
from benchmarks.embedded_runs import in_turn, make_embedded, plan_search
from benchmarks.nightly import begin_night
from tests.test_sharded import names, strays
from tests.test_sharded_faults import files_of_index, undisturbed
from tests.test_sharded_night import files_at

__all__ = ["undisturbed"]

TASKS = ("build", "search_cells", "search_partitions")
NIGHT_TASKS = ("search_partitions", "finish_night")
PROGRAM = """
import contextlib, sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from astroray.search import indexing, night_index, sharded, sharded_night
from astroray.execution import workers
from benchmarks.embedded_runs import plan_search

kind, run_dir, folder, *names = sys.argv[1:]

def stuck_once(function):
    def run(*arguments):
        path = Path(folder, function.__name__)
        if function.__name__ in names:
            with contextlib.suppress(FileExistsError):
                path.with_suffix(".taken").touch(exist_ok=False)
                path.with_suffix(".part").write_text(ray.get_runtime_context().get_node_id())
                path.with_suffix(".part").rename(path)
                threading.Event().wait()  # until the node is gone
        return function(*arguments)
    return run

def lose_nodes():
    for name in names:
        while not Path(folder, name).exists():
            time.sleep(0.01)
        node = next(n for n in nodes if n.node_id == Path(folder, name).read_text())
        cluster.remove_node(node, allow_graceful=False)
        nodes.remove(node)
        Path(folder, "gone").open("a").write(f"{name}\\n")

system = {"health_check_period_ms": 500, "health_check_failure_threshold": 2}
bare = {"include_log_monitor": False}  # nobody reads what workers write
head = {"num_cpus": 0, "include_dashboard": False, "no_monitor": True, "_system_config": system}
cluster = Cluster(initialize_head=True, head_node_args=head | bare)
nodes = [cluster.add_node(num_cpus=1, wait=False, **bare) for _ in range(len(names) + 1)]
cluster.wait_for_nodes()
ray.init(address=cluster.address, log_to_driver=False)
threading.Thread(target=lose_nodes, daemon=True).start()
remotely = workers.each_remotely(num_cpus=0.75, at_once=2)
indexing.LEAST_ROWS = night_index.LEAST_ROWS = 64
search = plan_search(run_dir, k=5, top=20, num_probes=1)
each = lambda function, arguments: remotely(stuck_once(function), arguments)
rank = sharded_night.rank_night_sharded if kind == "night" else sharded.rank_sharded
rank(search, each, reason="asked for")
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.ray
@pytest.mark.faults
@pytest.mark.timeout(240)
def test_nodes_that_go_in_the_middle_of_a_task_change_no_byte(undisturbed, tmp_path):
    run_dir = make_embedded(tmp_path / "run", strays(), names(600))
    lose_nodes("scan", run_dir, tmp_path / "stuck", TASKS)
    assert read_catalog(run_dir).equals(read_catalog(str(undisturbed)))
    assert files_of_index(Path(run_dir)) == files_of_index(undisturbed)


@pytest.mark.ray
@pytest.mark.faults
@pytest.mark.timeout(240)
def test_nor_do_they_change_a_byte_of_a_night(undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(night_index, "LEAST_ROWS", 64)
    for night in ("calm", "night"):
        begin_night(str(undisturbed), str(tmp_path / night))
        ids = [f"new-{row}" for row in range(150)]
        make_embedded(tmp_path / night, strays(150) + 1, ids, name="later")
    search = plan_search(str(tmp_path / "calm"), k=5, top=20)
    rank_night_sharded(search, in_turn, reason="asked for")
    lose_nodes("night", str(tmp_path / "night"), tmp_path / "stuck", NIGHT_TASKS)
    assert files_at(tmp_path / "night") == files_at(tmp_path / "calm")


def lose_nodes(kind: str, run_dir: str, folder: Path, tasks: Sequence[str]) -> None:
    """Searches on a cluster that loses the node of the first of each of these tasks."""
    folder.mkdir()
    command = [sys.executable, "-c", PROGRAM, kind, run_dir, str(folder), *tasks]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert ended.returncode == 0, ended.stderr
    assert (folder / "gone").read_text().split() == list(tasks)
