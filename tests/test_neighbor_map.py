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
    found_M2, found = repulsion(xy_M2)
    scale = np.linalg.norm(push_M2)
    assert np.linalg.norm(found_M2 - push_M2) < error * scale
    assert found == pytest.approx(total, rel=error)


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
