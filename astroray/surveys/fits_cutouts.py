"""How FITS files of cutouts become rows: a cube, or an HDU, a file or several files a stamp.

Examples of surveys:

    'radio/*.fits.fz?table=labels.csv'      one stamp a file, planes are bands
    'cutouts.fits?bands=g,r,i'              a cube [N, C, Y, X] with a table of N rows beside it
    'stamps.fits?layout=mef'                one image HDU a stamp
    'hsc/*.fits?bands=HSC-G,HSC-R,HSC-I'    one file a band, 123_HSC-G.fits

What a survey is, is seen from the headers of its first file (`layout=auto`): images of several
bands at one place are one stamp, other images a stamp each; one image of at most 512 px (and at
most 6 planes) is a stamp, more planes are a cube. Images above 512 px are wide fields: the reader
`fields` finds the sources in them. `layout=`, `format=fits_cutouts` and `format=fields` overrule
that. Tables with a column of images go to the reader `arrays`. Files that Kepler, K2 or TESS
published as light curves go to the reader `light_curves`, though each holds an image of its
aperture, those of SDSS, LAMOST and DESI to the reader `spectra`.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from astroray import storage
from astroray.errors import ConfigError, DataError
from astroray.surveys import arrays, fields, fits_stamps, light_curves, shards, spectra
from astroray.surveys.band_files import bear_bands, group_band_files, guess_bands
from astroray.surveys.fits_arrays import image_table
from astroray.surveys.fits_files import FitsFile, open_fits
from astroray.surveys.light_curve_fits import is_light_curve
from astroray.surveys.object_tables import (
    ObjectTable,
    TableOptions,
    group_objects,
    open_object_table,
)
from astroray.surveys.objects import describe_objects
from astroray.surveys.shards import Cutouts, Reject, Shard, SurveyUri
from astroray.surveys.spectrum_fits import is_spectrum
from astroray.surveys.survey_paths import some_of, survey_folder

LAYOUTS = ("auto", "cube", "mef", "stamp", "band")
_MAX_STAMP_PX = 512
_MAX_BANDS = 6
_KINDS = {
    "light_curves": "light curves",
    "spectra": "spectra",
    "fields": f"wide fields (above {_MAX_STAMP_PX} px)",
    "fits_cutouts": "images of objects",
}
_SLICE_BYTES = 32 * 2**20
_SLICE_ROWS = 256
_NUM_LOOKED_AT = 12
_MAX_COMPARED_BYTES = 16 * 2**20
"""Size of a file that is opened only to see whether it is like the first: some are fetched whole,
or unpacked."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitsCutoutOptions(TableOptions):
    """Options of a survey of FITS cutouts, beside those of its table.

    Without `table=`, `id=`, `ra=` and `dec=` name columns of the table HDU beside a cube.
    """

    layout: str = "auto"
    """cube, mef (one image HDU a stamp), stamp (one file a stamp, its planes or HDUs are bands),
    band (one file a band: `123_g.fits`, `g-123.fits` or `g/123.fits`, with `bands=g,r,i`), or auto:
    as the first file is, and band where the files' names have every band of `bands`."""
    bands: str = ""
    """Names of the planes, `g,r,i`; else the header's BAND or FILTER, else b0, b1..."""
    hdu: str = ""
    """Name or number of the one image HDU to use."""
    shard_rows: int = 2000
    """Rows of a cube that make a shard."""
    shard_files: int = 512
    """Files of one stamp each that make a shard."""
    format: str = ""
    """Name of this reader."""

    def __post_init__(self) -> None:
        """Refuses values that cannot work."""
        if self.layout not in LAYOUTS:
            raise ConfigError(f"layout is {self.layout!r}, expected one of {LAYOUTS}")
        if self.layout == "band" and not self.bands.strip(", "):
            raise ConfigError("layout=band needs bands=g,r,i, the bands that files are named after")
        if self.shard_rows < 1:
            raise ConfigError(f"shard_rows is {self.shard_rows}, expected 1 or more")


