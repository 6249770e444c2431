"""Which files show one object, a band each: `123_g.fits` and `123_r.fits` are the object 123.

The band is the end or the beginning of the file's name, set off by `_`, `-` or `.`, or the name of
a folder of the survey: `g/123.fits`. Where no file has it so, it may stand between two such marks:
`calexp-HSC-G-9813-4,4.fits`. Files of other bands than those asked for are left out.
"""

import functools
import itertools
import logging
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from astroray import storage
from astroray.errors import ConfigError
from astroray.surveys.object_tables import ObjectTable
from astroray.surveys.objects import Objects, basename, describe_objects, stem
from astroray.surveys.shards import MAX_FILES_PER_SHARD, Shard, shard_name

__all__ = ["bear_bands", "group_band_files", "guess_bands", "match_band_files"]

_log = logging.getLogger(__name__)

_MARKS = "_.-"
_KNOWN_BANDS = (
    ("HSC-G", "HSC-R", "HSC-I", "HSC-Z", "HSC-Y"),
    ("u", "g", "r", "i", "z", "y"),
    ("G", "R", "I", "Z", "Y"),
    ("U", "B", "V", "R", "I"),
    ("Y", "J", "H", "Ks"),
    ("w1", "w2", "w3", "w4"),
)
"""Of surveys whose stamps come a file a band, the longer names before those that end them."""
_MAX_GUESSED = 4096
"""Files whose names are looked at for bands that nobody named."""


def bear_bands(
    listings: Sequence[Iterable[str]], bands: Sequence[str], folder: str, *, some: bool = False
) -> bool:
    """Whether there is a file a band: each of two or more `bands` is in the name of some file.

    listings  paths of files; they are gone through and never held together
    some      True: it is enough that one of the bands is in some name
    """
    if len(bands) < 2:
        return False
    every = functools.partial(itertools.chain.from_iterable, listings)
    found = {_split(path, bands, folder)[1] for path in every()} - {""}
    found = found or {_split_inside(path, bands)[1] for path in every()} - {""}
    return bool(found) if some else found == set(bands)


def guess_bands(paths: Sequence[str], folder: str) -> list[str]:
    """Bands that most files differ in alone, going by the names of the first; empty without any."""
    paths = paths[:_MAX_GUESSED]
    for known in _KNOWN_BANDS:
        by_object: dict[str, set[str]] = {}
        for name, band in _name_all(paths, known, folder):
            if band:
                by_object.setdefault(name, set()).add(band)
        several = [own for own in by_object.values() if len(own) > 1]
        if 2 * sum(map(len, several)) > len(paths):
            found = set[str]().union(*several)
            return [band for band in known if band in found]
    return []


def match_band_files(
    files: Sequence[storage.InputFile], bands: Sequence[str], folder: str
) -> dict[str, dict[str, storage.InputFile]]:
    """The files of each object by band, by the path that it would have without its band.

    Raises ConfigError where two files are one band of one object.
    """
    by_object: dict[str, dict[str, storage.InputFile]] = {}
    ordered = sorted(files, key=lambda file: file.path)
    named = _name_all([file.path for file in ordered], bands, folder)
    for file, (name, band) in zip(ordered, named, strict=True):
        own = by_object.setdefault(name, {}) if band else {}
        if band and (other := own.setdefault(band, file)) is not file:
            raise ConfigError(
                f"{other.path} and {file.path} are both band {band} of one object; name one "
                "kind of file with a glob"
            )
    num_used = sum(map(len, by_object.values()))
    if num_used < len(files):
        left = len(files) - num_used
        _log.warning("files left out, as they are of other bands: %d", left)
    return by_object


