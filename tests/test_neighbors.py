import dataclasses
import subprocess
import sys
import types

import numpy as np
import pyarrow as pa
import pytest
from sklearn.neighbors import NearestNeighbors

from astroray.errors import BackendError, ConfigError, DataError
from astroray.neighbors import candidates, certificate, distances
from astroray.neighbors.certificate import certify_top
from astroray.neighbors.search import Neighbors, SearchConfig, choose_index, search
from astroray.neighbors.twins import Twins

APPROXIMATE = ["ivf-flat", "ivf-sq8", "ivf-pq", "hnsw"]
ARRAYS = ("neighbor_NK", "distance_NK", "score_N", "is_exact_N", "rank_N", "certified_N")


@pytest.fixture(params=["native", "faiss"])
def products(request, monkeypatch):
    """What multiplies in exact searches, each in turn."""
    if request.param == "native" and not candidates.has_native():
        pytest.skip("this machine does not run the native kernel")
    monkeypatch.setattr(candidates, "has_native", lambda: request.param == "native")
    return request.param


def make_ids(num: int, seed: int = 0) -> list[str]:
    """Unique names whose order is not that of the rows."""
    return [f"obj-{i}" for i in np.random.default_rng(seed).permutation(num)]


def brute_force(embedding_ND: np.ndarray, ids: list[str], k: int) -> tuple[np.ndarray, np.ndarray]:
    """Neighbors and distances in float64, one dimension after the other, ties by name."""
    num = len(ids)
    square_NN = np.zeros((num, num))
    for column_N in embedding_ND.astype(np.float64).T:
        square_NN += (column_N[:, None] - column_N[None, :]) ** 2
    distance_NN = np.sqrt(square_NN)
    np.fill_diagonal(distance_NN, np.inf)
    place_N = np.argsort(np.argsort(np.array(ids, dtype=object)))
    order_NK = np.array([np.lexsort((place_N, row_N)) for row_N in distance_NN])[
        :, : min(k, num - 1)
    ]
    return order_NK, np.take_along_axis(distance_NN, order_NK, axis=1)


def clusters_with_strays(num: int = 5000, dim: int = 8, seed: int = 3) -> np.ndarray:
    """Tight clusters and a few isolated points, some of them in pairs."""
    rng = np.random.default_rng(seed)
    center_CD = rng.normal(size=(40, dim)) * 4
    embedding_ND = center_CD[rng.integers(0, 40, num)] + rng.normal(size=(num, dim)) * 0.3
    embedding_ND[::200] = rng.normal(size=(len(embedding_ND[::200]), dim)) * 8
    embedding_ND[1::500] = embedding_ND[::500] + 0.01
    return embedding_ND.astype(np.float32)


def shapes_of_data() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    heavy_ND = rng.normal(size=(300, 6))
    heavy_ND[7] *= 1e6
    knots_ND = rng.normal(size=(2, 6))[rng.integers(0, 2, 400)] + 1e-5 * rng.normal(size=(400, 6))
    twins_ND = np.concatenate(
        [np.zeros((500, 5)), rng.normal(size=(200, 5)), np.ones((3, 5)), -np.zeros((2, 5))]
    )
    vanishing_ND = np.concatenate([np.zeros((3, 64)), 0.75 * np.eye(64)])
    vanishing_ND[1], vanishing_ND[2, 0] = 2.0**-76, 2.0**-74  # the second is nearer to the zeros
    cases = {
        "plain": rng.normal(size=(500, 16)),
        "one dimension": rng.normal(size=(200, 1)),
        "offset 1e4": 1e4 + rng.normal(size=(500, 16)),
        "tight clusters": knots_ND,
        "one far outlier": heavy_ND,
        "lattice full of ties": rng.integers(0, 4, size=(500, 4)),
        "500 identical vectors": twins_ND[rng.permutation(len(twins_ND))],
        "all identical": np.full((40, 3), 2.5),
        "pairs": np.repeat(rng.normal(size=(150, 4)), 2, axis=0),
        "near float32's largest": rng.normal(size=(200, 6)) * 3e37,
        "near float32's smallest": rng.normal(size=(200, 6)) * 1e-42,
        "squares that float32 rounds to 0": vanishing_ND,
    }
    return {name: embedding_ND.astype(np.float32) for name, embedding_ND in cases.items()}


DATA = shapes_of_data()


def assert_same(
    got: Neighbors, expected: Neighbors, rows: np.ndarray | slice = slice(None)
) -> None:
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(got, name)[rows], getattr(expected, name)[rows], name)


# Exact search


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("k", [1, 10])
def test_flat_search_equals_float64_brute_force_bit_for_bit(name, k, products):
    embedding_ND, ids = DATA[name], make_ids(len(DATA[name]))
    found = search(embedding_ND, ids, SearchConfig(k=k, index="flat"))
    neighbor_NK, distance_NK = brute_force(embedding_ND, ids, k)
    np.testing.assert_array_equal(found.neighbor_NK, neighbor_NK)
    np.testing.assert_array_equal(found.distance_NK, distance_NK)
    np.testing.assert_array_equal(found.score_N, distance_NK[:, -1])
    assert found.is_exact_N.all()
    assert found.products == products


@pytest.fixture
def searched(monkeypatch):
    """Keyword arguments of all searches by the kernel, also those for cells of vectors."""
    calls, kernel = [], candidates.nearest_by_kernel

    def noted(*args, **options):
        calls.append(options)
        return kernel(*args, **options)

    monkeypatch.setattr(candidates, "nearest_by_kernel", noted)
    return calls


