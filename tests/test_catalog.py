"""Tests of astroray.catalog: valid HATS, equal bytes for equal rows, whole or absent, exports."""

import contextlib
import hashlib
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from astroray import schema, storage
from astroray.catalog import read_catalog, read_pieces, write_catalog
from astroray.errors import ConfigError, LedgerError, SchemaError
from astroray.storage import object_store
from tests.catalogs_made import CREATED, by_rank, make_catalog, mixed, write

__all__ = ["mixed"]

THIRD_PARTY = pytest.mark.filterwarnings(
    "ignore::pandas.errors.Pandas4Warning",  # lsdb sets a pandas option that is on its way out
    "ignore::DeprecationWarning:dask.*",
    "ignore::DeprecationWarning:distributed.*",
)


def digests(run_dir: Path) -> dict[str, str]:
    """Content hash of every file of the catalog but the one that may hold dates."""
    files = sorted(path for path in (run_dir / "catalog").rglob("*") if path.is_file())
    return {
        str(path.relative_to(run_dir)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.name != "hats.properties"
    }


def test_hats_finds_the_catalog_strictly_valid(mixed, caplog):
    from hats.io.validation import is_valid_catalog

    assert is_valid_catalog(mixed[1] / "catalog", strict=True)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_hats_reads_properties_skymap_and_partitions(mixed):
    from hats.io.skymap import read_skymap
    from hats.loaders import read_hats

    catalog = read_hats(mixed[1] / "catalog")
    assert catalog.catalog_info.total_rows == 293
    assert catalog.catalog_info.ra_column == "ra"
    assert read_skymap(catalog, 0).sum() == 293
    assert len(catalog.get_healpix_pixels()) > 12


@THIRD_PARTY
def test_lsdb_opens_the_catalog_and_finds_every_row_with_a_position(mixed):
    import lsdb

    table, run_dir = mixed
    frame = lsdb.open_catalog(run_dir / "catalog").compute().sort_values("rank")
    expected = by_rank(table.filter(pa.compute.is_valid(table["ra"])))
    assert frame["object_id"].tolist() == expected["object_id"].to_pylist()
    assert frame["ra"].tolist() == expected["ra"].to_pylist()
    got = [list(x) for x in frame["neighbor_distance"]]
    assert got == expected["neighbor_distance"].to_pylist()


@THIRD_PARTY
def test_lsdb_cone_search_finds_the_object_at_the_center(mixed):
    import lsdb

    table, run_dir = mixed
    ra_deg, dec_deg = table["ra"][0].as_py(), table["dec"][0].as_py()
    found = lsdb.open_catalog(run_dir / "catalog").cone_search(ra_deg, dec_deg, 1.0).compute()
    assert found["object_id"].tolist() == ["obj 0"]


def test_all_rows_come_back_by_rank(mixed):
    table, run_dir = mixed
    assert read_catalog(str(run_dir)).equals(by_rank(table))


def test_equal_rows_in_any_order_make_equal_bytes(tmp_path, mixed):
    table, run_dir = mixed
    shuffled = table.take(np.random.default_rng(1).permutation(table.num_rows))
    chunked = pa.concat_tables(
        [shuffled.slice(0, 11), shuffled.slice(11, 150), shuffled.slice(161)]
    )
    write_catalog(chunked, str(tmp_path), name="test", created="later", rows_per_pixel=20)
    assert digests(tmp_path) == digests(run_dir)


def test_other_rows_make_other_bytes(tmp_path, mixed):
    write(make_catalog(300, num_unplaced=7, seed=6), tmp_path, rows_per_pixel=20)
    assert digests(tmp_path) != digests(mixed[1])


def test_a_pixel_holds_no_more_rows_than_asked_and_rows_follow_the_sky(mixed):
    leaves = list((mixed[1] / "catalog" / "dataset").rglob("Npix*.parquet"))
    for leaf in leaves:
        healpix = pq.read_table(leaf, partitioning=None)["_healpix_29"].to_pylist()
        assert 1 <= len(healpix) <= 20
        assert healpix == sorted(healpix)
    orders = {leaf.parts[-3] for leaf in leaves}
    assert {"Norder=0", "Norder=1"} & orders
    assert len(orders) > 1


def test_rows_at_one_position_stay_together_whatever_the_limit(tmp_path):
    table = make_catalog(5)
    same = {
        name: pa.concat_arrays([table[name].combine_chunks()[:1]] * 5)
        for name in ("ra", "dec", "_healpix_29")
    }
    for name, values in same.items():
        index = table.schema.get_field_index(name)
        table = table.set_column(index, schema.CATALOG.field(name), values)
    write(table, tmp_path, rows_per_pixel=2)
    assert read_catalog(str(tmp_path)).num_rows == 5


def test_columns_keep_unit_meaning_and_ucd_in_every_file(mixed):
    from hats.loaders import read_hats

    for path in (mixed[1] / "catalog").rglob("*.parquet"):
        for field in pq.read_schema(path):
            expected = schema.CATALOG.field(field.name).metadata
            assert {key: field.metadata[key] for key in expected} == expected
    common = read_hats(mixed[1] / "catalog").schema
    assert common.field("ra").metadata[b"unit"] == b"deg"


def test_the_joined_footer_counts_every_row_with_a_position(mixed):
    assert pq.read_metadata(mixed[1] / "catalog/dataset/_metadata").num_rows == 293


def test_a_run_without_positions_writes_objects_only(tmp_path):
    table = make_catalog(9, num_unplaced=9)
    assert write(table, tmp_path) == [f"{tmp_path}/catalog/objects.parquet"]
    assert list(digests(tmp_path)) == ["catalog/objects.parquet"]
    assert read_catalog(str(tmp_path)).equals(by_rank(table))


def test_a_run_without_rows_writes_an_empty_catalog(tmp_path):
    write(schema.CATALOG.empty_table(), tmp_path)
    assert read_catalog(str(tmp_path)).equals(schema.CATALOG.empty_table())


def test_the_completing_file_is_written_last(tmp_path):
    assert write(make_catalog(9), tmp_path)[-1] == f"{tmp_path}/catalog/hats.properties"


@pytest.mark.parametrize("num_unplaced", [0, 3, 60], ids=["placed", "mixed", "unplaced"])
def test_writing_again_leaves_nothing_of_the_earlier_catalog(tmp_path, num_unplaced):
    write(make_catalog(200, num_unplaced=5), tmp_path / "again", rows_per_pixel=4)
    table = make_catalog(60, num_unplaced=num_unplaced, seed=8)
    for run_dir in (tmp_path / "again", tmp_path / "once"):
        write(table, run_dir)
    assert digests(tmp_path / "again") == digests(tmp_path / "once")
    assert read_catalog(str(tmp_path / "again")).equals(by_rank(table))


@pytest.mark.parametrize("num_unplaced", [4, 40], ids=["mixed", "unplaced"])
def test_a_write_killed_at_any_file_leaves_no_catalog_until_written_again(
    tmp_path, monkeypatch, num_unplaced
):
    write(make_catalog(40, num_unplaced=2, seed=1), tmp_path)
    table = make_catalog(40, num_unplaced=num_unplaced, seed=2)
    num_files = len(write(table, tmp_path / "whole"))
    for survivors in range(num_files):
        left = iter(range(survivors))

        def publishing(path: str, *, is_secret=False, left=left, real=storage.publishing):
            if next(left, None) is None:
                raise KeyboardInterrupt
            return real(path, is_secret=is_secret)

        with monkeypatch.context() as patch:
            patch.setattr(storage, "publishing", publishing)
            with pytest.raises(KeyboardInterrupt):
                write(table, tmp_path)
        with pytest.raises(LedgerError, match="start it again"):
            read_catalog(str(tmp_path))
    write(table, tmp_path)
    assert digests(tmp_path) == digests(tmp_path / "whole")


def test_a_catalog_is_taken_down_from_its_completing_file_on(tmp_path, monkeypatch):
    old = make_catalog(60, num_unplaced=5)
    num_files = len(write(old, tmp_path, rows_per_pixel=9))
    for survivors in range(num_files):
        write(old, tmp_path, rows_per_pixel=9)
        left = iter(range(survivors))

        def delete(path: str, left=left, real=storage.delete) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            real(path)

        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            patch.setattr(storage, "delete", delete)
            write(make_catalog(9, num_unplaced=9), tmp_path)
        assert (tmp_path / "catalog" / "hats.properties").exists() == (survivors == 0)


def test_a_table_with_other_columns_is_refused(tmp_path):
    with pytest.raises(SchemaError, match="'rank' is missing in catalog"):
        write(make_catalog(3).drop_columns("rank"), tmp_path)


def test_a_pixel_of_no_rows_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="rows_per_pixel is 0"):
        write(make_catalog(3), tmp_path, rows_per_pixel=0)


