"""Scans of small surveys for tests: in this process, or in one of its own that may be killed."""

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from astroray import pipeline
from astroray.config import ScanConfig, load_config
from astroray.ledger import RunRecord

SCAN_TIMEOUT_S = 240
COMMAND = "from astroray.cli import cli; cli()"
SMALL: Mapping[str, object] = {
    "encoder.name": "pca",
    "encoder.size_px": 16,
    "search.k": 3,
    "search.top": 5,
    "max_rejected": 1.0,
    "num_random": 4,
    "workers": "1",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ended:
    """How a scan of its own process ended; a killed one has a negative code, as subprocess."""

    code: int
    out: str
    err: str

    @property
    def is_killed(self) -> bool:
        return self.code == -signal.SIGKILL


def small_config(survey: str | Path, out: str | Path, **settings: object) -> ScanConfig:
    """SMALL with other settings; two underscores in a name stand for the dot of a section."""
    flags = SMALL | {name.replace("__", "."): value for name, value in settings.items()}
    return load_config(str(survey), str(out), None, flags)


def scan(survey: str | Path, out: str | Path, **settings: object) -> RunRecord:
    """A scan in this process, on the Ray cluster of the session where there is one."""
    return pipeline.scan(small_config(survey, out, **settings))


def scan_command(survey: str | Path, out: str | Path, **settings: object) -> list[str]:
    """The command line of a small scan."""
    values = SMALL | {name.replace("__", "."): value for name, value in settings.items()}
    flags = [f"--set={name}={json.dumps(value)}" for name, value in values.items()]
    return [sys.executable, "-c", COMMAND, "scan", str(survey), "--out", str(out), *flags]


def run_command(
    command: Sequence[str], *, env: Mapping[str, str] | None = None, timeout_s: float | None = None
) -> Ended:
    """Runs a command to its end, in a process group that is gone afterwards."""
    known = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    process = subprocess.Popen(
        command,
        env=known | dict(env or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout_s or SCAN_TIMEOUT_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    return Ended(code=process.returncode, out=out, err=err)


def catalog_bytes(run_dir: str | Path) -> dict[str, str]:
    """sha256 of each file of a run's catalog; hats.properties holds a date and is left out."""
    folder = Path(run_dir) / "catalog"
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and not p.name.startswith(".")]
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in files
        if p.name != "hats.properties"
    }


def token(plan: str | Path, point: str, text: str = "", *, nth: int = 1) -> Path:
    """Puts a kill into a fault plan and returns its file, gone once somebody was killed."""
    folder = Path(plan)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (point + (f"#{nth}" if nth > 1 else "") + (f"@{text}" if text else ""))
    path.touch()
    return path


def reached(plan: str | Path) -> list[tuple[str, str]]:
    """Point and detail of all that was reached under a plan with a file `reached`, in order."""
    lines = (Path(plan) / "reached").read_text("utf-8").splitlines()
    return [(point, detail) for point, _, detail in (line.partition("\t") for line in lines)]
