"""Simulated stars: a precursor before each flare and nowhere else, and the track of them."""

import dataclasses
import json

import numpy as np
import pytest
from click.testing import CliRunner

from astroray.cli import cli
from astroray.forecast import baselines, evaluate
from astroray.forecast.evaluate import VARIANTS
from astroray.forecast.fit import FitPlan
from astroray.forecast.simulated_stars import SimulatedStars, simulate_windows

FEW = {"num_stars": 12, "days": 60.0, "recorded_days": 300.0}


@pytest.fixture(scope="module")
def made():
    """Windows of the same stars with and without precursors."""
    return [simulate_windows(SimulatedStars(has_precursor=has, **FEW)) for has in (True, False)]


def test_precursors_change_the_flux_and_nothing_else(made):
    with_them, without = made
    for name in ("end_W", "label_W", "history_WMC", "statistics_WN"):
        assert np.array_equal(getattr(with_them, name), getattr(without, name), equal_nan=True)
    assert not np.array_equal(with_them.flux_WTC, without.flux_WTC)


def test_only_windows_near_a_flare_tremble_at_their_end(made):
    with_them, without = made
    apart_W = abs(with_them.flux_WTC[:, -8:, 1] - without.flux_WTC[:, -8:, 1]).mean(axis=1)
    label_W = without.label_W
    assert np.median(apart_W[label_W]) > 5 * np.median(apart_W[~label_W])


def test_flares_before_the_light_curve_are_on_record(made):
    first_W = np.append(True, np.diff(made[0].star_W) > 0)
    num_known_W = np.expm1(made[0].statistics_WN[first_W, 0])
    assert num_known_W.min() > 5
    assert made[0].end_W.min() > 10


@pytest.fixture
def quick(monkeypatch):
    """Few stars and fits of one pass; gives the plans of those fits."""
    made, plans = FitPlan, []

    def stars(**changes):
        return SimulatedStars(**{**changes, **FEW})

    def plan(**changes):
        wanted = {"method": "adapter", **changes, "num_passes": 1}
        plans.append(made(**{**wanted, "pretrain_passes": min(1, wanted["pretrain_passes"])}))
        return plans[-1]

    monkeypatch.setattr(evaluate, "SimulatedStars", stars)
    monkeypatch.setattr(baselines, "NUM_TREES", 5)
    monkeypatch.setattr(evaluate, "FitPlan", plan)
    return plans


def evaluated(track, out):
    """Rows of a track by what they say."""
    arguments = ["evaluate", "flares", "--track", track, "--resamples", "10", "--json"]
    result = CliRunner().invoke(cli, [*arguments, "--out", str(out)])
    assert result.exit_code == 0, result.output
    return {row["what"]: row for row in json.loads(result.output.splitlines()[-1])["rows"]}


def test_the_track_of_simulated_stars_sets_its_bars_on_skill_within_stars(tmp_path, quick):
    what = evaluated("simulated", tmp_path)
    goals = {
        ("with precursors", "within_star_auc"): [0.7, 1.0],
        ("with precursors", "forward_auc"): [0.7, 1.0],
        ("without precursors", "within_star_auc"): None,
        ("without precursors", "forward_auc"): [0.47, 0.53],
    }
    for (split, metric), goal in goals.items():
        row = what[f"simulated {split} astroray (LoRA): {metric}"]
        assert row["goal"] == goal
        if row["value"] is not None:
            assert row["low"] <= row["value"] <= row["high"]
            assert goal is None or row["ok"] == (goal[0] <= row["value"] <= goal[1])
        assert what[f"simulated {split} rate of the star: auc"]["goal"] is None
        assert what[f"simulated {split} rate of the star: forward_auc"]["goal"] is None
        # A constant of each star: it ranks stars, and within one it knows nothing, to the bit.
        assert what[f"simulated {split} true rate of the star: forward_auc"]["value"] == 0.5
        assert what[f"simulated {split} true rate of the star: auc"]["value"] > 0.5


def test_the_track_of_methods_changes_one_thing_a_row_and_has_no_bar(tmp_path, quick):
    what = evaluated("methods", tmp_path)
    for split, variants in VARIANTS.items():
        for name in variants:
            row = what[f"methods {split} {name}: within_star_auc"]
            assert row["goal"] is None
            assert what[f"methods {split} {name}: auc"]["low"] is not None
    usual = quick[0]
    plans = dict(zip((name for part in VARIANTS.values() for name in part), quick, strict=False))
    assert len(quick) == sum(len(part) for part in VARIANTS.values())
    assert plans["full fine-tuning"] == dataclasses.replace(usual, method="full")
    scratch = dataclasses.replace(usual, method="full", pretrain_passes=0)
    assert plans["from scratch"] == scratch
    assert plans["no prior"] == dataclasses.replace(usual, use_prior=False)
    for name in ("first difference", "history", "statistics"):
        network = dataclasses.replace(
            usual.network, **{f"use_{name.removeprefix('first ')}": False}
        )
        assert plans[f"no {name}"] == dataclasses.replace(usual, network=network)
