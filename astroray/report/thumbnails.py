"""How a cutout becomes a small picture that a person looks at."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Literal, cast

import numpy as np
import pyarrow as pa
from PIL import Image

from astroray import schema, storage
from astroray.errors import DataError
from astroray.storage.parquet import parquet_bytes, read_parquet
from astroray.surveys.shards import Cutouts, Pixels, Rows

MISSING_COLOR = (66, 52, 92)
"""Muted violet: neither sky nor star has it, so a hole is not taken for either."""

SOFTENING = 3.0  # in sky sigmas: fainter is shown linearly, brighter logarithmically
DIMMEST_PEAK = 15.0  # in sky sigmas: a stamp without a source stays dark, its noise is not blown up
BLACK = -0.5  # in sky sigmas: a little noise stays visible, so that depth can be judged
SOURCE = 3.0  # in sky sigmas: light of a source rather than noise
JPEG_QUALITY = 85

_WAVELENGTH_NM = {
    "u": 355, "b": 440, "g": 475, "v": 550, "r": 625, "i": 765, "z": 905, "y": 1000,
    "vis": 720, "j": 1250, "h": 1650, "k": 2160, "ks": 2160,
    "w1": 3400, "w2": 4600, "w3": 12000, "w4": 22000,
    "fuv": 154, "nuv": 228,
}  # fmt: skip


def render_thumbnail(
    image_CYX: np.ndarray,
    *,
    bands: Sequence[str],
    pixels: Pixels,
    size_px: int = 96,
    format: Literal["JPEG", "PNG"] = "JPEG",
) -> bytes:
    """A square picture of `size_px`, north up where the survey's flux images are.

    image_CYX  [C, Y, X]  any finite range; NaN where missing, shown in a muted violet
    bands      [C]        names; known ones are ordered by wavelength, others go blue to red
    pixels                display: 0..1, shown as it is, row 0 on top;
                          flux: linear, any unit, stretched for this picture alone, row 0 below

    Flux is measured from its clipped median in sigmas of the sky, band by band, and shown with
    the color-preserving asinh of Lupton et al. 2004 (PASP 116, 133): noise is grey, faint light
    is linear, bright light keeps its color. Raises DataError where the image has no pixel.
    """
    if image_CYX.ndim != 3 or 0 in image_CYX.shape or len(bands) != len(image_CYX):
        raise DataError(
            f"thumbnail of an image of shape {image_CYX.shape} with {len(bands)} bands, expected "
            "[C, Y, X] with a pixel and one name a band; reject this row"
        )
    image_CYX = np.where(np.isfinite(image_CYX), image_CYX, np.nan).astype(np.float64)
    seen_C = np.isfinite(image_CYX).any(axis=(1, 2))
    if not seen_C.any():
        shown_YXC = np.zeros((*image_CYX.shape[1:], 3))
        missing_YX = np.ones(image_CYX.shape[1:], bool)
    else:
        image_CYX = image_CYX[seen_C]
        names = [band for band, seen in zip(bands, seen_C, strict=True) if seen]
        missing_YX = ~np.isfinite(image_CYX).all(axis=0)
        shown_YXC = _display(image_CYX) if pixels == "display" else _stretch(image_CYX, names)
    picture_YXC = np.rint(np.nan_to_num(shown_YXC).clip(0, 1) * 255).astype(np.uint8)
    picture_YXC[missing_YX] = MISSING_COLOR
    if pixels == "flux":
        picture_YXC = picture_YXC[::-1]
    return _encode(_fit(Image.fromarray(picture_YXC), size_px), format)


def render_cutouts(rows: Rows) -> list[bytes]:
    """The thumbnail of each cutout of a slice, [B]."""
    cutouts = cast(Cutouts, rows)
    return [
        render_thumbnail(image_CYX, bands=cutouts.bands, pixels=cutouts.pixels)
        for image_CYX in cutouts.image_BCYX
    ]


def thumbnail_table(object_ids: Sequence[str], thumbnails: Sequence[bytes]) -> pa.Table:
    """THUMBNAILS of pictures that `render_thumbnail` made, in the order given."""
    arrays = [pa.array(list(object_ids), pa.string()), pa.array(list(thumbnails), pa.binary())]
    return pa.Table.from_arrays(arrays, schema=schema.THUMBNAILS)


def publish_thumbnails(run_dir: str, thumbnails: Mapping[str, bytes]) -> str:
    """Writes `thumbnails/thumbnails.parquet`, JPEG by object_id, in order of id; returns its path.

    The pictures do not go through Parquet's compression: JPEG does not get smaller.
    """
    ids = sorted(thumbnails)
    table = thumbnail_table(ids, [thumbnails[object_id] for object_id in ids])
    path = _path(run_dir)
    data = parquet_bytes(table, compression={"object_id": "zstd", "thumbnail": "none"})
    storage.publish(path, data)
    return path


def read_thumbnails(run_dir: str) -> dict[str, bytes]:
    """JPEG by object_id of the pictures that a run has; none before they were published.

    Raises SchemaError where the file has other columns.
    """
    path = _path(run_dir)
    if not storage.exists(path):
        return {}
    table = read_parquet(storage.read_bytes(path))
    columns = schema.conform(table, schema.THUMBNAILS, "thumbnails").columns
    return dict(zip(*(column.to_pylist() for column in columns), strict=True))


def _path(run_dir: str) -> str:
    return storage.join(run_dir, "thumbnails", "thumbnails.parquet")


def _display(image_CYX: np.ndarray) -> np.ndarray:
    """Pictures as they are, [Y, X, 3]; of more than three channels the first three."""
    if len(image_CYX) == 2:
        first, second = image_CYX
        return np.stack([first, (first + second) / 2, second], axis=-1)
    return np.stack([image_CYX[min(c, len(image_CYX) - 1)] for c in range(3)], axis=-1)


def _stretch(image_CYX: np.ndarray, bands: Sequence[str]) -> np.ndarray:
    """Lupton's asinh of sky sigmas, [Y, X, 3]; NaN stays NaN."""
    sigmas_CYX = np.stack([_in_sky_sigmas(band_YX) for band_YX in image_CYX]) - BLACK
    light_3YX = _balance(_red_green_blue(sigmas_CYX[_blue_to_red(bands)]))
    total_YX = light_3YX.mean(axis=0)
    peak = max(float(np.nanpercentile(total_YX, 99.7)) if _any(total_YX) else 0.0, DIMMEST_PEAK)
    total_YX = np.maximum(total_YX, 1e-6)  # below black there is nothing to scale
    factor_YX = np.arcsinh(total_YX / SOFTENING) / math.asinh(peak / SOFTENING) / total_YX
    shown_3YX = np.maximum(light_3YX, 0) * factor_YX
    brightest_YX = np.maximum(shown_3YX.max(axis=0), 1.0)  # clip to the color, not to white
    return np.moveaxis(shown_3YX / brightest_YX, 0, -1)