def test_reading_where_no_catalog_is_says_what_to_do(tmp_path):
    with pytest.raises(LedgerError, match=r"pruned, name the one that was kept"):
        read_catalog(str(tmp_path))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_a_damaged_partition_is_named(tmp_path, damage):
    leaf = Path(next(path for path in write(make_catalog(50), tmp_path) if "Npix" in path))
    data = bytearray(leaf.read_bytes())
    data[200] ^= 0xFF
    leaf.unlink()
    if damage != "missing":
        leaf.write_bytes(data if damage == "flipped" else data[:100])
    with pytest.raises(LedgerError, match=r"Npix=.* is damaged or missing"):
        read_catalog(str(tmp_path))


def test_an_object_store_gets_the_same_bytes_as_a_disk(tmp_path, monkeypatch):
    store: dict[str, bytes] = {}

    def list_objects(folder: str) -> list[tuple[str, int, str]]:
        return [
            (path, len(data), "etag")
            for path, data in store.items()
            if path.startswith(f"{folder}/") and "/_" not in path
        ]

    for name, act in {
        "put": store.__setitem__,
        "put_file": lambda path, file: file.seek(0) or store.update({path: file.read()}),
        "get_file": lambda path, file: file.write(store[path]),
        "exists": store.__contains__,
        "delete": lambda path: store.pop(path, None),
        "list_objects": list_objects,
    }.items():
        monkeypatch.setattr(object_store, name, act)
    for seed, num_unplaced in ((1, 3), (2, 0), (3, 8)):
        table = make_catalog(90, num_unplaced=num_unplaced, seed=seed)
        options = {"name": "n", "created": CREATED, "rows_per_pixel": 9}
        write_catalog(table, "s3://bucket/run", **options)
        write_catalog(table, str(tmp_path), **options)
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        on_disk = {str(path.relative_to(tmp_path)): path.read_bytes() for path in files}
        assert {path.removeprefix("s3://bucket/run/"): x for path, x in store.items()} == on_disk
        assert read_catalog("s3://bucket/run").equals(by_rank(table))


def test_no_file_of_a_catalog_stays_open_behind_the_piece_that_was_read(tmp_path):
    write(make_catalog(3), tmp_path)
    pieces = list(read_pieces(str(tmp_path)))
    handles = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    assert pieces
    assert not [path for path in handles if path.startswith(str(tmp_path))]
