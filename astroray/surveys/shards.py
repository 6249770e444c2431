"""What a shard is, and what a reader hands over when it reads one.

A reader is a module of `astroray/surveys/` with two functions:

    list_shards(inputs, uri)        the shards of a survey, without reading pixels where possible
    read_shard(shard, *, rows=None) the rows of one shard, as Rows and Rejects, in row order

Its Rows are Cutouts, unless it is named in `surveys.MODALITIES`.
"""

import dataclasses
import difflib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self, TypeVar
from urllib.parse import quote, unquote

import numpy as np

from astroray import storage
from astroray.errors import ConfigError, DataError, FileError

SCHEMES = {"hdf": "fields", "sim:galaxies": "simulated", "sim:spectra": "simulated_spectra"}
"""Surveys that are no files of the user's, and their reader."""

MAX_FILES_PER_SHARD = 512
_FEW_FILES = 16
"""So many stay a tuple; of more a million are held packed."""

ModalityName = Literal["images", "light_curves", "spectra"]
"""What the rows of a survey are; `modalities.MODALITIES` says what each needs on its way."""

Pixels = Literal["display", "flux"]
"""display: 0..1, ready to look at; flux: linear, any unit, NaN where missing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SurveyUri:
    """A survey as the user names it: where it is, and options after the question mark."""

    location: str
    """Path, glob, s3 address or scheme name, without the options."""
    options: Mapping[str, str]
    """What stands after the question mark, e.g. `table=labels.csv&id=name`."""
    known: Sequence[str] = ()
    """Paths of files that an earlier listing has in its shards: what their names say, such as which
    bands there are, holds for new files too."""
    listed: Sequence[str] = ()
    """Those of `known` that the survey still has, in order; a table may have rows of them."""
    objects_folder: str = ""
    """Where the listing writes identifiers and positions that a table gives, instead of into the
    shards; empty: the shards carry them."""

    @classmethod
    def parse(cls, survey: str | os.PathLike[str]) -> "SurveyUri":
        """Splits `location?key=value&...`; a question mark of a glob stays in the location, as does
        that of a folder of this machine, `x?a=1/images`.

        A plus is a plus, as in J1224+15, and %26 is an ampersand.
        """
        text = os.fspath(survey)
        if not text.strip():
            raise ConfigError("the survey is empty, expected a folder, a glob or an address")
        location, mark, query = text.rpartition("?")
        is_name = "=" not in query or "/" in query.partition("=")[0]
        if not mark or is_name or ("/" in query and _is_in_a_folder(text)):
            return cls(location=text, options={})
        pairs = (part.partition("=") for part in query.split("&") if part)
        return cls(location=location, options={unquote(key): unquote(v) for key, _, v in pairs})

    @classmethod
    def absolute(cls, survey: str | os.PathLike[str]) -> str:
        """A survey on this machine by its absolute path, so that a run may go on from elsewhere.

        The name of a survey that astroray brings stays, though a folder be called so, `./hdf`.
        """
        uri = cls.parse(survey)
        location = uri.location
        is_named = location in SCHEMES or ":" in location.partition("/")[0]
        is_path = os.path.exists(os.path.expanduser(location)) or "/" in location or "*" in location
        if is_named or not is_path:
            return os.fspath(survey)
        return str(dataclasses.replace(uri, location=storage.absolute(location)))

    def asking(self, **options: str) -> "SurveyUri":
        """The same survey, with these options too."""
        return dataclasses.replace(self, options={**self.options, **options})

    def __str__(self) -> str:
        query = "&".join(f"{_quote(k)}={_quote(value)}" for k, value in self.options.items())
        return f"{self.location}?{query}" if query else self.location


def _is_in_a_folder(path: str) -> bool:
    """Whether all of a path but its last part is a folder of this machine."""
    folder = os.path.dirname(path)
    return not storage.is_remote(path) and os.path.isdir(os.path.expanduser(folder))


def _quote(text: str) -> str:
    """Text of an option as `SurveyUri.parse` reads it; only what would end it is written as %26."""
    return re.sub(r"[%&?]", lambda mark: quote(mark[0]), text)


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)  # of 512 files it fills a screen
class Shard:
    """A piece of a survey that is read, encoded and published as one; all that its reader needs.

    Its name depends on its members alone, so the same files always make the same shard.
    """

    name: str
    """Unique in the survey, safe as a file name."""
    reader: str
    """Module of `astroray/surveys/` that reads it."""
    inputs: Sequence[storage.InputFile]
    """Files that hold its rows; empty for a simulated shard."""
    params: Mapping[str, Any]
    """What the reader needs beside the files; values that JSON can hold."""
    num_rows: int | None = None
    """Rows in it, where the listing knows without reading pixels."""

    def __post_init__(self) -> None:
        if not isinstance(self.inputs, storage.FileList):
            kept = tuple if len(self.inputs) <= _FEW_FILES else storage.FileList
            object.__setattr__(self, "inputs", kept(self.inputs))

    def __repr__(self) -> str:
        some = f"{self.inputs[0].path!r}, ... ({len(self.inputs)} files)" if self.inputs else "()"
        return f"Shard({self.name!r}, {self.reader}, num_rows={self.num_rows}, inputs={some})"

    def facts(self) -> dict[str, Any]:
        """The fields as JSON can hold them."""
        inputs = [[file.path, file.size_bytes, file.version] for file in self.inputs]
        return {**vars(self), "inputs": inputs, "params": dict(self.params)}

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any]) -> "Shard":
        """The shard of `facts`."""
        inputs = [
            storage.InputFile(path=path, size_bytes=size_bytes, version=version)
            for path, size_bytes, version in facts["inputs"]
        ]
        return cls(**{**facts, "inputs": inputs})

    def files_of(self, row: int) -> Sequence[storage.InputFile]:
        """The files that hold this row alone; all of them where they hold several rows each."""
        if self.has_files_of_bands:
            members = self.params["members"][row]
            return [self.inputs[member] for member in members if member is not None]
        return self.inputs[row : row + 1] if self.has_files_of_rows else self.inputs

    def places_of_rows(self) -> Sequence[Sequence[int]]:
        """Where in `inputs` the files of each row are; empty where files hold several rows each."""
        if self.has_files_of_bands:
            members = self.params["members"]
            return [[member for member in row if member is not None] for row in members]
        return [[place] for place in range(len(self.inputs))] if self.has_files_of_rows else []

    @property
    def has_files_of_bands(self) -> bool:
        """Whether each row has a file a band of its own, which all rows of a wide field share."""
        members = self.params.get("members") or [None]
        return isinstance(members[0], Sequence)

    @property
    def has_files_of_rows(self) -> bool:
        """Whether each row has files of its own."""
        return self.has_files_of_bands or len(self.inputs) == self.num_rows

    @property
    def size_bytes(self) -> int:
        """Bytes of all input files."""
        return sum(file.size_bytes for file in self.inputs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
    """Who the rows of a slice are, of whatever modality; a shard is read as a few slices."""

    modality: ClassVar[ModalityName] = "images"

    row_B: np.ndarray
    """[B] int64, row within the shard, from 0."""
    object_id_B: Sequence[str]
    """[B] the survey's own identifiers, else `<shard>:<row>`."""
    ra_deg_B: np.ndarray
    """[B] float64, ICRS; NaN where unknown."""
    dec_deg_B: np.ndarray
    """[B] float64, ICRS; NaN where unknown."""
    flags_B: np.ndarray
    """[B] int32, bits of schema.Flag known from reading."""
    field: str | None = None
    night: str | None = None
    detector: str | None = None

    @property
    def num_values(self) -> int:
        """Numbers that the slice holds in memory."""
        return len(self.row_B)

    def take(self, index_B: np.ndarray) -> Self:
        """The slice with some of its rows alone."""
        chosen: dict[str, Any] = {}
        for name in self._of_rows():
            values = getattr(self, name)
            is_array = isinstance(values, np.ndarray)
            chosen[name] = values[index_B] if is_array else [values[i] for i in index_B]
        return dataclasses.replace(self, **chosen)

    @classmethod
    def joined(cls, slices: Sequence[Self]) -> Self:
        """Several slices as one; what is not of rows is that of the first."""
        joined: dict[str, Any] = {}
        for name in cls._of_rows():
            parts = [getattr(rows, name) for rows in slices]
            is_array = isinstance(parts[0], np.ndarray)
            joined[name] = (
                np.concatenate(parts) if is_array else [x for part in parts for x in part]
            )
        return dataclasses.replace(slices[0], **joined)

    @classmethod
    def _of_rows(cls) -> list[str]:
        return [field.name for field in dataclasses.fields(cls) if "_B" in field.name]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cutouts(Rows):
    """Rows whose images have one shape."""

    image_BCYX: np.ndarray
    """[B, C, Y, X] float32, NaN where missing; row 0 of Y is the top of a display picture and the
    bottom of a flux image, as their files have it."""
    bands: tuple[str, ...]
    """[C] names, e.g. ("g", "r", "i"); pictures have ("R", "G", "B") or ("L",)."""
    pixels: Pixels
    """How the numbers are meant."""

    @property
    def num_values(self) -> int:
        return self.image_BCYX.size


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reject:
    """A row, or a whole shard (row None), that cannot be used, and why."""

    row: int | None
    stage: str
    """read, prepare, encode or catalog; of flares detrend or windows."""
    kind: str
    """Class of the reason, one lower-case word: corrupt, missing, shape, constant, duplicate..."""
    reason: str
    """What was wrong, where, got, expected."""
    shard: str = ""
    """Name of the shard; readers leave it empty, since they read one shard at a time."""

    @classmethod
    def of_shard(cls, error: DataError) -> "Reject":
        """The reject of a shard that cannot be read as a whole."""
        kind = "missing_file" if isinstance(error, FileError) else "unreadable"
        return cls(row=None, stage="read", kind=kind, reason=str(error))


