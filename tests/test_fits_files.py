"""FITS of all forms is read right, and defects of files end as errors or log lines."""

import gzip
import logging
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from astroray.errors import DataError, FileError, ShardError
from astroray.surveys.fits_files import open_fits

Y, X = 24, 40


def read_one(path: Path, hdu: str = "") -> np.ndarray:
    with open_fits(str(path)) as file:
        (image,) = file.sciences(hdu)
        return file.read(image)


def make_image(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 5, (Y, X)).astype(np.float32)


def write(path: Path, *hdus: fits.hdu.base.ExtensionHDU) -> Path:
    fits.HDUList(list(hdus)).writeto(path)
    return path


def tangent_header(
    ra_deg: float = 150.0, dec_deg: float = 2.0, pixel_deg: float = 1e-4
) -> fits.Header:
    header = fits.Header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
    header["CRVAL1"], header["CRVAL2"] = ra_deg, dec_deg
    header["CRPIX1"], header["CRPIX2"] = 11.0, 21.0  # 10, 20 counted from 0
    header["CDELT1"], header["CDELT2"] = -pixel_deg, pixel_deg
    header["RADESYS"] = "ICRS"
    return header


def positions_of(path: Path, x: float, y: float) -> tuple[float, float]:
    with open_fits(str(path)) as file:
        ra, dec = file.images[0].positions(np.array([x]), np.array([y]))
    return float(ra[0]), float(dec[0])


def gnomonic(ra0: float, dec0: float, xi_deg: float, eta_deg: float) -> tuple[float, float]:
    """Standard coordinates to the sphere, by the textbook formula."""
    xi, eta = np.radians(xi_deg), np.radians(eta_deg)
    ra0, dec0 = np.radians(ra0), np.radians(dec0)
    down = np.cos(dec0) - eta * np.sin(dec0)
    ra = ra0 + np.arctan2(xi, down)
    dec = np.arctan2((np.sin(dec0) + eta * np.cos(dec0)) * np.cos(ra - ra0), down)
    return float(np.degrees(ra)), float(np.degrees(dec))


def test_a_plain_file_comes_back_as_native_float32(tmp_path):
    image = make_image()
    got = read_one(write(tmp_path / "a.fits", fits.PrimaryHDU(image)))
    assert got.dtype == np.dtype(np.float32)
    assert got.dtype.isnative
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got, image)


def test_a_gzipped_file_equals_the_plain_one(tmp_path):
    image = make_image()
    plain = write(tmp_path / "a.fits", fits.PrimaryHDU(image))
    packed = tmp_path / "b.fits.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    np.testing.assert_array_equal(read_one(packed), image)


@pytest.mark.parametrize("kind", [np.int16, np.uint16, np.int32])
def test_tile_compressed_integers_come_back_exactly(tmp_path, kind):
    image = np.random.default_rng(3).integers(0, 30_000, (Y, X)).astype(kind)
    hdu = fits.CompImageHDU(image, compression_type="RICE_1")
    got = read_one(write(tmp_path / "a.fits.fz", fits.PrimaryHDU(), hdu))
    np.testing.assert_array_equal(got, image.astype(np.float32))


def test_tile_compressed_floats_come_back_within_the_quantization(tmp_path):
    image = make_image()
    hdu = fits.CompImageHDU(image, compression_type="RICE_1", quantize_level=16)
    got = read_one(write(tmp_path / "a.fits.fz", fits.PrimaryHDU(), hdu))
    assert 0 < np.abs(got - image).max() < 5 / 16


def test_unsigned_integers_are_not_taken_for_negative_ones(tmp_path):
    image = np.array([[0, 1], [40_000, 65_535]], np.uint16)
    got = read_one(write(tmp_path / "a.fits", fits.PrimaryHDU(image)))
    assert got.tolist() == [[0, 1], [40_000, 65_535]]


