"""The forecast from records: what RecordNet learns, what it may not, and its evaluation."""

import dataclasses
import gzip
import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from sklearn.metrics import roc_auc_score

from astroray.cli import cli
from astroray.flares.windows import record_windows
from astroray.forecast import baselines, evaluate
from astroray.forecast.record_model import (
    RecordConfig,
    fit_record_net,
    record_inputs,
    record_logits,
)
from astroray.forecast.splits import split_by_star
from tests.records_made import poisson_stars

QUICK = RecordConfig(num_members=1, num_passes=2, batch_size=256, width=16)


@pytest.fixture(scope="module")
def made():
    """Windows of stars of many rates, split by star."""
    windows = record_windows(poisson_stars(40))
    return windows, next(split_by_star(windows, num_folds=4, seed=0))


@pytest.fixture(scope="module")
def members(made):
    windows, split = made
    return fit_record_net(windows.take(split.train_V), windows.take(split.validation_V), QUICK)


@pytest.mark.parametrize(
    ("flaring", "told", "can_be_judged"),
    [(9, "too few to train and judge", False), (10, "few stars", True), (30, "", True)],
)
def test_few_stars_that_flare_are_told_however_many_do_not(made, flaring, told, can_be_judged):
    windows, _ = made
    windows = dataclasses.replace(windows, label_W=windows.star_W < flaring)
    remark, is_judged = evaluate.told_of_size("kepler", windows, 5)
    assert is_judged == can_be_judged
    assert (told in remark) if told else not remark


def test_stars_it_never_saw_are_told_apart_by_their_rates(made, members):
    windows, split = made
    test = windows.take(split.test_V)
    rate_W = test.statistics_WN[:, 2]
    auc = roc_auc_score(test.label_W, record_logits(members, test))
    assert auc > 0.7
    assert auc > roc_auc_score(test.label_W, rate_W) - 0.03


def test_no_forecaster_learns_from_the_labels_that_it_is_tested_on(monkeypatch):
    windows = record_windows(poisson_stars(9, days=400.0))
    split = next(split_by_star(windows, num_folds=3, seed=0))
    monkeypatch.setattr(baselines, "NUM_TREES", 5)
    monkeypatch.setattr(evaluate, "RecordConfig", lambda seed: QUICK)
    monkeypatch.setattr(evaluate, "compare", lambda judged, *_, **__: judged)
    turned_W = windows.label_W.copy()
    turned_W[split.test_V] ^= True
    fits = {**baselines.BASELINES, evaluate.RECORD_MODEL: evaluate._record_model}
    config = evaluate.FlareEvaluationConfig(track="records", out="")
    told, turned = (
        evaluate._run_split(
            dataclasses.replace(windows, label_W=label_W), "", [split], fits, config, lambda _: None
        )
        for label_W in (windows.label_W, turned_W)
    )
    for name in fits:
        for values, others in zip(
            vars(told[name]).values(), vars(turned[name]).values(), strict=True
        ):
            np.testing.assert_array_equal(values, others, name)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(made, members):
    windows, split = made
    parts = windows.take(split.train_V), windows.take(split.validation_V)
    again = fit_record_net(*parts, QUICK)[0].state_dict()
    other = fit_record_net(*parts, dataclasses.replace(QUICK, seed=1))[0].state_dict()
    first = members[0].state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["perceptron.0.weight"], other["perceptron.0.weight"])


def test_unknown_numbers_are_told_and_change_no_others(made, members):
    windows, _ = made
    blank = dataclasses.replace(windows, property_WP=np.full_like(windows.property_WP, np.nan))
    logits = record_logits(members, blank)
    assert np.isfinite(logits).all()
    assert not np.array_equal(logits, record_logits(members, windows))
    assert record_inputs(blank).shape == record_inputs(windows).shape


def _write_tables(folder, stars):
    """The made stars in the columns of the journal's tables."""
    folder.mkdir(parents=True)
    flares = [
        f"{star.object_id[4:]:>9} {5:>2} {start:9.4f} {stop:9.4f} {stop - start:6.4f} {33:6.3f}"
        for star in stars
        for start, stop in zip(star.start_F, star.stop_F, strict=True)
    ]
    known = [
        f"{star.object_id[4:]:>9} {'K':<3}{3500:>5} {4.8:5.3f} {0:6.3f} {0.4:7.3f} {5:7.3f} "
        f"{1459.489:8.3f}"
        for star in stars
    ]
    for name, lines in (("flare_param", flares), ("flare_star_param", known)):
        text = "\n".join(["Title", "-" * 40, *lines, ""])
        path = folder / f"fcn4flare_kepler_{name}.txt.gz"
        path.write_bytes(gzip.compress(text.encode()))


def test_the_command_prints_every_forecaster_and_ends_with_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(baselines, "NUM_TREES", 10)
    stars = poisson_stars(12, days=1459.0, seed=2)
    _write_tables(tmp_path / "lightcurves" / "catalogues", stars)
    arguments = [
        "evaluate", "flares", "--track", "records", "--data", str(tmp_path), "--folds", "3",
        "--resamples", "20", "--out", str(tmp_path / "out"), "--json",
    ]  # fmt: skip
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    document = json.loads(result.output.splitlines()[-1])
    assert document["stars"] == 12
    what = {row["what"]: row for row in document["rows"]}
    for split in ("star-disjoint", "time-forward"):
        bar = what[f"records {split} astroray (record): auc minus boosting (record)"]
        assert bar["goal"] == 0.0
        assert bar["ok"] == (bar["low"] > 0)
        assert what[f"records {split} rate of the star: auc"]["value"] > 0.6
        assert len(what[f"records {split} logistic regression: reliability"]["reliability"]) == 10
    assert json.loads((tmp_path / "out" / "rows.json").read_text()) == document


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--track", "records"], "give its parent with --data DIR"),
        (["--track", "nothing"], "track is 'nothing', expected one of"),
        (["--split", "random"], "split of the track 'records' is 'random', expected one of"),
        (["--folds", "2"], "num_folds is 2"),
        (["--resamples", "9"], "num_resamples is 9, expected at least 10"),
    ],
)
def test_what_cannot_be_evaluated_is_said_in_one_line(arguments, message, tmp_path):
    result = CliRunner().invoke(cli, ["evaluate", "flares", "--out", str(tmp_path), *arguments])
    assert result.exit_code == 2
    assert message in result.output
