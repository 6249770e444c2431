"""A search over partitions finds what one process finds, and says so in the same words."""

import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from astroray import ledger
from astroray.actors.search import rank_survey
from astroray.catalog import read_catalog
from astroray.errors import DataError, LedgerError
from astroray.execution.progress import Steps, read_steps
from astroray.inspection import verify_run
from astroray.neighbors import partitions
from astroray.neighbors.partitions import Manifest, Partition
from astroray.run_record import RunRecord
from astroray.search import exact_rounds, indexing
from astroray.search.sharded import rank_sharded
from benchmarks.embedded_runs import in_turn, make_embedded, plan_search, write_shard


@pytest.fixture(autouse=True)
def small_partitions(monkeypatch):
    monkeypatch.setattr(indexing, "LEAST_ROWS", 16)
    monkeypatch.setattr("astroray.neighbors.cells.POINTS_PER_CELL", 4)


def names(num: int) -> list[str]:
    """Unique names whose order is not that of the rows."""
    return [f"obj-{i}" for i in np.random.default_rng(0).permutation(num)]


def strays(num: int = 600, dim: int = 6) -> np.ndarray:
    """Clusters, some objects far from all, and forty equal ones."""
    rng = np.random.default_rng(1)
    center_CD = rng.normal(size=(12, dim)) * 4
    embedding_ND = center_CD[rng.integers(0, 12, num)] + rng.normal(size=(num, dim)) * 0.3
    embedding_ND[::40] = rng.normal(size=(len(embedding_ND[::40]), dim)) * 8
    embedding_ND[5:45] = 0.5
    return embedding_ND.astype(np.float32)


def both(folder: Path, embedding_ND, ids, *, rows_each=40, on_sky=False, **options):
    """Outcome and catalog of one process by brute force, and of a search over partitions."""
    found = []
    for name in ("one", "many"):
        run_dir = make_embedded(
            folder / name, embedding_ND, ids, rows_each=rows_each, on_sky=on_sky
        )
        if name == "one":
            flat = {k: v for k, v in options.items() if k != "num_probes"}
            outcome = rank_survey(plan_search(run_dir, index="flat", **flat))
        else:
            outcome = rank_sharded(plan_search(run_dir, **options), in_turn, reason="asked for")
        found.append((outcome, read_catalog(run_dir)))
    return found


def assert_same_top(got, expected, top: int) -> None:
    """All of the certified objects, but what depends on the lists of their neighbors."""
    got, expected = (t.drop_columns("local_outlier_factor").slice(0, top) for t in (got, expected))
    assert got.equals(expected)


# ---- the same as in one process

LATTICES = st.tuples(
    st.integers(1, 60), st.integers(1, 3), st.integers(1, 4), st.integers(0, 2**20)
)


