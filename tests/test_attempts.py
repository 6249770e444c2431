"""A shard is blamed for the workers that it killed, not for the machines that were lost."""

import pytest

from astroray import attempts
from astroray.attempts import MAX_DEATHS, begin_attempt
from astroray.execution import workers


class Cluster:
    def __init__(self):
        self.node = "a"
        self.gone = set()

    def here(self):
        return self.node

    def alive(self):
        return {"a", "b", "c", "d"} - self.gone


def quarantine(attempt):
    return attempt.quarantine(stage="encode", advice="look at the logs")


def test_attempts_are_counted_by_shard_and_session(tmp_path):
    numbers = [begin_attempt(str(tmp_path), "x", "S1").number for _ in range(3)]
    assert numbers == [1, 2, 3]
    assert begin_attempt(str(tmp_path), "y", "S1").number == 1
    assert begin_attempt(str(tmp_path), "x", "S2").number == 1


def test_a_shard_that_killed_three_workers_is_quarantined(tmp_path):
    found = [quarantine(begin_attempt(str(tmp_path), "x", "S1")) for _ in range(4)]
    assert found[:MAX_DEATHS] == [None] * 3
    assert found[3].reason == "killed its worker 3 times; look at the logs"


def test_a_machine_that_was_lost_counts_against_no_shard(tmp_path):
    cluster = Cluster()
    for node in "abc":
        cluster.node = node
        begin_attempt(str(tmp_path), "x", "S1", nodes=cluster)
        cluster.gone.add(node)
    cluster.node = "d"
    for num_deaths in range(MAX_DEATHS):
        attempt = begin_attempt(str(tmp_path), "x", "S1", nodes=cluster)
        assert (attempt.number, attempt.num_deaths) == (4 + num_deaths, num_deaths)
        assert quarantine(attempt) is None
    attempt = begin_attempt(str(tmp_path), "x", "S1", nodes=cluster)
    assert quarantine(attempt).reason == "killed its worker 3 times; look at the logs"


def test_a_shard_that_takes_machine_after_machine_along_is_not_tried_for_ever(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(attempts, "MAX_ATTEMPTS", 5)
    cluster = Cluster()
    cluster.gone.add("a")
    found = [quarantine(begin_attempt(str(tmp_path), "x", "S1", nodes=cluster)) for _ in range(6)]
    assert found[:5] == [None] * 5
    assert "was begun 5 times and lost with its machine each time" in found[5].reason


def test_an_attempt_takes_no_other_s_note_for_its_own_where_a_reply_was_lost(tmp_path, monkeypatch):
    """On an object store a repeated request counts as its own what has the bytes that it sent."""
    notes = []
    monkeypatch.setattr(
        attempts.storage, "publish_new", lambda path, data: notes.append(data) or True
    )
    begin_attempt(str(tmp_path), "x", "S1")
    begin_attempt(str(tmp_path), "x", "S1")
    assert len(set(notes)) == 2


@pytest.mark.ray
def test_a_worker_knows_its_machine_and_that_it_is_there(ray_cluster):
    nodes = workers.RayNodes()
    here, alive = workers.remotely(lambda: (nodes.here(), nodes.alive()), num_cpus=0.5)()
    assert alive == {here}
    assert len(here) > 20
