"""Bytes on disk become rows: which reader opens which survey."""

import dataclasses
import difflib
import glob
import importlib
import itertools
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Protocol, cast, get_args

import numpy as np

from astroray import storage
from astroray.errors import ConfigError, DataError
from astroray.storage import FileList
from astroray.storage.ahead import fetching
from astroray.surveys.companions import warn_of_companions
from astroray.surveys.file_keys import find_paths
from astroray.surveys.hats_catalogs import is_hats, list_files
from astroray.surveys.shards import SCHEMES, Cutouts, ModalityName, Reject, Rows, Shard, SurveyUri
from astroray.surveys.survey_paths import KINDS, count_kinds, glob_of, suffix_of, table_paths

__all__ = [
    "SCHEMES", "Cutouts", "Listing", "Reject", "Shard", "list_shards", "modality_of",
    "read_or_reject", "read_shard",
]  # fmt: skip

SUFFIXES = {
    ".jpg": "pictures",
    ".jpeg": "pictures",
    ".png": "pictures",
    ".npz": "arrays",
    ".npy": "arrays",
    ".h5": "arrays",
    ".hdf5": "arrays",
    ".fits": "fits_cutouts",
    ".fit": "fits_cutouts",
    ".fits.gz": "fits_cutouts",
    ".fit.gz": "fits_cutouts",
    ".fits.fz": "fits_cutouts",
    ".parquet": "tables",
}
"""File suffix and its reader; `format=NAME` in the survey's options chooses another one, and
`format=package.module` one that is not in this folder."""

_TAKES: Mapping[str, tuple[str, ...]] = {"fields": ("fits_cutouts", "pictures")}
"""Readers whose files another one takes too, in this order, where a folder holds several kinds."""

FORMATS = {name: tuple(itertools.chain(*kinds.values())) for name, kinds in KINDS.items()}
"""Readers that `format=NAME` chooses for files of other readers, and the suffixes they take."""


MODALITIES: Mapping[str, ModalityName] = {
    "light_curves": "light_curves",
    "spectra": "spectra",
    "simulated_spectra": "spectra",
}
"""What the rows of a reader are; of those not named here, images."""


