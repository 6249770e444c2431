"""Local paths, S3 and web servers behind one face: list, read, publish whole or absent.

A path is a string: local, `s3://bucket/key`, or `https://server/path`, which is only read. A
published file is there whole or not at all: on a disk it is written under a temporary name, synced
and renamed; on an object store it is put in one request. An input file's own trouble (missing,
forbidden) is a FileError, which rejects it; trouble of the store (full, read-only, down after the
retries) is a StorageError, which stops.
"""

import contextlib
import errno
import functools
import hashlib
import io
import mmap
import os
import re
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, TypeVar

from astroray import faults
from astroray.errors import FileError, StorageError
from astroray.storage.ahead import fetch
from astroray.storage.disk_errors import NO_FOLDER_SYNC, Looking, reading, writing
from astroray.storage.disk_listing import find_files, is_hidden, is_special, mode_of, walk
from astroray.storage.input_files import FileList as FileList
from astroray.storage.input_files import InputFile as InputFile
from astroray.storage.meter import METER
from astroray.storage.remote import is_remote as is_remote
from astroray.storage.remote import is_web as is_web
from astroray.storage.remote import is_whole as is_whole
from astroray.storage.remote import store

TEMPORARY_PREFIX = ".tmp-"
_TEMPORARY = re.compile(rf"{re.escape(TEMPORARY_PREFIX)}[0-9a-f]{{32}}")
TEMPORARY_PLACE = "TMPDIR"
LONGEST_NAME = 60
"""Characters in the name of a local copy, the last ones of the key: a key may have more than a
file name."""
_One = TypeVar("_One")
_Made = TypeVar("_Made")
_FILES_AT_ONCE, _NUM_REQUESTS = 4096, 16
"""Small files that are read together from an object store, and requests at a time."""


def join(folder: str, *names: str) -> str:
    """`folder` and `names` as one path."""
    return "/".join([folder.rstrip("/"), *names])


def absolute(path: str) -> str:
    """`path` wherever it is asked for: local ones from the root, `~` being the user's folder.

    Ray's workers may have another working directory than the process that tells them a path.
    """
    return path if is_remote(path) else os.path.abspath(os.path.expanduser(path))


def resolve(path: str) -> str:
    """`path` by the one name that it has however it is reached: absolute, and no link in it."""
    return path.rstrip("/") if is_remote(path) else os.path.realpath(absolute(path))


def stem(path: str) -> str:
    """File name without folder and without the suffixes of data files (`a.b.fits.gz` -> `a.b`)."""
    name = path.rstrip("/").rpartition("/")[2]
    for packed in (".gz", ".fz", ".bz2"):
        name = name.removesuffix(packed)
    return os.path.splitext(name)[0]


def list_files(location: str) -> FileList:
    """All files of a folder (with its sub-folders), of a glob, or one file, sorted by path.

    Names of files and folders that begin with a dot or underscore are left out. Local paths come
    back absolute, linked folders are followed. Empty where nothing is; FileError on a link that
    leads nowhere, StorageError where the disk does not say.
    """
    if is_remote(location):
        found = store(location).list_objects(location)
        return FileList.by_path(
            InputFile(path=path, size_bytes=size, version=etag) for path, size, etag in found
        )
    files = map(_describe_found, find_files(absolute(location)))
    return FileList.by_path(file for file in files if file)


def _describe_found(path: str) -> InputFile | None:
    """A local file that a listing found; None where it has gone since, or is a pipe or socket."""
    try:
        return describe(path)
    except FileError:
        if is_special(mode_of(path)):
            return None
        if os.path.islink(path):
            advice = "restore what it leads to, or remove the link"
            raise FileError(f"{path} is a link that leads nowhere; {advice}") from None
        if os.path.lexists(path):
            raise
        return None


def describe(path: str) -> InputFile:
    """Size and version of one file as it is now. Raises FileError where it is missing."""
    if is_remote(path):
        size_bytes, version = store(path).head(path)
        return InputFile(path=path, size_bytes=size_bytes, version=version)
    with reading(path):
        found = os.stat(path)
    if is_special(found.st_mode):
        raise FileError(f"{path} is a device, a pipe or a socket, expected a file; name another")
    return _described(path, found)


def describe_each(paths: Iterable[str]) -> list[InputFile]:
    """Size and version of each file as it is now; several requests at a time."""
    return at_once(describe, paths)


