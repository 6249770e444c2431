"""A catalog written a file a task is, to the byte, the one that one process would write."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from astroray import schema
from astroray.actors import publish
from astroray.actors.search import rank_survey
from astroray.catalog import pixels, read_catalog, write_catalog
from astroray.search import indexing
from astroray.search.sharded import rank_sharded
from benchmarks.embedded_runs import in_turn, make_embedded, plan_search
from tests.test_sharded import names, strays

CREATED = "2026-01-01T00:00:00Z"
THIRD_PARTY = pytest.mark.filterwarnings(
    "ignore::pandas.errors.Pandas4Warning",
    "ignore::DeprecationWarning:dask.*",
    "ignore::DeprecationWarning:distributed.*",
)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A run of 600 objects, every other one on the sky, in pixels of 60 rows and groups of 16."""
    run_dir = make_embedded(tmp_path_factory.mktemp("run"), strays(), names(600), on_sky=True)

    def pickled(function, arguments):
        for place, found in in_turn(function, arguments):
            yield place, pickle.loads(pickle.dumps(found))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(indexing, "LEAST_ROWS", 64)
        patch.setattr(pixels, "ROW_GROUP_SIZE", 16)
        divide = pixels.divide_sky
        patch.setattr(
            pixels, "divide_sky", lambda sky, num, **_: divide(sky, num, rows_per_pixel=60)
        )
        patch.setattr(publish, "ROWS_AT_ONCE", 7)
        plan = plan_search(run_dir, k=5, top=20, num_probes=1000)
        outcome = rank_sharded(plan, pickled, reason="asked for")
    return Path(run_dir), outcome


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.name != "hats.properties"
    }


def test_its_bytes_are_those_of_the_same_rows_written_by_one_process(
    written, tmp_path, monkeypatch
):
    monkeypatch.setattr(pixels, "ROW_GROUP_SIZE", 16)
    rows = read_catalog(str(written[0]))
    write_catalog(rows, str(tmp_path), name="made", created=CREATED, rows_per_pixel=60)
    found = digests(written[0] / "catalog")
    assert len(found) > 12
    assert found == digests(tmp_path / "catalog")


def test_its_rows_and_pictures_are_those_of_a_search_in_one_process(written, tmp_path):
    run_dir = make_embedded(tmp_path, strays(), names(600), on_sky=True)
    outcome = rank_survey(plan_search(run_dir, k=5, top=20, index="flat"))
    assert read_catalog(str(written[0])).equals(read_catalog(run_dir))
    assert written[1].counts == outcome.counts
    assert written[1].wanted == outcome.wanted


def test_its_neighbors_are_one_part_a_file_with_every_row_once(written):
    parts = sorted((written[0] / "neighbors").iterdir())
    assert [part.name for part in parts] == [
        f"neighbors-{i:05d}.parquet" for i in range(len(parts))
    ]
    found = pa.concat_tables([pq.read_table(part) for part in parts]).sort_by("object_id")
    expected = read_catalog(str(written[0])).select(schema.NEIGHBORS.names).sort_by("object_id")
    assert found.combine_chunks().equals(expected.combine_chunks())


@THIRD_PARTY
def test_hats_and_lsdb_open_it(written):
    import lsdb
    from hats.io.validation import is_valid_catalog

    assert is_valid_catalog(written[0] / "catalog", strict=True)
    frame = lsdb.open_catalog(written[0] / "catalog").compute()
    assert sorted(frame["rank"]) == sorted(
        row["rank"] for row in read_catalog(str(written[0])).to_pylist() if row["ra"] is not None
    )


def test_a_search_in_one_process_writes_the_same_bytes(written, tmp_path, monkeypatch):
    monkeypatch.setattr(pixels, "ROW_GROUP_SIZE", 16)
    divide = pixels.divide_sky
    monkeypatch.setattr(
        pixels, "divide_sky", lambda sky, num, **_: divide(sky, num, rows_per_pixel=60)
    )
    run_dir = make_embedded(tmp_path, strays(), names(600), on_sky=True)
    rank_survey(plan_search(run_dir, k=5, top=20, index="flat"))
    for folder in ("neighbors", "catalog"):
        assert digests(Path(run_dir) / folder) == digests(written[0] / folder)


def test_a_catalog_of_fewer_files_leaves_no_part_of_the_one_before(tmp_path):
    folder = tmp_path / "neighbors"
    run_dir = make_embedded(tmp_path, strays(80), names(80), on_sky=True)
    rank_sharded(plan_search(run_dir, k=3), in_turn, reason="asked for")
    assert len(list(folder.iterdir())) > 1
    again = make_embedded(tmp_path, strays(80), names(80))
    rank_survey(plan_search(again, k=3, index="flat"))
    assert [path.name for path in folder.iterdir()] == ["neighbors-00000.parquet"]


def test_objects_are_gathered_by_number_from_any_batch(tmp_path):
    table = pa.table({"object_id": [f"o{i}" for i in range(10)], "row": list(range(10))})
    path = str(tmp_path / "objects.arrow")
    publish.write_batches(path, table.to_batches(max_chunksize=3))
    objects = publish.Objects(path)
    number_B = np.array([9, 0, 4, 4, 2, 3])
    assert objects.take(number_B)["row"].to_pylist() == number_B.tolist()
    assert objects.names(number_B).to_pylist() == [f"o{i}" for i in number_B]
    assert len(objects.take(np.zeros(0, np.int64))) == 0
