"""How the light curves of a star become windows: binned, scaled, gaps filled or the window dropped.

G counts the cells of a star's even grid; other letters as in windows.py.

    cadences are averaged into cells of the rule's spacing; those of each file stand over the median
    of what the window has of that file, so that no step is left between two files
    pauses of up to 5 cells are bridged by a line, longer ones stand at the window's median;
    both are marked as not observed
    a window lacking more than 30 %, or with a pause above 1 d, is dropped; none is laid where
    nothing was observed, as between the sectors of a star
    nothing after a window's end enters it: scales are its own, flares those known by then, and
    cells are counted from the first cadence on
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from astroray.errors import DataError
from astroray.flares.detrend import SIGMA_OF_MAD
from astroray.flares.events import Event
from astroray.flares.found_flares import (
    LOOK_D,
    candidates_of,
    find_record,
    known_properties,
    known_record,
)
from astroray.flares.point_runs import find_runs
from astroray.flares.records import StarRecord
from astroray.flares.windows import WindowRule, Windows, describe_windows, join_windows

if TYPE_CHECKING:
    from astroray.surveys.light_curves import LightCurve

__all__ = ["curve_windows", "events_for_windows", "rule_for"]

TESS_CADENCE_D = 10 / 1440
MAX_BRIDGED = 5
"""Cells of a pause that a line bridges."""


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
    """Windows of all light curves of one star, which stand in order of their begin.

    record  its flares where they are known; else those that the finder sees: as answers with all
            of the light curves, as history and statistics by the end of each window
    events  what the finder sees in all of them, where it has been asked already
    unanswered  whether windows are kept whose horizon nobody observed, and one is laid that ends
                with the last cadence: what is to be forecast rather than learnt from

    Raises DataError where a light curve cannot be detrended, or is sampled too coarsely.
    """
    grid = _Grid.of(curves, rule)
    known = record or known_record(curves, edge_J=grid.looks(rule), observed_S2=grid.stretches())
    record = record or find_record(curves, observed_S2=grid.stretches(), events=events)
    last = grid.num_cells if unanswered else grid.num_cells - rule.num_ahead
    stop_W = np.arange(rule.num_cadences, last + 1, rule.stride)
    if unanswered and stop_W.size and stop_W[-1] < last:
        stop_W = np.append(stop_W, last)
    stop_W = stop_W[grid.num_seen(stop_W - rule.num_cadences, stop_W) > 0]
    if not stop_W.size:
        dropped = {"light curve shorter than a window": 1}
        nothing = describe_windows(record, np.zeros(0), rule, dropped)
        flux_WTC = np.zeros((0, rule.num_cadences, 3), np.float32)  # as wide as those of others
        return dataclasses.replace(nothing, flux_WTC=flux_WTC)
    kept_W, is_blind_W, dropped = _sift(grid, stop_W, rule, unanswered)
    flux_WT = [grid.relative(stop - rule.num_cadences, stop) for stop in stop_W[kept_W]]
    is_void_V = np.array([flux_T is None for flux_T in flux_WT], bool)
    dropped["flux whose median is not above 0"] = int(is_void_V.sum())
    kept_W = kept_W[~is_void_V]
    channels = [_channels(flux_T) for flux_T in flux_WT if flux_T is not None]
    flux_WTC = np.array(channels, np.float32).reshape(len(kept_W), rule.num_cadences, 3)
    end_W = grid.first_d + stop_W[kept_W] * rule.cadence_d
    windows = _describe(curves, record, known, end_W, rule)
    return dataclasses.replace(
        windows, flux_WTC=flux_WTC, answered_W=~is_blind_W[kept_W], dropped=dropped
    )


def events_for_windows(curve: "LightCurve", rule: WindowRule) -> list[Event]:
    """What the finder sees in a light curve of which windows can be made.

    Raises DataError where it cannot be detrended, or is sampled too coarsely.
    """
    _check_cadence(curve, rule)
    return candidates_of(curve)


def _sift(
    grid: "_Grid", stop_W: np.ndarray, rule: WindowRule, unanswered: bool
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """[V] windows with enough in them, [W] whose horizon nobody observed, and the others by reason.

    stop_W  [W]  the cell after the last of each window
    """
    seen_G = np.concatenate([grid.seen_G, np.zeros(rule.num_ahead, bool)])
    inside_WT = np.lib.stride_tricks.sliding_window_view(seen_G, rule.num_cadences)
    seen_WT = inside_WT[stop_W - rule.num_cadences]
    ahead_WT = np.lib.stride_tricks.sliding_window_view(seen_G, rule.num_ahead)[stop_W]
    max_gap = int(rule.max_gap_d / rule.cadence_d)
    is_dark_W = seen_WT.mean(axis=1) < 1 - rule.max_missing
    is_torn_W = ~is_dark_W & (_longest_pause(seen_WT) > max_gap)
    is_blind_W = ahead_WT.mean(axis=1) < rule.min_horizon
    is_blind_W &= ~is_dark_W & ~is_torn_W
    kept_W = ~(is_dark_W | is_torn_W) & (~is_blind_W | unanswered)
    dropped = {
        f"less than {1 - rule.max_missing:.0%} of the history observed": int(is_dark_W.sum()),
        f"a pause above {rule.max_gap_d:g} d in the history": int(is_torn_W.sum()),
        f"less than {rule.min_horizon:.0%} of the horizon observed": int(
            (is_blind_W & ~kept_W).sum()
        ),
    }
    return np.flatnonzero(kept_W), is_blind_W, dropped


def _describe(
    curves: Sequence["LightCurve"],
    record: StarRecord,
    known: StarRecord,
    end_W: np.ndarray,
    rule: WindowRule,
) -> Windows:
    """Windows with their answers, and what was known of the star at the end of each."""
    if known is record or not len(end_W):  # known without light curves, or nothing to know
        return describe_windows(record, end_W, rule, {})
    property_WP = known_properties(curves, end_W)
    before_WP, after_WP = property_WP[:-1], property_WP[1:]
    is_same_WP = (before_WP == after_WP) | (np.isnan(before_WP) & np.isnan(after_WP))
    first_V = np.concatenate([[0], np.flatnonzero(~is_same_WP.all(axis=1)) + 1])
    return join_windows(
        [
            describe_windows(
                record,
                part_W,
                rule,
                {},
                known=dataclasses.replace(known, property_P=property_P),
            )
            for part_W, property_P in zip(
                np.split(end_W, first_V[1:]), property_WP[first_V], strict=True
            )
        ]
    )


def _check_cadence(curve: "LightCurve", rule: WindowRule) -> None:
    """Raises DataError where cadences are too long for the cells."""
    if curve.cadence_s > 1.5 * rule.cadence_d * 86400:
        raise DataError(
            f"one cadence takes {curve.cadence_s:.0f} s, expected at most "
            f"{1.5 * rule.cadence_d * 86400:.0f} s for windows of this mission"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Piece:
    """A file's flux on the cells from its first to its last."""

    first: int
    mean_G: np.ndarray
    """NaN where it observed nothing."""
    count_G: np.ndarray
    """Cadences in each cell."""

    @property
    def stop(self) -> int:
        return self.first + len(self.mean_G)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Grid:
    """A star's flux on even cells, file by file."""

    first_d: float
    cadence_d: float
    seen_G: np.ndarray
    """[G] bool: observed by some file."""
    pieces: Sequence[_Piece]

    @classmethod
    def of(cls, curves: Sequence["LightCurve"], rule: WindowRule) -> "_Grid":
        # The first cadence stands in the middle of its cell: where a cadence lasts as long as a
        # cell, none falls on an edge.
        first_d = min(float(curve.time_d[0]) for curve in curves) - rule.cadence_d / 2
        last_d = max(float(curve.time_d[-1]) for curve in curves)
        seen_G = np.zeros(int((last_d - first_d) / rule.cadence_d) + 1, bool)
        pieces = []
        for curve in curves:
            _check_cadence(curve, rule)
            known_T = np.isfinite(curve.flux)
            cell_T = ((curve.time_d[known_T] - first_d) / rule.cadence_d).astype(np.int64)
            if not cell_T.size:
                continue
            count_G = np.bincount(cell_T - cell_T[0])
            sum_G = np.bincount(cell_T - cell_T[0], curve.flux[known_T])
            mean_G = np.where(count_G > 0, sum_G / np.maximum(count_G, 1), np.nan)
            pieces.append(_Piece(first=int(cell_T[0]), mean_G=mean_G, count_G=count_G))
            seen_G[cell_T] = True
        return cls(first_d=first_d, cadence_d=rule.cadence_d, seen_G=seen_G, pieces=pieces)

    @property
    def num_cells(self) -> int:
        return len(self.seen_G)

    def relative(self, first: int, stop: int) -> np.ndarray | None:
        """[T] flux of the cells from first to before stop, each file's over the median that it has
        there; NaN where nothing was observed, None where such a median is not above 0."""
        sum_T, count_T = np.zeros(stop - first), np.zeros(stop - first)
        for piece in self.pieces:
            begin, end = max(first, piece.first), min(stop, piece.stop)
            if begin >= end:
                continue
            mean_T = piece.mean_G[begin - piece.first : end - piece.first]
            part_T = piece.count_G[begin - piece.first : end - piece.first]
            seen_T = part_T > 0
            if not seen_T.any():
                continue
            level = float(np.median(mean_T[seen_T]))
            if not level > 0:
                return None
            inside = slice(begin - first, end - first)
            sum_T[inside] += np.where(seen_T, mean_T, 0.0) / level * part_T
            count_T[inside] += part_T
        return np.where(count_T > 0, sum_T / np.maximum(count_T, 1), np.nan)

    def num_seen(self, first_W: np.ndarray, stop_W: np.ndarray) -> np.ndarray:
        """[W] cells with a flux from each first one up to before each stop."""
        before_G = np.concatenate([[0], np.cumsum(self.seen_G)])
        return before_G[stop_W] - before_G[first_W]

    def stretches(self) -> np.ndarray:
        """[S, 2] d, where cells follow each other with a flux."""
        return self.first_d + self.cadence_d * np.stack(find_runs(self.seen_G), axis=1)

    def looks(self, rule: WindowRule) -> np.ndarray:
        """[J + 1] d, the ends of windows at which flares are looked for, also before the first."""
        step = rule.stride * max(1, round(LOOK_D / (rule.stride * rule.cadence_d)))
        stop_J = np.arange(rule.num_cadences % step, self.num_cells + step + 1, step)
        return self.first_d + stop_J * self.cadence_d


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
