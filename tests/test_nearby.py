"""What is nearest in the index of a run is what is nearest among all its embeddings."""

import numpy as np
import pytest

from astroray import similar
from astroray.actors.search import SearchPlan, embedding_matrix, rank_survey, read_embeddings
from astroray.catalog import read_catalog, versions
from astroray.errors import LedgerError
from astroray.neighbors.lookup import nearest_of
from astroray.neighbors.partitions import Partition
from astroray.neighbors.search import SearchConfig
from astroray.run_record import Backends, RunRecord
from astroray.search import indexing, layer_scores, nearby, night_index
from astroray.search.nearby import open_indexed
from astroray.search.sharded import rank_sharded
from astroray.search.sharded_night import rank_night_sharded
from benchmarks.embedded_runs import (
    begin_night,
    in_turn,
    make_embedded,
    plan_of,
    plan_search,
    publish_shard,
)
from tests.runs_made import make_model
from tests.test_sharded import names, strays


def searched(folder, embedding_ND, ids, monkeypatch, **options):
    """A finished run over partitions, and its record."""
    monkeypatch.setattr(indexing, "LEAST_ROWS", 32)
    monkeypatch.setattr("astroray.neighbors.cells.POINTS_PER_CELL", 4)
    run_dir = make_embedded(folder, embedding_ND, ids)
    outcome = rank_sharded(plan_search(run_dir, k=4, **options), in_turn, reason="asked for")
    record = RunRecord(
        survey="made", fingerprint="f", config={}, created="2026", state="done",
        proof=outcome.proof, counts=outcome.counts, backends=outcome.backends,
        model=make_model("m0", dim=embedding_ND.shape[1]),
    )  # fmt: skip
    return run_dir, record


@pytest.mark.parametrize("kind", ["strays", "lattice", "equal"])
@pytest.mark.parametrize("k", [1, 7, 1000])
def test_it_finds_what_all_embeddings_have_ties_by_rank(tmp_path, monkeypatch, kind, k):
    rng = np.random.default_rng(3)
    embedding_ND = {
        "strays": strays(300),
        "lattice": rng.integers(0, 3, size=(300, 3)).astype(np.float32),
        "equal": np.full((300, 3), 0.25, np.float32),
    }[kind]
    ids = names(300)
    run_dir, record = searched(tmp_path, embedding_ND, ids, monkeypatch)
    run = open_indexed(run_dir, record)
    rank_of = dict(zip(*read_catalog(run_dir).select(["object_id", "rank"]), strict=True))
    rank_of = {name.as_py(): rank.as_py() for name, rank in rank_of.items()}
    for row in (0, 5, 40, 299):
        number = run.find(ids[row])
        np.testing.assert_array_equal(run.embedding(number), embedding_ND[row])
        near_K, distance_K = run.nearest(run.embedding(number), k, exclude=number)
        row_M, distance_M = nearest_of(embedding_ND[row], embedding_ND, 300)
        expected = sorted(
            (distance, rank_of[ids[other]])
            for other, distance in zip(row_M.tolist(), distance_M.tolist(), strict=True)
            if other != row
        )[:k]
        got = run.rows(near_K)["rank"].to_pylist()
        assert list(zip(distance_K.tolist(), got, strict=True)) == expected


@pytest.mark.parametrize("rows_at_once", [3, 16_384])
@pytest.mark.parametrize("kind", ["line", "cloud"])
def test_what_lies_beyond_the_first_cell_is_found_to_the_last_tie(
    tmp_path, monkeypatch, kind, rows_at_once
):
    """On a line the triangle inequality is an equation, and each object has two neighbors as far
    from it: a bound that is short by a rounding loses one of them."""
    monkeypatch.setattr(nearby, "FIRST_CELLS", 1)
    monkeypatch.setattr(nearby, "ROWS_AT_ONCE", rows_at_once)
    draw = np.random.default_rng(2)
    line_ND = draw.permutation(200).astype(np.float32)[:, None]
    embedding_ND = line_ND if kind == "line" else draw.normal(size=(200, 4)).astype(np.float32)
    ids = names(200)
    run_dir, record = searched(tmp_path, embedding_ND, ids, monkeypatch)
    run = open_indexed(run_dir, record)
    row_of = np.argsort([run.find(name) for name in ids])  # by number
    looked = []
    monkeypatch.setattr(
        nearby,
        "nearest_of",
        lambda query_D, vector_VD, k: (
            looked.append(len(vector_VD)) or nearest_of(query_D, vector_VD, k)
        ),
    )
    rank_N = run.scores.rank(np.arange(200))
    for number, row in enumerate(row_of.tolist()):
        row_M, distance_M = nearest_of(embedding_ND[row], embedding_ND, 200)
        number_M = np.argsort(row_of)[row_M]
        order_M = np.lexsort((rank_N[number_M], distance_M))
        order_M = order_M[number_M[order_M] != number]
        for k in (1, 2, 3):
            near_K, distance_K = run.nearest(embedding_ND[row], k, exclude=number)
            assert near_K.tolist() == number_M[order_M[:k]].tolist()
            assert distance_K.tolist() == distance_M[order_M[:k]].tolist()
    assert sum(looked) < 600 * (20 if kind == "line" else 100)


