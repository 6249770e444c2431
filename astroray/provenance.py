"""What a run record, a benchmark or an evaluation says of where and with what it was made."""

import dataclasses
import functools
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from astroray import allowance, moments

PACKAGES = (
    "astroray", "ray", "torch", "faiss-cpu", "faiss-gpu-cu12", "numpy", "pyarrow", "astropy",
    "hats", "sep", "scikit-image", "pillow", "onnxruntime", "onnxruntime-gpu",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """A processor, and the cores and memory that a process may use of it."""

    cpu: str
    cores: int
    memory_bytes: int
    """0 where unknown."""
    system: str
    """Of operation, and its instruction set: Linux x86_64."""


def machine() -> Machine:
    """This machine."""
    return Machine(
        cpu=_cpu_name(),
        cores=allowance.num_cores(),
        memory_bytes=allowance.memory_bytes(),
        system=f"{platform.system()} {platform.machine()}",
    )


def document(name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The JSON object that a benchmark or an evaluation ends with; `rows` are its numbers."""
    where = machine()
    return {
        "name": name,
        "device": f"{where.cpu}, {where.cores} cores, {where.memory_bytes / 2**30:.0f} GiB",
        "versions": versions(),
        "commit": _commit(Path(__file__).parents[1]),
        "when": moments.now(),
        "rows": list(rows),
    }


@functools.cache
def _commit(checkout: Path) -> str:
    """The commit that is checked out, `-dirty` where files differ from it, else unknown."""
    if not (checkout / ".git").exists():
        return "unknown"
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--match="]
    try:
        done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if "model name" in line]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