REST = "rest"
"""Kind of a reject with which nothing is wrong: what a cut that the survey asks for leaves over. It
is counted as all are, and not held against the share that may be rejected."""


def reject(row: int, kind: str, reason: str) -> Reject:
    """A row that cannot be used, refused while it is read."""
    return Reject(row=row, stage="read", kind=kind, reason=reason)


Options = TypeVar("Options")


def parse_options(cls: type[Options], options: Mapping[str, str]) -> Options:
    """The frozen dataclass `cls` from the URI's options; types come from its field defaults.

    Raises ConfigError on an unknown key or a value of another type.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, text in options.items():
        if key not in fields:
            raise ConfigError(
                f"survey option {key!r} is unknown, expected one of {sorted(fields)}; "
                f"{_advice(key, fields)}"
            )
        kind = type(fields[key].default)
        try:
            values[key] = _PARSERS[kind](text)
        except (ValueError, KeyError):
            raise ConfigError(
                f"survey option {key} is {text!r}, expected {kind.__name__}"
            ) from None
    return cls(**values)


def _advice(key: str, fields: Iterable[str]) -> str:
    """What whoever named an unknown option may have meant."""
    if setting := _SETTINGS.get(key):
        return f"a setting of the scan is meant? --set {setting}=..."
    near = difflib.get_close_matches(key, fields, n=1)
    return f"did you mean {near[0]}=?" if near else "options stand after the question mark"


_SETTINGS = {
    "size": "encoder.size_px",
    "size_px": "encoder.size_px",
    "max_missing": "encoder.max_missing",
    "k": "search.k",
    "top": "search.top",
}
"""Settings that are taken for options of a survey."""
_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_PARSERS: dict[type, Any] = {
    str: str,
    int: int,
    float: float,
    bool: lambda text: _BOOLEANS[text.lower()],
}


def group_files(
    inputs: Sequence[storage.InputFile],
    *,
    reader: str,
    params: Mapping[str, Any],
    rows_per_file: int | None,
    group_size: int,
) -> list[Shard]:
    """Shards of at most `group_size` files each, in order of path.

    The first group is `group_size` files from the start of the list, so files that come later
    form further groups and never change an earlier one (the caller passes only new files).
    """
    if not 1 <= group_size <= MAX_FILES_PER_SHARD:
        raise ConfigError(
            f"shard_files is {group_size}, expected 1..{MAX_FILES_PER_SHARD} files a shard"
        )
    ordered = storage.FileList.by_path(inputs)
    groups = (ordered[i : i + group_size] for i in range(0, len(ordered), group_size))
    return [
        Shard(
            name=shard_name(group, params),
            reader=reader,
            inputs=group,
            params=params,
            num_rows=None if rows_per_file is None else rows_per_file * len(group),
        )
        for group in groups
    ]


def file_shard(
    file: storage.InputFile, *, reader: str, params: Mapping[str, Any], num_rows: int | None
) -> Shard:
    """The shard of one file, or of the part of it that `params` name."""
    name = shard_name([file], params)
    return Shard(name=name, reader=reader, inputs=(file,), params=params, num_rows=num_rows)


def shard_name(inputs: Sequence[storage.InputFile], params: Mapping[str, Any]) -> str:
    """A readable, unique, file-safe name made of the first file's name and a hash of members."""
    members = json.dumps([[file.path for file in inputs], params], sort_keys=True)
    digest = hashlib.sha256(members.encode()).hexdigest()[:10]
    stem = storage.stem(inputs[0].path)
    readable = re.sub(r"[^A-Za-z0-9.-]+", "-", stem).strip("-.")[:60] or "shard"
    return f"{readable}-{digest}"