@pytest.mark.parametrize("name", DATA)
def test_flat_search_among_cells_equals_float64_brute_force_bit_for_bit(
    name, monkeypatch, searched
):
    if not candidates.has_native():
        pytest.skip("this machine does not run the native kernel")
    monkeypatch.setattr(candidates, "MANY", 1)
    embedding_ND, ids = DATA[name], make_ids(len(DATA[name]))
    found = search(embedding_ND, ids, SearchConfig(k=10, index="flat"))
    neighbor_NK, distance_NK = brute_force(embedding_ND, ids, 10)
    np.testing.assert_array_equal(found.neighbor_NK, neighbor_NK)
    np.testing.assert_array_equal(found.distance_NK, distance_NK)
    assert [call["cells"] is not None for call in searched] == [True] * len(searched)


def test_cells_are_found_where_many_are_searched(searched):
    if not candidates.has_native():
        pytest.skip("this machine does not run the native kernel")
    embedding_ND = clusters_with_strays(candidates.MANY, dim=4)
    search(embedding_ND[1:], make_ids(candidates.MANY - 1), SearchConfig(index="flat"))
    search(embedding_ND, make_ids(candidates.MANY), SearchConfig(index="flat"))
    fewer, many = searched
    assert fewer["cells"] is None
    cell_U, center_CD = many["cells"]
    assert len(cell_U) == candidates.MANY
    assert len(center_CD) == cell_U.max() + 1 == 64


@pytest.mark.parametrize("num", [2, 3, 17, 500])
def test_flat_search_agrees_with_scikit_learn(num):
    embedding_ND = np.random.default_rng(num).normal(size=(num, 12)).astype(np.float32)
    k = min(10, num - 1)
    found = search(embedding_ND, make_ids(num), SearchConfig(k=10, score="mean"))
    peer = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(embedding_ND.astype(np.float64))
    distance_NK, neighbor_NK = peer.kneighbors()
    np.testing.assert_array_equal(found.neighbor_NK, neighbor_NK)
    np.testing.assert_allclose(found.distance_NK, distance_NK, rtol=1e-12)
    np.testing.assert_allclose(found.score_N, distance_NK.mean(axis=1), rtol=1e-12)


def faiss_squares(vectors_ND: np.ndarray) -> np.ndarray:
    """All computed squares [N, N], through the matrix product that large searches take."""
    import faiss

    before = faiss.cvar.distance_compute_blas_threshold
    faiss.cvar.distance_compute_blas_threshold = 1
    try:
        square_NK, index_NK = faiss.knn(vectors_ND, vectors_ND, len(vectors_ND))
    finally:
        faiss.cvar.distance_compute_blas_threshold = before
    square_NN = np.empty_like(square_NK)
    np.put_along_axis(square_NN, index_NK, square_NK, axis=1)
    return square_NN


def test_float32_alone_would_have_given_other_neighbors():
    """The data above are hard enough: the plain float32 search is wrong on them."""
    for name in ("offset 1e4", "tight clusters"):
        embedding_ND, ids = DATA[name], make_ids(len(DATA[name]))
        neighbor_NK, _ = brute_force(embedding_ND, ids, 10)
        square_NN = faiss_squares(embedding_ND)
        np.fill_diagonal(square_NN, np.inf)
        plain_NK = np.argsort(square_NN, axis=1)[:, :10]
        assert (plain_NK != neighbor_NK).any(axis=1).mean() > 0.5


def test_rows_that_float32_cannot_prove_are_counted(monkeypatch):
    monkeypatch.setattr(candidates, "has_native", lambda: False)
    plain, knots = DATA["plain"], DATA["tight clusters"]
    assert search(plain, make_ids(len(plain)), SearchConfig(index="flat")).num_float64 == 0
    assert search(knots, make_ids(len(knots)), SearchConfig(index="flat")).num_float64 > 100


@pytest.mark.parametrize("k", [4, 5, 100])
def test_k_of_all_others_or_more_gives_all_others(k):
    embedding_ND = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    found = search(embedding_ND, list("edcba"), SearchConfig(k=k))
    assert found.neighbor_NK.shape == (5, 4)
    for row, neighbor_K in enumerate(found.neighbor_NK):
        assert sorted([*neighbor_K, row]) == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(found.score_N, found.distance_NK[:, -1])


@pytest.mark.parametrize("index", ["flat", *APPROXIMATE])
def test_no_object_one_object_and_two(index):
    config = SearchConfig(index=index)
    none = search(np.zeros((0, 4), np.float32), [], config)
    assert none.neighbor_NK.shape == (0, 0)
    assert none.proof.num_certified == 0
    one = search(np.ones((1, 4), np.float32), ["a"], config)
    assert np.isnan(one.score_N).all()
    assert one.rank_N.tolist() == [1]
    assert not one.certified_N.any()
    assert "nothing to certify" in one.proof.in_words()
    two = search(np.array([[0.0], [3.0]], np.float32), ["b", "a"], config)
    assert two.score_N.tolist() == [3.0, 3.0]
    assert two.rank_N.tolist() == [2, 1]
    assert two.certified_N.all()
    assert two.proof.next_bound is None


def test_ties_go_by_object_id():
    embedding_ND = np.array([[0.0], [1.0], [-1.0], [1.0], [5.0]], np.float32)
    found = search(embedding_ND, ["m", "z", "c", "a", "q"], SearchConfig(k=2))
    assert found.neighbor_NK[0].tolist() == [3, 2]  # a and c before z, all at distance 1
    assert found.neighbor_NK[1].tolist() == [3, 0]
    assert found.rank_N[[1, 3]].tolist() == [5, 3]  # equal scores, a before z


