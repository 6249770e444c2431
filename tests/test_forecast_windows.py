"""Records, histories and windows: no window knows anything later than its end."""

import dataclasses
import gzip

import numpy as np
import pytest

from astroray.errors import ConfigError, DataError, SchemaError
from astroray.flares.history import HISTORY, STATISTICS, observed_days, recall_past
from astroray.flares.records import read_kepler_records
from astroray.flares.windows import WindowRule, join_windows, record_windows
from astroray.forecast.splits import split_by_star, split_by_time
from tests.records_made import poisson_stars, star_record

RULE = WindowRule()


def statistic(past, name):
    return past.statistics_WN[:, STATISTICS.index(name)]


def test_nothing_later_than_a_window_s_end_changes_its_inputs():
    star = star_record(start=np.random.default_rng(3).uniform(0, 500, 60))
    moment_W = np.linspace(20, 480, 40)
    whole = recall_past(star, moment_W)
    for at, moment in enumerate(moment_W):
        is_past_F = star.stop_F <= moment
        cut = dataclasses.replace(
            star,
            start_F=star.start_F[is_past_F],
            stop_F=star.stop_F[is_past_F],
            size_F=star.size_F[is_past_F],
            observed_S2=np.array([[0.0, moment]]),
        )
        alone = recall_past(cut, moment_W[at : at + 1])
        np.testing.assert_allclose(alone.history_WMC[0], whole.history_WMC[at], rtol=1e-6)
        np.testing.assert_allclose(
            alone.statistics_WN[0], whole.statistics_WN[at], rtol=1e-5, atol=1e-6
        )


def test_a_flare_that_is_still_going_on_is_not_yet_known():
    star = star_record(start=[100.0], duration=0.5)
    past = recall_past(star, np.array([100.2, 100.6]))
    assert statistic(past, "log flares so far").tolist() == pytest.approx([0, np.log(2)])
    assert np.isnan(past.history_WMC[0]).all()
    assert past.history_WMC[1, 0].tolist() == pytest.approx([np.log10(0.6), np.log10(0.5), 33])


def test_statistics_are_those_worked_out_by_hand():
    star = star_record(start=[50.0, 60.0, 90.0], duration=0.1, size=33.0)
    past = recall_past(star, np.array([100.0]))
    assert statistic(past, "log rate so far")[0] == pytest.approx(np.log(3.5 / 130))
    assert statistic(past, "log days since the last")[0] == pytest.approx(np.log(10))
    assert statistic(past, "flares in the last 10.46 d")[0] == 1
    assert statistic(past, "log mean waiting time")[0] == pytest.approx(np.log(20))
    seen = np.exp(-np.array([50, 40, 10]) / 30).sum()
    days = 30 * (1 - np.exp(-100 / 30))
    assert statistic(past, "log rate, decaying over 30 d")[0] == pytest.approx(
        np.log((seen + 0.2) / (days + 10))
    )
    assert past.history_WMC[0, :3, HISTORY.index("log10 days ago")].tolist() == pytest.approx(
        [1.0, np.log10(40), np.log10(50)]
    )


def test_a_season_counts_the_same_place_on_the_orbit_a_year_ago():
    star = star_record(start=[100.0, 130.0, 250.0], days=900.0)
    past = recall_past(star, np.array([110 + 372.5, 150 + 2 * 372.5]))
    rates = np.exp(statistic(past, "log rate of this season in former years"))
    assert rates[0] == pytest.approx((2 + 0.3) / (92 + 20), rel=1e-5)
    assert rates[1] == pytest.approx((1 + 0.3) / (2 * 92 + 20), rel=1e-5)  # that of day 130


def test_a_star_without_flares_has_finite_rates_and_unknown_sizes():
    past = recall_past(star_record(start=[]), np.array([50.0, 300.0]))
    assert np.isfinite(statistic(past, "log rate so far")).all()
    assert np.isnan(statistic(past, "mean size")).all()
    assert np.isnan(statistic(past, "largest size")).all()
    assert np.isnan(past.history_WMC).all()


def test_days_are_counted_where_the_telescope_looked():
    observed = np.array([[0.0, 10.0], [20.0, 30.0]])
    days_W = observed_days(observed, np.array([-1.0, 5.0, 15.0, 25.0, 99.0]))
    assert days_W.tolist() == [0, 5, 10, 15, 20]


