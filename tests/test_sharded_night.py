"""A night that is searched in parts writes, byte for byte, what one process writes."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from astroray import catalog, ledger
from astroray.actors import join
from astroray.actors.night import rank_night
from astroray.actors.search import SearchOutcome, SearchPlan
from astroray.catalog import versions
from astroray.errors import DataError, LedgerError
from astroray.neighbors import blocks, cells, certificate
from astroray.neighbors.search import SearchConfig
from astroray.scores import drift
from astroray.search import exact_rounds, indexing, night_index
from astroray.search.sharded import rank_sharded
from astroray.search.sharded_night import rank_night_sharded
from benchmarks.embedded_runs import begin_night, in_turn, plan_of, publish_shard
from tests.test_nightly import Shards, certified, cloud, files_of, scan, shard

Rank = Callable[[SearchPlan], SearchOutcome]


def shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several partitions, few vectors at a time, rounds and samples of a few objects."""
    for module in (indexing, night_index):
        monkeypatch.setattr(module, "LEAST_ROWS", 40)
    monkeypatch.setattr(exact_rounds, "MOST_VECTORS", 30)
    monkeypatch.setattr(cells, "POINTS_PER_CELL", 4)
    monkeypatch.setattr(blocks, "LEAST_IN_A_CELL", 1)
    monkeypatch.setattr(join, "NUMBERS_AT_ONCE", 64)
    monkeypatch.setattr(certificate, "FIRST_BLOCK", 4)
    monkeypatch.setattr(certificate, "LARGEST_BLOCK", 8)
    monkeypatch.setattr(drift, "SAMPLE", 50)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    shrink(monkeypatch)


def in_parts(plan: SearchPlan) -> SearchOutcome:
    return rank_night_sharded(plan, in_turn, reason="asked for")


def strays(name: str, num: int, *, seed: int) -> tuple[list[str], np.ndarray]:
    """Objects of a lattice, so full of twins and ties, some far off; names that mix the shards."""
    draw = np.random.default_rng(seed)
    embedding_ND = draw.integers(0, 4, size=(num, 3)).astype(np.float32)
    embedding_ND[::9] += draw.integers(0, 30, size=embedding_ND[::9].shape)
    return [f"{place:05d}-{name}" for place in draw.permutation(num)], embedding_ND


CONFIG = SearchConfig(k=3, top=15)
OLD = {f"s{n}": strays(f"s{n}", 60, seed=n) for n in (1, 3, 5, 7)}
NEW = {f"s{n}": strays(f"s{n}", 25, seed=n) for n in (2, 6, 8)}


def both(
    folder: Path,
    old: Shards,
    new: Shards,
    config: SearchConfig,
    *,
    has_index: bool = False,
    **changes: object,
) -> tuple[SearchOutcome, SearchOutcome]:
    """The outcome of one process and of many, once all files were found to be the same."""
    scan(folder / "ref", old, config)
    if has_index:
        rank_sharded(plan_of(str(folder / "ref"), config), in_turn, reason="asked for")
    return tuple(nights(folder, "ref", new, config, **changes))


def nights(
    folder: Path, reference: str, new: Shards, config: SearchConfig, **changes: object
) -> list[SearchOutcome]:
    ways: Mapping[str, Rank] = {"one": rank_night, "many": in_parts}
    outcomes = []
    for way, rank in ways.items():
        out = folder / f"{way}-{reference}"
        begin_night(str(folder / reference), str(out))
        for name, (ids, embedding_ND) in new.items():
            publish_shard(str(out), name, ids, embedding_ND)
        plan = plan_of(str(out), config)
        outcomes.append(rank(dataclasses.replace(plan, **changes)))
    assert results_at(folder / f"many-{reference}") == results_at(folder / f"one-{reference}")
    one, many = outcomes
    assert many.night == one.night
    assert dataclasses.replace(many, backends=one.backends) == one
    return outcomes


def files_at(folder: Path) -> dict[str, bytes]:
    return {str(Path(name).relative_to(folder)): data for name, data in files_of(folder).items()}


def results_at(folder: Path) -> dict[str, bytes]:
    """All but the index, which one process does not write."""
    files = files_at(folder)
    return {name: data for name, data in files.items() if not name.startswith("index/")}


@pytest.mark.parametrize("has_index", [False, True])
@pytest.mark.parametrize("score", ["kth", "mean"])
def test_two_nights_in_parts_are_those_of_one_process(tmp_path, score, has_index):
    config = SearchConfig(k=3, top=15, score=score)
    one, many = both(tmp_path, OLD, NEW, config, has_index=has_index)
    assert many.backends.index == "sharded"
    assert many.backends.index_reason.startswith("asked for; 8 partitions")
    assert 75 < many.proof.num_rescored < 315
    assert many.night.drift.stability
    assert len(many.night.drift.score_quantiles) == 6
    later = {f"t{n}": strays(f"t{n}", 30, seed=10 + n) for n in range(2)}
    _, second = nights(tmp_path, "many-ref", later, config)
    assert second.counts.inherited == 315
    scan(tmp_path / "all", {**OLD, **NEW, **later}, config)
    assert certified(tmp_path / "many-many-ref").equals(certified(tmp_path / "all"))
    assert one.proof.num_certified == 15


