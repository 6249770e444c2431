"""What a process keeps from one task to the next: made once, given up for other work."""

import gc
import weakref

from astroray.actors.held import call_held, let_go
from astroray.execution.workers import RayNodes


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
