"""Flares of one light curve: trend, rule, template and energy."""

import dataclasses

import numpy as np
import pytest

from astroray.errors import DataError
from astroray.flares.detrend import DetrendConfig, Detrended, detrend
from astroray.flares.energy import BANDS, flare_energy_erg
from astroray.flares.events import FlareRule, find_events
from astroray.flares.template import TEMPLATE_AREA, flare_shape, mean_flare_shape
from astroray.schema import FlareFlag
from tests.flares_made import MINUTE_D, star

THREE = ((2.0, 6.0, 0.05), (5.5, 20.0, 0.02), (9.1, 12.0, 0.3))


def flares_of(time_d, flux, rule=None):
    return [e for e in find_events(time_d, detrend(time_d, flux), rule) if not e.refused]


def refused_of(time_d, flux, rule=None):
    return [e for e in find_events(time_d, detrend(time_d, flux), rule) if e.refused]


def test_the_template_is_that_of_davenport_et_al_2014():
    assert flare_shape(np.array([-1.5, 0.0])).tolist() == [0.0, 1.0]
    assert flare_shape(np.array([-0.5]))[0] == pytest.approx(
        1 - 0.5 * 1.941 - 0.25 * 0.175 + 0.125 * 2.246 - 0.0625 * 1.125
    )
    inside = np.linspace(-1, 4, 50_001)
    above = inside[flare_shape(inside) >= 0.5]
    assert above[-1] - above[0] == pytest.approx(0.913, abs=1e-3)
    assert flare_shape(np.array([2.0]))[0] == pytest.approx(
        0.6890 * np.exp(-3.2) + 0.3030 * np.exp(-0.5566)
    )


def test_the_mean_over_exposures_is_that_of_a_fine_grid_and_keeps_the_area():
    fine = (np.arange(1000) + 0.5) / 1000 - 0.5
    for center in (-1.2, -0.4, 0.1, 3.0):
        direct = flare_shape(center + 0.5 * fine).mean()
        assert mean_flare_shape(np.array(center), 0.5) == pytest.approx(direct, rel=1e-3, abs=1e-5)
    wide = mean_flare_shape(np.arange(-5, 80) * 1.0, 1.0)
    assert wide.sum() == pytest.approx(TEMPLATE_AREA, rel=1e-6)
    assert pytest.approx(1.827, abs=5e-4) == TEMPLATE_AREA


def test_three_planted_flares_are_found_with_peak_and_equivalent_duration():
    found = flares_of(*star(flares=THREE))
    assert len(found) == 3
    for event, (peak_d, width_min, amplitude) in zip(found, THREE, strict=True):
        assert event.peak_d - 1500 == pytest.approx(peak_d, abs=2 * MINUTE_D)
        # Flux is relative to the spotted star, within its 3 %, and the tail ends in the noise.
        planted_s = amplitude * width_min * 60 * TEMPLATE_AREA
        assert 0.75 * planted_s < event.equivalent_duration_s < 1.1 * planted_s
        assert event.start_d < event.peak_d < event.stop_d
        assert event.confidence > 0.8
        assert event.snr > 10


def test_a_quiet_star_has_no_flare_however_much_it_rotates():
    for seed, period_d in enumerate((0.7, 1.5, 5.0)):
        time_d, flux = star(days=20, period_d=period_d, spots=0.05, seed=seed)
        assert flares_of(time_d, flux) == []


def test_rotation_is_taken_out_and_the_noise_is_known():
    time_d, flux = star(period_d=1.0, spots=0.05, noise=0.002)
    curve = detrend(time_d, flux)
    assert np.nanstd(curve.relative_T) == pytest.approx(0.002, rel=0.1)
    assert np.nanmedian(curve.noise_T) == pytest.approx(0.002, rel=0.1)


def test_a_fast_rotator_gets_a_shorter_window():
    slow = detrend(*star(period_d=8.0)).window_d
    fast = detrend(*star(period_d=0.6, spots=0.05)).window_d
    assert fast < slow == DetrendConfig().windows_d[0]