@pytest.mark.parametrize("index", ["flat", *APPROXIMATE])
@pytest.mark.parametrize("name", ["strays", "lattice full of ties", "500 identical vectors"])
def test_permuted_input_gives_the_permuted_result_bit_for_bit(index, name):
    embedding_ND = clusters_with_strays(1500) if name == "strays" else DATA[name]
    ids = np.array(make_ids(len(embedding_ND)), dtype=object)
    config = SearchConfig(index=index, top=20, num_probes=1)
    first = search(embedding_ND, ids.tolist(), config)
    order_N = np.random.default_rng(5).permutation(len(ids))
    second = search(embedding_ND[order_N], pa.array(ids[order_N]), config)
    back_N = np.append(order_N, -1)
    np.testing.assert_array_equal(back_N[second.neighbor_NK], first.neighbor_NK[order_N])
    for name in ARRAYS[1:]:
        np.testing.assert_array_equal(getattr(second, name), getattr(first, name)[order_N], name)
    assert second.proof == first.proof


@pytest.mark.parametrize("index", ["flat", *APPROXIMATE])
def test_threads_change_no_bit(index):
    embedding_ND, ids = clusters_with_strays(3004), make_ids(3004)
    one = search(embedding_ND, ids, SearchConfig(index=index, num_threads=1))
    two = search(embedding_ND, ids, SearchConfig(index=index, num_threads=2))
    assert_same(two, one)
    assert two.proof == one.proof


def test_a_distance_depends_on_its_two_embeddings_alone():
    embedding_ND = np.random.default_rng(0).normal(size=(3000, 33)).astype(np.float32)
    first, second = np.arange(2999), np.arange(1, 3000)
    together = distances.pair_distances(embedding_ND, first, second)
    np.testing.assert_array_equal(distances.pair_distances(embedding_ND, second, first), together)
    fortran = np.asfortranarray(embedding_ND)
    np.testing.assert_array_equal(distances.pair_distances(fortran, first, second), together)
    for pair in (0, 1, 2047, 2048, 2998):
        alone = distances.pair_distances(embedding_ND, first[[pair]], second[[pair]])
        assert alone[0] == together[pair]


@pytest.mark.parametrize("name", [*DATA, "zeros"])
def test_the_largest_norm_is_brought_to_half_or_up_to_one_by_a_power_of_two(name):
    frame = distances.Frame.of(DATA.get(name, np.zeros((4, 2), np.float32)))
    largest = frame.norm_U.max()
    assert 0.5 <= largest < 1.0 or name in ("all identical", "zeros")
    assert np.frexp(frame.scale)[0] == 0.5
    moved_UD = frame.rows(slice(None), np.float64)
    np.testing.assert_allclose(np.linalg.norm(moved_UD, axis=1), frame.norm_U, rtol=1e-14)


def frame_of_width(dim: int) -> distances.Frame:
    return distances.Frame(
        embedding_UD=np.zeros((1, dim), np.float32),
        center_D=np.zeros(dim),
        scale=1.0,
        norm_U=np.zeros(1),
    )


@pytest.mark.parametrize("dim", [1, 64, 513, 40_000, 200_000])
def test_stated_errors_are_what_their_derivations_need_and_hardly_more(dim):
    frame, unit = frame_of_width(dim), distances.UNIT_FLOAT32
    roundings = 3 * dim + 16
    needed = roundings * unit / (1 - roundings * unit)
    assert needed < frame.product_error(unit) < needed * 1.001 + 20 * unit
    assert frame.product_error(distances.UNIT_FLOAT64) < 2.0**-28 * frame.product_error(unit)
    roundings = (distances.SLAB + dim / distances.SLAB) / 2 + 8
    needed = roundings * unit / (1 - roundings * unit)
    assert needed < frame.slab_error() < needed + 30 * unit


@pytest.mark.parametrize("error", [1e-6, 1e-3, 0.1])
def test_no_square_that_the_error_allows_lies_beyond_the_limit_which_the_worst_one_reaches(error):
    """The worst square is that of a pair as far apart as twice the norm of the query."""
    frame, draw = frame_of_width(3), np.random.default_rng(0)
    norm_G = draw.uniform(0.0, 1.0, 500)
    true_G = draw.uniform(0.0, 4.0, 500) ** 2
    true_G[::2] = 4 * norm_G[::2] ** 2
    allowed_G = error * (2 * norm_G + np.sqrt(true_G)) ** 2
    limit_G = frame.limit(norm_G, true_G - allowed_G, error)  # computed as low as can be
    assert (limit_G >= (true_G + allowed_G) * (1 - 1e-12)).all()
    np.testing.assert_allclose(limit_G[::2], (true_G + allowed_G)[::2], rtol=1e-12)
    none = frame.limit(np.zeros(1), np.zeros(1), error)
    assert 2 * distances.UNDERFLOW <= none[0] < 3 * distances.UNDERFLOW


@pytest.mark.parametrize("k", [1, 10])
def test_the_float64_search_measures_hardly_more_than_what_it_finds(k, monkeypatch):
    measured, pair_distances = [], distances.pair_distances

    def noted(embedding_UD, first_P, second_P):
        measured.append(len(first_P))
        return pair_distances(embedding_UD, first_P, second_P)

    monkeypatch.setattr(distances, "pair_distances", noted)
    distances.Frame.of(DATA["plain"]).nearest(np.arange(3, 300), k)
    assert sum(measured) == 297 * k


