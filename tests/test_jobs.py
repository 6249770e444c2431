"""Jobs on a running cluster: submitted, followed, killed, resumed, cancelled."""

import json
import sys
import time
from pathlib import Path

import pytest

from astroray.inspection import verify_run
from astroray.run_record import RunRecord
from astroray.storage.leases import find_holder
from tests import scans
from tests.job_cluster import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.timeout(300)]

SURVEY = "sim:galaxies?count=90&size=16&shard_rows=15"
SMALL = [f"--set={name}={json.dumps(value)}" for name, value in scans.SMALL.items()]


def test_a_killed_driver_is_a_failed_attempt_and_the_next_one_resumes(job_cluster):
    run_dir, plan = job_cluster.folder / "run", job_cluster.folder / "plan"
    scans.token(plan, "receipt", nth=3)
    (plan / "reached").touch()
    submit = ["submit", "scan", "--night", "one", "--wait", "--survey", SURVEY]
    submit += ["--out", str(run_dir), *SMALL, f"--set=fault_plan={plan}"]

    first = job_cluster.astroray(*submit)
    assert first.code == 128 + 9, first.err
    name = first.err.split()[1]
    assert name.startswith("scan-sim-galaxies-")
    assert name.endswith("-one-a1")
    status = job_cluster.astroray("status", name).out
    assert "FAILED" in status
    assert "exit code     137" in status

    second = job_cluster.astroray(*submit)
    assert second.code == 0, second.err + second.out
    assert second.err.split()[:2] == ["submitted", name.removesuffix("1") + "2"]
    assert "90 objects scored" in second.out
    assert verify_run(str(run_dir)) == []
    begun = [shard for point, shard in scans.reached(plan) if point == "shard.done"]
    assert sorted(begun) == sorted(set(begun)), "a finished shard was done again"
    events = [json.loads(line) for line in second.out.splitlines() if line.startswith("{")]
    runs = {event["run"] for event in events if event["message"] == "stage done"}
    assert len(runs) == 1, "every line of a run has its id"
    ended = "ray_astroray_ended_timestamp_seconds"
    series = wait_for_series(job_cluster.metrics, str(run_dir), ended)
    assert 0 <= time.time() - series[ended] < 600, "told though the driver has gone"

    third = job_cluster.astroray(*submit)
    assert third.code == 0
    assert third.err.split()[:2] == ["succeeded", name.removesuffix("1") + "2"]
    other = job_cluster.astroray(*submit, "--set", "search.k=4")
    assert other.code == 2
    assert "with other arguments" in other.err


def test_what_ray_s_own_command_submits_as_it_stands_can_be_watched_and_cancelled(job_cluster):
    run_dir = job_cluster.folder / "cancelled"
    command = [str(Path(sys.executable).with_name("ray")), "job", "submit", "--working-dir", "."]
    command += ["--no-wait", "--submission-id", "by-hand", "--", "python", "jobs/scan.py"]
    many = "sim:galaxies?count=1000000&size=16&shard_rows=100"
    ended = scans.run(
        [*command, "--survey", many, "--out", str(run_dir), *SMALL, "--set=max_fit_rows=64"],
        env=job_cluster.env,
        cwd=ROOT,
    )
    assert ended.code == 0, ended.err
    series = wait_for_series(job_cluster.metrics, str(run_dir), "ray_astroray_worker_idle_share")
    assert series["ray_astroray_objects_total"] % 100 == 0
    assert series["ray_astroray_shards_total"] >= 1
    assert series["ray_astroray_objects_per_second"] > 0
    assert 0 <= series["ray_astroray_worker_idle_share"] <= 1

    assert "RUNNING" in job_cluster.astroray("status", "by-hand").out
    ended = job_cluster.astroray("cancel", "by-hand")
    assert ended.code == 0, ended.err
    assert ended.out == "stopped  by-hand\n"
    assert find_holder(str(run_dir)) is None, "the lease is released on the way out"


def wait_for_series(url, run_dir, name):
    """Values of the run's own series by name, once `name` is among them."""
    import requests

    until = time.monotonic() + 100
    series = {}
    while name not in series and time.monotonic() < until:
        time.sleep(0.5)  # each answer takes the cluster's agent a while
        record = RunRecord.load(run_dir)
        lines = requests.get(url, timeout=10).text.splitlines() if record else []
        found = (line.rpartition(" ") for line in lines if record.run_id in line)
        series = {labels.partition("{")[0]: float(value) for labels, _, value in found}
    return series


def test_without_the_token_nothing_is_said(job_cluster):
    ended = job_cluster.astroray("status", "by-hand", env={"RAY_AUTH_TOKEN": "guessed"})
    assert ended.code == 1
    assert "refuses the token" in ended.err
    assert ended.err.count("\n") == 1
