"""The benchmark of labels: what is counted is what the made person was shown."""

import numpy as np
import pytest

from benchmarks.labels import know_all_others, look
from benchmarks.labels_needed import Judged, compare_needed, judge, needed
from benchmarks.rows import MeasurementError


def made(*, separation, num=240, seed=0):
    """Objects of which one in twelve belongs to a family of its own."""
    random = np.random.default_rng(seed)
    is_good_N = np.arange(num) % 12 == 0
    embedding_ND = random.normal(size=(num, 6)).astype(np.float32)
    embedding_ND[is_good_N, 0] += separation
    return embedding_ND, is_good_N, random.random(num)


def test_a_family_is_found_by_labels_and_only_with_them():
    with_labels, without = look(*made(separation=6.0), seed=0)
    assert with_labels == 20 > without


def test_all_other_labels_place_a_family_and_say_nothing_where_there_is_none():
    assert know_all_others(*made(separation=6.0), seed=0) == 20
    assert know_all_others(*made(separation=0.0), seed=0) < 16


def test_labels_are_needed_until_the_auc_stays_at_the_goal():
    counts_C = np.array([20, 40, 60, 80])
    assert needed(np.array([0.5, 0.95, 0.8, 0.9]), counts_C) == 80
    assert needed(np.array([0.5, 0.95, 0.9, 0.91]), counts_C) == 40
    assert needed(np.array([0.9, 0.9, 0.9, 0.9]), counts_C) == 20
    assert needed(np.array([0.9, 0.9, 0.9, 0.89]), counts_C) is None


def test_a_draw_judges_objects_that_were_never_shown():
    draw = judge(*made(separation=6.0), seed=1)
    assert draw.num_labels_C.tolist() == [20, 40, 60, 80, 100, 120]
    assert draw.learnt_C[-1] > 0.95
    assert draw.network_C[-1] > 0.9


def test_the_ratio_is_of_labels_and_a_goal_that_is_missed_is_said():
    def draws(ours, theirs):
        counts_C = np.array([20, 40, 60])
        one = Judged(num_labels_C=counts_C, learnt_C=np.array(ours), network_C=np.array(theirs))
        return [one, one]

    fields = compare_needed(draws([0.8, 0.92, 0.95], [0.5, 0.6, 0.91]))
    assert (fields["value"], fields["low"], fields["high"]) == (1.5, 1.5, 1.5)
    fields = compare_needed(draws([0.9, 0.92, 0.95], [0.5, 0.6, 0.7]))
    assert fields["facts"]["network_never_below"] == 60.0
    with pytest.raises(MeasurementError, match=r"not reached with 60 labels: at most 0\.800"):
        compare_needed(draws([0.8, 0.8, 0.8], [0.5, 0.6, 0.7]))