def list_shards(inputs: Sequence[storage.InputFile], uri: SurveyUri) -> list[Shard]:
    """Shards of the cutouts in `inputs`; wide fields, tables of images, light curves and spectra go
    to their own readers.

    Only headers are read, of the first file, of a few more to see that they are like it, and of
    each cube for its length. Raises ConfigError on bad options, a table that does not fit, a first
    file without images, or files of two kinds.
    """
    files = storage.FileList.by_path(inputs)
    asked = uri.options.get("layout", "auto")
    is_told = asked in LAYOUTS and asked != "auto"  # others may be those of another reader
    is_new = not (uri.known or "format" in uri.options)
    found = asked if is_told else _look_over(files, uri, is_compared=is_new)
    if found == "light_curves":
        return light_curves.list_shards(files, uri)
    if found == "spectra":
        return spectra.list_shards(files, uri)
    if found == "arrays":
        return arrays.list_shards(files, uri)
    if found == "fields" and uri.options.get("format") != "fits_cutouts":
        return fields.list_shards(files, uri)
    _refuse_field_options(uri, files)
    options = shards.parse_options(FitsCutoutOptions, uri.options)
    options = dataclasses.replace(options, layout="stamp" if found == "fields" else found)
    folder = survey_folder(uri.location)
    bands = [band.strip() for band in options.bands.split(",") if band.strip()]
    is_open = options.layout == "stamp" and asked == "auto"
    if is_open and bear_bands([uri.known, files.paths], bands, folder):
        options = dataclasses.replace(options, layout="band")
    elif is_open and not (bands or uri.known):
        _expect_no_bands(files.paths, folder)
    named = open_object_table(uri.location, options) if options.table else contextlib.nullcontext()
    with named as table:
        if options.layout not in ("band", "stamp"):
            return _list_files(files, options, table, uri)
        group: Callable[..., list[Shard]] = (
            partial(group_band_files, bands=bands, is_later=bool(uri.known))
            if options.layout == "band"
            else group_objects
        )
        return group(
            files,
            table=table,
            folder=folder,
            reader="fits_cutouts",
            params=_params(options),
            group_size=options.shard_files,
            objects_folder=uri.objects_folder,
        )


def read_shard(shard: Shard, *, rows: Sequence[int] | None = None) -> Iterator[Cutouts | Reject]:
    """The cutouts of a shard in linear flux, as their file has them (first row at the bottom).

    Pixels are NaN where the file says NaN or BLANK, where a MASK, DQ or BAD image of the same
    shape is not 0, or where an IVAR or WEIGHT image is not above 0. Positions come from the
    table, else from the center of the stamp through its world coordinate system.
    Raises ShardError where a cube or a file of many HDUs cannot be read; a bad file of one stamp
    is a Reject.
    """
    readers = {
        "cube": fits_stamps.read_cube,
        "mef": fits_stamps.read_mef,
        "stamp": fits_stamps.read_stamps,
        "band": fits_stamps.read_band_files,
    }
    wanted = None if rows is None else sorted(set(rows))
    pending: list[fits_stamps.Stamp] = []
    for item in readers[str(shard.params["layout"])](shard, wanted):
        if pending and (isinstance(item, Reject) or not _fits(pending, item)):
            yield _cutouts(pending)
            pending = []
        if isinstance(item, Reject):
            yield item
        else:
            pending.append(item)
    if pending:
        yield _cutouts(pending)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Seen:
    """What one file holds."""

    path: str
    found: str
    """cube, mef or stamp, or the reader of what is no cutouts: fields for wide fields, arrays for a
    column of images, light_curves, spectra; empty where there are no pixels."""
    size: str
    """Of its first image, in words."""
    has_tables: bool


