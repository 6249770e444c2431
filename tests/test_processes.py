"""What is known of other processes: by /proc, and by ps as on machines without it."""

import os
import shutil
import subprocess
import sys
import uuid

import pytest

from astroray import processes


@pytest.fixture(params=["proc", "ps"])
def source(request, monkeypatch, tmp_path):
    if request.param == "ps":
        if shutil.which("ps") is None:
            pytest.skip("this machine has no ps")
        monkeypatch.setattr(processes, "_PROC", tmp_path / "none")


@pytest.fixture
def child(source):
    code = "import sys; print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, f"mark-{uuid.uuid4().hex}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        yield process
        process.kill()


def test_a_process_is_told_from_a_later_one_until_it_ends(child, monkeypatch):
    start = processes.find_start(child.pid)
    assert start
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert processes.find_start(child.pid) == start
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert processes.find_start(child.pid) == "", "it is dead, though its parent has not asked"
    child.wait()
    assert not processes.find_start(child.pid)


def test_processes_are_found_by_what_they_were_started_with(child):
    assert list(processes.find_with_argument(child.args[-1])) == [child.pid]
    assert list(processes.find_with_argument(f"mark-{uuid.uuid4().hex}")) == []
