"""Arrays become rows whatever their layout, and what cannot be read is refused by name."""

import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from astroray import storage, surveys
from astroray.errors import ConfigError, ShardError
from astroray.surveys import arrays
from astroray.surveys.shards import Cutouts, Reject, Shard, SurveyUri
from tests.s3_server import S3

RNG = np.random.default_rng(6)


def _list(location: Path, **options: str) -> list[Shard]:
    files = [f for f in storage.list_files(str(location)) if f.path.endswith(("npy", "npz"))]
    shards = arrays.list_shards(files, SurveyUri(location=str(location), options=options))
    for shard in shards:
        json.dumps(dict(shard.params), allow_nan=False)
    return shards


def _read(location: Path, **options: str) -> list[Cutouts | Reject]:
    return [x for shard in _list(location, **options) for x in arrays.read_shard(shard)]


def _cutouts(location: Path, **options: str) -> Cutouts:
    (found,) = _read(location, **options)
    assert isinstance(found, Cutouts)
    return found


def _noise(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("shape", "layout", "axes"),
    [
        ((9, 7, 8), "", "NYX"),
        ((9, 3, 7, 8), "", "NCYX"),
        ((9, 7, 8, 3), "", "NYXC"),
        ((9, 4, 5, 6), "NYXC", "NYXC"),
        ((4, 7, 8), "NYX", "NYX"),
        ((9, 12, 7, 8), "NCYX", "NCYX"),
    ],
)
@pytest.mark.parametrize("suffix", ["npy", "npz", "fortran.npz"])
def test_stacks_of_every_layout_become_rows(
    tmp_path: Path, shape: tuple[int, ...], layout: str, axes: str, suffix: str
) -> None:
    stack, path = _noise(*shape), tmp_path / f"a.{suffix}"
    if suffix == "npy":
        np.save(path, stack)
    else:
        np.savez_compressed(path, x=np.asfortranarray(stack) if "fortran" in suffix else stack)
    expected = stack[:, None] if axes == "NYX" else stack
    expected = np.moveaxis(expected, -1, 1) if axes == "NYXC" else expected
    found = _cutouts(path, layout=layout)
    np.testing.assert_array_equal(found.image_BCYX, expected)
    assert found.image_BCYX.flags.c_contiguous
    assert found.pixels == "flux"
    assert found.bands == tuple(f"b{i}" for i in range(expected.shape[1]))


