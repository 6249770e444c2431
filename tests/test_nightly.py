"""A night equals a scan of all: the same certified list from bounds, whatever comes in."""

import dataclasses
import shutil
import types
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from astroray import catalog, ledger, schema
from astroray.actors.night import rank_night
from astroray.actors.search import SearchOutcome, rank_survey
from astroray.catalog import exports, pixels, versions
from astroray.config import EncoderConfig, ScanConfig
from astroray.errors import ConfigError, LedgerError
from astroray.neighbors.search import SearchConfig, search
from astroray.nightly import NightConfig, _scan_config, parse_finish_by
from astroray.run_files import model_file
from astroray.run_record import Changes
from astroray.settings import to_dict
from benchmarks.embedded_runs import begin_night, plan_of, publish_shard

Shards = Mapping[str, tuple[list[str], np.ndarray]]
EXACT = ["object_id", "rank", "outlier_score", "neighbor_id", "neighbor_distance", "score_kind"]


def cloud(num: int, *, seed: int = 0, dim: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num, dim)).astype(np.float32)


def shard(name: str, embedding_ND: np.ndarray) -> tuple[list[str], np.ndarray]:
    return [f"{name}-{row}" for row in range(len(embedding_ND))], embedding_ND


def scan(out: Path, shards: Shards, config: SearchConfig) -> SearchOutcome:
    for name, (ids, embedding_ND) in shards.items():
        publish_shard(str(out), name, ids, embedding_ND)
    return rank_survey(plan_of(str(out), config))


def night(out: Path, reference: Path, shards: Shards, config: SearchConfig) -> SearchOutcome:
    begin_night(str(reference), str(out))
    for name, (ids, embedding_ND) in shards.items():
        publish_shard(str(out), name, ids, embedding_ND)
    return rank_night(plan_of(str(out), config))


def certified(run_dir: Path) -> pa.Table:
    table = versions.read_version(str(run_dir))
    return table.filter(table["certified"]).select(EXACT).combine_chunks()


@pytest.mark.parametrize("score", ["kth", "mean"])
def test_two_nights_prove_the_list_of_a_scan_of_all(tmp_path, score):
    config = SearchConfig(k=3, top=15, score=score)
    parts = {f"s{i}": shard(f"s{i}", cloud(120, seed=i)) for i in range(6)}
    first, second, third = ({n: parts[n] for n in names} for names in (
        ("s0", "s1", "s2", "s3"), ("s4",), ("s5",)
    ))  # fmt: skip
    scan(tmp_path / "ref", first, config)
    before = files_of(tmp_path / "ref")
    one = night(tmp_path / "n1", tmp_path / "ref", second, config)
    two = night(tmp_path / "n2", tmp_path / "n1", third, config)
    scan(tmp_path / "all", parts, config)
    assert certified(tmp_path / "n2").equals(certified(tmp_path / "all"))
    assert one.proof.num_rescored < 600
    assert two.proof.num_rescored < 720
    assert files_of(tmp_path / "ref") == before
    whole = versions.read_version(str(tmp_path / "n2"))
    assert len(whole) == 720
    assert whole["rank"].to_pylist() == list(range(1, 721))
    own = catalog.read_catalog(str(tmp_path / "n2"))
    assert len(own) == two.proof.num_rescored
    bounds = whole.filter(pa.compute.equal(whole["score_kind"], "bound"))
    exact = versions.read_version(str(tmp_path / "all"))
    exact_of = dict(
        zip(*(exact[n].to_pylist() for n in ("object_id", "outlier_score")), strict=True)
    )
    assert len(bounds) == 720 - len(own)
    for name, bound in zip(
        *(bounds[n].to_pylist() for n in ("object_id", "outlier_score")), strict=True
    ):
        assert exact_of[name] <= bound


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    old=st.lists(st.integers(0, 6), max_size=12),
    new=st.lists(st.integers(0, 6), max_size=6),
    k=st.integers(1, 6),
    top=st.integers(1, 8),
    score=st.sampled_from(["kth", "mean"]),
)
def test_a_night_equals_a_scan_of_all_with_twins_and_more_neighbors_than_objects(
    tmp_path, old, new, k, top, score
):
    for folder in tmp_path.iterdir():
        shutil.rmtree(folder)
    config = SearchConfig(k=k, top=top, score=score)
    first = {"a": shard("a", np.array([[x, 0] for x in old], np.float32).reshape(-1, 2))}
    second = {"b": shard("b", np.array([[x, 1] for x in new], np.float32).reshape(-1, 2))}
    scan(tmp_path / "ref", first, config)
    outcome = night(tmp_path / "night", tmp_path / "ref", second, config)
    scan(tmp_path / "all", first | second, config)
    assert certified(tmp_path / "night").equals(certified(tmp_path / "all"))
    assert outcome.proof.num_objects == len(old) + len(new)


