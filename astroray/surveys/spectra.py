"""How files of spectra become rows: a FITS file an object, DESI's files, Parquet and npz of many.

Examples of surveys:

    'sdss/spec-*.fits'
    'lamost/*.fits.gz?mask=any'
    'desi/coadd-*.fits'
    'spectra.parquet?format=spectra&unit=nm'
    'spectra_hats?format=spectra'
    'templates.npz?format=spectra&rest=true'

`read_spectra` gives them one by one, `read_shard`, which every reader offers, in slices.
"""

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence

from astroray import storage
from astroray.errors import ConfigError, DataError, FileError, SchemaError, ShardError
from astroray.surveys import shards
from astroray.surveys import spectrum_columns as columns
from astroray.surveys.fits_tables import read_hdus
from astroray.surveys.hats_catalogs import open_hats
from astroray.surveys.objects import Objects
from astroray.surveys.shards import Reject, Shard, SurveyUri
from astroray.surveys.slices import gather_lists, reject_file
from astroray.surveys.spectrum_fits import holds_many, read_many, read_one
from astroray.surveys.spectrum_rows import (
    RawSpectrum,
    Spectra,
    Spectrum,
    check_mask,
    settle,
)
from astroray.surveys.survey_paths import one_kind, some_of, survey_folder

__all__ = ["list_shards", "read_shard", "read_spectra"]

_log = logging.getLogger(__name__)

_TABLES = ("parquet", "desi", "stack")  # of many objects each
_NUM_LOOKED_AT = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpectrumOptions:
    """Options of a survey of spectra."""

    mask: str = "default"
    """Which pixels the mask makes bad: default (of SDSS and LAMOST those under a bright or unknown
    sky, of DESI and others all that it marks), any, none, or bits as a number."""
    rest: bool = False
    """Whether wavelengths are divided by 1 + redshift, as the survey measured it: the header of
    SDSS and LAMOST, a column `redshift` or `z`; a spectrum without one is rejected."""
    unit: str = "Angstrom"
    """Of wavelengths in Parquet and npz files: Angstrom, nm or um."""
    shard_files: int = 512
    """Files of one object each that make a shard; a file of many is a shard."""
    format: str = ""
    """Name of this reader."""

    def __post_init__(self) -> None:
        """Refuses values that cannot work."""
        check_mask(self.mask)
        if self.unit not in columns.UNITS:
            raise ConfigError(f"unit is {self.unit!r}, expected one of {list(columns.UNITS)}")


def list_shards(inputs: Sequence[storage.InputFile], uri: SurveyUri) -> list[Shard]:
    """Groups of files of one object each, or one shard a file of many.

    Of Parquet files the footers are read where they are local, of others the first file.
    Raises ConfigError on bad options, files of two kinds, and a first file that holds no spectra.
    """
    options = shards.parse_options(SpectrumOptions, uri.options)
    hats = open_hats(uri.location, inputs)  # other files lie beside its partitions
    if hats and not hats.partitions:
        return []
    files = hats.partitions if hats else inputs
    kind, files = one_kind(files, uri.location, noun="spectra", format="spectra")
    kind = _sniff(files, kind)
    given = dataclasses.asdict(options)
    params = {"kind": kind, "folder": survey_folder(uri.location)}
    params |= {name: given[name] for name in ("mask", "rest", "unit")}
    if kind not in _TABLES:
        return shards.group_files(
            files,
            reader="spectra",
            params=params,
            rows_per_file=1,
            group_size=options.shard_files,
        )
    return [
        shards.file_shard(file, reader="spectra", params=params, num_rows=_count(file.path, kind))
        for file in files
    ]


def read_spectra(
    shard: Shard, *, rows: Sequence[int] | None = None, contents: Mapping[str, bytes] | None = None
) -> Iterator[Spectrum | Reject]:
    """All spectra of the shard, or only `rows`, in row order; what is bad of one is its Reject.

    contents  by path, the bytes of FITS or Parquet files that are at hand and in no storage

    Fibers on the sky have no row. Raises ShardError where a file of many objects cannot be read.
    """
    mask, is_rest = str(shard.params["mask"]), bool(shard.params["rest"])
    kind, contents = str(shard.params["kind"]), contents or {}
    if kind in _TABLES:
        path = shard.inputs[0].path
        try:
            for row, raw in _read_table(shard, kind, path, rows, contents.get(path)):
                if isinstance(raw, Reject):
                    yield raw
                else:
                    where = f"row {row} of {path}"
                    yield settle(raw, row=row, where=where, mask=mask, is_rest=is_rest)
        except (SchemaError, FileError) as error:
            raise ShardError(str(error)) from None
        return
    wanted = range(len(shard.inputs)) if rows is None else sorted(set(rows))
    for row in wanted:
        path = shard.inputs[row].path
        one = _read_file(path, row, kind, shard, contents.get(path))
        if isinstance(one, RawSpectrum):
            yield settle(one, row=row, where=path, mask=mask, is_rest=is_rest)
        else:
            yield one


def read_shard(
    shard: Shard, *, rows: Sequence[int] | None = None, contents: Mapping[str, bytes] | None = None
) -> Iterator[Spectra | Reject]:
    """The rows of the shard as slices of a few spectra, and rejects, in row order.

    `contents` are as `read_spectra` has them. Raises ShardError as `read_spectra` does.
    """
    yield from gather_lists(read_spectra(shard, rows=rows, contents=contents), Spectra.of)


def _sniff(files: Sequence[storage.InputFile], kind: str) -> str:
    """The kind, told from what a file that can be read holds: one object or many."""
    for file in some_of(files, _NUM_LOOKED_AT):
        try:
            if kind == "fits":
                return "desi" if holds_many(read_hdus(file.path)) else "fits"
            if kind == "npz":
                return "npz" if columns.check_arrays(file.path) is None else "stack"
            columns.check_parquet(file.path)
        except SchemaError as error:
            raise ConfigError(str(error)) from None
        except DataError:  # its own row or shard is rejected when it is read
            continue
        return kind
    return kind


def _count(path: str, kind: str) -> int | None:
    """Rows of a file of many; None where that costs reading it, or it is broken."""
    if kind == "desi" or storage.is_remote(path):
        return None
    try:
        return columns.check_parquet(path) if kind == "parquet" else columns.check_arrays(path)
    except DataError:
        return None


def _read_table(
    shard: Shard, kind: str, path: str, rows: Sequence[int] | None, data: bytes | None
) -> Iterator[tuple[int, RawSpectrum | Reject]]:
    unit = str(shard.params["unit"])
    if kind == "parquet":
        yield from columns.read_rows(path, rows, shard.name, unit, data)
    elif kind == "stack":
        yield from columns.read_arrays(path, rows, shard.name, unit)
    else:
        yield from read_many(path, rows, data)


def _read_file(
    path: str, row: int, kind: str, shard: Shard, data: bytes | None
) -> RawSpectrum | Reject:
    """What a file of one object says; one without a name is called after its file."""
    try:
        if kind == "fits":
            raw = read_one(path, data)
        else:
            ((_, raw),) = columns.read_arrays(path, None, shard.name, str(shard.params["unit"]))
    except DataError as error:
        return reject_file(row, path, error)
    if raw.object_id:
        return raw
    (name,) = Objects.from_files([path], str(shard.params["folder"])).object_id_N
    return dataclasses.replace(raw, object_id=name or f"{shard.name}:{row}")