def test_blank_integers_become_nan_with_and_without_scaling(tmp_path):
    for name, scaling in {"plain": {}, "scaled": {"BSCALE": 0.5, "BZERO": 10.0}}.items():
        hdu = fits.PrimaryHDU(np.array([[7, -999], [8, 0]], np.int16))
        hdu.header["BLANK"] = -999
        hdu.header.update(scaling)
        path = tmp_path / f"{name}.fits"
        path.write_bytes(_raw_bytes(hdu))
        got = read_one(path)
        expected = np.array([[7, np.nan], [8, 0]]) * scaling.get("BSCALE", 1)
        np.testing.assert_array_equal(got, expected + scaling.get("BZERO", 0))


def _raw_bytes(hdu: fits.PrimaryHDU) -> bytes:
    """Header and stored integers as they are, which astropy's writer would scale."""
    stored = np.array([[7, -999], [8, 0]], ">i2").tobytes()
    return hdu.header.tostring().encode() + stored.ljust(2880, b"\0")


def test_rows_of_a_cube_are_read_alone(tmp_path):
    cube = np.arange(10 * 4 * 5, dtype=np.float32).reshape(10, 4, 5)
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(cube))
    with open_fits(str(path)) as file:
        np.testing.assert_array_equal(file.read(file.images[0], rows=slice(3, 5)), cube[3:5])


@pytest.mark.parametrize("num_bytes", [0, 100, 2880, 5000, 2880 + Y * X * 4 - 1])
def test_a_file_that_ends_too_early_is_refused_when_it_is_opened(tmp_path, num_bytes):
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(make_image()))
    path.write_bytes(path.read_bytes()[:num_bytes])
    with pytest.raises(ShardError, match=r"a\.fits"), open_fits(str(path)):
        pass


def test_a_file_without_its_last_padding_is_whole(tmp_path):
    image = make_image()
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(image))
    path.write_bytes(path.read_bytes()[: 2880 + image.nbytes])
    np.testing.assert_array_equal(read_one(path), image)


@pytest.mark.parametrize("lost", [10, 2880, 4000])
def test_a_later_hdu_that_is_cut_is_refused_too(tmp_path, lost):
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(make_image()), fits.ImageHDU(make_image(2)))
    data = path.read_bytes()
    padding = -make_image().nbytes % 2880
    path.write_bytes(data[: len(data) - padding - lost])
    with pytest.raises(ShardError, match="truncated"), open_fits(str(path)):
        pass


@pytest.mark.parametrize("num_bytes", [2, 50, 2000])
def test_a_truncated_gzip_file_is_refused(tmp_path, num_bytes):
    plain = write(tmp_path / "a.fits", fits.PrimaryHDU(make_image()))
    packed = tmp_path / "a.fits.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes())[:num_bytes])
    with pytest.raises(ShardError, match=r"a\.fits\.gz"), open_fits(str(packed)):
        pass


def test_a_truncated_tile_compressed_file_is_refused(tmp_path):
    hdu = fits.CompImageHDU(make_image(), compression_type="RICE_1")
    path = write(tmp_path / "a.fits.fz", fits.PrimaryHDU(), hdu)
    path.write_bytes(path.read_bytes()[:-2880])
    with pytest.raises(ShardError, match="truncated"), open_fits(str(path)):
        pass


def test_a_text_file_is_no_fits_file(tmp_path):
    path = tmp_path / "a.fits"
    path.write_text("this is a catalog\n" * 300)
    with pytest.raises(ShardError, match="no FITS file"), open_fits(str(path)):
        pass


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(FileError, match="missing"), open_fits(str(tmp_path / "a.fits")):
        pass


def test_an_error_of_the_caller_is_not_taken_for_bad_data(tmp_path):
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(make_image()))
    with pytest.raises(KeyError), open_fits(str(path)):
        raise KeyError("a bug")