@pytest.mark.parametrize(
    "shape", [(9, 3, 7, 3), (9, 12, 7, 8), (3, 9, 3), (2, 9, 3, 7, 8), (9,), ()]
)
def test_a_shape_that_can_be_understood_in_two_ways_asks_for_the_layout(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    np.save(tmp_path / "a.npy", _noise(*shape))
    with pytest.raises(ConfigError, match=r"a.npy have shape .*say it with layout="):
        _list(tmp_path)


def test_bytes_are_display_and_other_types_are_flux(tmp_path: Path) -> None:
    stack = RNG.integers(0, 256, (9, 7, 8, 3), dtype=np.uint8)
    np.save(tmp_path / "a.npy", stack)
    found = _cutouts(tmp_path)
    assert (found.pixels, found.bands) == ("display", ("R", "G", "B"))
    np.testing.assert_array_equal(
        found.image_BCYX, np.moveaxis(stack, -1, 1).astype(np.float32) / np.float32(255)
    )
    assert _cutouts(tmp_path, pixels="flux").image_BCYX.max() == stack.max()
    np.save(tmp_path / "a.npy", stack.astype(">u2") * 257)
    assert _cutouts(tmp_path).pixels == "flux"
    scaled = _cutouts(tmp_path, pixels="display", bands="i,r,g")
    assert scaled.bands == ("i", "r", "g")
    np.testing.assert_allclose(scaled.image_BCYX, found.image_BCYX, atol=1e-6)


def test_doubles_beyond_float32_are_infinite_and_missing_stays_missing(tmp_path: Path) -> None:
    stack = np.zeros((9, 7, 8))
    stack[0, 0, :3] = [1e300, np.nan, -1e300]
    np.save(tmp_path / "a.npy", stack)
    np.testing.assert_array_equal(
        _cutouts(tmp_path).image_BCYX[0, 0, 0, :3], np.float32([np.inf, np.nan, -np.inf])
    )


def test_identifiers_and_positions_come_from_arrays_beside_the_images(tmp_path: Path) -> None:
    ids = np.array([8647474693034869239, 7, 8], np.int64)
    np.savez(tmp_path / "a.npz", cutouts=_noise(3, 7, 8, 1), ObjID=ids, other=np.arange(3),
             ra=np.array([1.0, -999.0, 3.0]), dec=np.array([4.0, 5.0, 6.0]))  # fmt: skip
    found = _cutouts(tmp_path, layout="NYXC")
    assert list(found.object_id_B) == ["8647474693034869239", "7", "8"]
    np.testing.assert_array_equal(found.ra_deg_B, [1.0, np.nan, 3.0])
    assert list(_cutouts(tmp_path, layout="NYXC", id="other").object_id_B) == ["0", "1", "2"]


def test_rows_of_which_nothing_is_known_are_called_by_shard_and_row(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", _noise(9, 7, 8))
    (shard,) = _list(tmp_path)
    (found,) = arrays.read_shard(shard, rows=[8])
    assert isinstance(found, Cutouts)
    assert list(found.object_id_B) == [f"{shard.name}:8"]
    assert np.isnan(found.ra_deg_B).all()


def test_a_large_npy_is_split_and_each_shard_has_its_own_rows_of_the_table(tmp_path: Path) -> None:
    stack = _noise(10, 7, 8)
    np.save(tmp_path / "a.npy", stack)
    lines = [f"id{i},{i},{-i}" for i in range(10)]
    (tmp_path / "t.csv").write_text("\n".join(["id,ra,dec", *lines]))
    shards = _list(tmp_path / "a.npy", table="t.csv", shard_rows="4")
    assert [shard.num_rows for shard in shards] == [4, 4, 2]
    assert len({shard.name for shard in shards}) == 3
    (tmp_path / "t.csv").unlink()
    found = [x for shard in shards for x in arrays.read_shard(shard)]
    slices = [x for x in found if isinstance(x, Cutouts)]
    assert [x.row_B.tolist() for x in slices] == [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1]]
    assert [name for x in slices for name in x.object_id_B] == [f"id{i}" for i in range(10)]
    assert np.concatenate([x.ra_deg_B for x in slices]).tolist() == list(range(10))
    np.testing.assert_array_equal(np.concatenate([x.image_BCYX for x in slices])[:, 0], stack)


def test_a_table_goes_through_several_stacks_in_order_of_path(tmp_path: Path) -> None:
    np.save(tmp_path / "b.npy", _noise(8, 7, 9))
    np.save(tmp_path / "a.npy", _noise(9, 7, 9))
    (tmp_path / "t.csv").write_text("\n".join(["id", *(f"id{i}" for i in range(17))]))
    found = _read(tmp_path, table="t.csv", shard_rows="5")
    ids = [name for x in found if isinstance(x, Cutouts) for name in x.object_id_B]
    assert ids == [f"id{i}" for i in range(17)]


def test_the_table_must_have_a_row_for_each_row(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", _noise(9, 7, 8))
    (tmp_path / "t.csv").write_text("id\na\n")
    with pytest.raises(ConfigError, match=r"t.csv has 1 rows, expected 9"):
        _list(tmp_path, table="t.csv")


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_slices_are_bounded_and_asked_rows_equal_those_of_a_full_read(
    tmp_path: Path, suffix: str
) -> None:
    stack = _noise(600, 7, 8)
    save = np.save if suffix == "npy" else np.savez_compressed
    save(tmp_path / f"a.{suffix}", stack)
    (shard,) = _list(tmp_path)
    full = [x for x in arrays.read_shard(shard) if isinstance(x, Cutouts)]
    assert [len(x.row_B) for x in full] == [256, 256, 88]
    some = [x for x in arrays.read_shard(shard, rows=[599, 3, 4, 300]) if isinstance(x, Cutouts)]
    assert [x.row_B.tolist() for x in some] == [[3, 4], [300], [599]]
    np.testing.assert_array_equal(
        np.concatenate([x.image_BCYX for x in some])[:, 0], stack[[3, 4, 300, 599]]
    )
    assert some[1].object_id_B[0] == full[1].object_id_B[44]


def _blend(path: Path, size: int, **more: np.ndarray) -> np.ndarray:
    images = _noise(5, size, size + 2)
    weights = np.ones_like(images)
    weights[:, 0] = 0
    np.savez(path, images=images, weights=weights, psfs=_noise(5, 9, 9), peaks=_noise(2, 2), **more)
    return np.where(weights > 0, images, np.nan)


def test_each_file_can_be_one_object_with_weights(tmp_path: Path) -> None:
    expected = [_blend(tmp_path / f"{i}.npz", 8 + i // 2) for i in range(4)]
    (shard,) = _list(tmp_path, bands="g,r,i,z,y")
    assert shard.num_rows == 4
    found = [x for x in arrays.read_shard(shard) if isinstance(x, Cutouts)]
    assert [x.row_B.tolist() for x in found] == [[0, 1], [2, 3]]
    assert [name for x in found for name in x.object_id_B] == ["0", "1", "2", "3"]
    for image, wanted in zip([i for x in found for i in x.image_BCYX], expected, strict=True):
        np.testing.assert_array_equal(image, wanted)
    unweighted = _read(tmp_path, weight="none")
    assert all(np.isfinite(x.image_BCYX).all() for x in unweighted if isinstance(x, Cutouts))


def test_one_object_files_are_joined_with_a_table_by_name(tmp_path: Path) -> None:
    for i in range(3):
        _blend(tmp_path / f"{i}.npz", 8)
    (tmp_path / "t.csv").write_text("id,ra,dec\n2,20,2\n0,10,0\n")
    found = _cutouts(tmp_path, table="t.csv")
    np.testing.assert_array_equal(found.ra_deg_B, [10.0, np.nan, 20.0])


def test_a_broken_file_among_one_object_files_is_a_reject_of_its_row(tmp_path: Path) -> None:
    for i in range(6):
        _blend(tmp_path / f"{i}.npz", 8)
    (tmp_path / "1.npz").write_bytes((tmp_path / "1.npz").read_bytes()[:800])
    np.savez(tmp_path / "2.npz", images=_noise(4, 8, 10), weights=_noise(4, 8, 10))
    np.savez(tmp_path / "3.npz", images=np.array([object()]), weights=np.ones(1))
    (shard,) = _list(tmp_path)
    (tmp_path / "4.npz").unlink()
    rejects = [x for x in arrays.read_shard(shard) if isinstance(x, Reject)]
    assert [(x.row, x.kind) for x in rejects] == [
        (1, "corrupt"),
        (2, "shape"),
        (3, "corrupt"),
        (4, "missing"),
    ]
    assert "Python objects" in rejects[2].reason
    assert all(f"{x.row}.npz" in x.reason for x in rejects)


def test_band_names_beside_the_images_are_used(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", image=_noise(9, 2, 7, 8), bands=np.array(["g", "r"]))
    assert _cutouts(tmp_path).bands == ("g", "r")
    with pytest.raises(ConfigError, match=r"has 2 bands, got the names g,r,i"):
        _list(tmp_path, bands="g,r,i")


def test_several_arrays_of_images_ask_for_a_name(tmp_path: Path) -> None:
    first, second = _noise(9, 7, 8), _noise(9, 7, 8)
    np.savez(tmp_path / "a.npz", one=first, two=second)
    with pytest.raises(ConfigError, match=r"\['one', 'two'\]; name one with image="):
        _list(tmp_path)
    np.testing.assert_array_equal(_cutouts(tmp_path, image="two").image_BCYX[:, 0], second)
    with pytest.raises(ConfigError, match=r"no array 'three' for option image=.*'one', 'two'"):
        _list(tmp_path, image="three")
    with pytest.raises(ConfigError, match=r"no array 'x' of shape .*expected one of \['two'\]"):
        _list(tmp_path, image="one", weight="x")


def _damaged(name: str, directory: Path) -> Path:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, image=_noise(300, 7, 8))
    packed, path = buffer.getvalue(), directory / "a.npz"
    if name == "truncated npz":
        path.write_bytes(packed[:-400])
    elif name == "flipped bits":
        middle = len(packed) // 2
        path.write_bytes(packed[:middle] + bytes(64) + packed[middle + 64 :])
    elif name == "one changed pixel":
        np.savez(path, image=np.zeros((300, 7, 8), np.float32))
        data = bytearray(path.read_bytes())
        data[5000] ^= 1
        path.write_bytes(data)
    elif name == "header lies":
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"shape": (10**9, 7, 8), "fortran_order": False, "descr": "<f4"}
        )
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("image.npy", header.getvalue() + bytes(100))
    elif name == "objects":
        np.savez(path, image=np.array([[[object()]]] * 9), label=np.arange(9))
    elif name == "ids that lost digits":
        np.savez(path, image=_noise(9, 7, 8), id=np.full(9, 2.0**60))
    elif name == "ids beyond UTF-8":
        np.savez(path, image=_noise(9, 7, 8), id=np.full(9, chr(0xD800)))
    elif name == "text":
        path.write_text("not an array")
    elif name == "empty":
        path.write_bytes(b"")
    else:
        path = directory / "a.npy"
        np.save(path, _noise(300, 7, 8))
        os.truncate(path, 5000 if name == "truncated npy" else 40)
    return path


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("truncated npz", "no whole"),
        ("flipped bits", "no whole"),
        ("one changed pixel", "Bad CRC"),
        ("header lies", "its header says"),
        ("objects", "Python objects"),
        ("ids that lost digits", "floats lose digits"),
        ("ids beyond UTF-8", "expected text that UTF-8 can hold"),
        ("text", "begins with"),
        ("empty", "no bytes"),
        ("truncated npy", "truncated"),
        ("npy without header", "no whole"),
    ],
)
def test_a_broken_stack_is_listed_and_refused_when_it_is_read(
    tmp_path: Path, name: str, reason: str
) -> None:
    path = _damaged(name, tmp_path)
    (shard,) = _list(path)
    with pytest.raises(ShardError, match=rf"{path.name}.*{reason}"):
        list(arrays.read_shard(shard))


