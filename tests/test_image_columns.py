"""Tests of astroray.surveys.image_columns, through files: every way to store images."""

import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from astroray.errors import ConfigError
from astroray.surveys.shards import Cutouts, Reject
from tests.tables_made import NUM_ROWS, SHAPE, flat, images, list_shards, only, read, survey, tensor

FIELD_FACTS = {"shape": "[3, 4, 5]", "bands": "g,r,i", "pixels": "flux"}
BINARY_FACTS = FIELD_FACTS | {"dtype": "float32"}


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
