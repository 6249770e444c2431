"""How many labeled flares a finder finds, and how many of what it finds are labeled.

F counts found flares, L labeled ones, E either, T cadences, S stars, R resamples of stars.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import scipy.ndimage

from astroray.flares.detrend import SIGMA_OF_MAD

__all__ = ["Agreement", "Labels", "agree", "find_plainly", "spans_of_runs"]

FLOOR_WINDOW_D = 0.5
FLOOR_SIGMA, FLOOR_POINTS = 3.0, 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labels:
    """What others marked in one light curve; [L, 2] first and last moment, d."""

    asked_L2: np.ndarray
    """Flares that a finder should find."""
    any_L2: np.ndarray
    """All that is marked: what is found is right where it meets one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agreement:
    """What a finder and labels have in common, by star."""

    asked_S: np.ndarray
    hit_S: np.ndarray
    """Labels that a found flare meets."""
    found_S: np.ndarray
    right_S: np.ndarray
    """Found flares that meet a label."""

    def rates(self, weight_RS: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Recall and precision [R] of all stars together; NaN where nothing is asked or found."""
        with np.errstate(invalid="ignore", divide="ignore"):
            recall_R = (weight_RS @ self.hit_S) / (weight_RS @ self.asked_S)
            return recall_R, (weight_RS @ self.right_S) / (weight_RS @ self.found_S)


def agree(
    found: Sequence[np.ndarray],
    labels: Sequence[Labels],
    stars: Sequence[str],
    *,
    tolerance_d: float,
) -> Agreement:
    """Counts by star, in the order of their names.

    found, labels, stars  of each light curve: [F, 2] spans in d, what is marked, the star's name
    tolerance_d           spans that are so near to each other meet
    """
    names = sorted(set(stars))
    counts: Mapping[str, list[int]] = {name: [0, 0, 0, 0] for name in names}
    for found_F2, marked, name in zip(found, labels, stars, strict=True):
        hit_L = _meets(marked.asked_L2, found_F2, tolerance_d)
        right_F = _meets(found_F2, marked.any_L2, tolerance_d)
        for place, count in enumerate((len(hit_L), hit_L.sum(), len(right_F), right_F.sum())):
            counts[name][place] += int(count)
    asked_S, hit_S, found_S, right_S = np.array([counts[name] for name in names]).T
    return Agreement(asked_S=asked_S, hit_S=hit_S, found_S=found_S, right_S=right_S)


def find_plainly(
    time_d: np.ndarray, flux_T: np.ndarray, *, sigma: float = FLOOR_SIGMA
) -> np.ndarray:
    """[F, 2] first and last moment of what the plainest finder finds.

    Three or more cadences in a row that stand `sigma` deviations above a running median of half a
    day; the deviation is the robust one of the whole light curve.
    """
    is_known_T = np.isfinite(flux_T)
    time_K, flux_K = time_d[is_known_T], flux_T[is_known_T]
    if len(time_K) < FLOOR_POINTS:
        return np.zeros((0, 2))
    cadences = max(3, round(FLOOR_WINDOW_D / float(np.median(np.diff(time_K)))) | 1)
    left_K = flux_K - scipy.ndimage.median_filter(flux_K, cadences, mode="nearest")
    noise = SIGMA_OF_MAD * float(np.median(np.abs(left_K - np.median(left_K))))
    index_H = np.flatnonzero(left_K > sigma * noise)
    return spans_of_runs(time_K, index_H, min_points=FLOOR_POINTS)


def spans_of_runs(time_d: np.ndarray, index_H: np.ndarray, *, min_points: int = 1) -> np.ndarray:
    """[E, 2] first and last moment of each run of neighboring indices, ascending."""
    runs = [run for run in np.split(index_H, np.flatnonzero(np.diff(index_H) > 1) + 1) if run.size]
    spans = [(time_d[run[0]], time_d[run[-1]]) for run in runs if len(run) >= min_points]
    return np.array(spans, np.float64).reshape(-1, 2)


def _meets(one_E2: np.ndarray, other_E2: np.ndarray, tolerance_d: float) -> np.ndarray:
    """[E] whether each span overlaps, within the tolerance, one of the others."""
    begins_EE = one_E2[:, None, 0] <= other_E2[None, :, 1] + tolerance_d
    ends_EE = one_E2[:, None, 1] >= other_E2[None, :, 0] - tolerance_d
    return np.asarray((begins_EE & ends_EE).any(axis=1))
