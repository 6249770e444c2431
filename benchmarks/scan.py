"""What the embed stage costs over a bare loop: objects/s, memory, resume, first shard.

Simulated galaxies of 64 x 64 px in three bands are written to disk first, so shards are read and
none are drawn while time is taken. The peer is `bare_loop`: one process, one thread,
the same reader, preparation, encoder, batches, heap setting and priority as a worker of the
pipeline, and nothing else: no publishing, no ledger, no Ray. It does not read ahead; that is the
pipeline's own merit. Its embeddings must equal the published ones to the last bit before any time
is taken.

Objects/s are those of the steady state, of what was published: each worker's first shard is left
out, as is the loop's, and the window ends where the first worker has no more. In the window the
gaps between shards count (publishing, ledger, Ray), a shard that an edge cuts counts by its part.
Loop and pipeline run in turns, each in a fresh process; a ratio is that of neighbors in time.
`cpu_ratio` compares CPU seconds per object, the pipeline's with those of driver and daemons.
The limit of two workers is what two bare loops at once do over one, in the same turn.
"""

import contextlib
import dataclasses
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from astroray import ledger, surveys
from astroray.actors.sample import SamplePlan, draw_sample
from astroray.config import EncoderConfig, ScanConfig
from astroray.execution import workers
from astroray.preparation import Wishes
from astroray.receipts import Receipt, done_shards, read_receipts
from astroray.storage.meter import METER
from astroray.surveys.simulated_files import write_survey
from benchmarks.bare_loop import (
    BATCH_SIZE,
    run_loop,
    run_loops,
    start_model,
    start_ray,
    steady_per_s,
)
from benchmarks.claims import at_least, at_most
from benchmarks.models import make_model
from benchmarks.processes import Fresh, run_fresh
from benchmarks.rows import BenchRow, MeasurementError, measured, run_benchmark, spread

if TYPE_CHECKING:  # the process that measures loads neither torch nor ray
    from astroray.execution.progress import Progress

ROW_BYTES = 3 * 64 * 64 * 4
LIKE_A_WORKER = {**workers.ENVIRONMENT, "OMP_NUM_THREADS": "1"}
LOOP = "a bare loop of one process and one thread, same reader, encoder and batches"

