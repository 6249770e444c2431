"""Where Ray's own messages go: to files in the log folder of a run, or nowhere."""

import contextlib
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["keep_worker_logs", "noise_to", "ray_data_to"]

RAY_DATA_SETTING = "RAY_DATA_LOGGING_CONFIG"
RAY_DATA_CONFIG = Path(__file__).with_name("ray_data_logging.yaml")


@contextlib.contextmanager
def noise_to(log_dir: str) -> Iterator[None]:
    """What Ray's native code writes to standard error goes to `ray.log`; ours still appears."""
    if not log_dir:
        yield
        return
    ours, noise = sys.stderr, os.dup(2)
    try:
        with open(Path(log_dir) / "ray.log", "ab") as log:
            os.dup2(log.fileno(), 2)
        sys.stderr = open(os.dup(noise), "w", buffering=1, encoding="utf-8", errors="replace")  # noqa: SIM115
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.stderr.close()
        sys.stderr = ours
        os.dup2(noise, 2)
        os.close(noise)


@contextlib.contextmanager
def ray_data_to(log_dir: str) -> Iterator[None]:
    """What Ray Data says goes to `ray-data.log` in `log_dir` ("": nowhere); then all is as before.

    Enter it before Ray starts, since the workers of a local cluster inherit the setting. Ray Data
    2.60 is neither silenced by its loggers' levels nor kept from a file for every data set; a
    configuration without loggers does both, and leaves the logger to us.
    """
    before = os.environ.get(RAY_DATA_SETTING)
    os.environ[RAY_DATA_SETTING] = str(RAY_DATA_CONFIG)
    import ray.data  # noqa: F401  (configures its loggers, by the setting, when it is imported)

    handler = _handler(log_dir)
    level = os.environ.get("RAY_DATA_LOG_LEVEL") or "INFO"  # Ray's own switch still holds
    try:
        with (
            _logger_as("ray.data", level=level, handlers=[handler], propagate=False),
            # Tells of the registration of each data set, and for that alone opens its file.
            _logger_as("ray.data._internal.logging", level="WARNING", handlers=[], propagate=True),
        ):
            yield
    finally:
        handler.close()
        if before is None:
            del os.environ[RAY_DATA_SETTING]
        else:
            os.environ[RAY_DATA_SETTING] = before


def keep_worker_logs(scratch: str, log_dir: str) -> None:
    """Copies what the workers wrote to `log_dir`/workers, so that a dead one can be asked why."""
    target = Path(log_dir) / "workers"
    shutil.rmtree(target, ignore_errors=True)
    for file in Path(scratch).glob("session_2*/logs/worker-*"):
        if file.stat().st_size:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)


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
