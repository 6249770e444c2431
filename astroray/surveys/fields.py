"""Wide-field images become rows: each image is a shard, each source in it a stamp.

Examples of surveys:

    hdf                                   the Hubble Deep Field picture of scikit-image, R G B
    'night/*.fits.fz?size=64'             every image HDU, that is every detector, is a shard
    'field.fits?mask=bad.fits&threshold=3'
    'field.jpg?format=fields&threshold=3'

Positions are 0-based pixel coordinates of the file's array: the center of the first pixel is 0, 0
(FITS programs count from 1). A stamp is cut at whole pixels, without interpolation, so that its
source lies within half a pixel of its middle.
"""

import dataclasses
import logging
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import sep

from astroray import storage
from astroray.errors import ConfigError, DataError, FileError, ShardError
from astroray.schema import Flag
from astroray.surveys import pictures, shards
from astroray.surveys.detection import DetectionOptions, detect
from astroray.surveys.fits_files import FitsFile, open_fits
from astroray.surveys.fits_headers import FitsImage
from astroray.surveys.object_tables import Objects
from astroray.surveys.shards import Cutouts, Reject, Shard, SurveyUri
from astroray.surveys.survey_paths import survey_folder

logger = logging.getLogger(__name__)

HDF_OPTIONS = {"threshold": "3.0"}
"""The picture is an 8-bit JPEG, whose artifacts pass 1.5 sigma; 3.0 finds 1,971 sources."""

