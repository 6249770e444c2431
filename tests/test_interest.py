"""What labels say of other objects, and which objects are shown next."""

import numpy as np
import pytest
from scipy.stats import rankdata, zscore
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel

from astroray.labelling.interest import NOISE, WIDTH, Learnt, Reranker
from astroray.labelling.label_queue import next_objects, round_size


def make_survey(seed=0, num=600, dim=8):
    """A survey with two far families of outliers, of which one interests; rows 0..39 and 40..79."""
    random = np.random.default_rng(seed)
    embedding_ND = random.normal(size=(num, dim))
    embedding_ND[:40, 0] += 6
    embedding_ND[40:80, 1] += 6
    score_N = np.linalg.norm(embedding_ND, axis=1)
    return embedding_ND.astype(np.float32), score_N


def test_without_a_label_the_outlier_ranking_is_all_there_is():
    embedding_ND, score_N = make_survey()
    learnt = Reranker(embedding_ND, score_N).learn(np.zeros(0, np.int64), np.zeros(0))
    assert np.array_equal(np.argsort(-learnt.value_N), np.argsort(-score_N))
    assert (learnt.doubt_of(np.arange(600)) == 1).all()


def test_a_few_labels_bring_up_the_family_that_interests():
    embedding_ND, score_N = make_survey()
    reranker = Reranker(embedding_ND, score_N)
    row_M = np.array([0, 1, 2, 40, 41, 42])
    learnt = reranker.learn(row_M, np.array([1.0, 1, 1, 0, 0, 0]))
    best = np.argsort(-learnt.value_N)[:40]
    assert np.isin(best, np.arange(40)).mean() > 0.9
    assert np.isin(np.argsort(-score_N)[:40], np.arange(40)).mean() < 0.7


def test_doubt_is_small_where_there_are_labels_and_large_far_away():
    embedding_ND, score_N = make_survey()
    learnt = Reranker(embedding_ND, score_N).learn(np.arange(30), np.ones(30))
    doubt_N = learnt.doubt_of(np.arange(600))
    assert doubt_N[:30].max() < doubt_N[40:80].min()
    assert (doubt_N >= 0).all()
    assert (doubt_N <= 1.01).all()


def test_expectation_and_doubt_are_those_of_a_gaussian_process():
    embedding_ND, score_N = make_survey(num=200)
    row_M = np.arange(0, 90, 3)
    interest_M = np.tile([1.0, 0.0, 0.5], 10)
    kernel = ConstantKernel(1.0, "fixed") * RBF(WIDTH * np.median(score_N), "fixed")
    process = GaussianProcessRegressor(kernel, alpha=NOISE**2)
    process.fit(embedding_ND[row_M], interest_M - interest_M.mean())
    mean_N, doubt_N = process.predict(embedding_ND, return_std=True)

    reranker = Reranker(embedding_ND, score_N)
    ridge = reranker._fit_ridge(row_M, interest_M - interest_M.mean())
    found_N = reranker._kernel(embedding_ND, ridge.landmark_LD) @ ridge.weight_L
    np.testing.assert_allclose(found_N, mean_N, atol=2e-3)
    learnt = reranker.learn(row_M, interest_M)
    np.testing.assert_allclose(learnt.doubt_of(np.arange(200)), doubt_N, atol=2e-3)


def test_the_head_is_the_direction_between_the_means_in_the_survey_s_covariance():
    embedding_ND, score_N = make_survey()
    embedding_ND[:, 2] = 3 * embedding_ND[:, 2] + embedding_ND[:, 3]
    row_M, interest_M = np.arange(50, 90), np.linspace(0, 1, 40) ** 2
    labelled_MD = embedding_ND[row_M].astype(float)
    covariance_DD = np.cov(embedding_ND.astype(float).T)
    ball_DD = np.eye(8) * covariance_DD.trace() / 8
    apart_D = np.average(labelled_MD, axis=0, weights=interest_M)
    apart_D -= np.average(labelled_MD, axis=0, weights=1 - interest_M)
    expected_D = np.linalg.solve(covariance_DD + 0.1 * ball_DD, apart_D)

    reranker = Reranker(embedding_ND, score_N)
    np.testing.assert_allclose(reranker._direction(row_M, interest_M), expected_D, rtol=1e-6)
    for all_of_a_kind in (np.zeros(40), np.ones(40)):
        assert not reranker._direction(row_M, all_of_a_kind).any()


def test_three_opinions_are_added_the_outlier_ranking_weakly():
    embedding_ND, score_N = make_survey()
    score_N[7] = np.nan
    row_M, interest_M = np.array([3, 50, 60, 200]), np.array([0.75, 0.0, 0.125, 0.0])
    reranker = Reranker(embedding_ND, score_N)
    ridge = reranker._fit_ridge(row_M, interest_M - interest_M.mean())
    opinions = [
        embedding_ND @ reranker._direction(row_M, interest_M),
        reranker._kernel(embedding_ND, ridge.landmark_LD) @ ridge.weight_L,
        rankdata(np.nan_to_num(score_N, nan=-1.0)) - 1,  # 0: that without a score
    ]
    expected_N = sum(w * zscore(x) for w, x in zip((1, 1, 0.3), opinions, strict=True))
    found_N = reranker.learn(row_M, interest_M).value_N
    np.testing.assert_allclose(found_N, expected_N, atol=1e-5)


