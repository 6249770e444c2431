"""Which files of this machine's disks are meant by a name, a folder or a glob."""

import contextlib
import fnmatch
import glob
import os
import stat
from collections.abc import Iterable, Iterator, Sequence

from astroray.errors import FileError
from astroray.storage.disk_errors import Looking, reading

__all__ = ["find_files", "is_hidden", "is_special", "mode_of", "walk"]


def find_files(location: str) -> Iterator[str]:
    """The file itself, else all below the folder, else what matches the glob, in order of path.

    location  absolute

    Of a million files in many folders only the names of one folder are held. Raises FileError
    where a folder may not be listed, and on a name that is no text.
    """
    paths: Iterable[str]
    if mode := mode_of(location):  # a name with brackets is itself before it is a glob
        paths = _files_below(location) if stat.S_ISDIR(mode) else [location]
    else:
        paths = _matching(os.sep, patterns := location.split(os.sep)[1:])
        if "**" in patterns:  # which finds files above those of folders, and some twice
            paths = sorted(set(paths))
    return map(_utf8, paths)


def mode_of(path: str) -> int:
    """What stands there, as `stat` has it; 0 for nothing."""
    with Looking(path):
        return os.stat(path).st_mode
    return 0


def is_special(mode: int) -> bool:
    """Whether it is a device, a pipe or a socket, which to open may wait for ever."""
    return bool(mode) and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def walk(folder: str) -> Iterator[tuple[str, bool]]:
    """The folder and all below it, in order of path, and whether each is a folder.

    A folder comes before what lies in it, where its name with a slash stands. Linked folders are
    followed once; those whose names begin with a dot or underscore are left out.
    """
    return _walk(folder, set())


def is_hidden(name: str) -> bool:
    """Whether a listing leaves the name out."""
    return name.startswith((".", "_"))


def _walk(folder: str, seen: set[str]) -> Iterator[tuple[str, bool]]:
    if (real := os.path.realpath(folder)) in seen:  # a link to a folder above leads round and round
        return
    seen.add(real)
    yield folder, True
    with reading(folder), os.scandir(folder) as entries:
        names = [f"{entry.name}/" if _is_folder(entry) else entry.name for entry in entries]
    for name in sorted(names):
        path = os.path.join(folder, name.removesuffix("/"))
        if not name.endswith("/"):
            yield path, False
        elif not is_hidden(name):
            yield from _walk(path, seen)


def _files_below(folder: str) -> Iterator[str]:
    for path, is_folder in walk(folder):
        if not is_folder and not is_hidden(os.path.basename(path)):
            yield path


def _is_folder(entry: os.DirEntry[str]) -> bool:
    with contextlib.suppress(OSError):  # a link that leads nowhere, which is named later
        return entry.is_dir()
    return False


def _matching(folder: str, patterns: Sequence[str]) -> Iterator[str]:
    """Files below a folder whose names match, one by one; `**` stands for any number of folders.

    Python's own glob leaves out what it may not list, and follows a circle of links for long.
    """
    pattern, *rest = patterns
    if pattern == "**":
        for path, is_folder in walk(folder):
            if is_folder:
                yield from _matching(path, rest or ["*"])
        return
    names = {pattern}
    if glob.has_magic(pattern):
        with reading(folder):
            names |= set(fnmatch.filter(os.listdir(folder), pattern))
    for name in sorted(names, key=lambda name: f"{name}/" if rest else name):
        path = os.path.join(folder, name)
        if is_hidden(name) and name != pattern:
            continue
        if stat.S_ISDIR(mode := mode_of(path)) and rest:
            yield from _matching(path, rest)
        elif not rest and (stat.S_ISREG(mode) or (not mode and os.path.islink(path))):
            yield path  # a link that leads nowhere is not left out without a word


def _utf8(path: str) -> str:
    """The path; raises FileError where its bytes are no text, which no table can hold."""
    try:
        path.encode()
    except UnicodeEncodeError:
        readable = os.fsencode(path).decode("utf-8", "backslashreplace")
        raise FileError(
            f"the name {readable} is not UTF-8, expected text; rename the file, or name the others "
            "with a glob"
        ) from None
    return path
