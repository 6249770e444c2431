"""A night refers to the partitions that stand, adds its own, and mends what it cannot use."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from astroray import inspection, storage
from astroray.actors import join
from astroray.actors.night import rank_night
from astroray.catalog import versions
from astroray.errors import LedgerError
from astroray.neighbors.partitions import Manifest
from astroray.nightly import NightConfig, run_night
from astroray.retention import delete_files, export_version, find_prunable
from astroray.search import night_index
from astroray.search.sharded import rank_sharded
from astroray.search.sharded_night import rank_night_sharded
from astroray.similar import find_similar
from astroray.surveys.simulated_files import write_survey
from benchmarks.embedded_runs import begin_night, in_turn, plan_of, publish_shard
from tests import scans
from tests.test_nightly import files_of, scan, shard
from tests.test_sharded_night import CONFIG, NEW, OLD, results_at, shrink, small_parts, strays

__all__ = ["small_parts"]

LATER = {f"t{n}": strays(f"t{n}", 30, seed=10 + n) for n in range(2)}


@pytest.fixture(scope="module")
def indexed(tmp_path_factory) -> Path:
    """A scan with an index."""
    run_dir = tmp_path_factory.mktemp("indexed") / "ref"
    scan(run_dir, OLD, CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        rank_sharded(plan_of(str(run_dir), CONFIG), in_turn, reason="asked for")
    return run_dir


@pytest.fixture
def ref(indexed, tmp_path) -> Path:
    return Path(shutil.copytree(indexed, tmp_path / "ref"))


def night(out: Path, reference: Path, new, each=in_turn) -> Manifest:
    """The manifest of a night in parts, once its results were found to be those of one process."""
    for folder in (out, out.with_name(f"{out.name}-one")):
        begin_night(str(reference), str(folder))
        for name, (ids, embedding_ND) in new.items():
            publish_shard(str(folder), name, ids, embedding_ND)
    rank_night_sharded(plan_of(str(out), CONFIG), each, reason="asked for")
    rank_night(plan_of(str(folder), CONFIG))
    assert results_at(out) == results_at(folder)
    manifest = Manifest.load(str(out))
    assert [fault for file in manifest.files if (fault := manifest.damage(str(out), *file))] == []
    return manifest


def test_each_night_writes_the_partitions_of_its_own_objects_and_leaves_all_others(ref, tmp_path):
    steps: list[tuple[str, int]] = []

    def noted(function, arguments):
        steps.append((function.__name__, len(arguments)))
        return in_turn(function, arguments)

    before = files_of(ref)
    first = night(tmp_path / "n1", ref, NEW, noted)
    assert ("identify", 2) in steps  # of 75 new rows; older embeddings are not read
    assert "choose_cells" not in dict(steps)
    written = files_of(tmp_path / "n1")
    second = night(tmp_path / "n2", tmp_path / "n1", LATER)
    assert files_of(ref) == before
    assert files_of(tmp_path / "n1") == written
    assert [layer.num_objects for layer in second.layers] == [240, 75, 60]
    assert second.older[1].partitions == tuple(
        first.located(lambda uri: first.path(str(tmp_path / "n1"), uri)).partitions
    )
    assert len(Manifest.load(str(ref)).partitions) == 6
    assert second.cells == str(ref / "index" / Manifest.load(str(ref)).cells)
    own = [path.name for path in (tmp_path / "n2" / "index").iterdir()]
    assert sorted(name.partition("-")[0] for name in own) == [
        "manifest.json", "objects", "partition", "partition", "ranking"
    ]  # fmt: skip


def test_a_night_with_nothing_new_writes_no_partition(ref, tmp_path):
    manifest = night(tmp_path / "night", ref, {})
    assert manifest.partitions == ()
    again = night(tmp_path / "again", tmp_path / "night", NEW)
    assert [layer.num_objects for layer in again.layers] == [240, 0, 75]


def test_a_night_of_objects_that_are_known_already_writes_no_partition(ref, tmp_path):
    ids, embedding_ND = OLD["s3"]
    manifest = night(tmp_path / "night", ref, {"s4": (ids[:9], embedding_ND[:9])})
    assert (manifest.num_objects, manifest.num_duplicates, manifest.partitions) == (0, 9, ())
    assert night(tmp_path / "again", tmp_path / "night", NEW).older[1].num_duplicates == 9


@pytest.mark.parametrize("name", ["partition", "cells", "objects", "ranking", "manifest"])
@pytest.mark.parametrize("damage", ["missing", "flipped"])
def test_a_damaged_index_of_the_reference_is_named_and_the_night_builds_its_own(
    ref, tmp_path, caplog, name, damage
):
    file = sorted((ref / "index").glob(f"{name}*"))[-1]
    whole = file.read_bytes()
    at = 0 if name == "manifest" else len(whole) // 2
    flipped = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
    file.unlink() if damage == "missing" else file.write_bytes(flipped)
    before = files_of(ref)
    with caplog.at_level(logging.WARNING):
        manifest = night(tmp_path / "night", ref, NEW)
    if (name, damage) != ("manifest", "missing"):  # then there is no index to speak of
        assert file.name in caplog.text
        assert "builds one of all embeddings in its own folder" in caplog.text
    assert (manifest.older, manifest.num_objects) == ((), 315)
    assert files_of(ref) == before
    if damage == "flipped":
        return
    caplog.clear()
    later = night(tmp_path / "later", tmp_path / "night", LATER)
    assert [layer.num_objects for layer in later.layers] == [315, 60]
    assert caplog.text == ""


def test_an_index_of_other_embeddings_or_another_model_is_not_used(ref, tmp_path, caplog):
    path = ref / "index" / "manifest.json"
    good = path.read_text()
    for old, new, word in (
        ('"num_duplicates": 0', '"num_duplicates": 1', "of 241 embeddings, expected 240"),
        ('"model_id": "m0"', '"model_id": "other"', "of model other, expected m0"),
    ):
        assert old in good
        path.write_text(good.replace(old, new))
        manifest = night(tmp_path / new[1:6] / "night", ref, NEW)
        assert manifest.older == ()
        assert word in caplog.text


def test_a_damaged_partition_of_the_night_itself_is_built_anew_to_the_same_bytes(
    ref, tmp_path, caplog
):
    night(tmp_path / "night", ref, NEW)
    before = files_of(tmp_path / "night")
    file = sorted((tmp_path / "night" / "index").glob("partition-*"))[0]
    file.write_bytes(b"?" + file.read_bytes()[1:])
    rank_night_sharded(plan_of(str(tmp_path / "night"), CONFIG), in_turn, reason="asked for")
    assert file.name in caplog.text
    assert files_of(tmp_path / "night") == before


def test_files_of_a_reference_that_was_moved_with_the_night_are_not_the_night_s_own(
    ref, tmp_path, monkeypatch
):
    (ref / "run.json").touch()  # by which a version is known to be there
    night(tmp_path / "night", ref, NEW)
    moved = tmp_path / "moved"
    moved.mkdir()
    for version in ("ref", "night"):
        (tmp_path / version).rename(moved / version)
    asked = []
    exists = storage.exists
    monkeypatch.setattr(storage, "exists", lambda path: asked.append(path) or exists(path))
    manifest = Manifest.load(str(moved / "night"))
    assert all(exists(manifest.path(str(moved / "night"), uri)) for uri, _ in manifest.files)
    assert asked.count(str(moved / "ref" / "run.json")) == 1, "the place of a version, not a file"
    (older,) = manifest.older
    lies = manifest.path(str(moved / "night"), older.objects)
    assert Path(lies).parent == moved / "ref" / "index"
    assert Path(lies).is_file()
    assert manifest.own_files == list(manifest.layers[-1].files)


def test_older_embeddings_that_are_gone_are_named_though_nobody_reads_them(ref, tmp_path):
    (ref / "embeddings" / "s3.parquet").unlink()
    begin_night(str(ref), str(tmp_path / "night"))
    with pytest.raises(LedgerError, match=r"s3\.parquet is missing.*restore it"):
        rank_night_sharded(plan_of(str(tmp_path / "night"), CONFIG), in_turn, reason="asked for")


def test_an_index_that_took_the_place_of_the_reference_s_is_not_used(ref, tmp_path, caplog):
    begin_night(str(ref), str(tmp_path / "night"))
    inherited = versions.read_inherited(str(tmp_path / "night"))
    other = {"u": shard("u", np.zeros((240, 3), np.float32))}
    scan(tmp_path / "other", other, CONFIG)
    rank_sharded(plan_of(str(tmp_path / "other"), CONFIG), in_turn, reason="asked for")
    shutil.rmtree(ref / "index")
    shutil.copytree(tmp_path / "other" / "index", ref / "index")
    assert inherited.num_rows == 240
    rank_night_sharded(plan_of(str(tmp_path / "night"), CONFIG), in_turn, reason="asked for")
    assert "was not there when the night began" in caplog.text
    assert Manifest.load(str(tmp_path / "night")).older == ()


def test_scores_that_another_version_left_otherwise_are_not_used(ref, tmp_path, caplog):
    (ranking,) = (ref / "index").glob("ranking-*")
    columns = {name: join.read_column(str(ranking), name) for name in ("score", "rank")}
    join.write_columns(str(ranking), **columns)
    assert night(tmp_path / "night", ref, NEW).older == ()
    assert f"{ranking} has no certified, as another version" in caplog.text


def test_a_version_keeps_what_the_newest_refers_to_and_a_copy_has_all_layers(tmp_path, monkeypatch):
    monkeypatch.setattr(night_index, "LEAST_ROWS", 65_536)
    write_survey("sim:galaxies?count=60&seed=3&shard_rows=20&size=24", str(tmp_path / "made"))
    *old, new = sorted((tmp_path / "made" / "shards").glob("*.parquet"))
    (tmp_path / "sky").mkdir()
    for path in old:
        shutil.copy2(path, tmp_path / "sky")
    scans.scan_here(tmp_path / "sky", tmp_path / "ref", search__index="sharded")
    with scans.workers_here():
        run_night(night_config(tmp_path, "ref", "night", survey=str(new)))
    assert inspection.verify_run(str(tmp_path / "night")) == []
    ref, out, copy = (str(tmp_path / name) for name in ("ref", "night", "copy"))
    named = {uri for uri, _ in Manifest.load(out).files if uri.startswith(ref)}
    assert len(named) == 3
    assert named.isdisjoint(file.path for file in find_prunable(ref, out))
    delete_files(find_prunable(ref, out))
    assert inspection.verify_run(out) == []
    export_version(out, copy)
    assert inspection.verify_run(copy) == []
    manifest = Manifest.load(copy)
    assert [layer.num_objects for layer in manifest.layers] == [40, 20]
    assert not any(storage.is_remote(uri) or "/" in uri for uri, _ in manifest.files)
    shutil.rmtree(ref)
    shutil.rmtree(out)
    name = versions.read_version(copy)["object_id"][0].as_py()
    assert len(find_similar(copy, name, 5).neighbors) == 5
    with scans.workers_here():
        record = run_night(night_config(tmp_path, "copy", "next", survey=str(new)))
    assert record.night.found.objects_new == 0
    layers = Manifest.load(str(tmp_path / "next")).layers
    assert [layer.num_objects for layer in layers] == [40, 20, 0]
    partition = sorted((tmp_path / "copy" / "index").glob("partition-*"))[0]
    partition.unlink()
    (fault,) = inspection.verify_run(str(tmp_path / "next"))
    assert partition.name in fault
    assert "the next night builds an index anew" in fault


def night_config(folder: Path, reference: str, out: str, *, survey: str) -> NightConfig:
    reference, out = (str(folder / name) for name in (reference, out))
    return NightConfig(survey=survey, reference=reference, out=out, workers="1")
