"""The job of a series of nights: which version is tonight's, and which one it is added to."""

import runpy
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner

from astroray import console, ledger, moments, nightly
from astroray.actors.embed import EmbedPlan
from astroray.actors.night_rows import unique_new
from astroray.errors import ConfigError
from astroray.execution.streams import embed_shards
from astroray.execution.workers import WorkerPlan
from astroray.nightly import SeriesConfig, find_reference, parse_finish_by, plan_night
from astroray.run_record import Counts, RunRecord
from astroray.storage import InputFile
from astroray.surveys.shards import Shard
from astroray.terminal import parse_setting
from tests.runs_made import make_night, make_proof

JOB = Path(__file__).parents[1] / "jobs" / "nightly.py"


def series(folder, **changes):
    return SeriesConfig(survey="sky", folder=str(folder), **{"night": "2026-11-28", **changes})


def publish(folder, name, finished, **changes):
    """The record of a version; without `finished` it is on its way."""
    known = {
        "survey": "sky", "fingerprint": "f00d", "config": {"max_rejected": 0.01},
        "created": "2026-01-01T00:00:00Z", "finished": finished,
        "state": "done" if finished else "running", "proof": make_proof(1) if finished else None,
    }  # fmt: skip
    RunRecord(**{**known, **changes}).publish(str(folder / name))


def test_the_reference_is_the_finished_version_that_ended_last(tmp_path):
    publish(tmp_path, "a-reference", "2026-11-20T00:00:00Z")
    assert plan_night(series(tmp_path)).reference == str(tmp_path / "a-reference")
    publish(tmp_path, "2026-11-26", "2026-11-26T20:00:00Z")
    publish(tmp_path, "2026-11-27", "")
    publish(tmp_path, "flares", "2026-11-27T20:00:00Z", proof=None)
    publish(tmp_path, ".hidden", "2026-11-27T21:00:00Z")
    (tmp_path / "notes").mkdir()
    night = plan_night(series(tmp_path))
    assert night.reference == str(tmp_path / "2026-11-26")
    assert night.out == str(tmp_path / "2026-11-28")


def test_a_self_contained_copy_goes_before_what_it_was_made_of(tmp_path):
    ended = "2026-11-26T20:00:00Z"
    publish(tmp_path, "2026-11-26", ended)
    publish(tmp_path, "0-copy", ended, begun=moments.now())
    assert plan_night(series(tmp_path)).reference == str(tmp_path / "0-copy")


@pytest.mark.parametrize("finished", ["", "2026-11-28T20:00:00Z"])
def test_a_night_that_has_begun_keeps_its_reference(tmp_path, finished):
    publish(tmp_path, "reference", "2026-11-20T00:00:00Z")
    publish(tmp_path, "2026-11-28", finished, night=make_night(str(tmp_path / "reference")))
    publish(tmp_path, "by-hand", "2026-11-28T10:00:00Z")
    assert plan_night(series(tmp_path)).reference == str(tmp_path / "reference")
    named = series(tmp_path, reference=str(tmp_path / "by-hand"))
    assert plan_night(named).reference == str(tmp_path / "by-hand")


def test_a_folder_of_versions_is_a_reference_however_the_night_is_started(tmp_path, monkeypatch):
    publish(tmp_path, "reference", "2026-11-20T00:00:00Z")
    publish(
        tmp_path,
        "2026-11-28",
        "2026-11-28T10:00:00Z",
        night=make_night(str(tmp_path / "reference")),
    )
    newest = str(tmp_path / "2026-11-28")
    (tmp_path / "latest").symlink_to(newest)
    for out in ("2026-11-29", "../elsewhere"):
        assert find_reference(str(tmp_path), out=str(tmp_path / out)) == newest
    assert find_reference(str(tmp_path / "latest"), out=str(tmp_path / "2026-11-29")) == newest
    begun = str(tmp_path / "2026-11-28")  # keeps its own, though it is the newest
    assert find_reference(str(tmp_path), out=begun) == str(tmp_path / "reference")
    config = nightly.NightConfig(
        survey="sky", reference=str(tmp_path), out=str(tmp_path / "2026-11-29")
    )
    monkeypatch.setattr(nightly.ledger, "read_listing", _found)
    monkeypatch.setattr(nightly.versions, "describe_version", lambda run_dir: None)
    with pytest.raises(_FoundError, match=newest):
        nightly.run_night(config)


