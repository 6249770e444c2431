"""The label log: nothing is lost, nothing is changed, undoing is one more line."""

import json
import threading

import numpy as np
import pyarrow as pa
import pytest

from astroray import schema, storage
from astroray.catalog.exports import export_rows
from astroray.catalog.versions import Inherited, OlderFile
from astroray.errors import ConfigError, LedgerError
from astroray.labelling import labels
from astroray.labelling.labels import Label, LabelLog, current_labels, interest_of, labels_table
from tests.catalogs_made import make_catalog


def say(object_id="a", user="ana", **values):
    values = values or {"interest": 3}
    return Label(object_id=object_id, user=user, model_id="m", **values)


def test_what_was_appended_is_read_in_order_with_id_and_time(tmp_path):
    log = LabelLog(str(tmp_path))
    first, second = log.append(say()), log.append(say("b", kind="merger"))
    assert LabelLog(str(tmp_path)).read() == [first, second]
    assert first.label_id != second.label_id
    assert first.time < second.time
    assert LabelLog(str(tmp_path / "none")).read() == []


def test_the_last_label_of_a_person_stands_and_undo_brings_the_one_before_back(tmp_path):
    log = LabelLog(str(tmp_path))
    log.append(say(interest=2))
    last = log.append(say(interest=5))
    log.append(say(user="bo", interest=4))
    assert interest_of(log.read()) == {"a": 4.5}
    log.append(say(undoes=last.label_id))
    assert {(x.user, x.interest) for x in current_labels(log.read())} == {("ana", 2), ("bo", 4)}
    assert len(log.read()) == 4


def test_two_sessions_and_many_threads_lose_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(labels, "LABELS_A_PART", 8)
    logs = [LabelLog(str(tmp_path)), LabelLog(str(tmp_path))]

    def work(number):
        for i in range(12):
            logs[number % 2].append(say(f"{number}-{i}", user=f"user{number}"))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = LabelLog(str(tmp_path)).read()
    assert {label.object_id for label in found} == {f"{n}-{i}" for n in range(4) for i in range(12)}
    assert len({label.label_id for label in found}) == len(found) == 48
    assert len(storage.list_names(str(tmp_path / "labels"))) == 6


def write_part(folder, session, part, lines):
    """A part as a server of another session publishes it: `lines` are (number, object, time)."""
    text = "".join(
        json.dumps(
            {
                "object_id": name, "user": session, "model_id": "m", "interest": 3, "kind": "",
                "why": "", "undoes": "", "label_id": f"{session}:{number}", "time": time,
            }
        )
        + "\n"
        for number, name, time in lines
    )  # fmt: skip
    storage.publish(
        storage.join(str(folder), "labels", f"{session}-{part:04d}.jsonl"), text.encode()
    )