def _look_over(files: Sequence[storage.InputFile], uri: SurveyUri, *, is_compared: bool) -> str:
    """What the first file that can be opened holds, as `_Seen.found`; stamp where none can.

    is_compared  whether some more, all over the listing, have to be for the same reader

    A file that cannot be opened is a reject of its own later. Raises ConfigError where the first
    holds no pixels, or small files are for several readers.
    """
    seen: list[_Seen] = []
    for file in some_of(files, _NUM_LOOKED_AT):
        is_enough = seen and not (is_compared and seen[0].found)
        if is_enough or (seen and file.size_bytes > _MAX_COMPARED_BYTES):
            continue
        with contextlib.suppress(DataError):
            seen.append(_look_at(file.path, uri.options.get("hdu", "")))
    if not seen:
        return "stamp"
    if not seen[0].found:
        raise ConfigError(
            f"{seen[0].path} holds {'only tables' if seen[0].has_tables else 'no pixels'}, "
            "expected images, or a table with a column of them (of two or more axes by its TDIM); "
            "name the files of cutouts with a glob, or another reader with format=, "
            "format=light_curves for light curves, format=spectra for spectra"
        )
    _expect_one_kind(seen, uri)
    return seen[0].found


def _look_at(path: str, hdu: str) -> _Seen:
    with open_fits(path) as opened:
        found, has_tables, size = _product_of(opened), bool(opened.tables), ""
        if not found:
            images = opened.sciences(hdu)
            lengths = {opened.num_rows(index) for index in opened.tables}
            if images:
                height_px, width_px = images[0].plain_shape[-2:]
                size = f" ({width_px} x {height_px} px)"
                found = _layout_of([image.plain_shape for image in images], lengths)
            elif image_table(opened) is not None:
                found = "arrays"
            if found == "mef" and fits_stamps.are_bands(images):
                found = "stamp"
        return _Seen(path=path, found=found, size=size, has_tables=has_tables)


def _product_of(opened: FitsFile) -> str:
    """The reader of a file that is no image: light_curves or spectra; empty where it is neither."""
    if is_light_curve(opened.hdus):
        return "light_curves"
    return "spectra" if is_spectrum(opened.hdus) else ""


def _expect_one_kind(seen: Sequence[_Seen], uri: SurveyUri) -> None:
    """Raises ConfigError where files are for several readers; what has no pixels is a reject."""
    example: dict[str, str] = {}
    for file in seen:
        if file.found not in ("", "arrays"):
            kind = file.found if file.found in _KINDS else "fits_cutouts"
            example.setdefault(kind, f"{file.path}{file.size}")
    if len(example) > 1:
        (first, one), (second, other), *_ = example.items()
        if {first, second} == {"fields", "fits_cutouts"}:
            advice = (
                f"say '{uri.asking(format='fields')}' where all of them hold many objects, or "
                f"'{uri.asking(format='fits_cutouts')}' where each is an object"
            )
        else:
            advice = f"or with format={first}, which rejects the others"
        raise ConfigError(
            f"the survey mixes {_KINDS[first]} such as {one} and {_KINDS[second]} such as {other}, "
            f"expected one kind; name it with a glob, {advice}"
        )


def _layout_of(shapes: Sequence[tuple[int, ...]], lengths: set[int]) -> str:
    """What images of `shapes` are, beside tables of `lengths` rows."""
    first = shapes[0]
    if len(first) == 4 or (len(first) == 3 and first[0] > _MAX_BANDS and first[0] in lengths):
        return "cube"
    if min(max(shape[-2:]) for shape in shapes) > _MAX_STAMP_PX:
        return "fields"
    if len(shapes) > 1:
        return "mef"
    return "cube" if len(first) == 3 and first[0] > _MAX_BANDS else "stamp"


def _refuse_field_options(uri: SurveyUri, files: Sequence[storage.InputFile]) -> None:
    known = {field.name for field in dataclasses.fields(FitsCutoutOptions)}
    others = {field.name for field in dataclasses.fields(fields.FieldOptions)} - known
    wrong = sorted(others & set(uri.options))
    if wrong:
        raise ConfigError(
            f"survey option {wrong[0]!r} is for wide fields, and {files[0].path} holds cutouts; "
            "say format=fields to cut objects out of it"
        )


