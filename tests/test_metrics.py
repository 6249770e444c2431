"""What a run tells Prometheus."""

import dataclasses
from typing import ClassVar

import pytest

from astroray.execution import metrics
from astroray.receipts import Receipt
from astroray.run_record import RejectCount
from tests.runs_made import make_proof


class Series:
    """Stands for Ray's counters and gauges."""

    known: ClassVar[dict[str, "Series"]] = {}

    def __init__(self, name, description, tag_keys):
        assert description
        self.tag_keys, self.values, self.defaults = tag_keys, [], {}
        Series.known[name] = self

    def set_default_tags(self, tags):
        self.defaults = tags

    def inc(self, value, tags=None):
        assert value > 0, "Ray refuses to add nothing"
        self.set(value, tags)

    def set(self, value, tags=None):
        tags = {**self.defaults, **(tags or {})}
        assert set(tags) == set(self.tag_keys)
        self.values.append((value, tags))


@pytest.fixture
def run(monkeypatch):
    import ray.util.metrics

    monkeypatch.setattr(ray.util.metrics, "Counter", Series)
    monkeypatch.setattr(ray.util.metrics, "Gauge", Series)
    monkeypatch.setattr(Series, "known", {})
    clock = iter([100.0, 110.0, 120.0])
    monkeypatch.setattr(metrics.time, "monotonic", lambda: next(clock))
    return metrics.RunMetrics("night", num_workers=4)


def receipt(rows_embedded, rows_rejected, seconds):
    return Receipt(
        shard="s", rows_read=rows_embedded + rows_rejected, rows_embedded=rows_embedded,
        rows_rejected=rows_rejected, shard_rejected=False, checksum="", attempt=1, seconds=seconds,
        bytes_read=0,
    )  # fmt: skip


def values(name):
    return [value for value, _ in Series.known[name].values]


def test_objects_rates_idle_time_and_rejects_by_reason_are_counted(run):
    run.add(
        receipt(50, 3, 10.0),
        [RejectCount(stage="read", kind="missing", reason="", rows=2, shards=1)],
    )
    run.add(receipt(0, 0, 30.0), [])
    assert values("astroray_objects") == [50]
    assert values("astroray_shards") == [1, 1]
    assert Series.known["astroray_rejects"].values == [(3, {"run": "night", "reason": "missing"})]
    assert values("astroray_objects_per_second") == [5.0, 2.5]
    assert values("astroray_worker_idle_share") == [0.75, 0.5]


def test_the_cost_of_the_certificate_is_told(run):
    run.certified(dataclasses.replace(make_proof(5, 120), num_rescored=30), seconds=7.5)
    assert values("astroray_certificate_rescored") == [30]
    assert values("astroray_certificate_share") == [0.25]
    assert values("astroray_search_seconds") == [7.5]


def test_when_a_run_was_done_is_told_in_unix_time(run, monkeypatch):
    monkeypatch.setattr(metrics.time, "time", lambda: 1.8e9)
    run.ended()
    assert values("astroray_ended_timestamp_seconds") == [1.8e9]
