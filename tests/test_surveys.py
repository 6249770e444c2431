"""Which reader opens which survey, and listings that only grow."""

import hashlib
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from astroray import storage, surveys
from astroray.errors import ConfigError
from astroray.ledger import objects_folder, read_listing, write_listing
from astroray.surveys.shards import SurveyUri, parse_options
from astroray.surveys.survey_paths import glob_of
from tests.light_curves_made import times, write_mission
from tests.surveys_made import write_pictures


@pytest.mark.parametrize(
    ("text", "location", "options"),
    [
        ("hdf", "hdf", {}),
        ("sim:galaxies?count=20&seed=7", "sim:galaxies", {"count": "20", "seed": "7"}),
        ("data/p?.jpg", "data/p?.jpg", {}),
        ("data/p?.jpg?table=a.csv", "data/p?.jpg", {"table": "a.csv"}),
        ("s3://bucket/x?bands=g,r", "s3://bucket/x", {"bands": "g,r"}),
    ],
)
def test_a_survey_is_a_location_and_options(text, location, options):
    uri = SurveyUri.parse(text)
    assert (uri.location, dict(uri.options)) == (location, options)
    assert str(uri) == text


@pytest.mark.parametrize("rest", ["", "/*.jpg", "?bands=L", "/*.jpg?bands=L"])
def test_a_question_mark_of_a_folder_begins_no_options(tmp_path, rest):
    folder = tmp_path / "run?k=1" / "images"
    write_pictures(folder, 3)
    (shard,) = surveys.list_shards(f"{folder}{rest}").shards
    assert (shard.num_rows, shard.params["bands"]) == (3, "L" if "bands" in rest else "RGB")
    assert SurveyUri.parse(f"{folder.parent}?table=a/b.csv").options == {"table": "a/b.csv"}


def test_a_folder_of_two_kinds_of_files_is_refused_by_name(tmp_path):
    write_pictures(tmp_path, 1)
    np.save(tmp_path / "a.npy", np.zeros((3, 8, 8)))
    with pytest.raises(ConfigError, match=r"arrays: 1 such as a.npy, pictures: 1 .* '.*/\*\.npy'"):
        surveys.list_shards(str(tmp_path))
    (shard,) = surveys.list_shards(f"{tmp_path}?format=pictures").shards
    assert shard.reader == "pictures"


def test_the_kind_that_most_files_are_is_proposed_by_a_glob_that_takes_all_of_it(tmp_path):
    for name in ("a.fits", "b.fits.gz", "c.fits.fz", "quick.npy"):
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=r"\?format=fits_cutouts, .* such as '.*/\*\.fits\*'$"):
        surveys.list_shards(str(tmp_path))
    (tmp_path / "curve.csv").touch()
    (tmp_path / "c.fits.fz").unlink()
    with pytest.raises(ConfigError, match=rf"'{tmp_path}/\*\.fits\*\?format=light_curves'$"):
        surveys.list_shards(f"{tmp_path}?format=light_curves")


def test_fields_are_the_fits_files_of_a_folder_or_else_all_files(tmp_path):
    for name in ("a.fits", "b.fits.fz", "preview.jpg", "default.sex"):
        (tmp_path / name).write_bytes(b"SIMPLE")
    (all_files,) = surveys.list_shards(f"{tmp_path}/*.sex?format=fields").shards
    fits_files = surveys.list_shards(f"{tmp_path}?format=fields").shards
    named = [Path(file.path).name for shard in fits_files for file in shard.inputs]
    assert named == ["a.fits", "b.fits.fz"]
    assert all_files.inputs[0].path == f"{tmp_path}/default.sex"


def test_a_folder_without_parquet_is_no_survey_of_tables_but_may_come_to_nothing_new(tmp_path):
    (tmp_path / "a.fits").touch()
    with pytest.raises(ConfigError, match=r"no Parquet file, got 1 such as a\.fits"):
        surveys.list_shards(f"{tmp_path}?format=tables")
    (tmp_path / "a.fits").unlink()
    pq.write_table(pa.table({"image": [[[1.0, 2.0], [3.0, 4.0]]]}), tmp_path / "a.pq")
    first = surveys.list_shards(f"{tmp_path}?format=tables")
    (tmp_path / "notes.txt").touch()
    again = surveys.list_shards(f"{tmp_path}?format=tables", known=first.shards)
    assert [shard.name for shard in again.shards] == [shard.name for shard in first.shards]


