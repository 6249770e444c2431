"""When what a file holds is one usable spectrum, and why not otherwise.

Rules, the same for every format:

    wavelengths are Angstrom, ascending, within 500 to 1e7; equal ones are kept, as the arms of a
    spectrograph overlap; those that go backwards throughout are turned around
    a pixel counts where its flux is a number, its inverse variance is above 0 and no bit of its
    mask says that it is bad; all others are NaN
    fewer than 16 pixels that count reject the spectrum
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np

from astroray.errors import ConfigError
from astroray.surveys.shards import ModalityName, Reject, Rows, reject
from astroray.surveys.slices import identity_of

__all__ = [
    "Origin",
    "RawSpectrum",
    "Spectra",
    "Spectrum",
    "check_mask",
    "from_logarithm",
    "settle",
]

Origin = Literal["sdss", "lamost", "desi", "other"]
"""Whose pipeline wrote a file: what the bits of its masks mean."""

MIN_PIXELS = 16
LOWEST, HIGHEST = 500.0, 1e7
"""Angstrom: from the far ultraviolet to a millimeter; numbers beyond are of another unit."""
_FULLREJECT, _NOSKY, _BRIGHTSKY = 1 << 18, 1 << 22, 1 << 23
_SOMEBADPIX, _COSMIC = 1 << 0, 1 << 2
_ALL_BITS = 2**32 - 1
DEFAULT_BITS: Mapping[Origin, int] = {
    "sdss": _FULLREJECT | _NOSKY | _BRIGHTSKY,
    "lamost": _FULLREJECT | _NOSKY | _BRIGHTSKY,
    "desi": _ALL_BITS & ~(_SOMEBADPIX | _COSMIC),
    "other": _ALL_BITS,
}
"""Bits that make a pixel bad. Of SDSS and LAMOST those of SPPIXMASK that mean that the sky was not
known or far brighter than the object; others, such as WHOPPER, are set on half of some good
spectra. Of DESI all of specmask but those of pixels of which only some exposures were lost."""
_MASKS: Mapping[str, int | None] = {"default": None, "any": _ALL_BITS, "none": 0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spectrum:
    """One spectrum of one object."""

    object_id: str
    """The survey's own, "SDSS 0618-52049-0372", "LAMOST 105172", "DESI 39633297352951412"."""
    row: int
    """Within the shard, from 0."""
    ra_deg: float
    """ICRS; NaN where unknown."""
    dec_deg: float
    """ICRS; NaN where unknown."""
    wavelength: np.ndarray
    """[T] float64, Angstrom, ascending; of SDSS, LAMOST and DESI in vacuum."""
    flux: np.ndarray
    """[T] float64, per Angstrom, in the file's unit; NaN where missing or masked."""
    ivar: np.ndarray
    """[T] float64, inverse variance of the flux; 0 where that is NaN, NaN where unknown."""
    mask: np.ndarray
    """[T] int64, bits as read; 0 throughout where the file has none."""
    origin: Origin
    redshift: float
    """As the survey measured it; NaN where unknown."""

    @property
    def seen_T(self) -> np.ndarray:
        """[T] bool, pixels that count."""
        return np.isfinite(self.flux)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spectra(Rows):
    """Rows of one shard, a spectrum each, of any lengths."""

    modality: ClassVar[ModalityName] = "spectra"

    spectrum_B: Sequence[Spectrum]
    """[B]."""

    @classmethod
    def of(cls, spectra: Sequence[Spectrum]) -> "Spectra":
        """Spectra of one shard, in its order."""
        return cls(**identity_of(spectra), spectrum_B=tuple(spectra))

    @property
    def num_values(self) -> int:
        return sum(len(spectrum.flux) for spectrum in self.spectrum_B)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RawSpectrum:
    """What a file says of one object, before anything is checked; fields as in Spectrum.

    wavelength, flux  [T]  float64 as read
    ivar              [T]  float64, or None where the file has none
    mask              [T]  float64, or None where the file has none
    """

    object_id: str
    ra_deg: float
    dec_deg: float
    wavelength: np.ndarray
    flux: np.ndarray
    ivar: np.ndarray | None
    mask: np.ndarray | None
    origin: Origin
    redshift: float = math.nan


def check_mask(mask: str) -> None:
    """Raises ConfigError where `mask=` is neither a name nor bits."""
    if mask not in _MASKS and not mask.isdecimal():
        raise ConfigError(
            f"mask is {mask!r}, expected {', '.join(_MASKS)} or the bits of bad pixels as a number"
        )


