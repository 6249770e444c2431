"""Scans that are killed at every named point, one life after the other, in one run directory."""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from astroray import faults, surveys
from tests import s3_server, scans
from tests.soak_checks import Tally, result_files, say
from tests.soak_lives import Kill, Life, finish, live, new_plan, own_scratch

__all__ = ["ScanSoak", "plan_round"]

SURVEY = "sim:galaxies?count=96&size=16&shard_rows=12&outliers=0.05"
FIT: Mapping[str, object] = {
    "encoder.name": "cae",
    "fit.num_passes": 2,
    "fit.budget_s": None,
    "fit.batch_size": 32,
    "fit.checkpoint_every_s": 0.0,
}
FIT_FILES = ("sample.npy", "sample.json")
SEARCH_FILES = ("neighbors", "Npix", "skymap.fits", "hats.properties")
DRIVER_FILES = ("run.json", "thumbnails.parquet", "index.html")


def plan_round(seed: int, shards: Sequence[str], points: Sequence[str]) -> Sequence[Life]:
    """The scans of one round, in the order of faults.POINTS, for the points that are asked for.

    A shard loses at most one worker, and a task of the search two, which Ray starts anew.
    """
    rng = random.Random(seed)
    mixed = rng.sample(list(shards), len(shards))
    late = shards[len(shards) // 2 :]
    on_shards = [p for p, (process, _) in faults.POINTS.items() if process == "worker"]
    in_workers = [Kill(process="worker", point=p, text=mixed.pop()) for p in on_shards]
    for suffix in (".parquet", ".json"):
        kill = Kill(process="worker", point="publish.written", text=mixed.pop() + suffix)
        in_workers.append(kill)
    lives: list[Life] = [
        [_driver("listed")],
        [_search("publish.written", rng.choice(FIT_FILES)), _driver("sampled")],
        [
            Kill(process="fit", point="fit.saved", text=f"pass {rng.choice((1, 2))}"),
            _search("publish.renamed", "model.safetensors"),
            _driver("fitted"),
        ],
        [*in_workers, _driver("receipt", rng.choice(late))],
        [_driver("embedded")],
        [_search("index.routed"), _search("index.partition"), _driver("index.built")],
        [_driver("index.manifest")],
        [
            *[_search("search.cells"), _search("search.partitions")],
            *[_search("search.found"), _search("search.file", _part(rng)), _driver("searched")],
        ],
        [
            _search("search.neighbors"),
            _search("publish.written", rng.choice(SEARCH_FILES)),
            _driver("thumbnails"),
        ],
        [_search("search.catalog"), _driver("reported")],
        [_driver("done")],
        [_driver("publish.written", rng.choice(DRIVER_FILES))],
        [_driver("publish.renamed", rng.choice(DRIVER_FILES))],
        [],
    ]
    chosen = [[kill for kill in life if kill.point in points] for life in lives]
    return [life for life in chosen[:-1] if life] + [[]]


def _driver(point: str, text: str = "") -> Kill:
    return Kill(process="driver", point=point, text=text)


def _search(point: str, text: str = "") -> Kill:
    return Kill(process="search", point=point, text=text)


def _part(rng: random.Random) -> str:
    return rng.choice(("Npix", "_metadata", "partition_info", "skymap", "hats.properties"))


class ScanSoak:
    """Rounds against one undisturbed reference."""

    def __init__(self, survey: str, folder: Path, points: Sequence[str], tally: Tally) -> None:
        self.survey, self.folder, self.points, self.tally = survey, folder, points, tally
        self.shards = [shard.name for shard in surveys.list_shards(survey).shards]
        started = time.monotonic()
        reference = str(folder / "reference")
        command = self._command(reference, folder / "none", index="flat")
        ended = scans.run(command, env=own_scratch(self.folder))
        if ended.code != 0:
            raise SystemExit(f"the undisturbed scan fails: {ended.err}")
        self.expected = result_files(reference)
        say(f"reference  {time.monotonic() - started:.0f} s")

    def run_round(self, number: int) -> None:
        """One run directory through all the points."""
        name, run_dir = f"round {number}", str(self.folder / f"run{number}")
        plan = new_plan(self.folder / f"plan{number}")
        command = self._command(run_dir, plan, workers=str(1 + number % 2))
        started = time.monotonic()
        for life in plan_round(number, self.shards, self.points):
            live(self.tally, name, life, command, plan=plan, folder=self.folder, run_dir=run_dir)
        finish(self.tally, name, plan=plan, run_dir=run_dir, expected=self.expected)
        say(f"{name}  {time.monotonic() - started:.0f} s")
        shutil.rmtree(run_dir)

    def run_s3_round(self, number: int, weed: str) -> None:
        """One scan into S3 whose store is killed on the way and comes back."""
        name, plan = f"s3 {number}", new_plan(self.folder / f"s3plan{number}")
        store, server = s3_server.start_server(weed, self.folder / f"weed{number}")
        os.environ.update(store.env)
        try:
            run_dir = store.new_prefix()
            command = self._command(run_dir, plan)
            process = scans.start(command, env=own_scratch(self.folder))
            wanted = 1 + number % (len(self.shards) - 1)
            _wait_for_shards(plan, wanted, process)
            _kill(server)
            ended = process.wait(600)
            said = ended.err.strip().splitlines()[-1:]
            is_clear = ended.code == 1 and bool(said) and said[0].startswith("astroray: cannot ")
            self.tally.count(f"{name}: store killed after {wanted} shards {said}", ok=is_clear)
            server = s3_server.start_again(store, server)
            ended = scans.run(command, env=own_scratch(self.folder))
            said = [ended.err[-300:]] if ended.code else []
            self.tally.count(f"{name}: resumed {said or ''}", ok=not said)
            self.tally.check_run(name, run_dir, self.expected)
        finally:
            _kill(server)

    def _command(
        self, run_dir: str, plan: Path, *, workers: str = "1", index: str = "sharded"
    ) -> list[str]:
        fault_plan = str(plan) if plan.exists() else ""
        settings = {**FIT, "workers": workers, "fault_plan": fault_plan, "search.index": index}
        return scans.scan_command(self.survey, run_dir, **settings)


def _wait_for_shards(plan: Path, wanted: int, process: scans.Process) -> None:
    while process.child.poll() is None:
        if sum(point == "shard.done" for point, _ in scans.reached(plan)) >= wanted:
            return
        time.sleep(0.05)


def _kill(server: "subprocess.Popen[bytes]") -> None:
    server.send_signal(signal.SIGKILL)
    server.wait()
