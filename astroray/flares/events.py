"""Which points of a light curve are a flare, and what was refused although it stood out."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from astroray.flares.detrend import Detrended
from astroray.flares.point_runs import find_runs
from astroray.flares.template import mean_flare_shape
from astroray.schema import FlareFlag

__all__ = ["Event", "FlareRule", "find_events", "measure_again"]

SHORT_CADENCE_S = 150.0
"""Up to this spacing a flare of one or two points shows its decay in the points after them."""
K2_CONFIDENCE = 0.6
"""What is less sure in K2 is found upside down as often."""
CERTAIN_SNR = 8.0
"""Signal-to-noise at which confidence loses its first 1/e."""
STEP_LENGTH = 0.25
"""Share of the window of the trend from which on an event may be the shoulder of a step."""
STEP_SHARE, STEP_SIGMA, STEP_POINTS = 0.5, 4.0, 12
"""From such a share of its height, and so sure, a flux that does not come back to where it was
before is a step; points on either side that tell."""
MIRROR_MARGIN = 0.2
"""How much more of an event the mirrored template may explain before its shape is refused."""

Refusal = Literal["", "single", "short", "gap", "slow", "step", "shape", "doubtful"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlareRule:
    """What counts as a flare: Chang, Byun & Hartman (2015, ApJ 814, 35) with N1 = 3, N3 = 3; where
    cadences are long, N3 = 2, and the shape decides."""

    sigma: float = 3.0
    """Height of the points that make a flare, in local noise."""
    num_points: int = 3
    """Consecutive points of that height, at spacings up to 150 s."""
    long_points: int = 2
    """The same at longer spacings, where most flares have no third; a cosmic ray fills one."""
    stop_sigma: float = 1.0
    """A flare goes on as long as no two consecutive points are below this height."""
    merge_points: int = 3
    """Flares with at most this many points between them are one."""
    max_share: float = 0.5
    """Longest flare over the window of the trend: the trend cannot be told from a longer one."""
    min_confidence: float = 0.4
    """Flares below it are refused; see Event.confidence."""

    def for_mission(self, mission: str) -> "FlareRule":
        """The rule for a mission's light curves; that of K2 asks for three points and more
        confidence, since firings and cosmic rays lift cadences and pairs of them every day."""
        if mission != "k2":
            return self
        sure = max(self.min_confidence, K2_CONFIDENCE)
        return dataclasses.replace(self, long_points=self.num_points, min_confidence=sure)

    def points_at(self, cadence_d: float) -> int:
        """Consecutive points above `sigma` that make a flare at a spacing, d."""
        is_short = cadence_d * 86400.0 <= SHORT_CADENCE_S
        return self.num_points if is_short else min(self.num_points, self.long_points)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Event:
    """A flare, or a candidate that was refused."""

    first: int
    """Index of its first cadence in the light curve."""
    peak: int
    last: int
    start_d: float
    """Times in d, in the zero point of the light curve: of the first, brightest, last cadence."""
    peak_d: float
    stop_d: float
    amplitude: float
    """Flux of the brightest cadence over the trend, minus 1."""
    equivalent_duration_s: float
    """Time in which the star without the flare radiates what the flare does (Gershberg 1972)."""
    equivalent_duration_err_s: float
    """One sigma of it from the noise of the cadences; the choice of start and stop is not in it."""
    snr: float
    """Sum of the flare's points over the noise of that sum."""
    num_points: int
    """Cadences with a flux from first to last."""
    confidence: float
    """0..1: (1 - exp(-(snr / 8)^2)) r^2 w. r^2 is the share of the squared flux of the event and
    its surroundings that the best Davenport (2014) template explains, w = min(1, 2 r^2 / (r^2 +
    r_m^2)) with r_m^2 that of the template mirrored in time. A ranking, not a probability; 0 where
    it was refused as single, short, gap, slow or step."""
    flags: int
    """Bits of schema.FlareFlag."""
    refused: Refusal
    """"" for a flare; else single or short (one or two points high and no decay seen), gap (more
    than half of its cadences are missing), slow (longer than the trend can follow), step (the
    shoulder of a step of the flux), shape (rises more slowly than it decays), doubtful (confidence
    below the rule's)."""


