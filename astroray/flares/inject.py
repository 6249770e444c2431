"""How many flares are missed: made ones are put into a light curve and looked for again."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from astroray.flares.detrend import detrend
from astroray.flares.events import Event, FlareRule, find_events
from astroray.flares.template import TEMPLATE_AREA, mean_flare_shape

__all__ = ["ED_EDGES_S", "Injection", "Recovery", "inject_flares", "recover_flares"]

ED_EDGES_S = tuple(float(edge) for edge in np.round(10 ** np.arange(-1, 4.26, 0.25), 6))
"""Edges of the bins of equivalent duration in which completeness is counted, s."""
SPACING_D = 0.6
"""Distance of the flares of one round, about, so that none hides another."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Injection:
    """A light curve with made flares in it."""

    flux_T: np.ndarray
    """[T] as it was, plus flares; NaN stays NaN."""
    peak_d_J: np.ndarray
    """[J] times of the peaks, ascending."""
    fwhm_d_J: np.ndarray
    """[J] full widths at half maximum."""
    amplitude_J: np.ndarray
    """[J] height of the template over the star's median flux, before an exposure smears it."""
    equivalent_duration_s_J: np.ndarray
    """[J] amplitude times full width times the area of the template."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recovery:
    """Injected and recovered flares by bin of equivalent duration, `ED_EDGES_S`."""

    num_injected_E: np.ndarray
    """[E] int64"""
    num_recovered_E: np.ndarray
    """[E] int64"""
    median_share: float
    """Median of the found over the injected equivalent duration; NaN where none was found. Below
    1, since a flare ends for the finder where it sinks into the noise."""


def inject_flares(
    time_d: np.ndarray,
    flux: np.ndarray,
    *,
    num_flares: int,
    seed: int | Sequence[int],
    ed_range_s: tuple[float, float] = (ED_EDGES_S[0], ED_EDGES_S[-1]),
    fwhm_range_d: tuple[float, float] = (1 / 1440, 60 / 1440),
    free_T: np.ndarray | None = None,
) -> Injection:
    """Adds flares of the Davenport et al. (2014) template, smeared over an exposure.

    time_d      [T]  d, ascending; an exposure lasts as long as the median spacing
    flux        [T]  NaN where missing
    num_flares       at most; fewer where fewer cadences are free
    ed_range_s       equivalent durations, drawn evenly in their logarithm
    fwhm_range_d     full widths at half maximum, drawn evenly in their logarithm
    free_T      [T]  bool, cadences where a peak may lie; None: wherever there is a flux

    The same seed gives the same flares.
    """
    random = np.random.default_rng(seed)
    free = np.flatnonzero(np.isfinite(flux) if free_T is None else free_T & np.isfinite(flux))
    cadence_d = float(np.median(np.diff(time_d)))
    parts = [part for part in np.array_split(free, num_flares) if part.size]
    index_J = np.array([random.choice(part) for part in parts], np.int64)
    num = len(index_J)
    peak_d_J = np.sort(time_d[index_J] + cadence_d * random.uniform(-0.5, 0.5, num))
    ed_s_J = _log_uniform(random, ed_range_s, num)
    fwhm_d_J = _log_uniform(random, fwhm_range_d, num)
    amplitude_J = ed_s_J / (86400 * fwhm_d_J * TEMPLATE_AREA)
    level = float(np.nanmedian(flux)) if free.size else 0.0
    added_T = np.zeros(len(flux))
    for peak_d, fwhm_d, amplitude in zip(peak_d_J, fwhm_d_J, amplitude_J, strict=True):
        # After 45 widths the template is below 1e-6 of its peak.
        first, last = np.searchsorted(time_d, [peak_d - fwhm_d - cadence_d, peak_d + 45 * fwhm_d])
        phase = (time_d[first:last] - peak_d) / fwhm_d
        added_T[first:last] += level * amplitude * mean_flare_shape(phase, cadence_d / fwhm_d)
    return Injection(
        flux_T=flux + added_T,
        peak_d_J=peak_d_J,
        fwhm_d_J=fwhm_d_J,
        amplitude_J=amplitude_J,
        equivalent_duration_s_J=ed_s_J,
    )


def recover_flares(
    time_d: np.ndarray,
    flux: np.ndarray,
    found: Sequence[Event],
    *,
    num_flares: int,
    seed: int | Sequence[int],
    rule: FlareRule | None = None,
    fired_T: np.ndarray | None = None,
) -> Recovery:
    """Injects flares away from those `found`, round by round, detrends and looks for them again.

    An injected flare counts as recovered where a flare is found that lasts over its peak, give or
    take one cadence. Lengths of 1 to 60 minutes; equivalent durations where completeness rises
    for this light curve's noise, a thousandfold range.
    """
    cadence_d = float(np.median(np.diff(time_d)))
    free_T = np.isfinite(flux)
    for event in found:
        free_T[max(0, event.first - 3) : event.last + 4] = False
    finite = flux[np.isfinite(flux)]
    noise = float(np.median(np.abs(np.diff(finite)))) / float(np.median(finite))
    usual_s = min(max(noise * 86400 * cadence_d * 10, ED_EDGES_S[0]), ED_EDGES_S[-1])
    ed_range_s = max(usual_s / 10, ED_EDGES_S[0]), min(usual_s * 100, ED_EDGES_S[-1])
    per_round = max(1, int(free_T.sum() * cadence_d / SPACING_D))
    injected_E = np.zeros(len(ED_EDGES_S) - 1, np.int64)
    recovered_E = injected_E.copy()
    shares: list[float] = []
    entropy = [seed] if isinstance(seed, int) else list(seed)
    for begin in range(0, num_flares, per_round):
        made = inject_flares(
            time_d,
            flux,
            num_flares=min(per_round, num_flares - begin),
            seed=[*entropy, begin],
            ed_range_s=ed_range_s,
            free_T=free_T,
        )
        events = find_events(time_d, detrend(time_d, made.flux_T, fired_T=fired_T), rule)
        ed_s_J, found_ed_s_J = made.equivalent_duration_s_J, _match(made, events, cadence_d)
        is_found_J = np.isfinite(found_ed_s_J)
        injected_E += np.histogram(ed_s_J, ED_EDGES_S)[0]
        recovered_E += np.histogram(ed_s_J[is_found_J], ED_EDGES_S)[0]
        shares += (found_ed_s_J / ed_s_J)[is_found_J].tolist()
        if not ed_s_J.size:
            break
    return Recovery(
        num_injected_E=injected_E,
        num_recovered_E=recovered_E,
        median_share=float(np.median(shares)) if shares else float("nan"),
    )


def _log_uniform(random: np.random.Generator, bounds: tuple[float, float], num: int) -> np.ndarray:
    """[J] draws, even in their logarithm."""
    low, high = np.log(bounds)
    return np.exp(random.uniform(float(low), float(high), num))


def _match(made: Injection, events: Sequence[Event], cadence_d: float) -> np.ndarray:
    """[J] equivalent duration of the flare found at each injected one; NaN where there is none."""
    flares = [event for event in events if not event.refused]
    matched_J = np.full(len(made.peak_d_J), np.nan)
    for event in flares:
        first, last = np.searchsorted(
            made.peak_d_J, [event.start_d - cadence_d, event.stop_d + cadence_d]
        )
        matched_J[first:last] = event.equivalent_duration_s
    return matched_J
