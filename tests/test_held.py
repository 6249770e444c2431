"""What a process keeps from one task to the next: made once, given up for other work."""

import gc
import types
import weakref

import pytest
import ray.data

from astroray.actors.held import call_held, let_go
from astroray.execution import streams
from astroray.execution.workers import RayNodes, plan_workers


class Doubler:
    """A worker that notes how often one was made."""

    made: list[tuple[object, ...]] = []  # noqa: RUF012 (emptied by each test)

    def __init__(self, *told):
        self.made.append(told)

    def __call__(self, batch):
        return {"number": [2 * number for number in batch["number"]], "by": [weakref.ref(self)]}


def ask(*told):
    return call_held({"number": [1, 2]}, made=Doubler, told=told)


def test_batches_with_equal_plans_share_a_worker_and_another_plan_has_its_own():
    let_go()
    Doubler.made.clear()
    for told in (("plan", RayNodes()), ("plan", RayNodes()), ("other", RayNodes())):
        assert ask(*told)["number"] == [2, 4]
    assert Doubler.made == [("plan", RayNodes()), ("other", RayNodes())]


def test_one_worker_is_kept_and_none_once_other_work_begins():
    (first,), (second,) = ask("first")["by"], ask("second")["by"]
    gc.collect()
    assert first() is None
    assert second() is not None
    let_go()
    gc.collect()
    assert second() is None


@pytest.mark.parametrize("num_gpus", [0.0, 0.5], ids=["cpu", "gpu"])
def test_workers_are_tasks_on_processors_and_actors_where_they_hold_a_gpu(monkeypatch, num_gpus):
    asked = {}

    def map_batches(function, **options):
        asked.update(options, function=function)
        return types.SimpleNamespace(iter_batches=lambda **_: [])

    made = types.SimpleNamespace(map_batches=map_batches)
    monkeypatch.setattr(ray.data, "from_items", lambda *_, **__: made)
    pool = plan_workers(
        workers="1..4", num_gpus=num_gpus, machines=[{"CPU": 6.0, "GPU": 2 * num_gpus}]
    )
    assert list(streams._map([{"shard": "a"}, {"shard": "b"}], Doubler, pool, told=("p",))) == []
    if num_gpus:
        assert asked["compute"] == ray.data.ActorPoolStrategy(min_size=1, max_size=2)
        assert (asked["function"], asked["num_gpus"]) == (Doubler, num_gpus)
        assert asked["fn_constructor_args"] == ("p",)
    else:
        assert asked["compute"] == ray.data.TaskPoolStrategy(2)
        assert asked["function"]({"number": [3]})["number"] == [6]
        assert "num_gpus" not in asked