def test_a_header_with_tabs_and_bad_cards_is_read_and_noted(tmp_path, caplog):
    hdu = fits.PrimaryHDU(make_image(), header=tangent_header())
    hdu.header["COMMENT"] = "with THETAB in it"
    hdu.header["HISTORY"] = "and THETAB again"
    path = write(tmp_path / "a.fits", hdu)
    path.write_bytes(path.read_bytes().replace(b"THETAB", b"\tTAB \t"))
    with caplog.at_level(logging.INFO):
        np.testing.assert_array_equal(read_one(path), make_image())
        assert np.isfinite(positions_of(path, 3, 4)).all()
    assert "notes by astropy" in caplog.text


def test_bytes_after_the_last_hdu_are_ignored_with_a_warning(tmp_path, caplog):
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(make_image()))
    path.write_bytes(path.read_bytes() + b"junk" * 1000)
    np.testing.assert_array_equal(read_one(path), make_image())
    assert "after the last HDU" in caplog.text


@pytest.mark.parametrize(("x", "y"), [(10.0, 20.0), (0.0, 0.0), (37.5, 3.25)])
def test_positions_are_true_within_a_tenth_of_an_arcsecond(tmp_path, x, y):
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(make_image(), header=tangent_header()))
    expected = gnomonic(150.0, 2.0, -(x - 10) * 1e-4, (y - 20) * 1e-4)
    assert positions_of(path, x, y) == pytest.approx(expected, abs=0.01 / 3600)


def test_sip_distortion_is_applied(tmp_path):
    header = tangent_header(pixel_deg=1e-3)
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN-SIP", "DEC--TAN-SIP"
    header["A_ORDER"], header["A_2_0"] = 2, 1e-3
    header["B_ORDER"], header["B_1_1"] = 2, -2e-3
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(make_image(), header=header))
    u, v = 20.0, -15.0
    xi, eta = -(u + 1e-3 * u * u) * 1e-3, (v - 2e-3 * u * v) * 1e-3
    expected = gnomonic(150.0, 2.0, xi, eta)
    assert positions_of(path, 10 + u, 20 + v) == pytest.approx(expected, abs=0.01 / 3600)


def test_galactic_coordinates_become_icrs(tmp_path):
    header = tangent_header(0.0, 0.0)
    header["CTYPE1"], header["CTYPE2"] = "GLON-TAN", "GLAT-TAN"
    del header["RADESYS"]
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(make_image(), header=header))
    galactic_center = (266.404996, -28.936172)  # Sgr A is 4 arcmin away; this is l = b = 0
    assert positions_of(path, 10, 20) == pytest.approx(galactic_center, abs=0.1 / 3600)


def test_an_old_equinox_is_precessed(tmp_path):
    header = tangent_header(150.0, 2.0)
    header["RADESYS"], header["EQUINOX"] = "FK5", 1975.0
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(make_image(), header=header))
    ra, dec = positions_of(path, 10, 20)
    # annual precession at J2000: m + n sin(ra) tan(dec), n cos(ra), m 46.124, n 20.043 arcsec
    assert (ra - 150.0) * 3600 == pytest.approx(
        25 * (46.124 + 20.043 * 0.5 * np.tan(np.radians(2.0))), abs=2
    )
    assert (dec - 2.0) * 3600 == pytest.approx(25 * 20.043 * np.cos(np.radians(150)), abs=2)


def test_latitude_on_the_first_axis_is_told_from_longitude(tmp_path):
    header = tangent_header()
    header["CTYPE1"], header["CTYPE2"] = "DEC--TAN", "RA---TAN"
    header["CRVAL1"], header["CRVAL2"] = 2.0, 150.0
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(make_image(), header=header))
    assert positions_of(path, 10, 20) == pytest.approx((150.0, 2.0), abs=1e-9)


def test_the_celestial_axes_of_a_cube_are_used(tmp_path):
    header = tangent_header()
    header["CTYPE3"], header["CRVAL3"], header["CRPIX3"], header["CDELT3"] = "FREQ", 1e9, 1.0, 1e6
    cube = np.stack([make_image()] * 3)
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(cube, header=header))
    assert positions_of(path, 10, 20) == pytest.approx((150.0, 2.0), abs=1e-9)


