"""How many flares are missed, and how often a star flares."""

import numpy as np
import pytest

from astroray.flares import sketch
from astroray.flares.detrend import detrend
from astroray.flares.events import find_events
from astroray.flares.figures import (
    completeness_figure,
    curve_figure,
    flare_figure,
    frequency_figure,
)
from astroray.flares.frequency import completeness_of, frequency_of
from astroray.flares.inject import ED_EDGES_S, inject_flares, recover_flares
from astroray.flares.template import TEMPLATE_AREA
from tests.flares_made import star

NUM_BINS = len(ED_EDGES_S) - 1


def everything_found():
    return completeness_of(np.full(NUM_BINS, 50), np.full(NUM_BINS, 50))


def test_injected_flares_have_the_equivalent_durations_that_they_say():
    time_d, flux = star(days=10, noise=0.0, spots=0.0)
    made = inject_flares(time_d, flux, num_flares=1, seed=3, ed_range_s=(10, 20))
    added_s = np.sum(made.flux_T / flux - 1) * 120.0
    assert added_s == pytest.approx(made.equivalent_duration_s_J[0], rel=1e-3)
    assert made.equivalent_duration_s_J == pytest.approx(
        made.amplitude_J * made.fwhm_d_J * 86400 * TEMPLATE_AREA
    )


def test_injection_repeats_by_its_seed_and_keeps_what_is_missing():
    time_d, flux = star(days=4)
    flux[500:600] = np.nan
    first, again, other = (
        inject_flares(time_d, flux, num_flares=8, seed=seed) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.flux_T, again.flux_T)
    assert not np.array_equal(first.peak_d_J, other.peak_d_J)
    np.testing.assert_array_equal(np.isnan(first.flux_T), np.isnan(flux))
    assert (np.diff(first.peak_d_J) > 0).all()


def test_peaks_lie_only_where_they_may():
    time_d, flux = star(days=4)
    free_T = time_d > 1503
    made = inject_flares(time_d, flux, num_flares=5, seed=0, free_T=free_T)
    assert len(made.peak_d_J) == 5
    assert made.peak_d_J.min() > 1503 - 0.002
    nowhere = inject_flares(time_d, flux, num_flares=5, seed=0, free_T=time_d < 0)
    assert nowhere.peak_d_J.size == 0
    np.testing.assert_array_equal(nowhere.flux_T, flux)


def test_large_flares_are_recovered_and_tiny_ones_are_not():
    time_d, flux = star(days=15, noise=0.002)
    events = find_events(time_d, detrend(time_d, flux))
    found = recover_flares(time_d, flux, events, num_flares=120, seed=4)
    assert found.num_injected_E.sum() == 120
    share_E = completeness_of(found.num_injected_E, found.num_recovered_E).share_E
    known = share_E[np.isfinite(share_E)]
    assert known[0] == 0.0
    assert known[-1] > 0.9
    assert 0.7 < found.median_share < 1.1


def test_a_noisier_star_is_less_complete():
    halves = []
    for noise in (0.0005, 0.005):
        time_d, flux = star(days=15, noise=noise)
        found = recover_flares(time_d, flux, [], num_flares=100, seed=4)
        halves.append(completeness_of(found.num_injected_E, found.num_recovered_E).half_s)
    assert 3 < halves[1] / halves[0] < 32  # ten times, give or take two bins


def test_completeness_has_the_interval_of_wilson_and_its_thresholds():
    injected, recovered = np.zeros(NUM_BINS, int), np.zeros(NUM_BINS, int)
    injected[[4, 5, 6, 7, 8]], recovered[[4, 5, 6, 7, 8]] = 20, (1, 12, 9, 15, 20)
    injected[12] = 2  # too few to say anything
    found = completeness_of(injected, recovered)
    assert found.share_E[[4, 8]].tolist() == [0.05, 1.0]
    assert np.isnan(found.share_E[12])
    assert found.low_E[8] == pytest.approx(1 / (1 + 0.98893 / 20), abs=1e-3)  # z^2 of 68 %
    assert found.high_E[8] == pytest.approx(1.0)
    assert found.half_s == ED_EDGES_S[7]  # bin 5 is above one half, but bin 6 is not
    assert found.most_s == ED_EDGES_S[8]
    assert np.isnan(completeness_of(injected * 0, recovered * 0).half_s)