def find_events(time_d: np.ndarray, curve: Detrended, rule: FlareRule | None = None) -> list[Event]:
    """Flares and refused candidates of a light curve, in order of time.

    time_d  [T]  d, ascending
    curve        the same cadences, detrended

    A candidate is a run of points above `stop_sigma` that holds one above `sigma`. It is a flare
    where three consecutive ones are above `sigma`, or two at spacings above 150 s; up to 150 s
    also where fewer are but the points after them show the decay, which a cosmic ray has not.
    """
    rule = rule or FlareRule()
    points = _Points.of(time_d, curve)
    is_high_P = points.ratio_P >= rule.sigma
    high = _runs(is_high_P, points.segment_P)
    ranges = [(a, b) for a, b in points.ranges(rule) if is_high_P[a : b + 1].any()]
    return [
        _describe(points, first, last, max(b - a + 1 for a, b in high if first <= a <= last), rule)
        for first, last in _merged(ranges, points.segment_P, rule.merge_points)
    ]


def measure_again(
    time_d: np.ndarray, curve: Detrended, events: Sequence[Event], rule: FlareRule | None = None
) -> list[Event]:
    """The same events, flares measured against another trend of the same light curve.

    A flare begins where it did and ends as late as it did, or where its tail goes under now; it
    does not reach into the next event. What was refused stays as it was.
    """
    rule = rule or FlareRule()
    points = _Points.of(time_d, curve)
    ends = np.array([[first, last] for first, last in points.ranges(rule)]).reshape(-1, 2)
    limits = [event.first for event in events[1:]] + [len(time_d)]
    measured = []
    for event, limit in zip(events, limits, strict=True):
        first, last = np.searchsorted(points.index_P, [event.first, event.last]).tolist()
        if not event.refused:
            run = int(np.searchsorted(ends[:, 0], last, "right")) - 1
            before = int(np.searchsorted(points.index_P, limit)) - 1
            later = max(last, min(before, int(ends[run, 1]) if run >= 0 else last))
            tail_P = points.relative_P[last + 1 : later + 1]
            if tail_P.max(initial=0.0) > points.relative_P[first : last + 1].max():
                later = last  # what is higher than the peak is no tail of it
            flags = event.flags | _flags(points, first, later, rule.num_points, rule)
            event = dataclasses.replace(event, flags=flags, **_measured(points, first, later))
        measured.append(event)
    return measured


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Points:
    """The cadences of a light curve that have a flux and a trend."""

    index_P: np.ndarray
    time_P: np.ndarray
    relative_P: np.ndarray
    noise_P: np.ndarray
    flux_P: np.ndarray
    """Over the median of the trend."""
    segment_P: np.ndarray
    cadence_d: float
    window_d: float

    @classmethod
    def of(cls, time_d: np.ndarray, curve: Detrended) -> "_Points":
        point_P = np.flatnonzero(curve.segment_T >= 0)
        level = float(np.median(curve.trend_T[point_P])) if point_P.size else 1.0
        return cls(
            index_P=point_P,
            time_P=time_d[point_P],
            relative_P=curve.relative_T[point_P],
            noise_P=curve.noise_T[point_P],
            flux_P=(1 + curve.relative_T[point_P]) * curve.trend_T[point_P] / level,
            segment_P=curve.segment_T[point_P],
            cadence_d=curve.cadence_d,
            window_d=curve.window_d,
        )

    @property
    def ratio_P(self) -> np.ndarray:
        return self.relative_P / self.noise_P

    def ranges(self, rule: FlareRule) -> list[tuple[int, int]]:
        """First and last point of each run above `stop_sigma`, single ones below it let pass."""
        is_above_P = self.ratio_P > rule.stop_sigma
        return _runs(is_above_P | _holes(is_above_P, self.segment_P), self.segment_P)


def _holes(is_in_P: np.ndarray, segment_P: np.ndarray) -> np.ndarray:
    """[P] single points outside, between two inside of the same segment."""
    is_hole_P = np.zeros(len(is_in_P), bool)
    is_same_P = segment_P[2:] == segment_P[:-2]
    is_hole_P[1:-1] = is_in_P[:-2] & ~is_in_P[1:-1] & is_in_P[2:] & is_same_P
    return is_hole_P


def _runs(is_in_P: np.ndarray, segment_P: np.ndarray) -> list[tuple[int, int]]:
    """First and last index of each run of True within one segment."""
    begin_R, stop_R = find_runs(is_in_P, segment_P)
    return list(zip(begin_R.tolist(), (stop_R - 1).tolist(), strict=True))


