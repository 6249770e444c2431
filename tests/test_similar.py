"""`astroray similar`: the nearest objects of scans and nights, of images and light curves."""

import json
import threading

import numpy as np
import pytest
from click.testing import CliRunner

from astroray import explain, surveys
from astroray.archive import Archive, Nearest
from astroray.catalog import versions
from astroray.cli import cli
from astroray.errors import ConfigError
from astroray.explain import explain_object
from astroray.neighbors.certificate import score_of
from astroray.similar import find_similar
from astroray.surveys.shards import Cutouts
from benchmarks.bad_uploads import fits_bytes, parquet_bytes
from tests.light_curves_made import fluxes, times
from tests.served_run import make_curve_run, make_run

SURVEY = "sim:galaxies?count=120&seed=3&shard_rows=40"


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """A night of one new shard after a scan of two."""
    folder = tmp_path_factory.mktemp("similar")
    reference = make_run(folder / "reference", SURVEY, shards=slice(0, 2))
    return make_run(folder / "night", SURVEY, reference=reference, shards=slice(2, 3))


@pytest.fixture(scope="module")
def curves(tmp_path_factory):
    return make_curve_run(tmp_path_factory.mktemp("curves"), num_stars=8)


def run(*arguments):
    return CliRunner().invoke(cli, ["similar", *map(str, arguments)])


def test_a_night_is_searched_whole_and_equals_the_explained_neighbors(night):
    archive = Archive(night)
    assert len(archive.table) == len(versions.read_version(night)) == 120
    for row in (0, 60, 119):
        name = archive.table["object_id"][row].as_py()
        explained = explain_object(night, name)
        found = find_similar(night, name, archive.k)
        assert [one["object_id"] for one in found.neighbors] == explained.neighbor_id
        assert [one["distance"] for one in found.neighbors] == explained.distance
        assert archive.picture(row, 32)
    assert len({archive.table["shard"][row].as_py() for row in range(120)}) == 3


def test_a_row_is_traced_through_several_shards_at_a_time(night, monkeypatch):
    meeting = threading.Barrier(3)  # one for each shard
    read = explain.read_embeddings

    def read_together(receipts, columns=None):
        if columns:  # else it is the row's own
            meeting.wait(20)
        return read(receipts, columns)

    monkeypatch.setattr(explain, "read_embeddings", read_together)
    name = Archive(night).table["object_id"][0].as_py()
    assert explain_object(night, name).verdict.startswith("equal to the last bit")


def test_a_night_is_the_archive_of_a_scan_of_everything_but_for_its_ranks(night, tmp_path):
    model = Archive(night)
    whole = Archive(make_run(tmp_path, SURVEY))
    assert set(whole.table["object_id"].to_pylist()) == set(model.table["object_id"].to_pylist())
    ids = whole.table["object_id"].to_pylist()
    row_N = np.array([model.find(name) for name in ids])
    np.testing.assert_array_equal(model.embedding_ND[row_N], whole.embedding_ND)


def test_a_file_of_an_object_finds_the_object_itself_first(night, tmp_path):
    shard = surveys.list_shards(SURVEY).shards[2]
    cutouts = next(item for item in surveys.read_shard(shard) if isinstance(item, Cutouts))
    path = tmp_path / "cutout.fits"
    path.write_bytes(fits_bytes(cutouts.image_BCYX[3], cutouts.bands))
    result = run(night, path, "--n", 3, "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.output)
    assert answer["query"] == {"path": str(path)}
    assert len(answer["neighbors"]) == 3
    assert answer["neighbors"][0]["object_id"] == cutouts.object_id_B[3]
    assert answer["neighbors"][0]["distance"] < 1e-3 * answer["neighbors"][1]["distance"]


def test_a_mean_of_distances_is_summed_as_a_scan_sums_it(night):
    archive, distance_K = Archive(night), np.full(10, 0.1)
    archive.record.config["search"]["score"] = "mean"
    found = Nearest(row_K=np.arange(10), distance_K=distance_K)
    assert archive.score_of(found) == score_of(distance_K[None], "mean")[0] != 0.1  # of one by one


def test_the_list_has_rank_distance_name_and_position(night):
    name = Archive(night).table["object_id"][0].as_py()
    found = find_similar(night, name, 4)
    lines = run(night, name, "--n", 4).output.splitlines()
    assert name in lines[0]
    assert "rank 1" in lines[0]
    for line, one in zip(lines[-4:], found.neighbors, strict=True):
        assert one["object_id"] in line
        assert f"{one['distance']:.6g}" in line
        assert f"ra {one['ra']:.6f}, dec {one['dec']:+.6f} deg" in line


def test_more_than_there_are_gives_all_others(night):
    name = Archive(night).table["object_id"][0].as_py()
    assert len(find_similar(night, name, 1000).neighbors) == 119


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "is neither an object of"), (b"GIF89a", "begins with b'GIF89a', expected a FITS")],
)
def test_what_cannot_be_searched_is_one_line(night, tmp_path, content, message):
    path = tmp_path / "what"
    if content:
        path.write_bytes(content)
    result = run(night, path)
    assert result.exit_code in (1, 2)
    assert message in result.output
    assert str(path) in result.output
    assert "Traceback" not in result.output


def test_light_curves_are_searched_and_explained_by_name_and_by_a_file(curves, tmp_path):
    name = Archive(curves).table["object_id"][0].as_py()
    found = find_similar(curves, name, 2)
    explained = explain_object(curves, name)
    assert [one["object_id"] for one in found.neighbors] == explained.neighbor_id
    assert explained.verdict == "equal to the last bit, with the same neighbors"
    assert explained.encoded == "read and encoded again, equal to the last bit"
    (tmp_path / "x.png").write_bytes(b"\x89PNG")
    result = run(curves, tmp_path / "x.png")
    assert result.exit_code in (1, 2)
    assert "expected a FITS file (plain or gzip) or a Parquet file" in result.output
    path = tmp_path / "many.parquet"  # more than a server would take of a stranger
    names = [f"x{number}" for number in range(70)]
    path.write_bytes(parquet_bytes(times(num=600), fluxes(600, seed=6), names=names))
    for asked, wrong in (((), ""), (("--row", 70), "row is 70, and ")):
        refused = run(curves, path, *asked)
        assert refused.exit_code == 2
        assert f"{wrong}{path} holds 70 rows that can be used" in refused.output
        assert "say which one with row=0" in refused.output
    answer = json.loads(run(curves, path, "--row", 66, "--n", 1, "--json").output)
    assert answer["neighbors"][0]["object_id"] == "KIC 6 Q2"


@pytest.mark.parametrize(
    ("config", "message"),
    [({}, "a run without a search"), ({"rule": {}}, r"run of flares find, .*/flares\.parquet")],
)
def test_a_run_without_a_search_is_refused(tmp_path, config, message):
    from astroray.run_record import RunRecord

    record = RunRecord(
        survey="k2", fingerprint="f", config=config, created="2026-01-01T00:00:00Z", state="done"
    )
    record.publish(str(tmp_path))
    with pytest.raises(ConfigError, match=message):
        Archive(str(tmp_path))
