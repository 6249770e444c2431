"""The pixels of one wide image, whichever files hold its bands, whole or by lines.

A file has all bands of an image, or there is a file a band on one grid of pixels.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from astroray import storage
from astroray.errors import ShardError
from astroray.surveys import pictures
from astroray.surveys.fits_files import ALL, FitsFile, open_fits
from astroray.surveys.fits_headers import FitsImage
from astroray.surveys.shards import Pixels, Reject, SurveyUri

__all__ = ["FieldImage", "ImageFiles", "is_picture", "open_field", "open_hdf"]

_PICTURES = (".jpg", ".jpeg", ".png")
_SAME_GRID_PX = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageFiles:
    """Where the pixels of an image are."""

    paths: Sequence[str]
    """One file, or a file a band in the order of `bands`."""
    hdu: str
    """Name or number of the image HDU; empty where each file has but one."""
    mask: str
    """Name of the mask HDU in each file; empty: those that go with the image."""
    mask_path: str
    """File of the mask of every band; empty without one."""
    bands: str
    """Names of the bands, `g,r,i`; empty: the header's."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FieldImage:
    """An image that is open, and what its headers say of it."""

    shape_CYX: tuple[int, int, int]
    bands: tuple[str, ...]
    pixels: Pixels
    header: FitsImage | None
    """Of the first band; None of a picture."""
    saturation_C: np.ndarray
    """[C] pixel value at which the detector is full; infinite where the header says nothing."""
    read_lines: Callable[[slice], np.ndarray]
    """[C, Y, X] float32 of some lines of Y; NaN where missing or masked."""

    @classmethod
    def of_picture(cls, image_CYX: np.ndarray, bands: tuple[str, ...]) -> "FieldImage":
        """A picture in memory."""
        num_bands, height_px, width_px = image_CYX.shape
        return cls(
            shape_CYX=(num_bands, height_px, width_px),
            bands=bands,
            pixels="display",
            header=None,
            saturation_C=np.full(num_bands, np.inf),
            read_lines=lambda lines: image_CYX[:, lines],
        )


def is_picture(path: str) -> bool:
    """Whether it is a file that has no header to speak of."""
    return path.lower().endswith(_PICTURES)


def open_hdf() -> FieldImage:
    """The Hubble Deep Field picture of scikit-image."""
    import skimage.data  # a second that other surveys need not wait

    image_YXC = np.asarray(skimage.data.hubble_deep_field()).astype(np.float32)
    image_CYX = np.moveaxis(image_YXC / np.float32(255.0), -1, 0)
    return FieldImage.of_picture(image_CYX, pictures.BANDS["RGB"])


@contextlib.contextmanager
def open_field(files: ImageFiles) -> Iterator[FieldImage]:
    """The image, its headers checked: one shape and one place on the sky for all bands.

    Raises ShardError where it cannot be read, or bands do not belong together.
    """
    if is_picture(files.paths[0]):
        yield _read_picture(files.paths[0])
        return
    with contextlib.ExitStack() as stack:
        masks = stack.enter_context(open_fits(files.mask_path)) if files.mask_path else None
        planes = [_Planes(stack.enter_context(open_fits(p)), files, masks) for p in files.paths]
        _check_one_grid(planes)
        first = planes[0].image
        counts = [plane.num_bands for plane in planes]
        yield FieldImage(
            shape_CYX=(sum(counts), first.shape[-2], first.shape[-1]),
            bands=_bands(planes, files),
            pixels="flux",
            header=first,
            saturation_C=np.repeat([p.image.number("SATURATE", np.inf) for p in planes], counts),
            read_lines=lambda lines: np.concatenate([plane.read(lines) for plane in planes]),
        )