def test_an_object_whose_embedding_is_gone_is_an_error_that_names_it(tmp_path, monkeypatch):
    run_dir, record = searched(tmp_path, strays(60), names(60), monkeypatch)
    run = open_indexed(run_dir, record)
    rows = read_embeddings(versions.read_all_receipts(run_dir), ["row", "embedding"])
    monkeypatch.setattr(nearby, "read_embeddings", lambda receipts, names: rows.slice(0, 0))
    with pytest.raises(LedgerError, match=r"row \d+ of shard shard-\d+ of .* has no embedding"):
        run.embedding(0)


def test_an_object_without_a_score_has_none_in_its_row(tmp_path, monkeypatch):
    run_dir, record = searched(tmp_path, strays(1), ["only"], monkeypatch)
    run = open_indexed(run_dir, record)
    (row,) = run.rows(np.array([0])).select(["object_id", "rank", "outlier_score"]).to_pylist()
    assert row == {"object_id": "only", "rank": 1, "outlier_score": None}


def test_a_run_without_its_manifest_or_the_scores_of_a_layer_is_not_searched_by_its_index(
    tmp_path, monkeypatch
):
    run_dir, record = searched(tmp_path / "ref", strays(60), names(60), monkeypatch)
    begin_night(run_dir, str(tmp_path / "night"))
    publish_shard(str(tmp_path / "night"), "new", ["one", "two"], strays(2))
    rank_night_sharded(plan_search(str(tmp_path / "night"), k=4), in_turn, reason="asked for")
    assert open_indexed(str(tmp_path / "night"), record).num_objects == 62
    (ranking,) = (tmp_path / "ref" / "index").glob("ranking-*")
    ranking.unlink()
    assert open_indexed(str(tmp_path / "night"), record) is None
    (tmp_path / "night" / "index" / "manifest.json").unlink()
    assert open_indexed(str(tmp_path / "night"), record) is None


def test_a_folder_of_versions_is_searched_in_the_index_of_the_newest(tmp_path, monkeypatch):
    ids = names(60)
    run_dir, record = searched(tmp_path / "nights" / "first", strays(60), ids, monkeypatch)
    record.publish(run_dir)
    monkeypatch.setattr(similar, "Archive", None)  # nothing is read whole
    alone = similar.find_similar(run_dir, ids[3], 5)
    assert similar.find_similar(str(tmp_path / "nights"), ids[3], 5) == alone
    assert len(alone.neighbors) == 5


