"""Pictures become rows from 0 to 1, and broken ones become rejects of their row."""

import dataclasses
import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from astroray import storage
from astroray.errors import ConfigError
from astroray.surveys import pictures
from astroray.surveys.shards import Cutouts, Reject, Shard, SurveyUri
from tests.s3_server import S3

RNG = np.random.default_rng(5)


def _save(path: Path, array: np.ndarray, mode: str | None = None, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(path, **options)


def _rgb(size: int = 8) -> np.ndarray:
    return RNG.integers(0, 256, (size, size + 1, 3), dtype=np.uint8)


def _list(location: Path, **options: str) -> list[Shard]:
    files = [f for f in storage.list_files(str(location)) if not f.path.endswith(".csv")]
    shards = pictures.list_shards(files, SurveyUri(location=str(location), options=options))
    for shard in shards:
        json.dumps(dict(shard.params), allow_nan=False)
    return shards


def _read(location: Path, **options: str) -> list[Cutouts | Reject]:
    return [x for shard in _list(location, **options) for x in pictures.read_shard(shard)]


def _images(found: list[Cutouts | Reject]) -> list[np.ndarray]:
    return [image for x in found if isinstance(x, Cutouts) for image in x.image_BCYX]


def test_color_pictures_are_red_green_blue_from_0_to_1(tmp_path: Path) -> None:
    array = _rgb()
    _save(tmp_path / "a.png", array)
    (cutouts,) = _read(tmp_path)
    assert isinstance(cutouts, Cutouts)
    assert (cutouts.bands, cutouts.pixels) == (("R", "G", "B"), "display")
    assert cutouts.image_BCYX.dtype == np.float32
    expected = np.moveaxis(array, -1, 0).astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(cutouts.image_BCYX[0], expected)


def test_sixteen_bit_grey_keeps_its_depth(tmp_path: Path) -> None:
    array = np.array([[0, 1], [30000, 65535]], np.uint16)
    _save(tmp_path / "a.png", array)
    (cutouts,) = _read(tmp_path)
    assert isinstance(cutouts, Cutouts)
    assert cutouts.bands == ("L",)
    np.testing.assert_array_equal(cutouts.image_BCYX[0, 0], array.astype(np.float32) / 65535)


def test_palettes_become_colors_and_bits_become_grey(tmp_path: Path) -> None:
    flat = np.zeros((4, 4, 3), np.uint8)
    flat[0] = (255, 0, 51)
    _save(tmp_path / "a.png", flat, "P")
    (image,) = _images(_read(tmp_path / "a.png"))
    np.testing.assert_allclose(image[:, 0, 0], [1.0, 0.0, 0.2], atol=1e-6)
    _save(tmp_path / "b.png", flat[..., 0], "1")
    (image,) = _images(_read(tmp_path / "b.png"))
    assert image.shape == (1, 4, 4)
    assert set(np.unique(image)) == {0.0, 1.0}


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_dropped_and_transparent_pixels_are_missing(tmp_path: Path, mode: str) -> None:
    array = np.full((3, 4, 4), 200, np.uint8)
    array[1, 2, 3] = 0
    array[0, 0, 3] = 1  # nearly transparent is still measured
    _save(tmp_path / "a.png", array[..., :4] if mode == "RGBA" else array[..., 2:])
    (image,) = _images(_read(tmp_path))
    assert image.shape[0] == (3 if mode == "RGBA" else 1)
    assert np.isnan(image[:, 1, 2]).all()
    assert np.isnan(image).sum() == image.shape[0]


def test_a_palette_with_a_transparent_color_has_missing_pixels(tmp_path: Path) -> None:
    picture = Image.new("P", (2, 2), 1)
    picture.putpalette([0, 0, 0, 255, 255, 255])
    picture.putpixel((0, 0), 0)
    picture.save(tmp_path / "a.png", transparency=0)
    (image,) = _images(_read(tmp_path))
    assert np.isnan(image[:, 0, 0]).all()
    assert np.isnan(image).sum() == 3


def test_the_first_file_decides_the_bands_and_others_follow(tmp_path: Path) -> None:
    color = _rgb()
    _save(tmp_path / "a.png", color)
    _save(tmp_path / "b.png", color[..., 0])
    first, second = _images(_read(tmp_path))
    np.testing.assert_array_equal(second, np.stack([first[0]] * 3))
    _save(tmp_path / "0.png", color[..., 0])
    found = _images(_read(tmp_path))
    assert [image.shape[0] for image in found] == [1, 1, 1]
    expected = 0.299 * first[0] + 0.587 * first[1] + 0.114 * first[2]
    np.testing.assert_allclose(found[1][0], expected, atol=1e-6)


@pytest.mark.parametrize(("bands", "count"), [("RGB", 3), ("L", 1)])
def test_named_bands_win_over_the_first_file(tmp_path: Path, bands: str, count: int) -> None:
    _save(tmp_path / "a.png", _rgb()[..., 0])
    (image,) = _images(_read(tmp_path, bands=bands))
    assert image.shape[0] == count


def test_orientation_of_cameras_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    _save(tmp_path / "a.png", _rgb(), exif=exif)
    (image,) = _images(_read(tmp_path))
    assert image.shape == (3, 8, 9)


def _jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(_rgb(64)).save(buffer, "JPEG")
    return buffer.getvalue()


def _png(width: int, height: int) -> bytes:
    """A picture whose header says a size, and whose pixels end after the first few."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = {b"IHDR": header, b"IDAT": zlib.compress(b"\0" * 20), b"IEND": b""}
    data = b"\x89PNG\r\n\x1a\n"
    for name, body in chunks.items():
        checksum = struct.pack(">I", zlib.crc32(name + body))
        data += struct.pack(">I", len(body)) + name + body + checksum
    return data


@pytest.mark.parametrize(
    ("content", "kind", "reason"),
    [
        (_jpeg()[:900], "corrupt", "truncated"),
        (_jpeg()[:30], "corrupt", "no whole"),
        (b"", "corrupt", "no bytes"),
        (b"GIF89a not a picture", "corrupt", "begins with b'GIF89a"),
        (_png(8, 8), "corrupt", "no whole"),
        (_png(8, 8)[:20], "corrupt", "no whole"),
        (_png(60000, 60000), "bomb", "60000 x 60000 pixels"),
        (_png(9500, 9500), "corrupt", "no whole"),  # Pillow alone would warn of its size
    ],
)
def test_a_broken_file_is_a_reject_of_its_row_and_the_others_are_read(
    tmp_path: Path, content: bytes, kind: str, reason: str
) -> None:
    _save(tmp_path / "a.png", _rgb())
    (tmp_path / "b.jpg").write_bytes(content)
    _save(tmp_path / "c.png", _rgb())
    before, reject, after = _read(tmp_path)
    assert isinstance(before, Cutouts)
    assert isinstance(reject, Reject)
    assert isinstance(after, Cutouts)
    assert (reject.row, reject.stage, reject.kind) == (1, "read", kind)
    assert "b.jpg" in reject.reason
    assert reason in reject.reason
    assert after.row_B.tolist() == [2]
    assert list(after.object_id_B) == ["c"]


def test_a_survey_that_begins_with_a_broken_file_is_listed(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    _save(tmp_path / "b.png", _rgb()[..., 0])
    reject, cutouts = _read(tmp_path)
    assert isinstance(reject, Reject)
    assert isinstance(cutouts, Cutouts)
    assert cutouts.bands == ("L",)


def test_a_vanished_file_is_missing(tmp_path: Path) -> None:
    for name in "ab":
        _save(tmp_path / f"{name}.png", _rgb())
    (shard,) = _list(tmp_path)
    (tmp_path / "a.png").unlink()
    reject, cutouts = pictures.read_shard(shard)
    assert isinstance(reject, Reject)
    assert (reject.row, reject.kind) == (0, "missing")
    assert isinstance(cutouts, Cutouts)


def test_the_limit_of_pixels_is_an_option(tmp_path: Path) -> None:
    _save(tmp_path / "a.png", _rgb(8))
    (reject,) = _read(tmp_path, max_pixels="71")
    assert isinstance(reject, Reject)
    assert reject.kind == "bomb"
    assert _images(_read(tmp_path, max_pixels="72"))


def test_consecutive_pictures_of_one_size_form_a_slice_of_at_most_64(tmp_path: Path) -> None:
    for i in range(70):
        _save(tmp_path / f"{i:03}.png", _rgb(4 if i != 66 else 5))
    found = _read(tmp_path)
    assert [len(x.row_B) for x in found if isinstance(x, Cutouts)] == [64, 2, 1, 3]
    rows = [row for x in found if isinstance(x, Cutouts) for row in x.row_B.tolist()]
    assert rows == list(range(70))


def test_asked_rows_equal_those_of_a_full_read(tmp_path: Path) -> None:
    for i in range(6):
        _save(tmp_path / f"{i}.png", _rgb(4 + i % 2))
    (shard,) = _list(tmp_path)
    full = _images(list(pictures.read_shard(shard)))
    storage.METER.bytes_read = 0
    some = list(pictures.read_shard(shard, rows=[4, 1]))
    assert storage.METER.bytes_read == shard.inputs[1].size_bytes + shard.inputs[4].size_bytes
    names = [(x.row_B.tolist(), list(x.object_id_B)) for x in some if isinstance(x, Cutouts)]
    assert names == [([1], ["1"]), ([4], ["4"])]
    np.testing.assert_array_equal(_images(some)[1], full[4])


def test_sub_folders_keep_identifiers_unique(tmp_path: Path) -> None:
    for folder in ("star", "galaxy"):
        _save(tmp_path / folder / "1.png", _rgb())
    (cutouts,) = _read(tmp_path)
    assert isinstance(cutouts, Cutouts)
    assert list(cutouts.object_id_B) == ["galaxy/1", "star/1"]
    (cutouts,) = _read(tmp_path / "*" / "1.png")
    assert isinstance(cutouts, Cutouts)
    assert list(cutouts.object_id_B) == ["galaxy/1", "star/1"]


def test_shards_carry_the_table_rows_of_their_own_files(tmp_path: Path) -> None:
    for i in range(5):
        _save(tmp_path / f"{i}.png", _rgb())
    lines = [f"{i}.png,id{i},{10 + i},{i}" for i in (4, 3, 2, 0)]
    (tmp_path / "t.csv").write_text("\n".join(["file,id,ra,dec", *lines]))
    shards = _list(tmp_path, table="t.csv", shard_files="2")
    assert [shard.num_rows for shard in shards] == [2, 2, 1]
    assert [shard.params["objects"]["object_id"] for shard in shards] == [
        ["id0", "1"],
        ["id2", "id3"],
        ["id4"],
    ]
    (tmp_path / "t.csv").unlink()
    (cutouts,) = pictures.read_shard(shards[0])
    assert isinstance(cutouts, Cutouts)
    np.testing.assert_array_equal(cutouts.ra_deg_B, [10.0, np.nan])
    np.testing.assert_array_equal(cutouts.dec_deg_B, [0.0, np.nan])


def test_the_name_of_a_shard_does_not_depend_on_the_table(tmp_path: Path) -> None:
    _save(tmp_path / "a.png", _rgb())
    (plain,) = _list(tmp_path)
    (tmp_path / "t.csv").write_text("file,id\na.png,x\n")
    (named,) = _list(tmp_path, table="t.csv")
    assert plain.name == named.name
    assert dataclasses.asdict(plain)["params"] != dataclasses.asdict(named)["params"]


@pytest.mark.parametrize("option", [("bands", "XYZ"), ("max_pixels", "0"), ("shard_files", "0"),
                                    ("shard_files", "513"), ("size", "3")])  # fmt: skip
def test_bad_options_are_refused_by_name(tmp_path: Path, option: tuple[str, str]) -> None:
    _save(tmp_path / "a.png", _rgb())
    with pytest.raises(ConfigError, match=option[0]):
        _list(tmp_path, **dict([option]))


def test_real_galaxies_are_read_with_their_table(real_data: Path) -> None:
    folder = real_data / "galaxies" / "mergers_gz" / "images"
    shards = _list(folder, table="../table1.txt")
    found = [x for shard in shards for x in pictures.read_shard(shard)]
    ids = [name for x in found if isinstance(x, Cutouts) for name in x.object_id_B]
    assert "587724234257137777" in ids
    row = ids.index("587724234257137777")
    ra_deg = np.concatenate([x.ra_deg_B for x in found if isinstance(x, Cutouts)])
    assert ra_deg[row] == pytest.approx(30.95708, abs=1e-4)
    assert len(_images(found)) == len(ids) == sum(shard.num_rows or 0 for shard in shards)


@pytest.mark.s3
def test_pictures_and_their_table_are_read_from_s3(s3: S3) -> None:
    prefix = s3.new_prefix()
    array = _rgb()
    for name in ("images/1.png", "images/sub/2.png"):
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, "PNG")
        storage.publish(f"{prefix}/{name}", buffer.getvalue())
    storage.publish(f"{prefix}/t.csv", b"file,id,ra,dec\n2.png,b,5,6\n1.png,a,7,8\n")
    location = f"{prefix}/images"
    (shard,) = pictures.list_shards(
        storage.list_files(location), SurveyUri(location=location, options={"table": "../t.csv"})
    )
    storage.delete(f"{prefix}/images/sub/2.png")
    cutouts, reject = pictures.read_shard(shard)
    assert isinstance(cutouts, Cutouts)
    assert isinstance(reject, Reject)
    assert (list(cutouts.object_id_B), cutouts.ra_deg_B.tolist()) == (["a"], [7.0])
    assert (reject.row, reject.kind) == (1, "missing")
