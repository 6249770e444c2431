"""Sources of wide fields: found where they are, cut out whole, flagged and placed on the sky."""

import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import sep
from astropy.io import fits
from PIL import Image

from astroray import surveys
from astroray.errors import ConfigError, ShardError
from astroray.schema import Flag
from astroray.surveys.shards import Cutouts, Shard
from tests.light_curves_made import write_mission

SIZE_PX = 200
STARS = [(30.2, 40.2), (100.3, 60.7), (150.25, 149.8), (60.25, 170.75)]


def make_field(stars: list[tuple[float, float]] = STARS, flux: float = 3000.0) -> np.ndarray:
    """Stars of 2 px sigma at (x, y) on noise of sigma 1 about a level of 500."""
    image_YX = np.random.default_rng(5).normal(500, 1, (SIZE_PX, SIZE_PX))
    y_YX, x_YX = np.mgrid[:SIZE_PX, :SIZE_PX]
    for x, y in stars:
        image_YX += flux / (8 * np.pi) * np.exp(-((x_YX - x) ** 2 + (y_YX - y) ** 2) / 8)
    return image_YX.astype(np.float32)


def write(path: Path, *images: np.ndarray, **cards: object) -> str:
    hdu = fits.PrimaryHDU(images[0])
    hdu.header.update({key.replace("_", "-"): value for key, value in cards.items()})
    fits.HDUList([hdu, *(fits.ImageHDU(image) for image in images[1:])]).writeto(path)
    return str(path)


def list_fields(path: str, options: str = "") -> tuple[Shard, ...]:
    uri = f"{path}?format=fields&threshold=5" + (f"&{options}" if options else "")
    return surveys.list_shards(uri).shards


def read(shard: Shard, rows: list[int] | None = None) -> Cutouts:
    """All slices as one."""
    slices = list(surveys.read_shard(shard, rows=rows))
    assert all(isinstance(item, Cutouts) for item in slices)
    joined = {
        name: np.concatenate([np.asarray(getattr(item, name)) for item in slices])
        for name in ("row_B", "object_id_B", "ra_deg_B", "dec_deg_B", "image_BCYX", "flags_B")
    }
    return dataclasses.replace(slices[0], **joined)


def read_field(path: str, options: str = "") -> Cutouts:
    (shard,) = list_fields(path, options)
    return read(shard)


def places(cutouts: Cutouts) -> list[tuple[float, float]]:
    texts = [name.rpartition(":")[2].split("_") for name in cutouts.object_id_B]
    return [(float(x), float(y)) for x, y in texts]


def test_every_star_is_found_once_at_its_place_in_order_of_y(tmp_path):
    found = places(read_field(write(tmp_path / "a.fits", make_field())))
    expected = sorted(STARS, key=lambda star: star[1])
    np.testing.assert_allclose(found, expected, atol=0.1)


def test_a_stamp_is_whole_pixels_of_the_image_about_its_source(tmp_path):
    image_YX = make_field()
    for size in (15, 32):
        cutouts = read_field(write(tmp_path / f"{size}.fits", image_YX), f"size={size}")
        assert cutouts.image_BCYX.shape == (len(STARS), 1, size, size)
        for stamp_CYX, (x, y) in zip(cutouts.image_BCYX, places(cutouts), strict=True):
            left, low = (
                next(i for i in range(SIZE_PX) if abs(i + (size - 1) / 2 - center) <= 0.5)
                for center in (x, y)
            )
            expected = image_YX[low : low + size, left : left + size]
            np.testing.assert_array_equal(stamp_CYX[0], expected)


def test_pixels_beyond_the_image_are_missing_and_flagged(tmp_path):
    image_YX = make_field([(5.0, 60.0), (100.0, 100.0), (197.0, 196.0)])
    cutouts = read_field(write(tmp_path / "a.fits", image_YX))
    left, middle, corner = np.isnan(cutouts.image_BCYX[:, 0])
    assert [bool(flag & Flag.EDGE) for flag in cutouts.flags_B] == [True, False, True]
    assert left[:, :10].all()
    assert not left[:, 11:].any()
    assert not middle.any()
    assert 0.6 < corner.mean() < 0.8  # about a half is lost on two sides


def test_parts_of_a_blend_are_flagged(tmp_path):
    image_YX = make_field([(50.0, 50.0), (57.0, 50.0), (150.0, 150.0)])
    cutouts = read_field(write(tmp_path / "a.fits", image_YX))
    assert [bool(flag & Flag.BLENDED) for flag in cutouts.flags_B] == [True, True, False]
    alone = read_field(write(tmp_path / "b.fits", image_YX), "deblend_contrast=1")
    assert [bool(flag & Flag.BLENDED) for flag in alone.flags_B] == [False, False]


