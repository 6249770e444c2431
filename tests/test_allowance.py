"""A container's limits on cores and memory are seen, of both versions of control groups."""

import os
from pathlib import Path

import pytest

from astroray import allowance, doctor, provenance

GIB = 2**30


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))


def machine(root: Path, cgroup: str, **files: str) -> Path:
    """A root with this process's groups and the files under /sys/fs/cgroup; `__` is a slash."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("-", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def quota(group: str, microseconds: int) -> dict[str, str]:
    """Of each tenth of a second, in version 1."""
    return {
        f"{group}__cpu-cfs_quota_us": f"{microseconds}\n",
        f"{group}__cpu-cfs_period_us": "100000\n",
    }


V2 = "0::/kubepods/pod\n"
V1 = "4:memory:/pod\n2:cpu,cpuacct:/pod\n0::/\n"


@pytest.mark.parametrize(
    ("cgroup", "files", "cores", "memory"),
    [
        ("0::/\n", {"memory-max": "2147483648\n", "cpu-max": "300000 100000\n"}, 3, 2 * GIB),
        (V2, {"kubepods__pod__memory-max": "1073741824", "cpu-max": "max 100000"}, 8, GIB),
        (V2, {"kubepods__memory-max": "1073741824", "kubepods__pod__memory-max": "max"}, 8, GIB),
        (V2, {"memory-max": "1073741824", "cpu-max": "250000 100000"}, 2, GIB),
        ("0::/\n", {"cpu-max": "50000 100000\n"}, 1, None),
        (V1, {"memory__pod__memory-limit_in_bytes": "1073741824"}, 8, GIB),
        (V1, {"memory__memory-limit_in_bytes": "9223372036854771712"}, 8, None),
        (V1, quota("cpu__pod", 200000), 2, None),
        (V1, quota("cpu__pod", -1), 8, None),
        (V1, quota("cpu,cpuacct", 50000), 1, None),
        ("4:memory:/pod\n0::/pod\n", {"unified__pod__memory-max": "1073741824"}, 8, GIB),
        ("0::/\n", {"memory-max": "a few\n", "cpu-max": ""}, 8, None),
        ("0::/elsewhere/../pod\n", {}, 8, None),
        ("", {}, 8, None),
    ],
)  # fmt: skip
def test_what_a_container_allows(tmp_path, cgroup, files, cores, memory):
    root = machine(tmp_path, cgroup, **files)
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert allowance.num_cores(root) == cores
    assert allowance.memory_bytes(root) == min(whole, memory or whole)


def test_a_machine_without_control_groups_is_all_there_is(tmp_path):
    assert allowance.num_cores(tmp_path) == 8
    assert allowance.memory_bytes(tmp_path) > 0


def test_doctor_and_the_run_record_say_what_is_allowed(monkeypatch):
    monkeypatch.setattr(allowance, "num_cores", lambda: 3)
    monkeypatch.setattr(allowance, "memory_bytes", lambda: GIB)
    found = {finding.what: finding for finding in doctor.examine()}
    assert "3 cores" in found["processor"].text
    assert not found["memory"].ok
    assert found["memory"].text.startswith("1.0 GiB")
    assert provenance.machine().memory_bytes == GIB
