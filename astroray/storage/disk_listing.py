"""Which files of this machine's disks are meant by a name, a folder or a glob."""

import contextlib
import fnmatch
import glob
import os
import stat
from collections.abc import Iterable, Iterator, Sequence

from astroray.errors import FileError
from astroray.storage.disk_errors import looking, reading

__all__ = ["find_files", "is_hidden", "is_special", "mode_of", "walk"]


def find_files(location: str) -> Iterator[str]:
    """The file itself, else all below the folder, else what matches the glob, in order of path.

    location  absolute

    Of a million files in many folders only the names of one folder are held. Raises FileError
    where a folder may not be listed, and on a name that is no text.
    """
    paths: Iterable[str]
    if mode := mode_of(location):  # a name with brackets is itself before it is a glob
        paths = _all_below(location, set()) if stat.S_ISDIR(mode) else [location]
    else:
        paths = _matching(os.sep, patterns := location.split(os.sep)[1:])
        if "**" in patterns:  # which finds files above those of folders, and some twice
            paths = sorted(set(paths))
    return map(_utf8, paths)


def mode_of(path: str) -> int:
    """What stands there, as `stat` has it; 0 for nothing."""
    with looking(path):
        return os.stat(path).st_mode
    return 0


def is_special(mode: int) -> bool:
    """Whether it is a device, a pipe or a socket, which to open may wait for ever."""
    return bool(mode) and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def walk(folder: str) -> Iterator[tuple[str, list[str]]]:
    """A folder and those below it, linked ones once, and the names in each of what is no folder.

    Folders whose names begin with a dot or underscore are left out.
    """
    seen = set()  # a link to a folder above would lead round and round
    with reading(folder):
        for parent, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
            folders[:] = sorted(name for name in folders if not is_hidden(name))
            if (real := os.path.realpath(parent)) in seen:
                folders.clear()
                continue
            seen.add(real)
            yield parent, names


def is_hidden(name: str) -> bool:
    """Whether a listing leaves the name out."""
    return name.startswith((".", "_"))


def _all_below(folder: str, seen: set[str]) -> Iterator[str]:
    """The files, in order of path: a folder stands where its name with a slash does."""
    if (real := os.path.realpath(folder)) in seen:  # a link to a folder above
        return
    seen.add(real)
    with reading(folder), os.scandir(folder) as entries:
        names = [
            f"{e.name}/" if _is_folder(e) else e.name for e in entries if not is_hidden(e.name)
        ]
    for name in sorted(names):
        if name.endswith("/"):
            yield from _all_below(os.path.join(folder, name[:-1]), seen)
        else:
            yield os.path.join(folder, name)


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
        for parent, _ in walk(folder):
            yield from _matching(parent, rest or ["*"])
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


def _raise(error: OSError) -> None:
    """A folder that may not be listed must not pass for an empty one."""
    raise error
