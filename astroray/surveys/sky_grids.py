"""Where positions on the sky fall on the pixels of an image, by the header alone.

An image on the sky is a `SkyGrid`, which travels in the params of a shard. Of images that overlap,
a position belongs to the one in which it lies farthest from the edge, in pixels; to the first of
them where that is equal. That needs no order of files, shards or rows, and no pixels.
"""

import base64
import dataclasses
import functools
import json
import re
import warnings
import zlib
from collections.abc import Sequence

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from astroray.surveys.celestial import find_celestial, to_pixels, to_sky

__all__ = ["SkyGrid", "choose_grid", "find_overlaps", "pack_grids", "unpack_grids"]

_NO_GRID = -1
_KEYS = re.compile(
    r"NAXIS\d?|WCSAXES|C(TYPE|UNIT|RPIX|RVAL|DELT|ROTA)\d|(CD|PC|PV|PS)\d_\d+|[AB]P?_(ORDER|\d_\d)|"
    r"LONPOLE|LATPOLE|RADESYS|RADECSYS|EQUINOX|EPOCH|MJD-OBS|DATE-OBS|WAT\d_\d+|"
    r"(CPDIS|CQDIS|DP|DQ|D2IMDIS|DPJ)\d"
)
"""Cards that say where pixels lie, distortions among them."""
_SIDE_POINTS = 17
_MARGIN = 1.01  # a side may bulge between the points that are looked at


