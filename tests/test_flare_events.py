"""Which points are a flare, and how it is measured again, on curves whose trend is given."""

import dataclasses

import numpy as np
import pytest

from astroray.flares.detrend import Detrended
from astroray.flares.events import (
    FlareRule,
    _explained,
    _Points,
    _step,
    find_events,
    measure_again,
)
from astroray.schema import FlareFlag
from tests.flares_made import MINUTE_D

HALF_HOUR_D = 30 * MINUTE_D
NOISE = 0.01


def curve_of(ratio_T, *, segment_T=None, cadence_d=HALF_HOUR_D):
    """A detrended light curve of so many noises above a trend of 1000, and its times."""
    ratio_T = np.asarray(ratio_T, float)
    num = len(ratio_T)
    curve = Detrended(
        relative_T=NOISE * ratio_T,
        trend_T=np.full(num, 1000.0),
        noise_T=np.full(num, NOISE),
        segment_T=np.zeros(num, np.int64) if segment_T is None else np.asarray(segment_T),
        window_d=2.0,
        cadence_d=cadence_d,
    )
    return 1500 + cadence_d * np.arange(num), curve


def stepped(time_d, *, step, seed=None):
    """Ratios of a cubic in time with a step at point 30."""
    x_T = (time_d - time_d.mean()) / np.ptp(time_d)
    ratio_T = 5 + 8 * x_T - 20 * x_T**2 + 30 * x_T**3 + step * (np.arange(len(time_d)) > 30)
    if seed is not None:
        ratio_T += np.random.default_rng(seed).normal(size=len(time_d))
    return ratio_T


@pytest.mark.parametrize("step", [7.0, -7.0, 0.0])
@pytest.mark.parametrize(("first", "last", "reach"), [(29, 31, 12), (24, 37, 14)])
def test_a_step_is_that_of_a_cubic_through_the_points_around_an_event(step, first, last, reach):
    """Neither the event nor the points beside it tell, nor what is farther, nor other segments."""
    time_d, _ = curve_of(np.zeros(64))
    ratio_T = stepped(time_d, step=step)
    ratio_T[first - 1 : last + 2] = 1e4
    ratio_T[: first - 1 - reach] = -1e4
    ratio_T[last + 2 + reach :] = 1e4
    found, err = _step(_Points.of(*curve_of(ratio_T)), first, last)
    assert found == pytest.approx(abs(step) * NOISE, abs=1e-8)
    assert err == pytest.approx(0, abs=1e-8)
    segment_T = (np.arange(64) >= 50).astype(int)
    ratio_T[50:] = 1e4
    found, _ = _step(_Points.of(*curve_of(ratio_T, segment_T=segment_T)), first, last)
    assert found == pytest.approx(abs(step) * NOISE, abs=1e-8)


@pytest.mark.parametrize(("last", "reach"), [(35, 12), (39, 14)])
def test_the_error_of_a_step_is_that_of_least_squares(last, reach):
    time_d, _ = curve_of(np.zeros(64))
    ratio_T = stepped(time_d, step=5.0, seed=1)
    found, err = _step(_Points.of(*curve_of(ratio_T)), 26, last)
    at = np.r_[25 - reach : 25, last + 2 : last + 2 + reach]
    x_N = time_d[at] - 1500.6
    model_NM = np.stack([x_N**0, x_N, x_N**2, x_N**3, at > 30], axis=1)
    value_M, (square,), *_ = np.linalg.lstsq(model_NM, NOISE * ratio_T[at], rcond=None)
    variance = np.linalg.inv(model_NM.T @ model_NM)[-1, -1] * square / (2 * reach - 5)
    assert found == pytest.approx(abs(value_M[-1]), rel=1e-6)
    assert err == pytest.approx(variance**0.5, rel=1e-6)


def test_a_step_needs_six_points_on_either_side():
    ratio_T = stepped(1500 + np.arange(64.0), step=9.0)
    points = _Points.of(*curve_of(ratio_T))
    assert _step(points, 6, 9) == _step(points, 54, 57) == (0.0, 0.0)
    assert min(_step(points, 7, 9) + _step(points, 54, 56)) > 0


