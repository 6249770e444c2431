"""How a FITS file is opened: plain, gzip or tile-compressed, whole or not at all.

A file is checked when it is opened: what its headers promise must be there, so that a truncated
file is refused before its first row.
"""

import contextlib
import dataclasses
import gzip
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from astropy.io import fits

from astroray import storage
from astroray.errors import ShardError
from astroray.surveys.array_headers import ArrayHeader
from astroray.surveys.fits_headers import BAD_DATA, FitsImage, logged_warnings, one_line

_log = logging.getLogger(__name__)

_GZIP_MAGIC = b"\x1f\x8b"
_NO_FITS = "is no FITS file that can be read"
ALL = slice(None)


class FitsFile:
    """An open FITS file, made by `open_fits`."""

    def __init__(self, path: str, hdus: fits.HDUList) -> None:
        self.path = path
        self.hdus = hdus
        self.images = tuple(
            _describe(path, index, hdu, hdus[0].header)
            for index, hdu in enumerate(hdus)
            if _is_image(hdu)
        )
        """All image HDUs that hold pixels, masks among them, in file order."""
        self.tables = tuple(
            index
            for index, hdu in enumerate(hdus)
            if isinstance(hdu, fits.BinTableHDU | fits.TableHDU)
        )
        """Positions of the table HDUs."""
        self._masks = self._pair_masks()

    def sciences(self, hdu: str = "") -> list[FitsImage]:
        """The images proper: `hdu` if asked for, else those named SCI if any is, else all that are
        no companion maps.
        """
        if hdu:
            return [self.find(hdu)]
        named = [image for image in self.images if image.name.upper() == "SCI"]
        labels = {image.label for image in self.images if not image.is_companion} | {""}
        return named or [
            image for image in self.images if not (image.is_companion and image.label in labels)
        ]

    def find(self, hdu: str) -> FitsImage:
        """The image HDU of that name or number. Raises ShardError where there is none."""
        for image in self.images:
            if hdu == str(image.index) or hdu.upper() == image.name.upper():
                return image
        known = [image.name or image.index for image in self.images]
        raise ShardError(f"{self.path} has no image HDU {hdu!r}, expected one of {known}; see hdu=")

    def read(self, image: FitsImage, *, rows: slice = ALL, lines: slice = ALL) -> np.ndarray:
        """Pixels as native float32; BLANK becomes NaN.

        rows   of the first axis, where a cube has more than two
        lines  of the axis Y, the last but one; nothing else is read or unpacked

        Raises ShardError where they cannot be decoded.
        """
        stored = self._stored(image, rows, lines)
        with _translated(self.path, f"cannot decode the pixels of HDU {image.index}"):
            return _to_float32(stored, image.header)

    def _stored(self, image: FitsImage, rows: slice, lines: slice) -> np.ndarray:
        num_axes = len(image.shape)
        key = (lines,) if num_axes == 2 else (rows, *[ALL] * (num_axes - 3), lines)
        with _translated(self.path, f"cannot read the pixels of HDU {image.index}"):
            return np.asarray(self.hdus[image.index].section[key])

    def read_bad(
        self, image: FitsImage, *, rows: slice = ALL, lines: slice = ALL
    ) -> np.ndarray | None:
        """Bad pixels of `image`, by its masks and weights of its shape in this file; None without.

        Several masks of one name belong to the images by EXTVER, else by their order in the file.
        """
        bad: np.ndarray | None = None
        for mask in self._masks.get(image.index, ()):
            one = self.read_mask(mask, rows=rows, lines=lines)
            bad = one if bad is None else bad | one
        return bad

    def read_mask(self, mask: FitsImage, *, rows: slice = ALL, lines: slice = ALL) -> np.ndarray:
        """Where `mask` says bad: a mask is not 0, a weight or inverse variance is not above 0."""
        if "BZERO" not in mask.header:  # integers as they are: float32 has not all bits of them
            stored = self._stored(mask, rows, lines)
            if stored.dtype.kind in "iu" and "BLANK" not in mask.header:
                return mask.bad(stored)
        return mask.bad(self.read(mask, rows=rows, lines=lines))

    def num_rows(self, index: int) -> int:
        """Rows of table HDU `index`."""
        return int(self.hdus[index].header["NAXIS2"])

    def column_headers(self, index: int) -> dict[str, ArrayHeader]:
        """The columns of table HDU `index` as they are read; lists of any length are left out.

        Of two with one name the first counts. Text has the dtype U, without a length.
        """
        found: dict[str, ArrayHeader] = {}
        with _translated(self.path, f"cannot read the table in HDU {index}"):
            none = self.hdus[index].data[:0]
            for column in none.columns:
                if not column.name or column.name in found or column.format[-1:] == ")":
                    continue
                values = np.asarray(none[column.name])
                found[column.name] = ArrayHeader(
                    shape=(self.num_rows(index), *values.shape[1:]),
                    dtype=np.dtype("U") if values.dtype.kind == "U" else values.dtype,
                    unit=column.unit or "",
                )
        return found

    def read_columns(
        self,
        index: int,
        names: Sequence[str],
        *,
        start: int | None = None,
        stop: int | None = None,
    ) -> dict[str, np.ndarray]:
        """Columns of table HDU `index`, rows `start:stop`; an image's TNULL becomes NaN."""
        with _translated(self.path, f"cannot read the table in HDU {index}"):
            rows = self.hdus[index].data[slice(start, stop)]
            return {name: _column_values(rows, name) for name in names}

    def _pair_masks(self) -> dict[int, list[FitsImage]]:
        """The masks of each image, by the image's HDU; there may be one of each name."""
        images = self.sciences()
        pairs: dict[int, list[FitsImage]] = {}
        for name in dict.fromkeys(mask.name for mask in self.images if mask.is_mask):
            masks = [mask for mask in self.images if mask.name == name]
            by_version = {mask.version: mask for mask in masks}
            for order, image in enumerate(images):
                if masks[0].label not in ("", image.label):
                    continue
                if len(masks) == 1:
                    mask = masks[0]
                elif len(by_version) == len(masks):
                    mask = by_version.get(image.version, image)
                else:
                    mask = masks[order] if len(masks) == len(images) else image
                if mask is not image and mask.shape == image.shape:
                    pairs.setdefault(image.index, []).append(mask)
        return pairs