def test_a_masked_pixel_does_not_keep_a_blend_together(tmp_path):
    image_YX = make_field([(50.0, 50.0), (57.0, 50.0), (150.0, 150.0)])
    whole = places(read_field(write(tmp_path / "a.fits", image_YX)))
    image_YX[54, 50] = np.nan
    holed = places(read_field(write(tmp_path / "b.fits", image_YX)))
    np.testing.assert_allclose(holed, whole, atol=0.3)


def test_saturated_stamps_are_flagged_by_the_level_of_the_header(tmp_path):
    image_YX = make_field()
    image_YX[150, 150] = 60_000  # a pixel of the star that is third in y
    cutouts = read_field(write(tmp_path / "a.fits", image_YX, SATURATE=50_000.0))
    is_saturated = [bool(flag & Flag.SATURATED) for flag in cutouts.flags_B]
    assert is_saturated == [False, False, True, False]


def test_reading_twice_gives_the_same_and_some_rows_are_the_same_rows(tmp_path):
    (shard,) = list_fields(write(tmp_path / "a.fits", make_field()))
    whole, again, some = read(shard), read(shard), read(shard, rows=[3, 1])
    np.testing.assert_array_equal(whole.image_BCYX, again.image_BCYX)
    assert some.row_B.tolist() == [1, 3]
    assert list(some.object_id_B) == [whole.object_id_B[1], whole.object_id_B[3]]
    np.testing.assert_array_equal(some.image_BCYX, whole.image_BCYX[[1, 3]])


def test_a_shard_survives_json_and_reads_the_same(tmp_path):
    (shard,) = list_fields(write(tmp_path / "a.fits", make_field()))
    copy = dataclasses.replace(shard, params=json.loads(json.dumps(dict(shard.params))))
    np.testing.assert_array_equal(read(shard).image_BCYX, read(copy).image_BCYX)


def test_missing_pixels_are_no_sources_and_stay_missing(tmp_path):
    image_YX = make_field()
    image_YX[148:153, 130:140] = np.nan  # the stamp of (150.25, 149.8) begins at x = 135
    image_YX[0:20] = np.nan
    cutouts = read_field(write(tmp_path / "a.fits", image_YX))
    np.testing.assert_allclose(places(cutouts), sorted(STARS, key=lambda star: star[1]), atol=0.1)
    assert np.isnan(cutouts.image_BCYX).sum() == 5 * (140 - 135)


@pytest.mark.parametrize("option", ["", "mask=MASK", "mask=bad.fits"])
def test_masked_pixels_hide_a_source_by_hdu_or_by_file(tmp_path, option):
    mask_YX = np.zeros((SIZE_PX, SIZE_PX), np.uint8)
    mask_YX[30:50, 20:40] = 1
    folder = tmp_path / "survey"
    folder.mkdir()
    hdus = [fits.PrimaryHDU(make_field())]
    if "bad" in option:
        fits.PrimaryHDU(mask_YX).writeto(folder / "bad.fits")
    else:
        hdus.append(fits.ImageHDU(mask_YX, name="MASK"))
    fits.HDUList(hdus).writeto(folder / "a.fits")
    (shard,) = list_fields(str(folder), option)  # the mask file is no field of its own
    found = places(read(shard))
    assert len(found) == len(STARS) - 1
    assert min(y for _, y in found) > 50


def test_a_mask_of_another_shape_is_refused(tmp_path):
    fits.PrimaryHDU(np.zeros((10, 10), np.uint8)).writeto(tmp_path / "bad.fits")
    (shard,) = list_fields(write(tmp_path / "a.fits", make_field()), "mask=bad.fits")
    with pytest.raises(ShardError, match="mask"):
        read(shard)


def test_every_detector_of_a_mosaic_is_a_shard(tmp_path):
    hdus = [fits.PrimaryHDU()]
    hdus += [fits.ImageHDU(make_field([star]), name=f"CCD{i}") for i, star in enumerate(STARS)]
    hdus[0].header["DATE-OBS"] = "2026-07-25T03:00:00"
    fits.HDUList(hdus).writeto(tmp_path / "exp-7.fits")
    shards = list_fields(str(tmp_path / "exp-7.fits"))
    assert len({shard.name for shard in shards}) == len(STARS)
    for i, (shard, star) in enumerate(zip(shards, STARS, strict=True)):
        cutouts = read(shard)
        assert shard.name.startswith(f"exp-7.CCD{i}-")
        assert cutouts.object_id_B[0].startswith(f"exp-7.CCD{i}:")
        assert (cutouts.field, cutouts.detector) == ("exp-7", f"CCD{i}")
        np.testing.assert_allclose(places(cutouts), [star], atol=0.1)