def _expect_no_bands(paths: Sequence[str], folder: str) -> None:
    """Raises ConfigError where files that are taken for an object each are a band each.

    Only where no header says so: of those that do, a scan refuses what is in several bands.
    """
    bands = guess_bands(paths, folder)
    if bands and not _names_its_band(paths[0]):
        raise ConfigError(
            f"files of {folder or 'the survey'} differ in the band alone ({', '.join(bands)}), "
            f"such as {paths[0]}, expected an object each; say bands={','.join(bands)} to read "
            "them together, or layout=stamp where each is an object"
        )


def _names_its_band(path: str) -> bool:
    try:
        with open_fits(path) as opened:
            return any(map(fits_stamps.band_of, opened.sciences()))
    except DataError:
        return False


def _params(options: FitsCutoutOptions) -> dict[str, Any]:
    names = ("layout", "bands", "hdu", "id", "ra", "dec")
    return {name: getattr(options, name) for name in names}


def _list_files(
    files: Sequence[storage.InputFile],
    options: FitsCutoutOptions,
    table: ObjectTable | None,
    uri: SurveyUri,
) -> list[Shard]:
    """Files of many stamps; a table goes with the rows of one."""
    num_files = len(files) + len(uri.listed)
    found = [shard for file in files for shard in _list_file(file, options, len(files) > 1)]
    if table is None:
        return found
    if num_files > 1:
        raise ConfigError(
            f"{table.where} goes with the rows of one file, got {num_files} files; give the "
            "files one by one, or put the table into each as a table HDU"
        )
    counts = [table.num_rows if shard.num_rows is None else shard.num_rows for shard in found]
    carried = describe_objects(table.by_row(counts), uri.objects_folder)
    return [
        dataclasses.replace(shard, params={**shard.params, "objects": own})
        for shard, own in zip(found, carried, strict=True)
    ]


def _list_file(
    file: storage.InputFile, options: FitsCutoutOptions, is_one_of_many: bool
) -> list[Shard]:
    """Ranges of rows of a cube, or the one shard that a file of many HDUs is."""
    num_rows = _num_rows(file, options)
    step = options.shard_rows
    starts = [0] if num_rows is None else range(0, num_rows, step)
    found = []
    for start in starts:
        stop = None if num_rows is None else min(start + step, num_rows)
        params = _params(options) | {"start": start, "stop": stop}
        name = shards.shard_name([file], params)
        if options.layout == "mef" and is_one_of_many:
            params["prefix"] = f"{storage.stem(file.path)}:"
        found.append(
            Shard(
                name=name,
                reader="fits_cutouts",
                inputs=(file,),
                params=params,
                num_rows=None if stop is None else stop - start,
            )
        )
    return found


def _num_rows(file: storage.InputFile, options: FitsCutoutOptions) -> int | None:
    """Rows of a cube that can be cut into shards; None for a file that is one shard.

    A packed or remote file is one shard, since each part of it costs unpacking or fetching it all.
    """
    is_whole = storage.is_remote(file.path) or file.path.lower().endswith(".gz")
    if options.layout != "cube" or is_whole:
        return None
    try:
        with open_fits(file.path) as opened:
            return fits_stamps.find_cube(opened, options.hdu).shape[0]
    except DataError:  # reading it fails in the same words, and is counted as a shard
        return None


def _fits(pending: Sequence[fits_stamps.Stamp], stamp: fits_stamps.Stamp) -> bool:
    is_same = pending[0].image_CYX.shape == stamp.image_CYX.shape
    is_small = (len(pending) + 1) * stamp.image_CYX.nbytes <= _SLICE_BYTES
    return is_same and is_small and len(pending) < _SLICE_ROWS and pending[0].bands == stamp.bands


def _cutouts(stamps: Sequence[fits_stamps.Stamp]) -> Cutouts:
    return Cutouts(
        row_B=np.array([stamp.row for stamp in stamps], np.int64),
        object_id_B=[stamp.object_id for stamp in stamps],
        ra_deg_B=np.array([stamp.ra_deg for stamp in stamps]),
        dec_deg_B=np.array([stamp.dec_deg for stamp in stamps]),
        image_BCYX=np.stack([stamp.image_CYX for stamp in stamps]),
        bands=stamps[0].bands,
        pixels="flux",
        flags_B=np.zeros(len(stamps), np.int32),
    )
