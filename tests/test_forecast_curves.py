"""Light curves become windows: cells, gaps, labels, and nothing later than a window's end."""

import dataclasses

import numpy as np
import pytest

from astroray.errors import DataError
from astroray.flares.curve_windows import curve_windows, rule_for
from astroray.flares.found_flares import find_record
from astroray.flares.windows import WindowRule
from astroray.forecast.collect import star_windows
from tests.flares_made import light_curve, star

KEPLER, TESS = WindowRule(), rule_for("tess")
LONG_D = KEPLER.cadence_d


def curve(
    *, days=40.0, cadence_d=LONG_D, remove=lambda time_d: np.zeros(len(time_d), bool), **made
):
    time_d, flux = star(days=days, cadence_d=cadence_d, **made)
    kept = ~remove(time_d - 1500)
    return light_curve(time_d[kept], flux[kept], cadence_s=86400 * cadence_d)


def test_every_cadence_has_its_own_cell():
    windows = curve_windows([curve()], KEPLER)
    assert (windows.flux_WTC[..., 2] == 1).all()
    assert windows.flux_WTC.shape[1:] == (512, 3)
    assert windows.end_W[0] == pytest.approx(1500 + 511.5 * LONG_D)
    assert np.diff(windows.end_W) == pytest.approx(50 * LONG_D)


def test_tess_is_averaged_to_ten_minutes():
    assert TESS.num_ahead == 144
    windows = curve_windows([curve(days=8.0, cadence_d=2 / 1440)], TESS)
    assert (windows.flux_WTC[..., 2] == 1).all()
    assert windows.end_W[0] == pytest.approx(1500 + 511.5 / 144)


def test_nothing_after_a_window_s_end_enters_its_flux():
    whole = curve(flares=[(25.0, 60, 0.3)])
    windows = curve_windows([whole], KEPLER)
    at = 5
    is_past_T = whole.time_d < windows.end_W[at]
    cut = dataclasses.replace(
        whole,
        time_d=whole.time_d[is_past_T],
        flux=whole.flux[is_past_T] * 1.7,  # another unit, so another median of the file
        flux_err=whole.flux_err[is_past_T],
        quality=whole.quality[is_past_T],
    )
    alone = curve_windows([cut], KEPLER, unanswered=True)
    same = int(np.argmin(abs(alone.end_W - windows.end_W[at])))
    np.testing.assert_allclose(alone.flux_WTC[same], windows.flux_WTC[at], atol=1e-4)


def test_flares_that_the_finder_sees_are_labels_and_history():
    found = curve(flares=[(20.0, 90, 0.2), (30.0, 90, 0.2)], noise=0.0005)
    record = find_record([found], observed_S2=np.array([[1500.0, 1540.0]]))
    assert record.start_F - 1500 == pytest.approx([20, 30], abs=0.1)
    assert record.property_P[0] == 3300
    windows = curve_windows([found], KEPLER)
    ahead_d = KEPLER.num_ahead * LONG_D
    for start_d in record.start_F:
        expected = (windows.end_W < start_d) & (windows.end_W + ahead_d >= start_d)
        assert expected.any()
        assert windows.label_W[expected].all()
    assert windows.statistics_WN[-1, 0] == pytest.approx(np.log(3))


def test_short_pauses_are_bridged_and_long_ones_stand_at_the_median_both_unobserved():
    def remove(day_T):
        return ((day_T > 12) & (day_T < 12.09)) | ((day_T > 14) & (day_T < 14.5))

    windows = curve_windows([curve(remove=remove, spots=0.2, period_d=20.0)], KEPLER)
    channel_TC = windows.flux_WTC[4]
    day_T = windows.end_W[4] - 1500 + (np.arange(512) - 511.5) * LONG_D
    is_short_T = (day_T > 12.0) & (day_T < 12.09)
    is_long_T = (day_T > 14.02) & (day_T < 14.48)
    assert (channel_TC[is_short_T | is_long_T, 2] == 0).all()
    assert (channel_TC[is_long_T, 0] == 0).all()
    assert abs(channel_TC[is_short_T, 0]).min() > 0.1
    assert (channel_TC[is_short_T | is_long_T, 1] == 0).all()


@pytest.mark.parametrize(
    ("pause", "reason"),
    [
        ((15.0, 16.5), "a pause above 1 d in the history"),
        ((15.0, 19.0), "less than 70% of the history observed"),
        ((15.0, 15.5), "less than 80% of the horizon observed"),
    ],
)
def test_windows_with_too_little_in_them_are_dropped_and_counted(pause, reason):
    windows = curve_windows(
        [curve(remove=lambda day_T: (day_T > pause[0]) & (day_T < pause[1]))], KEPLER
    )
    whole = curve_windows([curve()], KEPLER)
    assert windows.dropped[reason] > 0
    assert len(windows) + sum(windows.dropped.values()) == len(whole)


def test_no_window_is_laid_where_nothing_was_observed_between_two_visits():
    early, late = curve(days=20.0), curve(days=20.0, seed=1)
    late = dataclasses.replace(late, time_d=late.time_d + 700)
    windows = curve_windows([early, late], KEPLER)
    apart = [curve_windows([one], KEPLER) for one in (early, late)]
    assert abs(len(windows) - sum(len(part) for part in apart)) <= 2
    assert sum(windows.dropped.values()) < 30


