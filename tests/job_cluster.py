"""A Ray cluster of one's own for tests, with a job server behind a token: fixture `job_cluster`.

It is a process tree of its own, apart from the session's cluster in this process: Ray reads a
token once a process.
"""

import contextlib
import dataclasses
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.s3_server import DIE_WITH_PARENT, free_ports

if TYPE_CHECKING:  # this is a plugin, which no process shall wait for that runs no scan
    from tests import scans

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
    head: "subprocess.Popen[bytes]"

    def astroray(self, *words: str, env: Mapping[str, str] | None = None) -> "scans.Ended":
        """Runs the command line in the root of the checkout, as a user of the cluster."""
        return self.start(*words, env=env).wait()

    def start(self, *words: str, env: Mapping[str, str] | None = None) -> "scans.Process":
        """The same, on its way."""
        from tests import scans

        command = [sys.executable, "-c", scans.COMMAND, *words]
        return scans.start(command, env={**self.env, **(env or {})}, cwd=ROOT)

    def stop(self) -> None:
        """Ends every process of the cluster."""
        kill_those_with(str(self.folder))
        self.head.kill()
        self.head.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def job_cluster() -> Iterator[JobCluster]:
    """`ray start --head` on loopback with token authentication and 6 logical CPUs.

    It ends with its module: an idle cluster takes nearly half a core from all later tests.
    """
    cluster = start_cluster(num_cpus=6)
    try:
        yield cluster
    finally:
        cluster.stop()


def start_cluster(*, num_cpus: int, env: Mapping[str, str] | None = None) -> JobCluster:
    """A head node whose job server answers; `env` is what its jobs shall find besides."""
    folder = Path(tempfile.mkdtemp(prefix="jobs-", dir="/tmp"))  # sockets have short paths
    dashboard, gcs, metrics, agent = free_ports(4)
    known = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # as of fixture `ray_cluster`: tests wait for its workers
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}",
        **(env or {}),
    }
    options = {
        "node-ip-address": "127.0.0.1",
        "port": gcs,
        "dashboard-host": "127.0.0.1",
        "dashboard-port": dashboard,
        "metrics-export-port": metrics,
        "dashboard-agent-listen-port": agent,  # else 52365, which another cluster may have
        "system-config": json.dumps(
            # Workers of no job: each job has an environment, and so workers of its own.
            {"metrics_report_interval_ms": 1000, "prestart_worker_first_driver": False}
        ),
        "num-cpus": num_cpus,
        "temp-dir": folder / "ray",
        "include-log-monitor": "false",  # nobody reads what the workers of others write
    }
    address = f"http://127.0.0.1:{dashboard}"
    cluster = JobCluster(
        address=address,
        metrics=f"http://127.0.0.1:{metrics}/metrics",
        env={**known, "RAY_ADDRESS": address},
        folder=folder,
        head=_ray_start({"head": None, **options}, folder, known),
    )
    try:
        _wait_until_ready(cluster)
    except RuntimeError:
        cluster.stop()
        raise
    return cluster


def kill_those_with(*words: str, sign: int = signal.SIGKILL) -> int:
    """Sends a signal to the processes that have all `words` in their command; their number."""
    count = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
            if all(word.encode() in command for word in words):
                os.kill(int(entry.name), sign)
                count += 1
    return count


def _ray_start(
    options: Mapping[str, object], folder: Path, env: Mapping[str, str]
) -> "subprocess.Popen[bytes]":
    options = {"object-store-memory": 256 * 2**20, **options}
    arguments = [
        f"--{name}" if value is None else f"--{name}={value}" for name, value in options.items()
    ]
    ray = str(Path(sys.executable).with_name("ray"))
    env = {name: text for name, text in env.items() if name != "RAY_ADDRESS"}  # of the job server
    return _spawn([ray, "start", "--block", *arguments], folder, env)


def _spawn(command: list[str], folder: Path, env: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    known = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    with open(folder / "log.txt", "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-c", DIE_WITH_PARENT, sys.executable, *command],
            env=known | dict(env),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _wait_until_ready(cluster: JobCluster) -> None:
    import requests

    until = time.monotonic() + START_TIMEOUT_S
    headers = {"Authorization": f"Bearer {cluster.env['RAY_AUTH_TOKEN']}"}
    while time.monotonic() < until and cluster.head.poll() is None:
        with contextlib.suppress(requests.RequestException):
            answers = requests.get(f"{cluster.address}/api/jobs/", headers=headers, timeout=5).ok
            if answers and requests.get(cluster.metrics, timeout=5).ok:  # its agent starts jobs
                return
        time.sleep(0.2)
    log = (cluster.folder / "log.txt").read_text(errors="replace")
    raise RuntimeError(f"no cluster within {START_TIMEOUT_S} s: {log[-2000:]}")