def test_noise_is_local():
    time_d, flux = star(days=12, spots=0.0)
    loud_T = time_d > 1506
    flux[loud_T] += np.random.default_rng(1).normal(0, 5.0, loud_T.sum())
    noise_T = detrend(time_d, flux).noise_T
    assert np.median(noise_T[time_d > 1508]) > 4 * np.median(noise_T[time_d < 1504])


def test_points_that_stick_out_add_nothing_to_the_noise():
    time_d, flux = star(spots=0.0, noise=0.001)
    flux[::8] *= 0.95
    assert np.nanmedian(detrend(time_d, flux).noise_T) == pytest.approx(0.001, rel=0.1)


def test_a_negative_flare_is_none():
    time_d, flux = star(flares=THREE)
    assert flares_of(time_d, 2000 - flux) == []


def test_a_cosmic_ray_is_refused_and_named():
    time_d, flux = star()
    flux[4000] *= 1.05
    assert flares_of(time_d, flux) == []
    hit = max(refused_of(time_d, flux), key=lambda event: event.amplitude)
    assert (hit.peak, hit.refused, hit.confidence) == (4000, "single", 0.0)
    flux[6000:6002] *= 1.05
    assert {event.refused for event in refused_of(time_d, flux)} >= {"single", "short"}


def test_a_short_flare_counts_where_two_minute_data_show_its_decay():
    time_d, flux = star(spots=0.0)
    flux[4000:4005] *= 1 + np.array([0.015, 0.0026, 0.0025, 0.0022, 0.0016])
    found = flares_of(time_d, flux)
    assert [event.peak for event in found] == [4000]
    assert found[0].flags & FlareFlag.SHORT
    long_d = 1500 + (time_d - 1500) * 15  # the same numbers at a spacing of 30 minutes
    assert flares_of(long_d, flux) == []


def test_two_points_in_a_row_are_a_flare_where_cadences_are_long_and_one_is_none():
    time_d, flux = star(days=30, cadence_d=29.4 * MINUTE_D, noise=0.0005, spots=0.0)
    flux[[500, 501, 502]] *= 1 + np.array([0.008, 0.003, 0.0004])
    flux[900] *= 1.01
    (flare,) = flares_of(time_d, flux)
    assert flare.peak == 500
    assert flare.flags & FlareFlag.SHORT
    assert "single" in {event.refused for event in refused_of(time_d, flux)}
    assert flares_of(time_d, flux, FlareRule(long_points=3)) == []
    assert flares_of(1500 + (time_d - 1500) / 15, flux) == []  # the same numbers at 2 minutes
    assert flares_of(time_d, flux, FlareRule().for_mission("k2")) == []
    assert FlareRule().for_mission("kepler") == FlareRule()


def test_an_event_that_rises_slowly_and_ends_at_once_is_refused_for_its_shape():
    time_d, flux = star(flares=((5.5, 30.0, 0.05),))
    mirrored = refused_of(time_d, flux[::-1].copy())
    assert [event.refused for event in mirrored if event.snr > 50] == ["shape"]


def test_an_event_that_the_trend_cannot_follow_is_refused_as_slow():
    time_d, flux = star(spots=0.0, flares=((5.0, 40.0, 0.1),))
    (flare,) = flares_of(time_d, flux)
    assert 0.1 < flare.stop_d - flare.start_d < 0.5
    (refused,) = [e for e in refused_of(time_d, flux, FlareRule(max_share=0.05)) if e.snr > 50]
    assert (refused.refused, refused.peak) == ("slow", flare.peak)


def test_flares_close_together_are_one_complex_flare():
    (event,) = flares_of(*star(flares=((5.0, 10.0, 0.1), (5.012, 10.0, 0.08))))
    assert event.flags & FlareFlag.COMPLEX


def test_a_flare_beside_a_gap_and_one_around_a_gap_are_flagged():
    time_d, flux = star(flares=THREE)
    start = np.searchsorted(time_d, 1502.0)
    kept_T = np.ones(len(time_d), bool)
    kept_T[start - 300 : start + 2] = False
    flux[np.searchsorted(time_d, 1509.1) + 4] = np.nan
    edge, whole, gap = flares_of(time_d[kept_T], flux[kept_T])
    assert (edge.flags, whole.flags & FlareFlag.EDGE) == (FlareFlag.EDGE, 0)
    assert gap.flags & FlareFlag.GAP


