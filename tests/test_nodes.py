"""A scan on a cluster of several machines, some of which go while it runs."""

import os

import pytest

from tests import machines, scans
from tests.soak_nodes import SHORT, run_apart

pytestmark = [pytest.mark.ray, pytest.mark.s3, pytest.mark.faults, pytest.mark.timeout(600)]


def test_a_scan_that_loses_a_node_and_lets_another_go_has_the_bytes_of_one_machine(
    ray_cluster, tmp_path
):
    if not os.environ.get("ASTRORAY_TEST_NODES"):
        pytest.skip("set ASTRORAY_TEST_NODES=1 to start a cluster of machines: over a CPU minute")
    if reason := machines.why_not():
        pytest.skip(reason)
    scans.scan(SHORT.survey, tmp_path / "alone", search__index="sharded")
    ended = run_apart(f"--alone={tmp_path / 'alone'}")
    assert ended.code == 0, ended.out + ended.err
