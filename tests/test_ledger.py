"""The ledger: done marks, rejects, conservation, fingerprints."""

import dataclasses
import signal

import pytest

from astroray import ledger, storage
from astroray.errors import LedgerError, StorageError
from astroray.inspection import read_status
from astroray.interrupts import Interrupted
from astroray.receipts import Receipt, done_shards, read_receipt, undo_shard
from astroray.run_record import RunRecord
from astroray.runs import forget_failed, note_failure
from astroray.storage.leases import hold_lease
from astroray.surveys.shards import Reject, Shard


def receipt(shard="a", read=5, embedded=4, rejected=1):
    return Receipt(
        shard=shard,
        rows_read=read,
        rows_embedded=embedded,
        rows_rejected=rejected,
        shard_rejected=False,
        checksum="0",
        attempt=1,
        seconds=0.1,
        bytes_read=10,
    )


def record(**changes):
    base = RunRecord(
        survey="hdf", fingerprint="f1", config={"k": 10, "out": "x"}, created="2026-01-01T00:00:00Z"
    )
    return dataclasses.replace(base, **changes)


@pytest.fixture
def run_dir(tmp_path):
    return str(tmp_path / "run")


def test_a_run_that_ended_before_its_listing_leaves_its_directory_free(run_dir):
    ledger.open_run(run_dir, record(state="failed", error="no survey files in /nope"))
    storage.publish(f"{run_dir}/logs/ray.log", b"")
    storage.publish(f"{run_dir}/ledger/leases/000001.json", b"{}")
    other = record(fingerprint="f2", survey="/sky")
    assert ledger.open_run(run_dir, other) == other
    assert RunRecord.load(run_dir).survey == "/sky"
    storage.publish(f"{run_dir}/model/model.safetensors", b"")
    with pytest.raises(LedgerError, match="belongs to another run"):
        ledger.open_run(run_dir, record())


@pytest.mark.parametrize(
    ("config", "own"), [({}, "catalog/galaxies.csv"), ({"rule": {}}, "light_curves.parquet")]
)
def test_what_is_no_run_s_is_not_taken_for_a_place_to_write(run_dir, config, own):
    storage.publish(f"{run_dir}/{own}", b"years of work")
    words = rf"holds {own.partition('/')[0]} and no run, .*; choose another --out"
    with pytest.raises(LedgerError, match=words):
        ledger.open_run(run_dir, record(config=config))
    assert storage.read_bytes(f"{run_dir}/{own}") == b"years of work"


@pytest.mark.parametrize(
    ("error", "state"),
    [(StorageError("the disk is full"), "failed"), (Interrupted(signal.SIGTERM), "interrupted")],
)
def test_a_run_that_ended_early_says_why_and_its_directory_is_free(run_dir, error, state):
    with hold_lease(run_dir) as lease:
        begun = ledger.open_run(run_dir, record())
        assert note_failure(begun, run_dir, error, lease) == RunRecord.load(run_dir)
    ended = read_status(run_dir)
    assert (ended.facts()["state"], ended.words()["error"]) == (state, str(error))
    storage.publish(f"{run_dir}/ledger/shards.parquet", b"")
    forget_failed(run_dir, record(fingerprint="f2"))
    assert RunRecord.load(run_dir).fingerprint == "f2"


def test_another_run_is_refused_by_naming_what_differs(run_dir):
    nested = {"k": 10, "search": {"top": 5, "score": "kth"}, "workers": "1"}
    ledger.open_run(run_dir, record(config=nested))
    storage.publish(f"{run_dir}/ledger/shards.parquet", b"")
    changed = {"k": 10, "search": {"top": 7, "score": "kth"}, "workers": "2", "bands": ["r"]}
    words = r"expected f2\): bands was None and is \['r'\]; search\.top was 5 and is 7; choose"
    with pytest.raises(LedgerError, match=words):
        ledger.open_run(run_dir, record(fingerprint="f2", config=changed))


def test_a_receipt_that_lost_a_row_cannot_be_made():
    with pytest.raises(LedgerError, match="not conserved in shard a: read 5, embedded 3"):
        receipt(embedded=3)


def test_a_shard_is_done_when_its_mark_stands_and_the_mark_comes_last(run_dir, monkeypatch):
    order = []
    publish = storage.publish
    monkeypatch.setattr(
        storage, "publish", lambda path, data: (order.append(path), publish(path, data))
    )
    reject = Reject(row=2, stage="read", kind="corrupt", reason="cut off")
    ledger.finish_shard(run_dir, receipt(), embeddings=b"E", rejects=[reject])
    assert [path.removeprefix(run_dir) for path in order] == [
        "/embeddings/a.parquet",
        "/rejects/a.parquet",
        "/ledger/done/a.json",
    ]
    assert done_shards(run_dir) == {"a"}
    assert read_receipt(run_dir, "a") == receipt()


def test_finishing_twice_changes_nothing(run_dir):
    for _ in range(2):
        ledger.finish_shard(run_dir, receipt(rejected=1), embeddings=b"E", rejects=[])
    assert storage.list_names(run_dir + "/embeddings") == ["a.parquet"]
    assert ledger.read_rejects(run_dir).num_rows == 0


def test_rejects_of_an_earlier_attempt_do_not_stay(run_dir):
    reject = Reject(row=None, stage="read", kind="unreadable", reason="cut off")
    ledger.write_rejects(run_dir, "a", [reject], attempt=1)
    assert ledger.read_rejects(run_dir).to_pylist() == [
        {
            "shard": "a",
            "row": None,
            "stage": "read",
            "class": "unreadable",
            "reason": "cut off",
            "attempt": 1,
        }
    ]
    ledger.write_rejects(run_dir, "a", [], attempt=2)
    assert ledger.read_rejects(run_dir).num_rows == 0