def group_band_files(
    files: Sequence[storage.InputFile],
    *,
    bands: Sequence[str],
    table: ObjectTable | None,
    folder: str,
    reader: str,
    params: Mapping[str, Any],
    group_size: int,
    is_later: bool,
    objects_folder: str,
) -> list[Shard]:
    """Shards of at most `group_size` files; a row is an object, whose files are the entry of
    `params["members"]`: positions in `inputs` in the order of `bands`, None where one is missing.

    is_later  whether other files of the survey are listed already: then a band may have no file

    Raises ConfigError where no file is of a band, or two files are one band of one object.
    """
    by_object = match_band_files(files, bands, folder)
    lacking = sorted(set(bands) - {band for own in by_object.values() for band in own})
    if lacking and not is_later:
        raise ConfigError(
            f"no file of {folder or 'the survey'} is of band {lacking[0]}, expected names such as "
            f"123_{lacking[0]}.fits or {lacking[0]}/123.fits for each of bands={','.join(bands)}"
        )
    if not 1 <= group_size <= MAX_FILES_PER_SHARD:
        raise ConfigError(f"shard_files is {group_size}, expected 1..{MAX_FILES_PER_SHARD}")
    names = sorted(by_object)
    step = max(1, group_size // len(bands))
    groups = [names[start : start + step] for start in range(0, len(names), step)]
    objects = (
        table.renamed(_objects_of_files(by_object)).by_file(names, folder, step=step)
        if table
        else (Objects.from_files(group, folder) for group in groups)
    )
    return [
        _shard([by_object[name] for name in group], bands, reader, params, own)
        for group, own in zip(groups, describe_objects(objects, objects_folder), strict=True)
    ]


def _objects_of_files(
    by_object: Mapping[str, Mapping[str, storage.InputFile]],
) -> dict[str, str]:
    """By the name of each file, with and without suffix, what its object is called likewise.

    So a table may name the objects, or have a row for each file of them, as manifests do.
    """
    return {
        of(basename(file.path)): of(basename(name))
        for name, own in by_object.items()
        for file in own.values()
        for of in (str, stem)
    }


def _shard(
    rows: Sequence[Mapping[str, storage.InputFile]],
    bands: Sequence[str],
    reader: str,
    params: Mapping[str, Any],
    objects: Mapping[str, Any],
) -> Shard:
    inputs = sorted((file for own in rows for file in own.values()), key=lambda file: file.path)
    place = {file.path: i for i, file in enumerate(inputs)}
    members = [[place[own[band].path] if band in own else None for band in bands] for own in rows]
    return Shard(
        name=shard_name(inputs, params),
        reader=reader,
        inputs=tuple(inputs),
        params={**params, "members": members, "objects": objects},
        num_rows=len(rows),
    )


def _name_all(paths: Sequence[str], bands: Sequence[str], folder: str) -> list[tuple[str, str]]:
    """The path that each file's object would have without its band, and the band, if it has one."""
    named = [_split(path, bands, folder) for path in paths]
    if not any(band for _, band in named):
        named = [_split_inside(path, bands) for path in paths]
    return named


def _split(path: str, bands: Sequence[str], folder: str) -> tuple[str, str]:
    """The path without the band at an end of its name or in a folder, and the band."""
    parent, _, file_name = path.rpartition("/")
    stem = storage.stem(path)
    suffix = file_name[len(stem) :]
    for band in sorted(bands, key=len, reverse=True):
        for mark in _MARKS:
            end, start = f"{mark}{band}", f"{band}{mark}"
            if stem.endswith(end) and stem != end:
                return posixpath.join(parent, stem.removesuffix(end) + suffix), band
            if stem.startswith(start) and stem != start:
                return posixpath.join(parent, stem.removeprefix(start) + suffix), band
    below = parent.removeprefix(folder).split("/")
    for band in bands:
        if band in below:
            at = len(below) - 1 - below[::-1].index(band)
            kept = [part for i, part in enumerate(below) if i != at]
            return f"{folder}{'/'.join(kept)}/{file_name}", band
    return path, ""


def _split_inside(path: str, bands: Sequence[str]) -> tuple[str, str]:
    """The path without the band that stands once within its name, and the band."""
    parent, _, file_name = path.rpartition("/")
    for band in sorted(bands, key=len, reverse=True):
        pattern = f"(?<=[{_MARKS}]){re.escape(band)}[{_MARKS}]"
        if len(re.findall(pattern, file_name)) == 1:
            return posixpath.join(parent, re.sub(pattern, "", file_name)), band
    return path, ""