def test_a_table_in_the_folder_is_no_part_of_the_survey(tmp_path):
    write_pictures(tmp_path, 2)
    (tmp_path / "t.parquet").touch()
    with pytest.raises(ConfigError, match="mixes files"):
        surveys.list_shards(str(tmp_path))
    with pytest.raises(ConfigError, match=r"t\.parquet"):
        surveys.list_shards(f"{tmp_path}?table=t.parquet")  # the reader looks at it, and says so


def test_a_place_without_survey_files_is_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError, match=r"found 1 files \(1 of \.txt\), expected one of"):
        surveys.list_shards(str(tmp_path))


def test_files_of_no_reader_are_counted_by_kind_and_light_curves_named(tmp_path):
    (tmp_path / "a.zarr").touch()
    with pytest.raises(ConfigError, match=r"found 1 files \(1 of \.zarr\), .* a reader of your"):
        surveys.list_shards(str(tmp_path))
    (tmp_path / "star.csv").touch()
    with pytest.raises(ConfigError, match=r"say \?format=light_curves"):
        surveys.list_shards(str(tmp_path))
    with pytest.raises(ConfigError, match=r"1 of \.csv.*, expected one of .*'\.pq'\]; a reader"):
        surveys.list_shards(f"{tmp_path}?format=spectra")
    (tmp_path / "none").mkdir()
    with pytest.raises(ConfigError, match="the folder is empty"):
        surveys.list_shards(str(tmp_path / "none"))


def test_an_unknown_format_is_refused(tmp_path):
    write_pictures(tmp_path, 1)
    with pytest.raises(ConfigError, match="format is 'webp'"):
        surveys.list_shards(f"{tmp_path}?format=webp")


def test_a_listing_only_grows_and_membership_never_changes(tmp_path):
    write_pictures(tmp_path, 3)
    first = surveys.list_shards(str(tmp_path)).shards
    write_pictures(tmp_path / "later", 2)
    second = surveys.list_shards(str(tmp_path), known=first)
    assert second.shards[:1] == first
    assert [len(shard.inputs) for shard in second.shards] == [3, 2]
    assert not second.changed


def test_a_run_that_lies_in_its_survey_is_no_part_of_it(tmp_path):
    write_pictures(tmp_path / "ledger" / "sky", 3)
    survey = str(tmp_path / "ledger" / "sky")
    first = surveys.list_shards(survey).shards
    for name in ("run.json", "ledger/shards.parquet", "catalog/objects.parquet"):
        storage.publish(f"{survey}/runs/a/{name}", b"of a run")
    storage.publish(f"{survey}/night/run.json", b"of a telescope")
    write_pictures(tmp_path / "ledger" / "sky" / "night", 2)
    second = surveys.list_shards(survey, known=first).shards
    assert second[:1] == first
    assert {file.path.rpartition("/")[0] for file in second[1].inputs} == {f"{survey}/night"}
    assert surveys.list_shards(f"{survey}/runs/a?format=tables").shards  # what was asked for


def test_changed_bytes_of_a_known_file_are_found(tmp_path):
    paths = write_pictures(tmp_path, 3)
    known = surveys.list_shards(str(tmp_path)).shards
    paths[1].write_bytes(paths[1].read_bytes() + b"x")
    listing = surveys.list_shards(str(tmp_path), known=known)
    assert list(listing.changed) == [known[0].name]
    assert listing.shards == known


def test_a_shard_is_named_by_its_members_alone(tmp_path):
    write_pictures(tmp_path, 3)
    names = [surveys.list_shards(str(tmp_path)).shards[0].name for _ in range(2)]
    assert names[0] == names[1]
    write_pictures(tmp_path, 4)
    assert surveys.list_shards(str(tmp_path)).shards[0].name != names[0]


def test_options_are_checked_by_name_and_type():
    import dataclasses

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Options:
        size: int = 32
        deep: bool = False

    assert parse_options(Options, {"size": "64", "deep": "yes"}) == Options(size=64, deep=True)
    with pytest.raises(ConfigError, match=r"'top' is unknown, .*--set search\.top=\.\.\."):
        parse_options(Options, {"top": "64"})
    with pytest.raises(ConfigError, match="'sise' is unknown"):
        parse_options(Options, {"sise": "64"})
    with pytest.raises(ConfigError, match="size is 'big', expected int"):
        parse_options(Options, {"size": "big"})


