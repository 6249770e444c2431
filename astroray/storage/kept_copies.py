"""Copies of remote files that the processes of a machine share, so that each is fetched once.

The tasks of a search ask for the same files again and again. A copy lies in the folder for
temporary files (`TMPDIR`) under a name made of the file's address and version, and is mapped from
there. Copies take at most half of the room that the disk would have without them. The copy that was
used least recently is removed first; a process that has it mapped can go on reading it.
"""

import atexit
import contextlib
import fcntl
import functools
import hashlib
import logging
import mmap
import os
import shutil
import stat
import tempfile
from pathlib import Path

from astroray.errors import FileError
from astroray.storage import TEMPORARY_PLACE, mapped_copy
from astroray.storage.disk_errors import writing
from astroray.storage.meter import METER
from astroray.storage.remote import store

__all__ = ["clear", "find_copy", "kept_copy"]

SHARE = 0.5
"""Of the room that the disk would have without the copies."""
_PART = ".part"
_LOCK = "lock"
_log = logging.getLogger("astroray.storage")


def kept_copy(path: str) -> mmap.mmap | bytes:
    """The bytes of a remote file, mapped from the copy of this machine, which is made if needed.

    Where the disk has no room to keep it, the copy is this process's own. Raises FileError where
    the file is missing, StorageError where the disk is full.
    """
    size_bytes, version = store(path).head(path)
    if not size_bytes:
        return b""
    with writing("a temporary file", place=TEMPORARY_PLACE):
        folder = _folder_in(tempfile.gettempdir())
        copy = folder and _copy_in(folder, path, version)
        while copy:
            if (found := _mapped(copy)) is not None:
                return found
            if not _make_room(copy.parent, size_bytes):
                break
            _fetch(path, copy)
    return mapped_copy(path)


def find_copy(path: str) -> mmap.mmap | None:
    """The copy of a remote file as it is now, where this machine has it."""
    folder = _folder_in(tempfile.gettempdir())
    if folder is None or len(os.listdir(folder)) < 2:
        return None
    try:
        version = store(path).head(path)[1]
    except FileError:
        return None
    return _mapped(_copy_in(folder, path, version))


def clear() -> None:
    """Removes the copies of this machine; they are fetched anew when they are asked for."""
    if folder := _folder_in(tempfile.gettempdir()):
        _remove_all(folder)


def _copy_in(folder: Path, path: str, version: str) -> Path:
    return folder / hashlib.sha256(f"{path}\n{version}".encode()).hexdigest()[:40]


def _mapped(copy: Path) -> mmap.mmap | None:
    with contextlib.suppress(FileNotFoundError), open(copy, "rb") as file:
        os.utime(copy)
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return None


def _fetch(path: str, copy: Path) -> None:
    """Makes the copy; does nothing where another process did so meanwhile."""
    part = copy.with_suffix(_PART)
    with open(part, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if copy.exists():  # it was fetched while we waited
            part.unlink(missing_ok=True)
            return
        if not os.fstat(file.fileno()).st_nlink:  # and is gone again
            return
        file.truncate(0)  # what a process has left that was killed
        store(path).get_file(path, file)
        file.flush()
        METER.add(file.tell())
        with contextlib.suppress(FileNotFoundError):  # somebody has cleared up
            os.replace(part, copy)


def _make_room(folder: Path, size_bytes: int) -> bool:
    """Whether a copy of so many bytes may be kept, once the oldest ones are removed."""
    held: list[tuple[float, int, str]] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                facts = entry.stat()
                held.append((facts.st_mtime, facts.st_size, entry.path))
    num_bytes = sum(size for _, size, _ in held)
    room = SHARE * (num_bytes + shutil.disk_usage(folder).free)
    for _, size, path in sorted(held):
        if num_bytes + size_bytes <= room:
            break
        if not path.endswith((_PART, f"/{_LOCK}")):
            Path(path).unlink(missing_ok=True)
            num_bytes -= size
    return num_bytes + size_bytes <= room


@functools.cache
def _folder_in(parent: str) -> Path | None:
    """The folder of this user's copies; None where somebody else made what has its name.

    Whoever uses it holds a lock until the process ends. Where nobody else does, it is empty.
    """
    folder = Path(parent) / f"astroray-copies-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid() or facts.st_mode & 0o077:
        _log.warning("%s is not a folder of this user alone: copies are not shared", folder)
        return None
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)  # never closed
    _remove_if_last(folder, lock)
    fcntl.flock(lock, fcntl.LOCK_SH)
    atexit.register(_remove_if_last, folder, lock)
    return folder


def _remove_if_last(folder: Path, lock: int) -> None:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove_all(folder)


def _remove_all(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        for path in folder.iterdir():
            if path.name != _LOCK:
                path.unlink(missing_ok=True)
