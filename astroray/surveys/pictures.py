"""How JPEG and PNG pictures become rows: one file an object, values from 0 to 1.

Examples of surveys:

    efigi/images?table=../efigi_attributes.csv
    mergers/images?table=../target_info.txt&id=SDSSID&ra=PRI_RA_DEG&dec=PRI_DEC_DEG
    stripe82?table=gz2_votes.csv,unlabelled.csv
    's3://bucket/pictures/*.jpg'
"""

import dataclasses
import io
import struct
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageFile, JpegImagePlugin, PngImagePlugin

from astroray import storage
from astroray.errors import ConfigError, FileError
from astroray.surveys.object_tables import TableOptions, group_objects, open_object_table
from astroray.surveys.objects import Objects
from astroray.surveys.shards import Cutouts, Reject, Shard, SurveyUri, parse_options, reject
from astroray.surveys.slices import gather, reject_file
from astroray.surveys.survey_paths import survey_folder

BANDS = {"RGB": ("R", "G", "B"), "L": ("L",)}
_LUMINANCE_C = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601, as Pillow has it
_BAD_PICTURE = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, struct.error,
                zlib.error)  # fmt: skip
"""What Pillow raises on bytes that are no whole picture."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PictureOptions(TableOptions):
    """Options of a survey of pictures, beside those of its table."""

    shard_files: int = 512
    """Files a shard."""
    bands: str = "auto"
    """RGB, L (grey), or auto: what the first file is. Other files are converted: grey is
    repeated, colors become luminance. Name it where files are added to a survey later."""
    max_pixels: int = 100_000_000
    """Larger pictures are rejected before they are decoded."""
    format: str = ""
    """Name of this reader."""


def list_shards(inputs: Sequence[storage.InputFile], uri: SurveyUri) -> list[Shard]:
    """Groups of pictures; only a table and the first file's header are read.

    Raises ConfigError on bad options or a table that does not fit.
    """
    options = parse_options(PictureOptions, uri.options)
    if options.bands not in ("auto", *BANDS):
        raise ConfigError(f"bands is {options.bands!r}, expected auto, RGB or L")
    if options.max_pixels < 1:
        raise ConfigError(f"max_pixels is {options.max_pixels}, expected at least 1")
    files = storage.FileList.by_path(inputs)
    with open_object_table(uri.location, options) as table:
        return group_objects(
            files,
            table=table,
            folder=survey_folder(uri.location),
            reader="pictures",
            params={"bands": _choose_bands(files.paths, options), "max_pixels": options.max_pixels},
            group_size=options.shard_files,
            objects_folder=uri.objects_folder,
        )


def read_shard(shard: Shard, *, rows: Sequence[int] | None = None) -> Iterator[Cutouts | Reject]:
    """The pictures of a shard, float32 from 0 to 1, [C, Y, X], top row first.

    NaN where the picture is fully transparent. An orientation in the EXIF header is not applied:
    it says how a camera was held, pictures of the sky have none, and to turn the pixels would
    part them from their position and their neighbors' orientation. A missing, broken or too large
    file is a Reject of its row.
    """
    objects = Objects.from_params(shard.params["objects"])
    mode, max_pixels = str(shard.params["bands"]), int(shard.params["max_pixels"])
    pictures = (
        _read_picture(shard.inputs[row].path, row, mode, max_pixels)
        for row in (range(len(shard.inputs)) if rows is None else sorted(set(rows)))
    )
    yield from gather(pictures, objects, bands=BANDS[mode], pixels="display")


def _read_picture(
    path: str, row: int, mode: str, max_pixels: int
) -> tuple[int, np.ndarray] | Reject:
    try:
        data = storage.read_bytes(path)
    except FileError as error:
        return reject_file(row, path, error)
    image_CYX = decode_picture(path, data, mode, max_pixels=max_pixels)
    return reject(row, *image_CYX) if isinstance(image_CYX, tuple) else (row, image_CYX)


def decode_picture(
    name: str, data: bytes, mode: str, *, max_pixels: int
) -> np.ndarray | tuple[str, str]:
    """A JPEG or PNG as [C, Y, X], see `read_shard`, or kind and reason why it is refused.

    mode        RGB or L
    max_pixels  width times height; a larger picture is refused before it is decoded
    """
    if not data:
        return "corrupt", f"{name} has no bytes, expected a JPEG or PNG picture"
    try:
        with _open_picture(data) as picture:
            num_pixels = picture.width * picture.height
            if num_pixels > max_pixels:
                return "bomb", (
                    f"{name} says it is {picture.width} x {picture.height} pixels, expected at "
                    f"most {max_pixels} in all; raise max_pixels if that is true"
                )
            return _decode(picture, mode)
    except _BAD_PICTURE as error:
        return "corrupt", f"{name} is no whole JPEG or PNG picture: {error}"


def _open_picture(data: bytes) -> ImageFile.ImageFile:
    """The picture behind its header, not decoded yet.

    The two formats are opened by their classes: `Image.open` would try dozens of formats, warn
    at a size that is a setting of the whole process, and warn about cameras' multi-pictures.
    """
    if data.startswith(b"\x89PNG"):
        return PngImagePlugin.PngImageFile(io.BytesIO(data))
    if data.startswith(b"\xff\xd8"):
        return JpegImagePlugin.JpegImageFile(io.BytesIO(data))
    raise ValueError(f"it begins with {data[:8]!r}")


def _decode(picture: Image.Image, mode: str) -> np.ndarray:
    """[C, Y, X] float32, 0..1, of the bands of `mode`; NaN where alpha is 0."""
    is_deep = picture.mode.startswith("I")  # 16 bits
    plain_mode = picture.mode if is_deep else _plain_mode(picture)
    stored = picture if plain_mode == picture.mode else picture.convert(plain_mode)
    pixels_YXC = np.atleast_3d(np.asarray(stored))
    has_alpha = plain_mode in ("LA", "RGBA")
    colors_CYX = np.moveaxis(pixels_YXC[..., :-1] if has_alpha else pixels_YXC, -1, 0)
    image_CYX = np.empty(colors_CYX.shape, np.float32)
    np.divide(colors_CYX, np.float32(65535 if is_deep else 255), out=image_CYX, dtype=np.float32)
    if mode == "L" and len(image_CYX) == 3:
        image_CYX = np.tensordot(_LUMINANCE_C, image_CYX, axes=1)[None]
    elif mode == "RGB" and len(image_CYX) == 1:
        image_CYX = np.repeat(image_CYX, 3, axis=0)
    if has_alpha:
        image_CYX[:, pixels_YXC[..., -1] == 0] = np.nan
    return image_CYX


def _plain_mode(picture: Image.Image) -> str:
    """L or RGB, with A where the picture has transparent parts."""
    is_grey = picture.mode in ("1", "L", "LA", "La")
    has_alpha = picture.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info
    return ("L" if is_grey else "RGB") + ("A" if has_alpha else "")


def _choose_bands(paths: Sequence[str], options: PictureOptions) -> str:
    """What the user asked for, else what the header of the first readable file says."""
    if options.bands != "auto":
        return options.bands
    for path in paths:
        try:
            with _open_picture(storage.read_bytes(path)) as picture:
                is_grey = picture.mode in ("1", "L", "LA", "La") or picture.mode.startswith("I")
                return "L" if is_grey else "RGB"
        except (FileError, *_BAD_PICTURE):
            continue
    return "RGB"
