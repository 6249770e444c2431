"""Nights that are killed at every named point, one life after the other, in one run directory."""

import os
import random
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from astroray import faults, storage, surveys
from astroray.surveys.simulated_files import write_survey
from tests import s3_server, scans
from tests.soak_checks import Tally, result_files, say
from tests.soak_lives import Kill, Life, finish, live, new_plan, own_scratch

__all__ = ["NightSoak", "plan_night", "plan_s3"]

SURVEY = "sim:galaxies?count=132&size=16&shard_rows=12&outliers=0.05"
NUM_OLD = 4
"""Shards of the reference."""
NIGHT = """
import sys
from astroray.console import show_night
from astroray.nightly import NightConfig
from astroray.job_command import one_line_errors
survey, reference, out, workers, fault_plan = sys.argv[1:]
with one_line_errors():
    show_night(NightConfig(
        survey=survey, reference=reference, out=out, workers=workers, fault_plan=fault_plan))
"""
"""`astroray nightly` with a fault plan, which it has no flag for."""
ALWAYS_FILES = ("run.json", "inherited.parquet")
FIRST_FILES = (*ALWAYS_FILES, "shards.parquet", "model.safetensors")
SEARCH_FILES = ("neighbors", "changes.parquet", "Npix", "skymap.fits", "hats.properties")
LAST_FILES = ("thumbnails.parquet", "index.html")