def test_it_reads_few_vectors_of_what_is_far(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    center_CD = rng.normal(size=(20, 8)) * 50
    embedding_ND = (center_CD[np.arange(1000) % 20] + rng.normal(size=(1000, 8))).astype(np.float32)
    run_dir, record = searched(tmp_path, embedding_ND, names(1000), monkeypatch)
    run = open_indexed(run_dir, record)
    looked = []
    monkeypatch.setattr(
        "astroray.search.nearby.nearest_of",
        lambda query_D, vector_VD, k: (
            looked.append(len(vector_VD)) or nearest_of(query_D, vector_VD, k)
        ),
    )
    run.nearest(embedding_ND[3], 10)
    assert sum(looked) < 200


def test_rows_have_the_score_and_rank_of_the_catalog(tmp_path, monkeypatch):
    run_dir, record = searched(tmp_path, strays(200), names(200), monkeypatch)
    run = open_indexed(run_dir, record)
    whole = read_catalog(run_dir).select(["object_id", "ra", "dec", "rank", "outlier_score"])
    number_N = np.array([run.find(name) for name in whole["object_id"].to_pylist()])
    assert run.rows(number_N).equals(whole.cast(run.rows(number_N).schema))
    assert run.find("nobody") is None
    assert run.find("zzz") is None


def test_runs_that_an_index_does_not_describe_are_not_searched_by_it(tmp_path, monkeypatch):
    import dataclasses

    run_dir, record = searched(tmp_path, strays(200), names(200), monkeypatch)
    for change in (
        {"backends": Backends(index="flat")},
        {"backends": Backends(index="sharded", quantize="w8a8o")},
        {"model": dataclasses.replace(record.fitted, model_id="another")},
    ):
        assert open_indexed(run_dir, dataclasses.replace(record, **change)) is None


def test_a_distance_from_the_centroid_is_kept_with_each_vector(tmp_path, monkeypatch):
    run_dir, record = searched(tmp_path, strays(200), names(200), monkeypatch)
    run = open_indexed(run_dir, record)
    for partition in run.partitions:
        assert isinstance(partition, Partition)
        away_V = np.linalg.norm(
            partition.vector_VD - run.centroid_CD[partition.cell_V].astype(np.float64), axis=1
        )
        np.testing.assert_allclose(partition.away_V, away_V, rtol=1e-6)


@pytest.mark.parametrize("base", ["index", "none"])
def test_a_night_is_searched_over_its_layers_and_is_what_a_whole_reading_finds(
    tmp_path, monkeypatch, base
):
    for module in (indexing, night_index):
        monkeypatch.setattr(module, "LEAST_ROWS", 32)
    monkeypatch.setattr("astroray.neighbors.cells.POINTS_PER_CELL", 4)
    monkeypatch.setattr(layer_scores, "ROWS_AT_ONCE", 50)
    monkeypatch.setattr(SearchPlan, "is_late", lambda plan: plan.run_dir.endswith("second"))
    rng = np.random.default_rng(1)
    config = SearchConfig(k=3, top=9)
    folders = [str(tmp_path / name) for name in ("ref", "first", "second")]
    for night, run_dir in enumerate(folders):
        if night:
            begin_night(folders[night - 1], run_dir)
        ids = [f"{place:03d}-{night}" for place in rng.permutation(90)]
        embedding_ND = rng.integers(0, 4, size=(90, 3)).astype(np.float32)
        publish_shard(run_dir, f"s{night}", ids, embedding_ND)
        is_whole = base == "none" and not night
        rank = rank_survey if is_whole else rank_night if night else rank_scan
        outcome = rank(plan_of(run_dir, config))
    record = RunRecord(
        survey="made", fingerprint="f", config={}, created="2026", state="done",
        proof=outcome.proof, backends=outcome.backends, model=make_model("m0"),
    )  # fmt: skip
    run = open_indexed(folders[2], record)
    assert run.num_objects == 270
    whole = versions.read_version(folders[2])  # the clock came before any search
    assert np.isinf(whole["outlier_score"].to_numpy()).sum() == 99
    number_N = np.array([run.find(name) for name in whole["object_id"].to_pylist()])
    columns = ["object_id", "ra", "dec", "rank", "outlier_score"]
    assert run.rows(number_N).equals(whole.select(columns).cast(run.rows(number_N).schema))
    stored = read_embeddings(versions.read_all_receipts(folders[2]))
    vector_of = dict(zip(stored["object_id"].to_pylist(), embedding_matrix(stored), strict=True))
    vector_ND = np.stack([vector_of[name] for name in whole["object_id"].to_pylist()])
    for row in (0, 100, 269):
        embedding_D = run.embedding(int(number_N[row]))
        np.testing.assert_array_equal(embedding_D, vector_ND[row])
        row_M, distance_M = nearest_of(embedding_D, vector_ND, 270)
        for k in (1, 20):
            near_K, distance_K = run.nearest(embedding_D, k)
            np.testing.assert_array_equal(near_K, number_N[row_M[:k]])
            np.testing.assert_array_equal(distance_K, distance_M[:k])


def rank_scan(plan):
    return rank_sharded(plan, in_turn, reason="asked for")


def rank_night(plan):
    return rank_night_sharded(plan, in_turn, reason="asked for")
