"""Skills of forecasts against scikit-learn's, and what a comparison may claim."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score, roc_auc_score

from astroray.forecast.calibration import Calibration
from astroray.forecast.comparison import Judged, calibrate, compare
from astroray.forecast.skill import (
    Threshold,
    measure_skill,
    rank_skill,
    resample_stars,
    within_star_aucs,
    within_star_medians,
)


def forecasts(num_stars=40, num_windows=200, *, skill=1.0, within=0.0, seed=0):
    """Scores, labels and stars: `skill` tells the stars apart, `within` the windows of one."""
    random = np.random.default_rng(seed)
    star_W = np.repeat(np.arange(num_stars), num_windows)
    rate_S, hidden_W = random.normal(0, 1, num_stars), random.normal(0, 1, len(star_W))
    logit_W = -2 + rate_S[star_W] + hidden_W
    label_W = random.random(len(star_W)) < 1 / (1 + np.exp(-logit_W))
    noise_W = random.normal(0, 0.3, len(star_W))
    return skill * rate_S[star_W] + within * hidden_W + noise_W, label_W, star_W


def judged(score_W, label_W):
    return calibrate(score_W, label_W, score_W)


@pytest.mark.parametrize("rounded", [False, True], ids=["distinct", "with ties"])
def test_auc_and_auprc_are_those_of_scikit_learn(rounded):
    score_W, label_W, star_W = forecasts()
    score_W = score_W.round(1) if rounded else score_W
    one = np.ones((1, star_W.max() + 1))
    auc_R, auprc_R = rank_skill(score_W, label_W, star_W, one, bins=None)
    assert auc_R[0] == pytest.approx(roc_auc_score(label_W, score_W), abs=1e-12)
    assert auprc_R[0] == pytest.approx(average_precision_score(label_W, score_W), abs=1e-12)


def test_a_resample_is_the_same_as_repeating_the_windows_of_its_stars():
    score_W, label_W, star_W = forecasts(num_stars=12)
    weight_RS = resample_stars(12, 3, seed=1)
    auc_R, auprc_R = rank_skill(score_W, label_W, star_W, weight_RS, bins=512)
    for weight_S, auc, auprc in zip(weight_RS, auc_R, auprc_R, strict=True):
        repeat_W = weight_S[star_W].astype(int)
        label, score = np.repeat(label_W, repeat_W), np.repeat(score_W, repeat_W)
        assert auc == pytest.approx(roc_auc_score(label, score), abs=5e-4)
        assert auprc == pytest.approx(average_precision_score(label, score), abs=2e-3)


def test_thresholds_are_the_best_on_the_windows_they_are_chosen_on():
    score_W, label_W, _ = forecasts(num_stars=5, num_windows=60)
    chosen = Threshold.choose(score_W, label_W)
    f1 = {value: f1_score(label_W, score_W >= value) for value in score_W}
    assert f1[chosen.of_f1] == max(f1.values())
    tss = {
        value: (score_W >= value)[label_W].mean() - (score_W >= value)[~label_W].mean()
        for value in score_W
    }
    assert tss[chosen.of_tss] == max(tss.values())


def test_skills_are_those_of_their_definitions():
    score_W, label_W, star_W = forecasts()
    found = judged(score_W, label_W)
    threshold = Threshold(of_tss=found.of_tss_W, of_f1=found.of_f1_W)
    skill = measure_skill(found.probability_W, label_W, star_W, threshold)
    is_W = found.probability_W >= found.of_f1_W
    assert skill.f1 == pytest.approx(f1_score(label_W, is_W))
    assert skill.brier == pytest.approx(brier_score_loss(label_W, found.probability_W))
    hits, alarms = (is_W & label_W).sum(), (is_W & ~label_W).sum()
    misses, rest = (~is_W & label_W).sum(), (~is_W & ~label_W).sum()
    above = 2 * (hits * rest - alarms * misses)
    below = (hits + misses) * (misses + rest) + (hits + alarms) * (alarms + rest)
    assert skill.hss == pytest.approx(above / below)
    assert skill.balanced_accuracy == pytest.approx((1 + skill.tss) / 2)
    assert skill.base_rate == pytest.approx(label_W.mean())


def test_calibrated_forecasts_are_as_often_right_as_they_say():
    score_W, label_W, star_W = forecasts(num_stars=200)
    found = judged(3 * score_W + 7, label_W)
    threshold = Threshold(of_tss=found.of_tss_W, of_f1=found.of_f1_W)
    skill = measure_skill(found.probability_W, label_W, star_W, threshold)
    for probability, share, number in skill.reliability:
        assert share == pytest.approx(probability, abs=0.03)
        assert number == len(label_W) / 10


def test_the_calibration_is_the_logistic_curve_of_the_largest_likelihood():
    score_W, label_W, _ = forecasts()
    found = Calibration.fit(score_W, label_W)
    expected = LogisticRegression(C=1e8, tol=1e-8).fit(score_W[:, None], label_W)
    assert found.slope == pytest.approx(expected.coef_[0, 0], rel=0.01)
    assert found.intercept == pytest.approx(expected.intercept_[0], rel=0.01)


def test_scores_that_part_the_windows_perfectly_give_no_certainty():
    label_W = np.arange(20) >= 10
    found = Calibration.fit(np.arange(20.0), label_W).probability(np.array([-100.0, 100.0]))
    assert np.isfinite(found).all()
    found = Calibration.fit(np.where(label_W, 5.0, -5.0), label_W).probability(
        np.array([-5.0, 5.0])
    )
    assert found == pytest.approx([1 / 12, 11 / 12], abs=0.01)


@pytest.mark.parametrize("off", [0.0, 0.02])
def test_scores_in_two_heaps_are_calibrated_and_keep_their_order(off):
    """As a network gives them that is sure: whole Newton steps overshoot on them."""
    random = np.random.default_rng(3)
    label_W = random.random(4000) < 0.13
    upper_W = label_W ^ (random.random(4000) < off)
    score_W = np.where(upper_W, 3.0, -3.0) + random.normal(0, 0.1, 4000)
    found = Calibration.fit(score_W, label_W)
    expected = LogisticRegression(C=1e8, tol=1e-8).fit(score_W[:, None], label_W)
    if off:
        assert found.slope == pytest.approx(expected.coef_[0, 0], rel=0.02)
    assert found.probability(score_W).mean() == pytest.approx(label_W.mean(), abs=0.002)
    assert len(np.unique(found.probability(score_W))) == 4000


def test_knowing_which_star_flares_is_no_skill_within_stars():
    for within, low, high in ((0.0, 0.47, 0.53), (2.0, 0.65, 0.9)):
        score_W, label_W, star_W = forecasts(within=within)
        found = judged(score_W, label_W)
        threshold = Threshold(of_tss=found.of_tss_W, of_f1=found.of_f1_W)
        skill = measure_skill(found.probability_W, label_W, star_W, threshold)
        assert skill.auc > 0.65
        assert low < skill.within_star_auc < high


def test_the_median_within_stars_is_resampled_by_repeating_stars():
    score_W, label_W, star_W = forecasts(num_stars=9, within=1.0)
    auc_S = within_star_aucs(score_W, label_W, star_W)
    assert len(auc_S) == 9
    weight_RS = resample_stars(9, 4, seed=2)
    weight_RS[3] = 0
    found_R = within_star_medians(score_W, label_W, star_W, weight_RS)
    for weight_S, found in zip(weight_RS[:3], found_R, strict=False):
        drawn = [auc_S[star] for star, count in enumerate(weight_S) for _ in range(int(count))]
        assert found == pytest.approx(np.median(drawn))
    assert np.isnan(found_R[3])


def test_no_star_has_an_auc_of_its_own_where_flares_are_too_few():
    star_W = np.repeat(np.arange(3), 20)
    label_W = np.arange(60) % 20 < 9
    found_R = within_star_medians(np.arange(60.0), label_W, star_W, np.ones((2, 3)))
    assert np.isnan(found_R).all()


def test_a_real_gain_has_an_interval_above_zero_and_noise_has_none():
    score_W, label_W, star_W = forecasts(num_stars=150)
    noisier_W = score_W + np.random.default_rng(9).normal(0, 1, len(score_W))
    again_W = score_W + np.random.default_rng(8).normal(0, 1e-3, len(score_W))
    found = compare(
        {
            name: judged(value_W, label_W)
            for name, value_W in (("model", score_W), ("noisier", noisier_W), ("again", again_W))
        },
        label_W,
        star_W,
        track="made",
        split="all",
        candidates=["model"],
        num_resamples=200,
    )
    for metric in ("auc", "auprc"):
        assert found.differences["model", "noisier", metric].low > 0
        same = found.differences["model", "again", metric]
        assert same.low < 0 < same.high
        whole = found.metrics["model", metric]
        assert whole.low < whole.value < whole.high


def test_folds_are_joined_with_the_thresholds_of_each():
    score_W, label_W, _ = forecasts()
    half = len(score_W) // 2
    parts = [judged(score_W[part], label_W[part]) for part in (slice(half), slice(half, None))]
    joined = Judged.join(parts)
    assert len(joined.probability_W) == len(score_W)
    assert set(joined.of_tss_W) == {parts[0].of_tss_W[0], parts[1].of_tss_W[0]}