def curve_of(relative_T):
    """A detrended light curve of two-minute cadences with a noise of 1 %."""
    num = len(relative_T)
    return Detrended(
        relative_T=relative_T,
        trend_T=np.ones(num),
        noise_T=np.full(num, 0.01),
        segment_T=np.zeros(num, np.int64),
        window_d=1.2,
        cadence_d=2 * MINUTE_D,
    )


@pytest.mark.parametrize(
    ("tail", "last"),
    [
        ((0.9, 2.0, 0.9, 2.0, 0.9, 0.9, 2.0), 106),  # one point below one sigma is let pass
        ((0.9, 0.9, 2.0, 2.0), 102),  # two end it
        ((2.0, 1.1, 0.9), 104),
    ],
)
def test_a_flare_ends_before_two_points_in_a_row_below_one_sigma(tail, last):
    height_T = np.zeros(200)
    height_T[100 : 103 + len(tail)] = 30, 20, 10, *tail
    (flare,) = find_events(np.arange(200) * 2 * MINUTE_D, curve_of(0.01 * height_T))
    assert (flare.first, flare.peak, flare.last) == (100, 100, last)
    assert not flare.flags & FlareFlag.SHORT  # three points are high


@pytest.mark.parametrize(("between", "found"), [(3, [100]), (4, [100, 109])])
def test_flares_with_at_most_three_points_between_them_are_one(between, found):
    height_T = np.zeros(200)
    for first in (100, 105 + between):
        height_T[first : first + 5] = 50, 30, 15, 8, 4
    events = find_events(np.arange(200) * 2 * MINUTE_D, curve_of(0.01 * height_T))
    assert [event.first for event in events] == found
    assert events[-1].last == 109 + between


def test_the_confidence_in_a_perfect_template_is_that_of_its_signal_to_noise():
    shape_T = mean_flare_shape((np.arange(200) - 100) / 3, 1 / 3)
    (flare,) = find_events(np.arange(200) * 2 * MINUTE_D, curve_of(0.08 * shape_T))
    assert flare.snr < 12
    assert flare.confidence == pytest.approx(1 - np.exp(-((flare.snr / 8) ** 2)), rel=0.01)


def test_a_pause_in_a_flare_is_bridged_by_a_line_and_counted_once():
    time_d = 1500 + 2 * MINUTE_D * np.delete(np.arange(200), [104, 105, 106])
    relative_T = np.zeros(197)
    relative_T[100:105] = 0.1, 0.4, 0.3, 0.2, 0.1  # at cadences 100 to 103, and at 107
    (flare,) = find_events(time_d, curve_of(relative_T))
    assert flare.snr == pytest.approx(1.1 / (0.01 * np.sqrt(5)))
    assert flare.num_points == 5
    # 120 s each, but for half of the pause of four cadences on either side of it
    assert flare.equivalent_duration_s == pytest.approx(120 * (0.1 + 0.4 + 0.3) + 300 * (0.2 + 0.1))
    err_s = 0.01 * np.sqrt(3 * 120**2 + 2 * 300**2)
    assert flare.equivalent_duration_err_s == pytest.approx(err_s)


@pytest.mark.parametrize(("cadence_s", "low", "high"), [(20, 0.5, 0.75), (200, 0.8, 1.0)])
def test_the_equivalent_duration_lacks_the_tail_that_noise_hides(cadence_s, low, high):
    """One noise of .001 in two minutes: it hides more of the tail where cadences are short."""
    noise = 0.001 * (120 / cadence_s) ** 0.5
    planted = [(1.1, 30, 0.03), (4.1, 30, 0.03), (7.1, 30, 0.03)]
    made = star(days=9, cadence_d=cadence_s / 86400, noise=noise, seed=3, flares=planted)
    found = flares_of(*made)
    assert len(found) == 3
    share = sum(e.equivalent_duration_s for e in found) / (3 * 0.03 * 1800 * TEMPLATE_AREA)
    assert low < share < high