class _FoundError(Exception):
    """Which reference a night has found."""


def _found(reference):
    raise _FoundError(reference)


def test_a_night_that_is_gone_on_with_has_the_deadline_that_it_began_with(tmp_path):
    begun_s = datetime.fromisoformat("2026-01-01T00:00:00+00:00").timestamp()
    publish(tmp_path, "ref", "2025-12-31T00:00:00Z")
    publish(tmp_path, "2026-11-28", "")  # begun then
    first_s = parse_finish_by("06:30", now_s=begun_s)
    again_s = parse_finish_by("06:30", out=str(tmp_path / "2026-11-28"), now_s=first_s + 60)
    assert again_s == first_s
    assert parse_finish_by("06:30", out=str(tmp_path / "none"), now_s=first_s + 60) > first_s + 60
    assert plan_night(series(tmp_path, finish_by="06:30")).finish_by_s == first_s


def test_the_first_version_has_to_be_there(tmp_path):
    publish(tmp_path, "2026-11-28", "2026-11-28T10:00:00Z")  # a night is not its own reference
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(
            ConfigError, match="or night, or a folder that holds a finished one; scan into"
        ):
            plan_night(series(folder))


def test_dates_and_times_of_day_reach_the_job_as_they_are_written():
    assert parse_setting("night=2026-11-28") == ("night", "2026-11-28")
    assert parse_setting("finish_by=16:30") == ("finish_by", "16:30")
    assert parse_setting("search.k=20") == ("search.k", 20)
    assert parse_setting("limits={a: 1}") == ("limits", {"a": 1})


def test_the_job_adds_a_night_to_the_newest_version(tmp_path, monkeypatch):
    publish(tmp_path, "reference", "2026-11-20T00:00:00Z")
    asked = []

    def run_night(config, *, show):
        asked.append(config)
        publish(
            tmp_path, "2026-11-28", "2026-11-28T10:00:00Z",
            night=make_night("reference", shards_left=1), counts=Counts(catalog=9, duplicates=0),
        )  # fmt: skip
        return RunRecord.load(config.out)

    monkeypatch.setattr(nightly, "run_night", run_night)
    monkeypatch.setattr("astroray.job_command.log_as_json", lambda: None)
    arguments = ["--survey", "sky", "--out", str(tmp_path), "--set=night=2026-11-28"]
    main = runpy.run_path(str(JOB))["main"]
    done = CliRunner().invoke(main, [*arguments, "--set=workers=2..4", "--set=finish_by=06:30"])
    assert done.exit_code == 0, done.output
    assert f"night    {tmp_path}/2026-11-28\nafter    {tmp_path}/reference\n" in done.output
    assert "3 new objects, 9 in all" in done.output
    assert "1 of 2 new shards are left" in done.output
    (config,) = asked
    assert (config.workers, config.top) == ("2..4", None)
    assert config.finish_by_s > 0


def test_names_that_are_taken_are_counted_with_the_file_that_bears_one(tmp_path):
    file = InputFile(path="/sky/2/a.fits", size_bytes=1, version="1")
    shard = Shard(name="a-2", reader="fits_cutouts", inputs=(file,), params={}, num_rows=2)
    ledger.write_listing(str(tmp_path), [shard])
    rows = pa.table({"object_id": ["a"], "shard": ["a-2"], "row": [0]})
    unique = unique_new(rows, pa.chunked_array([["a"]]))
    ledger.write_rejects(str(tmp_path), "duplicates", unique.rejects, attempt=1)
    assert "need one survey of the folder above" in unique.rejects[0].reason
    config = nightly.NightConfig(survey="/sky/2", reference="ref", out=str(tmp_path))
    said = console._describe_lost(config, 2)
    assert said.startswith("1 of 2 new rows have an object_id that is taken, and are not in")
    assert "shard a-2 (/sky/2/a.fits, ...)" in said
    assert f"`astroray explain {tmp_path} 'a'` names the file" in said


def test_a_night_without_new_shards_asks_for_no_workers():
    plan = EmbedPlan(run_dir="x", model_path="x", session="S1", batch_size=1)
    pool = WorkerPlan(device="cpu", num_cpus=1, num_gpus=0, min_workers=1, max_workers=2)
    assert list(embed_shards([], plan, pool)) == []