def test_a_stack_that_vanished_or_shrank_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, _noise(9, 7, 8))
    (shard,) = _list(path)
    np.save(path, _noise(8, 7, 8))
    with pytest.raises(ShardError, match="expected a stack of at least 9 rows"):
        list(arrays.read_shard(shard))
    path.unlink()
    with pytest.raises(ShardError, match="missing"):
        list(arrays.read_shard(shard))


def test_object_arrays_beside_good_images_are_left_out_aloud(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    np.savez(tmp_path / "a.npz", image=_noise(9, 7, 8), name=np.array(["x"] * 9, object))
    assert _cutouts(tmp_path).object_id_B[0].endswith(":0")
    assert "array 'name'" in caplog.text


@pytest.mark.parametrize("option", [("layout", "XYZ"), ("pixels", "counts"), ("shard_rows", "0"),
                                    ("sise", "3")])  # fmt: skip
def test_bad_options_are_refused_by_name(tmp_path: Path, option: tuple[str, str]) -> None:
    np.save(tmp_path / "a.npy", _noise(9, 7, 8))
    with pytest.raises(ConfigError, match=option[0]):
        _list(tmp_path, **dict([option]))


def test_real_radio_galaxies_are_read_with_their_labels(real_data: Path) -> None:
    folder = real_data / "galaxies" / "radio_mirabest"
    (shard,) = _list(folder / "mirabest_150px_uint8.npz", table="labels.csv")
    assert shard.num_rows == 820
    (found,) = arrays.read_shard(shard, rows=[0, 1])
    assert isinstance(found, Cutouts)
    assert found.object_id_B[0] == "100_010.451-009.284_0.0529_0080.60"
    assert found.ra_deg_B.tolist() == [10.451, 16.732]
    assert found.image_BCYX.shape == (2, 1, 150, 150)


def test_real_blends_are_one_object_a_file(real_data: Path) -> None:
    (shard,) = _list(real_data / "restoration" / "hsc_blends", bands="g,r,i,z,y")
    found = [x for x in arrays.read_shard(shard) if isinstance(x, Cutouts)]
    assert sum(len(x.row_B) for x in found) == shard.num_rows == 33
    assert found[0].image_BCYX.shape == (1, 5, 71, 39)
    assert 0.45 < np.isnan(found[0].image_BCYX).mean() < 0.47


@pytest.mark.s3
def test_arrays_are_read_from_s3_in_one_shard(s3: S3) -> None:
    location, stack, buffer = f"{s3.new_prefix()}/a.npy", _noise(9, 7, 8), io.BytesIO()
    np.save(buffer, stack)
    storage.publish(location, buffer.getvalue())
    (shard,) = arrays.list_shards(
        storage.list_files(location), SurveyUri(location=location, options={"shard_rows": "2"})
    )
    (found,) = arrays.read_shard(shard)
    assert isinstance(found, Cutouts)
    np.testing.assert_array_equal(found.image_BCYX[:, 0], stack)
    storage.delete(location)
    with pytest.raises(ShardError, match="missing"):
        list(arrays.read_shard(shard))


@pytest.mark.parametrize("is_of_each_band", [True, False])
def test_pixels_of_a_mask_beside_the_images_are_missing(
    tmp_path: Path, is_of_each_band: bool
) -> None:
    images = _noise(6, 3, 16, 16)
    bad = np.zeros(images.shape if is_of_each_band else (6, 16, 16), bool)
    bad[2, ..., 3, 4] = True
    np.savez(tmp_path / "a.npz", image=images, mask=bad)
    (found,) = _read(tmp_path / "a.npz")
    assert isinstance(found, Cutouts)
    assert np.argwhere(np.isnan(found.image_BCYX)).tolist() == [
        [2, band, 3, 4] for band in range(3)
    ]
    (unmasked,) = _read(tmp_path / "a.npz", weight="none")
    assert isinstance(unmasked, Cutouts)
    assert np.isfinite(unmasked.image_BCYX).all()


@pytest.mark.parametrize(
    ("axis", "format"), [("wave", "spectra"), ("time", "light_curves"), ("loglam", "spectra")]
)
def test_spectra_and_light_curves_are_no_image_whose_rows_they_are(tmp_path, axis, format):
    path = tmp_path / "a.npz"
    np.savez(path, **{axis: np.arange(50.0), "flux": np.ones((40, 50)), "names": ["x"] * 40})
    with pytest.raises(ConfigError, match=rf"a.npz holds .* by the names .* \?format={format}"):
        surveys.list_shards(str(path))
    (shard,) = surveys.list_shards(f"{path}?image=flux").shards
    assert shard.params["layout"] == "YX"
    np.savez(path, **{axis: np.arange(40.0), "flux": np.ones((40, 50))})  # is no axis of it
    assert len(surveys.list_shards(str(path)).shards) == 1
