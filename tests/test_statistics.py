"""Exact sums: the same bits for any division, order and library, and rounded only once."""

from fractions import Fraction

import numpy as np
import pytest

from astroray.errors import DataError
from astroray.scores.statistics import Moments, project

HARD = np.array([[3e38, 1e-45], [-3e38, 1.0], [1.0, -0.1], [2.0**-126, 1e8]], np.float32)


def vectors(num: int, dim: int = 5, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    scale_D = 10.0 ** rng.integers(-6, 7, dim)
    return (rng.normal(size=(num, dim)) * scale_D + rng.normal(size=dim)).astype(np.float32)


def by_fractions(vector_ND: np.ndarray) -> tuple[list[float], list[list[float]]]:
    rows = [[Fraction(float(x)) for x in row] for row in vector_ND]
    num, dims = len(rows), range(vector_ND.shape[1])
    mean = [sum(row[d] for row in rows) / num for d in dims]
    covariance = [
        [sum((row[d] - mean[d]) * (row[e] - mean[e]) for row in rows) / num for e in dims]
        for d in dims
    ]
    return [float(x) for x in mean], [[float(x) for x in line] for line in covariance]


@pytest.mark.parametrize("vector_ND", [HARD, vectors(1), vectors(60), 1000 + vectors(60) * 1e-3])
def test_mean_and_covariance_are_those_of_rational_numbers_rounded_once(vector_ND):
    moments = Moments.of(vector_ND.astype(np.float32), outer=True)
    mean, covariance = by_fractions(vector_ND.astype(np.float32))
    assert moments.mean_D.tolist() == mean
    assert moments.covariance.tolist() == covariance
    variance_D = Moments.of(vector_ND.astype(np.float32)).covariance
    assert variance_D.tolist() == np.diag(covariance).tolist()


@pytest.mark.parametrize("outer", [False, True])
def test_merged_parts_equal_the_whole_bit_for_bit_in_any_order(outer):
    vector_ND, rng = vectors(9000), np.random.default_rng(1)
    whole = Moments.of(vector_ND, outer=outer)
    shuffled_ND = vector_ND[rng.permutation(9000)]
    pieces = [
        Moments.of(piece_BD, outer=outer) for piece_BD in np.split(shuffled_ND, [0, 1, 17, 5000])
    ]
    for order in (range(5), rng.permutation(5)):
        merged = Moments.merge(pieces[i] for i in order)
        assert merged.count == whole.count == 9000
        assert (merged.total_D == whole.total_D).all()
        assert (merged.second == whole.second).all()
    assert pieces[0].count == 0


def test_more_rows_than_one_sum_may_hold_are_added_up_as_well(monkeypatch):
    vector_ND = vectors(100)
    whole = Moments.of(vector_ND, outer=True)
    monkeypatch.setattr("astroray.scores.statistics.ROWS_OF_A_SUM", 7)
    monkeypatch.setattr("astroray.scores.statistics.ROWS_AT_ONCE", 3)
    several = Moments.of(vector_ND, outer=True)
    assert (several.second == whole.second).all()
    assert (several.total_D == whole.total_D).all()


def test_a_number_that_is_not_finite_is_refused_with_its_row():
    vector_ND = vectors(4)
    vector_ND[2, 1] = np.inf
    with pytest.raises(DataError, match=r"vector 2 has a NaN or infinite number \(1 such .* of 4"):
        Moments.of(vector_ND)


def test_a_projected_vector_depends_on_itself_alone():
    vector_ND, rng = vectors(5000, dim=37).astype(np.float64), np.random.default_rng(2)
    matrix_DP = rng.normal(size=(37, 11))
    whole_NP = project(vector_ND, matrix_DP)
    order_N = rng.permutation(5000)
    assert np.array_equal(project(vector_ND[order_N], matrix_DP), whole_NP[order_N])
    for row in (0, 3, 4999):
        assert np.array_equal(project(vector_ND[row : row + 1], matrix_DP)[0], whole_NP[row])
    assert project(vector_ND[:0], matrix_DP).shape == (0, 11)


def test_a_projection_errs_no_more_than_it_says():
    vector_ND, rng = vectors(200, dim=64).astype(np.float64), np.random.default_rng(3)
    matrix_DP = rng.normal(size=(64, 8)) * 10.0 ** rng.integers(-9, 9, 8)
    got_NP = project(vector_ND, matrix_DP)
    exact_NP = vector_ND.astype(np.longdouble) @ matrix_DP.astype(np.longdouble)
    bound_NP = 2.0**-50 * 64 * np.outer(np.abs(vector_ND).max(1), np.abs(matrix_DP).max(0))
    assert (np.abs(got_NP - exact_NP) <= bound_NP).all()
    assert np.abs(got_NP).max() > 0
