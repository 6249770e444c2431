"""The nearest vectors of one query: those of sorting all distances, whatever the numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from astroray.neighbors import lookup
from astroray.neighbors.distances import pair_distances
from astroray.neighbors.lookup import nearest_of


def sorted_by_distance(query_D, vector_VD, k):
    pair_PD = np.concatenate([query_D[None], vector_VD]).astype(np.float32)
    other_V = np.arange(1, len(pair_PD))
    distance_V = pair_distances(pair_PD, np.zeros(len(other_V), np.int64), other_V)
    order_V = np.lexsort((other_V, distance_V))
    if len(order_V) > k:
        order_V = order_V[distance_V[order_V] <= distance_V[order_V[k - 1]]]
    return order_V, distance_V[order_V]


def assert_equal_to_sorting(query_D, vector_VD, k):
    found, wanted = nearest_of(query_D, vector_VD, k), sorted_by_distance(query_D, vector_VD, k)
    np.testing.assert_array_equal(found[0], wanted[0])
    np.testing.assert_array_equal(found[1], wanted[1])


@settings(max_examples=200)
@given(
    vectors=arrays.arrays(
        np.float32, st.tuples(st.integers(1, 30), st.integers(1, 5)), elements=st.integers(-2, 2)
    ),
    k=st.integers(1, 6),
)
def test_equal_distances_are_all_found_in_order_of_index(vectors, k):
    assert_equal_to_sorting(vectors[0], vectors[1:], k)


@pytest.mark.parametrize("middle", [0.0, 1e4, 3e18, 1e37])
@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0])
def test_far_tiny_and_huge_numbers_lose_no_neighbor(middle, size):
    draw = np.random.default_rng(0)
    vectors = (middle + size * draw.normal(size=(3000, 33)) * max(1.0, middle)).astype(np.float32)
    for query_D in (vectors[5], vectors[7] + np.float32(size)):
        assert_equal_to_sorting(query_D, vectors, 7)


def test_a_thousand_dimensions_and_near_ties_in_float32_are_told_apart():
    draw = np.random.default_rng(1)
    query_D = draw.normal(size=1000).astype(np.float32)
    away_VD = draw.normal(size=(2000, 1000))
    away_VD *= 1.0 / np.linalg.norm(away_VD, axis=1, keepdims=True)
    assert_equal_to_sorting(query_D, (query_D + away_VD).astype(np.float32), 20)


def test_squares_that_vanish_in_float32_hide_no_neighbor():
    """Each of a thousand squares of the first is too small for float32, and so is their sum."""
    vector_VD = np.zeros((3, 1000), np.float32)
    vector_VD[0], vector_VD[1, 0], vector_VD[2, 0] = 2.0**-76, 2.0**-74, 1.0
    assert nearest_of(np.zeros(1000), vector_VD, 1)[0].tolist() == [1]
    assert_equal_to_sorting(np.zeros(1000), vector_VD, 1)


def test_hardly_more_than_what_is_found_is_measured_again(monkeypatch):
    measured = []

    def distances(pair_PD, first_P, second_P):
        measured.append(len(second_P))
        return pair_distances(pair_PD, first_P, second_P)

    monkeypatch.setattr(lookup, "pair_distances", distances)
    vector_VD = np.random.default_rng(2).normal(size=(5000, 8)).astype(np.float32)
    assert len(nearest_of(vector_VD[3], vector_VD, 10)[0]) == 10
    assert measured[0] <= 12
