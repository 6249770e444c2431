"""What numbers of positions mean where nothing says it: degrees, radians, half turns.

The same rules hold for tables beside files and for the columns of Parquet and HATS.
"""

import logging
import math

import numpy as np

from astroray.errors import ConfigError

__all__ = ["FEW_POSITIONS", "check_angles", "refuse_radians", "wrap_half_turns"]

FEW_POSITIONS = 20
"""Fewer than these say little of their unit by their range."""

_logger = logging.getLogger(__name__)


def check_angles(angles: str) -> None:
    """Raises ConfigError where the survey's option `angles` is none."""
    if angles not in ("", "deg", "rad"):
        raise ConfigError(f"survey option angles is {angles!r}, expected deg or rad")


def refuse_radians(ra: tuple[float, float], dec: tuple[float, float], where: str) -> None:
    """Raises ConfigError where numbers without a unit fill more than half of the sky in radians.

    ra, dec  least and largest of them, as they stand

    As degrees they would be a field of 6 by 3 degrees at ra 0..2 pi, which is rare but not
    impossible, so that the user has to say which.
    """
    is_within = ra[0] >= -math.pi and ra[1] <= 2 * math.pi
    is_within &= max(abs(dec[0]), abs(dec[1])) <= math.pi / 2
    if is_within and ra[1] - ra[0] > math.pi and dec[1] - dec[0] > math.pi / 2:
        raise ConfigError(
            f"{where} have no unit and look like radians: {ra[0]:.4g}..{ra[1]:.4g} and "
            f"{dec[0]:.4g}..{dec[1]:.4g}, expected degrees; say angles=rad, or angles=deg where "
            "the field is that small"
        )


def wrap_half_turns(ra_deg_N: np.ndarray, dec_deg_N: np.ndarray, where: str) -> np.ndarray:
    """Right ascension [N], deg, 0..360 where it is -180..180 throughout; else as it is.

    Negative numbers that are a row's declination too, such as -1 and -1, are codes for unknown.
    """
    is_sky_N = (ra_deg_N >= -180) & (ra_deg_N <= 360) & (np.abs(dec_deg_N) <= 90)
    is_west_N = is_sky_N & (ra_deg_N < 0) & (ra_deg_N != dec_deg_N)
    if not is_west_N.any() or ra_deg_N[is_sky_N].max() > 180:
        return ra_deg_N
    template = "right ascension of %s is -180..180 deg: 360 is added to %d of %d"
    _logger.warning(template, where, is_west_N.sum(), len(ra_deg_N))
    return np.where(is_west_N, ra_deg_N + 360.0, ra_deg_N)
