"""A vector's cell is that of the nearest centroid by published distance, however it is found."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astroray.neighbors import cells
from astroray.neighbors.cells import (
    distances_from,
    find_cells,
    group_cells,
    num_cells_of,
    train_cells,
)
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


@pytest.mark.parametrize(
    ("num_objects", "num_cells"),
    [(0, 1), (1, 1), (127, 1), (128, 2), (10_000, 128), (10**6, 1024), (2**40, 2**16)],
)
def test_cells_are_about_the_root_of_the_objects_and_never_nearly_empty(num_objects, num_cells):
    assert num_cells_of(num_objects) == num_cells


def test_every_cell_ends_in_the_middle_of_its_vectors():
    draw = np.random.default_rng(1)
    sample_MD = (
        draw.normal(size=(60, 2)) + np.repeat([[0, 0], [50, 0], [0, 50]], 20, axis=0)
    ).astype(np.float32)
    centroid_CD = train_cells(sample_MD, 3, seed=2)
    cell_M = find_cells(sample_MD, centroid_CD)
    expected_CD = [sample_MD[cell_M == cell].mean(axis=0, dtype=np.float64) for cell in range(3)]
    np.testing.assert_array_equal(centroid_CD, np.float32(expected_CD))


@pytest.mark.parametrize("num_groups", [1, 2, 3, 5, 8])
def test_groups_are_cells_side_by_side_of_about_as_many_objects_each(num_groups):
    place_C = np.random.default_rng(4).permutation(80)
    centroid_CD = np.stack([np.zeros(80), place_C, place_C % 2], axis=1).astype(np.float32)
    count_C = np.where(place_C < 40, 3, 9)
    group_C = group_cells(centroid_CD, count_C, num_groups)
    assert np.all(np.diff(group_C[np.argsort(place_C)]) >= 0)
    share_P = np.bincount(group_C, count_C + 1.0) / (count_C + 1.0).sum()
    assert share_P == pytest.approx(np.full(num_groups, 1 / num_groups), abs=0.05)


@pytest.mark.parametrize(
    ("count_C", "num_groups", "expected"),
    [
        ([100, 1, 1, 1], 2, [0, 1, 1, 1]),
        ([1, 1, 1, 100], 2, [0, 0, 0, 1]),
        ([1, 1, 1, 100], 3, [0, 0, 1, 2]),
        ([100, 1, 1, 1], 4, [0, 1, 2, 3]),
        ([1, 1, 1, 1], 9, [0, 1, 2, 3]),
    ],
)
def test_no_group_is_empty_and_a_full_cell_is_one_alone(count_C, num_groups, expected):
    centroid_CD = np.arange(4, dtype=np.float32)[:, None]
    assert group_cells(centroid_CD, np.array(count_C), num_groups).tolist() == expected


def test_the_way_to_a_centroid_is_measured_in_float64(monkeypatch):
    monkeypatch.setattr(cells, "ROWS_AT_ONCE", 2)
    vector_BD = np.array([[1e8, 3], [1e8 + 8, 0], [-5, 12]], np.float32)
    centroid_CD = np.array([[0, 0], [1e8, -1]], np.float32)
    found_B = distances_from(vector_BD, centroid_CD, np.array([1, 1, 0]))
    np.testing.assert_array_equal(found_B, np.float32([4, 65**0.5, 13]))