@pytest.mark.parametrize("num_rounds", [0, 1, 5, 11])
def test_a_night_that_the_clock_stops_between_rounds_is_that_of_one_process(
    tmp_path, monkeypatch, num_rounds
):
    asked: dict[str, int] = {}

    def is_late(plan: SearchPlan) -> bool:
        asked[plan.run_dir] = asked.get(plan.run_dir, 0) + 1
        return asked[plan.run_dir] > num_rounds

    monkeypatch.setattr(SearchPlan, "is_late", is_late)
    _, many = both(tmp_path, OLD, NEW, CONFIG)
    assert many.proof.is_cut
    assert many.proof.num_rescored == 8 * num_rounds
    assert set(asked.values()) == {num_rounds + 1}
    table = versions.read_version(str(tmp_path / "many-ref"))
    assert len(table) == 315
    # What the clock kept from being searched has no neighbors, though a twin of it may have.
    kinds = set(zip(*(table[n].to_pylist() for n in ("score_kind", "outlier_score")), strict=True))
    assert (("bound", np.inf) in kinds) == (num_rounds < 12)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    old=st.lists(st.integers(0, 6), min_size=1, max_size=14),
    new=st.lists(st.integers(0, 6), max_size=6),
    k=st.integers(1, 6),
    top=st.integers(1, 8),
)
def test_so_is_one_of_few_objects_with_twins_and_more_neighbors_than_objects(
    tmp_path_factory, old, new, k, top
):
    first = shard("b", np.array([[x, 0] for x in old], np.float32))
    second = shard("a", np.array([[x, 1] for x in new], np.float32).reshape(-1, 2))
    halves = {"b0": tuple(part[::2] for part in first), "b1": tuple(part[1::2] for part in first)}
    config = SearchConfig(k=k, top=top)
    folder = tmp_path_factory.mktemp("few")
    _, many = both(folder, halves, {"a": second}, config)
    assert many.proof.num_objects == len(old) + len(new)


def test_rows_that_are_no_objects_are_dropped_as_in_one_process(tmp_path):
    """Twice in the reference, twice in a night, known already; a shard with nothing else."""
    old = {"a": (["x", "y", "x", "z"], cloud(4)), "b": shard("b", cloud(40, seed=3))}
    new = {
        "c": (["n", "b-7", "n", "o"], cloud(4, seed=4)),
        "d": (["y", "x"], cloud(2, seed=5)),
        "e": (["o", "p"], cloud(2, seed=6)),
    }
    config = SearchConfig(k=2, top=5)
    _, many = both(tmp_path, old, new, config)
    assert many.counts.duplicates == 5
    assert many.counts.inherited == 43
    assert many.counts.catalog == 46
    rejects = ledger.read_rejects(str(tmp_path / "many-ref"))
    assert rejects["shard"].to_pylist() == ["c", "c", "d", "d", "e"]
    # The next night drops what both have dropped, and speaks of its own alone.
    _, many = nights(tmp_path, "many-ref", {"f": shard("f", cloud(3, seed=7))}, config)
    assert many.counts.duplicates == 0
    assert many.counts.inherited == 46


def test_a_night_without_anything_new_proves_the_list_again(tmp_path):
    _, many = both(tmp_path, OLD, {}, CONFIG)
    assert many.night.objects_new == 0
    assert many.night.rows_written == many.proof.num_rescored == 16  # and the highest bound


def test_no_scratch_stays_and_what_stood_is_not_made_again(tmp_path):
    both(tmp_path, OLD, NEW, CONFIG)
    out = tmp_path / "many-ref"
    assert not list((out / "index").glob("scratch-*"))
    before = files_at(out)
    partitions = sorted((out / "index").glob("partition-*"))
    assert len(partitions) == 8
    times = [path.stat().st_mtime_ns for path in partitions]
    in_parts(plan_of(str(out), CONFIG))
    assert [path.stat().st_mtime_ns for path in partitions] == times
    assert files_at(out) == before


def test_an_older_file_that_has_changed_and_a_number_that_is_not_finite_are_named(tmp_path):
    config = SearchConfig(k=2, top=3)
    scan(tmp_path / "ref", {"a": shard("a", cloud(8))}, config)
    begin_night(str(tmp_path / "ref"), str(tmp_path / "night"))
    publish_shard(str(tmp_path / "night"), "b", *shard("b", np.full((2, 4), np.nan, np.float32)))
    plan = plan_of(str(tmp_path / "night"), config)
    file = tmp_path / "ref" / catalog.catalog_files(str(tmp_path / "ref"))[-1]
    good = file.read_bytes()
    file.write_bytes(good + b"x")
    with pytest.raises(LedgerError, match=r"Npix=\d+\.parquet has changed.*new reference"):
        in_parts(plan)
    file.write_bytes(good)
    with pytest.raises(DataError, match="object b-0 has a NaN"):
        in_parts(plan)
    (tmp_path / "ref" / "embeddings" / "a.parquet").unlink()
    with pytest.raises(LedgerError, match=r"a\.parquet is missing"):
        in_parts(plan)
