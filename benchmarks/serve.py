"""What serving costs beside encoding, and what it does while replicas die and uploads lie.

A model of at least 20 ms a picture is served on this machine. Clients ask in closed loops, each
the next question when it has its answer; between the loops the batched function behind the
endpoint is called directly, on as many threads. Answers are checked against its own.
"""

import dataclasses
import http.client
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from astroray import surveys
from astroray.actors.answer import Answerer
from astroray.actors.run_model import RunModel
from astroray.actors.sample import SamplePlan, draw_sample
from astroray.archive import Archive
from astroray.encoders import read_model_file
from astroray.preparation import Preparation, Wishes
from astroray.surveys.shards import Cutouts
from benchmarks.bad_uploads import fits_bytes
from benchmarks.claims import at_least, at_most
from benchmarks.malformed import measure_malformed
from benchmarks.models import make_model
from benchmarks.rows import BenchRow, MeasurementError, measured, run_benchmark, spread

SURVEY = "sim:galaxies?count=256&seed=11"
ENCODER, SIZE_PX = "vit-small", 48
PORT = 8461
LEAST_MS = 20.0
CLIENTS = (1, 8, 32)
BATCH = 16
LARGEST_ERROR = 1e-3
CLAIMS = (
    *(
        at_least(
            f"{clients} clients: pictures a second over direct calls",
            0.5,
            peer="the batched function called directly, batches of 16, 1 thread",
            limit=1.0,
        )
        for clients in CLIENTS[1:]
    ),
    at_most(
        "1 client: what an answer takes beyond the model",
        25.0,
        unit="ms",
        peer="the function called directly with one picture",
    ),
    at_most(
        "32 clients: p95 of the latency over 32 / throughput",
        2.0,
        peer="every client waits its turn",
        limit=1.0,
    ),
)
KILLED = {"ModelHolder": "a model replica", "WebApp": "a web replica"}
"""Deployments of which one of two replicas is killed."""


@dataclasses.dataclass(kw_only=True)
class Loop:
    """What a closed loop of clients saw."""

    seconds: float = 0.0
    latency_s: list[float] = dataclasses.field(default_factory=list)
    statuses: Counter[int] = dataclasses.field(default_factory=Counter)
    error: float = 0.0
    """Largest difference of an embedding from the expected one."""

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.statuses[200] / self.seconds

    @property
    def num_failed(self) -> int:
        """Requests without an answer."""
        return sum(self.statuses.values()) - self.statuses[200]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Uploads:
    """Cutouts as files, what the model makes of each, and the model's own function."""

    body_M: list[bytes]
    prepared_M: list[tuple[RunModel, np.ndarray]]
    expected_MD: np.ndarray
    answerer: Any

    def direct_rate(self, seconds: float, batch: int = BATCH) -> float:
        """Pictures a second of the function behind the endpoint."""
        count, started = 0, time.perf_counter()
        while (spent_s := time.perf_counter() - started) < seconds:
            start = count % (len(self.prepared_M) - batch + 1)
            self.answerer.embed(self.prepared_M[start : start + batch])
            count += batch
        return count / spent_s


def measure(quick: bool, scratch: Path) -> Iterator[BenchRow]:
    """All rows; the run, its tokens and logs are in `scratch`."""
    from astroray.settings import from_dict
    from astroray.web.security import Tokens
    from astroray.web.serve_config import ServeConfig

    run_dir = _make_run(scratch)
    tokens = str(scratch / "tokens.json")
    secret = Tokens(tokens).issue("bench", ["read"])
    values = {"run_dir": run_dir, "port": PORT, "tokens": tokens, "watch_s": 600.0}
    values["limits"] = {"requests_per_s": 1e6, "burst": 1_000_000}
    config = from_dict(ServeConfig, values, where="the benchmark")
    two = {"min_replicas": 2, "max_replicas": 2, "num_cpus": 0.25}
    doubled = from_dict(ServeConfig, values | {"encoder": two, "web": two}, where="the benchmark")
    seconds, runs = (6.0, 1) if quick else (10.0, 3)
    yield from measured(
        CLAIMS,
        lambda: _loops(config, _uploads(run_dir), secret, seconds=seconds, runs=runs),
    )
    seconds = 8.0 if quick else 30.0
    uploads = _uploads(run_dir)
    for deployment, what in KILLED.items():
        claim = at_most(
            f"{what} killed under load: failed requests, wrong answers refused", 0.5, unit="%"
        )
        kill = partial(_kill, doubled, uploads, secret, deployment, seconds=seconds)
        yield from measured([claim], kill)
    count = 300 if quick else 20_000
    yield from measure_malformed(run_dir, tokens, secret, count=count, scratch=scratch)


def _make_run(scratch: Path) -> str:
    """A finished run of a network whose weights do not matter."""
    from astroray import pipeline
    from astroray.config import load_config

    plan = SamplePlan(
        folder=str(scratch / "fit"), max_rows=64, wishes=Wishes(size_px=SIZE_PX), seed=0,
    )  # fmt: skip
    sample = draw_sample(surveys.list_shards(SURVEY).shards, plan)
    model = make_model(sample, ENCODER, str(scratch))
    run_dir = str(scratch / "run")
    pipeline.scan(load_config(SURVEY, run_dir, None, {"encoder.name": model, "num_random": 0}))
    return run_dir