def _merged(
    ranges: list[tuple[int, int]], segment_P: np.ndarray, merge_points: int
) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for first, last in ranges:
        if merged:
            begin, end = merged[-1]
            if first - end - 1 <= merge_points and segment_P[first] == segment_P[end]:
                merged[-1] = begin, last
                continue
        merged.append((first, last))
    return merged


def _describe(points: _Points, first: int, last: int, num_high: int, rule: FlareRule) -> Event:
    measured = _measured(points, first, last)
    peak = first + int(np.argmax(points.relative_P[first : last + 1]))
    refused = _refusal(points, (first, peak, last), num_high, rule)
    confidence = 0.0
    if not refused:
        forward, mirrored = _explained(points, first, peak, last)
        weight = min(1.0, 2 * forward / (forward + mirrored)) if forward > 0 else 0.0
        certain = 1 - np.exp(-((measured["snr"] / CERTAIN_SNR) ** 2))
        confidence = float(certain * forward * weight)
        if last - first >= 4 and mirrored - forward > MIRROR_MARGIN:
            refused = "shape"
        elif confidence < rule.min_confidence:
            refused = "doubtful"
    return Event(
        **measured,
        confidence=confidence,
        flags=_flags(points, first, last, num_high, rule),
        refused=refused,
    )


def _measured(points: _Points, first: int, last: int) -> dict[str, Any]:
    """The fields of an Event that its points and the trend decide."""
    inside = slice(first, last + 1)
    relative_P, noise_P = points.relative_P[inside], points.noise_P[inside]
    time_P = points.time_P[inside]
    peak = first + int(np.argmax(relative_P))
    width_s = 86400.0 * _widths(time_P, points.cadence_d)
    return {
        "first": int(points.index_P[first]),
        "peak": int(points.index_P[peak]),
        "last": int(points.index_P[last]),
        "start_d": float(time_P[0]),
        "peak_d": float(points.time_P[peak]),
        "stop_d": float(time_P[-1]),
        "amplitude": float(points.relative_P[peak]),
        "equivalent_duration_s": float(np.sum(relative_P * width_s)),
        "equivalent_duration_err_s": float(np.sqrt(np.sum((noise_P * width_s) ** 2))),
        "snr": float(relative_P.sum() / np.sqrt(np.sum(noise_P**2))),
        "num_points": len(time_P),
    }


def _widths(time_P: np.ndarray, cadence_d: float) -> np.ndarray:
    """[P] d for which each point stands: half way to its neighbors, so that pauses between them are
    bridged by a line; half a cadence beyond the first and the last. Half a cadence at least."""
    edge_d = np.concatenate([[cadence_d], np.diff(time_P), [cadence_d]])
    return np.maximum((edge_d[:-1] + edge_d[1:]) / 2, 0.5 * cadence_d)


def _refusal(
    points: _Points, place: tuple[int, int, int], num_high: int, rule: FlareRule
) -> Refusal:
    first, peak, last = place
    is_few = num_high < rule.points_at(points.cadence_d)
    if is_few and not _decays(points, peak, num_high, rule):
        return "single" if num_high == 1 else "short"
    length_d = points.time_P[last] - points.time_P[first]
    if last - first < 0.5 * length_d / points.cadence_d:
        return "gap"
    if length_d > rule.max_share * points.window_d:
        return "slow"
    is_long = length_d >= STEP_LENGTH * points.window_d
    return "step" if is_long and _is_step(points, first, peak, last) else ""


def _is_step(points: _Points, first: int, peak: int, last: int) -> bool:
    """Whether the flux stays on one side of an event as high as in it: at the edges of a dip that
    is longer than the trend can tell, the side outside is the star, and the event its shoulder."""
    height = STEP_SHARE * points.relative_P[peak]
    around_P = [points.flux_P[max(0, first - 3) : first], points.flux_P[last + 1 : last + 4]]
    sides = [float(side_P.mean()) for side_P in around_P if side_P.size]
    if points.flux_P[peak] - max(sides, default=-np.inf) > height:
        return False
    step, step_err = _step(points, first, last)
    return step > height and step > STEP_SIGMA * step_err


