"""What a disk's refusals mean: nothing there, the file's own trouble, or trouble of the disk."""

import contextlib
import errno
from collections.abc import Iterator

from astroray.errors import FileError, StorageError

__all__ = ["NO_FOLDER_SYNC", "Looking", "reading", "writing"]

_NOTHING_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
NO_FOLDER_SYNC = (errno.EINVAL, errno.EPERM, errno.EBADF, errno.ENOSYS, errno.EOPNOTSUPP)
"""How SMB and other network file systems say that a folder is not for them to sync."""
_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again to resume",
    errno.EDQUOT: "the quota is used up; free some space and run the same command again to resume",
    errno.EROFS: "the file system is read-only; choose another {place}",
    errno.EACCES: "permission denied; choose a {place} that you may write to",
    errno.EPERM: "operation not permitted; choose a {place} that you may write to",
    errno.ENOTDIR: "a part of the path is a file, expected a folder; choose another {place}",
    errno.EISDIR: "a folder has that name; choose another {place}",
    errno.EOPNOTSUPP: "the file system has no hard links; choose another {place}",
    errno.EIO: "the disk reports an error; check it, then run the same command again to resume",
}


class Looking:
    """Ends the block where nothing stands at `path`; what a disk cannot tell is not nothing.

    No generator: where nothing stands is no error, and what Python 3.12 throws into a generator
    keeps the frames of all callers, with all that they hold, until the collector comes.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        if not isinstance(error, OSError):
            return False
        if error.errno in _NOTHING_THERE:
            return True
        raise StorageError(
            f"cannot look for {self.path}: {error.strerror}; check the disk and who may read it, "
            "then run the same command again to resume"
        ) from error


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
    """Where the file in the block is missing or cannot be read, raises FileError of `path`."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise FileError(f"{path} is missing; check the path, or restore the file") from None
    except OSError as error:
        where = error.filename or path
        raise FileError(f"{where} cannot be read: {error.strerror}; check it") from error


@contextlib.contextmanager
def writing(path: str, *, place: str = "--out") -> Iterator[None]:
    """Where a disk refuses what is written in the block, raises StorageError of `path`.

    place  by what the user says where it lies
    """
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        advice = _ADVICE.get(
            error.errno or 0, f"{error.strerror or error}; choose another {{place}}"
        )
        raise StorageError(f"cannot write {path}: {advice.format(place=place)}") from error