@dataclasses.dataclass(frozen=True, kw_only=True)
class SkyGrid:
    """The pixels of one image on the sky."""

    name: str
    cards: str
    """Cards of its header that say where pixels lie, one a line."""
    height_px: int
    width_px: int

    @classmethod
    def of(cls, name: str, header: fits.Header, shape: tuple[int, ...]) -> "SkyGrid | None":
        """The grid of an image of `shape` [..., Y, X]; None without a celestial system.

        Raises what astropy raises of a header that it cannot use.
        """
        cards = "\n".join(filter(None, map(_card, header.cards)))
        grid = cls(name=name, cards=cards, height_px=shape[-2], width_px=shape[-1])
        return grid if grid._sky is not None and np.isfinite(grid.center).all() else None

    @functools.cached_property
    def _sky(self) -> WCS | None:
        lines = self.cards.split("\n")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they were logged when the header was read
            return find_celestial(fits.Header.fromstring("".join(line.ljust(80) for line in lines)))

    @functools.cached_property
    def center(self) -> np.ndarray:
        """[3] unit vector of its middle; NaN where that is no place on the sky."""
        return _vectors(*self._positions([(self.width_px - 1) / 2], [(self.height_px - 1) / 2]))[0]

    @functools.cached_property
    def radius_rad(self) -> float:
        """Radius of a circle about `center` that holds all pixels; pi where nothing less does."""
        x, y = (
            np.linspace(-0.5, length - 0.5, _SIDE_POINTS)
            for length in (self.width_px, self.height_px)
        )
        low, high = np.full_like(x, -0.5), np.full_like(x, 1.0)
        edge = self._positions(
            np.concatenate([x, x, low, high * (self.width_px - 0.5)]),
            np.concatenate([low, high * (self.height_px - 0.5), y, y]),
        )
        chord = np.linalg.norm(_vectors(*edge) - self.center, axis=1).max()
        if not np.isfinite(chord):
            return float(np.pi)
        return float(min(2 * np.arcsin(min(chord / 2, 1.0)) * _MARGIN, np.pi))

    @property
    def chord(self) -> float:
        """The radius of that circle as a straight line between unit vectors."""
        return 2 * float(np.sin(self.radius_rad / 2))

    def pixels(self, ra_deg_N: np.ndarray, dec_deg_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """0-based pixel coordinates x [N] and y [N] of positions, deg, ICRS.

        NaN outside of the circle, where projections and distortions lead to wrong pixels, and
        where the distortion cannot be inverted. A result depends on its own position alone.
        """
        x_N, y_N = np.full((2, len(ra_deg_N)), np.nan)
        vector_N = _vectors(ra_deg_N, dec_deg_N)
        near_N = np.linalg.norm(vector_N - self.center, axis=1) <= self.chord
        if self._sky is not None and near_N.any():
            x_N[near_N], y_N[near_N] = to_pixels(self._sky, ra_deg_N[near_N], dec_deg_N[near_N])
        return x_N, y_N

    def depth_px(self, ra_deg_N: np.ndarray, dec_deg_N: np.ndarray) -> np.ndarray:
        """[N] pixels from each position to the nearest edge, in thousandths; -1 outside."""
        x_N, y_N = self.pixels(ra_deg_N, dec_deg_N)
        ends = np.stack(
            [x_N + 0.5, self.width_px - 0.5 - x_N, y_N + 0.5, self.height_px - 0.5 - y_N]
        )
        depth_N = np.round(ends.min(axis=0), 3)
        return np.where(depth_N >= 0, depth_N, -1.0)

    def offset_px(self, other: "SkyGrid") -> float:
        """By how much the corners and the middle of `other` lie elsewhere in this grid, at most."""
        x = np.array([0, other.width_px - 1, 0, other.width_px - 1, (other.width_px - 1) / 2])
        y = np.array([0, 0, other.height_px - 1, other.height_px - 1, (other.height_px - 1) / 2])
        found = np.array(self.pixels(*other._positions(x, y)))
        away = np.hypot(*(found - [x, y]))
        return float("inf") if np.isnan(away).any() else float(away.max())

    def _positions(
        self, x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        if self._sky is None:
            return np.full(len(x), np.nan), np.full(len(x), np.nan)
        return to_sky(self._sky, np.asarray(x), np.asarray(y))


def choose_grid(
    grids: Sequence[SkyGrid], ra_deg_N: np.ndarray, dec_deg_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Place in `grids` of the one that each position belongs to, and what lies on each grid.

    grids  [G]  in order of name, since the first of several has what is equally deep in them

    Returns owner_N [N], -1 where a position lies on no grid or is none, and num_G [G], how many
    lie on each grid, whoever they belong to.
    """
    num_G = np.zeros(len(grids), np.int64)
    owner_N, best_N = np.full(len(ra_deg_N), _NO_GRID), np.full(len(ra_deg_N), -1.0)
    known = np.flatnonzero(np.isfinite(ra_deg_N) & np.isfinite(dec_deg_N))
    if not len(known) or not grids:
        return owner_N, num_G
    from scipy.spatial import cKDTree  # takes a third of a second, and cutouts need none

    tree = cKDTree(_vectors(ra_deg_N[known], dec_deg_N[known]))
    centers = np.stack([grid.center for grid in grids])
    reach = np.array([grid.chord for grid in grids])
    for place, near in enumerate(tree.query_ball_point(centers, reach)):
        if not near:
            continue
        rows = known[np.sort(near)]
        depth = grids[place].depth_px(ra_deg_N[rows], dec_deg_N[rows])
        is_best = depth > best_N[rows]
        owner_N[rows[is_best]], best_N[rows[is_best]] = place, depth[is_best]
        num_G[place] = np.count_nonzero(depth >= 0)
    return owner_N, num_G


def find_overlaps(grids: Sequence[SkyGrid]) -> list[list[int]]:
    """Of each grid the places of all whose circles touch its own, itself among them, ascending."""
    if not grids:
        return []
    from scipy.spatial import cKDTree

    tree = cKDTree(np.stack([grid.center for grid in grids]))
    radius = np.array([grid.radius_rad for grid in grids])
    reach = 2 * np.sin(np.minimum(radius + radius.max(), np.pi) / 2)
    found = []
    for place, near in enumerate(tree.query_ball_point(tree.data, reach)):
        away = np.linalg.norm(tree.data[near] - tree.data[place], axis=1)
        touch = 2 * np.sin(np.minimum(radius[place] + radius[near], np.pi) / 2)
        found.append(sorted(np.array(near)[away <= touch].tolist()))
    return found


def pack_grids(grids: Sequence[SkyGrid]) -> str:
    """Grids as a short text; headers of one survey are much alike."""
    text = json.dumps([[g.name, g.height_px, g.width_px, g.cards] for g in grids])
    return base64.b85encode(zlib.compress(text.encode(), 9)).decode()


def unpack_grids(text: str) -> list[SkyGrid]:
    """The inverse of `pack_grids`."""
    rows = json.loads(zlib.decompress(base64.b85decode(text)))
    return [
        SkyGrid(name=name, height_px=height_px, width_px=width_px, cards=cards)
        for name, height_px, width_px, cards in rows
    ]


def _card(card: fits.Card) -> str:
    try:
        if not _KEYS.fullmatch(card.rawkeyword):
            return ""
        image = str(card.image)
        is_text = isinstance(card.rawvalue, str)
    except (fits.VerifyError, ValueError):  # a card that cannot be parsed says nothing
        return ""
    return (image if is_text else image.partition(" /")[0]).rstrip()


def _vectors(ra_deg_N: np.ndarray, dec_deg_N: np.ndarray) -> np.ndarray:
    """[N, 3] unit vectors."""
    ra_N, dec_N = np.radians(ra_deg_N), np.radians(dec_deg_N)
    return np.stack(
        [np.cos(dec_N) * np.cos(ra_N), np.cos(dec_N) * np.sin(ra_N), np.sin(dec_N)], axis=-1
    )