FLARE = [9.0, 6.0, 4.0, 3.0]
"""Noises above the trend of the points of a flare that decays."""


def events_of(ratio_T, later_T):
    """The events of one trend, and the same measured against another one."""
    time_d, curve = curve_of(ratio_T)
    events = find_events(time_d, curve)
    return events, measure_again(time_d, curve_of(later_T)[1], events)


@pytest.mark.parametrize(
    ("tail", "last"),
    [
        ([], 23),
        ([2.0, 1.5], 25),
        ([2.0, 0.5, 1.5], 26),  # a single point below is let pass
        ([2.0, 0.5, 0.5, 1.5], 24),
        ([2.0, 12.0, 2.0], 23),  # higher than the peak is no tail of it
        ([12.0, 2.0], 23),
        ([2.0, 12.0], 23),
    ],
)
def test_a_flare_measured_again_ends_where_its_tail_goes_under_the_new_trend(tail, last):
    ratio_T = np.zeros(60)
    ratio_T[20:24] = FLARE
    later_T = 1.1 * ratio_T
    later_T[24 : 24 + len(tail)] = tail
    (event,), (again,) = events_of(ratio_T, later_T)
    assert (event.first, event.peak, event.last, event.refused) == (20, 20, 23, "")
    assert (again.first, again.peak, again.last) == (20, 20, last)
    assert again.amplitude == pytest.approx(1.1 * event.amplitude)
    inside = later_T[20 : last + 1]
    assert again.num_points == len(inside)
    assert again.snr == pytest.approx(inside.sum() / len(inside) ** 0.5)
    assert again.equivalent_duration_s == pytest.approx(1800 * NOISE * inside.sum())
    assert again.flags == event.flags


def test_a_tail_ends_before_the_next_event_and_a_flare_is_not_shortened():
    ratio_T = np.zeros(60)
    ratio_T[20:24], ratio_T[30:34] = FLARE, FLARE
    later_T = ratio_T.copy()
    later_T[24:30] = 2.0
    later_T[32:34] = -1.0
    _, (one, other) = events_of(ratio_T, later_T)
    assert (one.first, one.last) == (20, 29)
    assert (other.first, other.last) == (30, 33)


def test_a_flare_that_reaches_into_the_last_point_is_flagged_and_what_was_refused_stays():
    ratio_T = np.zeros(60)
    ratio_T[10] = 50.0  # alone
    ratio_T[50:54] = FLARE
    later_T = 1.2 * ratio_T
    later_T[54:] = 2.0
    (spike, flare), (same, again) = events_of(ratio_T, later_T)
    assert spike.refused == "single"
    assert same == spike
    assert again.last == 59
    assert not flare.flags & FlareFlag.EDGE
    assert again.flags == flare.flags | FlareFlag.EDGE


@pytest.mark.parametrize(("cadence_s", "points"), [(20, 3), (149, 3), (151, 2), (1800, 2)])
def test_long_cadences_need_two_points_short_ones_three(cadence_s, points):
    assert FlareRule().points_at(cadence_s / 86400) == points
    assert FlareRule(num_points=1).points_at(cadence_s / 86400) == 1


@pytest.mark.parametrize(("asked", "sure"), [(0.4, 0.6), (0.8, 0.8)])
def test_in_k2_a_flare_is_as_sure_as_asked_for_and_six_tenths_at_least(asked, sure):
    rule = FlareRule(min_confidence=asked)
    assert rule.for_mission("k2") == dataclasses.replace(rule, long_points=3, min_confidence=sure)
    assert rule.for_mission("kepler") is rule


EXACT_D = 2.0**-5
"""45 minutes, so that times and lengths have no rounding."""


def only_event(ratio_T, *, time_P=None, trend_T=None):
    """The one event of a curve whose times are so many cadences."""
    _, curve = curve_of(ratio_T, cadence_d=EXACT_D)
    if trend_T is not None:
        curve = dataclasses.replace(curve, trend_T=trend_T)
    times = np.arange(len(ratio_T)) if time_P is None else time_P
    (event,) = find_events(EXACT_D * times, curve)
    return event


