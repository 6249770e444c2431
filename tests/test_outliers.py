import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from astroray import schema, scores
from astroray.errors import SchemaError
from astroray.neighbors.search import Neighbors, SearchConfig, search
from astroray.scores import outliers
from astroray.scores.gaussian import Gaussian
from astroray.scores.outliers import drop_duplicates


def make_objects(num: int, *, seed: int = 0, with_positions: bool = True) -> pa.Table:
    rng = np.random.default_rng(seed)
    ids = [f"obj-{i}" for i in rng.permutation(num)]
    ra, dec = rng.uniform(0, 360, num), rng.uniform(-90, 90, num)
    dec[::3] = np.nan
    if not with_positions:
        ra[:] = np.nan
    columns = schema.identity(ids, ra, dec) | {
        "shard": pa.array([f"s{i % 4}" for i in range(num)], pa.string()),
        "row": pa.array(np.arange(num), pa.int64()),
        "processing_flags": pa.array(np.arange(num, dtype=np.int32) % 8),
    }
    return pa.table(columns)


def make_embedding(num: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num, 6)).astype(np.float32)


def further_scores(embedding_ND: np.ndarray, found: Neighbors) -> dict[str, np.ndarray]:
    return scores.further_scores(embedding_ND, found, Gaussian.of(embedding_ND))


def catalog_table(objects: pa.Table, found: Neighbors, *, model_id: str) -> pa.Table:
    further = further_scores(make_embedding(len(objects)), found)
    names_of = objects["object_id"].combine_chunks().take
    return outliers.catalog_table(objects, found, further, model_id=model_id, names_of=names_of)


def neighbors_table(objects: pa.Table, found: Neighbors) -> pa.Table:
    return outliers.neighbors_table(catalog_table(objects, found, model_id="m"))


@pytest.mark.parametrize("num", [0, 1, 2, 300])
def test_the_catalog_has_one_row_an_object_in_the_promised_columns(num):
    objects = make_objects(num)
    found = search(make_embedding(num), objects["object_id"], SearchConfig(k=5, top=10))
    catalog = catalog_table(objects, found, model_id="m1")
    assert catalog.schema.equals(schema.CATALOG, check_metadata=True)
    assert catalog["object_id"].equals(objects["object_id"])
    assert catalog["_healpix_29"].equals(objects["_healpix_29"])
    assert sorted(catalog["rank"].to_pylist()) == list(range(1, num + 1))
    assert catalog["certified"].to_pylist() == found.certified_N.tolist()
    assert set(catalog["model_id"].to_pylist()) <= {"m1"}
    assert neighbors_table(objects, found).schema.equals(schema.NEIGHBORS, check_metadata=True)


def test_an_array_of_names_has_so_many_whatever_k_is(monkeypatch):
    objects, embedding_ND = make_objects(30), make_embedding(30)
    found = search(embedding_ND, objects["object_id"], SearchConfig(k=4))
    whole = catalog_table(objects, found, model_id="m")
    monkeypatch.setattr(outliers, "NAMES_AT_ONCE", 25)
    asked = []

    def names_of(place_B):
        asked.append(len(place_B))
        return objects["object_id"].combine_chunks().take(pa.array(place_B))

    further = further_scores(embedding_ND, found)
    cut = outliers.catalog_table(objects, found, further, model_id="m", names_of=names_of)
    assert max(asked) == 24
    assert cut.select(["neighbor_id", "neighbor_distance"]).equals(
        whole.select(["neighbor_id", "neighbor_distance"])
    )


def test_neighbors_are_named_nearest_first_with_their_distances():
    objects, embedding_ND = make_objects(50), make_embedding(50)
    found = search(embedding_ND, objects["object_id"], SearchConfig(k=3))
    ids = objects["object_id"].to_pylist()
    for table in (catalog_table(objects, found, model_id="m"), neighbors_table(objects, found)):
        for row, names in enumerate(table["neighbor_id"].to_pylist()):
            assert names == [ids[i] for i in found.neighbor_NK[row]]
        distances = np.array(table["neighbor_distance"].to_pylist())
        np.testing.assert_array_equal(distances, found.distance_NK)
    assert catalog_table(objects, found, model_id="m")["outlier_score"].to_numpy().tolist() == (
        found.distance_NK[:, -1].tolist()
    )


def test_further_scores_stand_beside_the_ranking_and_one_of_them_is_it():
    objects, embedding_ND = make_objects(50), make_embedding(50)
    for score in ("kth", "mean"):
        found = search(embedding_ND, objects["object_id"], SearchConfig(k=3, score=score))
        catalog = catalog_table(objects, found, model_id="m")
        assert catalog[f"{score}_distance"].equals(catalog["outlier_score"])
        for name, score_N in further_scores(embedding_ND, found).items():
            assert catalog[name].to_pylist() == score_N.tolist()
    assert [field.name for field in schema.FURTHER_SCORES] == list(
        further_scores(embedding_ND, found)
    )


def test_a_lone_object_has_no_score_and_no_neighbors():
    objects = make_objects(1)
    found = search(make_embedding(1), objects["object_id"], SearchConfig())
    row = catalog_table(objects, found, model_id="m").to_pylist()[0]
    assert row["outlier_score"] is None
    assert row["certified"] is False
    assert row["neighbor_id"] == []
    assert {row[field.name] for field in schema.FURTHER_SCORES} == {None}
    assert row["rank"] == 1