CLAIMS = (
    at_least("objects/s of one worker over a bare loop", 0.95, peer=LOOP),
    at_least("objects/s of two workers over a bare loop", 1.8, peer=LOOP),
    at_least("objects/s of one worker with vit-tiny over a bare loop with it", 0.95, peer=LOOP),
    at_most(
        "peak memory of the embed stage at 4 N objects over that at N",
        1.1,
        peer="the same scan of the first quarter of the shards",
    ),
    at_most(
        "bytes read by a resume after a kill at half over bytes of the unfinished shards",
        1.05,
        peer="the size of the unfinished shards' files",
    ),
    at_most(
        "seconds to one worker's first published shard, less Ray's start, over a bare loop",
        1.2,
        peer=LOOP,
    ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is measured."""

    rounds: int
    shards: int
    shard_rows: int
    """Of the rows about objects/s; the first shard's row has the default 1,000."""
    first_runs: int
    survey_shards: int
    """Of the rows about memory and resume."""
    survey_shard_rows: int


FULL = Sizes(
    rounds=5, shards=8, shard_rows=512, first_runs=5, survey_shards=100, survey_shard_rows=1000
)
QUICK = Sizes(
    rounds=2, shards=5, shard_rows=256, first_runs=1, survey_shards=16, survey_shard_rows=250
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Marks:
    """When a scan was where, in Unix time, and what its driver read."""

    began_s: float
    embed_began_s: float
    ended_s: float
    driver_bytes: int


class _FarEnoughError(Exception):
    """Ends a scan that has done what is measured."""


def run_scan(
    survey: str,
    model_path: str,
    out: str,
    workers: str = "auto",
    stop_at_first: bool = False,
    kill_at: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> Marks:
    """A scan with a fitted model, until its embed stage is over or its first shard published.

    kill_at   kills this process once so many shards are published; 0: never
    settings  of the encoder beside its name
    """
    began_s, before = time.time(), METER.bytes_read
    from astroray.pipeline import scan

    seen: dict[str, float] = {}
    if kill_at:
        threading.Thread(target=_kill_when_done, args=(out, kill_at), daemon=True).start()

    def show(progress: "Progress") -> None:
        seen.setdefault(progress.stage, time.time())
        is_first = stop_at_first and progress.stage == "embed" and progress.objects > 0
        if is_first or progress.stage == "search":
            raise _FarEnoughError

    config = ScanConfig(
        survey=survey,
        out=out,
        encoder=EncoderConfig(name=model_path, **(settings or {})),
        batch_size=BATCH_SIZE,
        workers=workers,
    )
    with contextlib.suppress(_FarEnoughError):
        scan(config, show=show)
    return Marks(
        began_s=began_s,
        embed_began_s=seen["embed"],
        ended_s=seen.get("search", time.time()),
        driver_bytes=METER.bytes_read - before,
    )


def run_scans(survey: str, model_path: str, outs: Mapping[str, str]) -> dict[str, Marks]:
    """Scans by number of workers, one after the other in one cluster."""
    with workers.cluster():
        return {num: run_scan(survey, model_path, out, num) for num, out in outs.items()}


def fit_model(survey: str, folder: str, encoder: str, latent: int | None) -> str:
    """A model for the survey, of the weights it begins with."""

    plan = SamplePlan(
        folder=folder, max_rows=64, wishes=Wishes(size_px=64), seed=0
    )  # fmt: skip
    sample = draw_sample(surveys.list_shards(survey).shards[:1], plan)
    return make_model(sample, encoder, folder, latent=latent)


def measure_first(sizes: Sizes, survey: str, model: str, scratch: Path) -> list[dict[str, Any]]:
    """The row about the first shard; raises MeasurementError where embeddings differ.

    The loop has one process on one core, so the pipeline has one worker. `all_workers_x` is the
    same with a worker for each core, which share the machine while they start.
    """
    ratios, facts = [], []
    error = 0.0
    for run in range(sizes.first_runs):
        saved = str(scratch / f"first-{run}.npz")
        laps = run_fresh(run_loop, survey, model, saved, environment=LIKE_A_WORKER).value()
        ray = run_fresh(start_ray).value()
        model_s = run_fresh(start_model, model, environment=LIKE_A_WORKER).value()
        scan_s: dict[str, float] = {}
        for num in ("1", "auto"):
            out = str(scratch / f"first-{run}-{num}")
            marks = run_fresh(run_scan, survey, model, out, num, True).value()
            scan_s[num] = min(done_s for done_s, _ in _done(out)) - marks.began_s
            error = max(error, _difference(out, saved))
        over = {num: (scan_s[num] - ray["first_s"] - model_s) / laps[0].wall_s for num in scan_s}
        ratios.append(over["1"])
        facts.append(
            {
                "scan_s": scan_s["1"],
                "ray_s": ray["first_s"],
                "model_s": model_s,
                "loop_s": laps[0].wall_s,
                "do_nothing_actor_s": ray["second_s"],
                "all_workers_x": over["auto"],
            }
        )
    return [{**spread(ratios), "error": error, "facts": _medians(facts)}]


def measure_speed(
    sizes: Sizes, survey: str, model: str, scratch: Path, nums: Sequence[str]
) -> list[dict[str, Any]]:
    """The rows about objects/s with each of `nums` workers."""
    if len(nums) > (os.cpu_count() or 1):
        raise MeasurementError("this machine has one core")
    error = 0.0
    ratios: dict[str, list[float]] = {num: [] for num in nums}
    facts: dict[str, list[dict[str, float]]] = {num: [] for num in nums}
    limits: list[float] = []  # of two workers: what two loops at once do over one
    for turn in range(sizes.rounds):
        saved = str(scratch / "loop.npz")
        laps = run_fresh(run_loop, survey, model, saved, environment=LIKE_A_WORKER).value()
        loop_per_s = steady_per_s(laps)
        loop_cpu_s = sum(lap.cpu_s for lap in laps[1:]) / sum(lap.rows for lap in laps[1:])
        if "2" in nums:
            loops = run_fresh(run_loops, survey, model, 2, environment=LIKE_A_WORKER)
            limits.append(loops.value() / loop_per_s)
        outs = {num: str(scratch / f"{Path(model).stem}-{turn}-{num}") for num in nums}
        fresh = run_fresh(run_scans, survey, model, outs)
        for num in nums:
            per_s, cpu_s = steady(outs[num], fresh)
            ratios[num].append(per_s / loop_per_s)
            facts[num].append(
                {"per_s": per_s, "loop_per_s": loop_per_s, "cpu_ratio": loop_cpu_s / cpu_s}
            )
            error = max(error, _difference(outs[num], saved))
    found = [{**spread(ratios[num]), "error": error, "facts": _medians(facts[num])} for num in nums]
    if limits:
        found[-1]["limit"] = float(np.median(limits))
    return found


def measure_memory(survey: str, quarter: str, model: str, scratch: Path) -> list[dict[str, Any]]:
    """The row about memory, from scans of the survey and of its first quarter."""
    peaks, facts = [], {}
    for name, where in (("quarter", quarter), ("all", survey)):
        out = str(scratch / f"memory-{name}")
        fresh = run_fresh(run_scan, where, model, out, with_memory=True)
        marks = fresh.value()
        peaks.append(fresh.peak_bytes(marks.embed_began_s, marks.ended_s))
        facts[f"{name}_objects"] = float(sum(r.rows_embedded for _, r in _done(out)))
        facts[f"{name}_mib"] = peaks[-1] / 2**20
    return [{"value": peaks[1] / peaks[0], "runs": 1, "facts": facts}]


def measure_resume(survey: str, model: str, scratch: Path) -> list[dict[str, Any]]:
    """The row about resume; shards that the workers finish after the driver's death are done."""
    shards = surveys.list_shards(survey).shards
    out = str(scratch / "resume")
    half = len(shards) // 2
    run_fresh(run_scan, survey, model, out, "auto", False, half, may_be_killed=True)
    before = done_shards(out)
    todo = [shard for shard in shards if shard.name not in before]
    if not before or not todo:
        raise MeasurementError(f"{len(before)} of {len(shards)} shards were done at the kill")
    marks = run_fresh(run_scan, survey, model, out).value()
    read = sum(r.bytes_read for _, r in _done(out) if r.shard not in before)
    models = 2 * os.path.getsize(model)  # as the workers load it, which no receipt counts
    unfinished = sum(shard.size_bytes for shard in todo)
    facts = {
        "shards": float(len(shards)),
        "unfinished_shards": float(len(todo)),
        "unfinished_mb": unfinished / 1e6,
        "workers_mb": read / 1e6,
        "driver_mb": marks.driver_bytes / 1e6,
        "models_mb": models / 1e6,
    }
    total = read + marks.driver_bytes + models
    return [{"value": total / unfinished, "runs": 1, "facts": facts}]


def measure(quick: bool, scratch: Path) -> Iterator[BenchRow]:
    """All rows, as they are measured; the folder is left full."""
    sizes = QUICK if quick else FULL
    one, two, vit, memory, resume, first = CLAIMS
    small = _simulate(scratch / "small", sizes.shards, sizes.shard_rows)
    large = _simulate(scratch / "large", 2, 1000)
    attcae = run_fresh(fit_model, small, str(scratch / "attcae"), "attcae", None).value()
    yield from measured([first], lambda: measure_first(sizes, large, attcae, scratch))
    for claims, nums, encoder in (([one, two], ("1", "2"), "attcae"), ([vit], ("1",), "vit-tiny")):
        model = run_fresh(fit_model, small, str(scratch / encoder), encoder, None).value()
        speed = partial(measure_speed, sizes, small, model, scratch, nums)
        yield from measured(claims, speed)
    many = _simulate(scratch / "many", sizes.survey_shards, sizes.survey_shard_rows)
    quarter = _link_first(many, sizes.survey_shards // 4, scratch / "quarter")
    some = _link_first(many, min(20, sizes.survey_shards), scratch / "some")
    pca = run_fresh(fit_model, small, str(scratch / "pca"), "pca", 8).value()
    yield from measured([memory], lambda: measure_memory(many, quarter, pca, scratch))
    yield from measured([resume], lambda: measure_resume(some, pca, scratch))


def _kill_when_done(out: str, num_shards: int) -> None:
    while len(done_shards(out)) < num_shards:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)


def _simulate(folder: Path, num_shards: int, shard_rows: int) -> str:
    """Writes simulated shards; returns their folder."""
    count = num_shards * shard_rows
    free = shutil.disk_usage(folder.parent).free
    if free < 2 * count * ROW_BYTES:
        raise OSError(
            f"{folder} has {free / 1e9:.0f} GB free, expected twice the "
            f"{count * ROW_BYTES / 1e9:.0f} GB to be written; name another --scratch"
        )
    write_survey(f"sim:galaxies?count={count}&shard_rows={shard_rows}", str(folder))
    return str(folder / "shards")


def _link_first(survey: str, num_shards: int, folder: Path) -> str:
    """A survey of the first shards of another one."""
    folder.mkdir()
    for name in sorted(os.listdir(survey))[:num_shards]:
        os.link(f"{survey}/{name}", folder / name)
    return str(folder)


def _done(out: str) -> list[tuple[float, Receipt]]:
    """Receipts of a run and when each was published, in that order."""
    found = [
        (os.stat(f"{out}/ledger/done/{name}.json").st_mtime, receipt)
        for name, receipt in read_receipts(out).items()
    ]
    return sorted(found, key=lambda pair: pair[0])


def steady(out: str, fresh: Fresh[Any]) -> tuple[float, float]:
    """Objects/s and CPU seconds an object while all workers were past their first shard."""
    spans = [(done_s - r.seconds, done_s, r.rows_embedded) for done_s, r in _done(out)]
    tracks: list[list[float]] = []  # when each worker published, worker by worker
    for begin_s, done_s, _ in sorted(spans):
        free = [track for track in tracks if track[-1] <= begin_s + 0.01]
        if free:
            max(free, key=lambda track: track[-1]).append(done_s)
        else:
            tracks.append([done_s])
    begin_s, end_s = max(track[0] for track in tracks), min(track[-1] for track in tracks)
    if end_s <= begin_s:
        raise MeasurementError("a worker had but one shard; use more shards")
    rows = sum(
        rows * max(0.0, min(done_s, end_s) - max(from_s, begin_s)) / (done_s - from_s)
        for from_s, done_s, rows in spans
    )
    return rows / (end_s - begin_s), fresh.cpu_s(begin_s, end_s) / rows


def _difference(out: str, saved: str) -> float:
    """Largest difference of published embeddings from the loop's. Raises where there is any."""
    largest = 0.0
    with np.load(saved) as loop:
        for name in sorted(done_shards(out)):
            table = pq.read_table(ledger.embeddings_path(out, name)).sort_by("row")
            flat = table["embedding"].combine_chunks().flatten().to_numpy()
            published_ND = flat.reshape(table.num_rows, -1)
            if published_ND.shape != loop[name].shape:
                raise MeasurementError(f"shard {name} has another shape than the loop's")
            largest = max(largest, float(np.abs(published_ND - loop[name]).max()))
    if largest > 0:
        raise MeasurementError(f"published embeddings differ from the loop's by {largest:.2g}")
    return largest


def _medians(facts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.median([fact[name] for fact in facts])) for name in facts[0]}


def main() -> None:
    """`python -m benchmarks.scan`."""
    run_benchmark("scan", "The embed stage against a bare loop.", measure)


if __name__ == "__main__":
    from benchmarks import scan as module  # so that fresh processes find its functions by name

    module.main()
