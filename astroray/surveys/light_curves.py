"""How files of light curves become rows: a FITS, npz or text file an object, or rows of tables.

Examples of surveys:

    'kepler/*_llc.fits?format=light_curves'
    'tess/*_lc.fits.gz?format=light_curves&flux=sap&quality=hard'
    'curves.parquet?format=light_curves&time=BTJD&mission=tess'
    'ztf_hats?format=light_curves&mag=true&band=g'
    'tess_young_stars/*.npz?format=light_curves&time=BTJD&mission=tess'
    'ogle/*.dat.gz?format=light_curves&columns=bjd,mag,mag_err&mag=true'
    'transients.csv.gz?format=light_curves&id=ID&mag=true'
    'dia_sources/*.parquet?format=light_curves&id=diaObjectId&band=g'

`read_light_curves` gives them one by one, `read_shard`, which every reader offers, in slices.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast, get_args

import numpy as np

from astroray import storage
from astroray.errors import ConfigError, DataError, FileError, SchemaError, ShardError
from astroray.surveys import light_curve_columns as columns
from astroray.surveys import light_curve_text as text
from astroray.surveys import shards
from astroray.surveys.hats_catalogs import open_hats
from astroray.surveys.light_curve_arrays import read_arrays
from astroray.surveys.light_curve_fits import read_fits
from astroray.surveys.light_curve_rows import (
    ZERO_JD,
    LightCurve,
    LightCurves,
    RawCurve,
    TimeZero,
    settle,
)
from astroray.surveys.light_curve_windows import ROWS_PER_CURVE, cut_windows
from astroray.surveys.measurements import read_parquet_measurements
from astroray.surveys.objects import Objects
from astroray.surveys.parquet_files import SUFFIXES
from astroray.surveys.quality import Mission, mask_bits
from astroray.surveys.shards import Reject, Shard, SurveyUri, reject
from astroray.surveys.slices import gather_lists, identity_of, reject_file
from astroray.surveys.survey_paths import one_kind, survey_folder

__all__ = ["ZERO_JD", "LightCurve", "list_shards", "read_light_curves", "read_shard"]

FLUXES = ("pdcsap", "sap")
_MIN_WINDOW = 16
_VISITS = ("quarter", "campaign", "sector")
_TABLES = ("parquet", "measurements")  # of many objects each


@dataclasses.dataclass(frozen=True, kw_only=True)
class LightCurveOptions:
    """Options of a survey of light curves."""

    flux: str = "pdcsap"
    """pdcsap (systematics removed), sap (as the aperture summed it), or of FITS files the name of
    any column."""
    quality: str = "default"
    """Bits that mask a cadence: default (pointing, momentum dumps, thruster firings, scattered
    light), hard (more), none, or an integer."""
    time: str = ""
    """BKJD, BTJD, BJD or MJD, where the files do not say; their times must be TDB."""
    mission: str = "other"
    """kepler, k2, tess or other, where the files do not say: what the quality bits mean."""
    mag: bool = False
    """Whether magnitudes are turned into flux relative to their median, or refused."""
    band: str = ""
    """The one band that is taken of tables whose measurements are in several: `band=g`."""
    curve: str = ""
    """Column of Parquet files that light curves are nested in, where there are several."""
    columns: str = ""
    """Names of the columns of text files that have no line of names: `time,flux,flux_err`."""
    id: str = ""
    """Column of objects in text and Parquet files that have a row a measurement; without it a text
    file, or a row of Parquet, is one object."""
    max_gap_d: float = 0.0
    """A light curve with a longer gap between two cadences is rejected; 0 is 1000 days for Kepler,
    K2 and TESS, 10000 for others."""
    window: int = 0
    """Cadences of a row of a scan: each light curve is cut in time into rows so long; 0: whole."""
    shard_files: int = 512
    """Files of one object each that make a shard; a Parquet file is a shard."""
    format: str = ""
    """Name of this reader."""

    def __post_init__(self) -> None:
        """Refuses values that cannot work."""
        choices = {
            "time": ("", *get_args(TimeZero)),
            "mission": get_args(Mission),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} is {getattr(self, name)!r}, expected one of {known}")
        mask_bits(self.quality, "other")
        if not self.max_gap_d >= 0:
            raise ConfigError(f"max_gap_d is {self.max_gap_d}, expected 0 or more days")
        if self.window < 0 or 0 < self.window < _MIN_WINDOW:
            raise ConfigError(f"window is {self.window}, expected 0 or at least {_MIN_WINDOW}")


def list_shards(inputs: Sequence[storage.InputFile], uri: SurveyUri) -> list[Shard]:
    """Groups of files of one object each, or one shard a table of many.

    Of Parquet files the footers are read where they are local, of npz and text the first file.
    Files of no known suffix are left out.
    Raises ConfigError on bad options, files of two kinds, and where no file can be understood
    without an option.
    """
    options = shards.parse_options(LightCurveOptions, uri.options)
    hats = open_hats(uri.location, inputs)  # other files lie beside its partitions
    if hats and not hats.partitions:
        return []
    kind, files = one_kind(
        hats.partitions if hats else inputs,
        uri.location,
        noun="light curves",
        format="light_curves",
    )
    _check_for_kind(options, kind)
    if options.id:
        kind = "measurements"
    params = {"kind": kind, "folder": survey_folder(uri.location)} | {
        name: value
        for name, value in dataclasses.asdict(options).items()
        if name not in ("shard_files", "format") and (value or name not in ("band", "curve"))
    }
    if kind not in _TABLES:
        _check_first(files, kind, options)
        return shards.group_files(
            files,
            reader="light_curves",
            params=params,
            rows_per_file=None if options.window else 1,
            group_size=options.shard_files,
        )
    counts = _count_rows(files, kind, options)
    return [
        shards.file_shard(
            file,
            reader="light_curves",
            params=params,
            num_rows=None if options.window else num_rows,
        )
        for file, num_rows in zip(files, counts, strict=True)
    ]


def _check_for_kind(options: LightCurveOptions, kind: str) -> None:
    """Raises ConfigError on options that files of this kind cannot have."""
    if kind != "fits" and options.flux not in FLUXES:
        raise ConfigError(
            f"flux is {options.flux!r}, expected one of {FLUXES}: only of FITS files it names a "
            "column"
        )
    if options.band and kind == "fits":
        raise ConfigError(f"band is {options.band!r}, expected none: FITS files are of one band")
    if options.id and kind not in ("text", "parquet"):
        raise ConfigError(
            f"id is {options.id!r}, expected none: it names the objects of text and Parquet files "
            f"that have a row a measurement, and these are {kind}"
        )


def read_light_curves(
    shard: Shard, *, rows: Sequence[int] | None = None, contents: Mapping[str, bytes] | None = None
) -> Iterator[LightCurve | Reject]:
    """All light curves of the shard, or only `rows`, in row order; each row gives one item.

    contents  by path, the bytes of FITS or Parquet files that are at hand and in no storage

    What is bad of one object is a Reject of its row.
    Raises ShardError where a table of many objects cannot be read as a whole.
    """
    own = ("kind", "folder")
    params: dict[str, Any] = {key: value for key, value in shard.params.items() if key not in own}
    options = LightCurveOptions(**params)
    path_of = {row: file.path for row, file in enumerate(shard.inputs)}
    if shard.params["kind"] in _TABLES:
        try:
            for row, raw in _read_table(shard, options, rows, contents or {}):
                if isinstance(raw, RawCurve) and not raw.object_id:
                    yield _nameless(raw, row, path_of[0], options)
                    continue
                yield _settle(raw, row, f"row {row} of {path_of[0]}", options)
        except (SchemaError, FileError) as error:
            raise ShardError(str(error)) from None
        return
    kind, folder = str(shard.params["kind"]), str(shard.params["folder"])
    for row in path_of if rows is None else sorted(set(rows)):
        raw = _read_file(path_of[row], row, kind, options, contents or {})
        if isinstance(raw, RawCurve) and not raw.object_id:  # named after its file, as pictures are
            (name,) = Objects.from_files([path_of[row]], folder).object_id_N
            raw = dataclasses.replace(raw, object_id=name or f"{shard.name}:{row}")
        yield _settle(raw, row, path_of[row], options)


def read_shard(
    shard: Shard, *, rows: Sequence[int] | None = None, contents: Mapping[str, bytes] | None = None
) -> Iterator[LightCurves | Reject]:
    """The rows of the shard as slices of a few light curves, and rejects, in row order.

    A star that a mission saw several times has as many rows, so its quarter, campaign or sector,
    or else its first day, is part of their identifiers: "KIC 9726699 Q2", "TIC 25118964 BTJD 1325".
    `contents` are as `read_light_curves` has them.
    Raises ShardError as `read_light_curves` does.
    """
    window = int(shard.params.get("window", 0))
    found = (
        _read_windows(shard, window, rows, contents)
        if window
        else read_light_curves(shard, rows=rows, contents=contents)
    )
    yield from gather_lists(found, _slice)


def _nameless(raw: RawCurve, row: int, path: str, options: LightCurveOptions) -> Reject:
    """Measurements without an identifier may be of many objects."""
    reason = (
        f"{len(raw.time_d)} measurements of {path} have nothing in column {options.id!r}, expected "
        "the identifier of their object"
    )
    return reject(row, "missing", reason)


def _read_windows(
    shard: Shard, window: int, rows: Sequence[int] | None, contents: Mapping[str, bytes] | None
) -> Iterator[LightCurve | Reject]:
    """Each light curve in pieces of so many cadences; of each row the curve's, then the piece's."""
    wanted = None if rows is None else set(rows)
    whole = None if rows is None else sorted({row // ROWS_PER_CURVE for row in rows})
    for found in read_light_curves(shard, rows=whole, contents=contents):
        if isinstance(found, Reject):
            yield dataclasses.replace(found, row=(found.row or 0) * ROWS_PER_CURVE)
            continue
        for piece in cut_windows(found, window):
            if wanted is None or piece.row in wanted:
                yield piece


def _slice(curves: Sequence[LightCurve]) -> LightCurves:
    names = [_row_name(curve) for curve in curves]
    return LightCurves(**identity_of(curves, names), curve_B=tuple(curves))


def _row_name(curve: LightCurve) -> str:
    piece = f" W{curve.meta['window']:.0f}" if "window" in curve.meta else ""
    if curve.mission == "other":
        return curve.object_id + piece
    visits = [f"{name[0].upper()}{curve.meta[name]:.0f}" for name in _VISITS if name in curve.meta]
    first_d = curve.meta.get("first_day", curve.time_d[0])
    visit = visits[0] if visits else f"{curve.time_zero} {math.floor(first_d)}"
    return f"{curve.object_id} {visit}{piece}"


def _settle(
    raw: RawCurve | Reject, row: int, where: str, options: LightCurveOptions
) -> LightCurve | Reject:
    if isinstance(raw, Reject):
        return raw
    with np.errstate(invalid="ignore", over="ignore"):  # of numbers that the rules refuse
        return settle(
            raw, row=row, where=where, quality=options.quality, max_gap_d=options.max_gap_d
        )


def _read_file(
    path: str, row: int, kind: str, options: LightCurveOptions, contents: Mapping[str, bytes]
) -> RawCurve | Reject:
    """What a file of one object says."""
    try:
        return _parse(path, kind, options, contents.get(path))
    except DataError as error:
        return reject_file(row, path, error)


def _parse(path: str, kind: str, options: LightCurveOptions, data: bytes | None = None) -> RawCurve:
    if kind == "npz":
        return read_arrays(path, _stated(options))
    if kind == "text":
        return text.read_text(path, _stated(options), names=_names(options))
    mission = cast(Mission, options.mission)
    return read_fits(
        path,
        flux=options.flux,
        otherwise_zero=options.time,
        otherwise_mission=mission,
        data=data,
    )


def _stated(options: LightCurveOptions) -> columns.Stated:
    mission = cast(Mission, options.mission)
    return columns.Stated(
        time=options.time,
        mission=mission,
        mag=options.mag,
        band=options.band,
        curve=options.curve,
    )


def _check_first(files: Sequence[storage.InputFile], kind: str, options: LightCurveOptions) -> None:
    """Refuses what would reject every file for want of an option, as the first one shows."""
    if kind == "fits" and options.flux in FLUXES:  # its header says what is needed
        return
    try:
        _parse(files[0].path, kind, options)
    except SchemaError as error:
        raise ConfigError(str(error)) from None
    except DataError:  # its own row is rejected when it is read
        return


def _count_rows(
    files: Sequence[storage.InputFile], kind: str, options: LightCurveOptions
) -> list[int | None]:
    """Rows of each table; None where that costs reading it, or it is broken: reading it says so."""
    counts: list[int | None] = []
    for place, file in enumerate(files):
        num_rows = None
        is_first = place == 0
        if is_first or (kind == "parquet" and not storage.is_remote(file.path)):
            try:
                num_rows = _count(file.path, kind, options)
            except SchemaError as error:
                if is_first:
                    raise ConfigError(str(error)) from None
            except (ShardError, FileError):
                num_rows = None
        counts.append(num_rows)
    return counts


def _count(path: str, kind: str, options: LightCurveOptions) -> int:
    if kind == "parquet":
        return columns.check_parquet(path, _stated(options))
    return len(_read_measurements(path, options))


def _read_table(
    shard: Shard,
    options: LightCurveOptions,
    rows: Sequence[int] | None,
    contents: Mapping[str, bytes],
) -> Iterator[tuple[int, RawCurve | Reject]]:
    path = shard.inputs[0].path
    if shard.params["kind"] == "parquet":
        yield from columns.read_rows(path, _stated(options), rows, shard.name, contents.get(path))
        return
    wanted = None if rows is None else set(rows)
    for row, raw in enumerate(_read_measurements(path, options)):
        if wanted is None or row in wanted:
            yield row, raw


def _read_measurements(path: str, options: LightCurveOptions) -> list[RawCurve]:
    stated, id_column = _stated(options), options.id
    if path.lower().endswith(SUFFIXES):
        return read_parquet_measurements(path, stated, id_column=id_column).by_object()
    names = _names(options)
    measured = text.read_text_measurements(path, stated, names=names, id_column=id_column)
    return measured.by_object()


def _names(options: LightCurveOptions) -> list[str]:
    return [name.strip() for name in options.columns.split(",") if name.strip()]
