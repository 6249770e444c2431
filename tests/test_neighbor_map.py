"""The map of neighbors: its forces against plain sums, what it keeps, and what it does not do."""

import numpy as np
import pytest

from astroray.report.neighbor_map import MIN_OBJECTS, neighbor_map, repulsion
from astroray.report.plane import principal_plane


def groups(num_objects=400, num_groups=8, dim=20, seed=3):
    """Embeddings of groups that overlap in every plane, and the group of each."""
    random = np.random.default_rng(seed)
    group_N = np.arange(num_objects) % num_groups
    middle_GD = random.normal(size=(num_groups, dim)) * 2.0
    return middle_GD[group_N] + random.normal(size=(num_objects, dim)), group_N


def place(embedding_MD):
    return neighbor_map(embedding_MD, principal_plane(embedding_MD)[0])


def nearest(vector_MD, k=10):
    distance_MM = np.linalg.norm(vector_MD[:, None] - vector_MD[None], axis=2)
    np.fill_diagonal(distance_MM, np.inf)
    return distance_MM.argsort(axis=1)[:, :k]


def kept(embedding_MD, xy_M2):
    """Share of the nearest of each object that are among its nearest on the map."""
    pairs = zip(nearest(embedding_MD), nearest(xy_M2), strict=True)
    return np.mean([len(set(a) & set(b)) / len(a) for a, b in pairs])


@pytest.mark.parametrize(("size", "error"), [(1e-4, 1e-3), (1.0, 0.02), (10.0, 0.03)])
def test_all_repel_all_as_in_the_plain_sum(size, error):
    xy_M2 = np.random.default_rng(0).normal(size=(500, 2)) * size
    apart_MM2 = xy_M2[:, None] - xy_M2[None]
    kernel_MM = 1 / (1 + (apart_MM2**2).sum(axis=2))
    push_M2 = (kernel_MM[..., None] ** 2 * apart_MM2).sum(axis=1)
    total = kernel_MM.sum() - len(xy_M2)
    found_2M, found = repulsion(xy_M2.T)
    scale = np.linalg.norm(push_M2)
    assert np.linalg.norm(found_2M.T - push_M2) < error * scale
    assert found == pytest.approx(total, rel=error)


@pytest.mark.parametrize("size", [1e2, 1e4, 1e8])
def test_the_sum_over_pairs_is_positive_where_all_are_far_from_all(size):
    xy_M2 = np.random.default_rng(0).normal(size=(100, 2)) * size
    apart_MM2 = xy_M2[:, None] - xy_M2[None]
    total = (1 / (1 + (apart_MM2**2).sum(axis=2))).sum() - len(xy_M2)
    push_2M, found = repulsion(xy_M2.T)
    assert np.isfinite(push_2M).all()
    assert 0.05 * total < found < 1.1 * total


def test_places_that_are_not_finite_are_refused():
    with pytest.raises(FloatingPointError, match="not finite"):
        repulsion(np.full((2, 5), np.nan))


def featureless(num_objects, kind, seed):
    """Embeddings without groups, all of them, some or one of them extreme."""
    random = np.random.default_rng(seed)
    embedding_MD = random.normal(size=(num_objects, (32, 2)[seed]))
    if kind == "duplicates":
        return embedding_MD[random.integers(0, 1 + num_objects // 4, num_objects)]
    if kind == "all equal":
        return np.broadcast_to(embedding_MD[:1], embedding_MD.shape)
    if kind == "one far":
        embedding_MD[-1] += 1e6
    return embedding_MD


@pytest.mark.parametrize("kind", ["random", "duplicates", "all equal", "one far"])
@pytest.mark.parametrize("num_objects", [1, 2, 16, 17, 60, 110])
def test_of_few_featureless_objects_the_map_is_finite_and_not_torn(num_objects, kind):
    for seed in range(2):
        xy_M2 = place(featureless(num_objects, kind, seed))
        assert xy_M2.shape == (num_objects, 2)
        assert np.isfinite(xy_M2).all()
        assert np.ptp(xy_M2, axis=0).max() < 20 + num_objects / 5


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("num_objects", [MIN_OBJECTS, 120])
def test_featureless_objects_keep_more_neighbors_than_in_the_principal_plane(num_objects, seed):
    embedding_MD = np.random.default_rng(seed).normal(size=(num_objects, 32))
    plane_M2, _ = principal_plane(embedding_MD)
    assert kept(embedding_MD, place(embedding_MD)) > 1.3 * kept(embedding_MD, plane_M2)


def test_neighbors_stay_together_far_more_than_in_the_principal_plane():
    embedding_MD, _ = groups()
    plane_M2, _ = principal_plane(embedding_MD)
    xy_M2 = neighbor_map(embedding_MD, plane_M2)
    assert kept(embedding_MD, xy_M2) > 1.8 * kept(embedding_MD, plane_M2)


def test_groups_that_every_plane_mixes_are_apart_on_the_map():
    embedding_MD, group_N = groups()
    xy_M2 = place(embedding_MD)
    same_MK = group_N[nearest(xy_M2, k=5)] == group_N[:, None]
    assert same_MK.mean() > 0.97


def test_the_same_embeddings_give_the_same_places_to_the_bit():
    embedding_MD, _ = groups(MIN_OBJECTS)
    first_M2 = place(embedding_MD)
    assert first_M2.tobytes() == place(embedding_MD.copy()).tobytes()
    assert np.abs(first_M2.mean(axis=0)).max() < 1e-9


def test_an_extreme_object_lies_beside_the_others_and_does_not_squeeze_them():
    embedding_MD, _ = groups()
    embedding_MD[0] *= 1000
    xy_M2 = place(embedding_MD)
    spread_2 = np.ptp(np.delete(xy_M2, 0, axis=0), axis=0)
    assert (spread_2 > 0.6 * np.ptp(xy_M2, axis=0)).all()


def test_objects_with_one_and_the_same_embedding_have_finite_places():
    embedding_MD, _ = groups()
    embedding_MD[:200] = embedding_MD[0]
    assert np.isfinite(place(embedding_MD)).all()
    assert np.isfinite(place(np.ones((MIN_OBJECTS, 3)))).all()