def _any(values: np.ndarray) -> bool:
    return bool(np.isfinite(values).any())


def _in_sky_sigmas(band_YX: np.ndarray) -> np.ndarray:
    """Flux above the sky in its sigmas: clipped median and 1.4826 MAD; NaN stays NaN."""
    kept = band_YX[np.isfinite(band_YX)]
    sky, sigma = 0.0, 0.0
    for _ in range(5):
        sky = float(np.median(kept))
        sigma = 1.4826 * float(np.median(np.abs(kept - sky)))
        clipped = kept[np.abs(kept - sky) <= 3 * sigma]
        if sigma == 0 or clipped.size == kept.size:
            break
        kept = clipped
    above_YX = band_YX - sky
    brightest = float(np.nanmax(np.abs(above_YX)))
    floor = brightest / 100 if sigma == 0 else 0.0  # a noiseless model has no sky noise
    return above_YX / (max(sigma, floor) or 1.0)


def _red_green_blue(light_CYX: np.ndarray) -> np.ndarray:
    """Bands from blue to red as [3, Y, X], red first; more than three are averaged in groups."""
    if len(light_CYX) == 1:
        return np.repeat(light_CYX, 3, axis=0)
    if len(light_CYX) == 2:
        blue_YX, red_YX = light_CYX
        return np.stack([red_YX, (red_YX + blue_YX) / 2, blue_YX])
    groups = np.array_split(light_CYX, 3)
    return np.stack([group.mean(axis=0) for group in reversed(groups)])


def _balance(light_3YX: np.ndarray) -> np.ndarray:
    """Half of the way to a grey sum of sources: the deepest band would tint every source."""
    source_YX = light_3YX.mean(axis=0) > SOURCE
    sum_3 = np.where(source_YX, np.maximum(light_3YX, 0), 0).sum(axis=(1, 2))
    if not (sum_3 > 0).all():
        return light_3YX
    return light_3YX * np.sqrt(sum_3.mean() / sum_3)[:, None, None]


def _blue_to_red(bands: Sequence[str]) -> list[int]:
    """Positions of the bands by wavelength; as given where any name is unknown."""
    wavelengths = [_wavelength_nm(band) for band in bands]
    if any(math.isnan(value) for value in wavelengths):
        return list(range(len(bands)))
    return sorted(range(len(bands)), key=wavelengths.__getitem__)


def _wavelength_nm(band: str) -> float:
    """Wavelength that a band's name stands for, nm; NaN where unknown.

    `F606W` and the like are nm for WFPC2 and ACS, and hundredths of a micron for the infrared
    filters of WFC3 and JWST, which begin with 0 to 2 or have an M or N such as F335M.
    """
    name = re.split(r"[-_./ ]", band.strip().lower())[-1]  # SDSS_g, hsc-r
    if name in _WAVELENGTH_NM:
        return float(_WAVELENGTH_NM[name])
    match = re.fullmatch(r"f(\d{3,4})(w2|w|m|n|lp|x)", name)
    if match is None:
        return math.nan
    number = int(match[1])
    is_infrared = len(match[1]) == 4 or number < 200 or (number, match[2]) in _JWST_LONG
    return number * 10.0 if is_infrared else float(number)


_JWST_LONG = {
    (200, "w"), (277, "w"), (322, "w2"), (356, "w"), (444, "w"), (210, "m"), (250, "m"),
    (300, "m"), (335, "m"), (360, "m"), (410, "m"), (430, "m"), (460, "m"), (480, "m"),
    (212, "n"), (323, "n"), (405, "n"), (466, "n"), (470, "n"), (560, "w"), (770, "w"),
}  # fmt: skip


def _fit(picture: Image.Image, size_px: int) -> Image.Image:
    """The picture scaled to fit a black square; Lanczos both ways, as pixel edges are no shape."""
    scale = size_px / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    scaled = picture.resize((width, height), Image.Resampling.LANCZOS)
    if (width, height) == (size_px, size_px):
        return scaled
    square = Image.new("RGB", (size_px, size_px))
    square.paste(scaled, ((size_px - width) // 2, (size_px - height) // 2))
    return square


def _encode(picture: Image.Image, format: Literal["JPEG", "PNG"]) -> bytes:
    buffer = io.BytesIO()
    if format == "PNG":
        picture.save(buffer, "PNG")
        return buffer.getvalue()
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True, subsampling="4:2:2")
    return buffer.getvalue()