def _column_values(rows: fits.FITS_rec, name: str) -> np.ndarray:
    values = np.asarray(rows[name])
    column = rows.columns[name]
    if column.null is None or values.ndim < 3 or values.dtype.kind not in "iuf":
        return values
    null = column.null * (column.bscale or 1) + (column.bzero or 0)
    return np.where(values == null, np.float32(np.nan), values)


@contextlib.contextmanager
def open_fits(path: str) -> Iterator[FitsFile]:
    """The FITS file at `path`, checked to be whole; a plain file is mapped, never read ahead.

    Raises ShardError where it is no FITS file, is truncated or cannot be decoded.
    """
    with storage.local_copy(path) as copy, contextlib.ExitStack() as stack:
        with _translated(path, _NO_FITS):
            # opened here, since astropy leaves its own file open where the headers are bad
            file = _open(path, stack.enter_context(_open_bytes(copy)), stack)
        yield file


@contextlib.contextmanager
def open_fits_bytes(name: str, data: bytes) -> Iterator[FitsFile]:
    """The FITS file in `data`, as of `open_fits` but not packed by gzip; errors call it `name`."""
    with contextlib.ExitStack() as stack:
        with _translated(name, _NO_FITS):
            file = _open(name, io.BytesIO(data), stack)
        yield file


def _open(path: str, stream: BinaryIO, stack: contextlib.ExitStack) -> FitsFile:
    hdus = fits.open(stream, memmap=True, lazy_load_hdus=False, do_not_scale_image_data=True)
    stack.callback(_close, hdus)
    _check_whole(path, hdus, stream)
    return FitsFile(path, hdus)


def _open_bytes(copy: Path) -> BinaryIO:
    """The bytes of FITS: the file itself, or gzip unpacked to memory."""
    with copy.open("rb") as stream:
        is_packed = stream.read(2) == _GZIP_MAGIC
    return io.BytesIO(gzip.decompress(copy.read_bytes())) if is_packed else copy.open("rb")


def _close(hdus: fits.HDUList) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hdus.close()


def _check_whole(path: str, hdus: fits.HDUList, stream: BinaryIO) -> None:
    """Refuses a file that ends before its headers say, within pixels or within a header."""
    size_bytes = stream.seek(0, io.SEEK_END)
    end = 0
    for index, hdu in enumerate(hdus):
        info = hdu.fileinfo()
        span = info["datSpan"] if isinstance(hdu, fits.CompImageHDU) else hdu.size
        if info["datLoc"] + span > size_bytes:  # a missing last padding is no loss
            raise ShardError(
                f"{path} is truncated: {size_bytes} bytes of FITS, expected at least "
                f"{info['datLoc'] + span} by the header of HDU {index}; fetch it again"
            )
        end = info["datLoc"] + info["datSpan"]
    stream.seek(min(end, size_bytes))
    rest = stream.read(8)
    if rest == b"XTENSION":
        raise ShardError(
            f"{path} is truncated: the header of HDU {len(hdus)} at byte {end} has no end; "
            "fetch it again"
        )
    if rest.strip(b"\0 "):
        _log.warning("%s: bytes after the last HDU are ignored", path)


def _is_image(hdu: fits.hdu.base.ExtensionHDU) -> bool:
    kinds = (fits.PrimaryHDU, fits.ImageHDU, fits.CompImageHDU)
    return isinstance(hdu, kinds) and len(hdu.shape) >= 2 and 0 not in hdu.shape


def _describe(
    path: str, index: int, hdu: fits.hdu.base.ExtensionHDU, primary: fits.Header
) -> FitsImage:
    image = FitsImage(
        path=path,
        index=index,
        name="",
        version=1,
        shape=tuple(hdu.shape),
        header=hdu.header,
        primary=primary,
    )
    name = image.text("EXTNAME") or image.text("CCDNAME")
    version = image.text("EXTVER")
    return dataclasses.replace(
        image,
        name="" if name in ("COMPRESSED_IMAGE", "PRIMARY") else name,
        version=int(version) if version.isdigit() else 1,
    )


def _to_float32(stored: np.ndarray, header: fits.Header) -> np.ndarray:
    """Stored numbers as float32: BLANK to NaN, BSCALE and BZERO applied in float64."""
    scale, zero = float(header.get("BSCALE", 1.0)), float(header.get("BZERO", 0.0))
    blank = header.get("BLANK") if stored.dtype.kind in "iu" else None
    if scale == 1.0 and zero == 0.0:
        values = stored.astype(np.float32)
    else:
        values = (stored.astype(np.float64) * scale + zero).astype(np.float32)
    if isinstance(blank, int):
        values[stored == blank] = np.nan
    return values


@contextlib.contextmanager
def _translated(path: str, problem: str) -> Iterator[None]:
    """Astropy's errors on bad data as a ShardError, its warnings as a log line."""
    try:
        with logged_warnings(path):
            yield
    except BAD_DATA as error:
        message = f"{path} {problem}: {one_line(error)}; check it or fetch it again"
        raise ShardError(message) from error
