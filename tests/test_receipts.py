"""Very many shards, crashes in between, clocks that jump, and writers who were overtaken."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from astroray import inspection, ledger, pipeline, receipts, run_folders, runs, storage, surveys
from astroray.catalog.versions import Inherited
from astroray.config import load_config
from astroray.errors import ConfigError, LedgerError, StorageError
from astroray.receipts import (
    pack_receipts,
    publish_receipt,
    read_receipt,
    read_receipts,
    undo_shard,
)
from astroray.retention import find_prunable
from astroray.run_record import RunRecord
from astroray.settings import to_dict
from astroray.storage.leases import Owner, find_holder, hold_lease
from astroray.surveys import Listing
from astroray.surveys.shards import Shard
from tests.runs_made import make_night, make_proof
from tests.surveys_made import write_pictures
from tests.test_ledger import receipt, record

NUM_SHARDS = 6


@pytest.fixture(params=["disk", "s3"])
def run_dir(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch) -> str:
    monkeypatch.setattr(receipts, "PACK_EVERY", 4)
    if request.param == "disk":
        return str(tmp_path / "run")
    return f"s3://{request.getfixturevalue('s3').bucket}/{tmp_path.name}/run"


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """Names of the files that are read from now on."""
    names: list[str] = []
    read_bytes = storage.read_bytes

    def noted(path: str) -> bytes:
        names.append(path.rpartition("/")[2])
        return read_bytes(path)

    monkeypatch.setattr(storage, "read_bytes", noted)
    return names


def publish(run_dir: str, *names: str, **facts: int) -> None:
    for name in names:
        publish_receipt(run_dir, receipt(name, **facts))


def test_receipts_that_were_gathered_are_read_from_one_file(run_dir, read):
    names = ["shard", *(f"shard-{i}" for i in range(NUM_SHARDS))]
    publish(run_dir, *names)
    before = read_receipts(run_dir)
    assert sorted(read) == sorted(f"{name}.json" for name in names)
    pack_receipts(run_dir)
    read.clear()
    assert read_receipts(run_dir) == before
    assert list(before) == names
    assert read == ["receipts.parquet"]


def test_a_mark_that_changed_since_counts_and_one_that_was_taken_back_does_not(run_dir, read):
    publish(run_dir, *(f"shard-{i}" for i in range(NUM_SHARDS)))
    pack_receipts(run_dir)
    undo_shard(run_dir, "shard-0")
    undo_shard(run_dir, "shard-1")
    publish(run_dir, "shard-1", read=9, embedded=8)
    publish(run_dir, "shard-7")
    read.clear()
    found = read_receipts(run_dir)
    assert list(found) == [f"shard-{i}" for i in (1, 2, 3, 4, 5, 7)]
    assert found["shard-1"].rows_read == 9
    assert sorted(read) == ["receipts.parquet", "shard-1.json", "shard-7.json"]


def test_few_receipts_are_not_gathered_and_a_damaged_file_of_them_is_not_used(run_dir, caplog):
    publish(run_dir, "a", "b", "c")
    pack_receipts(run_dir)
    path = storage.join(run_dir, "ledger", "receipts.parquet")
    assert not storage.exists(path)
    publish(run_dir, "d")
    storage.publish(path, b"PAR1 half of it")
    assert list(read_receipts(run_dir)) == ["a", "b", "c", "d"]
    assert "receipts.parquet is damaged and not used" in caplog.text


@pytest.mark.parametrize("data", [b"", b'{"shard": "a"', b'{"shard": "a", "more": 1}'])
def test_a_done_mark_that_is_damaged_is_named_with_what_to_do(tmp_path, data):
    publish(str(tmp_path), "a", "b")
    (tmp_path / "ledger" / "done" / "a.json").write_bytes(data)
    for read in (read_receipts, lambda run_dir: read_receipt(run_dir, "a")):
        with pytest.raises(LedgerError, match=r"a.json is no receipt .* delete it and run"):
            read(str(tmp_path))


def test_a_damaged_listing_is_named(tmp_path):
    shard = Shard(name="a", reader="pictures", inputs=(), params={})
    ledger.write_listing(str(tmp_path), [shard])
    path = tmp_path / "ledger" / "shards.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(LedgerError, match=r"shards.parquet is damaged .* restore it, or scan"):
        ledger.read_listing(str(tmp_path))


def test_one_shard_is_found_without_the_files_of_the_others(tmp_path, monkeypatch):
    shards = [
        Shard(
            name=f"s{i}", reader="pictures", params={},
            inputs=(storage.InputFile(path=f"/{i}", size_bytes=1, version="1"),),
        )
        for i in range(5)
    ]  # fmt: skip
    ledger.write_listing(str(tmp_path), shards)
    parsed = []
    monkeypatch.setattr(ledger, "json", type("J", (), {
        "loads": staticmethod(lambda text: parsed.append(text) or json.loads(text)),
    }))  # fmt: skip
    assert ledger.find_shard(str(tmp_path), "s3") == shards[3]
    assert len(parsed) == 2
    assert ledger.listed_names(str(tmp_path)) == [shard.name for shard in shards]
    with pytest.raises(LedgerError, match="shard x is not in the listing"):
        ledger.find_shard(str(tmp_path), "x")


def test_shards_without_a_record_of_their_settings_are_not_taken_over(tmp_path):
    publish(str(tmp_path), "a")
    with pytest.raises(LedgerError, match=r"no run.json that says which settings made them"):
        ledger.open_run(str(tmp_path), record())
    assert RunRecord.load(str(tmp_path)) is None


def test_the_newest_version_is_the_last_of_its_line_where_a_clock_was_set_back(tmp_path):
    for name, finished, reference in (
        ("scan", "2026-03-09", ""),
        ("night-1", "2026-03-02", "scan"),
        ("night-2", "2026-03-03", "night-1"),
    ):
        night = make_night(str(tmp_path / reference)) if reference else None
        made = record(state="done", finished=finished, proof=make_proof(1), night=night)
        made.publish(str(tmp_path / name))
    assert run_folders.newest_version(str(tmp_path)) == str(tmp_path / "night-2")
    assert run_folders.newest_version(str(tmp_path), besides="night-2") == str(tmp_path / "night-1")


def test_a_driver_that_was_overtaken_does_not_write_its_record_over_the_others(tmp_path):
    out = str(tmp_path / "run")
    run = pipeline._Run(load_config("hdf", out, None, {}), lambda _: None, None)
    asleep = Owner(host="laptop", machine="another", pid=1, started="1")
    with hold_lease(out, owner=asleep, clock=lambda: 1e9, renew_s=1e6) as run.lease:
        run.record = record(state="running")
        run.record.publish(out)
        with hold_lease(out):
            record(state="done", finished="2026-01-02").publish(out)
            with pytest.raises(LedgerError, match="was taken over"), run._stage("search"):
                pass
            assert RunRecord.load(out).state == "done"


def test_files_that_the_survey_still_lists_are_not_asked_for_one_by_one(tmp_path, monkeypatch):
    for i in range(4):
        (tmp_path / f"{i}.npy").write_bytes(b"")
    known = [
        Shard(name=f"s{i}", reader="arrays", inputs=(storage.describe(str(tmp_path / f"{i}.npy")),),
              params={})
        for i in range(4)
    ]  # fmt: skip
    asked = []
    exists = storage.exists
    monkeypatch.setattr(storage, "exists", lambda path: asked.append(path) or exists(path))
    stay = [shard.name for shard in known]
    survey = f"{tmp_path}/*.npy"
    night = SimpleNamespace(
        settled=set(stay), must_stay=lambda _: stay, find_mended=lambda _: set(), listing=known
    )
    assert runs.list_again(survey, str(tmp_path / "run"), known, stay, night=night) == known
    assert not [path for path in asked if path.endswith(".npy")]
    (tmp_path / "2.npy").unlink()
    assert runs.list_again(survey, str(tmp_path / "run"), known, stay) == known
    with pytest.raises(LedgerError, match=r"1 of the reference's files was withdrawn, .*2.npy"):
        runs.list_again(survey, str(tmp_path / "run"), known, stay, night=night)


@pytest.mark.parametrize(
    ("reader", "survey", "words"),
    [
        (
            "light_curves",
            "{}/*.npy",
            "new.npy holds images, expected light curves as the reference",
        ),
        ("arrays", "sim:spectra?count=3", "shard spec.* holds spectra, expected images as the ref"),
    ],
)
def test_a_night_of_something_else_than_its_reference_holds_is_refused(
    tmp_path, reader, survey, words
):
    (tmp_path / "new.npy").write_bytes(b"")
    night = SimpleNamespace(
        reference="runs/1", settled=set(), must_stay=lambda _: (), find_mended=lambda _: set(),
        listing=[Shard(name="old", reader=reader, inputs=(), params={})],
    )  # fmt: skip
    with pytest.raises(ConfigError, match=words):
        runs.list_again(survey.format(tmp_path), str(tmp_path / "run"), [], [], night=night)


def test_retry_rejects_reads_what_it_rewrites_while_nobody_else_writes(tmp_path, monkeypatch):
    run_dir = str(tmp_path / "run")
    config = to_dict(load_config("hdf", run_dir, None, {}))
    record(state="done", config=config).publish(run_dir)
    shard = Shard(name="a", reader="fields", inputs=(), params={})
    ledger.write_listing(run_dir, [shard])
    held = []

    def list_shards(survey: str, *, known: list[Shard]) -> Listing:
        held.append(find_holder(run_dir) is not None)
        return Listing(shards=tuple(known), changed={})

    monkeypatch.setattr(surveys, "list_shards", list_shards)
    assert inspection.reopen_rejected(run_dir)[1] == []
    assert held == [True]

    def read_only(path: str, data: bytes) -> None:
        raise StorageError(f"cannot write {path}: the file system is read-only; choose another out")

    monkeypatch.setattr(storage, "publish", read_only)
    with pytest.raises(StorageError, match=r"read-only; `astroray export .*run --self-contained"):
        inspection.reopen_rejected(run_dir)


def test_what_a_night_is_made_of_is_not_retried(tmp_path):
    config = to_dict(load_config("hdf", "run", None, {}))
    for name in ("reference", "alone"):
        dataclasses.replace(finished(), config=config).publish(str(tmp_path / name))
    night = make_night(str(tmp_path / "reference"))
    dataclasses.replace(finished(), night=night).publish(str(tmp_path / "2026-11-28"))
    with pytest.raises(ConfigError, match=r"reference is what the night .*-28 is made of, expect"):
        inspection.reopen_rejected(str(tmp_path / "reference"))
    with pytest.raises(ConfigError, match="2026-11-28 is a night, expected a scan that no"):
        inspection.reopen_rejected(str(tmp_path / "2026-11-28"))
    ledger.write_listing(str(tmp_path / "alone"), [])
    assert inspection.reopen_rejected(str(tmp_path / "alone"))[1] == []


def finished() -> RunRecord:
    """The record of a version."""
    return dataclasses.replace(record(), state="done", proof=make_proof(5))


def test_flares_which_no_newer_run_refers_to_are_not_pruned(tmp_path):
    rule, old, new = {"rule": {"sigma": 3.0}}, str(tmp_path / "old"), str(tmp_path / "new")
    for run_dir in (old, new):
        dataclasses.replace(record(), state="done", config=rule).publish(run_dir)
    storage.publish(f"{old}/flares.parquet", b"found once")
    with pytest.raises(ConfigError, match="old is a run of flares find, expected one of a scan"):
        find_prunable(old, new)


def test_a_version_that_is_being_written_is_not_pruned(tmp_path):
    for name in ("old", "new"):
        finished().publish(str(tmp_path / name))
    with hold_lease(str(tmp_path / "old")), pytest.raises(LedgerError, match="is being written by"):
        find_prunable(str(tmp_path / "old"), str(tmp_path / "new"))


def test_a_file_that_is_needed_is_not_pruned_by_whichever_links_it_is_reached(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "sky").symlink_to(tmp_path / "disk")
    old, linked, new = (str(tmp_path / name) for name in ("disk/old", "sky/old", "sky/new"))
    for run_dir in (old, new):
        finished().publish(run_dir)
    Path(old, "embeddings").symlink_to(tmp_path / "other")
    storage.publish(f"{old}/embeddings/a.parquet", b"needed")
    storage.publish(f"{old}/embeddings/b.parquet", b"not")
    Inherited(receipts={"a": (linked, receipt("a"))}, catalogs=()).publish(new)
    for name in (old, linked):
        found = [file.path for file in find_prunable(name, str(tmp_path / "disk" / "new"))]
        assert found == [f"{name}/embeddings/b.parquet"]
    with pytest.raises(ConfigError, match="was made of"):
        find_prunable(new, old)
    with pytest.raises(ConfigError, match="cannot be pruned for its own sake"):
        find_prunable(linked, old)


def test_a_run_that_lies_within_another_is_not_pruned_with_it(tmp_path):
    old, inner = str(tmp_path / "old"), str(tmp_path / "old" / "night")
    for run_dir in (old, inner):
        finished().publish(run_dir)
    storage.publish(f"{inner}/catalog/objects.parquet", b"its own")
    assert [file.path for file in find_prunable(old, inner)] == [f"{old}/run.json"]


def test_a_run_in_the_folder_of_its_survey_is_refused(tmp_path, monkeypatch):
    write_pictures(tmp_path / "sky", 2)
    for out in (f"{tmp_path}/sky", f"{tmp_path}/sky/../sky/"):
        with pytest.raises(ConfigError, match="is the survey's own folder"):
            runs.list_again(f"{tmp_path}/sky?format=pictures", out, [], [])
    assert len(runs.list_again(f"{tmp_path}/sky", f"{tmp_path}/sky/run", [], [])) == 1
    monkeypatch.chdir(tmp_path)
    assert runs.list_again("sim:galaxies?count=5", "sim:galaxies", [], [])