def test_windows_to_be_forecast_end_with_the_last_cadence_and_have_no_answer_yet():
    found = curve()
    windows = curve_windows([found], KEPLER, unanswered=True)
    assert windows.end_W[-1] == pytest.approx(found.time_d[-1] + LONG_D / 2)
    assert not windows.answered_W[-1]
    assert 0 <= windows.answered_W.sum() - len(curve_windows([found], KEPLER)) <= 1


def test_what_gives_no_window_says_so():
    short = curve_windows([curve(days=9.0)], KEPLER)
    assert len(short) == 0
    assert short.dropped == {"light curve shorter than a window": 1}
    with pytest.raises(DataError, match="one cadence takes 7200 s"):
        curve_windows([curve(cadence_d=2 / 24)], KEPLER)


def test_a_star_that_gives_no_window_is_counted_beside_others():
    long = light_curve(*star(days=8.0, cadence_d=10 / 1440))
    short = light_curve(*star(days=2.0, cadence_d=10 / 1440), object_id="TIC 8", row=1)
    windows, rejects, _ = star_windows([("shard", one) for one in (short, long)])
    assert (len(windows), rejects) == (len(curve_windows([long], TESS)), [])
    assert windows.dropped["light curve shorter than a window"] == 1


def test_a_constant_flux_has_no_scale_and_stays_zero():
    flat = curve()
    flat = dataclasses.replace(flat, flux=np.full(len(flat.flux), 7.0))
    windows = curve_windows(
        [flat], KEPLER, record=find_record([curve()], observed_S2=np.zeros((0, 2)))
    )
    assert (windows.flux_WTC[..., :2] == 0).all()


def test_a_bad_light_curve_takes_no_other_of_its_star_with_it():
    good = light_curve(*star(days=8.0, cadence_d=2 / 1440))
    short = light_curve(*star(days=20 * 2 / 1440), row=1)
    coarse = light_curve(*star(days=8.0, cadence_d=1 / 24), row=2, cadence_s=3600.0)
    late = [dataclasses.replace(one, time_d=one.time_d + 30) for one in (short, coarse)]
    windows, rejects, _ = star_windows([("shard", one) for one in (good, *late)])
    assert len(windows) == len(curve_windows([good], TESS)) > 0
    assert [reject.row for reject in rejects] == [1, 2]
    assert "no 30 points stand together" in rejects[0].reason
    assert "one cadence takes 3600 s" in rejects[1].reason
    assert star_windows([("shard", one) for one in late])[0] is None


def test_a_flare_that_two_light_curves_of_a_star_show_is_one():
    made = {"days": 8.0, "flares": [(2.0, 60, 0.2), (5.0, 60, 0.2)], "noise": 0.0005}
    usual = light_curve(*star(cadence_d=2 / 1440, **made))
    fast = light_curve(*star(cadence_d=1 / 1440, seed=1, **made), cadence_s=60.0)
    record = find_record([usual, fast], observed_S2=np.array([[1500.0, 1508.0]]))
    assert record.start_F - 1500 == pytest.approx([2, 5], abs=0.1)


def test_light_curves_of_a_star_are_told_in_the_time_of_the_first():
    first = light_curve(*star(days=4.0, cadence_d=2 / 1440))
    later = light_curve(*star(days=4.0, cadence_d=2 / 1440, seed=1), row=1)
    later = dataclasses.replace(later, time_d=later.time_d + 4)
    in_mjd = dataclasses.replace(later, time_d=later.time_d + 56999.5, time_zero="MJD")
    whole, _, _ = star_windows([("shard", one) for one in (first, later)])
    moved, _, places = star_windows([("shard", one) for one in (in_mjd, first)])
    assert places["TIC 7"].time_zero == "BTJD"
    np.testing.assert_allclose(moved.end_W, whole.end_W, atol=1e-8)
    np.testing.assert_allclose(moved.flux_WTC, whole.flux_WTC, atol=1e-5)


def test_no_step_is_left_between_two_files_of_other_levels():
    first = light_curve(*star(days=4.0, cadence_d=2 / 1440))
    later = light_curve(*star(days=4.0, cadence_d=2 / 1440, seed=1), row=1)
    later = dataclasses.replace(later, time_d=later.time_d + 4)
    brighter = dataclasses.replace(later, flux=500 * later.flux)
    whole, moved = (curve_windows([first, one], TESS) for one in (later, brighter))
    np.testing.assert_allclose(moved.flux_WTC, whole.flux_WTC, atol=1e-5)


def test_a_window_whose_flux_is_not_above_zero_is_dropped_and_counted():
    faint = curve()
    is_late_T = faint.time_d > 1520
    faint = dataclasses.replace(faint, flux=np.where(is_late_T, -faint.flux, faint.flux))
    record = find_record([curve()], observed_S2=np.zeros((0, 2)))
    windows = curve_windows([faint], KEPLER, record=record)
    assert windows.dropped["flux whose median is not above 0"] > 0
    assert len(windows) + sum(windows.dropped.values()) == len(curve_windows([curve()], KEPLER))


def test_a_star_of_which_every_window_is_dropped_gives_none_and_says_why():
    sparse = curve(days=14.0, remove=lambda time_d: (time_d * 10).astype(int) % 2 == 0)
    windows = curve_windows([sparse], KEPLER)
    assert len(windows) == 0
    assert windows.flux_WTC.shape == (0, 512, 3)
    assert sum(windows.dropped.values()) > 0