def test_more_labels_than_landmarks_say_about_the_same(monkeypatch):
    embedding_ND, score_N = make_survey()
    row_M = np.arange(0, 600, 2)
    interest_M = (row_M < 40).astype(float)
    exact = Reranker(embedding_ND, score_N).learn(row_M, interest_M)
    monkeypatch.setattr("astroray.labelling.interest.NUM_LANDMARKS", 100)
    some = Reranker(embedding_ND, score_N).learn(row_M, interest_M)
    assert np.corrcoef(some.value_N, exact.value_N)[0, 1] > 0.98
    assert set(np.argsort(-some.value_N)[:40]) == set(range(40))
    fewer_N, all_N = some.doubt_of(np.arange(600)), exact.doubt_of(np.arange(600))
    assert (fewer_N >= all_N - 0.05).all()  # fewer landmarks never know more


def test_objects_that_are_alike_may_all_be_labelled():
    embedding_ND, score_N = make_survey()
    embedding_ND[:30] = embedding_ND[0]
    learnt = Reranker(embedding_ND, score_N).learn(np.arange(60), (np.arange(60) < 30) * 1.0)
    assert np.isfinite(learnt.value_N).all()
    assert learnt.doubt_of(np.arange(30)).max() < 0.15


def test_the_same_labels_give_the_same_order_and_blocks_of_rows_change_nothing(monkeypatch):
    embedding_ND, score_N = make_survey()
    row_M, interest_M = np.arange(0, 90, 3), np.tile([1.0, 0.0, 0.5], 10)
    first = Reranker(embedding_ND, score_N).learn(row_M, interest_M)
    monkeypatch.setattr("astroray.labelling.interest.ROWS_AT_ONCE", 100)
    second = Reranker(embedding_ND, score_N).learn(row_M, interest_M)
    np.testing.assert_allclose(second.value_N, first.value_N, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("num", [1, 2, 5])
def test_a_tiny_or_a_flat_survey_is_learnt_from_without_a_fault(num):
    embedding_ND = np.ones((num, 3), np.float32)
    reranker = Reranker(embedding_ND, np.full(num, np.nan))
    learnt = reranker.learn(np.array([0]), np.array([1.0]))
    assert np.isfinite(learnt.value_N).all()


def test_the_first_batch_is_the_certified_list_and_some_at_random():
    certified_N = np.arange(100) < 10
    items = next_objects(None, certified_N, np.zeros(100, bool), size=20, seed=1)
    why = [item.why for item in items]
    assert [item.row for item in items if item.why != "audit"] == list(range(19))
    assert why.count("audit") == 1
    assert why.count("certified") == 10
    assert why[-1] != "audit"
    assert len({item.row for item in items}) == 20


def test_later_batches_hold_the_best_the_doubtful_and_some_at_random_and_nothing_twice():
    learnt = Learnt(value_N=np.arange(200.0), doubt_of=np.linspace(1, 0, 200).__getitem__)
    is_done_N = np.arange(200) >= 190
    items = next_objects(learnt, np.zeros(200, bool), is_done_N, size=20, seed=1)
    rows = {why: [x.row for x in items if x.why == why] for why in ("learnt", "uncertain", "audit")}
    assert rows["learnt"] == list(range(189, 172, -1))
    assert rows["uncertain"] == [153, 154]  # of the next 20 those of largest doubt
    assert len(rows["audit"]) == 1
    assert [at for at, item in enumerate(items) if item.why != "learnt"] == [4, 9, 15]  # spread
    assert len({item.row for item in items}) == 20
    assert max(item.row for item in items) < 190


def test_small_rounds_have_their_share_of_doubtful_and_random_objects():
    learnt = Learnt(value_N=np.arange(500.0), doubt_of=np.linspace(1, 0, 500).__getitem__)
    is_done_N = np.zeros(500, bool)
    why, sizes = [], []
    while len(why) < 100:
        sizes.append(round_size(500, len(why)))
        items = next_objects(learnt, is_done_N, is_done_N, size=sizes[-1], seed=len(why))
        why += [item.why for item in items]
        is_done_N[[item.row for item in items]] = True
    assert sizes[:3] == [10, 5, 5]
    assert (why.count("uncertain"), why.count("audit")) == (10, 5)
    assert [round_size(1_000_000, num) for num in (0, 50)] == [20, 20], "ordering takes long"
    assert round_size(999_999, 0) == 10


@pytest.mark.parametrize("left", [0, 1, 3])
def test_the_last_objects_are_shown_and_then_none(left):
    learnt = Learnt(value_N=np.zeros(9), doubt_of=np.ones(9).__getitem__)
    items = next_objects(learnt, np.ones(9, bool), np.arange(9) >= left, size=20, seed=0)
    assert sorted(item.row for item in items) == list(range(left))
