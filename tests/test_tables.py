"""Tests of astroray.surveys.tables and image_columns: every layout of images, shards, bad files."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from astroray import storage
from astroray.errors import ConfigError, FileError, ShardError
from astroray.surveys import tables
from astroray.surveys.shards import Cutouts, Reject, Shard, SurveyUri

SHAPE = (3, 4, 5)
NUM_ROWS = 10
FIELD_FACTS = {"shape": "[3, 4, 5]", "bands": "g,r,i", "pixels": "flux"}
BINARY_FACTS = FIELD_FACTS | {"dtype": "float32"}


def images(num_rows: int = NUM_ROWS, *, dtype: str = "float32") -> np.ndarray:
    return (np.random.default_rng(3).random((num_rows, *SHAPE)) * 200).astype(dtype)


def flat(image_BCYX: np.ndarray, kind: pa.DataType) -> pa.Array:
    return pa.array(image_BCYX.reshape(len(image_BCYX), -1).tolist(), kind)


def tensor(image_BCYX: np.ndarray) -> pa.Array:
    kind = pa.fixed_shape_tensor(pa.from_numpy_dtype(image_BCYX.dtype), image_BCYX.shape[1:])
    return pa.ExtensionArray.from_storage(kind, flat(image_BCYX, kind.storage_type))


def survey(
    folder: Path,
    column: pa.Array,
    *,
    facts: dict[str, str] | None = None,
    others: dict[str, pa.Array] | None = None,
    name: str = "image",
    row_group_size: int | None = None,
    file: str = "survey.parquet",
) -> Path:
    """A Parquet file of the image column and others."""
    fields = [pa.field(name, column.type, metadata=facts)]
    fields += [pa.field(key, value.type) for key, value in (others or {}).items()]
    table = pa.table([column, *(others or {}).values()], schema=pa.schema(fields))
    pq.write_table(table, folder / file, row_group_size=row_group_size, write_page_checksum=True)
    return folder / file


def list_shards(location: Path, query: str = "") -> list[Shard]:
    uri = SurveyUri.parse(f"{location}?{query}" if query else str(location))
    return tables.list_shards(storage.list_files(str(location)), uri)


def read(
    location: Path, query: str = "", *, rows: Sequence[int] | None = None
) -> list[Cutouts | Reject]:
    """Everything that the only shard yields."""
    (shard,) = list_shards(location, query)
    return list(tables.read_shard(shard, rows=rows))


def only(found: list[Cutouts | Reject]) -> Cutouts:
    (cutouts,) = found
    assert isinstance(cutouts, Cutouts)
    return cutouts


def nested(image_BCYX: np.ndarray) -> pa.Array:
    return pa.array(image_BCYX.tolist(), pa.list_(pa.list_(pa.list_(pa.float32()))))


def fixed_nested(image_BCYX: np.ndarray) -> pa.Array:
    kind = pa.float32()
    for size in reversed(SHAPE):
        kind = pa.list_(kind, size)
    return pa.array(image_BCYX.tolist(), kind)


def struct_of_lists(image_BCYX: np.ndarray, bands: Sequence[str] = ("g", "r", "i")) -> pa.Array:
    plane = pa.list_(pa.list_(pa.float32()))
    kind = pa.struct({
        "band": pa.list_(pa.string()), "flux": pa.list_(plane), "psf_fwhm": pa.list_(pa.float32()),
    })  # fmt: skip
    rows = [
        {"band": list(bands), "flux": image.tolist(), "psf_fwhm": [1.0] * 3} for image in image_BCYX
    ]
    return pa.array(rows, kind)


def list_of_structs(image_BCYX: np.ndarray) -> pa.Array:
    plane = pa.list_(pa.list_(pa.float32()))
    kind = pa.list_(pa.struct({"flux": plane, "ivar": plane, "band": pa.string()}))
    rows = [
        [
            {"flux": x.tolist(), "ivar": x.tolist(), "band": b}
            for x, b in zip(image, "gri", strict=True)
        ]
        for image in image_BCYX
    ]
    return pa.array(rows, kind)


@pytest.mark.parametrize(
    ("column", "facts"),
    [
        (flat(images(), pa.list_(pa.float32(), 60)), FIELD_FACTS),
        (flat(images(), pa.list_(pa.float64(), 60)), FIELD_FACTS),
        (flat(images(), pa.list_(pa.float32())), FIELD_FACTS),
        (flat(images(), pa.large_list(pa.float32())), FIELD_FACTS),
        (nested(images()), {"bands": "g,r,i"}),
        (fixed_nested(images()), {"bands": "g,r,i"}),
        (tensor(images()), {"bands": "g,r,i"}),
        (pa.array([x.tobytes() for x in images()], pa.large_binary()), BINARY_FACTS),
        (pa.array([x.tobytes() for x in images()], pa.binary(240)), BINARY_FACTS),
        (pa.array([x.astype(">f4").tobytes() for x in images()]), FIELD_FACTS | {"dtype": ">f4"}),
        (struct_of_lists(images()), None),
        (list_of_structs(images()), None),
    ],
    ids=[
        "fixed", "fixed64", "list", "large-list", "nested", "fixed-nested", "tensor",
        "binary", "fixed-binary", "big-endian", "struct", "list-of-structs",
    ],
)  # fmt: skip
def test_every_way_to_store_images_gives_the_same_pixels(tmp_path, column, facts):
    path = survey(tmp_path, column, facts=facts)
    cutouts = only(read(path))
    np.testing.assert_array_equal(cutouts.image_BCYX, images())
    assert cutouts.image_BCYX.dtype == np.float32
    assert (cutouts.bands, cutouts.pixels) == (("g", "r", "i"), "flux")
    assert cutouts.row_B.tolist() == list(range(NUM_ROWS))
    assert cutouts.flags_B.tolist() == [0] * NUM_ROWS


def test_tensors_of_ray_are_read_without_ray(tmp_path):
    storage_column = flat(images(), pa.large_list(pa.float32()))
    facts = {
        "ARROW:extension:name": "ray.data.arrow_tensor_v2",
        "ARROW:extension:metadata": json.dumps(SHAPE),
    }
    path = survey(tmp_path, storage_column, facts=facts)
    np.testing.assert_array_equal(only(read(path)).image_BCYX, images())


def test_a_tensor_with_permuted_axes_comes_out_in_logical_order(tmp_path):
    kind = pa.fixed_shape_tensor(pa.float32(), (4, 5, 3), permutation=[2, 0, 1])
    turned = images().transpose(0, 2, 3, 1)
    column = pa.ExtensionArray.from_storage(kind, flat(turned, kind.storage_type))
    np.testing.assert_array_equal(only(read(survey(tmp_path, column))).image_BCYX, images())


def test_options_state_what_the_file_does_not(tmp_path):
    path = survey(tmp_path, flat(images(), pa.list_(pa.float32())), name="x")
    cutouts = only(read(path, "image=x&shape=3x4x5&bands=u,v,w&pixels=display"))
    np.testing.assert_array_equal(cutouts.image_BCYX, images())
    assert (cutouts.bands, cutouts.pixels) == (("u", "v", "w"), "display")


def test_flat_lists_without_a_shape_are_refused_before_the_run(tmp_path):
    path = survey(tmp_path, flat(images(), pa.list_(pa.float32())))
    with pytest.raises(ConfigError, match="shape=3x64x64"):
        list_shards(path)


def test_bytes_are_divided_by_255_for_display(tmp_path):
    bytes_BCYX = images(dtype="uint8")
    cutouts = only(read(survey(tmp_path, tensor(bytes_BCYX))))
    np.testing.assert_array_equal(cutouts.image_BCYX, bytes_BCYX / np.float32(255))
    assert (cutouts.bands, cutouts.pixels) == (("R", "G", "B"), "display")


def test_bytes_stated_as_flux_stay_as_they_are(tmp_path):
    bytes_BCYX = images(dtype="uint8")
    cutouts = only(read(survey(tmp_path, tensor(bytes_BCYX)), "pixels=flux"))
    np.testing.assert_array_equal(cutouts.image_BCYX, bytes_BCYX)


def test_images_with_the_channel_last_are_turned_round(tmp_path):
    last_BYXC = np.random.default_rng(1).integers(0, 255, (2, 8, 6, 3)).astype(np.uint8)
    cutouts = only(read(survey(tmp_path, tensor(last_BYXC))))
    expected = np.moveaxis(last_BYXC, 3, 1) / np.float32(255)
    np.testing.assert_array_equal(cutouts.image_BCYX, expected)


def test_images_of_one_plane_have_one_band(tmp_path):
    cutouts = only(read(survey(tmp_path, tensor(images()[:, 0]))))
    assert cutouts.image_BCYX.shape == (NUM_ROWS, 1, 4, 5)
    assert cutouts.bands == ("b1",)


def test_null_pixels_are_nan_and_null_images_are_rejects(tmp_path):
    rows = images(4).reshape(4, -1).tolist()
    rows[1][7] = None
    rows[2] = None
    path = survey(tmp_path, pa.array(rows, pa.list_(pa.float32())), facts=FIELD_FACTS)
    found = read(path)
    (reject,) = [x for x in found if isinstance(x, Reject)]
    assert (reject.row, reject.stage, reject.kind) == (2, "read", "missing")
    assert [row for x in found if isinstance(x, Cutouts) for row in x.row_B] == [0, 1, 3]
    kept = np.concatenate([x.image_BCYX for x in found if isinstance(x, Cutouts)])
    assert np.argwhere(np.isnan(kept)).tolist() == [[1, 0, 1, 2]]


def test_null_bytes_are_nan_and_the_others_keep_their_scale(tmp_path):
    rows = [[255, None, 0, 51]]
    path = survey(tmp_path, pa.array(rows, pa.list_(pa.uint8())), facts={"shape": "[2, 2]"})
    got = only(read(path)).image_BCYX.ravel()
    np.testing.assert_array_equal(got, np.float32([1.0, np.nan, 0.0, 51 / np.float32(255)]))


def test_nulls_in_fixed_size_columns_are_rejects_too(tmp_path):
    rows = images(3).reshape(3, -1).tolist()
    rows[1] = None
    found = read(survey(tmp_path, pa.array(rows, pa.list_(pa.float32(), 60)), facts=FIELD_FACTS))
    assert [x.row for x in found if isinstance(x, Reject)] == [1]
    kept = np.concatenate([x.image_BCYX for x in found if isinstance(x, Cutouts)])
    np.testing.assert_array_equal(kept, images(3)[[0, 2]])


def test_rows_of_another_length_are_rejects_of_the_right_row(tmp_path):
    rows = images(9).reshape(9, -1).tolist()
    rows[4] = rows[4][:59]
    found = read(survey(tmp_path, pa.array(rows, pa.list_(pa.float32())), facts=FIELD_FACTS))
    (reject,) = [x for x in found if isinstance(x, Reject)]
    assert (reject.row, reject.kind) == (4, "shape")
    assert "has 59 numbers, expected 3 x 4 x 5" in reject.reason
    cutouts = [x for x in found if isinstance(x, Cutouts)]
    assert np.concatenate([x.row_B for x in cutouts]).tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    kept = np.concatenate([x.image_BCYX for x in cutouts])
    np.testing.assert_array_equal(kept, np.delete(images(9), 4, axis=0))


def test_nested_lists_may_have_a_size_of_their_own_in_each_row(tmp_path):
    rows = [np.ones((1, size, size)).tolist() for size in (4, 4, 6)] + [[[[1.0], [1.0, 2.0]]], []]
    found = read(survey(tmp_path, pa.array(rows, pa.list_(pa.list_(pa.list_(pa.float32()))))))
    sizes = [(x.row_B.tolist(), x.image_BCYX.shape[1:]) for x in found if isinstance(x, Cutouts)]
    assert [shape for _, shape in sizes if shape[2] == 6] == [(1, 6, 6)]
    assert [row for rows, _ in sizes for row in rows] == [0, 1, 2]
    rejects = [x for x in found if isinstance(x, Reject)]
    assert [(x.row, x.kind) for x in rejects] == [(3, "shape"), (4, "shape")]
    assert rejects[0].reason.startswith(f"image of row 3 of {tmp_path}/survey.parquet is empty, or")


def test_rows_with_other_bands_are_slices_of_their_own(tmp_path):
    column = pa.concat_arrays(
        [struct_of_lists(images()[:2]), struct_of_lists(images()[2:4], "zyx")]
    )
    found = read(survey(tmp_path, column))
    assert [(x.row_B.tolist(), x.bands) for x in found if isinstance(x, Cutouts)] == [
        ([0, 1], ("g", "r", "i")),
        ([2, 3], ("z", "y", "x")),
    ]


def test_a_null_list_of_structs_is_a_reject(tmp_path):
    column = list_of_structs(images(3))
    column = pa.array([column[0].as_py(), None, column[2].as_py()], column.type)
    found = read(survey(tmp_path, column))
    assert [type(x).__name__ for x in found] == ["Cutouts", "Reject", "Cutouts"]
    np.testing.assert_array_equal(found[2].image_BCYX[0], images(3)[2])


def test_bands_that_do_not_fit_are_named_in_the_reject(tmp_path):
    found = read(survey(tmp_path, tensor(images(1))), "bands=g,r")
    assert [x.reason.split("parquet ")[1] for x in found] == [
        "has 3 bands, expected those named g, r"
    ]


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


def test_without_identifiers_the_shard_and_row_name_an_object(tmp_path):
    path = survey(tmp_path, tensor(images()))
    (shard,) = list_shards(path)
    assert only(read(path)).object_id_B[3] == f"{shard.name}:3"


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("image=nope", "option image is 'nope', but .* has the columns image, SOURCE_ID"),
        ("image=RAJ2000", "option image, has type double, expected numbers in lists"),
        ("id=RAJ2000", "expected text or integers"),
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
    """Overwrites pages of the image column in one row group."""
    chunk = pq.read_metadata(path).row_group(row_group).column(0)
    data = bytearray(path.read_bytes())
    start = chunk.data_page_offset + 40
    data[start : start + 60] = bytes(x ^ 0xFF for x in data[start : start + 60])
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

    def get(path: str) -> bytes:
        fetched.append(path)
        return (tmp_path / path.rpartition("/")[2]).read_bytes()

    monkeypatch.setattr(storage.object_store, "get", get)
    monkeypatch.setattr(storage.object_store, "exists", lambda path: False)
    paths = ["s3://bucket/sky/a.parquet", "s3://bucket/sky/b.parquet"]
    inputs = [storage.InputFile(path=path, size_bytes=1, version="v") for path in paths]
    shards = tables.list_shards(inputs, SurveyUri.parse("s3://bucket/sky?shard_rows=2"))
    assert fetched == paths[:1]
    assert [(shard.inputs[0].path, shard.num_rows) for shard in shards] == [
        (x, None) for x in paths
    ]
    np.testing.assert_array_equal(only_rows(tables.read_shard(shards[1]))[0], images())