@settings(max_examples=150)
@given(
    old=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), min_size=1, max_size=25),
    new=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), max_size=8),
    k=st.integers(1, 5),
    top=st.integers(1, 12),
    score=st.sampled_from(["kth", "mean"]),
)
def test_from_bounds_the_search_proves_what_it_finds_without(old, new, k, top, score):
    config = SearchConfig(k=k, top=top, score=score)
    vectors = np.array([*old, *new], np.float32)
    ids = [f"{(7 * i) % 41:02d}" for i in range(len(vectors))]
    before = search(vectors[: len(old)], ids[: len(old)], config)
    bound_N = np.full(len(vectors), np.inf)
    if len(old) > k:
        bound_N[: len(old)] = before.score_N
    again = search(vectors, ids, config, bound_N=bound_N)
    whole = search(vectors, ids, config)
    assert np.array_equal(again.certified_N, whole.certified_N)
    top_N = whole.certified_N
    for name in ("rank_N", "score_N", "neighbor_NK", "distance_NK"):
        assert np.array_equal(getattr(again, name)[top_N], getattr(whole, name)[top_N]), name
    known_N = ~np.isnan(whole.score_N)
    assert (again.score_N[known_N] >= whole.score_N[known_N]).all()


def test_scores_of_fewer_than_k_neighbors_bound_nothing(tmp_path):
    config = SearchConfig(k=3, top=1)
    near = np.array([[0], [1], [1.5]], np.float32)  # two neighbors each: the score is the second
    scan(tmp_path / "ref", {"a": shard("a", near)}, config)
    far = np.array([[50], [90]], np.float32)
    outcome = night(tmp_path / "night", tmp_path / "ref", {"b": shard("b", far)}, config)
    assert outcome.proof.num_rescored == 5


def test_the_clock_leaves_a_valid_catalog_and_certifies_only_what_is_proven(tmp_path):
    config = SearchConfig(k=3, top=10)
    scan(tmp_path / "ref", {"a": shard("a", cloud(60))}, config)
    begin_night(str(tmp_path / "ref"), str(tmp_path / "night"))
    publish_shard(str(tmp_path / "night"), "b", *shard("b", cloud(9, seed=1)))
    plan = dataclasses.replace(plan_of(str(tmp_path / "night"), config), finish_by_s=1.0)
    outcome = rank_night(plan)
    assert outcome.proof.num_certified == 0
    assert outcome.proof.sentence.startswith("stopped by the clock with 0 of 69")
    table = versions.read_version(str(tmp_path / "night"))
    assert len(table) == 69
    assert not any(table["certified"].to_pylist())
    assert set(table["score_kind"].to_pylist()) == {"bound"}


def test_an_object_of_the_reference_stays_and_its_second_row_is_a_counted_duplicate(tmp_path):
    config = SearchConfig(k=2, top=4)
    scan(tmp_path / "ref", {"m": shard("m", cloud(20))}, config)
    ids, again = ["m-3", "new-0", "new-0"], cloud(3, seed=2)
    outcome = night(tmp_path / "night", tmp_path / "ref", {"a": (ids, again)}, config)
    counts = outcome.counts
    assert (counts.inherited, counts.duplicates, counts.catalog) == (20, 2, 21)
    assert dataclasses.replace(counts, rows_embedded=3).is_conserved
    reasons = ledger.read_rejects(str(tmp_path / "night"))["reason"].to_pylist()
    assert any("m-3 is in the reference already" in reason for reason in reasons)
    table = versions.read_version(str(tmp_path / "night"))
    assert table.filter(pa.compute.equal(table["object_id"], "m-3"))["shard"].to_pylist() == ["m"]


def test_duplicates_that_the_reference_dropped_stay_dropped(tmp_path):
    config = SearchConfig(k=2, top=5)
    first = {"a": (["x", "y", "x", "z"], cloud(4)), "b": shard("b", cloud(10, seed=3))}
    second = {"c": shard("c", cloud(3, seed=4))}
    scan(tmp_path / "ref", first, config)
    night(tmp_path / "night", tmp_path / "ref", second, config)
    scan(tmp_path / "all", first | second, config)
    assert certified(tmp_path / "night").equals(certified(tmp_path / "all"))


def test_the_change_list_says_who_entered_left_and_moved(tmp_path):
    config = SearchConfig(k=1, top=3)
    line = np.array([[0], [0.1], [10], [30], [60]], np.float32)
    scan(tmp_path / "ref", {"a": shard("a", line)}, config)  # the list: a-4, a-3, a-2
    added = np.array([[10.1], [100]], np.float32)
    outcome = night(tmp_path / "night", tmp_path / "ref", {"b": shard("b", added)}, config)
    changes = pq.read_table(tmp_path / "night" / "changes.parquet")
    assert changes.schema.equals(schema.CHANGES, check_metadata=True)
    columns = ("object_id", "change", "rank", "rank_before")
    assert list(zip(*(changes[n].to_pylist() for n in columns), strict=True)) == [
        ("b-1", "entered", 1, None),
        ("a-4", "moved", 2, 1),
        ("a-3", "moved", 3, 2),
        ("a-2", "left", 4, 3),
    ]
    assert outcome.night.changes == Changes(entered=1, left=1, moved=2)