def test_published_light_curves_are_told_from_cutouts(tmp_path):
    write_mission(tmp_path / "a.fits", "tess")
    (shard,) = surveys.list_shards(str(tmp_path)).shards
    assert (shard.reader, shard.num_rows) == ("light_curves", 1)
    assert surveys.modality_of(shard) == "light_curves"
    (read,) = surveys.read_shard(shard)
    assert read.object_id_B == ["TIC 358108509 S1"]


def test_light_curves_are_read_from_files_of_other_readers_where_the_user_says_so(tmp_path):
    (tmp_path / "LICENSE").touch()
    np.savez(tmp_path / "tic7.npz", time=times("tess"), flux=np.ones(200))
    survey = f"{tmp_path}?format=light_curves&time=BTJD"
    (shard,) = surveys.list_shards(survey).shards
    assert shard.reader == "light_curves"
    assert surveys.list_shards(survey, known=[shard]).shards == (shard,)


def _version(path: str) -> str:
    """A time in ns, the last ten digits of which say nothing of those of others."""
    return f"179609{int(hashlib.sha256(path.encode()).hexdigest()[:12], 16) % 10**13:013d}"


def test_a_file_an_object_costs_a_listing_some_hundred_bytes_a_file(tmp_path, monkeypatch):
    folder, num_files = "/data/survey/cutouts", 20_000
    run_dir = str(tmp_path / "run")

    def listed(num, known=()):
        def found(location):
            paths = (f"{folder}/object-{i:09d}.jpg" for i in range(num))
            return storage.FileList(
                storage.InputFile(path=p, size_bytes=20_000 + len(p), version=_version(p))
                for p in paths
            )

        monkeypatch.setattr(storage, "list_files", found)
        tracemalloc.start()
        try:
            objects = objects_folder(run_dir)
            survey = f"{folder}?bands=RGB"
            shards = surveys.list_shards(survey, known=known, objects_folder=objects).shards
            return shards, tracemalloc.get_traced_memory()[1] / num
        finally:
            tracemalloc.stop()

    listed(3)  # libraries are loaded here
    shards, peak_b = listed(num_files)
    write_listing(run_dir, shards)
    again, again_b = listed(num_files, read_listing(run_dir))
    assert sum(len(shard.inputs) for shard in again) == num_files
    assert max(peak_b, again_b) < 150  # beside those of the ledger, which count apart


@pytest.mark.parametrize(
    ("paths", "proposed"),
    [
        (["/s/a.fits", "/s/b.fits"], "/s/*.fits"),
        (["/s/a.fits", "/s/b.fits.gz"], "/s/*.fits*"),
        (["/s/one/a.npz", "/s/one/b.npz"], "/s/one/*.npz"),
        (["s3://b/s/one/a.npz", "s3://b/s/other/b.npz"], "s3://b/s/**/*.npz"),
    ],
)
def test_a_proposed_glob_finds_the_files_where_they_lie(paths, proposed):
    assert glob_of(paths) == proposed


def test_a_glob_that_matches_folders_alone_is_told_from_one_that_matches_nothing(tmp_path):
    write_pictures(tmp_path / "sky" / "one", 2)
    with pytest.raises(ConfigError, match=r"it matches folders alone, whose files are '.*/sky/\*/"):
        surveys.list_shards(f"{tmp_path}/sky/*")
    with pytest.raises(ConfigError, match=r"check the path$"):
        surveys.list_shards(f"{tmp_path}/sky/*.jpg")
    assert surveys.list_shards(f"{tmp_path}/sky/*/**").shards[0].num_rows == 2


def test_a_path_object_is_a_survey_too(tmp_path):
    write_pictures(tmp_path, 2)
    assert surveys.list_shards(tmp_path).shards == surveys.list_shards(str(tmp_path)).shards


@pytest.mark.parametrize("survey", ["", "  "])
def test_no_survey_is_not_the_folder_one_is_in(survey):
    with pytest.raises(ConfigError, match="the survey is empty"):
        surveys.list_shards(survey)


def test_a_folder_of_runs_is_told_from_an_empty_one(tmp_path):
    write_listing(str(tmp_path / "run"), [])
    storage.publish(str(tmp_path / "run" / "run.json"), b"{}")
    with pytest.raises(ConfigError, match="it holds runs of astroray, which are no survey"):
        surveys.list_shards(str(tmp_path))
