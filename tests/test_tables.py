"""Tests of astroray.surveys.tables: columns, shards, bad files, HATS catalogs."""

import contextlib
import json
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from astroray import storage
from astroray.errors import ConfigError, DataError, FileError, ShardError
from astroray.storage import object_store
from astroray.surveys import tables
from astroray.surveys.shards import Cutouts, Reject, SurveyUri
from tests.tables_made import NUM_ROWS, images, list_shards, only, read, survey, tensor

IDENTITY = {
    "SOURCE_ID": pa.array([4611686018427387905 + i for i in range(NUM_ROWS)], pa.int64()),
    "RAJ2000": pa.array([None, *(10.0 + i for i in range(1, NUM_ROWS))], pa.float64()),
    "DEJ2000": pa.array([-5.0 - i for i in range(NUM_ROWS)], pa.float32()),
}


def test_identifiers_keep_all_digits_and_unknown_positions_are_nan(tmp_path):
    cutouts = only(read(survey(tmp_path, tensor(images()), others=IDENTITY)))
    assert cutouts.object_id_B[1] == "4611686018427387906"
    assert np.isnan(cutouts.ra_deg_B[0])
    assert cutouts.ra_deg_B[1:].tolist() == [10.0 + i for i in range(1, NUM_ROWS)]
    assert cutouts.dec_deg_B[3] == -8.0


def test_whole_floats_are_identifiers_as_pandas_writes_them_beside_a_null(tmp_path):
    ids = pa.array([None, *(float(2**53 - i) for i in range(1, NUM_ROWS))], pa.float64())
    path = survey(tmp_path, tensor(images()), others={"object_id": ids})
    (shard,) = list_shards(path)
    names = list(only(list(tables.read_shard(shard))).object_id_B)
    assert names == [f"{shard.name}:0", *(str(2**53 - i) for i in range(1, NUM_ROWS))]


@pytest.mark.parametrize(
    "ids", [pa.array([2.0**53] * NUM_ROWS), pa.array([2.0**24] * NUM_ROWS, pa.float32()),
            pa.array([0.5] * NUM_ROWS)]
)  # fmt: skip
def test_floats_that_lost_digits_of_identifiers_are_refused(tmp_path, ids):
    path = survey(tmp_path, tensor(images()), others={"object_id": ids})
    with pytest.raises(ShardError, match="expected text or integers; floats lose digits"):
        read(path)


def test_columns_named_by_options_win(tmp_path):
    others = IDENTITY | {
        "label": pa.array([f"n{i}" if i else None for i in range(NUM_ROWS)]).dictionary_encode(),
        "lon": pa.array(range(NUM_ROWS), pa.int32()),
        "lat": pa.array(range(NUM_ROWS), pa.float32()),
    }
    path = survey(tmp_path, tensor(images()), others=others)
    (shard,) = list_shards(path, "id=label&ra=lon&dec=lat")
    cutouts = only(list(tables.read_shard(shard)))
    assert list(cutouts.object_id_B) == [f"{shard.name}:0", *(f"n{i}" for i in range(1, NUM_ROWS))]
    assert cutouts.ra_deg_B.tolist() == list(range(NUM_ROWS))


def test_positions_in_radians_become_degrees(tmp_path):
    fields = [pa.field("image", tensor(images(2)).type)]
    fields += [pa.field(name, pa.float64(), metadata={"unit": "rad"}) for name in ("ra", "dec")]
    columns = [tensor(images(2)), pa.array([np.pi, 1.0]), pa.array([-np.pi / 2, 0.0])]
    pq.write_table(pa.table(columns, schema=pa.schema(fields)), tmp_path / "a.parquet")
    cutouts = only(read(tmp_path / "a.parquet"))
    assert cutouts.ra_deg_B[0] == pytest.approx(180.0)
    assert cutouts.dec_deg_B[0] == pytest.approx(-90.0)


