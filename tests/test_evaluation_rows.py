"""Rows of an evaluation: what is compared, which bars are set, what is marked."""

import dataclasses

import numpy as np
import pytest

from astroray.evaluation.models import Encoded
from astroray.evaluation.protocols import Protocol, Subset
from astroray.evaluation.results import Results
from astroray.evaluation.rows import json_rows, notes, text_table
from astroray.evaluation.scoring import METRICS, Scored


def subset(name, **options):
    return Subset(
        name=name,
        title="of a test",
        inlier_I=np.arange(9),
        outliers=(np.array([9, 10]),),
        contamination=0.1,
        **options,
    )


def scored(auc, recall, spread=0.01):
    step_R = np.linspace(-spread, spread, 101)
    values = dict.fromkeys(METRICS, recall) | {"auc": auc}
    return Scored(
        metrics=values,
        auc_R=auc + step_R,
        recall_R=recall - step_R,
        index_s=0.0,
        query_s=0.0,
        first_score_M=np.zeros(10),
    )


def results_of(numbers, *, name="efigi", seeds=1, score="kth", references=None):
    """Results on a mixed and a plain subset; numbers by encoder: AUC and recall."""
    protocol = Protocol(
        name=name,
        survey="",
        object_ids=tuple("abcdefghijk"),
        subsets=(subset("mixed", is_mixed=True), subset("plain"), subset("R1", has_bar=False)),
        fitted="mixed",
    )
    results = Results(
        protocol,
        encoders=list(numbers),
        scores=[score],
        num_seeds=seeds,
        references=references,
    )
    nothing = np.zeros((0, 0), np.float32)
    for encoder, (auc, recall) in numbers.items():
        results.encoded[encoder, 0] = Encoded(model_id=encoder, embedding_ND=nothing)
        for one in protocol.subsets:
            results.scored[one.name, encoder, score, 0] = scored(auc, recall)
    return results


def find(results, what):
    (row,) = (row for row in json_rows(results) if row["what"] == what)
    return row


@pytest.mark.parametrize(("recall", "ok"), [(0.45, True), (0.35, False)])
def test_a_better_encoder_needs_ten_points_of_recall_on_the_mixed_subset(recall, ok):
    results = results_of({"attcae": (0.8, 0.3), "vit-tiny": (0.9, recall)})
    row = find(results, "efigi mixed vit-tiny kth: recall minus attcae")
    assert (row["goal"], row["ok"]) == (0.1, ok)
    assert row["value"] == pytest.approx(recall - 0.3)


@pytest.mark.parametrize(("auc", "ok"), [(0.8, True), (0.7, False)])
def test_elsewhere_its_auc_must_not_be_significantly_lower(auc, ok):
    results = results_of({"attcae": (0.8, 0.3), "vit-tiny": (auc, 0.3)})
    row = find(results, "efigi plain vit-tiny kth: auc minus attcae")
    assert (row["goal"], row["ok"]) == (0.0, ok)
    assert find(results, "efigi R1 vit-tiny kth: auc minus attcae")["goal"] is None


def test_baselines_other_peers_and_scores_without_certificate_have_no_bar():
    results = results_of({"pixels": (0.7, 0.2), "attcae": (0.8, 0.3), "cae": (0.8, 0.3)})
    assert {row["goal"] for row in json_rows(results)} == {None}
    results = results_of({"attcae": (0.8, 0.3), "vit-tiny": (0.9, 0.5)}, score="lof")
    assert {row["goal"] for row in json_rows(results)} == {None}


