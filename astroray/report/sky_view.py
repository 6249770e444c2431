"""How the sky is laid on a plane: its projection, what is in the middle, and its grid of lines."""

import dataclasses
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:  # loaded where it is used: a driver draws its maps last
    from astropy.wcs import WCS

__all__ = ["SkyView", "view_of"]

WIDE_SURVEY_DEG = 35.0
"""Objects farther than this from their center make an all-sky map; a plane would distort them."""
_LINE_POINTS = 61


@dataclasses.dataclass(frozen=True, kw_only=True)
class SkyView:
    """A projection: gnomonic of a field, Mollweide of the whole sky; both in deg, west and north.

    The page's script has the same two (map_sky.js).
    """

    kind: Literal["TAN", "MOL"]
    ra_deg: float
    """Right ascension in the middle."""
    dec_deg: float
    """Declination in the middle; 0 of Mollweide."""

    def places(self, ra_deg_N: np.ndarray, dec_deg_N: np.ndarray) -> np.ndarray:
        """Places [N, 2] of finite positions, deg, x to the west and y to the north."""
        return np.stack(self._wcs().wcs_world2pix(ra_deg_N, dec_deg_N, 1), axis=1)

    def positions(self, place_N2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Right ascension and declination [N], deg, of places; NaN beyond the edge of the sky."""
        ra_deg_N, dec_deg_N = self._wcs().wcs_pix2world(*np.asarray(place_N2, float).T, 1)
        return ra_deg_N, dec_deg_N

    def lines(
        self, axis: Literal["ra", "dec"], values_deg: list[float], *, along_deg: tuple[float, float]
    ) -> Iterator[tuple[float, np.ndarray]]:
        """The grid's lines of equal right ascension or declination, each with its places [P, 2].

        along_deg  from where to where, in the other coordinate; right ascension may pass 360
        """
        along_P = np.linspace(*along_deg, _LINE_POINTS)
        for value in values_deg:
            equal_P = np.full(_LINE_POINTS, value)
            ra_P, dec_P = (equal_P, along_P) if axis == "ra" else (along_P, equal_P)
            yield value, self.places(ra_P % 360, np.clip(dec_P, -90, 90))

    def _wcs(self) -> "WCS":
        from astropy.wcs import WCS

        wcs = WCS(naxis=2)
        wcs.wcs.ctype = [f"RA---{self.kind}", f"DEC--{self.kind}"]
        wcs.wcs.crval = [self.ra_deg, self.dec_deg]
        wcs.wcs.cdelt = [-1.0, 1.0]  # east is left
        return wcs


def view_of(ra_deg_N: np.ndarray, dec_deg_N: np.ndarray) -> SkyView:
    """The projection for objects at finite positions: a plane where all lie in one field."""
    ra_deg, dec_deg = _center(ra_deg_N, dec_deg_N)
    if _radius_deg(ra_deg_N, dec_deg_N, ra_deg, dec_deg) > WIDE_SURVEY_DEG:
        return SkyView(kind="MOL", ra_deg=round(ra_deg / 30) * 30.0 % 360, dec_deg=0.0)
    return SkyView(kind="TAN", ra_deg=ra_deg, dec_deg=dec_deg)


def _center(ra_deg_N: np.ndarray, dec_deg_N: np.ndarray) -> tuple[float, float]:
    """Direction of the mean of unit vectors, deg: right across RA 0 and at the poles."""
    ra_N, dec_N = np.radians(ra_deg_N), np.radians(dec_deg_N)
    x = float((np.cos(dec_N) * np.cos(ra_N)).mean())
    y = float((np.cos(dec_N) * np.sin(ra_N)).mean())
    z = float(np.sin(dec_N).mean())
    return math.degrees(math.atan2(y, x)) % 360, math.degrees(math.atan2(z, math.hypot(x, y)))


def _radius_deg(
    ra_deg_N: np.ndarray, dec_deg_N: np.ndarray, ra_deg: float, dec_deg: float
) -> float:
    """Largest distance of an object from the center, deg."""
    ra, dec, ra_N, dec_N = (np.radians(v) for v in (ra_deg, dec_deg, ra_deg_N, dec_deg_N))
    cosine_N = np.sin(dec) * np.sin(dec_N) + np.cos(dec) * np.cos(dec_N) * np.cos(ra_N - ra)
    return float(np.degrees(np.arccos(np.clip(cosine_N, -1, 1)).max()))