def at_once(function: Callable[[_One], _Made], items: Iterable[_One]) -> list[_Made]:
    """What `function` makes of each item, in their order, several of them at a time.

    For files: an object store answers one request in tens of ms, and many of them in as much. The
    first error is raised, and what was not begun then is not done.
    """
    with ThreadPoolExecutor(_NUM_REQUESTS, thread_name_prefix="files") as pool:
        return list(pool.map(function, items))


def read_bytes(path: str) -> bytes:
    """The whole file. Raises FileError where it is missing or may not be read."""
    if is_remote(path):
        whole = io.BytesIO()
        fetch(path, whole)
        data = whole.getvalue()
    else:
        with reading(path):
            data = Path(path).read_bytes()
    METER.add(len(data))
    return data


def read_each(paths: Sequence[str]) -> Iterator[bytes | None]:
    """The files of one store, one after the other; None where one is gone.

    Several requests at a time are made to an object store. Raises FileError where one may not be
    read.
    """
    for start in range(0, len(paths), _FILES_AT_ONCE):
        some = paths[start : start + _FILES_AT_ONCE]
        if not is_remote(some[0]):
            yield from map(_read_if_there, some)
            continue
        with ThreadPoolExecutor(_NUM_REQUESTS, thread_name_prefix="read") as pool:
            yield from pool.map(_read_if_there, some)


def _read_if_there(path: str) -> bytes | None:
    try:
        return read_bytes(path)
    except FileError:
        if exists(path):
            raise
        return None


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[Path]:
    """A path on this machine's disk with the file's bytes: itself, or a copy that is deleted."""
    if is_remote(path):
        with scratch_folder() as folder:
            copy = folder / path.rpartition("/")[2][-LONGEST_NAME:]
            with writing(str(copy), place=TEMPORARY_PLACE), open(copy, "wb") as file:
                fetch(path, file)
                METER.add(file.tell())
            yield copy
        return
    METER.add(describe(path).size_bytes)
    with reading(path), open(path, "rb"):
        pass  # a reader that maps the file would report a missing permission in its own words
    yield Path(path)


def mapped_copy(path: str) -> mmap.mmap | bytes:
    """The bytes of a remote file, not held in memory: those of a copy on disk that goes with them.

    Raises FileError where it is missing, StorageError where the disk for temporary files is full.
    """
    with (
        writing("a temporary file", place=TEMPORARY_PLACE),
        tempfile.TemporaryFile() as file,  # has no name, so that nobody needs to delete it
    ):
        store(path).get_file(path, file)
        file.flush()
        METER.add(file.tell())
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if file.tell() else b""


