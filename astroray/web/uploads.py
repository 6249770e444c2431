"""How bytes that anybody may have sent become what the model eats, or a refusal with its reason."""

import numpy as np

from astroray.errors import DataError
from astroray.preparation import Preparation, Prepared, prepare
from astroray.surveys.fits_files import open_fits_bytes
from astroray.surveys.fits_stamps import read_stamp
from astroray.surveys.pictures import decode_picture
from astroray.surveys.shards import Cutouts, Pixels, Reject
from astroray.web.fits_limits import check_fits, unpack

__all__ = ["MEDIA_TYPES", "UnknownFormatError", "read_upload"]

MEDIA_TYPES = ("application/fits", "image/png", "image/jpeg", "application/octet-stream")
"""What an upload may call itself; what it is, its first bytes say."""
_PICTURES = (b"\x89PNG", b"\xff\xd8")
_MAX_BYTES_A_PIXEL = 8


class UnknownFormatError(DataError):
    """The first bytes are those of no format that is taken."""


def read_upload(
    data: bytes,
    preparation: Preparation,
    *,
    bands: str = "",
    max_pixels: int,
    name: str = "the upload",
) -> Prepared:
    """One cutout as the model expects it, one row; by its first bytes FITS, PNG or JPEG.

    bands       names of the planes of a FITS image, `g,r,i`, where its header does not say them
    max_pixels  over all planes; more are refused before they are decoded
    name        what errors call it

    Raises DataError with what is wrong with it.
    """
    data = unpack(data, max_bytes=_MAX_BYTES_A_PIXEL * max_pixels + 2**20)
    if data.startswith(b"SIMPLE  ="):
        cutouts = _read_fits(name, data, bands, max_pixels)
    elif data.startswith(_PICTURES):
        cutouts = _read_picture(name, data, preparation, max_pixels)
    else:
        raise UnknownFormatError(
            f"{name} begins with {data[:8]!r}, expected a FITS file (plain or gzip), a PNG or "
            "a JPEG"
        )
    prepared = prepare(cutouts, preparation)
    if prepared.rejects:
        raise DataError(f"the cutout cannot be used: {prepared.rejects[0].reason}")
    return prepared


def _read_fits(name: str, data: bytes, bands: str, max_pixels: int) -> Cutouts:
    check_fits(data, max_pixels=max_pixels)
    with open_fits_bytes(name, data) as file:
        stamp = read_stamp(file, file.sciences(), 0, name, bands)
    if isinstance(stamp, Reject):
        raise DataError(stamp.reason)
    return _one_row(stamp.image_CYX, stamp.bands, "flux")


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