@pytest.mark.parametrize("name", DATA)
def test_computed_squares_stay_within_the_stated_error(name):
    """The proof of a row rests on this inequality, so it is checked on every pair."""
    frame = distances.Frame.of(np.unique(DATA[name], axis=0))
    num = len(frame.embedding_UD)
    neighbor_UK, distance_UK = brute_force(frame.embedding_UD, make_ids(num), num)
    square_UK = (distance_UK * frame.scale) ** 2
    computed_UU = faiss_squares(frame.rows(np.arange(num), np.float32))
    computed_UK = np.take_along_axis(computed_UU, neighbor_UK, axis=1)
    error = frame.product_error(distances.UNIT_FLOAT32)
    slack_UK = frame.slack(frame.norm_U[:, None], square_UK, error)
    assert (computed_UK <= square_UK + slack_UK).all()


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("slab", [1, 3, 512])
def test_squares_by_slabs_stay_within_their_stated_error(name, slab, monkeypatch):
    monkeypatch.setattr(distances, "SLAB", slab)
    frame = distances.Frame.of(np.unique(DATA[name], axis=0))
    neighbor_UK, distance_UK = brute_force(
        frame.embedding_UD, make_ids(len(frame.embedding_UD)), len(frame.embedding_UD)
    )
    square_UK = (distance_UK * frame.scale) ** 2
    computed_UK = np.take_along_axis(slab_squares_of_all(frame), neighbor_UK, axis=1)
    slack_UK = frame.slack(frame.norm_U[:, None], square_UK, frame.slab_error())
    assert (abs(computed_UK - square_UK) <= slack_UK).all()


def test_sums_of_equal_signs_stay_within_the_error_of_slabs_a_fiftieth_of_a_whole_products():
    ones_ND = np.random.default_rng(0).uniform(0.9, 1.0, size=(6, 12_288)).astype(np.float32)
    frame = distances.Frame(
        embedding_UD=ones_ND,
        center_D=np.zeros(12_288),
        scale=2.0**-7,
        norm_U=np.sqrt((ones_ND.astype(np.float64) ** 2).sum(axis=1)) * 2.0**-7,
    )
    true_NN = np.array([[((a - b) ** 2).sum() for b in ones_ND.astype(float)] for a in ones_ND])
    off_NN = abs(slab_squares_of_all(frame) - true_NN * 2.0**-14)
    assert (off_NN <= frame.slab_error() * 4 * frame.norm_U.max() ** 2).all()
    assert frame.slab_error() < frame.product_error(distances.UNIT_FLOAT32) / 50


def slab_squares_of_all(frame: distances.Frame) -> np.ndarray:
    vectors = frame.rows(slice(None), np.float32)
    return distances.slab_squares(vectors, vectors, frame.norm_U**2, frame.norm_U**2)


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("k", [1, 10])
def test_a_search_by_slabs_and_tiles_equals_float64_brute_force_bit_for_bit(name, k, monkeypatch):
    monkeypatch.setattr(candidates, "WIDE", 1)
    monkeypatch.setattr(candidates, "TILE_SIZE", 64 * DATA[name].shape[1])
    monkeypatch.setattr(distances, "SLAB", 3)
    embedding_ND, ids = DATA[name], make_ids(len(DATA[name]))
    found = search(embedding_ND, ids, SearchConfig(k=k, index="flat"))
    neighbor_NK, distance_NK = brute_force(embedding_ND, ids, k)
    np.testing.assert_array_equal(found.neighbor_NK, neighbor_NK)
    np.testing.assert_array_equal(found.distance_NK, distance_NK)


@pytest.mark.parametrize("rows", [np.arange(200), np.arange(0, 200, 3), np.array([199, 7, 7, 0])])
def test_some_vectors_are_searched_by_tiles_as_all_are(rows, monkeypatch):
    monkeypatch.setattr(candidates, "TILE_SIZE", 32 * candidates.WIDE)
    vectors = wide_pictures(200)
    all_UK, distance_UK = exact(vectors).nearest(np.arange(200))
    near_GK, distance_GK = exact(vectors).nearest(rows)
    np.testing.assert_array_equal(near_GK, all_UK[rows])
    np.testing.assert_array_equal(distance_GK, distance_UK[rows])


def test_wide_vectors_are_proven_in_float32_where_a_whole_product_proves_few(monkeypatch):
    vectors, rows = wide_pictures(280), np.arange(280)
    by_slabs = exact(vectors)
    found = by_slabs.nearest(rows)
    monkeypatch.setattr(candidates, "WIDE", 10**6)
    monkeypatch.setattr(candidates, "has_native", lambda: False)
    by_faiss = exact(vectors)
    for got, expected in zip(found, by_faiss.nearest(rows), strict=True):
        np.testing.assert_array_equal(got, expected)
    assert by_slabs.num_float64 == 0
    assert by_faiss.num_float64 > 100


def wide_pictures(num: int) -> np.ndarray:
    """Bright pictures of two kinds under noise: norms are large beside distances."""
    rng = np.random.default_rng(2)
    noise_ND = rng.normal(size=(num, 2 * candidates.WIDE))
    kind_N = np.arange(num) % 2
    return (20.0 * kind_N[:, None] + noise_ND).astype(np.float32)


def exact(vectors: np.ndarray) -> candidates.Exact:
    import faiss

    return candidates.Exact(faiss, distances.Frame.of(vectors), k=10)


@pytest.mark.parametrize("name", DATA)
def test_the_float64_search_alone_is_right_too(name):
    """Where float32 proves a row, this path never runs; so it is asked for every row here."""
    vectors = np.unique(DATA[name], axis=0)
    names = [f"{row:04d}" for row in range(len(vectors))]
    k = min(10, len(vectors) - 1)
    if k:
        neighbor_UK, distance_UK = distances.Frame.of(vectors).nearest(np.arange(len(vectors)), k)
        expected_UK, expected_distance_UK = brute_force(vectors, names, k)
        np.testing.assert_array_equal(neighbor_UK, expected_UK)
        np.testing.assert_array_equal(distance_UK, expected_distance_UK)


