"""How the light curves of a star become windows: binned, scaled, gaps filled or the window dropped.

G counts the cells of a star's even grid; other letters as in windows.py.

    cadences are averaged into cells of the rule's spacing, each file over its own median
    pauses of up to 5 cells are bridged by a line, longer ones stand at the window's median;
    both are marked as not observed
    a window lacking more than 30 %, or with a pause above 1 d, is dropped; none is laid where
    nothing was observed, as between the sectors of a star
    scales are the window's own, so that nothing after its end enters it, but for the step between
    two files, whose medians are those of all their cadences
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from astroray.errors import DataError
from astroray.flares.detrend import SIGMA_OF_MAD, detrend
from astroray.flares.events import Event, find_events
from astroray.flares.records import StarRecord
from astroray.flares.windows import WindowRule, Windows, describe_windows

if TYPE_CHECKING:
    from astroray.surveys.light_curves import LightCurve

__all__ = ["curve_windows", "events_for_windows", "find_record", "rule_for"]

TESS_CADENCE_D = 10 / 1440
MAX_BRIDGED = 5
"""Cells of a pause that a line bridges."""
META = ("teff_k", "logg", "metallicity_dex", "radius_sun", "period_d")
"""Where LightCurve.meta has records.PROPERTIES."""


def rule_for(mission: str) -> WindowRule:
    """Windows of Kepler's long cadence, or for TESS of 10 min."""
    return WindowRule(cadence_d=TESS_CADENCE_D) if mission == "tess" else WindowRule()


def curve_windows(
    curves: Sequence["LightCurve"],
    rule: WindowRule,
    *,
    record: StarRecord | None = None,
    events: Sequence[Event] | None = None,
    unanswered: bool = False,
) -> Windows:
    """Windows of all light curves of one star.

    record  its flares where they are known; else those that `astroray flares find` finds. The
            finder looks beyond a cadence: its trend half a window, up to 0.6 d, its noise up to
            1.5 d; and which window the trend has the whole light curve decides.
    events  what the finder sees in all of them, where it has been asked already
    unanswered  whether windows are kept whose horizon nobody observed, and one is laid that ends
                with the last cadence: what is to be forecast rather than learnt from

    Raises DataError where a light curve cannot be detrended, or is sampled too coarsely.
    """
    grid = _Grid.of(curves, rule)
    record = record or find_record(curves, observed_S2=grid.stretches(), events=events)
    last = grid.num_cells if unanswered else grid.num_cells - rule.num_ahead
    stop_W = np.arange(rule.num_cadences, last + 1, rule.stride)
    if unanswered and stop_W.size and stop_W[-1] < last:
        stop_W = np.append(stop_W, last)
    stop_W = stop_W[grid.num_seen(stop_W - rule.num_cadences, stop_W) > 0]
    if not stop_W.size:
        return describe_windows(record, np.zeros(0), rule, {"light curve shorter than a window": 1})
    inside_WT = np.lib.stride_tricks.sliding_window_view(grid.flux_G, rule.num_cadences)
    inside_WT = inside_WT[stop_W - rule.num_cadences]
    beyond_G = np.concatenate([grid.flux_G, np.full(rule.num_ahead, np.nan)])
    ahead_WT = np.lib.stride_tricks.sliding_window_view(beyond_G, rule.num_ahead)[stop_W]
    seen_WT = np.isfinite(inside_WT)
    max_gap = int(rule.max_gap_d / rule.cadence_d)
    is_dark_W = seen_WT.mean(axis=1) < 1 - rule.max_missing
    is_torn_W = ~is_dark_W & (_longest_pause(seen_WT) > max_gap)
    is_blind_W = np.isfinite(ahead_WT).mean(axis=1) < rule.min_horizon
    is_blind_W &= ~is_dark_W & ~is_torn_W
    kept_W = ~(is_dark_W | is_torn_W) & (~is_blind_W | unanswered)
    dropped = {
        f"less than {1 - rule.max_missing:.0%} of the history observed": int(is_dark_W.sum()),
        f"a pause above {rule.max_gap_d:g} d in the history": int(is_torn_W.sum()),
        f"less than {rule.min_horizon:.0%} of the horizon observed": int(
            (is_blind_W & ~kept_W).sum()
        ),
    }
    end_W = grid.first_d + stop_W[kept_W] * rule.cadence_d
    windows = describe_windows(record, end_W, rule, dropped)
    channels = [_channels(flux_T) for flux_T in inside_WT[kept_W]]
    flux_WTC = np.array(channels, np.float32).reshape(len(end_W), rule.num_cadences, 3)
    return dataclasses.replace(windows, flux_WTC=flux_WTC, answered_W=~is_blind_W[kept_W])


def events_for_windows(curve: "LightCurve", rule: WindowRule) -> list[Event]:
    """What the finder sees in a light curve of which windows can be made.

    Raises DataError where it cannot be detrended, or is sampled too coarsely.
    """
    _level(curve, rule)
    return find_events(curve.time_d, detrend(curve.time_d, curve.flux))


