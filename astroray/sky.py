"""Positions on the sphere: HEALPix indices, NESTED, and separations.

astropy is loaded where it is used: it takes a third of a second, and a scan's driver needs it late.
"""

import numpy as np

HATS_ORDER = 29


def healpix_29(ra_deg_N: np.ndarray, dec_deg_N: np.ndarray) -> np.ndarray:
    """HEALPix index of order 29, NESTED, as HATS stores it, int64 [N].

    ra_deg_N   [N]  right ascension, deg, ICRS, any turn
    dec_deg_N  [N]  declination, deg, ICRS, -90..90; astropy raises beyond
    """
    if len(ra_deg_N) == 0:
        return np.zeros(0, np.int64)
    import cdshealpix
    from astropy.coordinates import Latitude, Longitude

    index_N = cdshealpix.lonlat_to_healpix(
        Longitude(ra_deg_N, "deg"), Latitude(dec_deg_N, "deg"), HATS_ORDER
    )
    return index_N.astype(np.int64)


def describe_position(ra_deg: float | None, dec_deg: float | None) -> str:
    """A position in words; that there is none where either is None."""
    if ra_deg is None or dec_deg is None:
        return "no position"
    return f"ra {ra_deg:.6f}, dec {dec_deg:+.6f} deg"


def parent_pixel(healpix_29_N: np.ndarray, order: int) -> np.ndarray:
    """The pixel of `order` that holds each order-29 pixel, int64 [N]."""
    return np.asarray(healpix_29_N, np.int64) >> (2 * (HATS_ORDER - order))


def separation_arcsec(
    ra1_deg: np.ndarray, dec1_deg: np.ndarray, ra2_deg: np.ndarray, dec2_deg: np.ndarray
) -> np.ndarray:
    """Great-circle separation, arcsec (Vincenty, stable at all distances)."""
    from astropy.coordinates import angular_separation

    ra1, dec1, ra2, dec2 = (np.radians(x) for x in (ra1_deg, dec1_deg, ra2_deg, dec2_deg))
    return np.degrees(angular_separation(ra1, dec1, ra2, dec2)) * 3600.0
