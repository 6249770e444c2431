"""Versions on S3: a night proves the list of a scan of everything, and has one writer at a time."""

from pathlib import Path

import pytest

from astroray import storage
from astroray.actors.night import rank_night
from astroray.actors.search import rank_survey
from astroray.catalog import versions
from astroray.errors import LedgerError
from astroray.neighbors.partitions import Manifest
from astroray.neighbors.search import SearchConfig
from astroray.nightly import NightConfig, run_night
from astroray.run_record import Backends, RunRecord
from astroray.search.sharded import rank_sharded
from astroray.search.sharded_night import rank_night_sharded
from astroray.settings import to_dict
from astroray.storage.leases import hold_lease
from benchmarks.embedded_runs import begin_night, in_turn, plan_of, publish_shard
from tests import scans
from tests.runs_made import make_proof
from tests.test_nightly import EXACT, cloud, shard

pytestmark = pytest.mark.s3

SURVEY = "sim:galaxies?count=40&size=16"
CONFIG = SearchConfig(k=3, top=12)
OLD = {name: shard(name, cloud(80, seed=seed)) for seed, name in enumerate(("a", "b"))}
NEW = {"c": shard("c", cloud(20, seed=9))}


def publish(run_dir, shards):
    for name, rows in shards.items():
        publish_shard(run_dir, name, *rows)


def certified(run_dir):
    table = versions.read_version(run_dir)
    return table.filter(table["certified"]).select(EXACT).combine_chunks()


def seen(run_dir):
    return {file.path: (file.size_bytes, file.version) for file in storage.list_files(run_dir)}


def test_a_night_on_s3_proves_the_list_of_a_scan_of_all_and_leaves_its_reference_alone(s3):
    folder = s3.new_prefix()
    reference, night, whole = (f"{folder}/{name}" for name in ("reference", "night", "whole"))
    publish(reference, OLD)
    rank_survey(plan_of(reference, CONFIG))
    before = seen(reference)
    begin_night(reference, night)
    publish(night, NEW)
    outcome = rank_night(plan_of(night, CONFIG))
    publish(whole, OLD | NEW)
    rank_survey(plan_of(whole, CONFIG))
    assert certified(night).equals(certified(whole))
    assert outcome.proof.num_rescored < 180
    assert seen(reference) == before


def test_a_night_in_parts_on_s3_is_that_of_one_process_and_leaves_no_scratch(s3):
    folder = s3.new_prefix()
    reference, one, parts = (f"{folder}/{name}" for name in ("reference", "one", "parts"))
    publish(reference, OLD)
    rank_sharded(plan_of(reference, CONFIG), in_turn, reason="asked for")
    before = seen(reference)
    for night in (one, parts):
        begin_night(reference, night)
        publish(night, NEW)
    rank_night(plan_of(one, CONFIG))
    rank_night_sharded(plan_of(parts, CONFIG), in_turn, reason="asked for")
    files = [
        {
            path.removeprefix(night): storage.read_bytes(path)
            for path in seen(night)
            if "/index/" not in path
        }
        for night in (one, parts)
    ]
    assert files[0] == files[1]
    assert seen(reference) == before
    manifest = Manifest.load(parts)
    assert [layer.num_objects for layer in manifest.layers] == [160, 20]
    assert manifest.cells.startswith(f"{reference}/index/cells-")
    own = [path.rpartition("/")[2].partition("-")[0] for path in seen(parts) if "/index/" in path]
    assert sorted(own) == ["manifest.json", "objects", "partition", "ranking"]


def test_of_two_nights_into_one_folder_on_s3_the_second_is_refused(s3, tmp_path):
    folder = s3.new_prefix()
    reference, night = f"{folder}/reference", f"{folder}/night"
    publish(reference, OLD)
    rank_survey(plan_of(reference, CONFIG))
    model = Path(scans.fit_model(SURVEY, tmp_path / "model.safetensors"))
    storage.publish(f"{reference}/model/model.safetensors", model.read_bytes())
    known = to_dict(scans.small_config(SURVEY, reference))
    RunRecord(
        survey=SURVEY, fingerprint="f", config=known, created="2026-01-01T00:00:00Z",
        state="done", proof=make_proof(1), backends=Backends(device="cpu"),
    ).publish(reference)  # fmt: skip
    config = NightConfig(survey=SURVEY, reference=reference, out=night)
    with hold_lease(night), pytest.raises(LedgerError, match="is being written by"):
        run_night(config)
    assert {name.rpartition("/night/")[2].split("/")[0] for name in seen(night)} == {"ledger"}
