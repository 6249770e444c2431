"""What cells and known distances spare a search for nearest vectors; they change no result."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from astroray_kernels.knn import _native, reference
from astroray_kernels.nearest import nearest_vectors
from tests.test_knn_native import CASES, clusters
from tests.test_knn_nearest import every_backend

WHY_NOT = _native.why_not(torch.device("cpu"))
native = pytest.mark.skipif(bool(WHY_NOT), reason=f"backend native: {WHY_NOT}")


def cells_of(vector_VD: torch.Tensor, num: int, rng: np.random.Generator) -> tuple:
    """Some vectors as centers, and for each vector the nearest of them."""
    center_CD = vector_VD[torch.from_numpy(rng.permutation(len(vector_VD))[:num])].clone()
    return reference.nearest_vectors(vector_VD, center_CD, 1, exclude_G=None)[0][:, 0], center_CD


def assert_same(got, expected):
    torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)


@every_backend
def test_what_is_farther_than_a_query_looks_is_not_found(backend):
    vector_VD = torch.tensor([[0.0], [1.0], [2.0], [5.0]])
    within_G = torch.tensor([2.0, 0.0, torch.inf], dtype=torch.float64)
    index_GK, distance_GK = nearest_vectors(
        torch.tensor([[0.0], [0.5], [4.0]]), vector_VD, 3, within_G=within_G, backend=backend
    )
    assert index_GK.tolist() == [[0, 1, 2], [-1, -1, -1], [3, 2, 1]]
    assert torch.equal(index_GK == -1, distance_GK.isnan())


@every_backend
def test_vectors_that_have_labels_are_called_by_them_and_ties_go_by_them(backend):
    vector_VD = torch.tensor([[1.0], [-1.0], [2.0]])
    label_V = torch.tensor([70, 5, 9])
    index_GK, _ = nearest_vectors(torch.zeros(2, 1), vector_VD, 4, label_V=label_V, backend=backend)
    assert index_GK.tolist() == [[5, 70, 9, -1]] * 2
    exclude_G = torch.tensor([70, -1])
    index_GK, _ = nearest_vectors(
        torch.zeros(2, 1), vector_VD, 2, label_V=label_V, exclude_G=exclude_G, backend=backend
    )
    assert index_GK.tolist() == [[5, 9], [5, 70]]


@native
@pytest.mark.parametrize("name", CASES)
def test_cells_and_known_distances_change_no_bit(name):
    rng = np.random.default_rng(3)
    vector_VD = torch.from_numpy(CASES[name])
    itself_V = torch.arange(len(vector_VD))
    index_VK, distance_VK = nearest_vectors(
        vector_VD, vector_VD, 9, exclude_G=itself_V, backend="reference"
    )
    last_V = distance_VK[:, -1].nan_to_num(torch.inf)
    for num in (1, 5, len(vector_VD)):
        cells = cells_of(vector_VD, num, rng)
        for within_V in (None, last_V, last_V * torch.rand(len(last_V)).double()):
            keywords = {"exclude_G": itself_V, "within_G": within_V}
            got = nearest_vectors(
                vector_VD, vector_VD, 9, cells=cells, backend="native", **keywords
            )
            if within_V is None or within_V is last_V:
                assert_same(got, (index_VK, distance_VK))
            else:
                assert_same(got, reference.nearest_vectors(vector_VD, vector_VD, 9, **keywords))


@native
@settings(max_examples=60)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_nor_do_cells_that_are_nonsense(data, seed):
    """Few values, so that there are ties and twins; centers anywhere, vectors in any cell."""
    rng = np.random.default_rng(seed)
    num, num_queries, dim = (data.draw(st.integers(1, most)) for most in (200, 20, 5))
    scale = np.float32(data.draw(st.sampled_from([1.0, 1e-40, 1e-20, 1e18, 3e37])))
    vector_VD = (rng.integers(-2, 3, (num, dim)) * scale).astype(np.float32)
    query_GD = (rng.integers(-2, 3, (num_queries, dim)) * scale).astype(np.float32)
    num_cells = data.draw(st.integers(1, 6))
    center_CD = (rng.normal(size=(num_cells, dim)) * scale).astype(np.float32)
    cells = torch.from_numpy(rng.integers(0, num_cells, num)), torch.from_numpy(center_CD)
    within_G = torch.from_numpy(rng.integers(0, 4, num_queries) * float(scale))
    within_G[rng.random(num_queries) < 0.3] = torch.inf
    arguments = (
        torch.from_numpy(query_GD),
        torch.from_numpy(vector_VD),
        data.draw(st.integers(1, 9)),
    )
    label_V = torch.from_numpy(rng.permutation(num) * 3)
    keywords = {"exclude_G": None, "within_G": within_G, "label_V": label_V}
    got = nearest_vectors(*arguments, cells=cells, backend="native", **keywords)
    assert_same(got, reference.nearest_vectors(*arguments, **keywords))


@native
def test_most_pairs_of_other_clusters_are_not_compared_and_threads_change_no_count():
    rng = np.random.default_rng(2)
    vector_VD = torch.from_numpy(clusters(rng, 6000, 32, 0.1).astype(np.float32))
    cells = cells_of(vector_VD, 60, rng)
    query_GD = vector_VD[::20]
    found = []
    for threads in (1, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        found.append(_native.nearest_vectors_with_counts(query_GD, vector_VD, 10, cells=cells))
        torch.set_num_threads(before)
    assert found[0][2] == found[1][2]
    assert 300 * 10 < found[0][2].compared < 0.15 * 300 * 6000
    assert_same(found[0][:2], reference.nearest_vectors(query_GD, vector_VD, 10, exclude_G=None))
    known_G = found[0][1][:, -1].contiguous()
    counts = _native.nearest_vectors_with_counts(
        query_GD, vector_VD, 10, within_G=known_G, cells=cells
    )[2]
    assert counts.measured < found[0][2].measured
    assert counts.compared <= found[0][2].compared


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"within_G": torch.zeros(4)}, r"within_G is torch.float32 \[4\] on cpu, expected torch"),
        ({"within_G": torch.zeros(3).double()}, r"within_G is torch.float64 \[3\] on cpu"),
        ({"within_G": torch.tensor([0.0, -1, 0, 0]).double()}, "within_G is -1.0 in row 1"),
        ({"within_G": torch.tensor([0, 0, torch.nan, 0]).double()}, "within_G is nan in row 2"),
        ({"cells": (torch.zeros(4), torch.zeros(1, 2))}, r"cell of each vector is torch.float32"),
        ({"label_V": torch.arange(3)}, r"label_V is torch.int64 \[3\] on cpu, expected torch"),
        ({"cells": (torch.arange(4), torch.zeros(3, 2))}, "lie in cells 0 to 3, expected 0 to 2"),
        ({"cells": (torch.arange(4), torch.zeros(4, 3))}, r"the centers of cells has shape \[4, 3"),
        ({"cells": (torch.arange(4), torch.full((4, 2), torch.nan))}, "the centers of cells has a"),
    ],
)
def test_bounds_and_cells_that_cannot_work_are_refused(keywords, said):
    some = torch.zeros(4, 2)
    with pytest.raises(ValueError, match=f"nearest_vectors: .*{said}"):
        nearest_vectors(some, some, 1, **keywords)