class _Planes:
    """The image of one file, and the masks that go with it."""

    def __init__(self, file: FitsFile, files: ImageFiles, masks: FitsFile | None) -> None:
        self.file = file
        self.image = file.find(files.hdu) if files.hdu else _only_image(file)
        if len(self.image.plain_shape) > 3:
            raise ShardError(
                f"{file.path} has an image of shape {self.image.shape} in HDU {self.image.index}, "
                "expected [Y, X] or [bands, Y, X]; is it a cube of cutouts? Then say "
                "format=fits_cutouts"
            )
        self.num_bands = math.prod(self.image.plain_shape[:-2])
        self._read_bad = self._find_mask(files, masks)

    def read(self, lines: slice = ALL) -> np.ndarray:
        """[C, Y, X] of some lines; NaN where bad."""
        pixels = self.file.read(self.image, lines=lines)
        pixels_CYX = pixels.reshape(self.num_bands, *pixels.shape[-2:])
        bad = self._read_bad(lines)
        if bad is not None:
            pixels_CYX[np.broadcast_to(bad, pixels_CYX.shape)] = np.nan
        return pixels_CYX

    def _find_mask(
        self, files: ImageFiles, masks: FitsFile | None
    ) -> Callable[[slice], np.ndarray | None]:
        """Reads bad pixels by a mask file, the HDU that is named, or the HDUs that fit."""
        side = self.image.shape[-2:]
        if masks is not None:
            fitting = [mask for mask in masks.images if mask.shape[-2:] == side]
            if fitting:
                return lambda lines: masks.read_mask(fitting[0], lines=lines)
        elif not files.mask:
            return lambda lines: self.file.read_bad(self.image, lines=lines)
        else:
            mask = self.file.find(files.mask)
            if mask.shape[-2:] == side:
                return lambda lines: self.file.read_mask(mask, lines=lines)
        raise ShardError(
            f"the mask of {self.file.path} has another shape than its image in HDU "
            f"{self.image.index}, {self.image.shape}; give the mask= that belongs to it"
        )


def _only_image(file: FitsFile) -> FitsImage:
    images = file.sciences()
    if len(images) == 1:
        return images[0]
    advice = "name it with hdu="
    if not images and file.tables:
        advice = "format=light_curves and format=spectra read tables"
    raise ShardError(f"{file.path} has {len(images)} image HDUs, expected one; {advice}")


def _check_one_grid(planes: Sequence[_Planes]) -> None:
    """Raises ShardError where a band has another shape or place than the first."""
    first = planes[0].image
    grid = first.grid("") if len(planes) > 1 else None
    for image in (plane.image for plane in planes[1:]):
        if image.plain_shape != first.plain_shape or len(first.plain_shape) != 2:
            raise ShardError(
                f"{image.path} has an image of shape {image.plain_shape}, {first.path} one of "
                f"{first.plain_shape}, expected one [Y, X] for all bands of an image; bring them "
                "to one grid of pixels"
            )
        other = image.grid("")
        away_px = grid.offset_px(other) if grid and other else 0.0
        if away_px > _SAME_GRID_PX:
            raise ShardError(
                f"{image.path} lies elsewhere on the sky than {first.path}, by up to "
                f"{away_px:.3g} px, expected at most {_SAME_GRID_PX} between bands of an image; "
                "bring them to one grid of pixels"
            )


def _bands(planes: Sequence[_Planes], files: ImageFiles) -> tuple[str, ...]:
    if len(planes) == 1:
        return planes[0].image.bands(planes[0].num_bands, asked=files.bands)
    return tuple(name.strip() for name in files.bands.split(",") if name.strip())


def _read_picture(path: str) -> FieldImage:
    """The picture as the reader of pictures has it, its one row being the field."""
    file = storage.describe(path)
    (listed,) = pictures.list_shards([file], SurveyUri(location=file.path, options={}))
    (row,) = pictures.read_shard(listed)
    if isinstance(row, Reject):
        raise ShardError(row.reason)
    return FieldImage.of_picture(row.image_BCYX[0], row.bands)
