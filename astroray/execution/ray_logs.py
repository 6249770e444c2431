"""Where Ray's own messages go: to files in the log folder of a run, or nowhere."""

import contextlib
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from astroray.storage.disk_errors import writing

__all__ = ["fetch_worker_logs", "keep_worker_logs", "noise_to", "ray_data_to"]

_log = logging.getLogger("astroray.ray_logs")
FETCH_S = 10.0
LOG_BYTES = 2**16
RAY_DATA_SETTING = "RAY_DATA_LOGGING_CONFIG"
RAY_DATA_CONFIG = Path(__file__).with_name("ray_data_logging.yaml")


@contextlib.contextmanager
def noise_to(log_dir: str) -> Iterator[None]:
    """What Ray's native code writes to standard error goes to `ray.log`; ours still appears.

    A stream that does not lead to the descriptor, such as a notebook's, is left in its place.
    """
    if not log_dir:
        yield
        return
    path = str(Path(log_dir) / "ray.log")
    with writing(path), open(path, "ab") as log:  # before anything is moved: it may be refused
        ours, noise = sys.stderr, os.dup(2)
        os.dup2(log.fileno(), 2)
    try:
        if _is_descriptor_2(ours):
            sys.stderr = open(os.dup(noise), "w", buffering=1, encoding="utf-8", errors="replace")  # noqa: SIM115
        yield
    finally:
        if sys.stderr is not ours:
            with contextlib.suppress(ValueError, OSError):  # nobody may read it any more
                sys.stderr.close()
            sys.stderr = ours
        os.dup2(noise, 2)
        os.close(noise)


def _is_descriptor_2(stream: TextIO) -> bool:
    try:
        return stream.fileno() == 2
    except (OSError, ValueError):  # it has none, or is closed
        return False


@contextlib.contextmanager
def ray_data_to(log_dir: str) -> Iterator[None]:
    """What Ray Data says goes to `ray-data.log` in `log_dir` ("": nowhere); then all is as before.

    Enter it before Ray starts, since the workers of a local cluster inherit the setting. Ray Data
    2.60 is neither silenced by its loggers' levels nor kept from a file for every data set; a
    configuration without loggers does both, and leaves the logger to us.
    """
    before = os.environ.get(RAY_DATA_SETTING)
    os.environ[RAY_DATA_SETTING] = str(RAY_DATA_CONFIG)
    level = os.environ.get("RAY_DATA_LOG_LEVEL") or "INFO"  # Ray's own switch still holds
    try:
        _load_ray_data()
        with (
            contextlib.closing(_handler(log_dir)) as handler,
            _logger_as("ray.data", level=level, handlers=[handler], propagate=False),
            # Tells of the registration of each data set, and for that alone opens its file.
            _logger_as("ray.data._internal.logging", level="WARNING", handlers=[], propagate=True),
        ):
            yield
    finally:
        if before is None:
            del os.environ[RAY_DATA_SETTING]
        else:
            os.environ[RAY_DATA_SETTING] = before


def _load_ray_data() -> None:
    """Imports it, by which it configures its loggers, without word of widgets that we do not use.

    In a notebook Ray and tqdm would each ask for them.
    """
    with (
        _logger_as("ray.widgets.util", level="WARNING", handlers=[], propagate=True),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", message="IProgress not found")
        import ray.data  # noqa: F401


def keep_worker_logs(scratch: str, log_dir: str) -> None:
    """Copies what the workers wrote to `log_dir`/workers, so that a dead one can be asked why.

    Where that is refused it is only said: a full disk has its own error, which must not be hidden.
    """
    target = Path(log_dir) / "workers"
    shutil.rmtree(target, ignore_errors=True)
    try:
        for file in Path(scratch).glob("session_2*/logs/worker-*"):
            if file.stat().st_size:
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, target)
    except OSError as error:
        _log.warning("the logs of the workers are not kept: %s", error)


def fetch_worker_logs(log_dir: str) -> None:
    """Does the same on a cluster that was joined, of the workers of this job on all its machines.

    Of each the end, `LOG_BYTES` at most. Call it before the cluster is left; a machine that does
    not answer within `FETCH_S` is left out.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    try:
        task = ray.remote(num_cpus=0, max_retries=0)(_ends_of_logs)
        job_id = ray.get_runtime_context().get_job_id()
        nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        places = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
        asked = [task.options(scheduling_strategy=place).remote(job_id) for place in places]
        done, _ = ray.wait(asked, num_returns=len(asked), timeout=FETCH_S)
        target = Path(log_dir) / "workers"
        shutil.rmtree(target, ignore_errors=True)
        for ref in done:
            with contextlib.suppress(ray.exceptions.RayError):  # its machine has gone just now
                for name, data in ray.get(ref):
                    target.mkdir(parents=True, exist_ok=True)
                    (target / name).write_bytes(data)
    except (OSError, ray.exceptions.RayError) as error:
        _log.warning("the logs of the workers are not kept: %s", error)


def _ends_of_logs(job_id: str) -> list[tuple[str, bytes]]:
    """Names and ends of what the workers of a job wrote on the machine that this runs on."""
    import ray._private.worker

    found = []
    node: Any = ray._private.worker._global_node
    for file in Path(node.get_logs_dir_path()).glob(f"worker-*-{job_id}-*"):
        with open(file, "rb") as log:
            log.seek(max(0, file.stat().st_size - LOG_BYTES))
            data = log.read()
        if any(not line.startswith(b":") for line in data.splitlines()):  # not Ray's marks alone
            found.append((file.name, data))
    return found


class _LogFile(logging.FileHandler):
    """Stays closed once it is: Python's own opens its file anew for a thread that logs late."""

    is_closed = False

    def emit(self, record: logging.LogRecord) -> None:
        if not self.is_closed:
            super().emit(record)

    def close(self) -> None:
        with self.lock or contextlib.nullcontext():  # `handle` holds it while it emits
            self.is_closed = True
            super().close()


def _handler(log_dir: str) -> logging.Handler:
    if not log_dir:
        return logging.NullHandler()
    Path(log_dir).mkdir(parents=True, exist_ok=True)
    return _LogFile(Path(log_dir) / "ray-data.log", delay=True, encoding="utf-8")


@contextlib.contextmanager
def _logger_as(
    name: str, *, level: str, handlers: list[logging.Handler], propagate: bool
) -> Iterator[None]:
    logger = logging.getLogger(name)
    before = (logger.level, logger.handlers[:], logger.propagate)
    logger.setLevel(level)
    logger.handlers[:] = handlers
    logger.propagate = propagate
    try:
        yield
    finally:
        logger.setLevel(before[0])
        logger.handlers[:] = before[1]
        logger.propagate = before[2]
