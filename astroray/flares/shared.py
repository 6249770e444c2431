"""Which candidates many stars have at one moment: the spacecraft made them, not the stars.

Scattered light, a jolt of the pointing, a warming after a pause: what befalls the whole camera
shows in many light curves at once, and in some of them looks like a flare. So each candidate is
compared with those of the other stars of the run: how many have one within minutes of it, and how
many would by chance, each star having as many a day as it has in the run (Poisson). Letters: N
candidates, C light curves, S stars.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import scipy.stats

from astroray.schema import FlareFlag
from astroray.surveys.light_curve_rows import ZERO_JD

__all__ = ["mark_shared"]

TOLERANCE_D = 0.01
"""Peaks so near to each other, or by a cadence if that is more, are at one moment: barycentric
times of stars in one field of view differ by minutes."""
MIN_OTHERS = 2
"""Other stars that a shared candidate has at least."""
FALSE_ALARMS = 0.01
"""Candidates marked by chance that a run may have."""
TOO_SMALL = ("single", "short", "gap")
"""Refusals that say nothing of the camera: cosmic rays come by the hundred."""


def mark_shared(candidates: pa.Table, curves: pa.Table) -> pa.Table:
    """The candidates with FlareFlag.SHARED and `num_shared` set where other stars share them.

    candidates  REFUSED_FLARES, of all light curves of a run
    curves      FLARE_CURVES, the same

    Missions are told apart. None is dropped: a real flare may fall on such a moment.
    """
    if not len(candidates):
        return candidates
    num_N = _num_sharing(candidates, curves)
    flags_N = np.array(candidates["flare_flags"].to_pylist(), np.int32)
    flags_N |= np.where(num_N > 0, FlareFlag.SHARED, 0).astype(np.int32)
    for name, value_N in {"flare_flags": flags_N, "num_shared": num_N}.items():
        at = candidates.schema.get_field_index(name)
        field = candidates.schema.field(at)
        candidates = candidates.set_column(at, field, pa.array(value_N, field.type))
    return candidates


def _num_sharing(candidates: pa.Table, curves: pa.Table) -> np.ndarray:
    """[N] other stars that share each candidate; 0 where they are no more than chance gives."""
    row_of = {key: at for at, key in enumerate(_keys(curves))}
    curve_N = np.array([row_of[key] for key in _keys(candidates)], np.int64)
    star_C = np.unique(curves["object_id"].to_pylist(), return_inverse=True)[1]
    mission_C = np.array(curves["mission"].to_pylist())
    zero_C = np.array([ZERO_JD[zero] for zero in curves["time_zero"].to_pylist()])
    reach_C = np.maximum(TOLERANCE_D, np.array(curves["cadence"].to_pylist()) / 86400)
    is_large_N = np.array([kind not in TOO_SMALL for kind in candidates["class"].to_pylist()])
    peak_N = np.array(candidates["peak"].to_pylist(), np.float64) + zero_C[curve_N]
    observed_S = np.bincount(star_C, np.array(curves["observed"].to_pylist(), np.float64))
    rate_S = np.bincount(star_C[curve_N[is_large_N]], minlength=len(observed_S)) / observed_S
    span_C2 = np.array([curves["first"].to_pylist(), curves["last"].to_pylist()]).T
    span_C2 += zero_C[:, None]
    num_N = np.zeros(len(peak_N), np.int64)
    for mission in np.unique(mission_C):
        is_its_C = mission_C == mission
        member_M = np.flatnonzero(is_its_C[curve_N] & is_large_N)
        member_M = member_M[np.argsort(peak_N[member_M])]
        peak_M, curve_M = peak_N[member_M], curve_N[member_M]
        others_M = _others(peak_M, star_C[curve_M], reach_C[curve_M])
        seen_M = _rate_at(peak_M, span_C2[is_its_C], rate_S[star_C[is_its_C]])
        by_chance_M = 2 * reach_C[curve_M] * np.maximum(seen_M - rate_S[star_C[curve_M]], 0)
        false_M = scipy.stats.poisson.sf(others_M - 1, by_chance_M) * len(peak_N)
        is_shared_M = (others_M >= MIN_OTHERS) & (false_M < FALSE_ALARMS)
        num_N[member_M] = np.where(is_shared_M, others_M, 0)
    return num_N


def _rate_at(peak_M: np.ndarray, span_C2: np.ndarray, rate_C: np.ndarray) -> np.ndarray:
    """[M] candidates a day of all light curves that are observed at each moment."""
    total_M = np.zeros(len(peak_M))
    for place, sign in ((0, 1), (1, -1)):
        order_C = np.argsort(span_C2[:, place])
        sum_C = np.concatenate([[0.0], np.cumsum(rate_C[order_C])])
        total_M += sign * sum_C[np.searchsorted(span_C2[order_C, place], peak_M)]
    return total_M


def _others(peak_M: np.ndarray, star_M: np.ndarray, reach_M: np.ndarray) -> np.ndarray:
    """[M] stars but its own that have a peak so near to each, peaks ascending."""
    first_M = np.searchsorted(peak_M, peak_M - reach_M)
    last_M = np.searchsorted(peak_M, peak_M + reach_M, "right")
    others_M = np.zeros(len(peak_M), np.int64)
    for at in np.flatnonzero(last_M - first_M > MIN_OTHERS):
        others_M[at] = len(set(star_M[first_M[at] : last_M[at]].tolist())) - 1
    return others_M


def _keys(table: pa.Table) -> Sequence[tuple[str, int]]:
    """The light curve of each row."""
    return list(zip(table["shard"].to_pylist(), table["row"].to_pylist(), strict=True))
