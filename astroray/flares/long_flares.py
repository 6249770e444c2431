"""How much of a long flare the trend took for the star: flare and star are fitted together.

A fit to what is left beside a flare follows the slow part of its decay, which stands below the
noise of a cadence there and holds three fifths of the flare. Here the Davenport et al. (2014)
template and a spline as stiff as the trend are fitted at once (a partial linear model, Speckman
1988, JRSS B 50, 413; for each width and place of the template the height is the best one, Golub &
Pereyra 1973), and the trend is fitted anew to the flux without the template. What is a flare has
been decided before; where it ends and how large it is, is measured again.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy.interpolate

from astroray.flares.detrend import DetrendConfig, Detrended, detrend
from astroray.flares.events import Event, FlareRule, find_events, measure_again
from astroray.flares.template import mean_flare_shape

__all__ = ["search_flares"]

LONG_SHARE = 0.1
"""Length of a flare over the window of the trend from which on it is fitted with the star."""
LEAST_HEIGHT = 10.0
"""Height of its peak in local noise: the tail of a fainter one cannot be told from the star."""
LEAST_CADENCES = 20.0
"""Cadences in a window of the trend: of fewer, a spline as stiff follows each."""
REACH = 1.0
"""Windows of the trend on either side of a flare that are fitted with it."""
KNOTS = 3.0
"""Intervals of the spline in a window of the trend: as stiff as a local quadratic fit."""
SHIFTS = np.linspace(-0.75, 0.75, 5)
"""Places of the peak about the brightest cadence, in cadences."""
WIDEST = 0.5
"""Widest template over the length of the flare."""
LOWEST = -4.0
"""Height in local noise below which a cadence is left out."""
LEAST_EXPLAINED = 0.9
"""Share of the flux in a flare that the template has to explain; else the flare has another shape,
and is measured by the first trend."""


def search_flares(
    time_d: np.ndarray,
    flux: np.ndarray,
    rule: FlareRule | None = None,
    config: DetrendConfig | None = None,
    *,
    fired_T: np.ndarray | None = None,
) -> tuple[Detrended, list[Event]]:
    """The light curve relative to its trend, its flares and its refused candidates.

    What is given and what is raised: as of detrend and find_events.
    """
    config = config or DetrendConfig()
    curve = detrend(time_d, flux, config, fired_T=fired_T)
    events = find_events(time_d, curve, rule)
    flare_T = np.zeros(len(flux))
    for event in events:
        if _is_long(event, curve):
            flare_T += _template(time_d, flux - flare_T, curve, event, events)
    if not flare_T.any():
        return curve, events
    same_window = dataclasses.replace(config, windows_d=(curve.window_d,))
    star = detrend(time_d, flux - flare_T, same_window, fired_T=fired_T)
    is_known_T = star.segment_T >= 0
    relative_T = np.full(len(flux), np.nan)
    relative_T[is_known_T] = flux[is_known_T] / star.trend_T[is_known_T] - 1
    again = dataclasses.replace(star, relative_T=relative_T)
    return again, measure_again(time_d, again, events, rule)


def _is_long(event: Event, curve: Detrended) -> bool:
    """Whether an event is a flare of which the trend may have taken a part, and that it shows."""
    return (
        not event.refused
        and event.stop_d - event.start_d > LONG_SHARE * curve.window_d
        and event.amplitude > LEAST_HEIGHT * curve.noise_T[event.peak]
        and curve.window_d > LEAST_CADENCES * curve.cadence_d
    )


def _template(
    time_d: np.ndarray, flux: np.ndarray, curve: Detrended, event: Event, events: Sequence[Event]
) -> np.ndarray:
    """[T] flux of a flare by the template that fits best; 0 where none does."""
    flare_T = np.zeros(len(flux))
    reach_d = REACH * curve.window_d
    first, stop = np.searchsorted(time_d, [event.start_d - reach_d, event.stop_d + reach_d])
    is_used_T = (curve.segment_T == curve.segment_T[event.peak]) & (
        curve.relative_T > LOWEST * curve.noise_T
    )
    for other in events:
        if other is not event:
            is_used_T[max(0, other.first - 1) : other.last + 2] = False
    at_N = first + np.flatnonzero(is_used_T[first:stop])
    length_d = event.stop_d - event.start_d
    width_W = np.geomspace(max(length_d / 30, curve.cadence_d / 2), WIDEST * length_d, 12)
    width_J, shift_J = (part.ravel() for part in np.meshgrid(width_W, SHIFTS * curve.cadence_d))
    phase_JT = (time_d[first:stop] - event.peak_d - shift_J[:, None]) / width_J[:, None]
    shape_JT = mean_flare_shape(phase_JT, curve.cadence_d / width_J[:, None])
    shape_JN, flux_N = shape_JT[:, at_N - first], flux[at_N]
    basis_NM = _spline(time_d[at_N], curve.window_d)
    rest_JN = shape_JN - (shape_JN @ basis_NM) @ basis_NM.T
    power_J = np.maximum((rest_JN**2).sum(axis=1), 1e-12)
    height_J = np.maximum(rest_JN @ flux_N, 0) / power_J
    best = int(np.argmax(height_J**2 * power_J))
    above_N = flux_N - basis_NM @ (basis_NM.T @ (flux_N - height_J[best] * shape_JN[best]))
    is_its_N = (at_N >= event.first) & (at_N <= event.last)
    left_N = (above_N - height_J[best] * shape_JN[best])[is_its_N]
    if left_N @ left_N < (1 - LEAST_EXPLAINED) * above_N[is_its_N] @ above_N[is_its_N]:
        flare_T[first:stop] = height_J[best] * shape_JT[best]
    return flare_T


def _spline(time_N: np.ndarray, window_d: float) -> np.ndarray:
    """[N, M] orthonormal, spans the cubic splines as stiff as a trend of that window."""
    num = max(1, math.ceil(KNOTS * (time_N[-1] - time_N[0]) / window_d))
    knots_d = np.linspace(time_N[0], time_N[-1], num + 1)
    knots_d = np.concatenate([knots_d[:1].repeat(3), knots_d, knots_d[-1:].repeat(3)])
    design_NM = scipy.interpolate.BSpline.design_matrix(time_N, knots_d, 3).toarray()
    return np.linalg.qr(design_NM[:, design_NM.any(axis=0)])[0]