@given(
    shape=LATTICES,
    k=st.integers(1, 70),
    top=st.integers(1, 20),
    score=st.sampled_from(["kth", "mean"]),
    num_probes=st.sampled_from([None, 1, 2, 1000]),
    rows_each=st.integers(5, 30),
)
@settings(
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_a_search_over_partitions_equals_one_process_bit_for_bit(
    tmp_path_factory, shape, k, top, score, num_probes, rows_each
):
    """Lattices of few values: full of twins and of ties, also between partitions."""
    num, dim, num_values, seed = shape
    rng = np.random.default_rng(seed)
    embedding_ND = rng.integers(0, num_values, size=(num, dim)).astype(np.float32)
    ids = [f"{i}" for i in rng.permutation(num)]
    options = {"k": k, "top": top, "score": score, "num_probes": num_probes}
    (one, expected), (many, got) = both(
        tmp_path_factory.mktemp("lattice"), embedding_ND, ids, rows_each=rows_each, **options
    )
    assert many.counts == one.counts
    assert_same_top(got, expected, top)
    assert many.proof.threshold == one.proof.threshold
    if num_probes == 1000:  # all cells: nothing is a bound
        assert got.equals(expected)
        assert many.proof == one.proof


@pytest.mark.parametrize(("has_native", "products"), [(True, "native"), (False, "reference")])
def test_the_outcome_says_what_multiplied(tmp_path, monkeypatch, has_native, products):
    monkeypatch.setattr(exact_rounds, "has_native", lambda: has_native)
    run_dir = make_embedded(tmp_path, strays(60), names(60))
    outcome = rank_sharded(plan_search(run_dir, k=2), in_turn, reason="asked for")
    assert outcome.backends.products == products


@pytest.mark.parametrize("score", ["kth", "mean"])
def test_bad_bounds_still_give_the_exact_top_list(tmp_path, score):
    options = {"k": 5, "top": 20, "score": score, "num_probes": 1}
    (one, expected), (many, got) = both(tmp_path, strays(), names(600), **options)
    assert_same_top(got, expected, 20)
    assert many.proof.threshold == one.proof.threshold
    assert many.proof.num_rescored < 300
    assert many.proof.next_bound < many.proof.threshold
    assert many.backends.index == "sharded"
    exact = expected.select(["object_id", "outlier_score"]).to_pylist()
    exact_score = {row["object_id"]: row["outlier_score"] for row in exact}
    for row in got.to_pylist():
        assert row["outlier_score"] >= exact_score[row["object_id"]]
        assert row["outlier_score"] == row[f"{score}_distance"]


def test_duplicates_of_an_object_are_dropped_as_in_one_process(tmp_path):
    ids = names(200)
    ids[150] = ids[3]  # another shard, another embedding
    ids[4] = ids[3]
    options = {"k": 3, "num_probes": 1000}
    (one, expected), (many, got) = both(tmp_path, strays(200), ids, on_sky=True, **options)
    assert many.counts == one.counts
    assert many.counts.duplicates == 2
    assert got.equals(expected)
    rejects = [ledger.read_rejects(str(tmp_path / name)) for name in ("one", "many")]
    assert rejects[0].equals(rejects[1])


def test_all_objects_equal_have_score_zero_and_are_ranked_by_name(tmp_path):
    embedding_ND = np.full((90, 4), 2.5, np.float32)
    (_, expected), (many, got) = both(tmp_path, embedding_ND, names(90), k=3, top=5)
    assert got.equals(expected)
    assert set(got["outlier_score"].to_pylist()) == {0.0}
    assert many.proof.threshold == 0.0


def test_two_million_duplicates_of_one_vector_are_one_row_of_their_partition(tmp_path):
    """The tasks that search see vectors, not objects, so such a survey costs them nothing."""
    number_N = np.arange(2_000_000)
    block = partitions.Block(
        vector_UD=np.array([[0.0, 0.0], [1.0, 0.0]], np.float32),
        member_N=np.append(number_N, len(number_N)),
        count_U=np.array([len(number_N), 1]),
        cell_U=np.array([0, 0], np.int32),
    )
    Partition.write(str(tmp_path / "p.arrow"), np.zeros(2, np.float32), block)
    opened = Partition(str(tmp_path / "p.arrow"))
    near_GW, distance_GW = opened.block(slice(0, 2)).nearest(opened.vector_VD.copy(), 4)
    assert near_GW.tolist() == [[0, 1, 2, 3], [2_000_000, 0, 1, 2]]
    assert distance_GW.tolist() == [[0, 0, 0, 0], [0, 1, 1, 1]]


def test_neither_order_nor_size_of_groups_changes_the_list(tmp_path, monkeypatch):
    def forwards(function, arguments):
        for place, args in enumerate(arguments):
            yield place, function(*args)

    catalogs = []
    for least, each in ((8, in_turn), (64, forwards), (10**6, in_turn)):
        monkeypatch.setattr(indexing, "LEAST_ROWS", least)
        run_dir = make_embedded(tmp_path / str(least), strays(), names(600))
        rank_sharded(plan_search(run_dir, k=5, num_probes=1), each, reason="asked for")
        catalogs.append(read_catalog(run_dir))
        assert len(Manifest.load(run_dir).partitions) == {8: 32, 64: 10, 10**6: 1}[least]
    assert catalogs[1].equals(catalogs[0])
    assert catalogs[2].equals(catalogs[0])


def test_cells_that_find_too_little_give_way_to_all_of_them(tmp_path):
    noise = np.random.default_rng(0).normal(size=(500, 30)).astype(np.float32)
    (one, expected), (many, got) = both(tmp_path, noise, names(500), k=5)
    assert "; cells would not help: 4 of 16 cells" in many.backends.index_reason
    assert got.equals(expected)
    assert many.proof == one.proof


def test_it_says_what_it_does_and_how_many_tasks_are_done(tmp_path):
    run_dir = make_embedded(tmp_path, strays(200), names(200))
    shown = []
    steps = Steps(shown.append, run_dir)

    def note(what, done, total):
        steps(what, done, total)
        assert 0 <= done <= total
        assert "tasks" in read_steps(run_dir)

    rank_sharded(plan_search(run_dir, k=3), in_turn, reason="asked for", note=note)
    notes = [progress.note for progress in shown]
    num = len(Manifest.load(run_dir).partitions)
    for words in ("checking embeddings", "building partitions", "searching cells", "exact round 1"):
        assert any(text.startswith(words) for text in notes), words
    assert f"searching cells, {num} of {num} tasks" in notes
    assert notes[-1] == "joining the catalog, 1 of 1 tasks"
    assert read_steps(run_dir) == ""


# ---- the index


def test_an_index_that_stands_is_used_and_one_of_other_embeddings_is_not(tmp_path):
    run_dir = make_embedded(tmp_path / "run", strays(), names(600))
    plan = plan_search(run_dir, k=5)
    steps: list[str] = []

    def noted(function, arguments):
        steps.append(function.__name__)
        return in_turn(function, arguments)

    rank_sharded(plan, noted, reason="asked for")
    assert "build" in steps
    first = Manifest.load(run_dir)
    steps.clear()
    rank_sharded(plan, noted, reason="asked for")
    assert "build" not in steps
    write_shard(run_dir, "shard-zzz", strays(40)[:9], [f"new-{i}" for i in range(9)])
    rank_sharded(plan, noted, reason="asked for")
    assert "build" in steps
    second = Manifest.load(run_dir)
    assert second.num_objects == first.num_objects + 9
    assert {p.uri for p in second.partitions}.isdisjoint(p.uri for p in first.partitions)
    assert all((tmp_path / "run" / "index" / p.uri).exists() for p in first.partitions)
    assert not list((tmp_path / "run" / "index").glob("scratch-*"))


@pytest.mark.parametrize("damage", ["missing", "flipped", "cut"])
@pytest.mark.parametrize("name", ["partition", "cells", "objects"])
def test_a_damaged_file_of_the_index_is_named_and_built_anew(tmp_path, caplog, damage, name):
    run_dir = make_embedded(tmp_path / "run", strays(200), names(200))
    plan = plan_search(run_dir, k=5)
    rank_sharded(plan, in_turn, reason="asked for")
    expected, manifest = read_catalog(run_dir), Manifest.load(run_dir)
    file = sorted((tmp_path / "run" / "index").glob(f"{name}-*"))[-1]
    whole = file.read_bytes()
    broken = {"missing": None, "flipped": whole[:-9] + b"?" + whole[-8:], "cut": whole[:-100]}
    file.unlink() if damage == "missing" else file.write_bytes(broken[damage])
    with caplog.at_level(logging.WARNING):
        rank_sharded(plan, in_turn, reason="asked for")
    assert file.name in caplog.text
    assert "built anew from the embeddings" in caplog.text
    assert file.read_bytes() == whole
    assert Manifest.load(run_dir) == manifest
    assert read_catalog(run_dir).equals(expected)


@pytest.mark.parametrize("damage", ["missing", "flipped", "manifest"])
def test_verify_names_what_is_wrong_with_an_index_and_what_mends_it(tmp_path, damage):
    run_dir = make_embedded(tmp_path, strays(200), names(200))
    outcome = rank_sharded(plan_search(run_dir, k=5), in_turn, reason="asked for")
    RunRecord(
        survey="made", fingerprint="f", config={}, created="2026", state="done",
        counts=outcome.counts, proof=outcome.proof,
    ).publish(run_dir)  # fmt: skip
    of_index = [fault for fault in verify_run(run_dir) if "/index/" in fault]
    assert of_index == []
    file = sorted((tmp_path / "index").glob("partition-*"))[3]
    if damage == "manifest":
        file = tmp_path / "index" / "manifest.json"
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-9] + b"?" * 9)
    (fault,) = [fault for fault in verify_run(run_dir) if "/index/" in fault]
    assert file.name in fault
    words = {"missing": "is missing", "flipped": "expects", "manifest": "is damaged"}[damage]
    assert words in fault
    assert "builds it anew" in fault


