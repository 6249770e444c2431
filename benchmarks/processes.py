"""How a benchmark runs one measurement: in a fresh process, whose whole family is watched.

A fresh process keeps one measurement from paying for another: its imports, its heap, its threads.
The family is the process and all below it, here a driver with Ray's daemons and workers.
"""

import contextlib
import dataclasses
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from astroray.execution import workers
from benchmarks.rows import MeasurementError

__all__ = ["Fresh", "Sample", "run_fresh", "watched"]

SAMPLE_EVERY_S = 0.5
END_TIMEOUT_S = 120.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_Key = tuple[int, int]  # process id, start in ticks: an id that is used again is another process
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """What the family had used at one moment."""

    time_s: float
    """Unix time."""
    cpu_s: float
    """User and system time of all members so far, ended ones included as last seen."""
    memory_bytes: int
    """Private memory and each member's share of files, plus what lies in shared memory."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fresh(Generic[Result]):
    """What a fresh process returned (None where it was killed), and how the family fared."""

    result: Result | None
    samples: list[Sample]

    def value(self) -> Result:
        """The result. Raises MeasurementError where the process was killed."""
        if self.result is None:
            raise MeasurementError("the process was killed, expected a result; see standard error")
        return self.result

    def cpu_s(self, begin_s: float, end_s: float) -> float:
        """CPU seconds of the family between two moments in Unix time, from the samples."""
        times = [sample.time_s for sample in self.samples]
        used = np.interp([begin_s, end_s], times, [sample.cpu_s for sample in self.samples])
        return float(used[1] - used[0])

    def peak_bytes(self, begin_s: float, end_s: float) -> int:
        """Largest memory between two moments. Raises MeasurementError without a sample."""
        inside = [s.memory_bytes for s in self.samples if begin_s <= s.time_s <= end_s]
        if not inside:
            raise MeasurementError(
                f"no memory sample within {end_s - begin_s:.1f} s; use more objects"
            )
        return max(inside)


def run_fresh(
    function: Callable[..., Result],
    *arguments: Any,
    environment: Mapping[str, str] | None = None,
    with_memory: bool = False,
    may_be_killed: bool = False,
) -> Fresh[Result]:
    """Calls a module's function in a new interpreter and waits until its whole family has ended.

    environment  variables that the new process starts with beside those of this one

    Raises MeasurementError where the process ends without a result, unless it may be killed.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_call, args=(sender, function, arguments))
    with _environment(environment or {}):
        process.start()
    sender.close()
    assert process.pid is not None
    family = _Family(process.pid, with_memory=with_memory)
    samples = [family.sample()]
    while not receiver.poll(SAMPLE_EVERY_S):
        samples.append(family.sample())
    samples.append(family.sample())
    result: Result | None = None
    with contextlib.suppress(EOFError):
        result = receiver.recv()
    process.join()
    family.wait_for_end()
    if result is None and not (may_be_killed and (process.exitcode or 0) < 0):
        raise MeasurementError(
            f"{function.__name__} ended with exit code {process.exitcode} and no result; its "
            "message is on standard error"
        )
    return Fresh(result=result, samples=samples)


