"""A Ray cluster of several machines behind a token, with a job server and nodes that may go."""

import contextlib
import dataclasses
import os
import secrets
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests import scans
from tests.job_cluster import ROOT
from tests.machines import Machine, address_of, start_machine

__all__ = ["NodeCluster", "start_cluster"]

JOIN_TIMEOUT_S = 240.0
MAX_STARTS = 3
HEAD = 2
GCS_PORT, DASHBOARD_PORT = 6379, 8265
KEEPALIVE = {
    "RAY_grpc_client_keepalive_time_ms": "15000",
    "RAY_grpc_client_keepalive_timeout_ms": "15000",
}
"""Else a task on a machine that is cut off without a word is given up after seven minutes."""
PLAN = Path("/tmp/plan")
"""Where the fault plan of each machine is, on it."""


@dataclasses.dataclass(kw_only=True)
class NodeCluster:
    """A head without work of its own, and worker nodes; `env` is what a client needs."""

    head: Machine
    folder: Path
    env: Mapping[str, str]
    nodes: list[Machine] = dataclasses.field(default_factory=list)
    """Those that were started and had time to join, the gone ones too."""
    num_started: int = 0

    def add_node(self) -> None:
        """Starts a machine that joins."""
        self.num_started += 1
        options = {"address": f"{self.head.address}:{GCS_PORT}", "num-cpus": 1}
        self.nodes.append(_start_node(HEAD + self.num_started, self.folder, self.env, options))

    def wait_for_nodes(self) -> None:
        """Waits until all nodes have joined. Raises RuntimeError with what one of them says.

        `ray start` gives its node 30 s to join and ends then, which is little where several start
        on a busy machine: another one takes its place.
        """
        until = time.monotonic() + JOIN_TIMEOUT_S
        while not {node.address for node in self.nodes} <= self._alive():
            for node in [n for n in self.nodes if not n.is_running()]:
                if self.num_started > MAX_STARTS * len(self.nodes):
                    raise RuntimeError(f"node {node} does not join: {node.log()[-2000:]}")
                self.nodes.remove(node)
                self.add_node()
            if time.monotonic() > until:
                raise RuntimeError(f"the nodes do not join; one says {self.nodes[0].log()[-2000:]}")
            time.sleep(0.1)

    def start(self, *words: str) -> scans.Process:
        """The command line as a user of the cluster has it, on its way."""
        return scans.start([sys.executable, "-c", scans.COMMAND, *words], env=self.env, cwd=ROOT)

    def stop(self) -> None:
        """Ends every machine."""
        for machine in [*self.nodes, self.head]:
            machine.kill()

    def dead(self) -> dict[str, float]:
        """When the cluster took nodes for dead, in Unix time, by address."""
        dead = [node for node in self._known() if node["state"] == "DEAD"]
        return {node["node_ip"]: node["end_time_ms"] / 1000 for node in dead}

    def _alive(self) -> set[str]:
        return {node["node_ip"] for node in self._known() if node["state"] == "ALIVE"}

    def _known(self) -> list[dict[str, Any]]:
        answer = self.ask("/api/v0/nodes?detail=1")
        found: list[dict[str, Any]] = answer["data"]["result"]["result"] if answer else []
        return found

    def ask(self, path: str) -> Any:
        """What the head answers at a path; None where it does not."""
        import requests

        headers = {"Authorization": f"Bearer {self.env['RAY_AUTH_TOKEN']}"}
        with contextlib.suppress(requests.RequestException):
            answer = requests.get(self.env["RAY_ADDRESS"] + path, headers=headers, timeout=10)
            return answer.json() if answer.ok else None
        return None


def start_cluster(folder: Path, *, num_nodes: int, env: Mapping[str, str]) -> NodeCluster:
    """A head and nodes of one logical CPU each, which have joined. Raises RuntimeError.

    env  what all machines know besides
    """
    known = {
        **KEEPALIVE,
        **env,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ADDRESS": f"http://{address_of(HEAD)}:{DASHBOARD_PORT}",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}",
    }
    options = {
        "head": None,
        "port": GCS_PORT,
        "dashboard-host": address_of(HEAD),
        "dashboard-port": DASHBOARD_PORT,
        "num-cpus": 0,
    }
    head = _start_node(HEAD, folder, known, options)
    cluster = NodeCluster(head=head, folder=folder, env=known)
    try:
        _wait_for_head(cluster)
        for _ in range(num_nodes):
            cluster.add_node()
        cluster.wait_for_nodes()
    except RuntimeError:
        cluster.stop()
        raise
    return cluster


def _wait_for_head(cluster: NodeCluster) -> None:
    until = time.monotonic() + JOIN_TIMEOUT_S
    while cluster.ask("/api/jobs/") is None:
        if time.monotonic() > until or not cluster.head.is_running():
            raise RuntimeError(f"the head does not start: {cluster.head.log()[-2000:]}")
        time.sleep(0.1)


def _start_node(
    number: int, folder: Path, env: Mapping[str, str], options: Mapping[str, object]
) -> Machine:
    options = {
        "node-ip-address": address_of(number),
        "object-store-memory": 128 * 2**20,
        **options,
    }
    arguments = [
        f"--{name}" if value is None else f"--{name}={value}" for name, value in options.items()
    ]
    ray = str(Path(sys.executable).with_name("ray"))
    command = [sys.executable, ray, "start", "--block", *arguments]
    known = {name: text for name, text in env.items() if name != "RAY_ADDRESS"}  # of the job server
    machine = start_machine(number, folder, command, known)
    (machine.tmp / PLAN.name).mkdir()
    (machine.tmp / PLAN.name / "reached").touch()
    return machine
