"""Identifiers and positions that a table gives stand beside the ledger, and neither the listing nor
what a task is told grows with them."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from PIL import Image

from astroray import ledger, storage, surveys
from astroray.catalog import read_catalog
from astroray.errors import ConfigError, LedgerError
from astroray.inspection import verify_run
from astroray.receipts import undo_shard
from astroray.retention import export_version, find_prunable
from astroray.run_record import RunRecord
from astroray.surveys import object_files
from astroray.surveys.object_files import files_of
from astroray.surveys.shards import Shard
from tests import scans
from tests.memory_used import peak_bytes
from tests.runs_made import make_proof


def stack(folder: Path, num_objects: int) -> str:
    """A survey of a stack, with a table of its rows."""
    folder.mkdir(exist_ok=True)
    shape = (num_objects, 1, 2, 2)
    np.lib.format.open_memmap(folder / "s.npy", "w+", np.uint8, shape).flush()
    rows = "".join(f"J{i},{i % 360}.5,{i % 90}\n" for i in range(num_objects))
    (folder / "t.csv").write_text("id,ra,dec\n" + rows)
    return f"{folder}/s.npy?table=t.csv&layout=NCYX&shard_rows=100"


def stacks(folder: Path, counts: dict[str, int], *, num_named: int) -> str:
    """A survey of stacks, some of them new, with a table of the first rows of all."""
    folder.mkdir(exist_ok=True)
    for name, count in counts.items():
        rng = np.random.default_rng(list(name.encode()))
        np.save(folder / f"{name}.npy", rng.integers(0, 255, (count, 1, 16, 16), np.uint8))
    rows = "".join(f"J{i},{i % 360}.5,{i % 90}\n" for i in range(num_named))
    (folder / "t.csv").write_text("id,ra,dec\n" + rows)
    return f"{folder}/*.npy?table=t.csv&layout=NCYX&shard_rows=100"


def pictures(folder: Path, first: int, stop: int) -> str:
    """A survey of pictures, with a table in another order that lacks one of them."""
    folder.mkdir(exist_ok=True)
    for i in range(first, stop):
        Image.new("L", (4, 4), i).save(folder / f"p{i}.png")
    rows = "".join(f"p{i}.png,J{i},{i}.5,{i}\n" for i in reversed(range(1, stop)))
    (folder / "t.csv").write_text("file,id,ra,dec\n" + rows)
    return f"{folder}?table=t.csv&shard_files=4"


def list_into(run_dir: Path | str, survey: str, known: tuple[Shard, ...] = ()) -> list[Shard]:
    folder = ledger.objects_folder(str(run_dir))
    shards = list(surveys.list_shards(survey, known=known, objects_folder=folder).shards)
    ledger.write_listing(str(run_dir), shards)
    return shards


def rows_of(shards: list[Shard]) -> list[tuple[str, float, float]]:
    found = []
    for shard in shards:
        for rows in surveys.read_shard(shard):
            assert isinstance(rows, surveys.Cutouts)
            found += zip(rows.object_id_B, rows.ra_deg_B, rows.dec_deg_B, strict=True)
    return found


@pytest.fixture(params=["stack", "pictures"])
def survey(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "stack":
        return stack(tmp_path / "sky", 250)
    return pictures(tmp_path / "sky", 0, 10)


def test_shards_that_name_a_file_have_the_rows_of_shards_that_carry_them(survey, tmp_path):
    carrying = list(surveys.list_shards(survey).shards)
    naming = list_into(tmp_path / "run", survey)
    np.testing.assert_equal(rows_of(naming), rows_of(carrying))
    assert [shard.name for shard in naming] == [shard.name for shard in carrying]
    assert ledger.read_listing(str(tmp_path / "run")) == naming
    assert "J1" not in json.dumps([dict(shard.params) for shard in naming])
    assert "J1" in json.dumps([dict(shard.params) for shard in carrying])


def test_several_files_are_written_where_there_are_many_objects(tmp_path, monkeypatch):
    monkeypatch.setattr(object_files, "FILE_ROWS", 200)
    shards = list_into(tmp_path / "run", stack(tmp_path / "sky", 950))
    assert len(files_of(shards)) == 5
    assert [name for name, _, _ in rows_of(shards)] == [f"J{i}" for i in range(950)]


def test_a_run_directory_can_be_moved(survey, tmp_path):
    before = rows_of(list_into(tmp_path / "run", survey))
    shutil.move(tmp_path / "run", tmp_path / "elsewhere")
    np.testing.assert_equal(rows_of(ledger.read_listing(str(tmp_path / "elsewhere"))), before)


def test_files_of_objects_do_not_count_as_bytes_of_the_survey(tmp_path):
    (shard, *_) = list_into(tmp_path / "run", pictures(tmp_path / "sky", 0, 4))
    object_files._read.cache_clear()
    before = storage.METER.bytes_read
    rows_of([shard])
    assert storage.METER.bytes_read - before == shard.size_bytes


def test_objects_on_s3_are_read_from_there(s3, tmp_path):
    run_dir = f"s3://{s3.bucket}/objects/run"
    shards = list_into(run_dir, stack(tmp_path / "sky", 150))
    assert all(path.startswith(f"{run_dir}/ledger/objects/") for path in files_of(shards))
    again = ledger.read_listing(run_dir)
    assert again == shards
    assert [name for name, _, _ in rows_of(again)] == [f"J{i}" for i in range(150)]


@pytest.mark.parametrize("what", ["missing", "differs"])
def test_a_file_of_objects_that_is_damaged_stops_the_run_and_is_named(tmp_path, what):
    run_dir = tmp_path / "run"
    shards = list_into(run_dir, stack(tmp_path / "sky", 150))
    (path,) = map(Path, files_of(shards))
    RunRecord(survey="s", fingerprint="f", config={}, created="2026").publish(str(run_dir))
    assert verify_run(str(run_dir)) == []
    path.unlink() if what == "missing" else path.write_bytes(path.read_bytes()[:-1])
    object_files._read.cache_clear()
    with pytest.raises(LedgerError, match=f"{path.name} .*{what}.* scan into another --out"):
        rows_of(shards)
    (fault,) = verify_run(str(run_dir))
    assert path.name in fault
    assert what in fault


def test_a_listing_of_an_older_version_is_read(tmp_path):
    survey = stack(tmp_path / "sky", 150)
    shards = list(surveys.list_shards(survey).shards)
    flat = [
        dataclasses.replace(
            shard,
            params={k: v for k, v in shard.params.items() if k != "objects"}
            | shard.params["objects"],
        )
        for shard in shards
    ]
    assert rows_of(flat) == rows_of(shards)


def test_new_files_of_a_survey_are_joined_and_the_known_ones_stay(tmp_path):
    known = tuple(list_into(tmp_path / "run", pictures(tmp_path / "sky", 0, 8)))
    survey = pictures(tmp_path / "sky", 8, 12)
    shards = list_into(tmp_path / "night", survey, known)
    assert shards[:2] == list(known)
    assert ledger.read_listing(str(tmp_path / "night")) == shards
    # in order of path, p10 before p8
    names = [name for name, _, _ in rows_of(shards)]
    assert names == ["p0", *(f"J{i}" for i in (1, 2, 3, 4, 5, 6, 7, 10, 11, 8, 9))]


def test_rows_of_a_new_stack_follow_those_of_listed_ones_in_the_table(tmp_path):
    survey = stacks(tmp_path / "sky", {"a": 250, "b": 30}, num_named=280)
    known = tuple(list_into(tmp_path / "run", survey))
    survey = stacks(tmp_path / "sky", {"c": 120}, num_named=400)
    shards = list_into(tmp_path / "run", survey, known)
    assert shards[: len(known)] == list(known)
    assert [name for name, _, _ in rows_of(shards)] == [f"J{i}" for i in range(400)]
    whole = list_into(tmp_path / "whole", survey)
    assert [shard.name for shard in whole] == [shard.name for shard in shards]
    assert rows_of(whole) == rows_of(shards)


@pytest.mark.parametrize(
    ("name", "num_named", "message"),
    [
        ("c", 280, "t.csv has 280 rows, expected 400, one for each row of the data, file after"),
        ("c", 120, "t.csv has 120 rows, expected 400, one for each row of the data, file after"),
        ("aa", 400, "aa.npy is new and comes by name before .*b.npy, which is listed already"),
    ],
    ids=["rows-of-old", "rows-of-new", "before"],
)
def test_a_new_stack_whose_rows_in_the_table_are_unknown_is_refused(
    tmp_path, name, num_named, message
):
    survey = stacks(tmp_path / "sky", {"a": 250, "b": 30}, num_named=280)
    known = tuple(list_into(tmp_path / "run", survey))
    survey = stacks(tmp_path / "sky", {name: 120}, num_named=num_named)
    with pytest.raises(ConfigError, match=message):
        list_into(tmp_path / "run", survey, known)


def test_a_second_cube_does_not_take_the_rows_of_the_first_from_the_table(tmp_path):
    survey = f"{tmp_path}/*.fits?table=t.csv&layout=cube"
    cube = fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.ones((3, 1, 4, 4), np.float32))])
    cube.writeto(tmp_path / "a.fits")
    (tmp_path / "t.csv").write_text("id\nx\ny\nz\n")
    known = tuple(list_into(tmp_path / "run", survey))
    assert [name for name, _, _ in rows_of(list(known))] == ["x", "y", "z"]
    cube.writeto(tmp_path / "b.fits")
    with pytest.raises(ConfigError, match=r"t\.csv goes with the rows of one file, got 2"):
        list_into(tmp_path / "run", survey, known)


def names_of_scan(survey: str, run_dir: str, *, scan=scans.scan) -> set[str]:
    record = scan(survey, run_dir)
    assert verify_run(run_dir) == []
    names = read_catalog(run_dir)["object_id"].to_pylist()
    assert len(names) == record.counts.catalog
    return set(names)


@pytest.mark.s3
@pytest.mark.ray
@pytest.mark.timeout(240)
def test_a_scan_with_a_table_on_s3_resumes_takes_a_new_file_and_holds(s3, ray_cluster, tmp_path):
    folder = s3.new_prefix()
    run_dir = f"{folder}/run"
    survey = stacks(tmp_path / "sky", {"a": 40, "b": 30}, num_named=70)
    survey = survey.replace(str(tmp_path), folder)
    for path in (tmp_path / "sky").iterdir():
        storage.publish(f"{folder}/sky/{path.name}", path.read_bytes())
    assert names_of_scan(survey, run_dir) == {f"J{i}" for i in range(70)}
    shards = ledger.read_listing(run_dir)
    assert all(path.startswith(f"{run_dir}/ledger/objects/") for path in files_of(shards))
    undo_shard(run_dir, shards[-1].name)
    stacks(tmp_path / "sky", {"c": 20}, num_named=90)
    for name in ("c.npy", "t.csv"):
        storage.publish(f"{folder}/sky/{name}", (tmp_path / "sky" / name).read_bytes())
    found = names_of_scan(survey, run_dir, scan=scans.scan_here)
    assert found == {f"J{i}" for i in range(90)}
    assert ledger.read_listing(run_dir)[:2] == shards


def test_files_of_a_reference_are_kept_for_its_night_and_copied_for_a_copy(tmp_path):
    known = tuple(list_into(tmp_path / "run", pictures(tmp_path / "sky", 0, 8)))
    list_into(tmp_path / "night", pictures(tmp_path / "sky", 8, 12), known)
    record = RunRecord(survey="s", fingerprint="f", config={}, created="2026", state="done")
    for name in ("run", "night"):
        dataclasses.replace(record, proof=make_proof(5)).publish(str(tmp_path / name))
    prunable = find_prunable(str(tmp_path / "run"), str(tmp_path / "night"))
    assert not {file.path for file in prunable} & set(files_of(known))


def test_a_self_contained_copy_has_its_own_files_of_objects(tmp_path):
    from tests.runs_made import make_run

    run_dir = make_run(tmp_path, 12, state="done").path
    shards = list_into(run_dir, stack(tmp_path / "sky", 150))
    export_version(run_dir, str(tmp_path / "copy"))
    shutil.rmtree(run_dir)
    object_files._read.cache_clear()
    again = ledger.read_listing(str(tmp_path / "copy"))
    assert [shard.name for shard in again] == [shard.name for shard in shards]
    assert [name for name, _, _ in rows_of(again)] == [f"J{i}" for i in range(150)]


@pytest.mark.parametrize("kind", ["stack", "pictures"])
def test_eight_times_the_objects_are_listed_in_as_much_memory(tmp_path, kind, monkeypatch):
    from astroray.surveys import file_matches, table_columns
    from astroray.surveys.object_tables import TableOptions, open_object_table

    monkeypatch.setattr(object_files, "FILE_ROWS", 1_000)
    monkeypatch.setattr(table_columns, "_PIECE_BYTES", 4_096)
    monkeypatch.setattr(file_matches, "FILES_AT_ONCE", 1_000)

    def list_objects(num_objects: int) -> None:
        with open_object_table(str(tmp_path / str(num_objects)), options) as table:
            assert table is not None
            if kind == "pictures":
                paths = [f"/sky/J{i}.png" for i in range(num_objects)]
                found = table.by_file(paths, "/sky", step=100)
            else:
                found = table.by_row([100] * (num_objects // 100))
            assert sum(len(objects.object_id_N) for objects in found) == num_objects

    options = TableOptions(table="t.csv")
    for num_objects in (8_000, 64_000):
        stack(tmp_path / str(num_objects), num_objects)
    list_objects(8_000)
    small = peak_bytes(lambda: list_objects(8_000))
    held = 56_000 * 180 if kind == "pictures" else 0  # the paths themselves, and numbers of them
    most = 1.3 * small + held
    # What other threads take meanwhile is counted too: once without them is enough.
    assert any(peak_bytes(lambda: list_objects(64_000)) < most for _ in range(3))