@pytest.mark.parametrize(("pause", "refused"), [(4, ""), (5, "gap")])
def test_a_flare_of_which_more_than_half_of_the_cadences_are_missing_is_refused(pause, refused):
    ratio_T, time_P = np.zeros(60), np.arange(60)
    ratio_T[20:24] = [30.0, 20.0, 14.0, 10.0]
    time_P[23:] += pause - 1
    event = only_event(ratio_T, time_P=time_P)
    assert EXACT_D * (pause + 2) == event.stop_d - event.start_d
    assert (event.refused == "gap") == (refused == "gap")


def test_a_point_stands_for_half_a_cadence_at_least_and_for_half_the_way_to_its_neighbors():
    ratio_T, time_P = np.zeros(60), np.arange(60.0)
    ratio_T[20:25] = [9.0, 8.0, 7.0, 6.0, 5.0]
    time_P[20:25] = [20.0, 20.25, 20.5, 22.0, 24.0]
    event = only_event(ratio_T, time_P=time_P)
    widths = np.array([0.625, 0.5, 0.875, 1.75, 1.5])
    square = (widths**2).sum()
    assert event.equivalent_duration_s == pytest.approx(
        86400 * EXACT_D * NOISE * (widths * ratio_T[20:25]).sum()
    )
    assert event.equivalent_duration_err_s == pytest.approx(86400 * EXACT_D * NOISE * square**0.5)


@pytest.mark.parametrize(("num", "is_slow"), [(33, False), (34, True)])
def test_an_event_longer_than_half_the_window_of_the_trend_is_slow(num, is_slow):
    ratio_T = np.zeros(100)
    ratio_T[30 : 30 + num] = np.linspace(10, 3, num)
    assert (only_event(ratio_T).refused == "slow") == is_slow


@pytest.mark.parametrize(("num", "is_step"), [(16, False), (17, True)])
def test_an_event_of_a_quarter_of_the_window_after_which_the_flux_stays_is_a_step(num, is_step):
    ratio_T, trend_T = np.zeros(100), np.full(100, 1000.0)
    ratio_T[40 : 40 + num] = np.linspace(10, 3, num)
    trend_T[40 + num :] *= 1.1
    assert (only_event(ratio_T, trend_T=trend_T).refused == "step") == is_step
    assert only_event(ratio_T).refused != "step"


def test_a_tail_is_compared_with_the_peak_of_its_own_flare_wherever_that_is_now():
    ratio_T = np.zeros(60)
    ratio_T[10:14], ratio_T[30:34] = [90.0, 60.0, 40.0, 30.0], FLARE
    later_T = ratio_T.copy()
    later_T[34:36] = 2.0, 12.0
    _, (_, again) = events_of(ratio_T, later_T)
    assert (again.first, again.last) == (30, 33)
    later_T[33] = 20.0
    _, (_, again) = events_of(ratio_T, later_T)
    assert (again.first, again.peak, again.last) == (30, 33, 35)


@pytest.mark.parametrize(
    "values",
    [
        [9.0, 6.0, 4.0, 3.0],
        [3.0, 5.0, 9.0, 4.0],
        [3.0, 5.0, 9.0, 20.0],  # what rises slowly is less sure
        [4.0, 4.0],
    ],
)
def test_confidence_is_the_share_of_the_template_as_sure_as_the_signal(values):
    ratio_T = np.zeros(60)
    last = 19 + len(values)
    ratio_T[20 : last + 1] = values
    time_d, curve = curve_of(ratio_T)
    (event,) = find_events(time_d, curve)
    forward, mirrored = _explained(_Points.of(time_d, curve), 20, event.peak, last)
    weight = min(1.0, 2 * forward / (forward + mirrored))
    certain = 1 - np.exp(-((event.snr / 8) ** 2))
    assert event.confidence == pytest.approx(certain * forward * weight, rel=1e-9)
    assert (event.refused == "doubtful") == (event.confidence < 0.4)
    assert event.refused in ("", "doubtful")