def _uploads(run_dir: str) -> Uploads:
    import torch

    from astroray.web.uploads import read_upload

    torch.set_num_threads(1)
    archive = Archive(run_dir)
    shard = surveys.list_shards(SURVEY).shards[0]
    found = next(item for item in surveys.read_shard(shard) if isinstance(item, Cutouts))
    body_M = [fits_bytes(image_CYX, found.bands) for image_CYX in found.image_BCYX[:64]]
    preparation = read_model_file(archive.model.path).preparation
    assert isinstance(preparation, Preparation)  # the survey is one of images
    prepared_M = [
        (archive.model, read_upload(body, preparation, max_pixels=10**6).input_BCYX[0])
        for body in body_M
    ]
    answerer = Answerer(device="cpu", num_threads=1)
    expected_MD = np.stack(answerer.embed(prepared_M))
    uploads = Uploads(
        body_M=body_M, prepared_M=prepared_M, expected_MD=expected_MD, answerer=answerer
    )
    if (each_ms := 1e3 / uploads.direct_rate(1.0)) < LEAST_MS:
        raise MeasurementError(f"the model takes {each_ms:.1f} ms a picture, expected {LEAST_MS}")
    return uploads


def _closed_loop(uploads: Uploads, secret: str, clients: int, seconds: float) -> Loop:
    """So many clients, each asking for embeddings one after the other, at least one."""
    seen = Loop()
    lock = threading.Lock()
    numbers = itertools.count()
    until_s = time.perf_counter() + seconds

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
        headers = {"Authorization": f"Bearer {secret}"}
        while True:
            place = next(numbers) % len(uploads.body_M)
            started = time.perf_counter()
            try:
                connection.request("POST", "/v1/embed", uploads.body_M[place], headers)
                response = connection.getresponse()
                status, data = response.status, response.read()
            except (OSError, http.client.HTTPException):
                connection.close()
                status, data = 0, b""
            spent_s = time.perf_counter() - started
            error = 0.0
            if status == 200:
                embedding_D = np.asarray(json.loads(data)["embedding"])
                error = float(np.abs(embedding_D - uploads.expected_MD[place]).max())
            with lock:
                seen.statuses[status] += 1
                seen.latency_s.append(spent_s)
                seen.error = max(seen.error, error)
            if time.perf_counter() >= until_s:
                return

    started = time.perf_counter()
    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen.seconds = time.perf_counter() - started
    if seen.error > LARGEST_ERROR:
        raise MeasurementError(f"an embedding is off by {seen.error:.2g} with {clients} clients")
    return seen


def _loops(
    config: Any, uploads: Uploads, secret: str, *, seconds: float, runs: int
) -> list[dict[str, Any]]:
    """Closed loops of 1, 8 and 32 clients, in turns with direct calls."""
    from astroray.serving import serving

    loops: dict[int, list[Loop]] = {clients: [] for clients in CLIENTS}
    rates: list[float] = []
    single_s: list[float] = []
    with serving(config):
        _closed_loop(uploads, secret, 2, 1.0)  # the model is loaded by the first
        for _ in range(runs):
            for clients in CLIENTS:
                rates.append(uploads.direct_rate(seconds / 4))
                single_s.append(1 / uploads.direct_rate(seconds / 8, batch=1))
                loops[clients].append(_closed_loop(uploads, secret, clients, seconds))
    direct, each_ms = float(np.median(rates)), 1e3 * float(np.median(single_s))
    facts = {"direct_per_s": direct, "direct_ms": each_ms}
    fields: list[dict[str, Any]] = [
        {
            **spread([loop.rate / direct for loop in loops[clients]]),
            "error": max(loop.error for loop in loops[clients]),
            "facts": facts | {"per_s": float(np.median([loop.rate for loop in loops[clients]]))},
        }
        for clients in CLIENTS[1:]
    ]
    added_ms = [1e3 * float(np.median(loop.latency_s)) - each_ms for loop in loops[1]]
    ratios = [
        float(np.percentile(loop.latency_s, 95)) * loop.rate / CLIENTS[-1]
        for loop in loops[CLIENTS[-1]]
    ]
    return [*fields, {**spread(added_ms), "facts": facts}, spread(ratios)]


def _kill(
    config: Any, uploads: Uploads, secret: str, deployment: str, *, seconds: float
) -> list[dict[str, Any]]:
    """One of two replicas of a deployment is killed while 8 clients ask."""
    import ray

    from astroray.serving import serving

    with serving(config):
        _closed_loop(uploads, secret, 4, 2.0)
        killer = threading.Timer(
            seconds / 3, lambda: ray.kill(_replica(deployment), no_restart=True)
        )
        killer.start()
        loop = _closed_loop(uploads, secret, 8, seconds)
        killer.join()
    total = sum(loop.statuses.values())
    facts = {"requests": total, "failed": loop.num_failed}
    value = 100 * loop.num_failed / total
    return [{"value": value, "error": loop.error, "runs": 1, "facts": facts}]


def _replica(deployment: str) -> Any:
    import ray

    actors = ray.util.list_named_actors(all_namespaces=True)
    name = next(one["name"] for one in actors if f"#{deployment}#" in one["name"])
    return ray.get_actor(name, namespace="serve")


def main() -> None:
    """`python -m benchmarks.serve`."""
    run_benchmark("serve", "Serving against encoding, dying replicas, bad uploads.", measure)


if __name__ == "__main__":
    main()
