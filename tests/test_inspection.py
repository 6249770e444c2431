"""`astroray verify` finds what is wrong with a catalog, in as much memory whatever its size."""

import dataclasses
import os
import re
from functools import partial

import pyarrow as pa
import pytest
from click.testing import CliRunner

from astroray import catalog, inspection, schema
from astroray.catalog import pixels
from astroray.cli import cli
from astroray.errors import ConfigError
from astroray.receipts import Receipt, publish_receipt
from astroray.run_record import Counts, RunRecord
from astroray.storage.leases import hold_lease
from tests.catalogs_made import make_catalog
from tests.memory_used import peak_bytes
from tests.runs_made import make_proof


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    monkeypatch.setattr(pixels, "ROW_GROUP_SIZE", 256)
    monkeypatch.setattr(inspection, "ROWS_AT_ONCE", 256)


def finished(folder, table: pa.Table) -> str:
    """A run directory of a scan with these rows, as far as its catalog goes."""
    num_certified = sum(table["certified"].to_pylist())
    receipt = Receipt(
        shard="a", rows_read=len(table), rows_embedded=len(table), rows_rejected=0,
        shard_rejected=False, checksum="", attempt=1, seconds=0.0, bytes_read=0,
    )  # fmt: skip
    publish_receipt(str(folder), receipt)
    catalog.write_catalog(table, str(folder), name="n", created="c", rows_per_pixel=500)
    RunRecord(
        survey="made", fingerprint="f", config={}, created="2026", state="done",
        counts=Counts(duplicates=0, inherited=0), proof=make_proof(num_certified),
    ).publish(str(folder))  # fmt: skip
    return str(folder)


def faults_of(run_dir: str) -> list[str]:
    return [fault for fault in inspection.verify_run(run_dir) if "embeddings" not in fault]


def with_value(table: pa.Table, name: str, row: int, value: object) -> pa.Table:
    values = table[name].to_pylist()
    values[row] = value
    place = table.schema.get_field_index(name)
    field = schema.CATALOG.field(name)
    return table.set_column(place, field, pa.array(values, field.type))


@pytest.mark.parametrize("num_rows", [0, 1, 255, 3000])
def test_a_sound_catalog_has_no_faults(tmp_path, num_rows):
    table = make_catalog(num_rows, num_unplaced=num_rows // 3)
    not_ours = "shard a is done but not listed"
    assert [f for f in faults_of(finished(tmp_path, table)) if f != not_ours] == []


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("rank", 3001, "ranks are not 1..N"),
        ("rank", 0, "ranks are not 1..N"),
        ("rank", 17, "ranks are not 1..N"),
        ("object_id", "obj 1234", "has an object_id twice"),
    ],
)
def test_ranks_and_names_that_cannot_be_are_found(tmp_path, name, value, words):
    table = with_value(make_catalog(3000, num_unplaced=900), name, 5, value)
    assert any(words in fault for fault in faults_of(finished(tmp_path, table)))


def test_rows_that_are_certified_without_proof_are_counted(tmp_path):
    run_dir = finished(tmp_path, make_catalog(300))
    record = RunRecord.load(run_dir)
    (fault,) = inspection._check_catalog(run_dir, dataclasses.replace(record, proof=make_proof(2)))
    assert fault.endswith("rows are certified, the proof is for 2")


def test_eight_times_the_rows_are_verified_in_as_much_memory(tmp_path):
    peaks = []
    for num_rows in (1_000, 1_000, 8_000):  # the first loads what is loaded once
        table = make_catalog(num_rows, num_unplaced=num_rows // 4)
        run_dir = finished(tmp_path / str(len(peaks)), table)
        peaks.append(peak_bytes(partial(inspection.verify_run, run_dir)))
    assert peaks[2] < 1.5 * peaks[1]


def test_a_catalog_is_written_from_pieces_in_as_much_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(pixels, "_SKYMAP_ORDER", 2)
    peaks = []
    for num_rows in (1_000, 1_000, 8_000):
        table = make_catalog(num_rows, num_unplaced=num_rows // 4)
        table = table.take(pa.array(table["rank"].to_numpy() - 1))  # in no order
        source, out = str(tmp_path / f"from-{len(peaks)}"), str(tmp_path / f"to-{len(peaks)}")
        catalog.write_catalog(table, source, name="n", created="c", rows_per_pixel=500)

        def copy(source: str = source, out: str = out) -> None:
            pieces = (p.read(schema.CATALOG.names) for p in catalog.read_pieces(source))
            catalog.write_catalog(pieces, out, name="n", created="c", rows_per_pixel=500)

        peaks.append(peak_bytes(copy))
        assert catalog.read_catalog(out).equals(catalog.read_catalog(source))
    assert peaks[2] - peaks[1] < 7_000 * 40, peaks  # numbers of each row; a row has 300 bytes


def test_a_run_says_who_writes_to_it_and_that_nobody_does_where_it_was_killed(tmp_path):
    run_dir = str(tmp_path)
    RunRecord(survey="s", fingerprint="f", config={}, created="2026").publish(run_dir)
    with hold_lease(run_dir):
        held = inspection.read_status(run_dir)
        assert re.match(rf"process {os.getpid()} on .+ since 20", held.words()["writer"])
        assert held.facts()["writer"] == held.words()["writer"]
    left = inspection.read_status(run_dir)
    assert left.words()["writer"].startswith("nobody: it was killed or lost")
    assert left.facts()["writer"] is None


def test_a_run_that_has_just_begun_and_a_folder_of_runs_are_told_from_none(tmp_path):
    with pytest.raises(ConfigError, match=r"check the path$"):
        inspection.read_status(str(tmp_path / "none"))
    with hold_lease(begun := str(tmp_path / "begun")):
        shown = CliRunner().invoke(cli, ["status", begun])
        assert shown.exit_code == 0
        assert re.search(
            r"^state +running\nstage +its survey is being listed, or a run copied", shown.output
        )
        assert re.search(rf"writer +process {os.getpid()} on", shown.output)
        facts = inspection.read_status(begun).facts()
        assert (facts["state"], facts["survey"], facts["shards"]) == ("running", None, None)
        with pytest.raises(
            ConfigError, match=rf"process {os.getpid()} on .* lists its survey or copies"
        ):
            inspection.verify_run(begun)
    for name in ("2026-11-28", "2026-11-29"):
        RunRecord(survey="s", fingerprint="f", config={}, created="2026").publish(
            str(tmp_path / name)
        )
    with pytest.raises(ConfigError, match=r"name one of its 2 runs, such as 2026-11-29$"):
        inspection.read_status(str(tmp_path))
    for name, finished in (("b", "2026-11-30"), ("a", "2026-12-01")):
        done = RunRecord(survey="s", fingerprint="f", config={}, created="2026", state="done")
        done = dataclasses.replace(done, finished=finished, proof=make_proof(1))
        done.publish(str(tmp_path / name))
    with pytest.raises(ConfigError, match=r"of its 4 runs, the newest finished one is a$"):
        inspection.read_status(str(tmp_path))
