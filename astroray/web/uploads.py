"""How bytes that anybody may have sent become what the model eats, or a refusal with its reason."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from astroray.errors import DataError, ShardError
from astroray.preparation import Preparation, Prepared, prepare
from astroray.preparation.light_curves import CurvePreparation
from astroray.preparation.modalities import MODALITIES, AnyPreparation
from astroray.surveys.fits_files import FitsFile, open_fits_bytes
from astroray.surveys.fits_headers import FitsImage
from astroray.surveys.fits_stamps import read_stamp
from astroray.surveys.pictures import decode_picture
from astroray.surveys.shards import Cutouts, ModalityName, Pixels, Reject, Rows
from astroray.web.curve_uploads import CurveLimits, Stated, UnknownFormatError, read_rows
from astroray.web.fits_limits import check_fits, unpack
from astroray.web.spectrum_uploads import read_spectra

__all__ = [
    "FORMATS", "MEDIA_TYPES", "AskedError", "Beside", "UnknownFormatError", "read_upload",
]  # fmt: skip

_LISTS = ("application/fits", "application/vnd.apache.parquet", "application/octet-stream")

MEDIA_TYPES: Mapping[ModalityName, tuple[str, ...]] = {
    "images": ("application/fits", "image/png", "image/jpeg", "application/octet-stream"),
    "light_curves": _LISTS,
    "spectra": _LISTS,
}
"""What an upload may call itself; what it is, its first bytes say."""
FORMATS: Mapping[ModalityName, str] = {
    "images": "FITS (plain or gzip), PNG or JPEG",
    "light_curves": "FITS (plain or gzip) or Parquet",
    "spectra": "FITS (plain or gzip) or Parquet",
}
_PICTURES = (b"\x89PNG", b"\xff\xd8")
_MAX_BYTES_A_PIXEL = 8
_MAX_SHOWN = 8
"""Rows of a file that an error names."""


class AskedError(DataError):
    """Not the file is at fault, but what was said beside it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Beside:
    """What is said beside the bytes, where they do not say it themselves."""

    bands: str = ""
    """Names of the planes of a FITS image, `g,r,i`."""
    row: int | None = None
    """Which of several light curves, windows or spectra of a file is meant, as a scan counts them,
    from 0; of DESI the row in its FIBERMAP."""
    time: str = ""
    """From when the times of a light curve count; see `Stated`."""
    mission: str = ""
    """What mission's a light curve is; see `Stated`."""


def read_upload(
    data: bytes,
    preparation: AnyPreparation,
    *,
    beside: Beside | None = None,
    params: Mapping[str, Any] | None = None,
    max_pixels: int,
    curves: CurveLimits | None = None,
    name: str = "the upload",
) -> Prepared:
    """One row as the model expects it: a cutout (FITS, PNG, JPEG), light curve or spectrum.

    params      of a shard of the survey: how its light curves or spectra are read, and FITS
                files of a cutout each
    max_pixels  over all planes; more are refused before they are decoded
    curves      how much of light curves or spectra is taken
    name        what errors call it

    Raises DataError with what is wrong with it; AskedError where that is what was said of it.
    """
    beside = beside or Beside()
    params, curves = params or {}, curves or CurveLimits()
    if isinstance(preparation, Preparation):
        if beside.row is not None or beside.time or beside.mission:
            raise AskedError(
                "row, time and mission are of light curves and spectra, this run is one of images"
            )
        return _cutout(name, data, preparation, beside.bands, params, max_pixels)
    modality = MODALITIES[preparation.modality]
    if beside.bands:
        raise AskedError(f"bands are of images, this run is one of {modality.nouns}")
    if isinstance(preparation, CurvePreparation):
        stated = Stated(time=beside.time, mission=beside.mission)
        rows: Rows = read_rows(data, stated, limits=curves, params=params, name=name)
    else:
        if beside.time or beside.mission:
            raise AskedError("time and mission are of light curves, this run is one of spectra")
        rows = read_spectra(data, limits=curves, params=params, name=name)
    prepared = modality.prepare(_one_of(rows, beside.row, name), preparation)
    if prepared.rejects:
        raise DataError(f"the {modality.noun} cannot be used: {prepared.rejects[0].reason}")
    return prepared


