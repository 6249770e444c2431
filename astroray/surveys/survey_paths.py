"""Where a survey lies: the folder that its identifiers and tables are relative to."""

import contextlib
import glob
import itertools
import os
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence

from astroray import storage
from astroray.errors import ConfigError, StorageError
from astroray.surveys import array_files, parquet_files

_FITS = (".fits", ".fit", ".fits.gz", ".fit.gz")
KINDS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "light_curves": {
        "fits": _FITS,
        "npz": array_files.SUFFIXES,
        "parquet": parquet_files.SUFFIXES,
        "text": (".csv", ".csv.gz", ".dat", ".dat.gz"),
    },
    "spectra": {"fits": _FITS, "npz": array_files.SUFFIXES, "parquet": parquet_files.SUFFIXES},
}
"""Kinds of files of readers that take several, by `format=NAME`, and the suffixes of each."""
PACKED = (".gz", ".fz", ".bz2")
"""Suffixes that say how a file is packed, not what it is."""


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


def count_kinds(kinds: Iterable[str | None], paths: Iterable[str]) -> str:
    """How many files of each kind there are, and the first of them by name; None is no kind."""
    found: dict[str, list[str]] = {}
    for kind, path in zip(kinds, paths, strict=True):
        if kind:
            found.setdefault(kind, []).append(posixpath.basename(path))
    return ", ".join(
        f"{kind}: {len(names)} such as {names[0]}" for kind, names in sorted(found.items())
    )


def suffix_of(path: str) -> str:
    """What a file's name ends in, that of what is packed in it too: `.fits.gz`; may be empty."""
    stem, suffix = posixpath.splitext(path)
    is_packed = suffix.lower() in PACKED
    return (posixpath.splitext(stem)[1] if is_packed else "") + suffix


def glob_of(paths: Iterable[str]) -> str:
    """A glob for these files: `/sky/*.fits.gz`, of several suffixes `/sky/*.fits*`, of several
    folders `/sky/**/*.fits`.
    """
    kept = list(paths)
    folders = {posixpath.dirname(path) for path in kept}
    levels = zip(*(one.split("/") for one in folders), strict=False)
    folder = "/".join(names[0] for names in itertools.takewhile(lambda n: len({*n}) == 1, levels))
    suffixes = {suffix_of(path) for path in kept}
    start = min(suffix.split(".")[1] for suffix in suffixes)
    name = f"*{suffixes.pop()}" if len(suffixes) == 1 else f"*.{start}*"
    return f"{folder}/{'**/' * (len(folders) > 1)}{name}"


def some_of(files: Sequence[storage.InputFile], count: int) -> Iterator[storage.InputFile]:
    """At most `count` files, the first one and others all over the listing, in its order."""
    step = max(1.0, (len(files) - 1) / max(1, count - 1))
    for number in range(min(count, len(files))):
        yield files[round(number * step)]


def one_kind(
    inputs: Sequence[storage.InputFile],
    location: str,
    *,
    noun: str,
    format: str,
) -> tuple[str, storage.FileList]:
    """The only one of KINDS that `inputs` hold, by its suffixes, and those files in order of path.

    Files of no known suffix are left out. Raises ConfigError where there are none or several
    kinds, calling what they hold `noun` and their reader `format`.
    """
    files = storage.FileList.by_path(inputs)
    kinds = KINDS[format]

    def kind_of(path: str) -> str | None:
        return next((kind for kind in kinds if path.lower().endswith(kinds[kind])), None)

    found = {kind for path in files.paths if (kind := kind_of(path))}
    if len(found) != 1:
        got = count_kinds(map(kind_of, files.paths), files.paths) or f"no {noun}"
        first = [path for path in files.paths if kind_of(path) in sorted(found)[:1]]
        example = glob_of(first) if first else "folder/*.fits*"
        raise ConfigError(
            f"{location} has {got}, expected one kind of {', '.join(kinds)}; name one kind with a "
            f"glob: '{example}?format={format}'"
        )
    return found.pop(), storage.FileList(file for file in files if kind_of(file.path))
