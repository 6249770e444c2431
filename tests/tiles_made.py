"""Coadd tiles that tests make: a patch of sky on overlapping grids, a file a band."""

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from astroray import surveys
from astroray.surveys.shards import Reject

SIDE_PX = 100
PIXEL_DEG = 1e-4
CENTERS = {"east": (150.004, 2.0), "west": (149.996, 2.0)}
"""Two tiles that overlap by 20 of their 100 pixels."""


def tile_header(ra_deg, dec_deg, side_px=SIDE_PX, kind="TAN"):
    """North up, the middle of the image at the position."""
    header = fits.Header()
    suffix = "-SIP" if kind == "SIP" else ""
    projection = "TPV" if kind == "TPV" else "TAN"
    header["CTYPE1"], header["CTYPE2"] = f"RA---{projection}{suffix}", f"DEC--{projection}{suffix}"
    header["CRVAL1"], header["CRVAL2"] = ra_deg, dec_deg
    header["CRPIX1"] = header["CRPIX2"] = (side_px + 1) / 2
    header["CD1_1"], header["CD1_2"], header["CD2_1"], header["CD2_2"] = -PIXEL_DEG, 0, 0, PIXEL_DEG
    header["RADESYS"] = "ICRS"
    if kind == "SIP":
        header["A_ORDER"], header["B_ORDER"] = 3, 3
        header["A_2_0"], header["A_0_2"], header["B_1_1"], header["B_3_0"] = 2e-4, 1e-4, -2e-4, 2e-6
    if kind == "TPV":
        for axis in (1, 2):
            header[f"PV{axis}_0"], header[f"PV{axis}_1"] = 0.0, 1.0
            header[f"PV{axis}_4"], header[f"PV{axis}_7"] = 2.0, 30.0
    return header


def draw(header, ra_N, dec_N, fluxes_N, side_px=SIDE_PX):
    """Stars of 1.5 px sigma at the positions, on a little noise."""
    random = np.random.default_rng(int(1e4 * header["CRVAL1"]))
    image_YX = random.normal(0, 0.1, (side_px, side_px))
    y_YX, x_YX = np.mgrid[:side_px, :side_px]
    x_N, y_N = WCS(header).all_world2pix(ra_N, dec_N, 0)
    for x, y, flux in zip(x_N, y_N, fluxes_N, strict=True):
        image_YX += flux * np.exp(-((x_YX - x) ** 2 + (y_YX - y) ** 2) / 4.5)
    return image_YX.astype(np.float32)


def write_tile(folder, name, band, image_YX, header, *more, packed=False):
    """`folder/name_band.fits`, with companion HDUs; `.fits.fz` where it is packed."""
    folder.mkdir(exist_ok=True)
    if packed:
        science = fits.CompImageHDU(image_YX, header, compression_type="GZIP_1", quantize_level=0)
        hdus = [fits.PrimaryHDU(), science, *more]
    else:
        hdus = [fits.PrimaryHDU(image_YX, header), *more]
    path = folder / f"{name}_{band}.fits{'.fz' if packed else ''}"
    fits.HDUList(hdus).writeto(path)
    return path


def make_sky(num_objects, seed=3):
    """Names, right ascension and declination of objects over both tiles."""
    random = np.random.default_rng(seed)
    ra_N = random.uniform(149.9915, 150.0085, num_objects)
    dec_N = random.uniform(1.9955, 2.0045, num_objects)
    return [f"J{i}" for i in range(num_objects)], ra_N, dec_N


def write_sky(folder, ra_N, dec_N, bands="gr", kind="TAN", **options):
    """Both tiles in each band; an object is twice as bright in a band as in the one before."""
    for name, center in CENTERS.items():
        header = tile_header(*center, kind=kind)
        for place, band in enumerate(bands):
            fluxes = np.full(len(ra_N), 100.0 * 2**place)
            write_tile(folder, name, band, draw(header, ra_N, dec_N, fluxes), header, **options)


def read_rows(survey, known=()):
    """By object_id what was read: shard, position, flags and image; and all rejects."""
    rows, rejects = {}, []
    for shard in surveys.list_shards(survey, known=known).shards:
        for item in surveys.read_shard(shard):
            if isinstance(item, Reject):
                rejects.append(item)
                continue
            for i, object_id in enumerate(item.object_id_B):
                assert object_id not in rows, "an object is cut from one tile"
                rows[object_id] = (
                    item.field, item.ra_deg_B[i], item.dec_deg_B[i], item.flags_B[i],
                    item.image_BCYX[i],
                )  # fmt: skip
    return rows, rejects
