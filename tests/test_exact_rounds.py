"""Exact lists that tasks find in their partitions are those of a comparison with everything."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astroray.actors import join
from astroray.neighbors import blocks, cells
from astroray.neighbors.blocks import Block, nearest_in
from astroray.neighbors.distances import pair_distances
from astroray.search import exact_rounds, indexing
from astroray.search.sharded import ShardedSearch
from benchmarks.embedded_runs import in_turn, make_embedded, plan_search


@pytest.fixture(autouse=True)
def small_tasks(monkeypatch):
    monkeypatch.setattr(indexing, "LEAST_ROWS", 50)
    monkeypatch.setattr(cells, "POINTS_PER_CELL", 10)
    monkeypatch.setattr(exact_rounds, "MOST_VECTORS", 120)
    monkeypatch.setattr(blocks, "LEAST_IN_A_CELL", 1)


def plain_lists(query_GD: np.ndarray, embedding_ND: np.ndarray, width: int) -> blocks.Lists:
    """The nearest objects by (distance, number), every pair measured as distances are published."""
    num_queries, num = len(query_GD), len(embedding_ND)
    both = np.concatenate([query_GD, embedding_ND])
    query_P, number_P = np.repeat(np.arange(num_queries), num), np.tile(np.arange(num), num_queries)
    distance_GN = pair_distances(both, query_P, num_queries + number_P).reshape(num_queries, num)
    near_GW, found_GW = join.no_lists(num_queries, width)
    order_GN = np.argsort(distance_GN, axis=1, kind="stable")[:, :width]
    near_GW[:, : order_GN.shape[1]] = order_GN
    found_GW[:, : order_GN.shape[1]] = np.take_along_axis(distance_GN, order_GN, axis=1)
    return near_GW, found_GW


def clustered(num: int, dim: int, *, seed: int) -> np.ndarray:
    """Clusters of several widths, some objects far from all, twins and ties."""
    draw = np.random.default_rng(seed)
    center_CD = 4.0 * draw.normal(size=(8, dim))
    embedding_ND = center_CD[draw.integers(0, 8, num)] + 0.3 * draw.normal(size=(num, dim))
    embedding_ND[::31] *= 5.0
    embedding_ND[::7] = np.round(embedding_ND[::7])
    embedding_ND[5::40] = embedding_ND[4::40][: len(embedding_ND[5::40])]
    return embedding_ND.astype(np.float32)


@settings(max_examples=40)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_blocks_searched_after_one_another_are_a_comparison_with_everything(data, seed):
    """Twins and ties; more neighbors than objects; one cell; cells that are nonsense; extremes."""
    draw = np.random.default_rng(seed)
    num, num_queries, num_cells = (data.draw(st.integers(1, most)) for most in (150, 12, 7))
    scale = np.float32(data.draw(st.sampled_from([1.0, 1e-41, 1e19, 3e37])))
    embedding_ND = (draw.integers(-2, 3, (num, 3)) * scale).astype(np.float32)
    query_GD = (draw.integers(-3, 4, (num_queries, 3)) * scale).astype(np.float32)
    centroid_CD = (draw.normal(size=(num_cells, 3)) * scale).astype(np.float32)
    cell_N = draw.integers(0, num_cells, num)
    width = data.draw(st.integers(1, 200))
    found = join.no_lists(num_queries, width)
    for number_M in np.array_split(draw.permutation(num), data.draw(st.integers(1, 4))):
        if len(number_M):
            block = Block.of(number_M, embedding_ND[number_M], cell_N[number_M])
            last_G = np.fmin(np.inf, found[1][:, -1])
            lists = nearest_in([block], query_GD, width, within_G=last_G, centroid_CD=centroid_CD)
            join.add_lists(found, lists)
    expected = plain_lists(query_GD, embedding_ND, width)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize("k", [1, 9, 700])
def test_so_are_the_lists_of_a_search_in_parts_which_looks_no_farther_than_it_must(
    tmp_path, monkeypatch, k
):
    embedding_ND = clustered(600, 6, seed=1)
    ids = [f"{number:06d}" for number in range(600)]
    run_dir = make_embedded(tmp_path, embedding_ND, ids)
    search = ShardedSearch(plan_search(run_dir, k=k), in_turn, reason="asked for")
    exact, seen = search.exact, []
    monkeypatch.setattr(
        join, "nearest_in", _seen(join.nearest_in, lambda within_G: seen.append(within_G))
    )
    assert len(exact.tasks) > 2
    number_N = np.arange(600)
    lists = exact.of(search.places.vector_N[number_N])
    expected = plain_lists(embedding_ND, embedding_ND, min(k, 599) + 1)
    np.testing.assert_array_equal(lists[0], expected[0])
    np.testing.assert_array_equal(lists[1], expected[1])
    known = np.concatenate(seen)
    assert np.isfinite(known).sum() >= (0 if k == 700 else 2 * 600)


def test_no_vector_is_searched_twice_however_often_and_in_whatever_order_it_is_asked_for(tmp_path):
    embedding_ND = np.random.default_rng(3).normal(size=(90, 4)).astype(np.float32)
    run_dir = make_embedded(tmp_path, embedding_ND, [f"{number:02d}" for number in range(90)])
    notes = []
    exact = ShardedSearch(
        plan_search(run_dir, k=3),
        in_turn,
        reason="asked for",
        note=lambda *note: notes.append(note),
    ).exact
    notes.clear()
    whole = np.arange(90)
    asked = [np.array([7, 3, 7, 50]), np.array([50, 7]), np.array([1, 3, 88, 1]), whole]
    found = [exact.of(vector_G) for vector_G in asked]
    number_V = exact.places.first_V
    near_NW, distance_NW = plain_lists(embedding_ND, embedding_ND, 4)
    for vector_G, (near_GW, distance_GW) in zip(asked, found, strict=True):
        np.testing.assert_array_equal(near_GW, near_NW[number_V[vector_G]])
        np.testing.assert_array_equal(distance_GW, distance_NW[number_V[vector_G]])
    rounds = {what for what, _, _ in notes if what.endswith("around their cells")}
    assert rounds == {
        f"exact round {number}, {num} objects, around their cells"
        for number, num in ((1, 3), (2, 2), (3, 85))
    }
    assert exact.vector_R.tolist() == whole.tolist()


def _seen(nearest, see):
    def run(blocks, query_GD, width, *, within_G=None, centroid_CD=None):
        see(within_G)
        return nearest(blocks, query_GD, width, within_G=within_G, centroid_CD=centroid_CD)

    return run


@pytest.mark.parametrize(
    ("num", "at_once", "tasks"),
    [(100, 1, 1), (400, 1, 4), (100, 2, 2), (100, 50, 10), (9000, 1, 64)],
)
def test_there_are_as_many_tasks_as_run_at_once(monkeypatch, num, at_once, tasks):
    monkeypatch.setattr(exact_rounds, "LEAST_VECTORS", 10)
    monkeypatch.setattr(exact_rounds, "MOST_VECTORS", 100)
    end_P = np.arange(1, num + 1)
    shared = exact_rounds._share(SimpleNamespace(start_P=end_P - 1, end_P=end_P), at_once)
    assert len(shared) == tasks
    assert [place for task in shared for place in task] == list(range(num))


def test_the_home_of_a_cell_is_the_task_that_holds_most_of_it_of_equal_ones_the_first():
    vectors = SimpleNamespace(start_P=np.array([0, 3, 5]), end_P=np.array([3, 5, 9]))
    cell_V = np.array([0, 0, 1, 1, 2, 1, 1, 2, 2])
    homes = exact_rounds._homes(vectors, [range(2), range(2, 3)], cell_V)
    assert homes.tolist() == [0, 0, 1]