def test_positions_that_fill_the_sky_in_radians_are_refused_over_all_files_until_it_is_said(
    tmp_path,
):
    """No file of a HATS catalog covers the sky by itself."""
    for i, part in enumerate(np.array_split(np.linspace(0, 2 * np.pi, 40, endpoint=False), 4)):
        dec = np.arcsin(part / np.pi - 1)
        columns = {"image": tensor(images(10)), "ra": part, "dec": dec}
        pq.write_table(pa.table(columns), tmp_path / f"{i}.parquet")
    with pytest.raises(ConfigError, match=r"look like radians: 0\.\..*-1\.571\.\..*angles=rad"):
        list_shards(tmp_path)
    shards = list_shards(tmp_path, "angles=rad")
    ra_deg_B = [only(list(tables.read_shard(shard))).ra_deg_B.max() for shard in shards]
    assert max(ra_deg_B) == pytest.approx(351.0)
    assert len(list_shards(tmp_path, "angles=deg")) == 4
    assert len(list_shards(tmp_path / "0.parquet")) == 1  # a field of 1.5 by .5 degrees as well
    with pytest.raises(ConfigError, match="angles is 'grad', expected deg or rad"):
        list_shards(tmp_path, "angles=grad")


def test_without_identifiers_the_shard_and_row_name_an_object(tmp_path):
    path = survey(tmp_path, tensor(images()))
    (shard,) = list_shards(path)
    assert only(read(path)).object_id_B[3] == f"{shard.name}:3"


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("image=nope", "option image is 'nope', but .* has the columns image, SOURCE_ID"),
        ("image=RAJ2000", "option image, has type double, expected numbers in lists"),
        ("id=image", "expected text or integers"),
        ("ra=image", "expected numbers, in degrees"),
        ("shape=big", "shape is 'big'"),
        ("shape=3x0x4", "shape is '3x0x4'"),
        ("pixels=raw", "pixels is 'raw', expected display or flux"),
        ("shard_rows=0", "shard_rows is 0"),
        ("shard_rows=x", "shard_rows is 'x'"),
        ("filter=x", "option 'filter' is unknown"),
    ],
)
def test_bad_options_are_refused_before_the_run(tmp_path, query, message):
    path = survey(tmp_path, tensor(images()), others=IDENTITY)
    with pytest.raises(ConfigError, match=message):
        list_shards(path, query)


def test_a_file_without_a_known_image_column_lists_the_candidates(tmp_path):
    path = survey(tmp_path, tensor(images()), name="thing", others=IDENTITY)
    with pytest.raises(
        ConfigError, match="columns that can hold images: thing; name one with image="
    ):
        list_shards(path)


def test_a_long_file_is_split_between_its_row_groups(tmp_path):
    path = survey(tmp_path, tensor(images(23)), row_group_size=3)
    shards = list_shards(path, "shard_rows=8")
    assert [shard.num_rows for shard in shards] == [9, 9, 5]
    assert len({shard.name for shard in shards}) == 3
    parts = [only_rows(tables.read_shard(shard)) for shard in shards]
    np.testing.assert_array_equal(np.concatenate([x for x, _ in parts]), images(23))
    assert [rows for _, rows in parts] == [list(range(9)), list(range(9)), list(range(5))]


def only_rows(found) -> tuple[np.ndarray, list[int]]:
    cutouts = list(found)
    rows = [int(row) for x in cutouts for row in x.row_B]
    return np.concatenate([x.image_BCYX for x in cutouts]), rows


def test_shards_survive_json_and_the_same_files_make_the_same_names(tmp_path):
    path = survey(tmp_path, tensor(images()))
    (shard,) = list_shards(path, "image=image")
    assert json.loads(json.dumps(shard.params)) == shard.params
    assert list_shards(path, "image=image") == [shard]


@pytest.mark.parametrize("rows", [[0], [2, 3, 17], [22], [5, 99], []], ids=str)
def test_chosen_rows_equal_those_of_a_full_read(tmp_path, rows):
    ids = {"id": pa.array([f"o{i}" for i in range(23)])}
    path = survey(tmp_path, tensor(images(23)), row_group_size=4, others=ids)
    found = read(path, rows=rows)
    got = {row: (x.object_id_B[i], x.image_BCYX[i]) for x in found for i, row in enumerate(x.row_B)}
    assert list(got) == [row for row in rows if row < 23]
    for row, (name, image_CYX) in got.items():
        assert name == f"o{row}"
        np.testing.assert_array_equal(image_CYX, images(23)[row])


