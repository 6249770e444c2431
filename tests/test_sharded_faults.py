"""Whoever dies while an index is built or searched, the list and the files are the same."""

from pathlib import Path

import pytest

from astroray import faults
from astroray.catalog import read_catalog
from astroray.execution import workers
from astroray.neighbors.partitions import Manifest
from astroray.search import indexing
from astroray.search.sharded import rank_sharded
from benchmarks.embedded_runs import in_turn, make_embedded, plan_search
from tests import scans
from tests.deaths import die_at_each
from tests.test_sharded import names, strays

pytestmark = pytest.mark.faults

OPTIONS = {"k": 5, "top": 20, "num_probes": 1}
IMPORTS = """
from astroray.search import indexing, sharded
from benchmarks.embedded_runs import in_turn, plan_search
indexing.LEAST_ROWS = 64
plan_of_search = plan_search(sys.argv[1], k=5, top=20, num_probes=1)
"""
CALL = 'sharded.rank_sharded(plan_of_search, in_turn, reason="asked for")'
DEATHS = (
    ("index.routed", "3"), ("index.partition", "4"), ("publish.renamed", "partition-"),
    ("index.built", ""), ("search.cells", "4"), ("search.partitions", "queries-00000"),
    ("search.found", ""), ("publish.written", "neighbors-"), ("search.file", "objects.parquet"),
)  # fmt: skip


@pytest.fixture(autouse=True)
def several_partitions(monkeypatch):
    monkeypatch.setattr(indexing, "LEAST_ROWS", 64)
    yield
    faults.arm("")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run_dir = make_embedded(tmp_path_factory.mktemp("undisturbed") / "run", strays(), names(600))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(indexing, "LEAST_ROWS", 64)
        rank_sharded(plan_search(run_dir, **OPTIONS), in_turn, reason="asked for")
    return Path(run_dir)


def files_of_index(run_dir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run_dir / "index").iterdir()}


def test_a_driver_killed_at_each_point_goes_on_to_the_same_files(undisturbed, tmp_path):
    run_dir = make_embedded(tmp_path / "run", strays(), names(600))
    die_at_each(DEATHS, tmp_path, imports=IMPORTS, call=CALL, argument=run_dir)
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan" / "reached").touch()
    faults.arm(str(tmp_path / "plan"))
    rank_sharded(plan_search(run_dir, **OPTIONS), in_turn, reason="asked for")
    assert "index.partition" not in {point for point, _ in scans.reached(tmp_path / "plan")}
    assert read_catalog(run_dir).equals(read_catalog(str(undisturbed)))
    assert files_of_index(Path(run_dir)) == files_of_index(undisturbed)


@pytest.mark.ray
def test_tasks_that_die_are_repeated_by_themselves(ray_cluster, undisturbed, tmp_path):
    run_dir = make_embedded(tmp_path / "run", strays(), names(600))
    plan = tmp_path / "plan"
    tokens = [
        scans.token(plan, "index.partition", "2"),
        scans.token(plan, "search.cells", "4"),
        scans.token(plan, "search.partitions", "queries-00000"),
        scans.token(plan, "search.file", "objects.parquet"),
    ]
    (plan / "reached").touch()
    faults.arm(str(plan))
    each = workers.each_remotely(num_cpus=0.5, at_once=2)
    rank_sharded(plan_search(run_dir, **OPTIONS), each, reason="asked for")
    assert not any(token.exists() for token in tokens)
    steps = scans.reached(plan)
    num_partitions = len(Manifest.load(run_dir).partitions)
    assert len([step for step in steps if step[0] == "index.partition"]) == num_partitions + 1
    assert len([step for step in steps if step[0] == "search.cells"]) == num_partitions + 1
    assert read_catalog(run_dir).equals(read_catalog(str(undisturbed)))
    assert files_of_index(Path(run_dir)) == files_of_index(undisturbed)