def test_the_cumulative_frequency_counts_and_corrects():
    injected = np.full(NUM_BINS, 100)
    half = completeness_of(injected, injected // 2)
    found = frequency_of(np.array([5.0, 50.0, 500.0]), 10.0, half)
    assert found.equivalent_duration_s_F.tolist() == [500.0, 50.0, 5.0]
    assert found.rate_per_d_F == pytest.approx([0.1, 0.2, 0.3])
    assert found.corrected_per_d_F == pytest.approx([0.2, 0.4, 0.6])
    # Garwood's interval of one event at 68 %.
    assert found.low_per_d_F[0] == pytest.approx(0.0174, abs=2e-4)
    assert found.high_per_d_F[0] == pytest.approx(0.3289, abs=2e-3)


def test_nothing_is_corrected_where_hardly_anything_is_found():
    injected = np.full(NUM_BINS, 100)
    recovered = np.where(np.arange(NUM_BINS) < 10, 1, 100)
    found = frequency_of(np.array([1.0, 2.0, 5000.0]), 10.0, completeness_of(injected, recovered))
    assert np.isfinite(found.corrected_per_d_F).tolist() == [True, False, False]


def test_the_slope_of_a_power_law_is_found():
    random = np.random.default_rng(0)
    ed_s = 10 * (1 - random.uniform(size=2000)) ** (-1 / 0.9)  # dN/dED ~ ED^-1.9
    found = frequency_of(ed_s, 100.0, everything_found())
    assert found.slope == pytest.approx(1.9, abs=0.1) or found.from_s < 10
    below_all = frequency_of(ed_s[:4], 100.0, everything_found())
    assert np.isnan(below_all.slope)


def test_a_profile_is_drawn_with_its_gaps_and_its_height():
    svg = str(flare_figure([-0.1, 0.0, 0.1, 0.2, 0.3], [0.0, 0.5, np.nan, 0.1, 0.0], "<i>"))
    assert svg.split('class="corrected" d="')[1].split('"')[0].count("M") == 2
    assert "peak +50 %" in svg
    assert "9.6 h" in svg
    assert "nan" not in svg
    assert "<i>" not in svg


def test_the_line_of_a_profile_does_not_cross_cadences_that_are_missing():
    svg = str(flare_figure([-0.2, -0.1, 0.0, 0.1, 0.5, 0.6], [0, 0, 0.5, 0.2, 0.1, 0], "TIC 7"))
    first, second = svg.split('class="corrected" d="')[1].split('"')[0].split("M")[1:]
    assert (first.count("L"), second.count("L")) == (3, 1)


def test_a_sketch_keeps_the_extremes_of_each_bin_and_says_which_are_empty(monkeypatch):
    monkeypatch.setattr(sketch, "NUM_BINS", 4)
    time_d = np.array([0.0, 0.1, 0.4, 0.6, 2.9, 4.0])
    flux = np.array([100.0, 90.0, np.nan, 150.0, 100.0, 110.0])
    low_B, high_B = sketch.sketch_curve(time_d, flux)
    assert low_B.tolist() == pytest.approx([-0.1, np.nan, 0.0, 0.1], nan_ok=True)
    assert high_B.tolist() == pytest.approx([0.5, np.nan, 0.0, 0.1], nan_ok=True)
    assert high_B.dtype == np.float32
    random = np.random.default_rng(0)
    time_d, flux = np.sort(random.uniform(0, 9, 500)), random.uniform(1, 2, 500)
    monkeypatch.setattr(sketch, "NUM_BINS", 7)
    low_B, high_B = sketch.sketch_curve(time_d, flux)
    for number in range(7):
        is_in_T = (time_d - time_d[0]) * 7 // (time_d[-1] - time_d[0]) == number
        is_in_T[-1] |= number == 6
        inside = (flux / np.median(flux) - 1)[is_in_T]
        assert (low_B[number], high_B[number]) == pytest.approx((inside.min(), inside.max()))


def test_one_cadence_makes_a_sketch(monkeypatch):
    monkeypatch.setattr(sketch, "NUM_BINS", 3)
    low_B, high_B = sketch.sketch_curve(np.array([5.0]), np.array([2.0]))
    assert high_B.tolist() == pytest.approx([0.0, np.nan, np.nan], nan_ok=True)
    assert np.array_equal(low_B, high_B, equal_nan=True)


def test_a_light_curve_is_drawn_with_a_mark_over_each_flare():
    curve = {"object_id": "<i>", "first": 10.0, "last": 20.0, "time_zero": "BTJD"}
    bins = {"sketch_low": [0.0, np.nan, -0.1, 0.0], "sketch_high": [0.0, np.nan, 0.5, 0.1]}
    svg = str(curve_figure(curve | bins, [10.0, 15.0, 20.0]))
    assert svg.count('class="mark"') == 3
    assert "M4.0 8h8" in svg
    assert "M426.0 8h8" in svg
    assert "M848.0 8h8" in svg
    assert svg.count("v-") == 3
    assert "<i>" not in svg
    assert "nan" not in svg
    assert curve_figure(curve | {"sketch_low": None, "sketch_high": None}, []) == ""


def test_a_star_without_flares_or_injections_has_no_figure():
    nothing = completeness_of(np.zeros(NUM_BINS), np.zeros(NUM_BINS))
    assert completeness_figure(nothing, "a") == ""
    assert frequency_figure(frequency_of(np.zeros(0), 10.0, nothing), "a") == ""


def test_figures_show_every_flare_and_name_their_star_safely():
    found = frequency_of(np.array([5.0, 50.0, 500.0]), 10.0, everything_found())
    svg = str(frequency_figure(found, "<b>"))
    assert svg.count('class="found"') == 3
    assert "<b>" not in svg
    assert "nan" not in svg
    assert str(completeness_figure(everything_found(), "a")).count('class="span"') == NUM_BINS
