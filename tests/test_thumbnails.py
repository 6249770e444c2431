"""Thumbnails: what is bright, red, missing or below in a cutout is so in its picture."""

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from astroray import schema
from astroray.errors import DataError
from astroray.report.thumbnails import publish_thumbnails, render_thumbnail, thumbnail_table


def decode(jpeg: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(jpeg))
    assert image.format == "JPEG"
    return np.asarray(image.convert("RGB")).astype(float)


def star(center_yx: tuple[float, float], *, peak: float, size_px: int = 32) -> np.ndarray:
    y, x = np.mgrid[:size_px, :size_px]
    return peak * np.exp(-((y - center_yx[0]) ** 2 + (x - center_yx[1]) ** 2) / 8)


def sky(num_bands: int, size_px: int = 32) -> np.ndarray:
    return np.random.default_rng(3).normal(100, 2, (num_bands, size_px, size_px))


def test_a_picture_is_a_square_of_the_size_asked_for():
    jpeg = render_thumbnail(sky(1, 20), bands=["g"], pixels="flux", size_px=64)
    assert decode(jpeg).shape == (64, 64, 3)


def test_flux_is_flipped_so_that_its_first_row_is_at_the_bottom():
    image_CYX = sky(1) + star((4, 16), peak=500)
    picture = decode(render_thumbnail(image_CYX, bands=["g"], pixels="flux"))
    assert picture[84].max() > 200
    assert picture[:48].max() < 160


def test_a_display_picture_is_shown_upright_with_its_own_colors():
    image_CYX = np.zeros((3, 96, 96))
    image_CYX[0, :48] = 0.8  # red above
    image_CYX[2, 48:] = 0.4  # blue below
    picture = decode(render_thumbnail(image_CYX, bands=["R", "G", "B"], pixels="display"))
    assert picture[20, 40] == pytest.approx([204, 0, 0], abs=6)
    assert picture[75, 40] == pytest.approx([0, 0, 102], abs=6)


def test_missing_pixels_are_violet_and_no_warning_is_raised():
    image_CYX = sky(1)
    image_CYX[:, :16] = np.nan
    picture = decode(render_thumbnail(image_CYX, bands=["g"], pixels="flux"))
    assert picture[80, 48] == pytest.approx([66, 52, 92], abs=10)
    red, green, blue = picture[10, 48]
    assert red == pytest.approx(green, abs=6) == pytest.approx(blue, abs=6)


def test_a_band_that_is_missing_as_a_whole_is_left_out_of_the_picture():
    image_CYX = sky(3) + star((16, 16), peak=500)
    image_CYX[1] = np.nan
    picture = decode(render_thumbnail(image_CYX, bands=["g", "r", "i"], pixels="flux"))
    assert picture[48, 48].min() > 150


@pytest.mark.parametrize(
    "bands", [("g", "r", "i"), ("F435W", "F606W", "F814W"), ("J", "H", "K"), ("a", "b", "c")]
)
def test_light_of_the_last_band_is_red(bands):
    image_CYX = sky(3)
    image_CYX[2] += star((16, 16), peak=500)
    red, green, blue = decode(render_thumbnail(image_CYX, bands=bands, pixels="flux"))[48, 48]
    assert red > green + 60
    assert red > blue + 60


def test_known_bands_are_ordered_by_wavelength_whatever_their_order_in_the_file():
    image_CYX = sky(4)
    image_CYX[0] += star((16, 16), peak=500)
    picture = decode(render_thumbnail(image_CYX, bands=["z", "g", "i", "r"], pixels="flux"))
    red, green, blue = picture[48, 48]
    assert red > green + 60
    assert red > blue + 60


def test_filters_of_hubble_and_webb_are_ordered_by_their_wavelength():
    image_CYX = sky(3)
    image_CYX[0] += star((16, 16), peak=500)  # 4.4 um is redder than 1.6 um and 814 nm
    bands = ["F444W", "F814W", "F160W"]
    red, green, blue = decode(render_thumbnail(image_CYX, bands=bands, pixels="flux"))[48, 48]
    assert red > max(green, blue) + 60


def test_two_bands_are_shown_in_blue_and_red():
    image_CYX = sky(2)
    image_CYX[0] += star((16, 8), peak=500)
    image_CYX[1] += star((16, 24), peak=500)
    picture = decode(render_thumbnail(image_CYX, bands=["g", "r"], pixels="flux"))
    assert picture[48, 24, 2] > picture[48, 24, 0] + 60
    assert picture[48, 72, 0] > picture[48, 72, 2] + 60


def test_the_unit_of_the_flux_does_not_change_the_picture():
    image_CYX = sky(3) + star((16, 16), peak=300)
    picture = decode(render_thumbnail(image_CYX, bands=["g", "r", "i"], pixels="flux"))
    other = decode(render_thumbnail(image_CYX * 1e-12, bands=["g", "r", "i"], pixels="flux"))
    np.testing.assert_allclose(picture, other, atol=3)


def test_noise_without_a_source_stays_dark_and_faint_light_beside_a_star_is_seen():
    noise = decode(render_thumbnail(sky(1), bands=["g"], pixels="flux"))
    assert 5 < noise.mean() < 80
    image_CYX = sky(1) + star((8, 8), peak=20_000) + star((24, 24), peak=30)
    picture = decode(render_thumbnail(image_CYX, bands=["g"], pixels="flux"))
    assert picture[20:28, 68:76].mean() > 40
    assert picture[68:76, 20:28].mean() > 240


def test_an_oblong_cutout_keeps_its_shape():
    picture = decode(
        render_thumbnail(np.ones((3, 32, 16)), bands=["R", "G", "B"], pixels="display")
    )
    assert picture[48, 48] == pytest.approx([255, 255, 255], abs=3)
    assert picture[:, :20].max() < 10
    assert picture[:, -20:].max() < 10


@pytest.mark.parametrize("value", [0.0, 7.0, -3.0, np.nan, np.inf])
@pytest.mark.parametrize("num_bands", [1, 2, 3, 5])
@pytest.mark.parametrize("pixels", ["flux", "display"])
def test_degenerate_images_have_pictures_too(value, num_bands, pixels):
    image_CYX = np.full((num_bands, 5, 7), value, np.float32)
    decode(render_thumbnail(image_CYX, bands=["x"] * num_bands, pixels=pixels))


@pytest.mark.parametrize("shape", [(0, 4, 4), (1, 0, 4), (4, 4)])
def test_an_image_without_pixels_is_refused_with_its_shape(shape):
    with pytest.raises(DataError, match=r"shape \(.*expected \[C, Y, X\]"):
        render_thumbnail(np.zeros(shape), bands=["g"] * shape[0], pixels="flux")


def test_the_table_has_the_promised_columns_and_the_order_given():
    table = thumbnail_table(["b", "a"], [b"2", b"1"])
    assert table.schema.equals(schema.THUMBNAILS, check_metadata=True)
    assert table["object_id"].to_pylist() == ["b", "a"]


def test_published_thumbnails_do_not_depend_on_the_order_of_rendering(tmp_path):
    paths = [
        publish_thumbnails(str(tmp_path / name), pictures)
        for name, pictures in [("x", {"b": b"2", "a": b"1"}), ("y", {"a": b"1", "b": b"2"})]
    ]
    first, second = (Path(path).read_bytes() for path in paths)
    assert first == second
    assert pq.read_table(paths[0])["object_id"].to_pylist() == ["a", "b"]