def test_two_points_that_hardly_stand_out_are_doubtful():
    ratio_T = np.zeros(60)
    ratio_T[20:22] = 3.1
    time_d, curve = curve_of(ratio_T)
    (event,) = find_events(time_d, curve)
    assert event.refused == "doubtful"
    (event,) = find_events(time_d, curve, FlareRule(min_confidence=event.confidence))
    assert event.refused == ""


@pytest.mark.parametrize(
    ("values", "is_shape"),
    [
        ([12.0, 18.0, 24.0, 30.0], False),
        ([10.0, 14.0, 18.0, 24.0, 30.0], True),
        ([30.0, 24.0, 18.0, 14.0, 10.0], False),
    ],
)
def test_what_rises_slowly_over_five_points_and_falls_at_once_has_no_shape_of_a_flare(
    values, is_shape
):
    ratio_T = np.zeros(60)
    ratio_T[20 : 20 + len(values)] = values
    (event,) = find_events(*curve_of(ratio_T))
    assert (event.refused == "shape") == is_shape


DECAY = (2.5, 2.0, 1.5)


@pytest.mark.parametrize(
    ("before", "peak", "after", "is_flare"),
    [
        ((), 10.0, DECAY, True),
        ((), 10.0, (2.5, 1.5, 1.1, 0.9), False),  # three points, together 3 sigma
        ((), 6.1, DECAY, True),
        ((), 5.9, DECAY, False),
        ((), 10.0, (1.1, 2.9, 2.9), True),
        ((), 10.0, (0.9, 2.9, 2.9), False),
        ((2.9, 1.5, 1.5, 1.5), 10.0, DECAY, True),  # three points before
        ((2.5, 1.9, 1.9), 10.0, DECAY, False),
    ],
)
def test_a_single_high_point_is_a_flare_where_the_points_after_it_show_a_decay(
    before, peak, after, is_flare
):
    ratio_T = np.zeros(60)
    ratio_T[30 - len(before) : 31 + len(after)] = *before, peak, *after
    events = find_events(*curve_of(ratio_T, cadence_d=2 * MINUTE_D))
    (event,) = (event for event in events if event.first <= 30 <= event.last)
    assert (event.refused != "single") == is_flare
    (event,) = find_events(*curve_of(ratio_T, cadence_d=151 / 86400))
    assert event.refused == "single"  # at long spacings a decay proves nothing


@pytest.mark.parametrize(("cadence_s", "is_flare"), [(149, True), (151, False)])
def test_a_decay_counts_up_to_spacings_of_150_s(cadence_s, is_flare):
    ratio_T = np.zeros(60)
    ratio_T[30:34] = 10.0, *DECAY
    (event,) = find_events(*curve_of(ratio_T, cadence_d=cadence_s / 86400))
    assert (event.refused != "single") == is_flare


@pytest.mark.parametrize(
    ("at", "num", "is_flare"), [(1, 60, False), (2, 60, True), (30, 33, False), (30, 34, True)]
)
def test_a_decay_needs_two_points_before_and_three_after(at, num, is_flare):
    ratio_T = np.zeros(num)
    ratio_T[at : at + 4] = (10.0, 2.9, 2.9, 2.9)[: num - at]
    (event,) = find_events(*curve_of(ratio_T, cadence_d=2 * MINUTE_D))
    assert (event.refused != "single") == is_flare


@pytest.mark.parametrize(("border", "is_flare"), [(32, False), (33, False), (34, True)])
def test_a_decay_beyond_a_gap_is_none(border, is_flare):
    ratio_T = np.zeros(60)
    ratio_T[30:34] = 10.0, 2.9, 2.9, 2.9
    segment_T = (np.arange(60) >= border).astype(int)
    events = find_events(*curve_of(ratio_T, cadence_d=2 * MINUTE_D, segment_T=segment_T))
    assert (events[0].refused != "single") == is_flare
