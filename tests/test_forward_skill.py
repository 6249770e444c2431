"""Skill within stars with a chance level of .5: against plain loops, and where nothing is known."""

import numpy as np
import pytest

from astroray.forecast.forward_skill import forward_auc, forward_terms
from astroray.forecast.simulated_stars import SimulatedStars, flare_chances, simulate_windows
from astroray.forecast.skill import within_star_aucs


def independent_flares(num_stars=1000, num_windows=100, seed=0):
    """Answers of stars that flare at random, each at its own rate, with star and chance."""
    random = np.random.default_rng(seed)
    chance_S = random.uniform(0.1, 0.3, num_stars)
    star_W = np.repeat(np.arange(num_stars), num_windows)
    label_W = random.random(len(star_W)) < chance_S[star_W]
    return label_W, star_W, chance_S[star_W]


def causal_rate(label_W, num_windows=100):
    """Share of the windows before each that flared, after a long record at the right rate."""
    label_SV = label_W.reshape(-1, num_windows)
    before_SV = np.cumsum(label_SV, axis=1) - label_SV
    return ((before_SV + 40) / (np.arange(num_windows) + 200)).ravel()


def whole(score_W, label_W, star_W, chance_W):
    gain_S, information_S = forward_terms(score_W, label_W, star_W, chance_W)
    return forward_auc(gain_S, information_S, np.ones((1, len(gain_S))))[0]


def test_a_rate_ranks_below_chance_within_stars_and_at_chance_against_its_own_past():
    label_W, star_W, chance_W = independent_flares()
    score_W = causal_rate(label_W)
    aucs = list(within_star_aucs(score_W, label_W, star_W).values())
    assert np.median(aucs) < 0.45
    assert whole(score_W, label_W, star_W, chance_W) == pytest.approx(0.5, abs=0.01)


def test_the_bias_of_the_auc_within_stars_shrinks_with_their_number_of_flares():
    medians = []
    for num_windows in (80, 320, 1280):
        label_W, star_W, _ = independent_flares(num_stars=200, num_windows=num_windows)
        score_W = causal_rate(label_W, num_windows)
        medians.append(np.median(list(within_star_aucs(score_W, label_W, star_W).values())))
    assert medians[0] < medians[1] < medians[2] < 0.5


def test_a_score_without_memory_has_the_same_auc_both_ways():
    label_W, star_W, chance_W = independent_flares()
    score_W = label_W + np.random.default_rng(1).normal(0, 1, len(label_W))
    expected = np.mean(list(within_star_aucs(score_W, label_W, star_W).values()))
    assert expected > 0.7
    assert whole(score_W, label_W, star_W, chance_W) == pytest.approx(expected, abs=0.01)


def test_a_forecast_that_sees_the_next_flare_is_told_from_one_that_does_not():
    label_W, star_W, chance_W = independent_flares()
    score_W = causal_rate(label_W) + 0.02 * label_W
    assert whole(score_W, label_W, star_W, chance_W) > 0.55


def test_the_terms_are_those_of_plain_loops_over_windows():
    label_W, star_W, chance_W = independent_flares(num_stars=3, num_windows=20)
    score_W = np.random.default_rng(2).integers(0, 5, len(label_W)).astype(float)
    gain_S, information_S = forward_terms(score_W, label_W, star_W, chance_W)
    for star in range(3):
        at = np.flatnonzero(star_W == star)
        gain = 0.0
        for now, window in enumerate(at):
            earlier = score_W[at[:now]]
            below = [(s < score_W[window]) + (s == score_W[window]) / 2 for s in earlier]
            rank = sum(below) / now if now else 0.5
            gain += (rank - 0.5) * (label_W[window] - chance_W[window])
        assert gain_S[star] == pytest.approx(gain, abs=1e-12)
        p = chance_W[at[0]]
        assert information_S[star] == pytest.approx(20 * p * (1 - p))


def test_stars_count_by_their_weight_and_none_gives_nan():
    gain_S, information_S = np.array([1.0, -2.0]), np.array([10.0, 10.0])
    found_R = forward_auc(gain_S, information_S, np.array([[1.0, 0.0], [1.0, 2.0], [0.0, 0.0]]))
    assert found_R[:2] == pytest.approx([0.6, 0.4])
    assert np.isnan(found_R[2])


def test_simulated_stars_flare_as_often_as_their_chances_say():
    stars = SimulatedStars(has_precursor=False, num_stars=40, days=60.0, recorded_days=10.0)
    windows = simulate_windows(stars)
    chance_W = flare_chances(stars)[windows.star_W]
    spread = np.sqrt((chance_W * (1 - chance_W)).sum())
    assert abs(windows.label_W.sum() - chance_W.sum()) < 3 * spread
    share_S = np.bincount(windows.star_W, windows.label_W) / np.bincount(windows.star_W)
    assert np.corrcoef(share_S, flare_chances(stars))[0, 1] > 0.7