@pytest.mark.parametrize(
    "damage",
    [{"CDELT1": 0.0}, {"CTYPE2": "DEC--SIN"}, {"CTYPE1": "RA---XYZ"}],
    ids=str,
)
def test_a_broken_coordinate_system_is_noted_and_gives_no_positions(tmp_path, caplog, damage):
    header = tangent_header()
    header.update(damage)
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(make_image(), header=header))
    assert np.isnan(positions_of(path, 1, 2)).all()
    assert "cannot be used" in caplog.text


def test_without_a_coordinate_system_there_are_no_positions(tmp_path):
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(make_image()))
    assert np.isnan(positions_of(path, 1, 2)).all()


@pytest.mark.parametrize(
    ("cards", "night"),
    [
        ({"DATE-OBS": "2026-07-24T23:10:00.5"}, "2026-07-24"),
        ({"DATE-OBS": "2026-07-25T05:10:00"}, "2026-07-24"),
        ({"DATE-OBS": "2026-07-25T12:00:00"}, "2026-07-25"),
        ({"DATE-OBS": "2026-07-25T13:00:00+09:00"}, "2026-07-24"),
        ({"DATE-OBS": "0001-01-01T00:00:00"}, "0001-01-01"),
        ({"DATE-OBS": "2026-07-25", "TIME-OBS": "05:10:00"}, "2026-07-24"),
        ({"DATE-OBS": "2026-07-25"}, "2026-07-25"),
        ({"DATE-OBS": "26/10/92"}, "1992-10-26"),
        ({"DATE-OBS": "26/10/92", "UT": "3:04:09"}, "1992-10-25"),
        ({"MJD-OBS": 60000.25}, "2023-02-24"),
        ({"DATE-OBS": "yesterday"}, None),
        ({}, None),
    ],
    ids=str,
)
def test_the_night_is_the_utc_date_at_dusk(tmp_path, cards, night):
    header = fits.Header()
    header.update(cards)
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(make_image(), header=header))
    with open_fits(str(path)) as file:
        assert file.images[0].night == night


def test_bands_come_from_the_option_else_from_the_header(tmp_path):
    header = fits.Header()
    header["FILTER"] = "g,r"
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(np.zeros((2, 3, 4), "f4"), header=header))
    with open_fits(str(path)) as file:
        (image,) = file.images
        assert image.bands(2) == ("g", "r")
        assert image.bands(2, asked="u,v") == ("u", "v")
        assert image.bands(3) == ("b0", "b1", "b2")
        with pytest.raises(ShardError, match="has 2 bands"):
            image.bands(2, asked="u,v,w")


@pytest.mark.parametrize(
    ("cards", "bands"),
    [
        ({"BAND1": "u", "FILTER2": "v"}, ("u", "v")),
        ({"BAND": "u,v", "FILTER": "g,r"}, ("u", "v")),
        ({"BANDS": "u, v"}, ("u", "v")),
        ({}, ("g", "r")),  # as the file's first header says
        ({"INHERIT": False}, ("g", "r")),  # which IRAF writes into every extension
        ({"FILTER": "g,g"}, ("b0", "b1")),
        ({"BAND": "g"}, ("b0", "b1")),
        ({"BAND": "g", "FILTER1": "g"}, ("b0", "b1")),
    ],
    ids=str,
)
def test_bands_that_a_header_does_not_tell_apart_have_numbers(tmp_path, cards, bands):
    hdu = fits.ImageHDU(np.zeros((2, 3, 4), "f4"), fits.Header(cards))
    primary = fits.PrimaryHDU(header=fits.Header({"FILTER": "g,r", "DATE-OBS": "2026-07-25"}))
    path = write(tmp_path / "a.fits", primary, hdu)
    with open_fits(str(path)) as file:
        (image,) = file.images
        assert image.bands(2) == bands
        assert image.night == "2026-07-25"


