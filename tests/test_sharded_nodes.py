"""A node that goes while partitions are searched takes its tasks with it, and nothing else."""

import json
import subprocess
import sys

import pytest

from astroray.catalog import read_catalog
from astroray.search import night_index
from astroray.search.sharded_night import rank_night_sharded
from benchmarks.embedded_runs import begin_night, in_turn, make_embedded, plan_search
from tests.test_sharded import names, strays
from tests.test_sharded_faults import files_of_index, undisturbed
from tests.test_sharded_night import files_at

__all__ = ["undisturbed"]

TASKS = ("build", "search_partitions")
NIGHT_TASKS = ("finish_night",)
"""The first, a later one and the last: that each may die in its middle say the tests of faults."""
PROGRAM = """
import contextlib, json, sys, threading, time
from pathlib import Path
import ray
from ray._private import utils
from ray.cluster_utils import Cluster
from astroray.search import indexing, night_index, sharded, sharded_night
from astroray.execution import workers
from benchmarks.embedded_runs import plan_search

searches = json.loads(sys.argv[1])
names = [(folder, name) for _, _, folder, tasks in searches for name in tasks]

def stuck_once(function, folder, names):
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
    for folder, name in names:
        while not Path(folder, name).exists():
            time.sleep(0.01)
        node = next(n for n in nodes if n.node_id == Path(folder, name).read_text())
        cluster.remove_node(node, allow_graceful=False)
        nodes.remove(node)
        Path(folder, "gone").open("a").write(f"{name}\\n")

utils.get_dashboard_dependency_error = lambda: ImportError("agents shall do without")
system = {"health_check_period_ms": 500, "health_check_failure_threshold": 2}
bare = {"include_log_monitor": False}  # nobody reads what workers write
head = {"num_cpus": 0, "include_dashboard": False, "no_monitor": True, "_system_config": system}
cluster = Cluster(initialize_head=True, head_node_args=head | bare)
nodes = [cluster.add_node(num_cpus=1, wait=False, **bare) for _ in range(len(names) + 1)]
cluster.wait_for_nodes()
ray.init(address=cluster.address, log_to_driver=False)
losing = threading.Thread(target=lose_nodes, daemon=True)
losing.start()
remotely = workers.each_remotely(num_cpus=0.75, at_once=2)
indexing.LEAST_ROWS = night_index.LEAST_ROWS = 64
for kind, run_dir, folder, tasks in searches:
    search = plan_search(run_dir, k=5, top=20, num_probes=1)
    each = lambda function, arguments: remotely(stuck_once(function, folder, tasks), arguments)
    rank = sharded_night.rank_night_sharded if kind == "night" else sharded.rank_sharded
    rank(search, each, reason="asked for")
losing.join(60)
ray.shutdown()
cluster.shutdown()
"""


@pytest.fixture(scope="module")
def searched(undisturbed, tmp_path_factory):
    """Folder of a scan and a night, both searched on a cluster that loses a node in each task."""
    folder = tmp_path_factory.mktemp("nodes")
    make_embedded(folder / "run", strays(), names(600))
    for night in ("calm", "night"):
        begin_night(str(undisturbed), str(folder / night))
        ids = [f"new-{row}" for row in range(150)]
        make_embedded(folder / night, strays(150) + 1, ids, name="later")
    searches = []
    for kind, run_dir, tasks in (("scan", "run", TASKS), ("night", "night", NIGHT_TASKS)):
        (folder / f"{kind}-stuck").mkdir()
        searches.append((kind, str(folder / run_dir), str(folder / f"{kind}-stuck"), tasks))
    command = [sys.executable, "-c", PROGRAM, json.dumps(searches)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=220)
    assert ended.returncode == 0, ended.stderr
    return folder


@pytest.mark.ray
@pytest.mark.faults
@pytest.mark.timeout(240)
def test_nodes_that_go_in_the_middle_of_a_task_change_no_byte(undisturbed, searched):
    assert (searched / "scan-stuck" / "gone").read_text().split() == list(TASKS)
    run_dir = searched / "run"
    assert read_catalog(str(run_dir)).equals(read_catalog(str(undisturbed)))
    assert files_of_index(run_dir) == files_of_index(undisturbed)


@pytest.mark.ray
@pytest.mark.faults
@pytest.mark.timeout(240)
def test_nor_do_they_change_a_byte_of_a_night(searched, monkeypatch):
    assert (searched / "night-stuck" / "gone").read_text().split() == list(NIGHT_TASKS)
    monkeypatch.setattr(night_index, "LEAST_ROWS", 64)
    search = plan_search(str(searched / "calm"), k=5, top=20)
    rank_night_sharded(search, in_turn, reason="asked for")
    assert files_at(searched / "night") == files_at(searched / "calm")
