"""A node that goes while partitions are searched takes its tasks with it, and nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest

from astroray.catalog import read_catalog
from benchmarks.embedded_runs import make_embedded
from tests.test_sharded import names, strays
from tests.test_sharded_faults import files_of_index, undisturbed

__all__ = ["undisturbed"]

TASKS = ("build", "search_cells", "search_partitions")
PROGRAM = """
import contextlib, sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from astroray import indexing, sharded, workers
from benchmarks.embedded_runs import plan_search

run_dir, folder, *names = sys.argv[1:]

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
        print("gone", name, flush=True)

system = {"health_check_period_ms": 500, "health_check_failure_threshold": 2}
head = {"num_cpus": 0, "include_dashboard": False, "_system_config": system}
cluster = Cluster(initialize_head=True, head_node_args=head)
nodes = [cluster.add_node(num_cpus=1, wait=False) for _ in range(len(names) + 1)]
cluster.wait_for_nodes()
ray.init(address=cluster.address, log_to_driver=False)
threading.Thread(target=lose_nodes, daemon=True).start()
remotely = workers.each_remotely(num_cpus=0.75, at_once=2)
indexing.LEAST_ROWS = 64
search = plan_search(run_dir, k=5, top=20, num_probes=1)
each = lambda function, arguments: remotely(stuck_once(function), arguments)
sharded.rank_sharded(search, each, reason="asked for")
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.ray
@pytest.mark.faults
@pytest.mark.timeout(240)
def test_nodes_that_go_in_the_middle_of_a_task_change_no_byte(undisturbed, tmp_path):
    run_dir = make_embedded(tmp_path / "run", strays(), names(600))
    (tmp_path / "stuck").mkdir()
    command = [sys.executable, "-c", PROGRAM, run_dir, str(tmp_path / "stuck"), *TASKS]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert ended.returncode == 0, ended.stderr
    assert [line for line in ended.stdout.splitlines() if line.startswith("gone")] == [
        f"gone {name}" for name in TASKS
    ]
    assert read_catalog(run_dir).equals(read_catalog(str(undisturbed)))
    assert files_of_index(Path(run_dir)) == files_of_index(undisturbed)
