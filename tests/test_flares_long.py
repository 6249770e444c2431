"""Long flares: what the trend takes of them, and what a fit of flare and star gives back."""

import itertools

import numpy as np
import pytest

from astroray.flares.detrend import detrend
from astroray.flares.events import find_events
from astroray.flares.long_flares import search_flares
from astroray.flares.template import TEMPLATE_AREA
from tests.flares_made import MINUTE_D, star

HALF_HOUR_D = 29.4244 * MINUTE_D


def kepler_star(flares=(), **facts):
    return star(days=20, cadence_d=HALF_HOUR_D, period_d=8.0, flares=flares, **facts)


def near(events, peak_d):
    """The one flare whose peak is there."""
    (flare,) = (e for e in events if not e.refused and abs(e.peak_d - 1500 - peak_d) < 0.1)
    return flare


@pytest.mark.parametrize("width_min", [120, 240])
def test_a_long_flare_keeps_most_of_its_duration(width_min):
    time_d, flux = kepler_star([(10.0, width_min, 0.03)])
    true_s = 0.03 * 60 * width_min * TEMPLATE_AREA
    first = near(find_events(time_d, detrend(time_d, flux)), 10.0)
    curve, events = search_flares(time_d, flux)
    again = near(events, 10.0)
    assert first.equivalent_duration_s < 0.75 * true_s
    assert 0.8 * true_s < again.equivalent_duration_s < 1.1 * true_s
    assert (again.first, again.peak) == (first.first, first.peak)
    assert again.last > first.last
    assert curve.relative_T[again.peak] == again.amplitude == pytest.approx(0.026, abs=0.003)


def test_a_star_that_follows_the_maxima_of_its_spots_lends_a_flare_less():
    time_d, flux = star(days=20, cadence_d=HALF_HOUR_D, period_d=2.5, flares=[(10.0, 60, 0.03)])
    true_s = 0.03 * 60 * 60 * TEMPLATE_AREA
    first = near(find_events(time_d, detrend(time_d, flux)), 10.0)
    again = near(search_flares(time_d, flux)[1], 10.0)
    assert first.equivalent_duration_s > 1.4 * true_s
    assert again.equivalent_duration_s < 1.2 * true_s


def test_short_flares_and_flares_of_another_shape_are_measured_by_the_first_trend():
    time_d, flux = kepler_star([(6.0, 20, 0.02), (15.0, 20, 0.02)])
    x_T = (time_d - 1510) * 12
    flux += 30 * np.where(x_T > 0, np.exp(-2 * np.maximum(x_T, 0)), 0)
    flux += 15 * np.exp(-((x_T - 1.5) ** 2) / 0.3)
    first = find_events(time_d, detrend(time_d, flux))
    assert near(first, 10.0).stop_d - near(first, 10.0).start_d > 0.2
    assert search_flares(time_d, flux)[1] == first


def test_what_was_decided_stays_and_a_tail_ends_before_the_next_event():
    time_d, flux = kepler_star([(10.0, 240, 0.03), (11.1, 20, 0.03), (15.0, 20, 0.02)])
    flux[700] += 20  # a cosmic ray
    first = find_events(time_d, detrend(time_d, flux))
    _, again = search_flares(time_d, flux)
    assert [event.refused for event in again] == [event.refused for event in first]
    assert [event.start_d for event in again] == [event.start_d for event in first]
    for event, following in itertools.pairwise(again):
        assert event.stop_d < following.start_d
    assert [e for e in again if e.refused] == [e for e in first if e.refused] != []
    assert near(again, 10.0).equivalent_duration_s > near(first, 10.0).equivalent_duration_s


def test_a_flare_at_the_end_of_a_light_curve_or_beside_a_gap_is_no_trouble():
    for peak_d in (0.02, 9.0, 19.9):
        time_d, flux = kepler_star([(peak_d, 120, 0.05)])
        flux[(time_d > 1509.3) & (time_d < 1510)] = np.nan
        _, events = search_flares(time_d, flux)
        for event in events:
            assert event.first <= event.peak <= event.last
            assert np.isfinite(event.equivalent_duration_s)