@pytest.mark.parametrize(("auc", "ok"), [(0.9, True), (0.8, False)])
def test_attcae_leaves_at_most_six_tenths_of_the_pixels_error_on_simulated_galaxies(auc, ok):
    results = results_of({"pixels": (0.7, 0.2), "attcae": (auc, 0.3)}, name="sim")
    row = find(results, "sim mixed attcae kth: (1 - auc) over that of pixels")
    assert (row["goal"], row["goal_is"], row["ok"]) == (0.6, "at most", ok)
    assert row["value"] == pytest.approx((1 - auc) / 0.3, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "subset", "change", "goal", "ok"),
    [
        ("sim", "mixed", 0.004, 0.005, True),
        ("sim", "mixed", -0.006, 0.005, False),
        ("sim", "plain", -0.2, None, True),
        ("efigi", "plain", -0.009, 0.01, True),
        ("efigi", "plain", -0.02, 0.01, False),
        ("efigi", "R1", -0.02, 0.01, False),
    ],
)
def test_fewer_bits_may_change_an_auc_by_little(name, subset, change, goal, ok):
    numbers = {"attcae": (0.6, 0.3), "vit": (0.8, 0.3), "vit:w8a8o": (0.8 + change, 0.3)}
    results = results_of(numbers, name=name, references={"vit:w8a8o": "vit"})
    row = find(results, f"{name} {subset} vit:w8a8o kth: auc minus vit")
    assert row["value"] == pytest.approx(change)
    assert (row["goal"], row["ok"]) == (goal, ok)
    against = {one["encoder"] for one in json_rows(results) if one["peer"] == "vit"}
    assert against == {"vit:w8a8o"}
    goals = [r["goal"] for r in json_rows(results) if r["encoder"] == "vit:w8a8o"]
    assert set(goals) <= {None, 0.005, 0.01}  # it is no better encoder than its reference


def test_a_change_whose_interval_holds_0_is_none():
    numbers = {"vit": (0.8, 0.3), "vit:w8a8o": (0.75, 0.3)}
    results = results_of(numbers, references={"vit:w8a8o": "vit"})
    results.scored["plain", "vit:w8a8o", "kth", 0] = scored(0.75, 0.3, spread=0.2)
    row = find(results, "efigi plain vit:w8a8o kth: auc minus vit")
    assert row["low"] < 0 < row["high"]
    assert row["ok"]


def test_differences_are_paired_so_that_common_luck_cancels():
    results = results_of({"pixels": (0.7, 0.2), "pca": (0.6, 0.2)})
    row = find(results, "efigi plain pca kth: auc minus pixels")
    assert [row[key] for key in ("value", "low", "high")] == pytest.approx([-0.1] * 3)
    alone = find(results, "efigi plain pca kth: auc")
    assert alone["low"] < alone["value"] < alone["high"]


def test_a_fit_that_ended_early_says_after_how_many_passes():
    results = results_of({"pixels": (0.7, 0.2), "cae": (0.6, 0.2)})
    encoded = results.encoded["cae", 0]
    results.encoded["cae", 0] = dataclasses.replace(encoded, num_passes=1, is_whole=False)
    note = "* cae is not complete: its fits made 1 of 60 passes in the time of --budget"
    assert note in notes(results)


def test_missing_seeds_are_marked_and_compared_by_those_that_are_there():
    results = results_of({"pixels": (0.7, 0.2), "cae": (0.6, 0.2)}, seeds=2)
    results.reasons["cae", ""] = "the budget was spent"
    row = find(results, "efigi plain cae kth: recall")
    assert (row["complete"], row["reason"]) == (False, "1 of 2 seeds: the budget was spent")
    assert "* cae is not complete: 1 of 2 seeds: the budget was spent" in notes(results)
    assert "cae*" in text_table(results)


def test_only_what_no_interval_sets_apart_is_among_the_best_of_a_subset():
    results = results_of({"attcae": (0.8, 0.3), "pca": (0.8, 0.42), "rings": (0.9, 0.45)})
    assert results.leaders("plain") == (("rings", "kth"),)  # their luck is common and cancels
    results.scored["plain", "pca", "kth", 0] = scored(0.8, 0.42, spread=0.1)
    assert results.leaders("plain") == (("rings", "kth"), ("pca", "kth"))
    assert results.leaders("mixed") == (("rings", "kth"),)
    results.scored["plain", "pca", "kth", 0] = scored(0.8, 0.6)
    assert results.leaders("plain") == (("pca", "kth"),)
    assert results.best_encoder() == "rings"  # of the subset of the fit


def test_the_table_is_aligned():
    table = text_table(results_of({"pixels": (0.7, 0.2), "brightness": (0.6, 0.25)}))
    heads, *rows = table.split("\n\n")[0].splitlines()[1:]
    assert all(row.index("0.") == rows[0].index("0.") for row in rows)
    assert heads.split()[:4] == ["encoder", "score", "AUC", "recall"]