def find_record(
    curves: Sequence["LightCurve"],
    *,
    observed_S2: np.ndarray,
    events: Sequence[Event] | None = None,
) -> StarRecord:
    """The flares that the finder sees in a star's light curves; sizes are log10 of their ED in s.

    One that two light curves show, as those of a star at two cadences, counts once.

    Raises DataError where a light curve cannot be detrended.
    """
    if events is None:
        events = [
            event
            for curve in curves
            for event in find_events(curve.time_d, detrend(curve.time_d, curve.flux))
        ]
    events = _once(sorted((e for e in events if not e.refused), key=lambda event: event.start_d))
    ed_s = np.array([event.equivalent_duration_s for event in events])
    meta: dict[str, float] = {}
    for curve in curves:
        meta = {**curve.meta, **meta}
    return StarRecord(
        object_id=curves[0].object_id,
        start_F=np.array([event.start_d for event in events]),
        stop_F=np.array([event.stop_d for event in events]),
        size_F=np.log10(np.where(ed_s > 0, ed_s, np.nan)),
        observed_S2=observed_S2,
        property_P=np.array([meta.get(name, math.nan) for name in META]),
    )


def _once(events: Sequence[Event]) -> list[Event]:
    """Events in order of their start, without those that begin before one of them has ended."""
    kept: list[Event] = []
    for event in events:
        if not kept or event.start_d > kept[-1].stop_d:
            kept.append(event)
    return kept


def _level(curve: "LightCurve", rule: WindowRule) -> float:
    """The median flux. Raises DataError where it is not above 0, or cadences are too long."""
    level = float(np.nanmedian(curve.flux))
    if not level > 0:
        raise DataError(f"the median flux is {level:.4g}, expected above 0")
    if curve.cadence_s > 1.5 * rule.cadence_d * 86400:
        raise DataError(
            f"one cadence takes {curve.cadence_s:.0f} s, expected at most "
            f"{1.5 * rule.cadence_d * 86400:.0f} s for windows of this mission"
        )
    return level


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Grid:
    """A star's relative flux on even cells; NaN where nothing was observed."""

    first_d: float
    cadence_d: float
    flux_G: np.ndarray

    @classmethod
    def of(cls, curves: Sequence["LightCurve"], rule: WindowRule) -> "_Grid":
        # A cell begins where its first cadence does, half of one before its middle: no cadence
        # falls on an edge.
        first_d = min(float(curve.time_d[0]) - curve.cadence_s / 172800 for curve in curves)
        last_d = max(float(curve.time_d[-1]) for curve in curves)
        num_cells = int((last_d - first_d) / rule.cadence_d) + 1
        sum_G, count_G = np.zeros(num_cells), np.zeros(num_cells)
        for curve in curves:
            level = _level(curve, rule)
            known_T = np.isfinite(curve.flux)
            cell_T = ((curve.time_d[known_T] - first_d) / rule.cadence_d).astype(np.int64)
            sum_G += np.bincount(cell_T, curve.flux[known_T] / level, num_cells)
            count_G += np.bincount(cell_T, minlength=num_cells)
        flux_G = np.where(count_G > 0, sum_G / np.maximum(count_G, 1), np.nan)
        return cls(first_d=first_d, cadence_d=rule.cadence_d, flux_G=flux_G)

    @property
    def num_cells(self) -> int:
        return len(self.flux_G)

    def num_seen(self, first_W: np.ndarray, stop_W: np.ndarray) -> np.ndarray:
        """[W] cells with a flux from each first one up to before each stop."""
        before_G = np.concatenate([[0], np.cumsum(np.isfinite(self.flux_G))])
        return before_G[stop_W] - before_G[first_W]

    def stretches(self) -> np.ndarray:
        """[S, 2] d, where cells follow each other with a flux."""
        edge_G = np.diff(np.concatenate([[0], np.isfinite(self.flux_G).astype(int), [0]]))
        begin_S, end_S = np.flatnonzero(edge_G == 1), np.flatnonzero(edge_G == -1)
        return self.first_d + self.cadence_d * np.stack([begin_S, end_S], axis=1)


def _longest_pause(seen_WT: np.ndarray) -> np.ndarray:
    """[W] most unobserved cells in a row."""
    run_W = np.zeros(len(seen_WT), np.int64)
    longest_W = run_W.copy()
    for seen_W in seen_WT.T:
        run_W = np.where(seen_W, 0, run_W + 1)
        longest_W = np.maximum(longest_W, run_W)
    return longest_W


def _channels(flux_T: np.ndarray) -> np.ndarray:
    """[T, 3] asinh of flux and first difference in robust deviations, and 1 where observed."""
    seen_T = np.isfinite(flux_T)
    at_T = np.arange(len(flux_T))
    filled_T = np.interp(at_T, at_T[seen_T], flux_T[seen_T])
    before_T = np.maximum.accumulate(np.where(seen_T, at_T, -1))
    after_T = np.minimum.accumulate(np.where(seen_T, at_T, len(flux_T))[::-1])[::-1]
    median = np.median(flux_T[seen_T])
    filled_T[~seen_T & (after_T - before_T - 1 > MAX_BRIDGED)] = median
    difference_T = np.diff(filled_T, prepend=filled_T[:1])
    is_step_T = seen_T & np.concatenate([[False], seen_T[:-1]])
    difference_T[~is_step_T] = 0.0
    return np.stack(
        [
            np.arcsinh((filled_T - median) / _spread(flux_T[seen_T])),
            np.arcsinh(difference_T / _spread(difference_T[is_step_T])),
            seen_T,
        ],
        axis=1,
    )


def _spread(values: np.ndarray) -> float:
    """Robust standard deviation; 1 where it is 0, since a constant has no scale."""
    if not values.size:
        return 1.0
    return float(SIGMA_OF_MAD * np.median(np.abs(values - np.median(values)))) or 1.0
