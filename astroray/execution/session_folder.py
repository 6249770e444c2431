"""The folder of a local Ray's session: one a process, gone with it, and with its processes."""

import contextlib
import fcntl
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

from astroray import processes

__all__ = ["end_processes_of", "parent", "scratch"]

SCRATCH_PREFIX = "astroray-ray-"


def parent() -> str:
    """Where it lies: the paths of Ray's sockets may have 107 characters and no more."""
    return "/tmp" if os.path.isdir("/tmp") else tempfile.gettempdir()


@contextlib.contextmanager
def scratch() -> Iterator[str]:
    """A folder for Ray's session, removed afterwards, as are those that dead processes have left.

    A living process holds a lock on its folder, which the kernel releases when it ends; unlike a
    process id, that means the same in every container that shares the folder above.
    """
    for left in Path(parent()).glob(f"{SCRATCH_PREFIX}*"):
        with contextlib.suppress(OSError), _locked(str(left)):
            shutil.rmtree(left, ignore_errors=True)
    with contextlib.ExitStack() as held:
        folder = _claim_folder(parent(), held)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _claim_folder(above: str, held: contextlib.ExitStack) -> str:
    while True:
        folder = tempfile.mkdtemp(prefix=SCRATCH_PREFIX, dir=above)
        # Before it is locked, one who clears up may take it for left.
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            held.enter_context(_locked(folder))
            if os.path.isdir(folder):
                return folder


@contextlib.contextmanager
def _locked(folder: str) -> Iterator[None]:
    """Holds the lock of a folder. Raises OSError where another process does, or it is no folder."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def end_processes_of(scratch: str) -> None:
    """Ends what a start of Ray that failed has left, which would stay as long as this process."""
    for pid in processes.find_with_argument(scratch):
        with contextlib.suppress(OSError):  # it has ended, or is another person's
            os.kill(pid, signal.SIGKILL)