def test_vectors_of_one_hash_are_told_apart_by_their_numbers(monkeypatch):
    ones = types.SimpleNamespace(integers=lambda low, high, size, dtype: np.zeros(size, dtype))
    monkeypatch.setattr(np.random, "default_rng", lambda seed: ones)  # a hash is a sum of bits
    rows = [[1, 2], [2, 1], [1, 2], [3, 3], [2, 1], [0, 0]]
    twins = Twins.find(np.array(rows, np.float32))
    assert twins.vector_N.tolist() == [0, 1, 0, 2, 1, 3]
    assert twins.first_U.tolist() == [0, 1, 3, 5]
    assert twins.count_U.tolist() == [2, 2, 1, 1]
    assert twins.start_U.tolist() == [0, 2, 4, 5]
    assert twins.member_N.tolist() == [0, 2, 1, 4, 3, 5]


def test_a_middle_of_twins_is_found_beyond_the_first_of_them():
    twins = Twins.find(np.array([[0], [1], [0], [0], [1], [-0.0]], np.float32))
    assert twins.first_U.tolist() == [0, 1]
    assert twins.vector_N.tolist() == [0, 1, 0, 0, 1, 0]
    near, distance = twins.neighbors(
        np.array([0, 5]), np.array([[1], [1]]), np.array([[1.0], [1.0]]), 2
    )
    assert near.tolist() == [[2, 3], [0, 2]]
    assert distance.tolist() == [[0, 0], [0, 0]]


# Certified top


@pytest.mark.parametrize("index", APPROXIMATE)
@pytest.mark.parametrize("score", ["kth", "mean"])
@pytest.mark.parametrize("k", [1, 10])
def test_bad_bounds_still_give_the_exact_top_list(index, score, k):
    embedding_ND, ids = clusters_with_strays(), make_ids(5000)
    config = SearchConfig(index=index, score=score, k=k, num_probes=1, top=50)
    exact = search(embedding_ND, ids, dataclasses.replace(config, index="flat"))
    found = search(embedding_ND, ids, config)
    assert_same(found, exact, exact.rank_N <= 50)
    assert found.certified_N.sum() == found.proof.num_certified == 50
    assert found.proof.num_rescored == found.is_exact_N.sum() < 2500
    assert found.proof.next_bound < found.proof.threshold == exact.proof.threshold
    assert (found.neighbor_NK != exact.neighbor_NK).any()  # the cells did miss some
    naive = np.argsort(-np.where(found.is_exact_N, -np.inf, found.score_N))[0]
    assert found.score_N[naive] == found.proof.next_bound


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("index", APPROXIMATE)
def test_bounds_are_upper_bounds_and_the_top_is_right_on_hard_data(name, index):
    embedding_ND, ids = DATA[name], make_ids(len(DATA[name]))
    for score in ("kth", "mean"):
        config = SearchConfig(index=index, score=score, k=5, num_probes=1, top=7)
        exact = search(embedding_ND, ids, dataclasses.replace(config, index="flat"))
        found = search(embedding_ND, ids, config)
        assert (found.score_N >= exact.score_N).all()
        assert_same(found, exact, exact.rank_N <= 7)
        for row in np.flatnonzero(found.is_exact_N):
            np.testing.assert_array_equal(found.neighbor_NK[row], exact.neighbor_NK[row])


def test_needles_are_on_top_whatever_the_index():
    rng = np.random.default_rng(8)
    embedding_ND = rng.normal(size=(4000, 10)).astype(np.float32)
    needles = rng.choice(4000, 9, replace=False)
    embedding_ND[needles] += 40 * rng.normal(size=(9, 10)).astype(np.float32)
    for index in ("flat", *APPROXIMATE):
        found = search(embedding_ND, make_ids(4000), SearchConfig(index=index, top=9))
        assert set(np.flatnonzero(found.certified_N)) == set(needles)
        assert set(np.flatnonzero(found.rank_N <= 9)) == set(needles)


def certify(
    bound_N: list[float], exact_N: list[float], top: int, **options
) -> certificate.Certified:
    bound, exact = np.array(bound_N, float), np.array(exact_N, float)
    is_exact, rescore = np.zeros(len(bound), bool), lambda rows: exact[rows]
    return certify_top(bound, is_exact, rescore, top=top, k=10, score="kth", **options)


def test_rescoring_stops_only_at_a_bound_strictly_below_the_threshold(monkeypatch):
    monkeypatch.setattr(certificate, "FIRST_BLOCK", 1)
    done = certify([9, 5, 5, 4, 4], [5, 5, 5, 1, 1], top=2)
    assert done.proof.num_rescored == 3  # the third ties with the second and must be known
    assert done.certified_N.tolist() == [True, True, False, False, False]
    assert done.rank_N.tolist() == [1, 2, 3, 4, 5]
    assert done.proof.next_bound == 4
    assert "next bound 4 < threshold 5" in done.proof.in_words()


@pytest.mark.parametrize(("best", "proven"), [(9, 1), (7, 0)])
def test_a_search_that_is_late_proves_what_lies_above_all_bounds_that_are_left(
    best, proven, monkeypatch
):
    monkeypatch.setattr(certificate, "FIRST_BLOCK", 1)
    late = iter([False, True])
    done = certify([9, 8, 7, 6, 1], [best, 5, 4, 2, 1], top=2, is_late=lambda: next(late))
    assert done.is_exact_N.tolist() == [True, True, False, False, False]
    assert done.certified_N.tolist() == [proven > 0, False, False, False, False]
    assert (done.proof.threshold, done.proof.next_bound) == (9 if proven else None, 7)
    words = f"stopped by the clock with 2 of 5 re-scored: the first {proven} are proven"
    assert words in done.proof.in_words()


