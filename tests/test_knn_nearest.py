"""nearest_vectors as a user sees it, and what its reference means."""

import numpy as np
import pytest
import torch

from astroray.neighbors.distances import pair_distances
from astroray_kernels.knn import _native
from astroray_kernels.nearest import nearest_vectors

CPU = torch.device("cpu")
BACKENDS = [
    "reference",
    pytest.param(
        "native",
        marks=pytest.mark.skipif(bool(_native.why_not(CPU)), reason=_native.why_not(CPU)),
    ),
]
every_backend = pytest.mark.parametrize("backend", BACKENDS)


@every_backend
def test_neighbors_by_hand(backend):
    vector_VD = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0], [1.0, 0.0]])
    query_GD = torch.tensor([[0.0, 0.0], [3.0, 3.0]])
    index_GK, distance_GK = nearest_vectors(query_GD, vector_VD, 3, backend=backend)
    assert index_GK.tolist() == [[0, 2, 3], [1, 2, 3]]
    assert distance_GK.tolist() == [[0.0, 1.0, 1.0], [1.0, 13**0.5, 13**0.5]]
    assert (index_GK.dtype, distance_GK.dtype) == (torch.int64, torch.float64)


@every_backend
def test_a_query_does_not_find_what_it_excludes(backend):
    vector_VD = torch.zeros(3, 2)
    exclude_G = torch.tensor([0, 1, -1])
    index_GK, _ = nearest_vectors(vector_VD, vector_VD, 2, exclude_G=exclude_G, backend=backend)
    assert index_GK.tolist() == [[1, 2], [0, 2], [0, 1]]


@every_backend
@pytest.mark.parametrize(("num", "found"), [(0, 0), (1, 0), (2, 1), (3, 2)])
def test_neighbors_that_do_not_exist_are_missing(backend, num, found):
    vector_VD = torch.arange(float(num))[:, None]
    index_GK, distance_GK = nearest_vectors(
        vector_VD, vector_VD, 2, exclude_G=torch.arange(num), backend=backend
    )
    assert index_GK.shape == distance_GK.shape == (num, 2)
    assert ((index_GK >= 0).sum(dim=1) == found).all()
    assert torch.equal(index_GK == -1, distance_GK.isnan())


@every_backend
@pytest.mark.parametrize("dim", [1, 8, 37, 130])
def test_distances_are_the_published_ones_to_the_last_bit(backend, dim):
    rng = np.random.default_rng(dim)
    vector_VD = (1e3 * rng.normal(size=(150, dim))).astype(np.float32)
    rows = torch.from_numpy(vector_VD)
    itself_V = torch.arange(len(rows))
    index_GK, distance_GK = nearest_vectors(rows, rows, 5, exclude_G=itself_V, backend=backend)
    published = pair_distances(vector_VD, np.repeat(np.arange(150), 5), index_GK.numpy().ravel())
    np.testing.assert_array_equal(distance_GK.numpy().ravel(), published)


@every_backend
def test_embeddings_that_carry_a_gradient_are_searched_without_one(backend):
    vector_VD = torch.randn(20, 3, requires_grad=True)
    _, distance_GK = nearest_vectors(vector_VD, vector_VD, 2, backend=backend)
    assert not distance_GK.requires_grad


@every_backend
def test_several_tensors_of_vectors_are_searched_as_one(backend):
    vector_VD = torch.randn(90, 5, generator=torch.Generator().manual_seed(3))
    pieces = [vector_VD[:1], vector_VD[1:1], vector_VD[1:70], vector_VD[70:]]
    cells = torch.arange(90) % 2, vector_VD[:2]
    got = nearest_vectors(vector_VD, pieces, 4, cells=cells, backend=backend)
    expected = nearest_vectors(vector_VD, vector_VD, 4, backend=backend)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


GOOD = torch.zeros(4, 3)
HOLED = torch.zeros(4, 3)
HOLED[2, 1] = torch.nan
ENDLESS = torch.zeros(4, 3)
ENDLESS[1, 0] = -torch.inf


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ((GOOD.double(), GOOD, 1), TypeError, "query_GD has dtype torch.float64, expected"),
        ((GOOD, GOOD.numpy(), 1), TypeError, "vector_VD has ndarray, expected a tensor"),
        ((GOOD, GOOD[:, :2], 1), ValueError, r"vector_VD has shape \[4, 2\] and query_GD \[4, 3\]"),
        ((GOOD[:, :0], GOOD[:, :0], 1), ValueError, ".* with one D >= 1"),
        ((GOOD[0], GOOD, 1), ValueError, r"query_GD has shape \[3\]"),
        ((GOOD, GOOD.to("meta"), 1), ValueError, "vector_VD is on meta, expected query_GD's cpu"),
        ((HOLED, GOOD, 1), ValueError, r"query_GD has a NaN or infinite number in row 2 \(1 such"),
        ((GOOD, ENDLESS, 1), ValueError, "vector_VD has a NaN or infinite number in row 1"),
        ((GOOD, [GOOD, ENDLESS], 1), ValueError, "vector_VD has a NaN or infinite number in row 1"),
        ((GOOD, [], 1), ValueError, "vector_VD is an empty sequence, expected at least one"),
        ((GOOD, GOOD, 0), ValueError, "k is 0, expected an integer of at least 1"),
        ((GOOD, GOOD, 2.0), ValueError, "k is 2.0, expected an integer"),
    ],
)
def test_what_cannot_work_is_refused(arguments, error, said):
    with pytest.raises(error, match=f"nearest_vectors: {said}"):
        nearest_vectors(*arguments)


@pytest.mark.parametrize(
    ("exclude", "said"),
    [
        (torch.zeros(4), r"exclude_G is torch.float32 \[4\] on cpu, expected torch.int64 \[4\]"),
        (torch.arange(3), r"exclude_G is torch.int64 \[3\]"),
        (torch.tensor([0, 4, -1, 2]), r"exclude_G is 4 in row 1, expected -1 \(none\) to 3"),
        (torch.tensor([0, 1, -2, 2]), "exclude_G is -2 in row 2"),
    ],
)
def test_what_cannot_be_excluded_is_refused(exclude, said):
    with pytest.raises(ValueError, match=said):
        nearest_vectors(GOOD, GOOD, 1, exclude_G=exclude)
