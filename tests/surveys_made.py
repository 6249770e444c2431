"""Small cutouts and surveys that tests make, without files of the real sky."""

import numpy as np
from PIL import Image

from astroray.surveys.shards import Cutouts


def cutouts(image_BCYX, *, pixels="flux", bands=None, ids=None, dec=None):
    """A slice of a survey around an array."""
    image_BCYX = np.asarray(image_BCYX, np.float32)
    num_rows, num_bands = image_BCYX.shape[:2]
    return Cutouts(
        row_B=np.arange(num_rows),
        object_id_B=ids or [f"o{i}" for i in range(num_rows)],
        ra_deg_B=np.full(num_rows, 10.0),
        dec_deg_B=np.full(num_rows, 5.0) if dec is None else np.asarray(dec, float),
        image_BCYX=image_BCYX,
        bands=bands or ("g", "r", "i", "z")[:num_bands],
        pixels=pixels,
        flags_B=np.zeros(num_rows, np.int32),
    )


def write_pictures(folder, count, *, seed=0, size_px=24):
    """`count` small jpg pictures of blobs, each another one; returns their paths."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:size_px, :size_px] - (size_px - 1) / 2
    paths = []
    for i in range(count):
        width = random.uniform(2, 6)
        blob = np.exp(-(x**2 + (y * random.uniform(1, 3)) ** 2) / (2 * width**2))
        color = random.uniform(0.3, 1, 3)
        image = blob[..., None] * color * 220 + random.uniform(0, 25, (size_px, size_px, 3))
        path = folder / f"p{i:04d}.jpg"
        Image.fromarray(image.astype(np.uint8)).save(path, quality=95)
        paths.append(path)
    return paths