def test_the_proof_says_whether_the_next_score_is_lower_or_equal_or_there_is_none():
    assert "next score 4 < threshold 5" in certify([5, 4], [5, 4], top=1).proof.in_words()
    assert "next score 5 = threshold 5" in certify([5, 5], [5, 5], top=1).proof.in_words()
    words = certify([5, 4], [5, 4], top=3).proof.in_words()
    assert words == "exact: 2 of 2 re-scored, all of them in the top 2 (k=1, kth distance)"


def test_an_infinite_bound_is_always_rescored(monkeypatch):
    monkeypatch.setattr(certificate, "FIRST_BLOCK", 1)
    done = certify([3, np.inf, 2, np.inf], [3, 0.5, 2, 0.25], top=1)
    assert done.is_exact_N.tolist() == [True, True, False, True]
    assert done.certified_N.tolist() == [True, False, False, False]
    assert done.score_N.tolist() == [3, 0.5, 2, 0.25]
    assert done.rank_N.tolist() == [1, 3, 2, 4]


def test_blocks_are_asked_for_in_row_order_infinite_bounds_first_and_grow_to_the_largest(
    monkeypatch,
):
    monkeypatch.setattr(certificate, "FIRST_BLOCK", 2)
    monkeypatch.setattr(certificate, "LARGEST_BLOCK", 8)
    exact_N = np.full(60, 5.0)  # all ties: none is spared
    bound_N = np.where(np.arange(60) % 6 == 3, np.inf, 5.0 + np.arange(60) % 7)
    blocks = []

    def rescore(row_B):
        blocks.append(row_B.tolist())
        return exact_N[row_B]

    certify_top(bound_N, np.zeros(60, bool), rescore, top=1, k=10, score="kth")
    assert blocks == [sorted(block) for block in blocks]
    # Ten infinite: eight, then the two of them that are left with two others, then 2, 4, 8 ...
    assert [len(block) for block in blocks] == [8, 4, 2, 4, 8, 8, 8, 8, 8, 2]
    assert np.isinf(bound_N[blocks[0]]).all()
    assert np.isinf(bound_N[blocks[1]]).sum() == 2


def test_an_unknown_score_that_the_clock_leaves_is_no_bound_in_the_proof():
    done = certify([5, np.inf, 4], [5, 1, 4], top=1, is_late=lambda: True)
    assert done.proof.next_bound is None
    assert (done.proof.num_certified, done.proof.is_cut) == (0, True)


def test_the_proof_names_the_neighbors_that_there_are_at_least_one():
    k_N = [certify([1.0] * num, [1.0] * num, top=1).proof.k for num in (0, 1, 2, 10, 11, 12)]
    assert k_N == [1, 1, 1, 9, 10, 10]


def test_a_bound_below_the_exact_score_is_a_bug_that_stops():
    with pytest.raises(RuntimeError, match=r"bound 4\.0 of row 1 is below its exact score 4\.5"):
        certify([5, 4, 3], [5, 4.5, 3], top=2)


def test_bounds_that_say_nothing_cost_a_full_search_but_stay_right():
    exact_N = np.random.default_rng(0).normal(size=1000) ** 2
    done = certify([np.inf] * 1000, exact_N.tolist(), top=10)
    assert done.proof.num_rescored == 1000
    assert done.proof.next_bound == np.sort(exact_N)[-11]
    assert "1000 of 1000 re-scored, next score" in done.proof.in_words()


def test_random_bounds_always_give_the_exact_top(monkeypatch):
    monkeypatch.setattr(certificate, "FIRST_BLOCK", 3)
    rng = np.random.default_rng(4)
    for top in (1, 2, 5, 30, 60):
        for _ in range(40):
            exact_N = rng.integers(0, 12, 50).astype(float)  # full of ties
            bound_N = exact_N + rng.integers(0, 4, 50) * (rng.random(50) < 0.7)
            done = certify(bound_N.tolist(), exact_N.tolist(), top=top)
            expected = np.lexsort((np.arange(50), -exact_N))[:top]
            assert np.argsort(done.rank_N)[: len(expected)].tolist() == expected.tolist()
            assert np.flatnonzero(done.certified_N).tolist() == sorted(expected)


def test_yesterdays_scores_prove_todays_list():
    embedding_ND, ids = clusters_with_strays(2000), make_ids(2000)
    config = SearchConfig(k=5, top=30)
    today = search(embedding_ND, ids, config)
    order_N = np.argsort(np.array(ids, dtype=object))
    old_N = order_N[order_N < 1900]  # the last hundred are new
    place_N = np.argsort(np.argsort(old_N))
    yesterday = search(embedding_ND[np.sort(old_N)], [ids[i] for i in np.sort(old_N)], config)
    bound_N = np.full(2000, np.inf)
    bound_N[order_N < 1900] = yesterday.score_N[place_N]
    exact_N = today.score_N[order_N]
    done = certify(bound_N.tolist(), exact_N.tolist(), top=30)
    np.testing.assert_array_equal(done.certified_N, today.certified_N[order_N])
    assert done.proof.num_rescored < 400


# Choices and refusals


