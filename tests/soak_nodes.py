"""Scans on a cluster of several machines that lose some of them: killed, cut off, asked to leave.

    python -m tests.soak --nodes

The machines are those of `tests.machines`: each has an address, processes and a /tmp of its own,
and they share nothing but an S3 store and a Ray cluster behind a token. A scan is submitted as a
job; nodes go while it runs, and the catalog must be, byte for byte, that of a scan on one machine.
"""

import argparse
import dataclasses
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from astroray import faults
from tests import machines, s3_server, scans
from tests.job_cluster import ROOT
from tests.machines import Machine
from tests.node_cluster import PLAN, NodeCluster, start_cluster
from tests.soak_checks import Tally, result_files, say

__all__ = ["SHORT", "NodeSoak", "plan_round", "run_apart"]

SURVEY = "sim:galaxies?count={}&size=16&shard_rows={}&outliers=0.05"
JOB_TIMEOUT_S = 500.0
ROUND_TIMEOUT_S = 900.0
POLL_S = 0.02


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loss:
    """How a node goes, and when: the one that comes to `point` first."""

    how: Literal["killed", "cut off", "asked to leave"]
    point: str
    """Where its worker dies and the machine with it, or where it still works and is asked."""

    def __str__(self) -> str:
        return f"{self.how} at {self.point}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """One round: how large the survey is, how many nodes there are, how they go, one by one."""

    count: int
    shard_rows: int
    num_nodes: int
    losses: Sequence[Loss]
    drain_s: float = 30.0
    """For how long a node that was asked to leave may work on."""
    num_joins: int = 0
    """Nodes that come in place of the first that have gone."""

    @property
    def survey(self) -> str:
        return SURVEY.format(self.count, self.shard_rows)


SHORT = Plan(
    count=2400,
    shard_rows=60,
    num_nodes=3,
    drain_s=2.0,
    losses=(
        Loss(how="killed", point="shard.encoded"),
        Loss(how="asked to leave", point="shard.begun"),
    ),
)


def plan_round(seed: int) -> Plan:
    """A node that leaves in peace, one that is killed at a shard, one cut off in the search."""
    rng = random.Random(seed)
    points = {process: [p for p, (who, _) in faults.POINTS.items() if who == process]
              for process in ("worker", "search")}  # fmt: skip
    searching = [point for point in points["search"] if point.startswith(("index.", "search.p"))]
    losses = [
        Loss(how="asked to leave", point="shard.begun"),
        Loss(how="killed", point=rng.choice(points["worker"])),
    ]
    rng.shuffle(losses)
    losses.append(Loss(how="cut off", point=rng.choice([*searching, "search.cells"])))
    return Plan(count=12_000, shard_rows=100, num_nodes=4, losses=losses, num_joins=1)


def run_apart(*arguments: str) -> scans.Ended:
    """Runs this program where it can start machines; `machines.why_not` says where not."""
    command = [*machines.APART, sys.executable, "-m", "tests.soak_nodes", *arguments]
    ended = scans.start(command, cwd=ROOT).wait(ROUND_TIMEOUT_S)
    say(ended.out.rstrip())
    return ended


class NodeSoak:
    """Rounds on a network of one's own."""

    def __init__(self, folder: Path, tally: Tally) -> None:
        self.folder, self.tally = folder, tally
        weed = shutil.which("weed", path=str(Path(sys.executable).parent)) or "weed"
        host = machines.open_network()
        self.store, _ = s3_server.start_server(weed, folder / "weed", host=host)
        os.environ.update(self.store.env)

    def run_round(self, name: str, plan: Plan, *, alone: str = "") -> None:
        """One scan that loses nodes, against one that was undisturbed on one machine."""
        started = time.monotonic()
        folder = self.folder / name
        folder.mkdir()
        if not alone:
            alone = str(folder / "alone")
            ended = scans.run(scans.scan_command(plan.survey, alone, search__index="sharded"))
            if ended.code != 0:
                raise SystemExit(f"the undisturbed scan fails: {ended.err}")
        env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        env["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] = str(plan.drain_s)
        begun = time.monotonic()
        cluster = start_cluster(folder, num_nodes=plan.num_nodes, env=env)
        say(f"{name}  {plan.num_nodes} nodes have joined  {time.monotonic() - begun:.0f} s")
        try:
            run_dir = self.store.new_prefix()
            self._scan(name, cluster, plan, run_dir)
            self.tally.check_run(name, run_dir, result_files(alone))
            again = [s for s, times in _done(cluster).items() if times > 1]
            self.tally.count(f"{name}: no shard was done twice {again or ''}", ok=not again)
        finally:
            cluster.stop()
        say(f"{name}  {time.monotonic() - started:.0f} s")

    def _scan(self, name: str, cluster: NodeCluster, plan: Plan, run_dir: str) -> None:
        """Submits the scan and takes nodes away until it ends."""
        settings = {**scans.SMALL, "workers": "auto", "search.index": "sharded"}
        settings["fault_plan"] = str(PLAN)
        flags = [f"--set={key}={json.dumps(value)}" for key, value in settings.items()]
        words = ["--night", name, "--survey", plan.survey, "--out", run_dir, *flags]
        begun = time.monotonic()
        job = cluster.start("submit", "scan", "--wait", *words)
        gone: dict[Machine, float] = {}
        for number, loss in enumerate(plan.losses):
            node = _next_to_reach(loss, cluster, job, gone)
            after = f"{time.monotonic() - begun:.0f} s after the job was submitted"
            self.tally.count(f"{name}: {node or 'no node'} was {loss}, {after}", ok=bool(node))
            if node:
                gone[node] = time.time()
                _lose(node, loss)
            if number < plan.num_joins:
                cluster.add_node()
        ended = job.wait(JOB_TIMEOUT_S)
        said = (ended.err + ended.out)[-2000:] if ended.code else ""
        self.tally.count(f"{name}: exit code {ended.code} {said}", ok=ended.code == 0)
        say(f"{name}: the job took {time.monotonic() - begun:.0f} s")
        dead = cluster.dead()
        for node, lost_s in gone.items():
            noticed = f"noticed after {dead.get(node.address, np.nan) - lost_s:.0f} s"
            self.tally.count(f"{name}: {node} has gone, {noticed}", ok=not node.is_running())


def _next_to_reach(
    loss: Loss, cluster: NodeCluster, job: scans.Process, gone: Collection[Machine]
) -> Machine | None:
    """The first node that comes to the point of a loss; None where the job ends before."""
    nodes = [node for node in cluster.nodes if node not in gone]
    dies = loss.how != "asked to leave"
    seen = {node.name: len(_reached(node)) for node in nodes}
    tokens = {node.name: scans.token(_plan_of(node), loss.point) for node in nodes} if dies else {}
    while job.child.poll() is None:
        for node in nodes:
            new = [point for point, _ in _reached(node)[seen[node.name] :]]
            if loss.point in new and (not dies or not tokens[node.name].exists()):
                for token in tokens.values():
                    token.unlink(missing_ok=True)
                return node
        time.sleep(POLL_S)
    return None


def _lose(node: Machine, loss: Loss) -> None:
    if loss.how == "killed":
        node.kill()
    elif loss.how == "cut off":
        node.unplug()
    else:
        node.ask_to_leave()


def _plan_of(node: Machine) -> Path:
    return node.tmp / PLAN.name


def _reached(node: Machine) -> list[tuple[str, str]]:
    return scans.reached(_plan_of(node))


def _done(cluster: NodeCluster) -> dict[str, int]:
    """How often each shard was done, on any node."""
    times: dict[str, int] = {}
    for node in cluster.nodes:
        for point, shard in _reached(node):
            if point == "shard.done":
                times[shard] = times.get(shard, 0) + 1
    return times


def main() -> None:
    """Runs the rounds; exit code 1 where anything failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--round", type=int, default=0, help="its seed; 0: a short one")
    parser.add_argument("--alone", default="", help="a scan of the same survey, undisturbed")
    options = parser.parse_args()
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as folder:
        plan = plan_round(options.round) if options.round else SHORT
        name = f"nodes-{options.round}" if options.round else "nodes"
        NodeSoak(Path(folder), tally).run_round(name, plan, alone=options.alone)
    say(f"{tally.num_passed} passed, {tally.num_failed} failed")
    sys.exit(1 if tally.num_failed else 0)


if __name__ == "__main__":
    main()
