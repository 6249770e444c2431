"""The native search for nearest vectors: bit for bit the reference, whatever the data are."""

import numpy as np
import pytest
import torch

from astroray_kernels import BackendError, library
from astroray_kernels.knn import _native, reference
from astroray_kernels.nearest import nearest_vectors

WHY_NOT = _native.why_not(torch.device("cpu"))
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=f"backend native: {WHY_NOT}")


@pytest.fixture
def threads():
    """Sets torch's number of threads; it is what it was afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def shell(rng: np.random.Generator, num: int, dim: int, jitter: float) -> np.ndarray:
    """Vectors on one side of the origin, all nearly as far from it: their middle is elsewhere."""
    direction_ND = rng.normal(size=(num, dim)) + 1
    direction_ND /= np.linalg.norm(direction_ND, axis=1, keepdims=True)
    return direction_ND * (1 + jitter * rng.normal(size=(num, 1)))


def clusters(rng: np.random.Generator, num: int, dim: int, radius: float) -> np.ndarray:
    """In the order of their clusters, so that a query would meet its neighbors all at once."""
    center_CD = rng.normal(size=(20, dim))
    cluster_N = np.sort(rng.integers(0, 20, num))
    return center_CD[cluster_N] + radius * rng.normal(size=(num, dim))


def cases() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    far_ND = rng.normal(size=(300, 7))
    far_ND[7] *= 1e6
    far_ND[200] *= 1e12
    spike_ND = rng.normal(size=(300, 40))
    spike_ND[:, 3] *= 1e5
    data = {
        "one dimension": rng.normal(size=(130, 1)),
        "two dimensions": rng.normal(size=(65, 2)),
        "an odd size": rng.normal(size=(401, 33)),
        "two blocks and wide": rng.normal(size=(128, 1111)),
        "one vector": rng.normal(size=(1, 5)),
        "offset 1e4": 1e4 + rng.normal(size=(300, 16)),
        "far outliers": far_ND,
        "one huge channel": spike_ND,
        "shell": shell(rng, 400, 129, 1e-7),
        "clusters": clusters(rng, 500, 24, 0.1),
        "tight clusters": clusters(rng, 500, 24, 1e-6),
        "lattice full of ties": rng.integers(0, 4, size=(500, 4)),
        "duplicates": np.repeat(rng.normal(size=(90, 12)), 5, axis=0),
        "all equal": np.full((200, 3), 2.5),
        "zeros": np.zeros((70, 9)),
        "near float32's largest": rng.normal(size=(200, 6)) * 3e37,
        "near float32's smallest": rng.normal(size=(200, 6)) * 1e-42,
        "norms from 1e-30 to 1": rng.normal(size=(300, 8)) * 10.0 ** -rng.integers(0, 30, (300, 1)),
    }
    return {name: vector_VD.astype(np.float32) for name, vector_VD in data.items()}


CASES = cases()


@pytest.mark.parametrize("k", [1, 10, 64])
@pytest.mark.parametrize("name", CASES)
def test_it_finds_what_the_reference_finds_to_the_last_bit(name, k):
    vector_VD = torch.from_numpy(CASES[name])
    itself_V = torch.arange(len(vector_VD))
    got = nearest_vectors(vector_VD, vector_VD, k, exclude_G=itself_V, backend="native")
    expected = nearest_vectors(vector_VD, vector_VD, k, exclude_G=itself_V, backend="reference")
    torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("num_queries", [0, 1, 6, 7, 385])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_queries_need_not_be_among_the_vectors_or_near_them(num_queries, size):
    generator = torch.Generator().manual_seed(num_queries)
    query_GD = size * torch.randn(num_queries, 19, generator=generator)
    vector_VD = torch.randn(333, 19, generator=generator)
    got = nearest_vectors(query_GD, vector_VD, 9, backend="native")
    expected = nearest_vectors(query_GD, vector_VD, 9, backend="reference")
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_rows_of_a_larger_tensor_are_read_where_they_lie():
    large_VE = torch.randn(500, 60, generator=torch.Generator().manual_seed(3))
    got = nearest_vectors(large_VE[1::3, ::2], large_VE[:, ::2], 4, backend="native")
    expected = nearest_vectors(large_VE[1::3, ::2], large_VE[:, ::2], 4, backend="reference")
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_threads_change_nothing(threads):
    vector_VD = torch.from_numpy(CASES["clusters"])
    threads(1)
    one = _native.nearest_vectors_with_counts(vector_VD, vector_VD, 10)
    threads(2)
    two = _native.nearest_vectors_with_counts(vector_VD, vector_VD, 10)
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    assert one[2] == two[2]


@pytest.mark.parametrize(
    ("order", "radius", "most"), [("mixed", 1.0, 130), ("by cluster", 0.3, 300)]
)
def test_products_leave_few_pairs_to_measure(order, radius, most):
    rng = np.random.default_rng(2)
    vector_VD = torch.from_numpy(clusters(rng, 6000, 32, radius).astype(np.float32))
    if order == "mixed":
        vector_VD = vector_VD[torch.from_numpy(rng.permutation(6000))]
    query_GD = vector_VD[::20]
    _, _, counts = _native.nearest_vectors_with_counts(query_GD, vector_VD, 10)
    assert 10 <= counts.measured / len(query_GD) < most  # of 6000; 64 in the first block alone


@pytest.mark.parametrize("jitter", [1e-3, 1e-4, 1e-5, 1e-6, 1e-7])
def test_neighbors_that_the_products_cannot_tell_apart_are_all_measured(jitter):
    rng = np.random.default_rng(7)
    query_GD = torch.zeros(1, 48)
    for num in range(200, 600, 25):
        vector_VD = torch.from_numpy(shell(rng, num, 48, jitter).astype(np.float32))
        got = nearest_vectors(query_GD, vector_VD, 5, backend="native")
        expected = nearest_vectors(query_GD, vector_VD, 5, backend="reference")
        torch.testing.assert_close(got, expected, rtol=0, atol=0)
    _, _, counts = _native.nearest_vectors_with_counts(query_GD, vector_VD, 5)
    assert (counts.measured == num) == (jitter <= 1e-5)  # the integers err by some 1e-5


def test_more_than_it_can_hold_is_refused():
    query_GD = torch.zeros(1, 1).expand(1, _native.LARGEST_DIM + 1)
    with pytest.raises(BackendError, match=r"shape \[1, 131073\], expected at most .*; ask for"):
        _native.nearest_vectors(query_GD, query_GD, 1, exclude_G=None)


def test_a_library_that_was_not_built_is_a_reason_and_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "missing.so")
    x = torch.zeros(2, 3)
    with pytest.raises(BackendError, match=r"it was not built.*ask for backend='reference'"):
        _native.nearest_vectors(x, x, 1, exclude_G=None)
    assert reference.why_not(torch.device("cpu")) == ""