def test_the_index_follows_size_and_memory():
    assert choose_index(100_000, 64, 10**9)[0] == "flat"
    name, reason = choose_index(120_000, 64, 10**9)
    assert name == "flat"
    assert reason == "the native kernel leaves out whole cells of vectors"
    name, reason = choose_index(1_000_000, 256, 2 * 10**9)
    assert name == "ivf-sq8"
    assert reason == "0.5 GB of integers of 16 bits are more than 25% of 2.0 GB of memory"
    name, reason = choose_index(1_000_000, 256, 10**9)
    assert name == "ivf-pq"
    assert reason == "0.3 GB of codes of 8 bits are more than 25% of 1.0 GB of memory"
    assert choose_index(1_000_000, 256)[0] == "flat"
    assert choose_index(1_000_000, 256, can_shard=True)[0] == "sharded"
    assert choose_index(100_000, 256, can_shard=True)[0] == "flat"
    assert choose_index(100_000, 1024, can_shard=True)[0] == "sharded"
    assert choose_index(50_000, 1024, can_shard=True)[0] == "flat"


def test_the_index_without_the_kernel_follows_size_and_memory():
    name, reason = choose_index(120_000, 64, 10**9, has_kernel=False)
    assert name == "ivf-flat"
    assert reason == "120000 objects are more than 100000"
    name, reason = choose_index(1_000_000, 256, 4 * 10**9, has_kernel=False)
    assert name == "ivf-sq8"
    assert reason == "1.0 GB of vectors are more than 25% of 4.0 GB of memory"
    assert choose_index(1_000_000, 256, 10**9, has_kernel=False)[0] == "ivf-pq"
    assert choose_index(1_000_000, 256, has_kernel=False)[0] == "ivf-flat"


def test_auto_takes_brute_force_where_cells_find_too_little(monkeypatch):
    monkeypatch.setattr("astroray.neighbors.search.LARGEST_FLAT", 1000)
    monkeypatch.setattr(candidates, "has_native", lambda: False)
    noise = np.random.default_rng(0).normal(size=(4000, 48)).astype(np.float32)
    found = search(noise, make_ids(4000), SearchConfig())
    assert found.index == "flat"
    assert "ivf-flat would not help: 8 of 32 cells looked into, recall" in found.index_reason
    found = search(clusters_with_strays(4000), make_ids(4000), SearchConfig())
    assert found.index == "ivf-flat"
    assert found.index_reason.startswith("4000 objects are more than 1000; ")
    config = SearchConfig(k=5)
    by_codes = search(clusters_with_strays(4000, dim=4), make_ids(4000), config, memory_bytes=10**4)
    assert by_codes.index == "ivf-pq"
    assert " of 32 cells looked into, recall " in by_codes.index_reason
    found = search(noise, make_ids(4000), config, memory_bytes=10**4)
    assert "ivf-pq would not help: 8 of 32 cells looked into, recall" in found.index_reason


@pytest.mark.parametrize("index", APPROXIMATE)
@pytest.mark.parametrize(("num", "dim"), [(2, 1), (3, 5), (255, 7), (300, 2)])
def test_an_index_of_few_vectors_or_odd_dimensions_repeats_the_exact_list(index, num, dim):
    embedding_ND = np.random.default_rng(num).normal(size=(num, dim)).astype(np.float32)
    config = SearchConfig(k=400, top=2, index=index)  # of which there are not so many
    exact = search(embedding_ND, make_ids(num), dataclasses.replace(config, index="flat"))
    found = search(embedding_ND, make_ids(num), config)
    assert_same(found, exact, exact.rank_N <= 2)
    assert ", recall " in found.index_reason