def test_a_label_among_a_hundred_thousand_reads_nothing_of_them_again(tmp_path, monkeypatch):
    lines = [(i, f"o{i}", f"2026-01-01T{i:08d}") for i in range(100_000)]
    size = labels.LABELS_A_PART
    monkeypatch.setattr(storage, "_sync_folder", lambda folder: None)
    for start in range(0, len(lines), size):
        write_part(tmp_path, "other", start // size, lines[start : start + size])
    num_files = -(-len(lines) // size)
    read: list[str] = []
    read_bytes = storage.read_bytes
    monkeypatch.setattr(storage, "read_bytes", lambda path: read.append(path) or read_bytes(path))
    log = LabelLog(str(tmp_path))
    assert len(log.standing().labels) == 100_000
    assert len(read) == num_files
    read.clear()
    for number in range(5):
        log.append(say(f"new{number}"))
        assert log.standing().num_lines == 100_001 + number
    assert read == []
    last = lines[num_files * size - size :]
    write_part(tmp_path, "other", num_files - 1, [*last, (100_000, "late", "2026-01-02")])
    assert "late" in {label.object_id for label in log.standing().labels}
    assert read == [str(tmp_path / "labels" / f"other-{num_files - 1:04d}.jsonl")]


def test_what_is_kept_says_the_same_as_what_is_read_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(labels, "LABELS_A_PART", 4)
    kept, other = LabelLog(str(tmp_path)), LabelLog(str(tmp_path))
    random = np.random.default_rng(1)
    for _ in range(60):
        log = (kept, other)[random.integers(2)]
        standing = log.standing().labels
        if standing and random.random() < 0.3:
            one = standing[random.integers(len(standing))]
            log.append(say(one.object_id, one.user, undoes=one.label_id))
        else:
            log.append(say("abc"[random.integers(3)], interest=int(random.integers(1, 6))))
        fresh = LabelLog(str(tmp_path))
        assert kept.read() == fresh.read()
        assert kept.standing() == fresh.standing()
        assert sorted(current_labels(fresh.read()), key=str) == sorted(
            fresh.standing().labels, key=str
        )


def test_a_line_or_a_file_that_is_taken_away_is_gone_and_clocks_may_differ(tmp_path):
    write_part(tmp_path, "a", 0, [(0, "x", "2026-01-02"), (1, "y", "2026-01-03")])
    log = LabelLog(str(tmp_path))
    log.append(say("own"))
    assert len(log.standing().labels) == 3
    write_part(tmp_path, "b", 0, [(0, "z", "2026-01-01")])
    assert [label.object_id for label in log.read()] == ["z", "x", "y", "own"]
    write_part(tmp_path, "a", 0, [(0, "x", "2026-01-02")])
    assert [label.object_id for label in log.read()] == ["z", "x", "own"]
    (tmp_path / "labels" / "b-0000.jsonl").unlink()
    assert [label.object_id for label in log.standing().labels] == ["x", "own"]
    early = [say("x", "a", undoes="a:0")]
    assert current_labels([*log.read(), *early]) == [log.read()[-1]]


def test_a_label_that_could_not_be_written_is_not_in_the_log(tmp_path, monkeypatch):
    log = LabelLog(str(tmp_path))
    log.append(say())
    publish = storage.publish
    monkeypatch.setattr(storage, "publish", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        log.append(say("lost"))
    monkeypatch.setattr(storage, "publish", publish)
    log.append(say("b"))
    assert [label.object_id for label in log.read()] == ["a", "b"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"interest": 6}, "interest is 6, expected 1, 2, 3, 4 or 5"),
        ({"interest": None}, "says nothing, expected an interest of 1 to 5 or a class"),
        ({"kind": "x" * 201}, "kind of a label has 201 characters"),
        ({"kind": "two\nlines"}, "no control characters"),
    ],
)
def test_a_label_that_says_nothing_or_too_much_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        say(**values)


def test_a_line_that_is_no_label_is_named(tmp_path):
    LabelLog(str(tmp_path)).append(say())
    (tmp_path / "labels" / "z-0000.jsonl").write_text("{}\n")
    with pytest.raises(LedgerError, match=r"line 1 of .*z-0000.jsonl is no label"):
        LabelLog(str(tmp_path)).read()


@pytest.mark.parametrize("format", ["csv", "votable", "fits"])
def test_standing_labels_are_a_table_beside_the_catalog_for_other_tools(tmp_path, format):
    catalog = make_catalog(5)
    names = catalog["object_id"].to_pylist()
    log = LabelLog(str(tmp_path))
    undone = log.append(say(names[0], interest=1))
    log.append(say(names[0], undoes=undone.label_id))
    log.append(say(names[1], interest=5, kind="ring", why="audit"))
    log.append(say("gone", kind="merger"))
    table = labels_table(log.read(), catalog)
    assert table.schema.equals(schema.LABELS)
    assert table["object_id"].to_pylist() == [names[1], "gone"]
    assert table["class"].to_pylist() == ["ring", "merger"]
    assert table["rank"].to_pylist() == [catalog["rank"][1].as_py(), None]
    out = str(tmp_path / f"labels.{format}")
    assert export_rows(table, format=format, out=out) == 2
    assert labels_table([], catalog).num_rows == 0
    assert isinstance(table, pa.Table)


def test_a_night_has_what_was_said_in_the_versions_it_was_made_of(tmp_path):
    first, reference, night = (str(tmp_path / name) for name in ("first", "reference", "night"))
    older = [OlderFile(version, "catalog/x.parquet", "") for version in (first, reference)]
    Inherited(receipts={}, catalogs=older).publish(night)
    said = [LabelLog(version).append(say("a")) for version in (first, reference)]
    log = LabelLog(night)
    assert log.read() == said
    late = LabelLog(reference).append(say("b"))  # before its server changes over
    undone = log.append(say("a", undoes=said[1].label_id))
    assert log.read() == [*said, late, undone]
    assert {one.label_id for one in log.standing().labels} == {said[0].label_id, late.label_id}
    assert LabelLog(reference).read() == [said[1], late]
