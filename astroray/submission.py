"""A job on a running cluster: its submission id, its package, its log, its end.

A submission id is made of job, survey, night and attempt, `scan-images-1f3a9c02-2026-11-28-a1`.
Ray takes an id once, so a night is not started twice; the attempt rises only when the last one
failed or was stopped. Ids belong to one cluster: the lease of the run directory is what keeps two
writers of different clusters apart.
"""

import asyncio
import contextlib
import dataclasses
import hashlib
import logging
import math
import os
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from astroray import storage
from astroray.errors import AstrorayError, BackendError, ConfigError
from astroray.inspection import read_status
from astroray.job_status import JobStatus
from astroray.moments import in_utc

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

__all__ = ["Job", "JobServer", "Submitted"]

MAX_PACKAGE_BYTES = 2**20
STOP_TIMEOUT_S = 60.0
LOST_TIMEOUT_S = 120.0
"""A cluster that is followed may be out of reach for so long."""
POLL_S = 0.5
NOISY = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What is submitted."""

    script: Path
    """A file of jobs/."""
    arguments: tuple[str, ...]
    survey: str
    out: str
    night: str
    """The night, or any other word that tells two submissions of one survey apart."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]+", self.night):
            raise ConfigError(
                f"night is {self.night!r}, expected letters, digits, dots and dashes, such as "
                "2026-11-28"
            )

    @property
    def key(self) -> str:
        """The submission id without its attempt; a glob is called by the folder that it is in."""
        parts = reversed(self.survey.partition("?")[0].split("/"))
        words = (re.sub(r"[^\w]+", "-", storage.stem(part)).strip("-") for part in parts)
        word = next(filter(None, words), "")
        digest = hashlib.sha256(self.survey.encode()).hexdigest()[:8]
        return "-".join(filter(None, [self.script.stem, word[:40], digest, self.night]))

    @property
    def entrypoint(self) -> str:
        """The command, in a working directory that holds the job's folder."""
        return shlex.join(
            ["python", f"{_folder_of(self.script)}/{self.script.name}", *self.arguments]
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Submitted:
    """Where a job stands after it was asked for."""

    submission_id: str
    status: str
    """Ray's word: PENDING, RUNNING, STOPPED, SUCCEEDED, FAILED."""
    is_new: bool
    """False where it runs already or has succeeded."""


class JobServer:
    """The job server of a running cluster.

    address  e.g. http://head:8265; None: RAY_API_SERVER_ADDRESS, RAY_ADDRESS, or this machine

    Raises BackendError where none answers or the token is refused.
    """

    def __init__(self, address: str | None = None) -> None:
        self._address = _find_address(address)
        with _plain_errors(self._address):
            from ray.job_submission import JobSubmissionClient

            for name in NOISY:  # they set their own level when they are imported
                logging.getLogger(name).setLevel(logging.WARNING)
            with _environment(RAY_API_SERVER_ADDRESS=self._address):  # which Ray prefers
                self._client = JobSubmissionClient()

    def submit(self, job: Job, *, driver_cpus: float = 0.0) -> Submitted:
        """Starts the job unless it runs or has succeeded; the attempt counts failed ones.

        driver_cpus  CPUs of a worker node that the job's own process takes; 0: it runs on the head

        Raises ConfigError where the same night was asked for with other arguments, or the
        package is too large.
        """
        with _package(job.script) as folder:
            while True:
                attempt, last = self._last_attempt(job.key)
                if last is not None and last.status.value not in ("FAILED", "STOPPED"):
                    _check_same(job, last)
                    return _submitted(last, is_new=False)
                submission_id = f"{job.key}-a{attempt + 1}"
                with contextlib.suppress(_IdTakenError), _plain_errors(self._address):
                    self._client.submit_job(
                        entrypoint=job.entrypoint,
                        submission_id=submission_id,
                        runtime_env={"working_dir": str(folder)},
                        metadata=_metadata(job, attempt + 1),
                        entrypoint_num_cpus=driver_cpus or None,
                    )
                    return Submitted(submission_id=submission_id, status="PENDING", is_new=True)
                # somebody else was faster by a moment: look again what became of it

    def follow(self, submission_id: str, write: Callable[[str], None]) -> int:
        """Hands the job's log to `write` until the job ends; returns its exit code.

        A lost connection is taken up again where it broke; raises BackendError where the cluster
        does not answer for two minutes.
        """
        num_seen, lost_s, pause_s = 0, math.inf, 0.0
        while True:
            try:  # first, since Ray hands out the log of an ended job a few lines a second
                if (details := self._details(submission_id)).status.is_terminal():
                    write(self._logs(submission_id)[num_seen:])
                    return _exit_code(details)
                lost_s = math.inf
            except BackendError:
                lost_s = min(lost_s, time.monotonic())
                if time.monotonic() - lost_s > LOST_TIMEOUT_S:
                    raise
            time.sleep(pause_s)
            pause_s = POLL_S
            with contextlib.suppress(BackendError):
                for text in self._tail(submission_id, skip=num_seen):
                    num_seen += len(text)
                    write(text)

    def cancel(self, submission_id: str) -> str:
        """Stops a job and waits until it is; returns its status, which says if it was too late.

        The job's lease is released on its way out, so that the next attempt may begin at once.
        """
        with _plain_errors(self._address):
            self._client.stop_job(submission_id)
        until_s = time.monotonic() + STOP_TIMEOUT_S
        while not (details := self._details(submission_id)).status.is_terminal():
            if time.monotonic() > until_s:
                raise BackendError(
                    f"{submission_id} is {details.status.value}, expected STOPPED after "
                    f"{STOP_TIMEOUT_S:.0f} s; look at the cluster's dashboard"
                )
            time.sleep(POLL_S)
        return str(details.status.value)

    def describe(self, submission_id: str) -> JobStatus:
        """Where a job stands, and its run as far as it can be seen from here."""
        details = self._details(submission_id)
        about = dict(details.metadata or {})
        message = (details.message or "").strip() if details.status.value == "FAILED" else ""
        run = None
        with contextlib.suppress(AstrorayError):  # no run yet, or no rights to its bucket
            run = read_status(about["out"]) if "out" in about else None
        return JobStatus(
            submission_id=submission_id,
            status=details.status.value,
            about=about,
            started=in_utc(details.start_time / 1e3) if details.start_time else "",
            ended=in_utc(details.end_time / 1e3) if details.end_time else "",
            exit_code=_exit_code(details) if details.status.is_terminal() else None,
            last_words=message.rpartition("\n")[2],
            run=run,
            unseen=_unseen(about.get("out", "")),
        )

    def _last_attempt(self, key: str) -> "tuple[int, JobDetails | None]":
        """Number and details of the last attempt; 0 and None where there was none."""
        with _plain_errors(self._address):
            jobs = self._client.list_jobs()
        attempts = {
            int(match[1]): job
            for job in jobs
            if (match := re.fullmatch(re.escape(key) + r"-a(\d+)", job.submission_id or ""))
        }
        last = max(attempts, default=0)
        return last, attempts.get(last)

    def _details(self, submission_id: str) -> "JobDetails":
        with _plain_errors(self._address):
            return self._client.get_job_info(submission_id)

    def _logs(self, submission_id: str) -> str:
        with _plain_errors(self._address):
            return self._client.get_job_logs(submission_id)

    def _tail(self, submission_id: str, *, skip: int) -> Iterator[str]:
        """The pieces of a log as they come, without its first `skip` characters."""
        import aiohttp

        loop = asyncio.new_event_loop()
        pieces = self._client.tail_job_logs(submission_id)
        try:
            with _plain_errors(self._address):
                while True:
                    piece = _next_of(pieces, loop)
                    if piece is None:
                        return
                    yield piece[skip:]
                    skip = max(0, skip - len(piece))
        except aiohttp.ClientError as error:
            raise BackendError(f"the log of {submission_id} breaks off: {error}") from None
        finally:
            loop.run_until_complete(pieces.aclose())  # type: ignore[attr-defined]
            loop.close()


def _next_of(pieces: AsyncIterator[str], loop: asyncio.AbstractEventLoop) -> str | None:
    """The next piece, None where there is none; what interrupts the wait ends `pieces`."""

    async def next_piece() -> str | None:
        return await anext(pieces, None)

    task = loop.create_task(next_piece())
    try:
        return loop.run_until_complete(task)
    finally:
        if not task.done():  # Ctrl-C comes out of the loop and leaves the task waiting
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                loop.run_until_complete(task)


class _IdTakenError(AstrorayError):
    """Ray has a job of that submission id."""


def _submitted(details: "JobDetails", *, is_new: bool) -> Submitted:
    return Submitted(
        submission_id=details.submission_id or "", status=details.status.value, is_new=is_new
    )


def _check_same(job: Job, last: "JobDetails") -> None:
    if last.entrypoint != job.entrypoint:
        raise ConfigError(
            f"{last.submission_id} is {last.status.value} with other arguments: "
            f"`{last.entrypoint}`, expected `{job.entrypoint}`; give another --night to run both"
        )


def _metadata(job: Job, attempt: int) -> dict[str, str]:
    """What the cluster's dashboard and `astroray status` say of a job."""
    return {"survey": job.survey, "out": job.out, "night": job.night, "attempt": str(attempt)}


def _exit_code(details: "JobDetails") -> int:
    """The job's exit code as a shell has it: 128 and the signal where one killed it."""
    if details.status.value == "SUCCEEDED":
        return 0
    code = details.driver_exit_code or 1
    return code if code > 0 else 128 - code


def _unseen(out: str) -> str:
    """Why an output cannot be looked at from here; empty where it can.

    A job that ends before its run begins leaves none anywhere.
    """
    if not out or storage.is_remote(out) or Path(out).exists():
        return ""
    return f"{out} is not on this machine; if it is on the cluster's, ask `astroray status` there"


@contextlib.contextmanager
def _package(script: Path) -> Iterator[Path]:
    """A folder that holds the code of the script's folder, as the cluster gets it.

    Nothing else travels: tables, weights and tokens lie beside scripts too. They have addresses.
    """
    if not script.is_file():
        raise ConfigError(f"no {script} in this folder; run it in the root of a checkout")
    sizes = {path: path.stat().st_size for path in sorted(script.parent.glob("*.py"))}
    if sum(sizes.values()) > MAX_PACKAGE_BYTES:
        largest = max(sizes, key=lambda path: sizes[path])
        raise ConfigError(
            f"the job's folder {script.parent} has {sum(sizes.values())} bytes of Python, expected "
            f"at most {MAX_PACKAGE_BYTES}; the largest is {largest.name}; put data on S3 and name "
            "its address"
        )
    with tempfile.TemporaryDirectory(prefix="astroray-package-") as scratch:
        target = Path(scratch, _folder_of(script))
        target.mkdir()
        for path in sizes:
            shutil.copy(path, target)
        yield Path(scratch)


def _folder_of(script: Path) -> str:
    """The folder of a script as it is called on the cluster; the script may be named alone."""
    return script.parent.resolve().name


def _find_address(address: str | None) -> str:
    """The address that was given, else that of the environment, else this machine's."""
    named = (os.environ.get(name, "") for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"))
    known = (one for one in named if one.startswith("http"))
    return address or next(known, "http://127.0.0.1:8265")


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


@contextlib.contextmanager
def _plain_errors(address: str) -> Iterator[None]:
    """Says in words what keeps the cluster from answering."""
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise BackendError(
            f"{address} refuses the token: {_first_line(error)}; set RAY_AUTH_MODE="
            "token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's"
        ) from None
    except OSError as error:  # ConnectionError is one
        raise BackendError(
            f"no Ray cluster answers at {address}: {_first_line(error)}; start one "
            "as docs/cluster.md says, or give its address with --address"
        ) from None
    except RuntimeError as error:
        text = re.sub(r"^Request failed with status code \d+: ", "", _first_line(error))
        if "already exists" in str(error):
            raise _IdTakenError(text) from None
        if "ray[default]" in text:
            raise BackendError(f"{text}; pip install 'astroray[cluster]'") from None
        if "No available agent" in text:
            raise BackendError(
                f"no agent of the cluster at {address} takes jobs yet; try again in a minute. "
                "Where another Ray runs on its head node, the usual port is taken: `ray stop`, "
                "then `ray start` with --dashboard-agent-listen-port 52366"
            ) from None
        raise BackendError(f"the cluster refuses: {text}") from None


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")