def _one_of(rows: Rows, row: int | None, name: str) -> Rows:
    """The row of a file that is meant."""
    known = rows.row_B.tolist()
    if row is None and len(known) == 1:
        return rows
    if len(known) == 1 and row not in known:
        raise AskedError(f"row is {row}, and {name} holds a single object; leave row out")
    if row not in known:
        some = [f"{at} is {who!r}" for at, who in zip(known, rows.object_id_B, strict=True)]
        shown = ", ".join(some[:_MAX_SHOWN]) + (f" ... {some[-1]}" if some[_MAX_SHOWN:] else "")
        wrong = "" if row is None else f"row is {row}, and "
        raise AskedError(
            f"{wrong}{name} holds {len(known)} rows that can be used: {shown}; say which one with "
            f"row={known[0]}"
        )
    return rows.take(np.array([known.index(row)]))


def _cutout(
    name: str,
    data: bytes,
    preparation: Preparation,
    bands: str,
    params: Mapping[str, Any],
    max_pixels: int,
) -> Prepared:
    data = unpack(data, max_bytes=_MAX_BYTES_A_PIXEL * max_pixels + 2**20)
    if data.startswith(b"SIMPLE  ="):
        cutouts = _read_fits(name, data, bands, params, max_pixels)
    elif data.startswith(_PICTURES):
        cutouts = _read_picture(name, data, preparation, max_pixels)
    else:
        raise UnknownFormatError(name, data, ", a PNG or a JPEG")
    prepared = prepare(cutouts, preparation)
    if prepared.rejects:
        raise DataError(f"the cutout cannot be used: {prepared.rejects[0].reason}")
    return prepared


def _read_fits(
    name: str, data: bytes, bands: str, params: Mapping[str, Any], max_pixels: int
) -> Cutouts:
    """The cutout in a FITS file; what neither it nor the request says is as the survey has it."""
    data = check_fits(data, max_pixels=max_pixels)
    of_survey = params if params.get("layout") == "stamp" else {}
    with open_fits_bytes(name, data) as file:
        images = _sciences(file, str(of_survey.get("hdu", "")))
        stamp = read_stamp(file, images, 0, name, bands)
        unnamed = [f"b{plane}" for plane in range(len(getattr(stamp, "bands", ())))]
        if of_survey.get("bands") and list(getattr(stamp, "bands", ())) == unnamed:
            stamp = read_stamp(file, images, 0, name, str(of_survey["bands"]))
    if isinstance(stamp, Reject):
        raise DataError(stamp.reason)
    return _one_row(stamp.image_CYX, stamp.bands, "flux")


def _sciences(file: FitsFile, hdu: str) -> list[FitsImage]:
    """The image HDU that the survey's files are read from; of a file without it the only one."""
    found = file.sciences()
    try:
        return file.sciences(hdu)
    except ShardError:
        if len(found) != 1:
            raise
        return found


def _read_picture(name: str, data: bytes, preparation: Preparation, max_pixels: int) -> Cutouts:
    mode = "L" if preparation.bands == ("L",) else "RGB"
    image_CYX = decode_picture(name, data, mode, max_pixels=max_pixels // len(mode))
    if isinstance(image_CYX, tuple):
        raise DataError(image_CYX[1])
    return _one_row(image_CYX, tuple(mode), "display")


def _one_row(image_CYX: np.ndarray, bands: tuple[str, ...], pixels: Pixels) -> Cutouts:
    return Cutouts(
        row_B=np.zeros(1, np.int64),
        object_id_B=["the cutout"],
        ra_deg_B=np.full(1, np.nan),
        dec_deg_B=np.full(1, np.nan),
        image_BCYX=image_CYX[None],
        bands=bands,
        pixels=pixels,
        flags_B=np.zeros(1, np.int32),
    )