def _call(sender: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    sender.send(function(*arguments))


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class _Family:
    """A process and all below it, those that lost their parent since included."""

    def __init__(self, pid: int, *, with_memory: bool) -> None:
        self.root_pid, self.with_memory = pid, with_memory
        self.cpu_ticks: dict[_Key, int] = {}

    def sample(self) -> Sample:
        members = self._members()
        return Sample(
            time_s=time.time(),
            cpu_s=sum(self.cpu_ticks.values()) / _TICKS_PER_S,
            memory_bytes=_memory_bytes(members) if self.with_memory else 0,
        )

    def wait_for_end(self) -> None:
        """Waits for members that outlive the process. Raises MeasurementError if they stay."""
        deadline = time.monotonic() + END_TIMEOUT_S
        while members := self._members():
            if time.monotonic() > deadline:
                raise MeasurementError(
                    f"processes {members} have not ended in {END_TIMEOUT_S:.0f} s"
                )
            time.sleep(SAMPLE_EVERY_S / 5)

    def _members(self) -> list[int]:
        """Process ids of the living; their CPU time is noted on the way."""
        table = {pid: stat for pid in _pids() if (stat := _read_stat(pid)) is not None}
        members = {pid for pid, stat in table.items() if (pid, stat.start) in self.cpu_ticks}
        members |= {self.root_pid} & table.keys()
        while more := {p for p, s in table.items() if s.parent in members} - members:
            members |= more
        self.cpu_ticks |= {(pid, table[pid].start): table[pid].cpu_ticks for pid in members}
        return sorted(members)


@dataclasses.dataclass(frozen=True)
class _Stat:
    parent: int
    start: int
    cpu_ticks: int


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _read_stat(pid: int) -> _Stat | None:
    """Facts of a living process (see proc(5)); None where it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()  # the name before may hold anything
    if fields[0] in "ZX":
        return None
    return _Stat(int(fields[1]), int(fields[19]), int(fields[11]) + int(fields[12]))


def _memory_bytes(pids: list[int]) -> int:
    """Proportional set sizes without shared memory, plus each shared file once.

    Pages of the object store that no member has mapped at the moment take memory all the same.
    """
    total = 0
    shared: dict[tuple[int, int], int] = {}
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
            sizes_kb = {line.split(":")[0]: int(line.split()[1]) for line in lines}
            total += (sizes_kb["Pss"] - sizes_kb["Pss_Shmem"]) * 1024
            for name in os.listdir(f"/proc/{pid}/fd"):
                link = f"/proc/{pid}/fd/{name}"
                if os.readlink(link).startswith("/dev/shm/"):
                    stat = os.stat(link)
                    shared[stat.st_dev, stat.st_ino] = stat.st_blocks * 512
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
    return total + sum(shared.values())


def watched(work: Callable[[], Result]) -> tuple[Result, dict[str, float]]:
    """Does work in this process: its result, CPU seconds `cpu_s`, peak private `memory_mb`."""
    peak: list[int] = []
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(peak, ended))
    cpu_s = time.process_time()
    watcher.start()
    try:
        found = work()
    finally:
        ended.set()
        watcher.join()
    return found, {"cpu_s": time.process_time() - cpu_s, "memory_mb": max(peak) / 2**20}


def _watch(peak: list[int], ended: threading.Event) -> None:
    """Notes the private memory of this process, bytes, until the end."""
    while True:
        lines = Path("/proc/self/status").read_text("ascii").splitlines()
        peak.append(int(next(x for x in lines if x.startswith("RssAnon")).split()[1]) * 1024)
        if ended.wait(0.05):
            return


def attempt(
    reason: str, threads: int, function: Callable[..., Any], *arguments: Any
) -> Callable[[], Any]:
    """Runs the function once in a fresh process of so many threads, with the workers' settings.

    What it gave, or the MeasurementError, comes at each call; a reason not to run is such an error.
    """
    try:
        if reason:
            raise MeasurementError(reason)
        environment = {**workers.ENVIRONMENT, "OMP_NUM_THREADS": str(threads)}
        result = run_fresh(function, *arguments, environment=environment).value()
    except MeasurementError as error:
        return partial(_fail, str(error))
    return lambda: result


def why_not_native(operation: str, threads: int) -> str:
    """Why native kernels cannot be timed here on so many threads; empty where they can."""
    from astroray_kernels import why_not

    cores = len(os.sched_getaffinity(0))
    if cores < threads:
        return f"this machine has {cores} core, expected {threads}"
    reason = why_not(operation, "native", "cpu")
    return reason and f"native kernels cannot run: {reason}"


def _fail(message: str) -> None:
    raise MeasurementError(message)