def test_the_shoulders_of_a_transit_as_long_as_half_the_window_are_no_flares():
    cadence_d = 29.4 * MINUTE_D
    time_d, flux = star(days=36, cadence_d=cadence_d, noise=0.0003, spots=0.0, seed=2)
    far_h = 24 * np.abs((time_d - 1500 + 0.3) % 9 - 4.5)  # four transits, 14 h at half their depth
    flux *= 1 - 0.01 * np.clip((8.05 - far_h) / 2.1, 0, 1)
    detrended = detrend(time_d, flux, DetrendConfig(windows_d=(1.2,)))
    assert (detrended.trend_T > 995).all()  # the floor is at 990
    assert not [event for event in find_events(time_d, detrended) if not event.refused]
    assert not flares_of(time_d, flux)


@pytest.mark.parametrize("depth", [0.01, 0.05])
def test_the_shoulders_of_a_dip_of_two_days_are_steps_and_a_flare_outside_it_stays(depth):
    cadence_d = 29.4 * MINUTE_D
    planted = [(6.0, 60.0, 0.03)]
    time_d, flux = star(days=30, cadence_d=cadence_d, noise=0.0003, spots=0.0, flares=planted)
    flux *= 1 - depth * np.clip((1.1 - np.abs(time_d - 1515)) / 0.2, 0, 1)
    (flare,) = flares_of(time_d, flux)
    assert flare.peak_d - 1500 == pytest.approx(6.0, abs=0.03)
    assert "step" in {event.refused for event in refused_of(time_d, flux)}


def test_what_recurs_at_the_firings_of_thrusters_is_no_flare_and_a_flare_between_them_is():
    cadence_d = 29.4 * MINUTE_D
    planted = [(20.05, 60.0, 0.05), (41.3, 60.0, 0.08)]
    time_d, flux = star(days=60, cadence_d=cadence_d, noise=0.0003, flares=planted, seed=4)
    number_T = np.arange(len(time_d))
    fired_T = number_T % 12 == 0
    draw = np.random.default_rng(5)
    size_T = draw.uniform(0.002, 0.006, number_T[-1] // 12 + 1)[number_T // 12]
    flux *= 1 + size_T * (number_T % 12 / 6 - 1)  # a roll of another size after each firing
    flux[fired_T] = np.nan
    peaks_d = [flare.peak_d - 1500 for flare in flares_of(time_d, flux)]
    assert len(peaks_d) > 8
    events = find_events(time_d, detrend(time_d, flux, fired_T=fired_T))
    peaks_d = [flare.peak_d - 1500 for flare in events if not flare.refused]
    assert peaks_d == pytest.approx([20.05, 41.3], abs=0.03)


@pytest.mark.parametrize(
    ("period_d", "spots", "seed"), [(0.8, 0.03, 0), (1.17, 0.02, 0), (1.5, 0.03, 0)]
)
def test_the_maxima_of_a_fast_rotation_are_no_flares_at_half_hour_cadence(period_d, spots, seed):
    time_d, flux = star(
        days=40,
        cadence_d=29.4 * MINUTE_D,
        noise=0.0008,
        period_d=period_d,
        spots=spots,
        flares=[(20.0, 60.0, 0.03)],
        seed=seed,
    )
    peaks_d = [flare.peak_d - 1500 for flare in flares_of(time_d, flux) if flare.confidence > 0.6]
    assert peaks_d == pytest.approx([20.0], abs=0.03)


def test_an_event_that_is_mostly_missing_is_refused():
    time_d, flux = star(flares=((5.0, 12.0, 0.1),))
    (flare,) = flares_of(time_d, flux)
    assert flare.stop_d - flare.start_d < DetrendConfig().max_gap_d  # or the hole would split it
    flux[flare.peak + 4 : flare.last - 5] = np.nan
    largest = max(refused_of(time_d, flux), key=lambda event: event.snr)
    assert (largest.refused, largest.peak) == ("gap", flare.peak)


def test_gaps_split_the_light_curve_and_short_pieces_are_left_out():
    time_d, flux = star()
    piece_T = (time_d > 1503.0) & (time_d < 1503.03)
    kept_T = (time_d < 1502) | piece_T | (time_d > 1504)
    curve = detrend(time_d[kept_T], flux[kept_T])
    assert set(curve.segment_T) == {-1, 0, 1}
    assert (curve.segment_T == -1).sum() == piece_T.sum() < 30


def test_a_flare_does_not_reach_over_the_last_point_of_its_segment():
    height_P = np.zeros(80)
    height_P[30:39] = 50 * 0.7 ** np.arange(9)  # the 40th point, below, is the segment's last
    height_P[40] = 9.0  # the first of the next one
    made = Detrended(
        relative_T=0.001 * height_P,
        trend_T=np.ones(80),
        noise_T=np.full(80, 0.001),
        segment_T=(np.arange(80) >= 40).astype(np.int64),
        window_d=1.2,
        cadence_d=2 * MINUTE_D,
    )
    time_d = 2 * MINUTE_D * np.arange(80) + 3.0 * (np.arange(80) >= 40)
    assert [(event.first, event.last) for event in find_events(time_d, made)] == [
        (30, 38),
        (40, 40),
    ]


@pytest.mark.parametrize("cadence_d", [2 * MINUTE_D, 0.25])
def test_a_pause_of_an_eighth_of_a_day_and_of_six_cadences_is_no_gap(cadence_d):
    longest_T = max(6, int(0.125 / cadence_d))  # in cadences
    for pause, num_pieces in ((longest_T, 1), (longest_T + 1, 2)):
        step_T = np.ones(120)
        step_T[60] = pause
        time_d = 1500 + cadence_d * np.cumsum(step_T)
        flux = 1000 + np.random.default_rng(0).normal(size=120)
        assert detrend(time_d, flux).segment_T.max() + 1 == num_pieces


def test_missing_flux_stays_missing():
    time_d, flux = star()
    flux[100:110] = np.nan
    curve = detrend(time_d, flux)
    assert np.flatnonzero(np.isnan(curve.relative_T)).tolist() == list(range(100, 110))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e9])