def test_masks_belong_to_images_by_version_and_are_joined(tmp_path):
    dq = np.zeros((2, Y, X), np.int16)
    dq[0, 1, 2], dq[1, 3, 4] = 4, 8
    weight = np.ones((Y, X), np.float32)
    weight[5, 6], weight[7, 8] = 0, np.nan
    path = write(
        tmp_path / "a.fits",
        fits.PrimaryHDU(),
        fits.ImageHDU(make_image(), name="SCI", ver=1),
        fits.ImageHDU(dq[1], name="DQ", ver=2),
        fits.ImageHDU(make_image(), name="SCI", ver=2),
        fits.ImageHDU(dq[0], name="DQ", ver=1),
        fits.ImageHDU(weight, name="WHT", ver=1),
    )
    with open_fits(str(path)) as file:
        one, two = file.sciences()
        bad = file.read_bad(one), file.read_bad(two)
    assert {tuple(p) for p in np.argwhere(bad[0])} == {(1, 2), (5, 6), (7, 8)}
    assert {tuple(p) for p in np.argwhere(bad[1])} == {(3, 4), (5, 6), (7, 8)}


def test_an_hdu_that_is_not_there_is_named_with_those_that_are(tmp_path):
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(), fits.ImageHDU(make_image(), name="CCD1"))
    with open_fits(str(path)) as file, pytest.raises(ShardError, match=r"CCD7.*CCD1"):
        file.find("CCD7")


def test_real_files_are_all_read(real_data):
    folders = ("restoration/fits_fields", "wise/images", "galaxies/radio_mirabest/fits_original")
    paths = [path for folder in folders for path in sorted((real_data / folder).glob("*.fits*"))]
    paths += sorted((real_data / "galaxies/radio_mirabest/fits").glob("*.fz"))[:3]
    assert len(paths) > 10
    for path in paths:
        with open_fits(str(path)) as file:
            images = file.sciences()
            assert images, path
            for image in images:
                assert np.isfinite(file.read(image)).any(), path


def test_all_errors_of_bad_bytes_are_errors_of_data(tmp_path):
    """Random damage of header and pixels: read, or refused in our own words, never a crash."""
    rng = np.random.default_rng(11)
    hdu = fits.CompImageHDU(make_image(), header=tangent_header(), compression_type="RICE_1")
    whole = write(tmp_path / "a.fits.fz", fits.PrimaryHDU(), hdu).read_bytes()
    path = tmp_path / "b.fits.fz"
    num_refused = 0
    for _ in range(60):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), 40):
            damaged[place] = rng.integers(0, 256)
        path.write_bytes(bytes(damaged))
        try:
            with open_fits(str(path)) as file:
                for image in file.images:
                    file.read(image)
                    image.positions(np.zeros(1), np.zeros(1))
        except DataError:
            num_refused += 1
    assert num_refused > 5


@pytest.mark.parametrize("kind", ["plain", "RICE_1", "GZIP_2", "HCOMPRESS_1"])
@pytest.mark.parametrize("shape", [(70, 50), (2, 70, 50)])
def test_some_lines_of_an_image_are_those_of_the_whole(tmp_path, kind, shape):
    pixels = np.random.default_rng(2).normal(100, 5, shape).astype(np.float32)
    image = (
        fits.ImageHDU(pixels)
        if kind == "plain"
        else fits.CompImageHDU(
            pixels, compression_type=kind, tile_shape=(1,) * (len(shape) - 2) + (20, 25)
        )
    )
    mask = fits.ImageHDU((pixels > 105).astype(np.int16), name="MASK")
    fits.HDUList([fits.PrimaryHDU(), image, mask]).writeto(tmp_path / "a.fits")
    with open_fits(str(tmp_path / "a.fits")) as file:
        (science,) = file.sciences()
        whole, bad = file.read(science), file.read_bad(science)
        lines = slice(13, 37)
        np.testing.assert_array_equal(file.read(science, lines=lines), whole[..., lines, :])
        np.testing.assert_array_equal(file.read_bad(science, lines=lines), bad[..., lines, :])
