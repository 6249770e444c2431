"""How often a star flares: its cumulative flare frequency distribution, corrected for misses."""

import dataclasses
import math

import numpy as np
from scipy import stats

from astroray.flares.inject import ED_EDGES_S

__all__ = ["Completeness", "FlareFrequency", "completeness_of", "frequency_of"]

MIN_COMPLETENESS = 0.2
"""Below it a correction would multiply chance, and no rate is given."""
MIN_INJECTED = 3
"""Injected flares of a bin below which its completeness is not known."""
CONFIDENCE = 0.68


@dataclasses.dataclass(frozen=True, kw_only=True)
class Completeness:
    """Share of injected flares that are found, by equivalent duration."""

    share_E: np.ndarray
    """[E] recovered over injected; NaN where fewer than three were injected."""
    low_E: np.ndarray
    """[E] ends of the 68 % interval of Wilson (1927) of the share, NaN as share_E."""
    high_E: np.ndarray
    half_s: float
    """Equivalent duration from which at least half are found, in a bin and in all above it, s;
    NaN where there is none such."""
    most_s: float
    """The same for 80 %."""

    def at(self, equivalent_duration_s: np.ndarray) -> np.ndarray:
        """Share at equivalent durations [N], between centers of bins in their logarithm; that of
        the first and last known bin outside of them, NaN where nothing is known."""
        known_E = np.isfinite(self.share_E)
        if not known_E.any():
            return np.full(np.shape(equivalent_duration_s), np.nan)
        center_E = _centers()[known_E]
        with np.errstate(divide="ignore", invalid="ignore"):
            log_N = np.log10(np.asarray(equivalent_duration_s, np.float64))
        return np.interp(log_N, center_E, self.share_E[known_E])


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlareFrequency:
    """Cumulative flare frequency of a star."""

    equivalent_duration_s_F: np.ndarray
    """[F] of the flares, falling, s."""
    rate_per_d_F: np.ndarray
    """[F] flares per day of at least that equivalent duration, as found."""
    corrected_per_d_F: np.ndarray
    """[F] the same with each flare counted as 1 / completeness; NaN from the first flare on whose
    completeness is unknown or below 0.2."""
    low_per_d_F: np.ndarray
    """[F] ends of the 68 % interval of the found rate (Poisson, Garwood 1936)."""
    high_per_d_F: np.ndarray
    slope: float
    """alpha of dN/dED ~ ED^-alpha by maximum likelihood (Crawford, Jauncey & Murdoch 1970, with
    their correction (n - 1) / n) from flares above `from_s`; NaN for fewer than five."""
    slope_err: float
    from_s: float
    """Equivalent duration above which the slope is fitted: where 80 % are found, else the
    median of the flares; s."""


def completeness_of(num_injected_E: np.ndarray, num_recovered_E: np.ndarray) -> Completeness:
    """Completeness with its binomial interval.

    num_injected_E, num_recovered_E  [E]  counts by bin of `inject.ED_EDGES_S`
    """
    count = np.asarray(num_injected_E, np.float64)
    is_known = count >= MIN_INJECTED
    count = np.where(is_known, count, np.nan)
    share = np.asarray(num_recovered_E, np.float64) / count
    z = float(stats.norm.ppf(0.5 + CONFIDENCE / 2))
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return Completeness(
        share_E=share,
        low_E=np.maximum(middle - half, 0.0),
        high_E=np.minimum(middle + half, 1.0),
        half_s=_reached(share, 0.5),
        most_s=_reached(share, 0.8),
    )


def frequency_of(
    equivalent_duration_s: np.ndarray, observed_d: float, completeness: Completeness
) -> FlareFrequency:
    """Cumulative frequency of the flares of one star.

    equivalent_duration_s  [F]  s
    observed_d                  time with usable flux, d, above 0
    """
    ed_s = np.sort(np.asarray(equivalent_duration_s, np.float64))[::-1]
    count = np.arange(1, len(ed_s) + 1)
    share = completeness.at(ed_s)
    is_usable = np.logical_and.accumulate(share >= MIN_COMPLETENESS)
    weight = np.where(is_usable, 1 / np.where(is_usable, share, 1.0), np.nan)
    tail = (1 - CONFIDENCE) / 2
    from_s = completeness.most_s
    if not from_s <= (ed_s[0] if len(ed_s) else math.nan):
        from_s = float(np.median(ed_s)) if len(ed_s) else math.nan
    slope, slope_err = _slope(ed_s[ed_s >= from_s], from_s)
    return FlareFrequency(
        equivalent_duration_s_F=ed_s,
        rate_per_d_F=count / observed_d,
        corrected_per_d_F=np.cumsum(weight) / observed_d,
        low_per_d_F=stats.gamma.ppf(tail, count) / observed_d,
        high_per_d_F=stats.gamma.ppf(1 - tail, count + 1) / observed_d,
        slope=slope,
        slope_err=slope_err,
        from_s=from_s,
    )


def _slope(ed_s: np.ndarray, from_s: float) -> tuple[float, float]:
    if len(ed_s) < 5 or ed_s[0] == ed_s[-1]:
        return math.nan, math.nan
    index = (len(ed_s) - 1) / float(np.sum(np.log(ed_s / from_s)))
    return 1 + index, index / math.sqrt(len(ed_s))


def _reached(share_E: np.ndarray, bar: float) -> float:
    """Lower edge of the first known bin from which on all known bins reach the bar."""
    known = np.flatnonzero(np.isfinite(share_E))
    below = known[share_E[known] < bar]
    above = known[known > below[-1]] if below.size else known
    return ED_EDGES_S[above[0]] if above.size else math.nan


def _centers() -> np.ndarray:
    edges = np.log10(ED_EDGES_S)
    return (edges[1:] + edges[:-1]) / 2