def plan_night(seed: int, shards: Sequence[str], points: Sequence[str]) -> Sequence[Life]:
    """The lives of one night for the points that are asked for; the last ends undisturbed.

    A night that is done is not begun again, so `done` comes last.
    """
    rng = random.Random(seed)
    mixed = rng.sample(list(shards), len(shards))
    on_shards = [p for p, (process, _) in faults.POINTS.items() if process == "worker"]
    in_workers = [Kill(process="worker", point=p, text=mixed.pop()) for p in on_shards]
    in_workers += [
        Kill(process="worker", point="publish.written", text=mixed.pop() + suffix)
        for suffix in (".parquet", ".json")
    ]
    searching = [_search(point) for point in ("search.found", "search.neighbors")]
    lives: list[Life] = [
        [_driver("inherited")],
        [_driver("publish.written", rng.choice(FIRST_FILES))],
        [_driver("publish.renamed", rng.choice(ALWAYS_FILES))],
        [_driver("listed")],
        [_driver("fitted")],
        [*in_workers, _driver("receipt", rng.choice(shards[len(shards) // 2 :]))],
        [_driver("embedded")],
        [*searching, _driver("searched")],
        [_search("publish.written", rng.choice(SEARCH_FILES)), _driver("thumbnails")],
        [_search("search.file", rng.choice(("Npix", "_metadata"))), _driver("reported")],
        [_search("search.catalog"), _driver("publish.written", rng.choice(LAST_FILES))],
        [_driver("publish.renamed", rng.choice(LAST_FILES))],
        [_driver("done")],
        [],
    ]
    chosen = [[kill for kill in life if kill.point in points] for life in lives]
    return [life for life in chosen[:-1] if life] + [[]]


def plan_s3(seed: int, shards: Sequence[str], points: Sequence[str]) -> Sequence[Life]:
    """A few lives of a night on S3, each with a driver that is killed; another must follow."""
    rng = random.Random(seed)
    worker = Kill(process="worker", point="shard.rejects", text=rng.choice(shards))
    lives: list[Life] = [
        [_driver(rng.choice(("inherited", "listed")))],
        [worker, _driver(rng.choice(("receipt", "embedded")))],
        [
            _search("search.file", "Npix"),
            _driver(rng.choice(("searched", "thumbnails", "reported"))),
        ],
    ]
    chosen = [[kill for kill in life if kill.point in points] for life in lives]
    return [life for life in chosen if life]


class NightSoak:
    """Nights after one reference, against one that was undisturbed."""

    def __init__(self, folder: Path, points: Sequence[str], tally: Tally) -> None:
        self.folder, self.points, self.tally = folder, points, tally
        started = time.monotonic()
        write_survey(SURVEY, str(folder / "made"))
        files = sorted((folder / "made" / "shards").glob("*.parquet"))
        self.survey, self.reference = folder / "sky", str(folder / "before")
        self.survey.mkdir()
        for path in files[:NUM_OLD]:
            shutil.copy2(path, self.survey)
        self._run(scans.scan_command(self.survey, self.reference))
        old = {shard.name for shard in surveys.list_shards(str(self.survey)).shards}
        for path in files[NUM_OLD:]:
            shutil.copy2(path, self.survey)
        listed = [shard.name for shard in surveys.list_shards(str(self.survey)).shards]
        self.new = [name for name in listed if name not in old]
        self.before = _files(self.reference)
        calm = str(folder / "calm")
        self._run(self._command(calm, ""))
        self.expected = result_files(calm)
        say(f"night reference  {time.monotonic() - started:.0f} s")

    def run_round(self, number: int) -> None:
        """One night through all the points."""
        name, run_dir = f"night {number}", str(self.folder / f"night{number}")
        plan = new_plan(self.folder / f"nightplan{number}")
        command = self._command(run_dir, str(plan), workers=str(1 + number % 2))
        started = time.monotonic()
        for life in plan_night(number, self.new, self.points):
            live(self.tally, name, life, command, plan=plan, folder=self.folder, run_dir=run_dir)
        finish(self.tally, name, plan=plan, run_dir=run_dir, expected=self.expected)
        self.tally.count(
            f"{name}: the reference is left alone", ok=_files(self.reference) == self.before
        )
        say(f"{name}  {time.monotonic() - started:.0f} s")
        shutil.rmtree(run_dir)

    def run_s3_round(self, number: int, weed: str) -> None:
        """A night whose versions and survey lie on S3; a second one of it at the same time."""
        name, plan = f"night s3 {number}", new_plan(self.folder / f"nights3plan{number}")
        store, server = s3_server.start_server(weed, self.folder / f"nightweed{number}")
        os.environ.update(store.env)
        try:
            folder = store.new_prefix()
            sky, reference = f"{folder}/sky", f"{folder}/reference"
            files = sorted(self.survey.glob("*.parquet"))
            _upload(files[:NUM_OLD], sky)
            self._run(scans.scan_command(sky, reference))
            _upload(files[NUM_OLD:], sky)
            before = _seen(reference)
            words = [sky, reference]
            self._run(_night(*words, f"{folder}/calm", "1", ""))
            expected = result_files(f"{folder}/calm")
            run_dir = f"{folder}/night"
            command = _night(*words, run_dir, "2", str(plan))
            names = [path.stem for path in files[NUM_OLD:]]  # the rest is a hash of the address
            for life in plan_s3(number, names, self.points):
                live(
                    self.tally, name, life, command, plan=plan, folder=self.folder, run_dir=run_dir
                )
            self._two_at_once(name, command, plan)
            finish(self.tally, name, plan=plan, run_dir=run_dir, expected=expected)
            self.tally.count(f"{name}: the reference is left alone", ok=_seen(reference) == before)
        finally:
            server.kill()
            server.wait()

    def _two_at_once(self, name: str, command: Sequence[str], plan: Path) -> None:
        """One ends well; the other, which comes while it works, is refused in one sentence."""
        seen = len(scans.reached(plan))
        first = scans.start(command, env=own_scratch(self.folder))
        while first.child.poll() is None and len(scans.reached(plan)) == seen:
            time.sleep(0.05)
        second = scans.run(command, env=own_scratch(self.folder))
        self.tally.count(
            f"{name}: the second of two is refused: {second.err.strip()}",
            ok=second.code == 1 and "is being written by" in second.err,
        )
        ended = first.wait()
        self.tally.count(f"{name}: exit code {ended.code} of the first", ok=ended.code == 0)

    def _command(self, out: str, plan: str, *, workers: str = "1") -> list[str]:
        return _night(str(self.survey), self.reference, out, workers, plan)

    def _run(self, command: Sequence[str]) -> None:
        ended = scans.run(command, env=own_scratch(self.folder))
        if ended.code != 0:
            raise SystemExit(f"the undisturbed run fails: {ended.err}")


def _night(*words: str) -> list[str]:
    return [sys.executable, "-c", NIGHT, *words]


def _upload(files: Sequence[Path], folder: str) -> None:
    for path in files:
        storage.publish(f"{folder}/{path.name}", path.read_bytes())


def _seen(run_dir: str) -> dict[str, str]:
    return {file.path: file.version for file in storage.list_files(run_dir)}


def _files(folder: str) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def _driver(point: str, text: str = "") -> Kill:
    return Kill(process="driver", point=point, text=text)


def _search(point: str, text: str = "") -> Kill:
    return Kill(process="search", point=point, text=text)