def test_a_label_is_a_flare_that_starts_within_the_horizon():
    windows = record_windows([star_record(start=[100.0], days=200.0)])
    ahead_d = RULE.num_ahead * RULE.cadence_d
    expected = (windows.end_W < 100.0) & (windows.end_W + ahead_d >= 100.0)
    assert windows.label_W.tolist() == expected.tolist()
    assert expected.sum() == 1
    assert RULE.num_ahead == 48
    assert np.diff(windows.end_W) == pytest.approx(50 * RULE.cadence_d)


def test_windows_that_nobody_watched_are_dropped_and_counted():
    star = star_record(start=[30.0, 90.0], observed_S2=np.array([[0.0, 40.0], [70.0, 120.0]]))
    windows = record_windows([star])
    whole = record_windows([star_record(start=[30.0, 90.0], days=120.0)])
    reasons = windows.dropped
    assert len(windows) + sum(reasons.values()) == len(whole)
    assert reasons["less than 70% of the history observed"] > 20
    assert reasons["less than 80% of the horizon observed"] >= 1
    assert not ((windows.end_W > 40) & (windows.end_W < 70)).any()


def test_joined_windows_stand_by_star_and_time_and_name_each_star_once():
    parts = [record_windows([star_record(name, days=60.0)]) for name in ("KIC 9", "KIC 1", "KIC 9")]
    joined = join_windows(parts)
    assert list(joined.star_ids) == ["KIC 1", "KIC 9"]
    assert (np.diff(joined.star_W) >= 0).all()
    assert np.bincount(joined.star_W).tolist() == [len(parts[0]), 2 * len(parts[0])]


def test_nothing_to_join_is_said():
    with pytest.raises(DataError, match="no star is at hand"):
        join_windows([])


def test_folds_share_no_star_and_test_each_window_once():
    windows = record_windows(poisson_stars(11, days=100.0))
    folds = list(split_by_star(windows, num_folds=4, seed=0))
    tested = np.concatenate([fold.test_V for fold in folds])
    assert sorted(tested) == list(range(len(windows)))
    for fold in folds:
        stars = [
            set(windows.star_W[part]) for part in (fold.train_V, fold.validation_V, fold.test_V)
        ]
        assert sum(map(len, stars)) == len(set.union(*stars)) == 11


def test_too_few_stars_for_the_folds_are_refused():
    windows = record_windows(poisson_stars(3, days=60.0))
    with pytest.raises(DataError, match="3 stars are too few for 5 folds"):
        list(split_by_star(windows, num_folds=5, seed=0))


def test_in_time_no_horizon_reaches_into_the_next_part():
    windows = record_windows(poisson_stars(3, days=300.0))
    split = split_by_time(windows, validation_d=150.0, test_d=200.0, ahead_d=0.98)
    assert windows.end_W[split.train_V].max() + 0.98 <= 150
    assert windows.end_W[split.validation_V].min() >= 150
    assert windows.end_W[split.validation_V].max() + 0.98 <= 200
    assert windows.end_W[split.test_V].min() >= 200
    with pytest.raises(DataError, match="test part of a split is empty"):
        split_by_time(windows, validation_d=150.0, test_d=400.0, ahead_d=0.98)


def test_the_kepler_tables_are_read_without_what_looks_ahead(real_data):
    records = read_kepler_records(str(real_data))
    assert len(records.stars) > 1200
    assert all(len(star.start_F) for star in records.stars)
    star = next(star for star in records.stars if star.object_id == "KIC 7905458")
    assert star.property_P.tolist() == [4842, 4.353, -0.638, 1.065, 17.642]
    observed_S2 = star.observed_S2
    assert (np.diff(observed_S2.ravel()) > 0).all()
    in_safe_mode = (observed_S2[:, 0] < 1485) & (observed_S2[:, 1] > 1480)
    assert not in_safe_mode.any(), "Kepler did not look in the safe mode of quarter 16"
    assert 1200 < np.diff(observed_S2).sum() < 1400


def test_tables_that_are_none_are_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match="flare_param"):
        read_kepler_records(str(tmp_path))
    folder = tmp_path / "lightcurves" / "catalogues"
    folder.mkdir(parents=True)
    (folder / "fcn4flare_kepler_flare_param.txt.gz").write_bytes(gzip.compress(b"nothing\n"))
    with pytest.raises(SchemaError, match="has no line of dashes"):
        read_kepler_records(str(tmp_path))