def test_the_unit_of_the_flux_does_not_matter(scale):
    time_d, flux = star(flares=THREE)
    expected, found = flares_of(time_d, flux), flares_of(time_d, flux * scale)
    assert [event.peak for event in found] == [event.peak for event in expected]
    assert [event.amplitude for event in found] == pytest.approx(
        [event.amplitude for event in expected]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda time_d, flux: (time_d[::-1], flux), "time does not ascend"),
        (lambda time_d, flux: (np.append(time_d[:-1], np.inf), flux), "inf d in cadence 719"),
        (lambda time_d, flux: (time_d[:1] * np.nan, flux[:1]), "time does not ascend"),
        (lambda time_d, flux: (time_d, flux * np.nan), "no 30 points stand together"),
        (lambda time_d, flux: (time_d[:20], flux[:20]), "no 30 points stand together"),
        (lambda time_d, flux: (time_d[:1], flux[:1]), "no 30 points stand together"),
        (lambda time_d, flux: (time_d[:0], flux[:0]), "no 30 points stand together"),
        (lambda time_d, flux: (time_d, flux - 1000), "median flux"),
        (lambda time_d, flux: (time_d, np.full_like(flux, 7.0)), "every flux is 7"),
    ],
)
def test_what_cannot_be_detrended_is_said(change, message):
    time_d, flux = star(days=1, spots=0.0, noise=0.01)
    with pytest.raises(DataError, match=message):
        detrend(*change(time_d, flux - 1))


def test_the_rule_s_threshold_and_number_of_points_decide():
    time_d, flux = star(flares=THREE)
    assert len(flares_of(time_d, flux, FlareRule(sigma=30.0))) == 1
    strict = dataclasses.replace(FlareRule(), num_points=200)
    assert flares_of(time_d, flux, strict) == []


def test_energies_are_those_of_guenther_et_al_2020():
    # TIC 358108509, sector 1: amplitude, full width and energy of two flares of their table.
    for amplitude, width_d, energy_erg in ((4.52183, 0.00153, 1.1e33), (0.20001, 0.01825, 5.8e32)):
        duration_s = amplitude * width_d * 86400 * TEMPLATE_AREA
        energy = flare_energy_erg(duration_s, mission="tess", teff_k=2824, radius_sun=0.129)
        assert energy == pytest.approx(energy_erg, rel=0.05)