def test_what_the_first_header_says_of_band_and_night_holds_for_every_detector(tmp_path):
    images = [fits.ImageHDU(make_field(), name=name) for name in ("N1", "N2")]
    images[1].header["FILTER"] = "z"
    primary = fits.PrimaryHDU()
    primary.header.update({"FILTER": "r", "DATE-OBS": "2026-07-25T03:00:00"})
    fits.HDUList([primary, *images]).writeto(tmp_path / "a.fits")
    first, second = (read(shard) for shard in list_fields(str(tmp_path / "a.fits")))
    assert (first.bands, second.bands) == (("r",), ("z",))
    assert (first.night, second.night) == ("2026-07-24", "2026-07-24")


def test_planes_of_a_cube_are_bands_and_one_can_be_chosen_to_detect(tmp_path):
    cube = np.stack([make_field(STARS[:1]), make_field(STARS[1:2])])
    path = write(tmp_path / "a.fits", cube, DATE_OBS="2026-07-25T03:00:00")
    both = read_field(path, "bands=g,r")
    assert (both.bands, both.image_BCYX.shape) == (("g", "r"), (2, 2, 32, 32))
    assert both.night == "2026-07-24"
    only = read_field(path, "bands=g,r&detect_band=r")
    np.testing.assert_allclose(places(only), STARS[1:2], atol=0.1)
    (shard,) = list_fields(path, "bands=g,r&detect_band=z")
    with pytest.raises(ShardError, match="detect_band"):
        read(shard)


def test_positions_follow_the_header(tmp_path):
    wcs = {
        "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": 0.0,
        "CRPIX1": 101.0, "CRPIX2": 101.0, "CDELT1": -1e-4, "CDELT2": 1e-4,
    }  # fmt: skip
    cutouts = read_field(write(tmp_path / "a.fits", make_field(), **wcs))
    x, y = np.transpose(places(cutouts))
    np.testing.assert_allclose(cutouts.ra_deg_B, 10 - (x - 100) * 1e-4, atol=0.02 / 3600)
    np.testing.assert_allclose(cutouts.dec_deg_B, (y - 100) * 1e-4, atol=0.02 / 3600)


@pytest.mark.parametrize("value", [np.nan, 0.0, 1000.1])
def test_an_image_without_sources_has_no_rows(tmp_path, value):
    (shard,) = list_fields(write(tmp_path / "a.fits", np.full((50, 60), value, np.float32)))
    assert list(surveys.read_shard(shard)) == []


@pytest.mark.parametrize("kind", [np.uint16, np.int32, ">f8"])
def test_integers_and_foreign_byte_order_are_read_alike(tmp_path, kind):
    image_YX = np.round(make_field())
    found = read_field(write(tmp_path / "a.fits", image_YX.astype(kind)))
    np.testing.assert_array_equal(
        found.image_BCYX, read_field(write(tmp_path / "b.fits", image_YX)).image_BCYX
    )


def test_an_image_smaller_than_mesh_and_stamp_still_gives_its_source(tmp_path):
    image_YX = make_field()[30:50, 20:40]
    cutouts = read_field(write(tmp_path / "a.fits", image_YX), "threshold=20&box_px=64")
    assert len(cutouts.row_B) == 1


def test_full_buffers_are_enlarged_once(tmp_path):
    (shard,) = list_fields(write(tmp_path / "a.fits", make_field()))
    expected = read(shard)
    before = sep.get_extract_pixstack()
    try:
        sep.set_extract_pixstack(10)
        np.testing.assert_array_equal(read(shard).image_BCYX, expected.image_BCYX)
        assert sep.get_extract_pixstack() > SIZE_PX**2
    finally:
        sep.set_extract_pixstack(before)


def test_buffers_that_stay_too_small_are_an_error_with_advice(tmp_path, monkeypatch):
    (shard,) = list_fields(write(tmp_path / "a.fits", make_field()))
    before = sep.get_extract_pixstack()
    try:
        sep.set_extract_pixstack(10)
        monkeypatch.setattr(sep, "set_extract_pixstack", lambda size: None)
        with pytest.raises(ShardError, match="raise threshold="):
            read(shard)
    finally:
        monkeypatch.undo()
        sep.set_extract_pixstack(before)


def test_a_source_that_swallows_the_field_is_warned_of(tmp_path, caplog):
    y_YX, x_YX = np.mgrid[:SIZE_PX, :SIZE_PX]
    galaxy_YX = 500 * np.exp(-np.hypot(x_YX - 100, y_YX - 100) / 30).astype(np.float32)
    with caplog.at_level(logging.WARNING):
        read_field(write(tmp_path / "a.fits", make_field([]) + galaxy_YX))
    assert "one source covers" in caplog.text


