"""Light curves cut into rows of one length: names, numbers, gaps, and what is refused."""

import re

import numpy as np
import pytest

from astroray import surveys
from astroray.errors import ConfigError
from astroray.surveys.light_curve_windows import ROWS_PER_CURVE, cut_windows
from astroray.surveys.shards import REST, Reject, Rows
from tests.light_curves_made import write_mission
from tests.test_curve_preparation import curve, noise


def is_reject(item):
    return isinstance(item, Reject)


def test_the_windows_of_an_even_curve_are_its_pieces_in_order():
    whole = curve(noise(250), row=3)
    pieces = list(cut_windows(whole, 100))
    assert [piece.row - 3 * ROWS_PER_CURVE for piece in pieces] == [0, 1, 2]
    assert [len(piece.flux) for piece in pieces] == [100, 100, 50]
    np.testing.assert_array_equal(np.concatenate([p.flux for p in pieces]), whole.flux)
    np.testing.assert_array_equal(np.concatenate([p.time_d for p in pieces]), whole.time_d)


def test_a_window_lasts_as_long_whatever_is_missing_and_a_gap_has_none():
    time_d = np.r_[0:100, 350:400] * 120 / 86400
    pieces = list(cut_windows(curve(noise(150), time_d=time_d), 100))
    assert [piece.meta["window"] for piece in pieces] == [0, 3]
    assert [len(piece.flux) for piece in pieces] == [100, 50]


def test_a_rest_of_less_than_a_tenth_is_counted_as_one_and_a_curve_of_rests_is_a_reject():
    *pieces, rest = cut_windows(curve(noise(209), row=1), 100)
    assert [len(piece.flux) for piece in pieces] == [100, 100]
    assert (rest.row, rest.kind, rest.stage) == (ROWS_PER_CURVE + 2, REST, "read")
    assert "window 2 of star 1 has 9 of 100 cadences, expected at least 10%" in rest.reason
    assert [len(piece.flux) for piece in cut_windows(curve(noise(210)), 100)] == [100, 100, 10]
    time_d = np.r_[0:5, 300:305] * 120 / 86400
    (reject,) = cut_windows(curve(noise(10), time_d=time_d, row=2), 100)
    assert (reject.row, reject.kind) == (2 * ROWS_PER_CURVE, "short")
    assert "star 2 has 10 cadences, and no window of 100 with at least 10%" in reject.reason


@pytest.mark.parametrize("seed", range(5))
def test_every_cadence_is_in_one_window_or_in_a_reject_that_says_how_many(seed):
    random = np.random.default_rng(seed)
    time_d = np.flatnonzero(np.repeat(random.random(30) < 0.5, 40)) * 120 / 86400
    whole = curve(noise(len(time_d)), time_d=time_d)
    found = list(cut_windows(whole, 100))
    rows = [piece.row for piece in found]
    assert rows == sorted(set(rows))
    rests = [int(re.search("has ([0-9]+) of", one.reason)[1]) for one in found if is_reject(one)]
    kept = [len(one.flux) for one in found if not is_reject(one)]
    assert sum(kept) + sum(rests) == len(time_d)


def test_a_window_without_flux_is_a_reject_that_names_it():
    flux = noise(300)
    flux[100:199] = np.nan
    _, reject, _ = cut_windows(curve(flux), 100)
    assert (reject.row, reject.kind) == (1, "empty")
    assert "window 1 of star 0 has 1 numbers among 100 cadences" in reject.reason


def test_windows_of_a_survey_have_names_and_are_read_again_by_row(tmp_path):
    write_mission(tmp_path / "a_lc.fits", "tess")
    write_mission(tmp_path / "b_lc.fits", "tess", flux=np.full(200, np.nan))
    write_mission(tmp_path / "c_lc.fits", "tess", primary={"SECTOR": 2})
    (shard,) = surveys.list_shards(f"{tmp_path}/*.fits?format=light_curves&window=64").shards
    assert shard.num_rows is None
    found = list(surveys.read_shard(shard))
    names = [name for rows in found if isinstance(rows, Rows) for name in rows.object_id_B]
    assert names == [f"TIC 358108509 S{s} W{w}" for s in (1, 2) for w in range(4)]
    assert [item.row for item in found if isinstance(item, Reject)] == [ROWS_PER_CURVE]
    (again,) = surveys.read_shard(shard, rows=[2 * ROWS_PER_CURVE + 1])
    assert again.object_id_B == ["TIC 358108509 S2 W1"]
    np.testing.assert_array_equal(again.curve_B[0].flux, found[-1].curve_B[1].flux)


def test_a_window_that_is_too_short_is_refused(tmp_path):
    write_mission(tmp_path / "a_lc.fits", "tess")
    with pytest.raises(ConfigError, match="window is 5, expected 0 or at least 16"):
        surveys.list_shards(f"{tmp_path}/*.fits?format=light_curves&window=5")