def checksum(path: str) -> str:
    """sha256 of a file, read in pieces. Raises FileError where it is missing."""
    with local_copy(path) as copy, reading(path), open(copy, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder on this machine's disk for what memory does not hold; it is deleted at the end."""
    with contextlib.ExitStack() as stack:
        with writing("a temporary folder", place=TEMPORARY_PLACE):
            made = tempfile.TemporaryDirectory(prefix="astroray-", ignore_cleanup_errors=True)
            folder = stack.enter_context(made)
        yield Path(folder)


def exists(path: str) -> bool:
    """Whether a file stands there. Raises StorageError where the disk or the store does not say."""
    return store(path).exists(path) if is_remote(path) else stat.S_ISREG(mode_of(path))


def list_names(folder: str) -> list[str]:
    """Names of the files directly in `folder`, sorted; empty where there is no such folder."""
    if is_remote(folder):
        return store(folder).list_names(folder)
    names: list[str] = []
    with Looking(folder), os.scandir(folder) as entries:
        names += (entry.name for entry in entries if entry.is_file())
    return sorted(name for name in names if not name.startswith(TEMPORARY_PREFIX))


def list_versions(folder: str) -> list[InputFile]:
    """The files directly in `folder` with their sizes and versions, sorted by path.

    Paths begin with `folder` as it is given; empty where there is no such folder.
    """
    if is_remote(folder):
        found = store(folder).list_direct(folder)
        return [InputFile(path=p, size_bytes=size, version=etag) for p, size, etag in found]
    files: list[InputFile] = []
    with Looking(folder), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_file() and not entry.name.startswith(TEMPORARY_PREFIX):
                with contextlib.suppress(FileNotFoundError):  # it is gone since it was listed
                    files.append(_described(join(folder, entry.name), entry.stat()))
    return sorted(files, key=lambda file: file.path)


def _described(path: str, facts: os.stat_result) -> InputFile:
    return InputFile(path=path, size_bytes=facts.st_size, version=str(facts.st_mtime_ns))


def list_folders(folder: str) -> list[str]:
    """Names of the folders directly in `folder`, sorted; empty where there is no such folder.

    Names that begin with a dot or underscore are left out.
    """
    names: list[str] = []
    if is_remote(folder):
        names = store(folder).list_folders(folder)
    else:
        with Looking(folder), os.scandir(folder) as entries:
            names += (entry.name for entry in entries if entry.is_dir())
    return sorted(name for name in names if not is_hidden(name))


def publish(path: str, data: bytes, *, is_secret: bool = False) -> None:
    """Writes `data` under `path`, whole or absent; an older file is replaced.

    On a disk the umask says who may read it; a secret is its owner's alone at any time. Raises
    StorageError where the disk is full or read-only, or the store refuses.
    """
    if is_remote(path):
        store(path).put(path, data)
        return
    with publishing(path, is_secret=is_secret) as file:
        file.write(data)


@contextlib.contextmanager
def publishing(path: str, *, is_secret: bool = False) -> Iterator[BinaryIO]:
    """A file to write to, which stands under `path`, whole, once the block has ended well.

    For what is written in pieces; an older file is replaced. Raises as `publish` does.
    """
    if is_remote(path):
        with writing("a temporary file", place=TEMPORARY_PLACE), tempfile.TemporaryFile() as copy:
            yield copy
            store(path).put_file(path, copy)
        return
    with _temporary_file(path, mode=0o600 if is_secret else 0o666) as (file, temporary):
        yield file
        _sync(file)
        faults.reach("publish.written", path)
        os.replace(temporary, path)
    faults.reach("publish.renamed", path)
    _sync_folder(os.path.dirname(path))


def publish_new(path: str, data: bytes) -> bool:
    """Writes `data` only where nothing stands; False where a file already does."""
    if is_remote(path):
        return store(path).put_new(path, data)
    try:
        with _temporary_file(path, mode=0o666) as (file, temporary):
            file.write(data)
            _sync(file)
            _link(temporary, path)
    except FileExistsError:
        return False
    _sync_folder(os.path.dirname(path))
    return True


def delete(path: str) -> None:
    """Removes a file, before anything that is written later; none there is no error."""
    if is_remote(path):
        store(path).delete(path)
        return
    with writing(path), contextlib.suppress(FileNotFoundError):
        os.unlink(path)
        _sync_folder(os.path.dirname(path))


def remove_temporaries(folder: str) -> None:
    """Removes the unfinished files that killed writers have left below `folder`.

    Only the one writer of `folder` may call it: it cannot tell files that are being written.
    Linked folders are followed, as where embeddings lie on another disk.
    """
    if not is_remote(folder):
        for path, is_folder in walk(folder):
            if not is_folder and _TEMPORARY.fullmatch(os.path.basename(path)):
                delete(path)


@contextlib.contextmanager
def _temporary_file(path: str, *, mode: int) -> Iterator[tuple[BinaryIO, str]]:
    """An open file in the folder of `path`, and its path; removed if it is still there after.

    mode  permissions of the file, less the umask; the kernel takes that off when it makes the
          file, and minds the access rules of a folder that a group shares
    """
    folder = os.path.dirname(os.path.abspath(path))
    temporary = os.path.join(folder, f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}")
    if is_special(mode_of(path)):
        raise StorageError(f"cannot write {path}: it is a device or a pipe; choose another --out")
    with writing(path):
        _make_folder(folder)
        try:
            with open(temporary, "xb", opener=functools.partial(os.open, mode=mode)) as file:
                yield file, temporary
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _make_folder(folder: str) -> None:
    try:
        os.makedirs(folder, exist_ok=True)
    except FileExistsError:  # which would look as if the file to be written were there
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), folder) from None


def _link(file: str, path: str) -> None:
    """Gives a file of our own a second name; unlike a rename, a link never replaces one."""
    try:
        os.link(file, path)
    except FileExistsError:
        if os.stat(file).st_nlink < 2:  # else NFS did it, lost its answer and was asked again
            raise
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOSYS):  # how FAT and FUSE say it
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), path) from error
        raise


def _sync_folder(folder: str) -> None:
    with writing(folder):
        handle = os.open(folder or ".", os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in NO_FOLDER_SYNC:
                raise
        finally:
            os.close(handle)