def test_close_and_faint_sources_are_left_out_on_request(tmp_path):
    image_YX = make_field([(50.0, 50.0), (150.0, 150.0)])
    image_YX += make_field([(62.0, 50.0)], flux=1500.0)
    path = write(tmp_path / "a.fits", image_YX)
    assert len(read_field(path).row_B) == 3
    apart = places(read_field(path, "min_distance_px=20"))
    np.testing.assert_allclose(apart, [(50, 50), (150, 150)], atol=0.3)
    assert len(read_field(path, "max_sources=1").row_B) == 1


def test_images_of_one_name_in_two_folders_keep_their_sources_apart(tmp_path):
    for night in ("n1", "n2"):
        (tmp_path / night).mkdir()
        write(tmp_path / night / "a.fits", make_field())
    names = [set(read(shard).object_id_B) for shard in list_fields(str(tmp_path))]
    assert len(names) == 2
    assert not names[0] & names[1]


def test_the_aperture_of_a_light_curve_is_no_field(tmp_path):
    path = str(write_mission(tmp_path / "kplr1_llc.fits"))
    (shard,) = list_fields(path, "format=fields")
    with pytest.raises(ShardError, match="has 0 image HDUs, expected one; format=light_curves"):
        list(surveys.read_shard(shard))


def test_a_truncated_file_is_listed_and_refused_when_read(tmp_path):
    path = Path(write(tmp_path / "a.fits", make_field()))
    path.write_bytes(path.read_bytes()[:20_000])
    (shard,) = list_fields(str(path))
    with pytest.raises(ShardError, match="truncated"):
        read(shard)


@pytest.mark.parametrize(
    "option",
    ["size=0", "threshold=-1", "box_px=0", "deblend_levels=9999", "mask=no.fits", "seize=3"],
)
def test_bad_options_are_refused_before_anything_is_read(tmp_path, option):
    path = write(tmp_path / "a.fits", make_field())
    with pytest.raises(ConfigError):
        surveys.list_shards(f"{path}?format=fields&{option}")


def test_a_picture_is_a_field_on_request(tmp_path):
    grey = np.clip(make_field(flux=2e4) - 480, 0, 255).astype(np.uint8)
    Image.fromarray(np.stack([grey] * 3, axis=-1)).save(tmp_path / "sky.png")
    cutouts = read_field(str(tmp_path / "sky.png"))
    assert (cutouts.bands, cutouts.pixels) == (("R", "G", "B"), "display")
    assert np.nanmax(cutouts.image_BCYX) <= 1
    np.testing.assert_allclose(places(cutouts), sorted(STARS, key=lambda star: star[1]), atol=0.2)


def test_a_broken_picture_is_refused(tmp_path):
    (tmp_path / "sky.jpg").write_bytes(b"\xff\xd8 no picture")
    (shard,) = list_fields(str(tmp_path / "sky.jpg"))
    with pytest.raises(ShardError, match=r"sky\.jpg"):
        read(shard)


def test_the_hubble_deep_field_holds_what_its_documentation_says():
    (shard,) = surveys.list_shards("hdf").shards
    cutouts = read(shard)
    assert (shard.name, shard.inputs) == ("hdf", ())
    assert 1_500 < len(cutouts.row_B) < 2_500
    assert len(set(cutouts.object_id_B)) == len(cutouts.row_B)
    assert (cutouts.bands, cutouts.pixels, cutouts.field) == (("R", "G", "B"), "display", "hdf")
    # the brightest star, the large elliptical and the edge-on spiral in the middle of the picture
    found = np.array(places(cutouts))
    for place in [(753, 578), (727, 474), (580, 406)]:
        assert np.hypot(*(found - place).T).min() < 3, place


def test_detections_agree_with_source_extractor_on_its_test_image(real_data):
    folder = real_data / "restoration/fits_fields"
    catalog = np.loadtxt(folder / "sep_sextractor.cat")[:, 1:3] - 1  # it counts pixels from 1
    uri = f"{folder}/sep_image.fits?format=fields&deblend_contrast=1"  # as its settings have it
    (shard,) = surveys.list_shards(uri).shards
    found = np.array(places(read(shard)))
    apart_px = np.linalg.norm(catalog[:, None] - found[None], axis=-1)
    assert (apart_px.min(axis=1) < 1).mean() > 0.98  # of the catalog is found
    assert (apart_px.min(axis=0) < 1).mean() > 0.95  # of what is found is in the catalog