@pytest.mark.parametrize(("mission", "low", "high"), [("kepler", 420, 900), ("tess", 600, 1000)])
def test_a_band_is_where_the_instrument_s_handbook_has_it(mission, low, high):
    nm, response = BANDS[mission]
    assert (np.diff(nm) > 0).all()
    assert 0 == response[0] == response[-1]
    assert low - 20 <= nm[0] < nm[-1] < high + 120
    fine = np.arange(300.0, 1200.0)
    inside = fine[np.interp(fine, nm, response) > max(response) / 2]
    assert (inside[0], inside[-1]) == pytest.approx((low, high), abs=20)


def test_k2_has_the_band_of_kepler():
    star = {"teff_k": 3500.0, "radius_sun": 0.5}
    kepler, k2 = (flare_energy_erg(10.0, mission=name, **star) for name in ("kepler", "k2"))
    assert k2 == kepler


def test_a_star_as_hot_as_its_flares_gives_its_own_luminosity_times_the_duration():
    # A quarter of it: the flare radiates from the area that is seen, as the paper has it.
    sun = flare_energy_erg(1.0, mission="kepler", teff_k=5772, radius_sun=1.0, flare_k=5772)
    assert sun == pytest.approx(3.828e33 / 4, rel=2e-3)


@pytest.mark.parametrize(
    "unknown",
    [
        {"mission": "other"},
        {"teff_k": np.nan},
        {"teff_k": -9999.0},
        {"teff_k": 12_001.0},
        {"radius_sun": np.nan},
        {"radius_sun": 0.0},
        {"radius_sun": 101.0},
    ],
)
def test_energy_is_unknown_where_star_or_band_are(unknown):
    known = {"mission": "tess", "teff_k": 3500.0, "radius_sun": 0.5}
    assert np.isfinite(flare_energy_erg(10.0, **known))
    assert np.isnan(flare_energy_erg(10.0, **(known | unknown)))


@pytest.mark.parametrize(
    ("limit", "beyond"),
    [
        ({"teff_k": 2000.0}, {"teff_k": 1999.0}),
        ({"teff_k": 12_000.0}, {"teff_k": 12_001.0}),
        ({"radius_sun": 0.05}, {"radius_sun": 0.049}),
        ({"radius_sun": 100.0}, {"radius_sun": 100.1}),
    ],
)
def test_a_star_at_the_limits_has_energies_and_one_beyond_has_none(limit, beyond):
    known = {"mission": "tess", "teff_k": 3500.0, "radius_sun": 0.5}
    assert flare_energy_erg(10.0, **(known | limit)) > 0
    assert np.isnan(flare_energy_erg(10.0, **(known | beyond)))


@pytest.mark.parametrize("mission", ["kepler", "tess"])
@pytest.mark.parametrize("flare_k", [9000.0, 10_000.0])
def test_an_energy_is_that_of_the_paper_s_integrals_with_constants_of_astropy(mission, flare_k):
    from astropy import constants

    nm_L = np.arange(300.0, 1200.0, 0.01)
    second_nm_k = (constants.h * constants.c / constants.k_B).to_value("nm K")

    def in_band(temperature_k):
        planck_L = nm_L**-5.0 / np.expm1(second_nm_k / (nm_L * temperature_k))
        return np.sum(np.interp(nm_L, *BANDS[mission], left=0, right=0) * planck_L)

    luminosity = constants.sigma_sb.cgs.value * flare_k**4 * np.pi * constants.R_sun.cgs.value**2
    expected = luminosity * 0.3**2 * 20.0 * in_band(3300.0) / in_band(flare_k)
    star = {"mission": mission, "teff_k": 3300.0, "radius_sun": 0.3}
    assert flare_energy_erg(20.0, **star, flare_k=flare_k) == pytest.approx(expected, rel=2e-4)
    if flare_k == 9000.0:
        assert flare_energy_erg(20.0, **star) == flare_energy_erg(20.0, **star, flare_k=flare_k)


@pytest.mark.parametrize(
    ("mission", "nm", "response"),
    [("kepler", (450, 600, 750), (0.46, 0.66, 0.56)), ("tess", (635, 800, 925), (0.7, 0.95, 0.9))],
)
def test_responses_are_those_of_the_handbooks_to_a_tenth(mission, nm, response):
    assert np.interp(nm, *BANDS[mission]) == pytest.approx(response, abs=0.05)
