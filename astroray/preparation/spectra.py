"""How a spectrum becomes what an encoder eats: resampled to one grid, scaled, or rejected.

The grid is fixed when a model is fitted: bins of equal width in the logarithm of wavelength, as a
redshift moves them, from where nine of ten spectra of the survey begin to where nine of ten
reach. They are as wide as the survey's own pixels, or wider where 4 windows of 512 do not suffice.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, cast

import numpy as np

from astroray.errors import ConfigError
from astroray.preparation import Prepared, Wishes
from astroray.preparation.light_curves import WINDOW
from astroray.surveys.shards import ModalityName, Reject, Rows
from astroray.surveys.spectrum_rows import Spectra, Spectrum

__all__ = ["SpectrumPreparation", "measure_spectra", "prepare_spectra"]

MAX_WINDOWS = 4
COVERED_SHARE = 0.9
"""Share of the spectra that reach each end of the grid; others lack bins there."""
MIN_COVERED = 0.5
"""Of a bin, by pixels that count; less is no measurement."""
WIDEST = 3.0
"""Widths of a typical pixel that one pixel stands for at most: wider steps are gaps."""
MOST_WEIGHT = 1e6
"""Of a pixel, in units of the median inverse variance, and the inverse of the least."""
DAMPING = 1 / 3
"""Noise of this share of the typical scatter halves what is seen of a bin."""
LIGHT_KM_S = 299792.458
NOISE_OF_STEPS = 1.4826 / math.sqrt(2.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpectrumPreparation:
    """What a model expects of its spectra."""

    modality: ClassVar[ModalityName] = "spectra"

    first: float
    """Middle of the first bin, Angstrom."""
    step: float
    """Width of a bin in the decimal logarithm of wavelength."""
    num_bins: int
    """Bins that the grid has; the rest of the last window is never observed."""
    num_windows: int
    """Windows of 512 bins, one after the other."""
    scale: float
    """Typical scatter of a spectrum around its median, in units of that: below it differences are
    linear, above logarithmic."""
    max_missing: float = 0.5
    """Largest share of the bins that a spectrum may lack; more is a reject."""

    def __post_init__(self) -> None:
        if not 1 <= self.num_windows <= MAX_WINDOWS:
            raise ConfigError(f"num_windows is {self.num_windows}, expected 1..{MAX_WINDOWS}")
        if not 2 <= self.num_bins <= self.num_windows * WINDOW:
            raise ConfigError(
                f"num_bins is {self.num_bins}, expected 2..{self.num_windows * WINDOW}"
            )
        if not (self.first > 0 and self.step > 0 and self.scale > 0):
            raise ConfigError(
                f"first is {self.first}, step {self.step} and scale {self.scale}, expected more "
                "than 0"
            )
        if not 0 <= self.max_missing < 1:
            raise ConfigError(f"max_missing is {self.max_missing}, expected 0 up to below 1")

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "SpectrumPreparation":
        """The preparation whose `dataclasses.asdict` went through JSON."""
        return cls(**values)

    @property
    def network(self) -> dict[str, int]:
        """The numbers that a network for such spectra is built with."""
        return {"num_windows": self.num_windows}

    @property
    def last(self) -> float:
        """Middle of the last bin, Angstrom."""
        return float(self.first * 10 ** (self.step * (self.num_bins - 1)))

    def describe(self) -> dict[str, Any]:
        """What a run record says of it."""
        width_km_s = LIGHT_KM_S * (10**self.step - 1)
        return {
            "input": f"relative flux, {self.num_bins} bins of {width_km_s:.3g} km/s, "
            f"{self.first:.0f} to {self.last:.0f} Å",
            **dataclasses.asdict(self),
        }


def prepare_spectra(rows: Rows, preparation: SpectrumPreparation) -> Prepared:
    """The slice as the encoder expects it, [B, 2, W, 512]: flux and where it was observed.

    Flux is the mean of the pixels of a bin, each by its overlap and inverse variance, over the
    level of the spectrum, less 1, as asinh in units of the survey's typical scatter; 0 where less
    than half of a bin is covered by pixels that count, and there the second plane is 0 instead of
    1. The level is the root of the squares of the median and of the noise of a bin: what has no
    signal is seen in units of its noise, and a median that is not above 0 does no harm. What a
    noisy bin has beyond the level is damped, as a Wiener filter does that knows how spectra
    scatter: noise is not what makes a spectrum unusual. Without inverse variances the noise is
    taken from the steps between bins.

    A row is rejected where it lacks more than `max_missing` of the bins, and where its flux never
    changes.
    """
    shape = (2, preparation.num_windows, WINDOW)
    kept: list[int] = []
    inputs: list[np.ndarray] = []
    rejects: list[Reject] = []
    for i, spectrum in enumerate(cast(Spectra, rows).spectrum_B):
        flux_K, noise_K = _resampled(spectrum, preparation)
        fault = _fault(flux_K, spectrum, preparation)
        if fault is not None:
            row = int(rows.row_B[i])
            rejects.append(Reject(row=row, stage="prepare", kind=fault[0], reason=fault[1]))
            continue
        value_K = _scaled(flux_K, noise_K, preparation.scale)
        seen_K = np.isfinite(value_K)
        planes = np.zeros((2, preparation.num_windows * WINDOW), np.float32)
        planes[0, : preparation.num_bins] = np.where(seen_K, value_K, 0.0)
        planes[1, : preparation.num_bins] = seen_K
        inputs.append(planes.reshape(shape))
        kept.append(i)
    index_B = np.array(kept, np.int64)
    return Prepared(
        index_B=index_B,
        input_BCYX=np.array(inputs, np.float32) if inputs else np.zeros((0, *shape), np.float32),
        flags_B=rows.flags_B.astype(np.int32)[index_B],
        rejects=tuple(rejects),
    )


def measure_spectra(slices: Iterator[Rows], wishes: Wishes) -> SpectrumPreparation:
    """A preparation fitted to a sample of the survey: its grid and scatter.

    Raises ConfigError where the sample is empty or has no wavelengths in common, and on wishes
    that only images can have.
    """
    wishes.refuse_those_of_images("spectra")
    spectra = [one for rows in slices for one in cast(Spectra, rows).spectrum_B]
    if not spectra:
        raise ConfigError("no readable spectrum in the sample of the survey")
    ends = np.array([one.wavelength[one.seen_T][[0, -1]] for one in spectra])
    first = float(np.quantile(ends[:, 0], COVERED_SHARE, method="lower"))
    last = float(np.quantile(ends[:, 1], 1 - COVERED_SHARE, method="higher"))
    if not first < last:
        raise ConfigError(
            f"the spectra of the sample have no wavelengths in common: one in ten begins above "
            f"{first:.0f} Å, one in ten ends below {last:.0f} Å; scan them one by one"
        )
    own = float(np.median([_own_step(one) for one in spectra]))
    span = math.log10(last / first)
    wanted = max(1, math.ceil((span / own + 1) / WINDOW))
    num_windows = wishes.num_windows or min(wanted, MAX_WINDOWS)
    step = max(own, span / (num_windows * WINDOW - 1))
    grid = SpectrumPreparation(
        first=first,
        step=step,
        num_bins=max(2, round(span / step) + 1),
        num_windows=num_windows,
        scale=1.0,
        max_missing=wishes.max_missing,
    )
    scatters = [_scatter(*_resampled(one, grid)) for one in spectra]
    known = [scatter for scatter in scatters if scatter > 0]
    return dataclasses.replace(grid, scale=float(np.median(known)) if known else 1.0)


def _resampled(
    spectrum: Spectrum, preparation: SpectrumPreparation
) -> tuple[np.ndarray, np.ndarray]:
    """Mean flux of each bin and its noise, [K]; NaN where it is not covered.

    A pixel reaches halfway to its neighbors. Integrals over bins are differences of cumulative
    ones, so bins may be wider or narrower than pixels.
    """
    x_T, seen_T = np.log10(spectrum.wavelength), spectrum.seen_T
    step_T = np.diff(x_T)
    widest = WIDEST * float(np.median(step_T)) or math.inf
    half_T = np.minimum(step_T, widest) / 2
    left_T = x_T - np.concatenate([half_T[:1], half_T])
    right_T = x_T + np.concatenate([half_T, half_T[-1:]])
    width_T = right_T - left_T
    edge_K = math.log10(preparation.first) + preparation.step * (
        np.arange(preparation.num_bins + 1) - 0.5
    )
    ivar_T = spectrum.ivar[seen_T]
    has_noise = bool(np.isfinite(ivar_T).all())
    middle = float(np.median(ivar_T)) if has_noise else 1.0
    weight_T = np.zeros(len(x_T))
    weight_T[seen_T] = (ivar_T / middle).clip(1 / MOST_WEIGHT, MOST_WEIGHT) if has_noise else 1.0

    def over_bins(density_T: np.ndarray) -> np.ndarray:
        """Integral over each bin of what each pixel has of it for each unit of x."""
        known_2T = np.stack([left_T, right_T], 1).ravel()
        total_T = np.cumsum(density_T * width_T)
        total_2T = np.stack([total_T - density_T * width_T, total_T], 1).ravel()
        return np.diff(np.interp(edge_K, known_2T, total_2T))

    sum_K = over_bins(weight_T)
    covered_K = over_bins(seen_T.astype(np.float64)) / preparation.step
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        flux_K = over_bins(weight_T * np.where(seen_T, spectrum.flux, 0.0)) / sum_K
        is_known_K = (covered_K >= MIN_COVERED) & (sum_K > 0) & np.isfinite(flux_K)
        flux_K = np.where(is_known_K, flux_K, np.nan)
        if has_noise:
            noise_K = (middle * over_bins(weight_T / np.maximum(width_T, 1e-12))) ** -0.5
        else:
            steps = np.abs(np.diff(flux_K[is_known_K]))
            noise_K = np.full(len(flux_K), NOISE_OF_STEPS * np.median(steps) if len(steps) else 0.0)
    return flux_K, np.where(is_known_K & np.isfinite(noise_K), noise_K, np.nan)


def _level(flux_K: np.ndarray, noise_K: np.ndarray) -> float:
    """What the flux is seen in units of; above 0 unless the flux is 0 throughout."""
    level = math.hypot(float(np.nanmedian(flux_K)), float(np.nanmedian(noise_K)))
    return level or float(np.nanmax(np.abs(flux_K)))


def _scaled(flux_K: np.ndarray, noise_K: np.ndarray, scale: float) -> np.ndarray:
    """What the encoder sees of each bin; NaN where nothing was observed."""
    level = _level(flux_K, noise_K)
    noise_K = noise_K / (level * DAMPING * scale)
    with np.errstate(over="ignore"):
        return np.arcsinh((flux_K / level - 1) / (1 + noise_K**2) / scale)


def _scatter(flux_K: np.ndarray, noise_K: np.ndarray) -> float:
    """Around the median, in units of the level; 0 where nothing is known."""
    if not np.isfinite(flux_K).any() or not (level := _level(flux_K, noise_K)):
        return 0.0
    return 1.4826 * float(np.nanmedian(np.abs(flux_K - np.nanmedian(flux_K)))) / level


def _own_step(spectrum: Spectrum) -> float:
    """Mean width of a pixel in the decimal logarithm of wavelength."""
    first, last = np.log10(spectrum.wavelength[[0, -1]])
    return float(last - first) / (len(np.unique(spectrum.wavelength)) - 1)


def _fault(
    flux_K: np.ndarray, spectrum: Spectrum, preparation: SpectrumPreparation
) -> tuple[str, str] | None:
    """Why a spectrum cannot be used, as class and reason."""
    missing = float(np.mean(~np.isfinite(flux_K)))
    if missing > preparation.max_missing or missing == 1.0:
        low, high = spectrum.wavelength[spectrum.seen_T][[0, -1]]
        return (
            "overlap",
            f"{missing:.0%} of the bins from {preparation.first:.0f} to {preparation.last:.0f} Å "
            f"are missing, expected at most {preparation.max_missing:.0%}: pixels that count lie "
            f"within {low:.0f} to {high:.0f} Å",
        )
    if np.nanmin(flux_K) == np.nanmax(flux_K):
        return "constant", f"every flux is {np.nanmax(flux_K):g}: nothing to look at"
    return None
