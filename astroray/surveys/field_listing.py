"""Which images a survey of wide fields has, and which files hold each of them."""

import dataclasses
import logging
from collections.abc import Iterator, Sequence

from astroray import storage
from astroray.errors import ConfigError, DataError, FileError
from astroray.surveys.band_files import bear_bands, match_band_files
from astroray.surveys.field_images import is_picture
from astroray.surveys.field_options import FieldOptions
from astroray.surveys.fits_files import open_fits
from astroray.surveys.fits_headers import FitsImage
from astroray.surveys.objects import id_of_file
from astroray.surveys.sky_grids import SkyGrid

__all__ = ["ListedImage", "find_mask", "list_images"]

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ListedImage:
    """One image, and where it is."""

    field: str
    """Its file below the survey's folder, without suffix and band."""
    name: str
    """Unique in the survey: the field, and the detector where a file has several images."""
    hdu: str
    """Position of its HDU; empty where each file has but one."""
    files: tuple[storage.InputFile, ...]
    """One file, or a file a band as far as there are any."""
    members: tuple[int | None, ...] | None
    """Of a file a band: the place in `files` of each band, None where it is missing."""
    grid: SkyGrid | None
    """Where its pixels lie, if that was asked for and a catalog can be cut from it."""


def list_images(
    files: Sequence[storage.InputFile], options: FieldOptions, folder: str, known: Sequence[str]
) -> list[ListedImage]:
    """The images of `files`, in order of path; headers are read where they are needed.

    known  paths of the survey's images that are listed already

    Raises ConfigError where two files are one band of one image.
    """
    ordered = sorted(files, key=lambda file: file.path)
    bands = [band.strip() for band in options.bands.split(",") if band.strip()]
    if _are_bands(ordered, bands, options, folder, known):
        by_image = match_band_files(ordered, bands, folder)
        return [
            _of_bands(path, by_image[path], bands, options, folder) for path in sorted(by_image)
        ]
    return [image for file in ordered for image in _of_file(file, options, folder)]


def find_mask(options: FieldOptions, folder: str) -> storage.InputFile | None:
    """The mask file that the options name; None where they name an HDU or nothing."""
    if "." not in options.mask:
        return None
    is_whole = storage.is_whole(options.mask)
    try:
        return storage.describe(options.mask if is_whole else storage.join(folder, options.mask))
    except FileError as error:
        raise ConfigError(f"mask={options.mask} cannot be used: {error}") from None


def _are_bands(
    files: Sequence[storage.InputFile],
    bands: Sequence[str],
    options: FieldOptions,
    folder: str,
    known: Sequence[str],
) -> bool:
    """Whether each file is a band: names have all bands, or some, and the first file one plane."""
    if any(is_picture(file.path) for file in files):
        return False
    paths = [file.path for file in files]
    if bear_bands([known, paths], bands, folder):
        return True
    if not bear_bands([paths], bands, folder, some=True):
        return False
    shapes = [image.plain_shape for image in _sciences(files[0].path, options.hdu)]
    return len(shapes) == 1 and len(shapes[0]) == 2


def _of_bands(
    path: str,
    by_band: dict[str, storage.InputFile],
    bands: Sequence[str],
    options: FieldOptions,
    folder: str,
) -> ListedImage:
    own = [band for band in bands if band in by_band]
    name = id_of_file(path, folder)
    images: Sequence[FitsImage] = []
    if options.catalog and len(own) == len(bands):  # an image that lacks a band has no objects
        images = _sciences(by_band[bands[0]].path, options.hdu)
    return ListedImage(
        field=name,
        name=name,
        hdu=options.hdu,
        files=tuple(by_band[band] for band in own),
        members=tuple(own.index(band) if band in own else None for band in bands),
        grid=images[0].grid(name) if len(images) == 1 else None,
    )


def _of_file(file: storage.InputFile, options: FieldOptions, folder: str) -> Iterator[ListedImage]:
    """Each image of a file; detectors of a mosaic are told apart by name."""
    field = id_of_file(file.path, folder)
    images = [] if is_picture(file.path) else _sciences(file.path, options.hdu)
    labels = [image.detector or "" for image in images]
    every: Sequence[FitsImage | None] = images or [None]  # one without any is refused when read
    for place, image in enumerate(every):
        label = ""
        if image is not None and len(images) > 1:
            own = labels[place]
            label = f".{own if own and labels.count(own) == 1 else image.index}"
        yield ListedImage(
            field=field,
            name=field + label,
            hdu="" if image is None else str(image.index),
            files=(file,),
            members=None,
            grid=image.grid(field + label) if image and options.catalog else None,
        )


def _sciences(path: str, hdu: str) -> Sequence[FitsImage]:
    """The images proper of a file; none where it cannot be read."""
    try:
        with open_fits(path) as file:
            return file.sciences(hdu)
    except DataError as error:  # reading it fails in the same words, and is counted as a shard
        _log.warning("%s", error)
        return []