def test_an_older_file_that_has_changed_or_gone_is_named(tmp_path):
    config = SearchConfig(k=2, top=3)
    scan(tmp_path / "ref", {"a": shard("a", cloud(8))}, config)
    begin_night(str(tmp_path / "ref"), str(tmp_path / "night"))
    publish_shard(str(tmp_path / "night"), "b", *shard("b", cloud(2, seed=1)))
    catalog_file = tmp_path / "ref" / catalog.catalog_files(str(tmp_path / "ref"))[0]
    good = catalog_file.read_bytes()
    catalog_file.write_bytes(good + b"x")
    with pytest.raises(LedgerError, match=r"Npix=\d+\.parquet has changed.*begin a new reference"):
        rank_night(plan_of(str(tmp_path / "night"), config))
    catalog_file.write_bytes(good)
    (tmp_path / "ref" / "embeddings" / "a.parquet").unlink()
    with pytest.raises(LedgerError, match=r"a\.parquet is missing"):
        rank_night(plan_of(str(tmp_path / "night"), config))


@pytest.mark.filterwarnings("ignore")
def test_the_catalog_of_a_night_opens_in_hats_and_lsdb(tmp_path):
    import lsdb
    from hats.io.validation import is_valid_catalog

    config = SearchConfig(k=2, top=6)
    scan(tmp_path / "ref", {"a": shard("a", cloud(50))}, config)
    outcome = night(tmp_path / "night", tmp_path / "ref", {"b": shard("b", cloud(9))}, config)
    folder = tmp_path / "night" / "catalog"
    assert is_valid_catalog(folder, strict=True)
    opened = lsdb.open_catalog(folder)
    assert len(opened.query("certified").compute()) == 6
    assert len(opened.compute()) == outcome.night.rows_written


def test_a_night_is_read_a_row_group_at_a_time_with_the_rows_of_its_version(tmp_path, monkeypatch):
    monkeypatch.setattr(pixels, "ROW_GROUP_SIZE", 16)
    config = SearchConfig(k=3, top=6)
    scan(tmp_path / "ref", {"a": shard("a", cloud(200))}, config)
    night(tmp_path / "n1", tmp_path / "ref", {"b": shard("b", cloud(30, seed=1))}, config)
    night(tmp_path / "n2", tmp_path / "n1", {"c": shard("c", cloud(30, seed=2))}, config)
    run_dir = str(tmp_path / "n2")
    pieces = [piece.read(schema.CATALOG.names) for piece in versions.read_pieces(run_dir)]
    assert max(map(len, pieces)) <= 16
    rows = pa.concat_tables(pieces).sort_by("rank").combine_chunks()
    assert rows["rank"].to_pylist() == list(range(1, 261))
    assert rows.equals(versions.read_version(run_dir))
    # Each object as the last version wrote it that did; older rows are bounds.
    latest = {}
    for name in ("ref", "n1", "n2"):
        for row in catalog.read_catalog(str(tmp_path / name)).to_pylist():
            if name != "n2":
                row |= {"score_kind": "bound", "certified": False}
            latest[row["object_id"]] = row
    expected = sorted(latest.values(), key=lambda row: (-row["outlier_score"], row["object_id"]))
    for rank, row in enumerate(expected, start=1):
        row["rank"] = rank
    assert rows.to_pylist() == expected
    light = [p.read(["certified", "object_id"]) for p in versions.read_pieces(run_dir)]
    assert pa.concat_tables(light).column_names == ["certified", "object_id"]
    out = str(tmp_path / "night.csv")
    assert exports.export_catalog(run_dir, format="csv", out=out) == 260


@pytest.mark.parametrize(
    "encoder",
    [
        EncoderConfig(name="mine.onnx", output="embedding"),
        EncoderConfig(name="nets:Small", network={"width": 8}),
    ],
)
def test_a_night_takes_a_model_without_the_settings_that_made_it(encoder):
    """It was refused: a model file has neither outputs to choose from nor keywords."""
    before = ScanConfig(survey="hdf", out="run", encoder=encoder)
    asked = NightConfig(survey="hdf", reference="run", out="night")
    night = _scan_config(asked, types.SimpleNamespace(config=to_dict(before)))
    assert night.encoder == EncoderConfig(name=model_file("run"))


def test_finish_by_is_the_next_such_time():
    noon_s = 1_800_000_000.0
    then_s = parse_finish_by("06:30", now_s=noon_s)
    assert 0 < then_s - noon_s <= 86_400
    assert then_s % 60 == 0
    with pytest.raises(ConfigError, match="expected HH:MM"):
        parse_finish_by("six")
