"""What numbers of positions mean where nothing says it: degrees, radians, half turns.

The same rules hold for tables beside files and for the columns of Parquet and HATS.
"""

import math

import numpy as np

from astroray.errors import ConfigError

__all__ = ["FEW_POSITIONS", "are_within_radians", "check_angles", "is_west", "refuse_radians"]

FEW_POSITIONS = 20
"""Fewer than these say little of their unit by their range."""


def check_angles(angles: str) -> None:
    """Raises ConfigError where the survey's option `angles` is none."""
    if angles not in ("", "deg", "rad"):
        raise ConfigError(f"survey option angles is {angles!r}, expected deg or rad")


def are_within_radians(ra: tuple[float, float], dec: tuple[float, float]) -> bool:
    """Whether numbers from the least to the largest could all be positions in radians."""
    is_ra = ra[0] >= -math.pi and ra[1] <= 2 * math.pi
    return is_ra and dec[0] >= -math.pi / 2 and dec[1] <= math.pi / 2


def refuse_radians(ra: tuple[float, float], dec: tuple[float, float], where: str) -> None:
    """Raises ConfigError where numbers without a unit fill more than half of the sky in radians.

    ra, dec  least and largest of them, as they stand

    As degrees they would be a field of 6 by 3 degrees at ra 0..2 pi, which is rare but not
    impossible, so that the user has to say which.
    """
    fill_half = ra[1] - ra[0] > math.pi and dec[1] - dec[0] > math.pi / 2
    if fill_half and are_within_radians(ra, dec):
        raise ConfigError(
            f"{where} have no unit and look like radians: {ra[0]:.4g}..{ra[1]:.4g} and "
            f"{dec[0]:.4g}..{dec[1]:.4g}, expected degrees; say angles=rad, or angles=deg where "
            "the field is that small"
        )


def is_west(ra_deg_B: np.ndarray, dec_deg_B: np.ndarray) -> np.ndarray:
    """[B] whether right ascension is below 0, as half turns of -180..180 deg have it.

    Negative numbers that are a row's declination too, such as -1 and -1, are codes for unknown.
    """
    is_sky_B = (ra_deg_B >= -180) & (np.abs(dec_deg_B) <= 90)
    return is_sky_B & (ra_deg_B < 0) & (ra_deg_B != dec_deg_B)
