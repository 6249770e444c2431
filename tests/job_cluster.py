"""A Ray cluster of one's own for tests, with a job server behind a token: fixture `job_cluster`.

It is a process tree of its own, apart from the session's cluster in this process: Ray reads a
token once a process.
"""

import dataclasses
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests import scans
from tests.s3_server import DIE_WITH_PARENT

ROOT = Path(__file__).parents[1]
START_TIMEOUT_S = 90


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobCluster:
    """A head node on the loopback address; `env` is what a client needs to reach it."""

    address: str
    metrics: str
    """Where Prometheus would scrape."""
    env: Mapping[str, str]
    folder: Path

    def astroray(self, *words: str, env: Mapping[str, str] | None = None) -> scans.Ended:
        """Runs the command line in the root of the checkout, as a user of the cluster."""
        command = [sys.executable, "-c", scans.COMMAND, *words]
        return scans.run(command, env={**self.env, **(env or {})}, cwd=ROOT)


@pytest.fixture(scope="session")
def job_cluster() -> Iterator[JobCluster]:
    """`ray start --head` on loopback with token authentication and 6 logical CPUs."""
    folder = Path(tempfile.mkdtemp(prefix="jobs-", dir="/tmp"))  # sockets have short paths
    dashboard, gcs, metrics = _free_port(), _free_port(), _free_port()
    address = f"http://127.0.0.1:{dashboard}"
    env = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ADDRESS": address,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}",
    }
    options = {
        "node-ip-address": "127.0.0.1",
        "port": gcs,
        "dashboard-host": "127.0.0.1",
        "dashboard-port": dashboard,
        "metrics-export-port": metrics,
        "system-config": '{"metrics_report_interval_ms": 1000}',
        "num-cpus": 6,
        "object-store-memory": 256 * 2**20,
        "temp-dir": folder / "ray",
    }
    ray = str(Path(sys.executable).with_name("ray"))
    arguments = [f"--{name}={value}" for name, value in options.items()]
    server_env = {k: v for k, v in env.items() if k != "RAY_ADDRESS"}  # it is the head itself
    process = _spawn([ray, "start", "--head", "--block", *arguments], folder, server_env)
    try:
        _wait_until_ready(address, env["RAY_AUTH_TOKEN"], process, folder)
        yield JobCluster(
            address=address, metrics=f"http://127.0.0.1:{metrics}/metrics", env=env, folder=folder
        )
    finally:
        _kill_those_in(folder)
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _spawn(command: list[str], folder: Path, env: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    known = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    with open(folder / "log.txt", "wb") as log:
        return subprocess.Popen(
            [sys.executable, "-c", DIE_WITH_PARENT, sys.executable, *command],
            env=known | dict(env),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _wait_until_ready(
    address: str, token: str, process: "subprocess.Popen[bytes]", folder: Path
) -> None:
    import requests

    until = time.monotonic() + START_TIMEOUT_S
    headers = {"Authorization": f"Bearer {token}"}
    while time.monotonic() < until and process.poll() is None:
        try:
            if requests.get(f"{address}/api/jobs/", headers=headers, timeout=5).ok:
                return
        except requests.RequestException:
            pass
        time.sleep(0.2)
    log = (folder / "log.txt").read_text(errors="replace")
    pytest.fail(f"the cluster does not start, exit code {process.poll()}: {log[-2000:]}")


def _kill_those_in(folder: Path) -> None:
    """Ends what a node left behind: the processes that have its folder in their command."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes()
                if str(folder).encode() in words:
                    os.kill(int(entry.name), signal.SIGKILL)
            except OSError:
                continue


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
