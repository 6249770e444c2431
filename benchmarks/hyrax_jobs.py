"""How `benchmarks.hyrax` has astroray and Hyrax do one job, what each takes and comes to.

A job goes from FITS files to the nearest of all objects, in a process of its own.
"""

import dataclasses
import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np

from astroray import surveys
from astroray.surveys.shards import Cutouts
from benchmarks.processes import Fresh, run_fresh
from benchmarks.rows import MeasurementError

__all__ = ["Found", "Images", "Ours", "Theirs", "Took"]

ROOT = Path(__file__).parents[1]
BANDS = ("g", "i", "r")
"""In the order of the alphabet, which Hyrax gives them, whatever its table says."""
BATCH_SIZE = 64
NUM_NEAREST = 10
FIRST_NAME = 1_000_001
POLL_S = 0.02


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images:
    """A folder with a FITS file for each band of each object, and Hyrax's table of them."""

    folder: Path
    names: Sequence[str]
    """Of the objects, digits."""

    @classmethod
    def simulate(cls, count: int, folder: Path) -> "Images":
        """Simulated galaxies of 64 x 64 px."""
        from astropy.io import fits

        folder.mkdir()
        names: list[str] = []
        for shard in surveys.list_shards(f"sim:galaxies?count={count}&seed=5").shards:
            for rows in surveys.read_shard(shard):
                assert isinstance(rows, Cutouts)
                for image_CYX in rows.image_BCYX:
                    names.append(str(FIRST_NAME + len(names)))
                    for band, image_YX in zip(rows.bands, image_CYX, strict=True):
                        fits.PrimaryHDU(image_YX).writeto(folder / f"{names[-1]}_{band}.fits")
        return cls(folder=folder, names=names)._with_table()

    def first(self, count: int, folder: Path) -> "Images":
        """The first of them, in a folder of its own."""
        folder.mkdir()
        for name in self.names[:count]:
            for band in BANDS:
                os.link(self.folder / f"{name}_{band}.fits", folder / f"{name}_{band}.fits")
        return Images(folder=folder, names=self.names[:count])._with_table()

    def damage(self, name: str) -> None:
        """Cuts the file of one band of an object in half."""
        path = self.folder / f"{name}_{BANDS[0]}.fits"
        data = path.read_bytes()
        path.unlink()  # it may be linked elsewhere
        path.write_bytes(data[: len(data) // 2])

    @property
    def survey(self) -> str:
        """What a scan is asked for."""
        return f"{self.folder}/*.fits?bands={','.join(BANDS)}"

    @property
    def table(self) -> Path:
        """Which file is which band of which object, as Hyrax asks for it."""
        return self.folder / "files.csv"

    def _with_table(self) -> "Images":
        rows = [f"{name},{band},{name}_{band}.fits" for name in self.names for band in BANDS]
        self.table.write_text("\n".join(["object_id,filter,filename", *rows]), "utf-8")
        return self


@dataclasses.dataclass(frozen=True, kw_only=True)
class Took:
    """What a job took, from the start of its command."""

    embed_s: float
    """Until the last embedding was stored."""
    total_s: float
    embed_cpu_s: float
    total_cpu_s: float
    peak_mb: float
    disk_mb: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """What a job came to."""

    stored: Mapping[str, np.ndarray]
    """Embedding [D] of each object, by its name."""
    nearest: Mapping[str, Sequence[str]]
    """Names of the nearest of each object, itself left out, nearest first."""
    digests: Mapping[str, str]
    """Of the bytes of each file of results, by its place."""
    error: str = ""
    """What ended it before its time."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ours:
    """A scan into the folder `out`."""

    images: Images
    encoder: str
    """The network's class, or a run whose model is taken."""
    out: Path

    def run(self, *, kill_at: int = 0) -> Took:
        """Does the job; kill_at: kills it once so many shards are stored.

        Raises MeasurementError where it fails.
        """
        command = [sys.executable, "-m", "astroray", "scan", self.images.survey]
        command += ["--encoder", self.encoder, "--out", str(self.out), "--k", str(NUM_NEAREST)]
        command += ["--set", f"batch_size={BATCH_SIZE}"]
        paths = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
        pattern = f"{self.out}/embeddings/*.parquet"
        fresh = _run(command, {"PYTHONPATH": paths}, pattern, kill_at)
        if fresh.value().code and not kill_at:
            raise MeasurementError(f"the scan failed: {fresh.value().said}")
        return _took(fresh, max(map(os.path.getmtime, glob(pattern))), self.out)

    def num_pieces(self) -> int:
        """In how many files the embeddings are stored, one a shard."""
        return len(surveys.list_shards(self.images.survey).shards)

    def found(self) -> Found:
        """What a finished scan came to."""
        import pyarrow.parquet as pq

        from astroray.catalog import versions

        stored: dict[str, np.ndarray] = {}
        files = sorted(self.out.glob("embeddings/*.parquet"))
        for path in files:
            table = pq.read_table(path, columns=["object_id", "embedding"])
            vector_ND = np.array(table["embedding"].to_pylist(), np.float32)
            stored |= zip(table["object_id"].to_pylist(), vector_ND, strict=True)
        rows = versions.read_version(str(self.out)).select(["object_id", "neighbor_id"])
        files += sorted(self.out.glob("catalog/**/*.parquet"))
        return Found(
            stored=stored,
            nearest=dict(zip(*rows.to_pydict().values(), strict=True)),
            digests=_digests(self.out, files),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Theirs:
    """Hyrax's job of `hyrax_side`, by its own Python, into the new folder `out`."""

    images: Images
    python: str
    network: Mapping[str, Any]
    """Its `weights`, `levels` and `size_px`."""
    out: Path
    is_searched: bool = True
    """Whether the nearest are searched for; else it ends with the embeddings."""

    def run(self, *, kill_at: int = 0) -> Took:
        """Does the job; kill_at: kills it once so many batches are stored.

        Raises MeasurementError where it fails.
        """
        self.out.mkdir()
        job = {
            **self.network,
            "images": str(self.images.folder),
            "table": str(self.images.table),
            "results": str(self.out / "results"),
            "batch_size": BATCH_SIZE,
            "k": NUM_NEAREST if self.is_searched else 0,
            "answer": str(self.out / "answer"),
        }
        (self.out / "job.json").write_text(json.dumps(job), "utf-8")
        command = [self.python, "-m", "benchmarks.hyrax_side", str(self.out / "job.json")]
        pattern = f"{self.out}/results/*-infer-*/lance_db/results.lance/data/*.lance"
        fresh = _run(command, {"PYTHONPATH": str(ROOT)}, pattern, kill_at)
        if kill_at:
            return _took(fresh, fresh.value().ended_s, self.out / "results")
        if fresh.value().code:
            raise MeasurementError(f"Hyrax failed: {fresh.value().said}")
        return _took(fresh, self._answer()["embedded_s"], self.out / "results")

    def num_pieces(self) -> int:
        """In how many pieces the embeddings are stored, one a batch."""
        return math.ceil(len(self.images.names) / BATCH_SIZE)

    def found(self) -> Found:
        """What a finished job came to."""
        with np.load(self.out / "answer.npz") as arrays:
            names = arrays["ids"].tolist()
            stored = dict(zip(names, arrays["embedding"], strict=True))
            rows = arrays["nearest"].tolist() if "nearest" in arrays else []
        # itself is the first, unless another one has the same embedding
        nearest = {
            name: [other for other in row if other != name][:NUM_NEAREST]
            for name, row in zip(names, rows, strict=False)
        }
        data = sorted(self.out.glob("results/*-infer-*/lance_db/results.lance/data/*"))
        return Found(
            stored=stored,
            nearest=nearest,
            digests=_digests(self.out / "results", data),
            error=self._answer()["error"],
        )

    def _answer(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads((self.out / "answer.json").read_text("utf-8"))
        return answer


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Ran:
    """A command that ended; moments in Unix time."""

    began_s: float
    ended_s: float
    code: int
    said: str
    """The end of what it wrote."""


def _run(
    command: Sequence[str], environment: Mapping[str, str], pattern: str, kill_at: int
) -> Fresh[_Ran]:
    return run_fresh(
        _call, command, pattern, kill_at, environment=environment, with_memory=not kill_at
    )


def _call(command: Sequence[str], pattern: str, kill_at: int) -> _Ran:
    """Runs a command, and kills it once `kill_at` files are there, unless that is 0."""
    with tempfile.TemporaryFile() as said:
        began_s = time.time()
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        while kill_at and process.poll() is None:
            if len(glob(pattern)) >= kill_at:
                process.kill()
            time.sleep(POLL_S)
        code, ended_s = process.wait(), time.time()
        said.seek(0)
        lines = said.read().decode(errors="replace").strip().splitlines()
    return _Ran(began_s=began_s, ended_s=ended_s, code=code, said=" / ".join(lines[-3:]))


def _took(fresh: Fresh[_Ran], embedded_s: float, out: Path) -> Took:
    ran = fresh.value()
    files = [path for path in out.rglob("*") if path.is_file()]
    took = Took(
        embed_s=embedded_s - ran.began_s,
        total_s=ran.ended_s - ran.began_s,
        embed_cpu_s=fresh.cpu_s(ran.began_s, embedded_s),
        total_cpu_s=fresh.cpu_s(ran.began_s, ran.ended_s),
        peak_mb=fresh.peak_bytes(ran.began_s, ran.ended_s) / 1e6,
        disk_mb=sum(path.stat().st_size for path in files) / 1e6,
    )
    print(f"{out}: {took}", file=sys.stderr, flush=True)  # of a command that takes minutes
    return took


def _digests(folder: Path, files: Sequence[Path]) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }
