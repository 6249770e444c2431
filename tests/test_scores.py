"""Scores against their definitions and outside implementations, and what may not change them."""

import re
import sys

import numpy as np
import pytest

from astroray import scores
from astroray.errors import BackendError, ConfigError, DataError
from astroray.neighbors.search import Neighbors, SearchConfig, search
from astroray.scores import SCORES, score_objects
from astroray.scores.gaussian import LARGEST_GAUSSIAN, Gaussian

ORDERLESS = sorted(set(SCORES) - {"forest"})


def cloud(num: int, dim: int = 6, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(num, dim)) * np.geomspace(0.1, 10, dim)).astype(np.float32)


def errors_of(embedding_ND: np.ndarray) -> np.ndarray:
    """Stands for the errors of an autoencoder."""
    return np.linalg.norm(embedding_ND.astype(np.float64), axis=1)


def score(name: str, embedding_ND: np.ndarray, k: int = 5, **options: int) -> np.ndarray:
    error_N = errors_of(embedding_ND)
    return score_objects(name, embedding_ND, k=k, reconstruction_N=error_N, **options)


def further_scores(embedding_ND: np.ndarray, found: Neighbors) -> dict[str, np.ndarray]:
    return scores.further_scores(embedding_ND, found, Gaussian.of(embedding_ND))


def found_in(embedding_ND: np.ndarray, k: int = 5) -> Neighbors:
    names = [f"{row:05d}" for row in range(len(embedding_ND))]
    return search(embedding_ND, names, SearchConfig(k=k))


@pytest.mark.parametrize("name", SCORES)
def test_the_one_far_object_has_the_highest_score(name):
    embedding_ND = cloud(200)
    embedding_ND[77] = [1, -2, 5, 9, -20, 60]
    score_N = score(name, embedding_ND)
    assert score_N.dtype == np.float64
    assert score_N.shape == (200,)
    assert score_N.argmax() == 77
    assert (score_N == score_N.max()).sum() == 1


@pytest.mark.parametrize("name", SCORES)
def test_every_score_names_its_paper(name):
    assert re.search(r"[A-Z]\w+ .*\d{4}\)", SCORES[name].__doc__ or "")


def test_distances_are_those_to_the_other_objects():
    embedding_ND = cloud(60)
    difference_NND = embedding_ND[:, None].astype(np.float64) - embedding_ND
    nearest_NN = np.sort(np.sqrt((difference_NND**2).sum(axis=2)), axis=1)[:, 1:]
    np.testing.assert_allclose(score("kth", embedding_ND), nearest_NN[:, 4], rtol=1e-13)
    np.testing.assert_allclose(score("mean", embedding_ND), nearest_NN[:, :5].mean(1), rtol=1e-13)


def test_smoothing_moves_an_object_to_the_mean_of_its_neighbors():
    embedding_ND = np.array([[0, 0], [4, 0], [4, 2], [4, -2]], np.float32)
    moved_N = score("smoothed", embedding_ND, k=2)
    # neighbors of the rows: 1 and 2, at a tie the first; 2 and 3; 1 and 0 or 3, twice
    np.testing.assert_allclose(moved_N[:2], [np.hypot(4, 1), 0.0])


def test_lof_and_gaussian_equal_those_of_scikit_learn():
    from sklearn.covariance import LedoitWolf
    from sklearn.neighbors import LocalOutlierFactor

    embedding_ND = cloud(300)
    lof = LocalOutlierFactor(n_neighbors=5).fit(embedding_ND.astype(np.float64))
    np.testing.assert_allclose(score("lof", embedding_ND), -lof.negative_outlier_factor_, rtol=1e-7)
    for few_ND in (embedding_ND, embedding_ND[:4], embedding_ND[:, :1]):
        square_N = LedoitWolf().fit(few_ND.astype(np.float64)).mahalanobis(few_ND)
        np.testing.assert_allclose(score("gaussian", few_ND) ** 2, square_N, rtol=1e-9)


def test_leaving_an_object_out_of_its_own_gaussian_keeps_the_order():
    from sklearn.covariance import LedoitWolf

    embedding_ND = cloud(40).astype(np.float64)
    share = LedoitWolf().fit(embedding_ND).shrinkage_
    scale = np.cov(embedding_ND.T).trace() / 6
    left_out = []
    for row, vector_D in enumerate(embedding_ND):
        others_ND = np.delete(embedding_ND, row, axis=0)
        covariance_DD = np.cov(others_ND.T, bias=True)
        shrunk_DD = (1 - share) * covariance_DD + share * scale * np.eye(6)
        away_D = vector_D - others_ND.mean(axis=0)
        left_out.append(away_D @ np.linalg.solve(shrunk_DD, away_D))
    got_N = score("gaussian", embedding_ND)
    assert np.argsort(left_out).tolist() == np.argsort(got_N).tolist()


@pytest.mark.parametrize("name", ORDERLESS)
def test_the_order_of_the_objects_changes_no_bit(name):
    embedding_ND = cloud(700)
    order_N = np.random.default_rng(1).permutation(700)
    whole_N = score(name, embedding_ND)
    assert np.array_equal(score(name, embedding_ND[order_N]), whole_N[order_N])


def test_further_scores_of_several_blocks_do_not_depend_on_the_order_of_rows(monkeypatch):
    monkeypatch.setattr("astroray.scores.ROWS_AT_ONCE", 64)
    monkeypatch.setattr("astroray.scores.statistics.ROWS_AT_ONCE", 64)
    embedding_ND = cloud(300)
    order_N = np.random.default_rng(2).permutation(300)
    first = further_scores(embedding_ND, found_in(embedding_ND))
    second = further_scores(embedding_ND[order_N], found_in(embedding_ND[order_N]))
    for name, score_N in first.items():
        assert np.array_equal(second[name], score_N[order_N]), name
        assert np.isfinite(score_N).all()


def test_further_scores_are_the_named_ones():
    embedding_ND = cloud(80)
    further = further_scores(embedding_ND, found_in(embedding_ND))
    names = ("kth", "mean", "smoothed", "lof", "gaussian")
    for name, score_N in zip(names, further.values(), strict=True):
        assert np.array_equal(score(name, embedding_ND), score_N), name


def test_where_a_neighbor_was_not_found_there_is_no_number_that_needs_it():
    embedding_ND = cloud(80)
    found = found_in(embedding_ND)
    found.neighbor_NK[[3, 40], -1] = -1
    found.distance_NK[[3, 40], -1] = np.nan
    further = further_scores(embedding_ND, found)
    for name in ("kth_distance", "mean_distance", "mean_shift"):
        assert np.flatnonzero(np.isnan(further[name])).tolist() == [3, 40], name
    needs_N = np.isin(found.neighbor_NK, [-1, 3, 40]).any(axis=1)
    needs_N[[3, 40]] = True
    got_N = np.isnan(further["local_outlier_factor"])
    needs_N |= np.isin(found.neighbor_NK, np.flatnonzero(needs_N)).any(axis=1)
    assert 2 < got_N.sum() < 80
    assert not (got_N & ~needs_N).any()
    assert np.isfinite(further["mahalanobis_distance"]).all()


@pytest.mark.parametrize("name", ORDERLESS)
@pytest.mark.parametrize("num", [0, 1])
def test_without_another_object_there_is_no_score(name, num):
    score_N = score(name, cloud(num))
    assert score_N.shape == (num,)
    if name != "reconstruction":
        assert np.isnan(score_N).all()


def test_equal_objects_are_all_as_usual():
    same_ND = np.ones((30, 4), np.float32)
    for name, usual in (("kth", 0), ("mean", 0), ("smoothed", 0), ("lof", 1), ("gaussian", 0)):
        assert score(name, same_ND).tolist() == [usual] * 30
    assert len(set(score("rank-average", same_ND))) == 1


def test_beside_objects_that_coincide_the_local_outlier_factor_is_infinite():
    embedding_ND = np.zeros((10, 2), np.float32)
    embedding_ND[9] = 1
    assert score("lof", embedding_ND, k=3).tolist() == [1.0] * 9 + [np.inf]


def test_the_forest_depends_on_its_seed_alone():
    embedding_ND = cloud(100)
    first_N = score("forest", embedding_ND, seed=3)
    assert np.array_equal(score("forest", embedding_ND, seed=3), first_N)
    assert not np.array_equal(score("forest", embedding_ND, seed=4), first_N)


def test_without_scikit_learn_the_forest_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    with pytest.raises(BackendError, match=r"scikit-learn .* 'forest' .*astroray\[evaluate\]"):
        score("forest", cloud(5))


def test_what_can_not_be_scored_is_refused_in_words():
    embedding_ND = cloud(9)
    with pytest.raises(ConfigError, match="score is 'knn', expected one of kth, mean, smoothed"):
        score("knn", embedding_ND)
    with pytest.raises(ConfigError, match="k is 0, expected at least 1"):
        score("kth", embedding_ND, k=0)
    with pytest.raises(ConfigError, match="'reconstruction' got no reconstruction_N"):
        score_objects("reconstruction", embedding_ND, k=5)
    with pytest.raises(DataError, match=r"shape \(8,\) .* expected \[9\]"):
        score_objects("reconstruction", embedding_ND, k=5, reconstruction_N=np.zeros(8))
    embedding_ND[1, 2] = np.nan
    for name in SCORES:
        with pytest.raises(DataError, match=r"shape \(9, 6\) and 1 numbers .* not finite"):
            score(name, embedding_ND)


def test_a_gaussian_of_too_many_dimensions_is_refused_or_left_out():
    embedding_ND = cloud(12, LARGEST_GAUSSIAN + 1)
    with pytest.raises(ConfigError, match="513 dimensions, expected at most 512"):
        score("gaussian", embedding_ND)
    further = further_scores(embedding_ND, found_in(embedding_ND))
    assert np.isnan(further.pop("mahalanobis_distance")).all()
    assert all(np.isfinite(score_N).all() for score_N in further.values())


def test_scores_again_are_the_further_scores_of_some_rows_but_for_the_local_outlier_factor():
    embedding_ND = cloud(80)
    found, row_M = found_in(embedding_ND), np.array([7, 3, 60])
    again = scores.scores_again(
        embedding_ND[row_M],
        found.take(row_M),
        embedding_ND.__getitem__,
        Gaussian.of(embedding_ND),
    )
    assert np.isnan(again.pop("local_outlier_factor")).all()
    whole = further_scores(embedding_ND, found)
    for name, score_M in again.items():
        assert np.array_equal(score_M, whole[name][row_M]), name


def test_a_gaussian_comes_back_from_its_file_to_the_last_bit():
    embedding_ND = cloud(40)
    gaussian = Gaussian.of(embedding_ND)
    again = Gaussian.from_bytes(gaussian.to_bytes())
    assert np.array_equal(again.distances(embedding_ND), gaussian.distances(embedding_ND))
    assert Gaussian.of(embedding_ND[:1]) is None
    equal = np.ones((5, 3), np.float32)
    assert Gaussian.of(equal).distances(equal).tolist() == [0.0] * 5