class Reader(Protocol):
    """What a module of this folder offers, or one that `format=package.module` names."""

    def list_shards(self, inputs: Sequence[storage.InputFile], uri: SurveyUri) -> list[Shard]:
        """The shards that `inputs` make; raises ConfigError on bad options."""

    def read_shard(
        self, shard: Shard, *, rows: Sequence[int] | None = None
    ) -> Iterator[Rows | Reject]:
        """All rows of the shard, or only `rows`, in order; raises ShardError if unreadable."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listing:
    """The shards of a survey, and which of the known ones have other bytes than before."""

    shards: tuple[Shard, ...]
    changed: Mapping[str, Shard]
    """By name: known shards as their files are now, where size or version differ."""
    unseen: Collection[str] = ()
    """Files of known shards that the survey does not list."""


def list_shards(
    survey: str | os.PathLike[str],
    *,
    known: Sequence[Shard] = (),
    mended: Collection[str] = (),
    objects_folder: str = "",
) -> Listing:
    """`known` shards first, unchanged, then those that new files of the survey make.

    mended          files of known shards that count as new ones; their shards keep them as they
                    were, and from then on the later shard has them
    objects_folder  where identifiers and positions of new shards are written, which then name
                    those files; empty: the shards carry them

    Raises ConfigError where nothing readable is found.
    """
    uri = dataclasses.replace(SurveyUri.parse(survey), objects_folder=objects_folder)
    name, inputs = SCHEMES.get(uri.location, ""), FileList()
    changed: dict[str, Shard] = {}
    unseen: set[str] = set()
    if not name:
        name, inputs = _find_inputs(uri)
        if known:
            changed, unseen, is_seen_F = _find_known(known, inputs, _catalog_files(uri), mended)
            seen = FileList(itertools.compress(inputs, is_seen_F))
            before = FileList(file for shard in known for file in shard.inputs)
            uri = dataclasses.replace(uri, known=before.paths, listed=seen.paths)
            inputs = FileList(itertools.compress(inputs, ~is_seen_F))
    has_some = bool(inputs) or uri.location in SCHEMES
    shards = _reader(name).list_shards(inputs, uri) if has_some else []
    names = {shard.name for shard in known}
    added = [shard for shard in shards if shard.name not in names]
    return Listing(shards=(*known, *added), changed=changed, unseen=unseen)


def _find_known(
    known: Sequence[Shard],
    inputs: FileList,
    catalogs: Sequence[storage.InputFile],
    mended: Collection[str],
) -> tuple[dict[str, Shard], set[str], np.ndarray]:
    """Known shards whose files differ now, their files that are gone, and [F] whether each of
    `inputs` is one of theirs.
    """
    changed: dict[str, Shard] = {}
    unseen: set[str] = set()
    now = FileList(itertools.chain(inputs, catalogs))
    is_seen_F = np.zeros(len(now), bool)
    place_K = np.fromiter(
        find_paths((file.path for shard in known for file in shard.inputs), now), np.int64
    )
    files = zip(place_K, _are_replaced(known, place_K), strict=True)
    for shard in known:
        fresh = list(shard.inputs)
        for i, (place, is_replaced) in enumerate(itertools.islice(files, len(fresh))):
            if place < 0:
                unseen.add(fresh[i].path)
            elif fresh[i].path not in mended:
                is_seen_F[place] = True
                fresh[i] = fresh[i] if is_replaced else now[place]
        if fresh != list(shard.inputs):
            # of one file the rows may be more now
            is_kept = shard.has_files_of_bands or (shard.has_files_of_rows and len(fresh) > 1)
            num_rows = shard.num_rows if is_kept else None
            changed[shard.name] = dataclasses.replace(shard, inputs=fresh, num_rows=num_rows)
    return changed, unseen, is_seen_F[: len(inputs)]


def _are_replaced(known: Sequence[Shard], place_K: np.ndarray) -> np.ndarray:
    """[K] bool: which of all files of the shards a later shard has as they were mended.

    place_K  [K] where the survey has each of them, -1 where it has not

    Of an object with a file a band a later shard has all, also those that are what they were.
    """
    _, code_K, count_U = np.unique(place_K, return_inverse=True, return_counts=True)
    is_twice_K = (count_U[code_K] > 1) & (place_K >= 0)
    files = itertools.chain.from_iterable(
        zip(shard.inputs, itertools.repeat(shard.has_files_of_bands), strict=False)
        for shard in known
    )
    twice = list(
        zip(np.flatnonzero(is_twice_K), itertools.compress(files, is_twice_K), strict=True)
    )
    is_replaced_K = np.zeros(len(place_K), bool)
    last: dict[int, storage.InputFile] = {}
    for k, (file, is_of_band) in reversed(twice):
        is_later = int(place_K[k]) in last
        now = last.setdefault(int(place_K[k]), file)
        is_replaced_K[k] = is_later and (is_of_band or now != file)
    return is_replaced_K


def modality_of(shard: Shard) -> ModalityName:
    """What the rows of a shard are; a reader of the user's own says so by its MODALITY."""
    if _is_foreign(shard.reader):
        modality: ModalityName = getattr(_reader(shard.reader), "MODALITY", "images")
        return modality
    return MODALITIES.get(shard.reader, "images")


def read_shard(shard: Shard, *, rows: Sequence[int] | None = None) -> Iterator[Rows | Reject]:
    """The rows of one shard as slices, and rejects, in row order.

    Raises ShardError where the shard cannot be read as a whole.
    """
    with fetching(_files_of(shard, rows)):
        yield from _reader(shard.reader).read_shard(shard, rows=rows)


def read_or_reject(shard: Shard, *, rows: Sequence[int] | None = None) -> Iterator[Rows | Reject]:
    """Rows of a shard, as `read_shard`; where it cannot be read, its own reject comes last."""
    try:
        yield from read_shard(shard, rows=rows)
    except DataError as error:
        yield Reject.of_shard(error)


def _files_of(shard: Shard, rows: Sequence[int] | None) -> list[tuple[str, int]]:
    """Paths and sizes of the files that are read next; of some rows where each is a file."""
    inputs = shard.inputs
    if rows is not None:
        is_file_a_row = shard.num_rows == len(inputs)
        wanted = sorted(set(rows)) if is_file_a_row else ()
        inputs = tuple(inputs[row] for row in wanted if row < len(inputs))
    return [(file.path, file.size_bytes) for file in inputs]


def _is_foreign(reader: str) -> bool:
    """Whether a reader is a module outside of this folder, named by its import path."""
    return "." in reader


def _reader(name: str) -> Reader:
    if not _is_foreign(name):
        return cast(Reader, importlib.import_module(f"astroray.surveys.{name}"))
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"the reader {name} cannot be imported: {error}; install it, or put its folder on "
            "PYTHONPATH, on every machine of the run"
        ) from None
    lacking = [what for what in ("list_shards", "read_shard") if not hasattr(module, what)]
    modality = getattr(module, "MODALITY", "images")
    if lacking or modality not in get_args(ModalityName):
        raise ConfigError(
            f"the reader {name} has no {' and no '.join(lacking)}, expected list_shards(inputs, "
            "uri) and read_shard(shard, *, rows=None); see docs/python.md"
            if lacking
            else f"MODALITY of the reader {name} is {modality!r}, expected one of "
            f"{get_args(ModalityName)}"
        )
    return cast(Reader, module)


