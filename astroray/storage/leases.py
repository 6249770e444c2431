"""Who may write to a run directory: one process at a time, and a later one fences off an earlier.

A lease is a file `ledger/leases/<epoch>.json`. The highest epoch holds the run directory; taking
over is writing the next epoch, which `publish_new` lets exactly one process do. So two writers
never agree to both be the holder, whatever their clocks say: a holder that slept too long finds a
higher epoch and stops. Clocks only decide how long the lease of another machine is respected.
"""

import contextlib
import dataclasses
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from astroray import processes, storage
from astroray.errors import AstrorayError, FileError, LedgerError, StorageError
from astroray.moments import in_utc

EXPIRY_S = 60.0
RENEW_S = 15.0
CLOCK_MARGIN_S = 30.0
"""By how much the clocks of two machines may differ before an expired lease is taken too early."""

_MAX_TRIES = 20  # each one that fails means that another process went on
_ours: set[str] = set()
"""Tokens of this process: a lease that it could not give back, as on a full disk, is none."""
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Owner:
    """A process, named so that another one can tell whether it is still alive."""

    host: str
    machine: str
    """Equal for processes that see each other's process ids: this boot, this container."""
    pid: int
    started: str
    """When the process started, see `processes.find_start`; a pid that is used again differs."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Holder:
    """What a lease file says."""

    epoch: int
    """Rises by one with each holder."""
    token: str
    """Unique to one holding: tells a lost reply, or a store that ignores conditions."""
    owner: Owner
    since_s: float
    """Unix time."""
    expires_s: float
    """Unix time; 0 once released."""

    def __str__(self) -> str:
        """Who it is and since when, for a person."""
        return f"{_name(self.owner)} since {in_utc(self.since_s)}"


def _this_process() -> Owner:
    """The calling process."""
    return Owner(
        host=socket.gethostname(),
        machine=_this_machine(),
        pid=os.getpid(),
        started=processes.find_start(os.getpid()) or "",
    )


def _is_alive(owner: Owner) -> bool:
    """Whether a process of this machine still runs, and is not a later one with its id."""
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is there, and another user's
    started = processes.find_start(owner.pid)
    if started is None or not owner.started:  # hidden, now or when the lease was taken
        return True
    return started == owner.started


class Lease:
    """The right to write to a run directory, as long as no later epoch exists."""

    def __init__(self, run_dir: str, holder: Holder, clock: Callable[[], float]) -> None:
        self.epoch = holder.epoch
        self._run_dir = run_dir
        self._holder = holder
        self._clock = clock
        self._lock = threading.RLock()

    def check(self) -> None:
        """Raises LedgerError where another process has taken over; call it before publishing.

        A lease that is old, as after a sleep of the machine, is renewed first.
        """
        if self._clock() > self._holder.expires_s - EXPIRY_S / 2:
            self.renew()
        else:
            self._check_epoch()

    def renew(self) -> None:
        """Puts the expiry off. Raises LedgerError where another process has taken over."""
        self._publish(expires_s=self._clock() + EXPIRY_S)

    def release(self) -> None:
        """Lets the next writer in at once. Raises LedgerError where one has taken over.

        The file stays, marked: the next epoch must be higher than any that a process still knows.
        """
        self._publish(expires_s=0.0)

    def withdraw(self) -> None:
        """Takes the lease away where nothing but it stands in the ledger, and it is the first.

        Then no process knows of an epoch. Raises LedgerError where another one has taken over.
        """
        ledger = storage.join(self._run_dir, "ledger")
        others = [*storage.list_names(ledger), *storage.list_folders(ledger)]
        if self.epoch == 1 and others == ["leases"]:
            self._check_epoch()
            storage.delete(_path(self._run_dir, self.epoch))

    def _publish(self, *, expires_s: float) -> None:
        with self._lock:
            self._check_epoch()
            renewed = dataclasses.replace(self._holder, expires_s=expires_s)
            storage.publish(_path(self._run_dir, self.epoch), _to_bytes(renewed))
            self._holder = renewed

    def _check_epoch(self) -> None:
        epochs = _list_epochs(self._run_dir)
        last = _read(self._run_dir, max(epochs)) if epochs else None
        if last is None or last.token != self._holder.token:
            by = f" by {_name(last.owner)}" if last else " (its lease file is gone)"
            raise LedgerError(
                f"{self._run_dir} was taken over{by} while this process held it; this run stops "
                "and writes no more; wait for the other one, then run the same command again"
            )


@contextlib.contextmanager
def hold_lease(
    run_dir: str,
    *,
    owner: Owner | None = None,
    clock: Callable[[], float] = time.time,
    alive: Callable[[Owner], bool] = _is_alive,
    renew_s: float = RENEW_S,
) -> Iterator[Lease]:
    """The lease of `run_dir`, renewed by a thread until the block ends.

    A block that fails before it has written anything, as on a mistyped survey, leaves no lease
    and no folder behind.

    owner  who holds it; default: this process
    clock  Unix time, s
    alive  whether an owner on this machine still runs

    Raises LedgerError where another process holds it, StorageError where it cannot be written.
    """
    token = uuid.uuid4().hex
    made = _missing_folders(_folder(run_dir))
    _ours.add(token)
    try:
        lease = _acquire(run_dir, owner or _this_process(), clock, alive, token)
        with _undone(lease, made), _kept(lease, renew_s):
            yield lease
    finally:
        _ours.discard(token)


def _missing_folders(folder: str) -> list[str]:
    """The local folders that writing into `folder` will make, the deepest first."""
    missing: list[str] = []
    path = "" if storage.is_remote(folder) else storage.absolute(folder)
    while path and not os.path.lexists(path):
        missing.append(path)
        path = os.path.dirname(path)
    return missing


@contextlib.contextmanager
def _undone(lease: Lease, made: Sequence[str]) -> Iterator[None]:
    """Where the block fails, takes away the lease and the folders made for it, if unused."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(AstrorayError):  # must not hide the error of the block
            lease.withdraw()
        with contextlib.suppress(OSError):  # from the first on that is not empty all stay
            for folder in made:
                os.rmdir(folder)
        raise