def settle(
    raw: RawSpectrum, *, row: int, where: str, mask: str = "default", is_rest: bool = False
) -> Spectrum | Reject:
    """The spectrum, or the reject that says which rule of this module it breaks.

    is_rest  wavelengths are divided by 1 + redshift; without a redshift that is a reject
    """
    fault = _fault(raw, row, where, is_rest)
    if fault is not None:
        return fault
    order = slice(None, None, -1) if raw.wavelength[0] > raw.wavelength[-1] else slice(None)
    wavelength, flux = raw.wavelength[order], raw.flux[order]
    is_known_T = np.isfinite(flux)
    ivar = np.full(len(flux), np.nan)
    if raw.ivar is not None:
        ivar = np.where(np.isfinite(raw.ivar), raw.ivar, 0.0)[order].clip(min=0.0)
        is_known_T &= ivar > 0
    stored = np.zeros(len(flux)) if raw.mask is None else raw.mask[order]
    bits_T = np.where((stored >= 0) & (stored < 2.0**32), stored, _ALL_BITS).astype(np.int64)
    chosen = _MASKS.get(mask, int(mask) if mask.isdecimal() else None)
    chosen = DEFAULT_BITS[raw.origin] if chosen is None else chosen
    seen_T = is_known_T & ((bits_T & chosen) == 0)
    if np.count_nonzero(seen_T) < MIN_PIXELS:
        return _nothing_left(is_known_T, seen_T, row, where)
    return Spectrum(
        object_id=raw.object_id,
        row=row,
        ra_deg=raw.ra_deg,
        dec_deg=raw.dec_deg,
        wavelength=wavelength / (1 + raw.redshift) if is_rest else wavelength,
        flux=np.where(seen_T, flux, np.nan),
        ivar=np.where(seen_T, ivar, 0.0),
        mask=bits_T,
        origin=raw.origin,
        redshift=raw.redshift,
    )


def from_logarithm(values: np.ndarray) -> np.ndarray:
    """Wavelengths whose decimal logarithms a file has; damaged ones are infinite, or no numbers."""
    with np.errstate(over="ignore", invalid="ignore"):
        return 10.0**values


def _fault(raw: RawSpectrum, row: int, where: str, is_rest: bool) -> Reject | None:
    columns = (raw.wavelength, raw.flux, raw.ivar, raw.mask)
    sizes = {len(column) for column in columns if column is not None}
    if len(sizes) > 1:
        reason = f"{where} has columns of {sorted(sizes)} pixels, expected one length"
        return reject(row, "shape", reason)
    if len(raw.flux) < MIN_PIXELS:
        reason = f"{where} has {len(raw.flux)} pixels, expected at least {MIN_PIXELS}"
        return reject(row, "short", reason)
    with np.errstate(invalid="ignore"):  # of damaged wavelengths
        step = np.diff(raw.wavelength)
    if not (np.isfinite(raw.wavelength).all() and ((step >= 0).all() or (step <= 0).all())):
        num_bad = int(np.count_nonzero(~np.isfinite(raw.wavelength)))
        reason = (
            f"wavelengths of {where} go from {raw.wavelength[0]} to {raw.wavelength[-1]}, "
            f"{num_bad} of them no numbers, {np.count_nonzero(step < 0)} steps backwards; expected "
            "ascending ones"
        )
        return reject(row, "wavelength", reason)
    low, high = sorted((float(raw.wavelength[0]), float(raw.wavelength[-1])))
    if not LOWEST <= low < high <= HIGHEST:
        reason = (
            f"wavelengths of {where} go from {low:g} to {high:g} Angstrom, expected to lie in "
            f"{LOWEST:g}..{HIGHEST:g}; say unit=nm or unit=um where they are so"
        )
        return reject(row, "wavelength", reason)
    if is_rest and not raw.redshift > -1:
        reason = f"{where} has redshift {raw.redshift}, expected a number for rest=true"
        return reject(row, "redshift", reason)
    return None


def _nothing_left(is_known_T: np.ndarray, seen_T: np.ndarray, row: int, where: str) -> Reject:
    num_known, num_seen = int(np.count_nonzero(is_known_T)), int(np.count_nonzero(seen_T))
    if num_known < MIN_PIXELS:
        reason = (
            f"{where} has {num_known} pixels with a flux and an inverse variance above 0 among "
            f"{len(seen_T)}, expected at least {MIN_PIXELS}"
        )
        return reject(row, "empty", reason)
    reason = (
        f"the mask of {where} leaves {num_seen} of its {num_known} pixels, expected at least "
        f"{MIN_PIXELS}; see mask="
    )
    return reject(row, "masked", reason)
