"""What a listing costs that takes identifiers and positions from a table: memory, time, bytes.

A stack of N cutouts of 4 x 4 px (a sparse file, no pixel is read), and pictures of one object a
file, each with a table of N rows as CSV, are listed as a scan does it: the objects go to files in
the run directory, which the shards name. The peer is the same listing without a run directory,
whose shards carry their objects. Each is made in a fresh process, in turns; the objects of the
first and the last shard are read back and compared with the table first.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from astroray import ledger, surveys
from astroray.surveys.objects import Objects
from benchmarks.claims import at_least, at_most
from benchmarks.processes import run_fresh, watched
from benchmarks.rows import BenchRow, MeasurementError, measured, run_benchmark, spread

CARRIED = "the same listing, whose shards carry identifiers and positions"
STACK = (
    at_most(
        "stack with a table, ten times the objects: peak private memory over that before", 1.25
    ),
    at_least("stack with a table: memory of the peer over ours", 4.0, peer=CARRIED),
    at_most("stack with a table: CPU time over that of the peer", 1.0, peer=CARRIED),
    at_most(
        "stack with a table: bytes of what tasks are told, over that of the peer",
        0.05,
        peer=CARRIED,
    ),
)
FILES = (
    at_least("a file an object: memory of the peer over ours", 1.0, peer=CARRIED),
    at_most("a file an object: CPU time over that of the peer", 1.0, peer=CARRIED),
)


def write_stack(folder: Path, num_objects: int) -> str:
    """A stack and its table; returns the survey."""
    folder.mkdir(parents=True)
    shape = (num_objects, 1, 4, 4)
    np.lib.format.open_memmap(folder / "stack.npy", "w+", np.uint8, shape).flush()
    _write_table(folder, num_objects)
    return f"{folder}/stack.npy?table=objects.csv&layout=NCYX"


def write_files(folder: Path, num_objects: int) -> str:
    """Pictures that are one file under many names, and their table; returns the survey."""
    for i in range(num_objects):
        path = folder / f"{i // 1000:05d}" / f"object-{i:09d}.jpg"
        if i % 1000 == 0:
            path.parent.mkdir(parents=True)
            path.write_bytes(b"\xff\xd8")  # links of one file are limited
        else:
            os.link(folder / f"{i // 1000:05d}" / f"object-{i - i % 1000:09d}.jpg", path)
    _write_table(folder, num_objects)
    return f"{folder}?table=objects.csv&bands=RGB"


def _write_table(folder: Path, num_objects: int) -> None:
    with (folder / "objects.csv").open("w") as file:
        file.write("object_id,file,ra,dec\n")
        for i in range(num_objects):
            ra_deg, dec_deg = _place(i)
            file.write(f"{_id(i)},object-{i:09d}.jpg,{ra_deg:.6f},{dec_deg:.6f}\n")


def _place(number: int) -> tuple[float, float]:
    """Right ascension and declination, deg, as much all over the sky as those of a survey."""
    return round(number * 0.6180339887 % 1 * 360, 6), round(number * 0.7548776662 % 1 * 180 - 90, 6)


def _id(number: int) -> str:
    return f"SURVEY J{number:09d}"


def list_once(survey: str, run_dir: str, is_carried: bool) -> dict[str, float]:
    """Lists, writes the listing and reads it again: CPU seconds, peak memory, bytes."""
    facts: dict[str, float] = {}

    def work() -> Sequence[surveys.Shard]:
        folder = "" if is_carried else ledger.objects_folder(run_dir)
        shards = surveys.list_shards(survey, objects_folder=folder).shards
        ledger.write_listing(run_dir, shards)
        return shards

    surveys.list_shards("sim:galaxies?count=2")  # libraries are loaded here
    shards, facts = watched(work)
    _check(shards)
    facts["ledger_mb"] = sum(f.stat().st_size for f in Path(run_dir).rglob("*.parquet")) / 2**20
    facts["told_mb"] = sum(len(json.dumps(dict(s.params))) for s in shards) / 2**20
    del shards
    _, again = watched(lambda: ledger.read_listing(run_dir))
    return facts | {"resume_cpu_s": again["cpu_s"]}


def _check(shards: Sequence[surveys.Shard]) -> None:
    """Raises MeasurementError where the first or the last object is not what the table says."""
    num_objects = sum(shard.num_rows or 0 for shard in shards)
    for shard, row, number in ((shards[0], 0, 0), (shards[-1], -1, num_objects - 1)):
        found = Objects.from_params(shard.params["objects"])
        got = found.object_id_N[row], found.ra_deg_N[row], found.dec_deg_N[row]
        if got != (expected := (_id(number), *_place(number))):
            raise MeasurementError(f"object {number} is {got}, expected {expected}")


def compare(survey: str, scratch: Path, runs: int) -> dict[str, list[dict[str, float]]]:
    """Both ways in turns, each in a fresh process."""
    got: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
    for _ in range(runs):
        for way, is_carried in (("ours", False), ("peer", True)):
            out = scratch / "run"
            got[way].append(run_fresh(list_once, survey, str(out), is_carried).value())
            shutil.rmtree(out)
    return got


def _ratio(
    got: Mapping[str, Sequence[Mapping[str, float]]], key: str, over: str, num_objects: int
) -> dict[str, Any]:
    """The median of `over`'s figure by the other's, as fields of a row."""
    below = "peer" if over == "ours" else "ours"
    facts = {
        f"{way}_{name}": float(np.median([one[name] for one in runs]))
        for way, runs in got.items()
        for name in runs[0]
    }
    ratios = [a[key] / b[key] for a, b in zip(got[over], got[below], strict=True)]
    return {**spread(ratios), "error": 0.0, "facts": facts | {"objects": float(num_objects)}}


def measure(is_quick: bool, scratch: Path) -> Iterator[BenchRow]:
    """The rows, of surveys that are written to `scratch`."""
    runs = 1 if is_quick else 3
    num_stack, num_files = (200_000, 5_000) if is_quick else (1_000_000, 1_000_000)

    def of_stack() -> list[dict[str, Any]]:
        small = compare(write_stack(scratch / "small", num_stack // 10), scratch, runs)
        large = compare(write_stack(scratch / "large", num_stack), scratch, runs)
        growth = {"ours": large["ours"], "peer": small["ours"]}
        return [
            _ratio(growth, "memory_mb", "ours", num_stack),
            _ratio(large, "memory_mb", "peer", num_stack),
            _ratio(large, "cpu_s", "ours", num_stack),
            _ratio(large, "told_mb", "ours", num_stack),
        ]

    def of_files() -> list[dict[str, Any]]:
        got = compare(write_files(scratch / "files", num_files), scratch, runs=1)
        return [
            _ratio(got, "memory_mb", "peer", num_files),
            _ratio(got, "cpu_s", "ours", num_files),
        ]

    yield from measured(STACK, of_stack)
    yield from measured(FILES, of_files)


if __name__ == "__main__":
    run_benchmark("listing", "Memory and time of a listing with a table of objects.", measure)
