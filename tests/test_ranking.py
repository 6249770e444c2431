"""Whether one process searches or many follows from the settings and from all embeddings."""

import dataclasses
import sys

import pytest

from astroray.actors.search import rank_survey
from astroray.errors import BackendError, ConfigError
from astroray.execution import workers
from astroray.neighbors import search as neighbor_search
from astroray.neighbors.search import SearchConfig
from astroray.search import ranking
from benchmarks.embedded_runs import begin_night, in_turn, plan_of, publish_shard
from tests.test_neighbors import faiss_with_gpu
from tests.test_nightly import cloud, shard

DIM = 4


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """A night of 30 objects after 80, where more than 100 are many; tasks run in this process."""
    monkeypatch.setattr(neighbor_search, "LARGEST_FLAT", 100)
    monkeypatch.setattr(workers, "each_remotely", lambda **_: in_turn)
    monkeypatch.setattr(workers, "remotely", lambda function, **_: function)
    monkeypatch.setattr(workers, "machines", list)
    reference, night = str(tmp_path / "ref"), str(tmp_path / "night")
    publish_shard(reference, "a", *shard("a", cloud(80, dim=DIM)))
    rank_survey(plan_of(reference, SearchConfig(k=3)))
    begin_night(reference, night)
    publish_shard(night, "b", *shard("b", cloud(30, seed=1, dim=DIM)))
    return reference, night


def plan_of_workers(num_gpus: float = 0.0) -> workers.WorkerPlan:
    return workers.WorkerPlan(
        min_workers=1, max_workers=1, num_cpus=1.0, num_gpus=num_gpus, device="cpu"
    )


def index_of(run_dir: str, index: str, *, num_own: int, is_night: bool) -> tuple[str, str]:
    outcome = ranking.rank_run(
        plan_of(run_dir, SearchConfig(k=3, index=index)),
        plan_of_workers(),
        num_own=num_own,
        dim=DIM,
        is_night=is_night,
        note=lambda *_: None,
    )
    assert outcome.counts.catalog == num_own + (80 if is_night else 0)
    return outcome.backends.index, outcome.backends.index_reason


def test_a_night_counts_the_embeddings_of_older_versions(begun):
    reference, night = begun
    assert index_of(reference, "auto", num_own=80, is_night=False)[0] == "flat"
    found = index_of(night, "auto", num_own=30, is_night=True)
    assert found[0] == "sharded"
    assert found[1].startswith("110 objects are more than 100; 1 partition,")


@pytest.mark.parametrize(("asked", "used"), [("flat", "flat"), ("sharded", "sharded")])
def test_a_way_that_is_asked_for_by_name_is_taken(begun, asked, used):
    reference, night = begun
    assert index_of(reference, asked, num_own=80, is_night=False)[0] == used
    assert index_of(night, asked, num_own=30, is_night=True)[0] == used


def test_a_gpu_that_is_asked_for_and_not_there_is_refused_before_work(monkeypatch):
    asked = []
    monkeypatch.setattr(
        workers, "remotely", lambda function, **given: asked.append(given) or function
    )
    search = SearchConfig(index="gpu-flat")
    with pytest.raises(ConfigError, match="index is gpu-flat, and workers have no GPU"):
        ranking.check_index(search, plan_of_workers())
    with pytest.raises(BackendError, match="is built without GPUs"):
        ranking.check_index(search, plan_of_workers(0.5))
    assert asked == [{"num_cpus": 1, "num_gpus": 0.5}]
    ranking.check_index(SearchConfig(), plan_of_workers())
    assert len(asked) == 1


def test_a_search_on_a_gpu_gets_that_of_a_worker_on_a_machine_that_has_one(begun, monkeypatch):
    asked = []
    monkeypatch.setattr(
        workers, "remotely", lambda function, **given: asked.append(given) or function
    )
    monkeypatch.setattr(workers, "machines", lambda: [{"CPU": 9.0}, {"CPU": 2.0, "GPU": 1.0}])
    monkeypatch.setitem(sys.modules, "faiss", faiss_with_gpu([]))
    reference, night = begun
    plan = dataclasses.replace(plan_of_workers(0.5), max_workers=4)
    for run_dir, num_own, is_night in ((reference, 80, False), (night, 30, True)):
        outcome = ranking.rank_run(
            plan_of(run_dir, SearchConfig(k=3, index="gpu-flat")),
            plan,
            num_own=num_own,
            dim=DIM,
            is_night=is_night,
            note=lambda *_: None,
        )
        assert outcome.backends.index == ("flat" if is_night else "gpu-flat")
    assert asked == [{"num_cpus": 2, "num_gpus": 0.5}, {"num_cpus": 4, "num_gpus": 0.0}]
