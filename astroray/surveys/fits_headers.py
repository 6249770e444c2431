"""What the header of a FITS image says of it: bands, night, detector, place on the sky.

Headers are as surveys write them: cards with tabs, obsolete keywords, coordinate systems that
cannot be used. None of that touches the pixels, so it is logged and lived with.
"""

import contextlib
import dataclasses
import datetime
import logging
import warnings
import zlib
from collections.abc import Iterator

import numpy as np
from astropy.io import fits
from astropy.wcs import WcsError

from astroray.errors import ShardError
from astroray.surveys.celestial import find_celestial, to_sky
from astroray.surveys.sky_grids import SkyGrid

_log = logging.getLogger(__name__)

_NOON = datetime.timedelta(hours=12)
_BAD_IF_SET = ("MASK", "MSK", "DQ", "BAD", "BADPIX", "BPM")
_BAD_IF_NOT_POSITIVE = ("IVAR", "INVVAR", "WEIGHT", "WHT", "WGT")
_ERRORS = ("ERR", "ERROR", "VAR", "VARIANCE", "RMS", "SIGMA")
_COMPANIONS = (
    *_BAD_IF_SET, *_BAD_IF_NOT_POSITIVE, *_ERRORS, "PSF",
    "BACK", "BACKGROUND", "BKG", "SEGM", "SEGMAP", "SEGMENTATION", "MODEL", "EXPOSURE", "CTX",
    "APERTURE",  # the pixels that a light curve of Kepler, K2 or TESS was summed over
)  # fmt: skip
_IMAGES = ("SCI", "IMAGE", "IMG", "DATA")
_LOST_PLANES = ("BAD", "CR", "NO_DATA", "SAT", "UNMASKEDNAN")
"""Of the named planes of a mask as Rubin and HSC write it, those without a usable flux; others, as
DETECTED, are set on every object."""
BAD_DATA = (
    OSError, EOFError, zlib.error, ValueError, TypeError, KeyError, IndexError, AttributeError,
    OverflowError, AssertionError, fits.VerifyError, WcsError,
)  # fmt: skip
"""What astropy raises on bad bytes; it has no error class of its own for them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitsImage:
    """One image HDU of a file: where it is and what its header says; its pixels stay on disk."""

    path: str
    index: int
    """Position of the HDU in the file, from 0."""
    name: str
    """EXTNAME, else CCDNAME, else empty."""
    version: int
    """EXTVER, which pairs an image with its mask; 1 where there is none."""
    shape: tuple[int, ...]
    header: fits.Header
    primary: fits.Header
    """The file's first header: what it says of band and night holds for every image without own."""

    @property
    def is_companion(self) -> bool:
        """Whether its name says that it is a mask, weight, error... map of another image.

        One with a label, MASK_G, is so only beside an image of that label.
        """
        return self._role[0] in _COMPANIONS

    @property
    def is_mask(self) -> bool:
        """Whether its name says which pixels of another image are bad."""
        return self._role[0] in (*_BAD_IF_SET, *_BAD_IF_NOT_POSITIVE)

    @property
    def label(self) -> str:
        """What its name says beside its role: G of SCI_G, of MASK_G and of G_WEIGHT."""
        return self._role[1]

    @property
    def _role(self) -> tuple[str, str]:
        """The part of its name that says what it is, and the rest; empty where there is none."""
        name = self.name.upper()
        if name in (*_IMAGES, *_COMPANIONS):
            return name, ""
        for first, _, last in (name.partition("_"), name.rpartition("_")):
            for role, label in ((first, last), (last, first)):
                if label and role in (*_IMAGES, *_BAD_IF_SET, *_BAD_IF_NOT_POSITIVE, *_ERRORS):
                    return role, label
        return "", name

    def bad(self, values: np.ndarray) -> np.ndarray:
        """Where the stored values of this mask say bad: not above 0 for a weight or ivar, a plane
        of lost flux where the header names planes (MP_SAT = 1 is bit 1), else not 0.
        """
        if self._role[0] in _BAD_IF_NOT_POSITIVE:
            return ~(values > 0)
        if values.dtype.kind in "iu" and any(key.startswith("MP_") for key in self.header):
            planes = [self.number(f"MP_{name}", np.nan) for name in _LOST_PLANES]
            bits = sum(1 << int(plane) for plane in planes if 0 <= plane < 63)
            return (values.astype(np.int64) & bits) != 0
        return values != 0

    @property
    def plain_shape(self) -> tuple[int, ...]:
        """Its shape without leading axes of length 1, which radio images have for Stokes."""
        shape = self.shape
        while len(shape) > 2 and shape[0] == 1:
            shape = shape[1:]
        return shape

    @property
    def detector(self) -> str | None:
        """CCDNAME, DETECTOR, DETNAM or EXTNAME, the first one that is given."""
        names = (self.text(key) for key in ("CCDNAME", "DETECTOR", "DETNAM", "EXTNAME"))
        return next((name for name in names if name and name != "COMPRESSED_IMAGE"), None)

    @property
    def night(self) -> str | None:
        """UTC date at dusk, `2026-07-24`: that of DATE-OBS (else MJD-OBS) less 12 hours.

        A DATE-OBS without a time is taken as it is; None where neither can be read.
        """
        return _night(self.header) or _night(self.primary)

    def text(self, key: str) -> str:
        """A header value as text without blanks around; empty where absent or unreadable."""
        return _text(self.header, key)

    def number(self, key: str, otherwise: float) -> float:
        """A header value as a number; `otherwise` where it is absent or none."""
        return _number(self.header, key, otherwise)

    def bands(self, num_bands: int, *, asked: str = "") -> tuple[str, ...]:
        """Names of the planes: `asked` (`g,r,i`), else BAND or FILTER of its own header, one for
        all planes or BAND1, BAND2..., else of the file's first one, else b0, b1...

        A card of an extension goes before that of the file's first header, as FITS 4.0 has it of
        INHERIT (appendix K). INHERIT = F is not heeded, here and of `night`: IRAF's FITS kernel
        writes it into extensions of files whose first header alone has band and date.

        Raises ShardError where `asked` has another number of names.
        """
        names = _split(asked)
        if names and len(names) != num_bands:
            raise ShardError(
                f"{self.path} has {num_bands} bands in HDU {self.index}, expected the "
                f"{len(names)} of bands={asked}; name them all, and where each file is a band "
                "as the files' names have them"
            )
        names = names or self._own_bands(num_bands) or _bands(self.primary)
        if not all(names) or len(set(names)) != num_bands:
            return tuple(f"b{plane}" for plane in range(num_bands))
        return names

    def _own_bands(self, num_bands: int) -> tuple[str, ...]:
        """What its header says of the planes, in one card or in one of each; else empty."""
        names = _bands(self.header)
        if len(names) == num_bands:
            return names
        planes = [self.text(f"BAND{i}") or self.text(f"FILTER{i}") for i in range(1, num_bands + 1)]
        return tuple(planes) if any(planes) else names

    def positions(self, x_px_N: np.ndarray, y_px_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Right ascension and declination, deg, ICRS, of 0-based pixel coordinates.

        x_px_N  [N]  along the last axis of the array
        y_px_N  [N]  along the axis before it

        NaN throughout where there is no usable celestial coordinate system, which is logged.
        """
        unknown = (np.full(len(x_px_N), np.nan), np.full(len(x_px_N), np.nan))
        if len(x_px_N) == 0:
            return unknown
        try:
            with logged_warnings(self.path):
                return self._positions(np.asarray(x_px_N), np.asarray(y_px_N)) or unknown
        except BAD_DATA as error:
            _log.warning(
                "%s: HDU %d has a coordinate system that cannot be used (%s); its objects have "
                "no positions", self.path, self.index, one_line(error),
            )  # fmt: skip
            return unknown

    def _positions(
        self, x_px_N: np.ndarray, y_px_N: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray] | None:
        sky = find_celestial(self.header)
        return None if sky is None else to_sky(sky, x_px_N, y_px_N)

    def grid(self, name: str) -> SkyGrid | None:
        """Its pixels on the sky, called `name`; None where there is no usable celestial system."""
        try:
            with logged_warnings(self.path):
                return SkyGrid.of(name, self.header, self.shape)
        except BAD_DATA as error:
            _log.info("%s: HDU %d: %s", self.path, self.index, one_line(error))
            return None


@contextlib.contextmanager
def logged_warnings(path: str) -> Iterator[None]:
    """Turns astropy's warnings into one log line; never held over a yield of a reader."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    if caught:
        first = one_line(caught[0].message)
        _log.info("%s: %d notes by astropy, the first: %s", path, len(caught), first)


def one_line(error: object) -> str:
    """Its first sentence; what astropy advises after it is meant for programmers."""
    return " ".join(str(error).split()).partition(". ")[0][:200] or type(error).__name__


def _text(header: fits.Header, key: str) -> str:
    try:
        value = header.get(key, "")
    except (fits.VerifyError, ValueError):  # a card that cannot be parsed says nothing
        return ""
    return "" if isinstance(value, fits.card.Undefined) else str(value).strip()


def _bands(header: fits.Header) -> tuple[str, ...]:
    return _split(_text(header, "BAND") or _text(header, "FILTER") or _text(header, "BANDS"))


def _split(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(",") if name.strip())


def _number(header: fits.Header, key: str, otherwise: float) -> float:
    try:
        return float(_text(header, key))
    except ValueError:
        return otherwise


def _night(header: fits.Header) -> str | None:
    """UTC date at dusk of one header; None where it says none that can be read."""
    time = _text(header, "TIME-OBS") or _text(header, "UT")
    moment = _parse_moment(_text(header, "DATE-OBS"), time)
    if moment is not None:
        return moment.date().isoformat()
    mjd = _number(header, "MJD-OBS", 0.0)
    if 0 < mjd < 100_000:
        days = datetime.timedelta(days=mjd) - _NOON
        return (datetime.datetime(1858, 11, 17) + days).date().isoformat()
    return None


def _parse_moment(date: str, time: str) -> datetime.datetime | None:
    """DATE-OBS, with the older TIME-OBS or UT, less 12 hours; a bare date as it is."""
    if "/" in date:  # 26/10/92, as it was written before 1999
        day, _, rest = date.partition("/")
        month, _, year = rest.partition("/")
        date = f"19{year:0>2}-{month:0>2}-{day:0>2}"
    if ":" in time and "T" not in date:
        date = f"{date}T{time.zfill(8)}"  # 7:29:58
    for text in (date, date.partition("T")[0]):
        try:
            moment = datetime.datetime.fromisoformat(text)
            if moment.tzinfo:  # FITS knows UTC alone, yet some write another zone's clock
                moment = moment.astimezone(datetime.UTC).replace(tzinfo=None)
            return moment - _NOON if "T" in text else moment
        except (ValueError, OverflowError):  # there is no noon before the first day of year 1
            continue
    return None
