"""How pixels and positions on the sky become each other, by the celestial system of a header."""

import numpy as np
from astropy.coordinates import ICRS, SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from astropy.wcs.utils import wcs_to_celestial_frame

__all__ = ["find_celestial", "to_pixels", "to_sky"]

_NAMES_AXES = ("CTYPE", "AMD")
"""Without one of these no axis is celestial: its type, or a plate solution of the DSS."""
_MAX_STEPS = 50
_STEP_PX = 1e-6
_AWAY_PX = 1e-3


def find_celestial(header: fits.Header) -> WCS | None:
    """The celestial axes that a header has; None where there are none."""
    if not any(key.startswith(_NAMES_AXES) for key in header):
        return None  # at once: to build a WCS takes as long as to read a cutout
    wcs = WCS(header, naxis=None)
    if not wcs.has_celestial:
        return None
    return wcs if wcs.naxis == 2 else wcs.celestial


def to_sky(sky: WCS, x_px_N: np.ndarray, y_px_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Right ascension and declination [N], deg, ICRS, of 0-based pixels; NaN beyond the sky."""
    world = sky.all_pix2world(x_px_N, y_px_N, 0)
    lon_N, lat_N = world[sky.wcs.lng], world[sky.wcs.lat]
    known_N = np.isfinite(lon_N) & np.isfinite(lat_N) & (np.abs(lat_N) <= 90.0)
    ra_N, dec_N = np.full(len(lon_N), np.nan), np.full(len(lon_N), np.nan)
    frame, lon_K, lat_K = wcs_to_celestial_frame(sky), lon_N[known_N], lat_N[known_N]
    if isinstance(frame, ICRS):
        ra_N[known_N], dec_N[known_N] = lon_K % 360.0, lat_K
    else:
        place = SkyCoord(lon_K, lat_K, unit="deg", frame=frame).icrs
        ra_N[known_N], dec_N[known_N] = place.ra.deg, place.dec.deg
    return ra_N, dec_N


def to_pixels(
    sky: WCS, ra_deg_N: np.ndarray, dec_deg_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """0-based pixels x [N] and y [N] of positions, deg, ICRS; NaN where none is found.

    As `WCS.all_world2pix`, whose result for one position depends on those beside it.
    """
    frame = wcs_to_celestial_frame(sky)
    lon_N, lat_N = ra_deg_N, dec_deg_N
    if not isinstance(frame, ICRS):
        there = SkyCoord(ra_deg_N, dec_deg_N, unit="deg").transform_to(frame).spherical
        lon_N, lat_N = there.lon.deg, there.lat.deg
    world_N2 = np.empty((len(lon_N), 2))
    world_N2[:, sky.wcs.lng], world_N2[:, sky.wcs.lat] = lon_N, lat_N
    plain_N2 = sky.wcs_world2pix(world_N2, 0)
    pixel_N2 = plain_N2.copy()
    left = np.flatnonzero(np.isfinite(plain_N2).all(axis=1))
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(_MAX_STEPS):
            if not len(left):
                break
            step = sky.pix2foc(pixel_N2[left], 0) - plain_N2[left]
            pixel_N2[left] -= step
            left = left[~(np.abs(step).max(axis=1) <= _STEP_PX)]
    if len(left):
        away = np.abs(sky.pix2foc(pixel_N2[left], 0) - plain_N2[left]).max(axis=1)
        pixel_N2[left[~(away <= _AWAY_PX)]] = np.nan
    return pixel_N2[:, 0], pixel_N2[:, 1]
