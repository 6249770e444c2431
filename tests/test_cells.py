"""A vector's cell is that of the nearest centroid by published distance, however it is found."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astroray.neighbors import cells
from astroray.neighbors.cells import find_cells, train_cells
from astroray.neighbors.distances import pair_distances


def nearest(vector_BD: np.ndarray, centroid_CD: np.ndarray) -> np.ndarray:
    """By the published distances of all pairs, the first of equal ones."""
    both = np.concatenate([vector_BD, centroid_CD])
    num, num_cells = len(vector_BD), len(centroid_CD)
    first_P = np.repeat(np.arange(num), num_cells)
    second_P = num + np.tile(np.arange(num_cells), num)
    return pair_distances(both, first_P, second_P).reshape(num, num_cells).argmin(axis=1)


@settings(max_examples=100)
@given(
    num=st.integers(1, 40),
    num_cells=st.integers(1, 12),
    dim=st.integers(1, 6),
    num_values=st.integers(1, 4),
    exponent=st.integers(-70, 60),
    seed=st.integers(0, 2**20),
)
def test_ties_and_near_ties_are_decided_as_published(
    num, num_cells, dim, num_values, exponent, seed
):
    """Lattices far from the origin, moved by about the rounding of float32."""
    draw = np.random.default_rng(seed)
    vector_BD, centroid_CD = (
        (draw.integers(0, num_values, (n, dim)) + draw.integers(0, 2, (n, 1)) * 2.0**-22 + 1000.0)
        * 2.0**exponent
        for n in (num, num_cells)
    )
    vector_BD, centroid_CD = vector_BD.astype(np.float32), centroid_CD.astype(np.float32)
    found_B = find_cells(vector_BD, centroid_CD)
    assert found_B.dtype == np.int64
    np.testing.assert_array_equal(found_B, nearest(vector_BD, centroid_CD))


def test_few_vectors_are_left_to_the_kernel_and_their_cells_are_the_same(monkeypatch):
    draw = np.random.default_rng(3)
    centroid_CD = draw.normal(size=(64, 32)).astype(np.float32)
    vector_BD = draw.normal(size=(2000, 32)).astype(np.float32)
    left, kernel = [], cells.nearest_by_kernel

    def counted(query_GD, *rest):
        left.append(len(query_GD))
        return kernel(query_GD, *rest)

    monkeypatch.setattr(cells, "nearest_by_kernel", counted)
    monkeypatch.setattr(cells, "SQUARES_AT_ONCE", 1000)
    found_B = find_cells(vector_BD, centroid_CD)
    assert sum(left) < 20
    np.testing.assert_array_equal(found_B, kernel(vector_BD, centroid_CD, 1)[0][:, 0])


@pytest.mark.parametrize("num_rows", [0, 1])
def test_of_one_centroid_all_vectors_are(num_rows):
    vector_BD = np.ones((num_rows, 3), np.float32)
    assert find_cells(vector_BD, np.zeros((1, 3), np.float32)).tolist() == [0] * num_rows


def test_numbers_that_overflow_squares_still_find_their_cell():
    vector_BD = np.array([[3e38, 0], [-3e38, 1], [1, 1]], np.float32)
    centroid_CD = np.array([[-1e-30, 0], [3e38, 3e38], [-3e38, 0]], np.float32)
    assert find_cells(vector_BD, centroid_CD).tolist() == nearest(vector_BD, centroid_CD).tolist()


def test_the_cells_of_clusters_are_about_as_good_as_their_centers():
    draw = np.random.default_rng(0)
    center_CD = draw.normal(size=(16, 8)) * 10
    sample_MD = (center_CD[draw.integers(0, 16, 4000)] + draw.normal(size=(4000, 8))).astype(
        np.float32
    )
    centroid_CD = train_cells(sample_MD, 64, seed=0)
    assert centroid_CD.shape == (64, 8)
    cell_M = find_cells(sample_MD, centroid_CD)
    away_M = np.linalg.norm(sample_MD - centroid_CD[cell_M], axis=1)
    assert np.mean(away_M**2) < 8.0  # 8 is the spread around the centers
    assert np.array_equal(train_cells(sample_MD, 64, seed=0), centroid_CD)