def test_chosen_rows_read_only_their_row_groups(tmp_path):
    path = survey(tmp_path, tensor(images(20)), row_group_size=5)
    spoil(path, row_group=0)
    assert only(read(path, rows=[12])).row_B.tolist() == [12]


def spoil(path: Path, *, row_group: int) -> None:
    """Flips one bit of a pixel in one row group."""
    chunk = pq.read_metadata(path).row_group(row_group).column(0)
    data = bytearray(path.read_bytes())
    data[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 1  # only the checksum tells
    path.write_bytes(data)


def test_a_spoiled_row_group_rejects_its_rows_and_the_others_are_read(tmp_path):
    path = survey(tmp_path, tensor(images(15)), row_group_size=5)
    spoil(path, row_group=1)
    found = read(path)
    rejects = [x for x in found if isinstance(x, Reject)]
    assert [(x.row, x.kind) for x in rejects] == [(row, "corrupt") for row in range(5, 10)]
    assert "row group 1" in rejects[0].reason
    kept = [row for x in found if isinstance(x, Cutouts) for row in x.row_B]
    assert kept == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]


@pytest.mark.parametrize("content", ["truncated", "foreign", "empty"])
def test_a_file_that_is_no_parquet_is_listed_and_refused_when_read(tmp_path, content):
    good = survey(tmp_path, tensor(images()), file="b.parquet")
    data = {"truncated": good.read_bytes()[:-9], "foreign": b"hello" * 99, "empty": b""}[content]
    (tmp_path / "a.parquet").write_bytes(data)
    bad_shard, good_shard = list_shards(tmp_path)
    assert bad_shard.num_rows is None
    with pytest.raises(ShardError, match=r"a.parquet is not a whole Parquet file"):
        list(tables.read_shard(bad_shard))
    assert len(only(list(tables.read_shard(good_shard))).row_B) == NUM_ROWS


def footer_bytes(data: bytes) -> int:
    return int.from_bytes(data[-8:-4], "little")


def test_a_flipped_bit_of_a_footer_ends_neither_a_listing_nor_the_reading(tmp_path):
    """Whatever it is: what pyarrow says of a column of a damaged footer may end the process."""
    path = survey(tmp_path, tensor(images()), others=IDENTITY)
    data = path.read_bytes()
    end = 8 * (len(data) - 8)
    start = end - 8 * footer_bytes(data)
    for bit in range(start, end, 89):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with contextlib.suppress(ConfigError, DataError):
            found = read(path)
            assert sum(len(x.row_B) if isinstance(x, Cutouts) else 1 for x in found) == NUM_ROWS


@pytest.mark.parametrize("mask", [0x01, 0x20, 0x80])  # another letter, another case, no UTF-8
@pytest.mark.parametrize("name", [b"SOURCE_ID", b"DEJ2000"])
def test_a_file_whose_footer_misspells_a_column_is_no_whole_file(tmp_path, name, mask):
    """Else its rows would go without the identifiers or positions that they have."""
    survey(tmp_path, tensor(images()), others=IDENTITY, file="a.parquet")
    path = survey(tmp_path, tensor(images()), others=IDENTITY, file="b.parquet")
    data = bytearray(path.read_bytes())
    data[data.index(bytes([len(name)]) + name, len(data) - 8 - footer_bytes(data)) + 1] ^= mask
    path.write_bytes(data)
    good, bad = list_shards(tmp_path)
    assert len(only(list(tables.read_shard(good))).row_B) == NUM_ROWS
    with pytest.raises(ShardError, match=r"b.parquet is not a whole Parquet file"):
        list(tables.read_shard(bad))


def test_a_file_with_other_columns_is_refused_as_a_shard(tmp_path):
    survey(tmp_path, tensor(images()), file="a.parquet")
    survey(tmp_path, tensor(images()), file="b.parquet", name="other")
    bad_shard = list_shards(tmp_path)[1]
    with pytest.raises(ShardError, match="no image column"):
        list(tables.read_shard(bad_shard))


def test_a_file_that_vanished_is_a_file_error(tmp_path):
    path = survey(tmp_path, tensor(images()))
    (shard,) = list_shards(path)
    path.unlink()
    with pytest.raises(FileError, match="missing"):
        list(tables.read_shard(shard))