def _find_inputs(uri: SurveyUri) -> tuple[str, FileList]:
    """The reader's name and its files; all files of one survey have one reader."""
    asked = uri.options.get("format") or ("tables" if is_hats(uri.location) else None)
    tables = set(table_paths(uri.location, uri.options.get("table", "")))
    tables |= {file.path for file in _catalog_files(uri)}
    all_files = list_files(uri.location)
    files = _without_runs(all_files, uri.location)
    if tables:
        files = FileList(file for file in files if file.path not in tables)
    readers = [_reader_of(path) for path in files.paths]
    if asked in FORMATS:
        suffixes = FORMATS[asked]
        readers = [asked if path.lower().endswith(suffixes) else None for path in files.paths]
    elif asked:  # files of its own suffixes if there are any, else every file is meant
        taken = next((name for name in (asked, *_TAKES.get(asked, ())) if name in readers), None)
        readers = [asked if taken in (None, name) else None for name in readers]
    names = sorted({name for name in readers if name})
    if not names:
        wanted = f"{sorted(SUFFIXES)} or a scheme of {sorted(SCHEMES)}"
        raise ConfigError(
            f"no survey files in {uri.location}: found {_count_suffixes(files.paths)}, expected "
            f"one of {list(FORMATS[asked]) if asked in FORMATS else wanted}; "
            f"{_advice(uri.location, files.paths, asked, has_runs=len(files) < len(all_files))}"
        )
    if len(names) > 1:
        most = Counter(filter(None, readers)).most_common(1)[0][0]
        raise ConfigError(
            f"{uri.location} mixes files for several readers "
            f"({count_kinds(readers, files.paths)}); "
            f"name one kind with ?format={most}, or with a glob such as "
            f"'{glob_of(itertools.compress(files.paths, (name == most for name in readers)))}'"
        )
    own_readers = {*SUFFIXES.values(), *SCHEMES.values(), *FORMATS}
    if names[0] not in own_readers and not _is_foreign(names[0]):
        known = sorted({*SUFFIXES.values(), "fields", *FORMATS})
        raise ConfigError(
            f"format is {names[0]!r}, expected one of {known}, or the import path of a reader of "
            "your own, such as mysurvey.reader"
        )
    inputs = files if all(readers) else FileList(itertools.compress(files, readers))
    warn_of_companions(inputs.paths)
    return names[0], inputs


def _without_runs(files: FileList, location: str) -> FileList:
    """The files but those of runs below a folder, as where a scan writes into its own survey."""
    marks = [path for path in files.paths if path.endswith("/run.json") or "/ledger/" in path]
    records = {path.removesuffix("run.json") for path in marks}
    begun = {path[: at.start() + 1] for path in marks for at in re.finditer("/ledger/", path)}
    runs = tuple(records & begun - {f"{storage.absolute(location).rstrip('/')}/"})
    return FileList(file for file in files if not file.path.startswith(runs)) if runs else files


def _catalog_files(uri: SurveyUri) -> list[storage.InputFile]:
    """All files where `catalog=` says that objects are, which are no images of the survey."""
    if _is_foreign(uri.options.get("format", "")):
        return []
    paths = table_paths(uri.location, uri.options.get("catalog", ""))
    return [file for path in paths for file in list_files(path)]


def _count_suffixes(paths: Sequence[str]) -> str:
    """How many files of which suffixes: "3 files (2 of .csv, 1 of .csv.gz)"."""
    counts = Counter(suffix_of(path) or "no suffix" for path in paths).most_common(3)
    some = ", ".join(f"{count} of {suffix}" for suffix, count in counts)
    return f"{len(paths)} files ({some})" if some else "no files"


def _advice(location: str, paths: Sequence[str], asked: str | None, *, has_runs: bool) -> str:
    """What to do about a location with files of no reader, if any."""
    if has_runs and not paths:
        return "it holds runs of astroray, which are no survey"
    if not asked and any(path.lower().endswith(FORMATS["light_curves"]) for path in paths):
        return "say ?format=light_curves or ?format=spectra if they hold such"
    if paths:
        return "a reader of your own is named by ?format=package.module"
    if meant := difflib.get_close_matches(location, SCHEMES, n=1):
        return f"did you mean {meant[0]}?"
    here = os.path.expanduser(location)
    if os.path.isdir(here):
        return "the folder is empty"
    if glob.has_magic(here) and any(map(os.path.isdir, glob.iglob(here))):
        return f"it matches folders alone, whose files are '{location.rstrip('/')}/**'"
    return "check the path"


def _reader_of(path: str) -> str | None:
    lowered = path.lower()
    return next((name for suffix, name in SUFFIXES.items() if lowered.endswith(suffix)), None)