_PICTURES = (".jpg", ".jpeg", ".png")
_SLICE_BYTES = 32 * 2**20
_SLICE_ROWS = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class FieldOptions(DetectionOptions):
    """What stands after the question mark of a survey of wide-field images."""

    size: int = 32
    """Side of a stamp, px."""
    bands: str = ""
    """Names of the planes, `g,r,i`; else the header's, else b0, b1..."""
    hdu: str = ""
    """Name or number of the one image HDU to use; all of them where empty."""
    mask: str = ""
    """Name of a mask HDU, or a mask file for every image, by its path from the survey's folder; 0
    is good. Without it an HDU called MASK, DQ, IVAR, WEIGHT... of the image's shape is used."""
    format: str = ""
    """Name of this reader."""

    def __post_init__(self) -> None:
        """Refuses values that cannot work."""
        super().__post_init__()
        if self.size < 1:
            raise ConfigError(f"survey option size is {self.size}, expected 1 or more")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Field:
    """One image in memory, and what its file says of it."""

    image_CYX: np.ndarray
    """float32; NaN where missing or masked."""
    bands: tuple[str, ...]
    pixels: shards.Pixels
    header: FitsImage | None = None

    def positions(self, sources: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.header is None:
            return np.full(len(sources), np.nan), np.full(len(sources), np.nan)
        return self.header.positions(sources["x"], sources["y"])

    @property
    def saturation(self) -> float:
        """Pixel value at which the detector is full; infinite where the header says nothing."""
        return self.header.number("SATURATE", np.inf) if self.header else np.inf


def list_shards(inputs: Sequence[storage.InputFile], uri: SurveyUri) -> list[Shard]:
    """One shard an image: a picture, or an image HDU of a FITS file; only headers are read.

    Raises ConfigError on a bad option or a mask file that is missing.
    """
    if not inputs:
        options = shards.parse_options(FieldOptions, {**HDF_OPTIONS, **uri.options})
        params = _params(options, field="hdf", image="hdf", hdu="")
        return [Shard(name="hdf", reader="fields", inputs=(), params=params)]
    options = shards.parse_options(FieldOptions, uri.options)
    mask = _find_mask(options, survey_folder(uri.location))
    files = [file for file in inputs if mask is None or file.path != mask.path]
    found: list[Shard] = []
    for file in sorted(files, key=lambda file: file.path):
        members = (file,) if mask is None else (file, mask)
        name = Objects.from_files([file.path], survey_folder(uri.location)).object_id_N[0]
        for image, hdu in _list_images(file.path, str(name), options):
            params = _params(options, field=str(name), image=image, hdu=hdu)
            found.append(_shard(members, params))
    return found


def read_shard(shard: Shard, *, rows: Sequence[int] | None = None) -> Iterator[Cutouts | Reject]:
    """Stamps of the sources of one image, in order of y, then x; detection is repeatable.

    Pixels beyond the image are NaN, and their stamps flagged EDGE. With `rows`, sources are
    detected again and only these stamps are cut.
    Raises ShardError where the image cannot be read or its sources cannot be extracted.
    """
    values = dict(shard.params)
    name, image, hdu = (str(values.pop(key)) for key in ("field", "image", "index"))
    options = FieldOptions(**values)
    field = _read_field(shard, hdu, options)
    sources = detect(field.image_CYX, field.bands, options, image)
    logger.info("%s: %d sources in %s", shard.name, len(sources), field.image_CYX.shape)
    ra_deg_N, dec_deg_N = field.positions(sources)
    wanted = np.arange(len(sources)) if rows is None else np.array(sorted(set(rows)), np.int64)
    step = _SLICE_BYTES // (4 * len(field.bands) * options.size**2)
    for row_B in np.split(wanted, range(step := min(max(step, 1), _SLICE_ROWS), len(wanted), step)):
        if len(row_B) == 0:
            continue
        image_BCYX, flags_B = _cut(field, sources[row_B], options.size)
        yield Cutouts(
            row_B=row_B.astype(np.int64),
            object_id_B=[f"{image}:{x:.2f}_{y:.2f}" for x, y in sources[["x", "y"]][row_B]],
            ra_deg_B=ra_deg_N[row_B],
            dec_deg_B=dec_deg_N[row_B],
            image_BCYX=image_BCYX,
            bands=field.bands,
            pixels=field.pixels,
            flags_B=flags_B,
            field=name,
            night=field.header.night if field.header else None,
            detector=field.header.detector if field.header else None,
        )


def _params(options: FieldOptions, *, field: str, image: str, hdu: str) -> dict[str, Any]:
    values = dataclasses.asdict(options)
    del values["format"]
    return {**values, "field": field, "image": image, "index": hdu}


def _find_mask(options: FieldOptions, folder: str) -> storage.InputFile | None:
    """The mask file that the options name; None where they name an HDU or nothing."""
    if "." not in options.mask:
        return None
    is_whole = options.mask.startswith("/") or storage.is_remote(options.mask)
    try:
        return storage.describe(options.mask if is_whole else storage.join(folder, options.mask))
    except FileError as error:
        raise ConfigError(f"mask={options.mask} cannot be used: {error}") from None


def _list_images(path: str, name: str, options: FieldOptions) -> list[tuple[str, str]]:
    """Name and HDU of each image of a file; detectors of a mosaic are told apart by name."""
    if path.lower().endswith(_PICTURES):
        return [(name, "")]
    try:
        with open_fits(path) as file:
            images = file.sciences(options.hdu)
    except DataError as error:  # reading it fails in the same words, and is counted as a shard
        logger.warning("%s", error)
        return [(name, "")]
    if len(images) < 2:
        return [(name, str(image.index)) for image in images] or [(name, "")]
    labels = [image.detector or "" for image in images]
    return [
        (f"{name}.{label if label and labels.count(label) == 1 else image.index}", str(image.index))
        for image, label in zip(images, labels, strict=True)
    ]


def _shard(inputs: tuple[storage.InputFile, ...], params: dict[str, Any]) -> Shard:
    digest = shards.shard_name(inputs, params).rpartition("-")[2]
    readable = re.sub(r"[^A-Za-z0-9.-]+", "-", params["image"]).strip("-.")[:80] or "image"
    return Shard(name=f"{readable}-{digest}", reader="fields", inputs=inputs, params=params)


def _read_field(shard: Shard, hdu: str, options: FieldOptions) -> _Field:
    if not shard.inputs:
        return _read_hdf()
    path = shard.inputs[0].path
    if path.lower().endswith(_PICTURES):
        return _read_picture(shard.inputs[0])
    with open_fits(path) as file:
        image = file.find(hdu) if hdu else _only_image(file)
        pixels_CYX = _planes(file.read(image), image)
        bad = _read_mask(file, image, shard, options)
    if bad is not None:
        pixels_CYX[np.broadcast_to(bad, pixels_CYX.shape)] = np.nan
    bands = image.bands(len(pixels_CYX), asked=options.bands)
    return _Field(image_CYX=pixels_CYX, bands=bands, pixels="flux", header=image)


def _read_hdf() -> _Field:
    import skimage.data  # a second that other surveys need not wait

    image_YXC = np.asarray(skimage.data.hubble_deep_field()).astype(np.float32)  # type: ignore[no-untyped-call]
    image_CYX = np.moveaxis(image_YXC / np.float32(255.0), -1, 0)
    return _Field(image_CYX=image_CYX, bands=pictures.BANDS["RGB"], pixels="display")


def _read_picture(file: storage.InputFile) -> _Field:
    """The picture as the reader of pictures has it, its one row being the field."""
    (listed,) = pictures.list_shards([file], SurveyUri(location=file.path, options={}))
    (row,) = pictures.read_shard(listed)
    if isinstance(row, Reject):
        raise ShardError(row.reason)
    return _Field(image_CYX=row.image_BCYX[0], bands=row.bands, pixels=row.pixels)


def _only_image(file: FitsFile) -> FitsImage:
    images = file.sciences()
    if len(images) != 1:
        raise ShardError(
            f"{file.path} has {len(images)} image HDUs, expected one; name it with hdu="
        )
    return images[0]


def _planes(pixels: np.ndarray, image: FitsImage) -> np.ndarray:
    """[C, Y, X] of an array whose further leading axes have length 1."""
    if len(image.plain_shape) > 3:
        raise ShardError(
            f"{image.path} has an image of shape {image.shape} in HDU {image.index}, expected "
            "[Y, X] or [bands, Y, X]; is it a cube of cutouts? Then say format=fits_cutouts"
        )
    return pixels.reshape(-1, *image.shape[-2:])


def _read_mask(
    file: FitsFile, image: FitsImage, shard: Shard, options: FieldOptions
) -> np.ndarray | None:
    """Bad pixels of the image, by a mask file, the HDU that is named, or the HDU that fits."""
    if len(shard.inputs) > 1:
        with open_fits(shard.inputs[1].path) as masks:
            fitting = [mask for mask in masks.images if mask.shape[-2:] == image.shape[-2:]]
            if fitting:
                return masks.read_mask(fitting[0])
    elif not options.mask:
        return file.read_bad(image)
    else:
        mask = file.find(options.mask)
        if mask.shape[-2:] == image.shape[-2:]:
            return file.read_mask(mask)
    raise ShardError(
        f"the mask of {file.path} has another shape than its image in HDU {image.index}, "
        f"{image.shape}; give the mask= that belongs to it"
    )


def _cut(field: _Field, sources: np.ndarray, size_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Stamps [B, C, size, size] and their flags [B]; pixels beyond the image are NaN."""
    num_bands, height_px, width_px = field.image_CYX.shape
    image_BCYX = np.full((len(sources), num_bands, size_px, size_px), np.nan, np.float32)
    flags_B = np.where(sources["flag"] & sep.OBJ_MERGED, Flag.BLENDED, 0).astype(np.int32)
    left_B, low_B = (np.floor(sources[axis] - size_px / 2 + 1).astype(int) for axis in "xy")
    for i, (left, low) in enumerate(zip(left_B, low_B, strict=True)):
        x0, x1 = max(left, 0), min(left + size_px, width_px)
        y0, y1 = max(low, 0), min(low + size_px, height_px)
        pixels_CYX = field.image_CYX[:, y0:y1, x0:x1]
        image_BCYX[i, :, y0 - low : y1 - low, x0 - left : x1 - left] = pixels_CYX
        if pixels_CYX.shape[1:] != (size_px, size_px):
            flags_B[i] |= Flag.EDGE
        if (pixels_CYX >= field.saturation).any():
            flags_B[i] |= Flag.SATURATED
    return image_BCYX, flags_B
