"""Scans of small surveys for tests: in this process, or in one of its own that may be killed."""

import contextlib
import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pytest
import torch

from astroray import faults, pipeline, surveys
from astroray.actors.fit import finish_model
from astroray.actors.sample import SamplePlan, draw_sample, network_config
from astroray.config import ScanConfig, load_config
from astroray.encoders import ENCODERS
from astroray.execution import streams, workers
from astroray.execution.workers import WorkerPlan
from astroray.fitting.fit_state import FitConfig
from astroray.fitting.passes import run_passes
from astroray.preparation import Wishes
from astroray.run_record import RunRecord
from benchmarks.embedded_runs import in_turn

SCAN_TIMEOUT_S = 240
COMMAND = "from astroray.cli import cli; cli()"
SMALL: dict[str, object] = {
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Process:
    """A scan on its way."""

    child: subprocess.Popen[bytes]
    out: IO[str]
    err: IO[str]

    def wait(self, timeout_s: float = SCAN_TIMEOUT_S) -> Ended:
        """Waits for the end; a scan that hangs is killed, and subprocess.TimeoutExpired raised."""
        try:
            self.child.wait(timeout_s)
        finally:
            if self.child.poll() is None:
                os.killpg(self.child.pid, signal.SIGKILL)
                self.child.wait()
            texts = []
            for file in (self.out, self.err):
                file.seek(0)
                texts.append(file.read())
                file.close()
        return Ended(code=self.child.returncode, out=texts[0], err=texts[1])


def small_config(survey: str | Path, out: str | Path, **settings: object) -> ScanConfig:
    """SMALL with other settings; two underscores in a name stand for the dot of a section."""
    flags = SMALL | {name.replace("__", "."): value for name, value in settings.items()}
    return load_config(str(survey), str(out), None, flags)


def scan(survey: str | Path, out: str | Path, **settings: object) -> RunRecord:
    """A scan in this process, on the Ray cluster of the session where there is one."""
    try:
        return pipeline.scan(small_config(survey, out, **settings))
    finally:
        faults.arm("")


def scan_here(survey: str | Path, out: str | Path, **settings: object) -> RunRecord:
    """The same scan whose workers are this process: the same bytes, in a tenth of the time."""
    with workers_here():
        return scan(survey, out, **settings)


@contextlib.contextmanager
def workers_here() -> Iterator[None]:
    """In here the workers of scans and nights are this process: no Ray is started or joined.

    For tests of what the stages do. What workers in processes of their own may do besides, as to
    die or to work at once, needs Ray.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "cluster", lambda **_: contextlib.nullcontext())
        patch.setattr(workers, "machines", lambda: [{"CPU": 6.0}])
        patch.setattr(workers, "cpus_of_one_machine", lambda *_: 6)
        patch.setattr(workers, "refuse_local", lambda *_: None)
        patch.setattr(workers, "RayNodes", lambda: None)
        patch.setattr(workers, "remotely", lambda function, **_: function)
        patch.setattr(workers, "each_remotely", lambda **_: in_turn)
        patch.setattr(workers, "on_each_machine", lambda function: function())
        patch.setattr(streams, "_map", _map_here)
        yield


@contextlib.contextmanager
def fits_here() -> Iterator[None]:
    """In here networks are fitted in this process too, by the local mode of Ray Train.

    The bytes are those of one training worker, without the six processes that Ray Train starts.
    """
    import ray.train

    scaling, num_threads = ray.train.ScalingConfig, torch.get_num_threads()
    with workers_here(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            ray.train, "ScalingConfig", lambda **told: scaling(**{**told, "num_workers": 0})
        )
        yield
    torch.set_num_threads(num_threads)


def _map_here(
    rows: Sequence[Mapping[str, str]], function: Any, pool: WorkerPlan, *, told: tuple[Any, ...]
) -> Iterator[Mapping[str, Any]]:
    made = function(*told) if rows and isinstance(function, type) else function
    for row in rows:
        yield made({name: [text] for name, text in row.items()})


def scan_command(survey: str | Path, out: str | Path, **settings: object) -> list[str]:
    """The command line of a small scan."""
    values = SMALL | {name.replace("__", "."): value for name, value in settings.items()}
    flags = [f"--set={name}={json.dumps(value)}" for name, value in values.items()]
    return [sys.executable, "-c", COMMAND, "scan", str(survey), "--out", str(out), *flags]


def this_cluster() -> dict[str, str]:
    """What a process needs to join the cluster of the session; no machine of it is taken away.

    The last name keeps that process to the loopback address as well: else it waits for a machine
    with the address that others know.
    """
    import ray

    names = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")
    return {
        "RAY_ADDRESS": ray.get_runtime_context().gcs_address,
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        **{name: os.environ[name] for name in names},
    }


def start(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
) -> Process:
    """Starts a command in a session of its own; what it writes goes to files.

    With pipes, the workers that a killed driver leaves for a moment would hold them open.
    """
    known = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    out, err = (tempfile.TemporaryFile("w+") for _ in range(2))  # noqa: SIM115 (wait closes them)
    child = subprocess.Popen(
        command,
        env=known | dict(env or {}),
        cwd=cwd,
        stdout=out,
        stderr=err,
        start_new_session=True,
    )
    return Process(child=child, out=out, err=err)


def run(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
) -> Ended:
    """Runs a command to its end."""
    return start(command, env=env, cwd=cwd).wait()


def fit_model(
    survey: str, path: str | Path, *, encoder: str = "pca", num_passes: int = 0, size_px: int = 16
) -> str:
    """Fits a small model in this process, without Ray, and returns its path."""
    folder = f"{Path(path).parent}/fit-{Path(path).name}"
    is_image = ENCODERS[encoder].modality == "images"
    wishes = Wishes(size_px=size_px if is_image else None)
    plan = SamplePlan(folder=folder, max_rows=64, wishes=wishes, seed=0)
    sample = draw_sample(surveys.list_shards(survey).shards, plan)
    network = network_config(encoder, sample, latent=None)
    weights = None
    if num_passes:
        config = FitConfig(num_passes=num_passes, batch_size=16)
        weights = run_passes(sample.path, encoder, network, config, folder, threads=1).state_dict
    finish_model(sample, path=str(path), encoder=encoder, config=network, weights=weights)
    return str(path)


def decide_model(survey: str, path: str | Path, *, choice: str, attention: str) -> str:
    """A small `vit-tiny` in w8a8o whose file holds this decision of `auto`; returns its path."""
    from astroray.actors.quantize import QuantizePlan, quantize_model
    from astroray.encoders.store import load_model, save_model

    plain, named = (f"{path}.{word}.safetensors" for word in ("plain", "named"))
    plan = QuantizePlan(
        model_path=fit_model(survey, plain, encoder="vit-tiny"),
        out=named,
        scheme="w8a8o",
        max_rows=32,
    )
    quantize_model(surveys.list_shards(survey).shards, plan)
    model = load_model(named)
    held = dataclasses.replace(model.quantized, choice=choice, attention=attention)
    save_model(str(path), dataclasses.replace(model, quantized=held))
    return str(path)


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
