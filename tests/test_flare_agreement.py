"""Finders against labels: counts by hand, the plainest finder, and the labeled sets."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from astroray.cli import cli
from astroray.errors import ConfigError
from astroray.evaluation.metrics import Estimate
from astroray.flares.agreement import Labels, agree, find_plainly, spans_of_runs
from astroray.forecast.finders import (
    FINDER,
    FLOOR,
    FinderSkill,
    finder_rows,
    finder_table,
    judge_finders,
)  # fmt: skip
from astroray.forecast.labeled_curves import find_in_curves, read_labels, windows_of
from tests.flares_made import MINUTE_D, star, write_labeled


def spans(*pairs):
    return np.array(pairs, np.float64).reshape(-1, 2)


def test_recall_counts_labels_and_precision_counts_what_was_found():
    found = [spans((1.0, 1.2), (3.0, 3.1), (5.0, 5.1)), spans((2.0, 2.1))]
    labels = [
        Labels(asked_L2=spans((1.1, 1.3), (4.0, 4.2)), any_L2=spans((1.1, 1.3), (3.1, 3.2))),
        Labels(asked_L2=spans(), any_L2=spans()),
    ]
    counts = agree(found, labels, ["b", "a"], tolerance_d=0.0)
    assert counts.asked_S.tolist() == [0, 2]
    assert counts.hit_S.tolist() == [0, 1]
    assert counts.found_S.tolist() == [1, 3]
    assert counts.right_S.tolist() == [0, 2]
    recall_R, precision_R = counts.rates(np.array([[1.0, 1.0], [0.0, 2.0], [1.0, 0.0]]))
    assert recall_R[:2] == pytest.approx([0.5, 0.5])
    assert precision_R == pytest.approx([2 / 4, 2 / 3, 0.0])
    assert np.isnan(recall_R[2])


def test_spans_that_are_near_enough_meet():
    labels = [Labels(asked_L2=spans((1.0, 1.1)), any_L2=spans((1.0, 1.1)))]
    for gap, hit in ((0.04, 1), (0.06, 0)):
        counts = agree([spans((1.1 + gap, 1.3))], labels, ["a"], tolerance_d=0.05)
        assert counts.hit_S[0] == counts.right_S[0] == hit


def test_runs_of_neighboring_indices_are_one_span_each():
    time_d = np.arange(10) / 10
    assert spans_of_runs(time_d, np.array([1, 2, 3, 7])) == pytest.approx(
        spans((0.1, 0.3), (0.7, 0.7))
    )
    assert len(spans_of_runs(time_d, np.array([1, 2, 7]), min_points=3)) == 0
    assert spans_of_runs(time_d, np.zeros(0, np.int64)).shape == (0, 2)


def test_the_plainest_finder_finds_a_high_flare_and_needs_three_points():
    time_d, flux = star(days=6.0, spots=0.0, noise=0.001, flares=[(2.0, 30, 0.1)])
    found = find_plainly(time_d, flux)
    assert any(first <= 1502 + 10 * MINUTE_D and last >= 1502 for first, last in found)
    flux[4000] *= 1.1
    flux[100:200] = np.nan
    at_d = time_d[4000]
    assert not any(first <= at_d <= last for first, last in find_plainly(time_d, flux))
    assert find_plainly(time_d[:2], flux[:2]).shape == (0, 2)


@pytest.fixture
def labeled(tmp_path):
    return write_labeled(tmp_path)


def test_labels_are_read_as_spans_of_each_light_curve(labeled):
    found = find_in_curves(labeled, "tess")
    lists = list(read_labels(labeled, "tess", [one.curve for one in found]).values())
    stella, guenther = (labels[0] for labels in lists)
    assert stella.asked_L2 == pytest.approx(spans((1333.0, 1333.02)))
    assert len(stella.any_L2) == 2
    assert guenther.asked_L2 == pytest.approx(spans((1337.995, 1338.015)))
    found = find_in_curves(labeled, "kepler")
    flags, calm = read_labels(labeled, "kepler", [one.curve for one in found]).values()
    assert (len(flags[0].asked_L2), len(calm[0].asked_L2), len(calm[0].any_L2)) == (2, 1, 2)
    assert calm[0].asked_L2[0, 0] < 879  # the other is in the storm of BKJD 887


def test_both_finders_are_judged_against_every_list(labeled):
    found = find_in_curves(labeled, "tess")
    skills = judge_finders(labeled, "tess", found, 20, 0)
    assert [(skill.finder, skill.num_labels) for skill in skills] == [(FINDER, 1), (FLOOR, 1)] * 2
    assert all(skill.recall.value == 1 for skill in skills if skill.finder == FINDER)
    what = {row["what"]: row for row in finder_rows("light-curves", skills)}
    assert len(what) == 8
    row = what[f"light-curves tess {FINDER}: recall against {skills[0].labels}"]
    assert row["value"] == 1
    assert row["stars"] == 1
    assert "2 labels" not in finder_table(skills)
    assert finder_table(skills).count(FLOOR) == 2


def test_a_rate_that_is_not_known_is_null_with_a_reason_and_no_number_that_json_lacks():
    unknown = Estimate.of(np.nan, np.full(3, np.nan))
    skill = FinderSkill(
        survey="tess", labels="a list", finder=FLOOR, recall=Estimate.of(0.5, np.full(3, 0.5)),
        precision=unknown, num_labels=2, num_found=0, num_stars=1,
    )  # fmt: skip
    recall, precision = json.loads(
        json.dumps(finder_rows("light-curves", [skill]), allow_nan=False)
    )
    assert (recall["value"], recall["low"], recall["ok"]) == (0.5, 0.5, True)
    assert (precision["value"], precision["high"], precision["ok"]) == (None, None, False)
    assert precision["reason"] == "no flares are found"


def test_windows_are_answered_by_what_the_finder_found(labeled):
    found = find_in_curves(labeled, "tess")
    windows = windows_of(found)
    assert windows.star_ids == ["TIC 7"]
    start_d = found[0].found_F2[:, 0]
    ahead_W = (start_d > windows.end_W[:, None]) & (start_d <= windows.end_W[:, None] + 1.0)
    assert windows.label_W.tolist() == ahead_W.any(axis=1).tolist()
    assert windows.label_W.any()


def test_a_set_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"tess_young_stars/index\.csv is not there"):
        find_in_curves(str(tmp_path), "tess")


def test_the_track_of_light_curves_judges_finders_and_says_where_no_forecast_can_be(
    labeled, tmp_path
):
    arguments = ["evaluate", "flares", "--track", "light-curves", "--data", labeled]
    arguments += ["--resamples", "10", "--out", str(tmp_path / "out"), "--json"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    assert FLOOR in result.output
    assert "with a flare on 1 of them: too few to train and judge" in result.output
    document = json.loads(result.output.splitlines()[-1])
    assert [text.split(":")[0] for text in document["remarks"]] == ["tess", "kepler"]
    assert all("too few to train and judge" in text for text in document["remarks"])
    assert {row["peer"] for row in document["rows"]} == {""}
    assert len(document["rows"]) == 16
    result = CliRunner().invoke(cli, [*arguments, "--split", "kepler"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.output.splitlines()[-1])["rows"] == []


def test_the_track_of_light_curves_asks_for_the_folder_of_data(tmp_path):
    arguments = ["evaluate", "flares", "--track", "light-curves", "--out", str(tmp_path)]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert "--data DIR" in result.output