@contextlib.contextmanager
def _kept(lease: Lease, renew_s: float) -> Iterator[None]:
    """Renews the lease by a thread until the block ends, then releases it."""
    stop = threading.Event()
    thread = threading.Thread(
        target=_keep_renewing, args=(lease, stop, renew_s), name="lease", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        try:
            lease.release()
        except AstrorayError as error:  # must not hide an error of the block
            _log.warning("the lease is not released and will expire: %s", error)


def find_holder(
    run_dir: str,
    *,
    clock: Callable[[], float] = time.time,
    alive: Callable[[Owner], bool] = _is_alive,
) -> Holder | None:
    """Who writes to `run_dir` now, as far as can be told from here; None where nobody does."""
    last = _find_last(run_dir)
    return last if last and _is_held(last, clock(), alive) else None


def _acquire(
    run_dir: str,
    owner: Owner,
    clock: Callable[[], float],
    alive: Callable[[Owner], bool],
    token: str,
) -> Lease:
    for _ in range(_MAX_TRIES):
        last = _find_last(run_dir)
        if last and _is_held(last, clock(), alive):
            raise LedgerError(_refusal(run_dir, last, owner, clock()))
        now_s = clock()
        mine = Holder(
            epoch=last.epoch + 1 if last else 1,
            token=token,
            owner=owner,
            since_s=now_s,
            expires_s=now_s + EXPIRY_S,
        )
        if not storage.publish_new(_path(run_dir, mine.epoch), _to_bytes(mine)):
            continue
        # A slow process may have just filled the gap that a later holder left by clearing up.
        winner = _find_last(run_dir)
        if winner and winner.token == mine.token:
            _clear_up(run_dir, before=mine.epoch)
            if last and last.expires_s:
                _log.warning("%s: the lease of %s is taken over", run_dir, _name(last.owner))
            return Lease(run_dir, mine, clock)
        if winner and winner.epoch > mine.epoch:
            storage.delete(_path(run_dir, mine.epoch))
    raise LedgerError(f"{_folder(run_dir)} changes all the time; run one astroray there at a time")


def _keep_renewing(lease: Lease, stop: threading.Event, renew_s: float) -> None:
    while not stop.wait(renew_s):
        try:
            lease.renew()
        except LedgerError as error:
            _log.error("%s", error)
            return
        except AstrorayError as error:
            _log.warning("the lease could not be renewed, tried again in %s s: %s", renew_s, error)


def _find_last(run_dir: str) -> Holder | None:
    for _ in range(_MAX_TRIES):
        epochs = _list_epochs(run_dir)
        if not epochs:
            return None
        if last := _read(run_dir, max(epochs)):
            return last
        # it was cleared up between the list and the read, so a later one is there
    raise LedgerError(f"{_folder(run_dir)} changes all the time; run one astroray there at a time")


def _is_held(holder: Holder, now_s: float, alive: Callable[[Owner], bool]) -> bool:
    if holder.expires_s == 0:
        return False
    if holder.owner == _this_process():
        return holder.token in _ours
    if holder.owner.machine == _this_machine():
        return alive(holder.owner)
    return now_s < holder.expires_s + CLOCK_MARGIN_S


def _clear_up(run_dir: str, *, before: int) -> None:
    for epoch in _list_epochs(run_dir):
        if epoch < before:
            storage.delete(_path(run_dir, epoch))


def _refusal(run_dir: str, holder: Holder, owner: Owner, now_s: float) -> str:
    if holder.owner == owner:
        do = "this very process has it; end that run first"
    elif holder.owner.machine == _this_machine():
        do = f"wait until it ends, or stop it with `kill {holder.owner.pid}`"
    else:
        free_s = holder.expires_s + CLOCK_MARGIN_S
        do = f"wait until it ends; if it is dead, {run_dir} is free after {in_utc(free_s)}"
        if free_s - now_s > EXPIRY_S + 2 * CLOCK_MARGIN_S:
            path = _path(run_dir, holder.epoch)
            do += f", or, as one of the two machines has a wrong clock, once you delete {path}"
    return (
        f"{run_dir} is being written by {holder}, expected nobody; {do}, then run the same command "
        "again, or choose another --out"
    )


def _name(owner: Owner) -> str:
    return f"process {owner.pid} on {owner.host}"


def _folder(run_dir: str) -> str:
    """Their own folder, so that a check lists few names, however many shards are done."""
    return storage.join(run_dir, "ledger", "leases")


def _path(run_dir: str, epoch: int) -> str:
    return storage.join(_folder(run_dir), f"{epoch:06d}.json")


def _list_epochs(run_dir: str) -> list[int]:
    stems = [name.removesuffix(".json") for name in storage.list_names(_folder(run_dir))]
    return [int(stem) for stem in stems if stem.isdecimal()]


def _to_bytes(holder: Holder) -> bytes:
    return json.dumps(dataclasses.asdict(holder), indent=1).encode()


def _read(run_dir: str, epoch: int) -> Holder | None:
    """The lease of `epoch`; None where it is gone."""
    path = _path(run_dir, epoch)
    try:
        fields = json.loads(storage.read_bytes(path))
        return Holder(**fields | {"owner": Owner(**fields["owner"])})
    except FileError as error:
        if storage.exists(path):
            raise StorageError(str(error)) from error
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise LedgerError(
            f"{path} is no lease that this version of astroray knows; make sure that no other "
            "process writes there, then delete it"
        ) from error


def _this_machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{socket.gethostname()} {uuid.getnode():x}"
