"""Where a survey lies: the folder that its identifiers and tables are relative to."""

import contextlib
import glob
import os
import posixpath
from collections.abc import Mapping, Sequence

from astroray import storage
from astroray.errors import ConfigError, StorageError


def table_paths(location: str, names: str) -> list[str]:
    """Paths of the tables that `table=` names, comma-separated; relative ones from the survey."""
    folder = survey_folder(location) if names else ""
    return [_resolve(name, folder) for name in names.split(",") if name]


def survey_folder(location: str) -> str:
    """The folder that a survey's identifiers and table are relative to.

    The folder itself; for a glob the folders before its first wildcard; for a file its folder.
    """
    if not storage.is_remote(location):
        location = storage.absolute(location)
        if os.path.isdir(location):
            return location
    with contextlib.suppress(StorageError):  # forbidden, as a folder is where only keys may be read
        if storage.exists(location):
            return posixpath.dirname(location)
    parts = location.rstrip("/").split("/")
    fixed = [i for i, part in enumerate(parts) if glob.has_magic(part)]
    return "/".join(parts[: fixed[0]] if fixed else parts)


def _resolve(name: str, folder: str) -> str:
    if storage.is_remote(name):
        return name
    path = os.path.expanduser(name.strip())
    if os.path.isabs(path):
        return path
    if not storage.is_remote(folder):
        return os.path.normpath(os.path.join(folder, path))
    scheme, mark, place = folder.partition("://")
    return scheme + mark + posixpath.normpath(posixpath.join(place, path))


def count_kinds(paths_of: Mapping[str, Sequence[str]]) -> str:
    """How many files of each kind there are, and one of them by name."""
    return ", ".join(
        f"{kind}: {len(paths)} such as {posixpath.basename(paths[0])}"
        for kind, paths in sorted(paths_of.items())
    )


def one_kind(
    inputs: Sequence[storage.InputFile],
    location: str,
    kinds: Mapping[str, tuple[str, ...]],
    *,
    noun: str,
    format: str,
) -> tuple[str, list[storage.InputFile]]:
    """The only kind of file that `inputs` hold, by its suffixes, and those files in order of path.

    Files of no known suffix are left out. Raises ConfigError where there are none or several
    kinds, calling what they hold `noun` and their reader `format`.
    """
    found: dict[str, list[storage.InputFile]] = {}
    for file in sorted(inputs, key=lambda file: file.path):
        for kind, suffixes in kinds.items():
            if file.path.lower().endswith(suffixes):
                found.setdefault(kind, []).append(file)
    paths = {kind: [file.path for file in files] for kind, files in found.items()}
    if len(found) != 1:
        raise ConfigError(
            f"{location} has {count_kinds(paths) or f'no {noun}'}, expected one kind of "
            f"{', '.join(kinds)}; name one kind with a glob: 'folder/*.fits?format={format}'"
        )
    return next(iter(found.items()))