def test_a_damaged_partition_of_another_run_is_refused_and_not_touched(tmp_path):
    run_dir = make_embedded(tmp_path / "run", strays(200), names(200))
    plan = plan_search(run_dir, k=5)
    rank_sharded(plan, in_turn, reason="asked for")
    manifest = Manifest.load(run_dir)
    elsewhere = tmp_path / "elsewhere.arrow"
    elsewhere.write_bytes(b"not a partition")
    text = (tmp_path / "run" / "index" / "manifest.json").read_text()
    changed = text.replace(f'"{manifest.partitions[0].uri}"', f'"{elsewhere}"')
    (tmp_path / "run" / "index" / "manifest.json").write_text(changed)
    with pytest.raises(LedgerError, match=r"elsewhere\.arrow has sha256 .* belongs to another run"):
        rank_sharded(plan, in_turn, reason="asked for")
    assert elsewhere.read_bytes() == b"not a partition"


def test_a_manifest_that_cannot_be_read_is_refused_by_name(tmp_path):
    run_dir = make_embedded(tmp_path / "run", strays(60), names(60))
    (tmp_path / "run" / "index").mkdir()
    (tmp_path / "run" / "index" / "manifest.json").write_text('{"partitions": 3}')
    with pytest.raises(LedgerError, match=r"manifest\.json is damaged .*delete it"):
        rank_sharded(plan_search(run_dir), in_turn, reason="asked for")