def test_the_seed_of_a_graph_decides_its_layers():
    embedding_ND = np.random.default_rng(0).normal(size=(3000, 48)).astype(np.float32)
    found = [
        search(
            embedding_ND, make_ids(3000), SearchConfig(index="hnsw", top=1, num_probes=1, seed=seed)
        )
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(found[0].neighbor_NK, found[1].neighbor_NK)
    assert (found[0].neighbor_NK != found[2].neighbor_NK).any()


def test_embeddings_in_order_are_read_where_they_lie_and_never_written(tmp_path):
    embedding_ND = clusters_with_strays(1500)
    np.save(tmp_path / "e.npy", embedding_ND)
    mapped_ND = np.load(tmp_path / "e.npy", mmap_mode="r")
    ids = [f"obj-{row:05d}" for row in range(1500)]
    for index in ("flat", "ivf-pq"):
        config = SearchConfig(index=index)
        assert_same(search(mapped_ND, ids, config), search(embedding_ND, ids, config))
    fortran_ND = np.asfortranarray(embedding_ND)
    assert_same(search(fortran_ND, ids, config), search(embedding_ND, ids, config))


# On a GPU: a stand-in that answers by FAISS on the CPU


def faiss_with_gpu(calls: list[tuple[str, bool]], options: str = "GPU CUVS ", num: int = 1):
    """FAISS as a build with GPUs has it; `calls` gets what is moved there, and whether to cuVS."""
    import faiss

    def index_cpu_to_gpu(resources, device, index, cloning):
        assert (resources, device) == ("resources", 0)
        calls.append((type(index).__name__, cloning.use_cuvs))
        return index

    module = types.ModuleType("faiss")
    module.__dict__.update(vars(faiss))
    module.get_compile_options = lambda: options
    module.get_num_gpus = lambda: num
    module.StandardGpuResources = lambda: "resources"
    module.GpuClonerOptions = types.SimpleNamespace
    module.index_cpu_to_gpu = index_cpu_to_gpu
    return module


@pytest.mark.parametrize(
    ("index", "moved"), [("gpu-flat", "IndexFlatL2"), ("gpu-ivf-flat", "IndexIVFFlat")]
)
@pytest.mark.parametrize("options", ["GPU CUVS ", "GPU AVX2 "])
def test_what_a_gpu_proposes_is_proven_on_the_cpu(index, moved, options, monkeypatch):
    embedding_ND, ids = clusters_with_strays(2000), make_ids(2000)
    calls: list[tuple[str, bool]] = []
    exact = search(embedding_ND, ids, SearchConfig(index="flat", top=20))
    monkeypatch.setitem(sys.modules, "faiss", faiss_with_gpu(calls, options))
    found = search(embedding_ND, ids, SearchConfig(index=index, top=20))
    assert calls == [(moved, "CUVS" in options)]
    assert found.index == index
    assert f"on a GPU by {'cuVS' if 'CUVS' in options else 'FAISS'}, recall" in found.index_reason
    assert found.is_exact_N.sum() == found.proof.num_rescored < 1000  # what is not is a bound
    assert_same(found, exact, exact.rank_N <= 20)


def test_a_gpu_that_computes_badly_costs_time_and_no_place_in_the_list(monkeypatch):
    embedding_ND, ids = clusters_with_strays(1000), make_ids(1000)
    exact = search(embedding_ND, ids, SearchConfig(index="flat", top=20))
    module = faiss_with_gpu([])
    draw = np.random.default_rng(0)

    class Careless:
        def __init__(self, size=0):
            self.size = size

        def add(self, vectors):
            self.size += len(vectors)

        def search(self, queries, k):
            return None, draw.integers(-1, self.size, (len(queries), k))

    module.index_cpu_to_gpu = lambda *_: Careless()
    monkeypatch.setitem(sys.modules, "faiss", module)
    found = search(embedding_ND, ids, SearchConfig(index="gpu-flat", top=20))
    assert_same(found, exact, exact.rank_N <= 20)


@pytest.mark.parametrize("num", [1, 3])
def test_a_gpu_that_is_not_there_is_an_error_that_says_why(num, monkeypatch):
    embedding_ND, ids = np.eye(num, 2, dtype=np.float32), list("abc")[:num]
    config = SearchConfig(index="gpu-flat")
    with pytest.raises(BackendError, match=r"is built without GPUs \(.*pip install 'astroray\[gpu"):
        search(embedding_ND, ids, config)
    monkeypatch.setitem(sys.modules, "faiss", faiss_with_gpu([], num=0))
    with pytest.raises(BackendError, match="FAISS sees no GPU; see nvidia-smi"):
        search(embedding_ND, ids, config)


def test_a_gpu_finds_so_many_neighbors_and_no_more(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", faiss_with_gpu([]))
    vectors = np.random.default_rng(0).normal(size=(2100, 2)).astype(np.float32)
    with pytest.raises(ConfigError, match="k is 2040, expected at most 2039 with index gpu-flat"):
        search(vectors, make_ids(2100), SearchConfig(index="gpu-flat", k=2040))


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("k", 0, "k is 0, expected at least 1"),
        ("top", -1, "top is -1"),
        ("num_threads", 0, "num_threads is 0"),
        ("num_probes", 0, "num_probes is 0"),
        ("score", "lof", "score is 'lof', expected one of kth, mean"),
        ("partition_mb", 0, "partition_mb is 0, expected at least 1"),
        ("index", "lsh", "index is 'lsh', expected one of auto, flat, ivf-flat, ivf-sq8, ivf-pq"),
        ("seed", -1, "seed is -1"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(option, value, words):
    with pytest.raises(ConfigError, match=words):
        SearchConfig(**{option: value})


def test_arrays_cannot_be_searched_sharded():
    with pytest.raises(ConfigError, match="searches the embeddings of a run directory"):
        search(np.zeros((3, 2), np.float32), list("abc"), SearchConfig(index="sharded"))


def test_bad_rows_are_refused_by_name():
    embedding_ND = np.zeros((3, 2), np.float32)
    embedding_ND[1, 0] = np.nan
    with pytest.raises(DataError, match=r"object b has a NaN .*1 such rows of 3"):
        search(embedding_ND, ["a", "b", "c"], SearchConfig())
    with pytest.raises(DataError, match="object_id a occurs more than once"):
        search(np.zeros((3, 2), np.float32), ["a", "b", "a"], SearchConfig())
    with pytest.raises(DataError, match=r"float64 \(3, 2\) for 3 identifiers, expected float32"):
        search(np.zeros((3, 2)), ["a", "b", "c"], SearchConfig())


def test_without_faiss_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(BackendError, match=r"pip install 'astroray\[cpu\]' or 'astroray\[gpu\]'"):
        search(np.zeros((3, 2), np.float32), ["a", "b", "c"], SearchConfig())


def test_importing_the_module_does_not_load_faiss():
    code = "import sys, astroray.scores.outliers; sys.exit('faiss' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_settings_of_faiss_are_put_back():
    import faiss

    before = faiss.cvar.distance_compute_blas_threshold, faiss.omp_get_max_threads()
    search(DATA["plain"], make_ids(500), SearchConfig(num_threads=before[1] + 1))
    assert (faiss.cvar.distance_compute_blas_threshold, faiss.omp_get_max_threads()) == before


def test_ranks_descend_by_score_then_in_row_order_and_no_score_comes_last():
    draw = np.random.default_rng(5)
    score_N = draw.integers(0, 40, 5000).astype(float)
    score_N[draw.integers(0, 5000, 300)] = np.nan
    found = certify_top(score_N, np.ones(5000, bool), lambda row_B: row_B, top=9, k=3, score="kth")
    expected_N = np.argsort(np.nan_to_num(-score_N, nan=np.inf), kind="stable")
    assert np.array_equal(np.argsort(found.rank_N), expected_N)