def test_an_undone_shard_is_to_do_again(run_dir):
    ledger.finish_shard(run_dir, receipt(), embeddings=b"", rejects=[])
    undo_shard(run_dir, "a")
    assert done_shards(run_dir) == set()


def test_a_listing_comes_back_as_it_was_written(run_dir):
    file = storage.InputFile(path="/x/a.fits", size_bytes=3, version="7")
    shards = [
        Shard(name="a", reader="fields", inputs=(file,), params={"hdu": 1}, num_rows=None),
        Shard(name="b", reader="simulated", inputs=(), params={}, num_rows=10),
    ]
    assert ledger.read_listing(run_dir) == []
    ledger.write_listing(run_dir, shards)
    assert ledger.read_listing(run_dir) == shards
    many = [dataclasses.replace(shards[i % 2], name=f"s{i}") for i in range(300)]
    ledger.write_listing(run_dir, many)
    assert ledger.read_listing(run_dir) == many
    assert ledger.listed_names(run_dir) == [shard.name for shard in many]
    assert ledger.find_shard(run_dir, "s299") == many[299]


def test_a_run_directory_belongs_to_one_fingerprint(run_dir):
    ledger.open_run(run_dir, record())
    storage.publish(f"{run_dir}/ledger/shards.parquet", b"")
    changed = record(fingerprint="f2", config={"k": 20, "out": "x"})
    with pytest.raises(LedgerError, match=r"fingerprint f1, expected f2.: k was 10 and is 20; "):
        ledger.open_run(run_dir, changed)


def test_a_run_goes_on_with_what_it_knew(run_dir):
    ledger.open_run(run_dir, record()).publish(run_dir)
    dataclasses.replace(record(), state="failed", error="x", seconds={"list": 1.0}).publish(run_dir)
    resumed = ledger.open_run(run_dir, record(created="2027-01-01T00:00:00Z"))
    assert (resumed.state, resumed.error) == ("running", "")
    assert resumed.created == "2026-01-01T00:00:00Z"
    assert resumed.seconds == {"list": 1.0}
    assert resumed.run_id == record().run_id == "f1-20260101T000000Z"


def test_a_run_that_was_done_has_another_id_once_it_is_scanned_again(run_dir):
    dataclasses.replace(record(), state="done").publish(run_dir)
    again = ledger.open_run(run_dir, record(created="2027-01-01T00:00:00Z"))
    assert again.run_id == "f1-20270101T000000Z"
    again.publish(run_dir)  # and is killed
    resumed = ledger.open_run(run_dir, record(created="2028-01-01T00:00:00Z"))
    assert resumed.run_id == again.run_id
    assert resumed.created == "2026-01-01T00:00:00Z"


def test_the_fingerprint_is_the_science_alone():
    assert ledger.fingerprint({"a": 1, "b": 2}) == ledger.fingerprint({"b": 2, "a": 1})
    assert ledger.fingerprint({"a": 1}) != ledger.fingerprint({"a": 2})


def test_rejects_are_summed_by_kind_with_an_example(run_dir):
    rows = [Reject(row=i, stage="read", kind="corrupt", reason=f"r{i}") for i in range(3)]
    whole = Reject(row=None, stage="read", kind="unreadable", reason="cut off")
    ledger.write_rejects(run_dir, "a", rows, attempt=1)
    ledger.write_rejects(run_dir, "b", [whole], attempt=1)
    summary = ledger.summarize_rejects(ledger.read_rejects(run_dir))
    assert [(kind.kind, kind.rows, kind.shards) for kind in summary] == [
        ("corrupt", 3, 0),
        ("unreadable", 0, 1),
    ]
    assert summary[0].reason == "r0"


def test_a_damaged_shard_is_found_and_repair_has_it_done_again(run_dir, monkeypatch):
    from astroray import inspection

    ledger.write_listing(
        run_dir, [Shard(name=n, reader="simulated", inputs=(), params={}) for n in ("a", "b")]
    )
    record(state="running").publish(run_dir)
    for shard in ("a", "b"):
        ledger.finish_shard(run_dir, receipt(shard), embeddings=b"E", rejects=[])
    faults = inspection.verify_run(run_dir)
    assert [fault.split("/")[-1] for fault in faults] == [
        f"{name}.parquet differs from its receipt: sha256 expected 0" for name in ("a", "b")
    ]
    assert done_shards(run_dir) == {"a", "b"}
    check, read = inspection._check_embeddings, []
    monkeypatch.setattr(
        inspection, "_check_embeddings", lambda *of: (read.append(of[1].shard), check(*of))[1]
    )
    assert inspection.repair_run(run_dir) == (faults, ["a", "b"])
    assert done_shards(run_dir) == set()
    assert sorted(read) == ["a", "b"]  # once each


@pytest.mark.parametrize("text", ['{"survey": ', "[]", '{"of": "another program"}'])
def test_a_record_that_cannot_be_read_is_said_so(run_dir, text):
    storage.publish(f"{run_dir}/run.json", text.encode())
    with pytest.raises(LedgerError, match=r"run\.json is no record of a run"):
        RunRecord.load(run_dir)


def test_a_directory_of_another_kind_of_run_is_refused_without_listing_all_settings(run_dir):
    ledger.open_run(run_dir, record())
    storage.publish(f"{run_dir}/ledger/shards.parquet", b"")
    with pytest.raises(LedgerError, match="belongs to a scan or night, expected one of astroray f"):
        ledger.open_run(run_dir, record(fingerprint="f2", config={"rule": {}}))
