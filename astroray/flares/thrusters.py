"""What K2's thrusters leave in a light curve, told from what is like it at other firings.

With two wheels left the spacecraft rolled, and every six hours or so thrusters turned it back
(Howell et al. 2014, PASP 126, 398). The star wanders over its pixels meanwhile: at a firing the
flux jumps, and the cadences before and after it stand above or below any smooth trend. How far
they do is seen at the firings before and after, at the same distance from each.

P counts points of a light curve, H fired cadences, N points at one distance.
"""

import numpy as np

__all__ = ["thruster_pattern"]

REACH_BINS = 8
"""Bins on either side of a firing in which its pattern is looked for: as far as a trend of 0.3 d
smears a step, and a third of the way to the next firing."""
BIN_D = 29.42 / 1440
"""A long cadence of Kepler."""
NUM_FIRINGS = 21
"""Firings that are compared, 5 d of them: in ten or more days the pattern changes with the roll."""
MIN_FIRINGS = 7
"""Below so many nothing is said of a distance."""


def thruster_pattern(
    time_P: np.ndarray, relative_P: np.ndarray, fired_d_H: np.ndarray, cadence_d: float
) -> tuple[np.ndarray, np.ndarray]:
    """[P] median of the flux at the same distance from the firings around, and its median absolute
    deviation.

    time_P      [P]  d, ascending
    relative_P  [P]  flux over a trend, minus 1; NaN where unknown
    fired_d_H   [H]  d, ascending, cadences in which thrusters fired

    Both are 0 where no firing is near, or too few are alike.
    """
    center_P, spread_P = np.zeros(len(time_P)), np.zeros(len(time_P))
    if not fired_d_H.size:
        return center_P, spread_P
    bin_P = _bins(time_P, fired_d_H)
    per_firing = max(1, round(BIN_D / cadence_d))
    for number in range(-REACH_BINS, REACH_BINS + 1):
        at_N = np.flatnonzero((bin_P == number) & np.isfinite(relative_P))
        if number == 0 or len(at_N) < MIN_FIRINGS * per_firing:
            continue
        width = min(NUM_FIRINGS * per_firing, len(at_N))
        windows = np.lib.stride_tricks.sliding_window_view(relative_P[at_N], width)
        median_W = np.median(windows, axis=1)
        scatter_W = np.median(np.abs(windows - median_W[:, None]), axis=1)
        window_N = np.clip(np.arange(len(at_N)) - width // 2, 0, len(windows) - 1)
        center_P[at_N], spread_P[at_N] = median_W[window_N], scatter_W[window_N]
    return center_P, spread_P


def _bins(time_P: np.ndarray, fired_d_H: np.ndarray) -> np.ndarray:
    """[P] int: how many bins after the last firing, or, below 0, before the next; the nearer."""
    edged_d = np.concatenate([[-np.inf], fired_d_H, [np.inf]])
    next_P = np.searchsorted(edged_d, time_P)
    after_P = (time_P - edged_d[next_P - 1]) / BIN_D
    before_P = (edged_d[next_P] - time_P) / BIN_D
    nearer_P = np.where(after_P <= before_P, after_P, -before_P)
    return np.rint(np.clip(nearer_P, -REACH_BINS - 1, REACH_BINS + 1)).astype(np.int64)