def test_a_number_that_is_not_finite_is_refused_by_the_name_of_its_object(tmp_path):
    embedding_ND = strays(60)
    embedding_ND[7, 2] = np.nan
    run_dir = make_embedded(tmp_path / "run", embedding_ND, names(60))
    with pytest.raises(DataError, match=rf"object {names(60)[7]} has a NaN"):
        rank_sharded(plan_search(run_dir), in_turn, reason="asked for")


def test_embeddings_that_differ_from_their_receipt_are_refused(tmp_path):
    run_dir = make_embedded(tmp_path / "run", strays(60), names(60))
    path = tmp_path / "run" / "embeddings" / "shard-000000040.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(LedgerError, match=r"shard-000000040.* differs from its receipt.*--repair"):
        rank_sharded(plan_search(run_dir), in_turn, reason="asked for")


@pytest.mark.s3
def test_an_index_on_an_object_store_is_that_on_a_disk(s3, tmp_path):
    options = {"k": 5, "top": 20, "num_probes": 1}
    found = []
    for run_dir in (s3.new_prefix(), str(tmp_path)):
        make_embedded(run_dir, strays(120), names(120))
        rank_sharded(plan_search(run_dir, **options), in_turn, reason="asked for")
        found.append((read_catalog(run_dir), Manifest.load(run_dir)))
    assert found[0][0].equals(found[1][0])
    assert found[0][1] == found[1][1]