def test_a_file_that_shrank_since_the_listing_is_refused(tmp_path):
    shards = list_shards(survey(tmp_path, tensor(images(8)), row_group_size=2), "shard_rows=2")
    survey(tmp_path, tensor(images(4)), row_group_size=2)
    with pytest.raises(ShardError, match="2 row groups, expected at least 4"):
        list(tables.read_shard(shards[3]))


def test_a_file_without_rows_is_a_shard_without_rows(tmp_path):
    path = survey(tmp_path, tensor(images())[:0])
    (shard,) = list_shards(path)
    assert shard.num_rows == 0
    assert list(tables.read_shard(shard)) == []


def test_many_rows_come_in_slices_of_bounded_size(tmp_path):
    found = read(survey(tmp_path, tensor(images(600))))
    assert max(len(x.row_B) for x in found) <= 256
    np.testing.assert_array_equal(only_rows(found)[0], images(600))


def hats_catalog(folder: Path, image_BCYX: np.ndarray, *, ra_column: str = "ra") -> None:
    leaf = folder / "dataset" / "Norder=0" / "Dir=0"
    leaf.mkdir(parents=True)
    others = {
        ra_column: pa.array(np.full(len(image_BCYX), 12.0)),
        "dec": pa.array(np.full(len(image_BCYX), 3.0)),
        "_healpix_29": pa.array(np.zeros(len(image_BCYX), np.int64)),
    }
    survey(leaf, tensor(image_BCYX), others=others, file="Npix=4.parquet")
    survey(folder, tensor(image_BCYX[:1]), file="data_thumbnail.parquet")
    (folder / "partition_info.csv").write_text("Norder,Npix\n0,4\n")
    (folder / "hats.properties").write_text(
        f"#HATS catalog\nobs_collection=x\nhats_col_ra={ra_column}\nhats_col_dec=dec\n"
    )


def test_of_a_hats_catalog_only_the_partitions_are_read(tmp_path):
    hats_catalog(tmp_path, images(), ra_column="ra_mean")
    cutouts = only(read(tmp_path, "format=tables"))
    np.testing.assert_array_equal(cutouts.image_BCYX, images())
    assert cutouts.ra_deg_B.tolist() == [12.0] * NUM_ROWS


def test_of_a_hats_collection_only_the_primary_catalog_is_read(tmp_path):
    hats_catalog(tmp_path / "sky.v1", images())
    hats_catalog(tmp_path / "sky.v1_margin", images(3))
    (tmp_path / "collection.properties").write_text(
        "hats_primary_table_url=sky.v1\nall_margins=m\n"
    )
    np.testing.assert_array_equal(only(read(tmp_path)).image_BCYX, images())


def test_a_later_listing_of_a_hats_catalog_finds_nothing_new_beside_the_partitions(tmp_path):
    hats_catalog(tmp_path, images())
    rest = [x for x in storage.list_files(str(tmp_path)) if "Npix" not in x.path]
    assert rest
    assert tables.list_shards(rest, SurveyUri.parse(f"{tmp_path}?format=tables")) == []


def test_on_an_object_store_only_the_first_footer_is_read_when_listing(tmp_path, monkeypatch):
    for file in ("a.parquet", "b.parquet"):
        survey(tmp_path, tensor(images()), row_group_size=2, file=file)
    fetched = []

    def get_file(path: str, file: BinaryIO) -> None:
        fetched.append(path)
        file.write((tmp_path / path.rpartition("/")[2]).read_bytes())

    monkeypatch.setattr(object_store, "get_file", get_file)
    monkeypatch.setattr(object_store, "exists", lambda path: False)
    paths = ["s3://bucket/sky/a.parquet", "s3://bucket/sky/b.parquet"]
    inputs = [storage.InputFile(path=path, size_bytes=1, version="v") for path in paths]
    shards = tables.list_shards(inputs, SurveyUri.parse("s3://bucket/sky?shard_rows=2"))
    assert fetched == paths[:1]
    assert [(shard.inputs[0].path, shard.num_rows) for shard in shards] == [
        (x, None) for x in paths
    ]
    np.testing.assert_array_equal(only_rows(tables.read_shard(shards[1]))[0], images())