def test_a_bound_is_called_a_bound():
    rng = np.random.default_rng(0)
    embedding_ND = rng.normal(size=(20, 4))[rng.integers(0, 20, 2000)] * 50
    embedding_ND = (embedding_ND + rng.normal(size=(2000, 4))).astype(np.float32)
    embedding_ND[:3] += np.float32(1000) * np.eye(3, 4, dtype=np.float32)
    objects = make_objects(2000)
    found = search(
        embedding_ND,
        objects["object_id"],
        SearchConfig(k=60, top=5, index="ivf-flat", num_probes=1),
    )
    catalog = catalog_table(objects, found, model_id="m")
    kinds = np.array(catalog["score_kind"].to_pylist())
    np.testing.assert_array_equal(kinds == "exact", found.is_exact_N)
    assert set(kinds) == {"exact", "bound"}
    assert np.isfinite(catalog["outlier_score"].to_numpy()).all()
    by_rank = catalog.sort_by("rank")
    assert by_rank["certified"].to_pylist() == [True] * 5 + [False] * 1995
    assert (np.diff(by_rank["outlier_score"].to_numpy()) <= 0).all()


def test_a_list_is_shorter_where_fewer_were_found():
    objects, embedding_ND = make_objects(5), make_embedding(5)
    whole = search(embedding_ND, objects["object_id"], SearchConfig(k=3))
    near_NK, distance_NK = whole.neighbor_NK.copy(), whole.distance_NK.copy()
    near_NK[1, 2:], near_NK[3] = -1, -1
    distance_NK[near_NK < 0] = np.nan
    found = dataclasses.replace(whole, neighbor_NK=near_NK, distance_NK=distance_NK)
    names_of = objects["object_id"].combine_chunks().take
    further = further_scores(embedding_ND, whole)
    catalog = outliers.catalog_table(objects, found, further, model_id="m", names_of=names_of)
    names = objects["object_id"].to_pylist()
    assert catalog["neighbor_id"].to_pylist() == [
        [names[place] for place in near_K if place >= 0] for near_K in near_NK.tolist()
    ]
    assert catalog["neighbor_distance"].to_pylist() == [
        distance_K[:num].tolist()
        for distance_K, num in zip(distance_NK, [3, 2, 3, 0, 3], strict=True)
    ]


def test_a_missing_column_is_named():
    objects = make_objects(3)
    found = search(make_embedding(3), objects["object_id"], SearchConfig())
    with pytest.raises(SchemaError, match="'processing_flags' is missing in catalog"):
        catalog_table(objects.drop_columns(["processing_flags"]), found, model_id="m")
    names_of = objects["object_id"].combine_chunks().take
    with pytest.raises(SchemaError, match="'kth_distance' is missing in catalog"):
        outliers.catalog_table(objects, found, {}, model_id="m", names_of=names_of)


def rows_of(*rows: tuple[str, str, int]) -> pa.Table:
    names = {"object_id": pa.string(), "shard": pa.string(), "row": pa.int64()}
    columns = list(zip(*rows, strict=True)) or [[], [], []]
    return pa.table({n: pa.array(c, t) for (n, t), c in zip(names.items(), columns, strict=True)})


def test_the_smallest_shard_and_row_stays_and_the_rest_name_it():
    rows = rows_of(("x", "s2", 0), ("y", "s1", 5), ("x", "s1", 10), ("x", "s1", 9), ("z", "s0", 1))
    unique = drop_duplicates(rows)
    assert unique.kept_M.tolist() == [1, 3, 4]
    assert unique.dropped_R.tolist() == [0, 2]
    assert [(r.shard, r.row, r.stage, r.kind) for r in unique.rejects] == [
        ("s2", 0, "catalog", "duplicate"),
        ("s1", 10, "catalog", "duplicate"),
    ]
    assert "object_id x is also in row 9 of shard s1, which was kept" in unique.rejects[0].reason


def test_without_duplicates_all_rows_stay():
    unique = drop_duplicates(rows_of(("a", "s", 0), ("b", "s", 1)))
    assert unique.kept_M.tolist() == [0, 1]
    assert list(unique.rejects) == []
    assert len(drop_duplicates(rows_of()).kept_M) == 0


def test_what_stays_does_not_depend_on_the_order_and_nothing_is_lost():
    rng = np.random.default_rng(2)
    picks = rng.integers(0, 4000, 10_000)
    rows = rows_of(*((f"o{p}", f"s{i % 7}", i // 7) for i, p in enumerate(picks)))
    first = drop_duplicates(rows)
    order_N = rng.permutation(len(rows))
    second = drop_duplicates(rows.take(pa.array(order_N)))
    assert set(order_N[second.kept_M]) == set(first.kept_M)
    assert sorted([*first.kept_M, *first.dropped_R]) == list(range(len(rows)))
    assert len(first.rejects) == len(first.dropped_R) == len(rows) - len(set(picks))
    kept = rows.take(pa.array(first.kept_M)).to_pylist()
    smallest: dict[str, tuple[str, int]] = {}
    for row in rows.to_pylist():
        key = (row["shard"], row["row"])
        smallest[row["object_id"]] = min(smallest.get(row["object_id"], key), key)
    assert {r["object_id"]: (r["shard"], r["row"]) for r in kept} == smallest