def _step(points: _Points, first: int, last: int) -> tuple[float, float]:
    """How much further up or down the flux goes on after an event, and one sigma of that.

    The points before and after it are fitted by a cubic and a step between them; the event itself
    is left out. 0 where too few are in its segment.
    """
    reach = max(STEP_POINTS, last - first + 1)
    before_N = np.arange(max(0, first - 1 - reach), max(0, first - 1))
    after_N = np.arange(last + 2, min(last + 2 + reach, len(points.time_P)))
    is_same = points.segment_P == points.segment_P[first]
    before_N, after_N = before_N[is_same[before_N]], after_N[is_same[after_N]]
    if min(len(before_N), len(after_N)) < STEP_POINTS // 2:
        return 0.0, 0.0
    at_N = np.concatenate([before_N, after_N])
    time_N = points.time_P[at_N] - (points.time_P[first] + points.time_P[last]) / 2
    time_N /= np.abs(time_N).max()
    model_NM = np.stack([*(time_N**power for power in range(4)), np.sign(time_N) / 2], axis=1)
    inverse_MM = np.linalg.pinv(model_NM.T @ model_NM)
    value_M = inverse_MM @ (model_NM.T @ points.flux_P[at_N])
    left_N = points.flux_P[at_N] - model_NM @ value_M
    noise = float(np.sqrt(left_N @ left_N / (len(at_N) - len(value_M))))
    return abs(float(value_M[-1])), noise * float(np.sqrt(inverse_MM[-1, -1]))


def _decays(points: _Points, peak: int, num_high: int, rule: FlareRule) -> bool:
    """Whether the points after a short peak stand out, the first of them most, as those before
    it do not."""
    if points.cadence_d * 86400.0 > SHORT_CADENCE_S or peak < 2:
        return False
    after = points.ratio_P[peak + num_high : peak + num_high + 3]
    is_near = points.segment_P[peak + num_high : peak + num_high + 3] == points.segment_P[peak]
    if len(after) < 3 or not is_near.all():
        return False
    before = points.ratio_P[max(0, peak - 3) : peak]
    return bool(
        points.ratio_P[peak] > 2 * rule.sigma
        and after.sum() / np.sqrt(3) > rule.sigma
        and after[0] > rule.stop_sigma
        and after.sum() > before.sum()
    )


def _flags(points: _Points, first: int, last: int, num_high: int, rule: FlareRule) -> int:
    import scipy.signal  # most of a second, and a server's replica may find no flare

    segment = points.segment_P[first]
    is_edge = not all(
        0 <= at < len(points.segment_P) and points.segment_P[at] == segment
        for at in (first - 2, last + 2)
    )
    steps = np.diff(points.time_P[max(first - 1, 0) : last + 2]) / points.cadence_d
    ratio_P = points.ratio_P[max(first - 1, 0) : last + 2]
    peaks, _ = scipy.signal.find_peaks(ratio_P, height=rule.sigma, prominence=rule.sigma)
    return (
        FlareFlag.EDGE * is_edge
        | FlareFlag.GAP * bool((steps > 1.5).any() and not is_edge)
        | FlareFlag.SHORT * (num_high < rule.num_points)
        | FlareFlag.COMPLEX * (len(peaks) > 1)
    )


def _explained(points: _Points, first: int, peak: int, last: int) -> tuple[float, float]:
    """Shares of the squared flux that the best template, and the best mirrored one, explain.

    Widths from half a cadence to the whole event and peaks within a cadence are tried; the height
    of each is its best, not below 0.
    """
    around = max(3, (last - first) // 2)
    segment = points.segment_P[peak]
    inside = slice(max(0, first - around), last + around + 1)
    is_same = points.segment_P[inside] == segment
    cadence_d = points.cadence_d
    time_P = (points.time_P[inside][is_same] - points.time_P[peak]) / cadence_d
    value_P = points.ratio_P[inside][is_same]
    power = float(value_P @ value_P)
    width_W = np.geomspace(0.5, max(2.0, last - first + 1.0), 10)
    shift_S = np.linspace(-0.75, 0.75, 7)
    shares = []
    for direction in (1.0, -1.0):
        phase_WSP = (direction * time_P - shift_S[:, None]) / width_W[:, None, None]
        exposure = 1 / width_W[:, None, None]
        model_WSP = mean_flare_shape(phase_WSP, exposure)
        overlap_WS = np.maximum(model_WSP @ value_P, 0)
        norm_WS = np.maximum(np.einsum("wsp,wsp->ws", model_WSP, model_WSP), 1e-12)
        shares.append(float((overlap_WS**2 / norm_WS).max() / power))
    return shares[0], shares[1]
