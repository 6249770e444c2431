"""Wide images with a file a band are one image, or a clear reject."""

import dataclasses

import numpy as np
import pytest
from astropy.io import fits

from astroray import surveys
from astroray.errors import ShardError
from astroray.schema import Flag
from tests.tiles_made import draw, make_sky, tile_header, write_sky, write_tile

CENTER = (150.0, 2.0)
OPTIONS = "format=fields&threshold=10&size=16"


def make_stars(side_px=100):
    header = tile_header(*CENTER, side_px=side_px)
    _, ra_N, dec_N = make_sky(6)
    ra_N = 150.0 + (ra_N - 150.0) / 2.5  # well within
    return header, ra_N, dec_N


def read_all(survey):
    return [
        item for shard in surveys.list_shards(survey).shards for item in surveys.read_shard(shard)
    ]


@pytest.mark.parametrize(
    "name", ["DES01_{}.fits", "{}-DES01.fits", "{}/DES01.fits", "calexp-{}-98,1.fits"]
)
def test_the_files_of_the_bands_of_a_tile_are_one_image(tmp_path, name):
    header, ra_N, dec_N = make_stars()
    for place, band in enumerate("gri"):
        path = tmp_path / name.format(band)
        path.parent.mkdir(exist_ok=True)
        image_YX = draw(header, ra_N, dec_N, np.full(6, 100.0 + 100 * place))
        fits.PrimaryHDU(image_YX, header).writeto(path)
    (rows,) = read_all(f"{tmp_path}?{OPTIONS}&bands=g,r,i")
    (shard,) = surveys.list_shards(f"{tmp_path}?{OPTIONS}&bands=g,r,i").shards
    assert not shard.has_files_of_rows
    assert shard.files_of(0) == shard.files_of(1) == shard.inputs
    assert rows.bands == ("g", "r", "i")
    assert rows.image_BCYX.shape == (6, 3, 16, 16)
    ratio = rows.image_BCYX.max(axis=(2, 3)) / rows.image_BCYX[:, :1].max(axis=(2, 3))
    np.testing.assert_allclose(ratio, np.broadcast_to([1, 2, 3], (6, 3)), rtol=0.05)
    assert rows.field in ("DES01", "calexp-98,1")
    np.testing.assert_allclose(rows.dec_deg_B, np.sort(dec_N), atol=0.2 * 1e-4)


def test_detection_is_in_the_band_that_is_named(tmp_path):
    header, ra_N, dec_N = make_stars()
    for band, shown in (("g", slice(0, 2)), ("r", slice(2, 6))):
        image_YX = draw(header, ra_N[shown], dec_N[shown], np.full(len(ra_N[shown]), 100.0))
        write_tile(tmp_path / "tiles", "t", band, image_YX, header)
    survey = f"{tmp_path}/tiles/*.fits?{OPTIONS}&bands=g,r"
    counts = [
        sum(len(rows.row_B) for rows in read_all(survey + more))
        for more in ("", "&detect_band=g", "&detect_band=r")
    ]
    assert counts == [6, 2, 4]


@pytest.mark.parametrize("packed", [False, True])
def test_masks_and_weights_go_with_their_band(tmp_path, packed):
    header, ra_N, dec_N = make_stars()
    flux = np.full(6, 100.0)
    mask_YX = np.zeros((100, 100), np.int16)
    mask_YX[:, 50:] = 1
    weight_YX = np.ones((100, 100), np.float32)
    weight_YX[:50] = 0
    for band, name, pixels in (("g", "MSK", mask_YX), ("r", "WGT", weight_YX)):
        companion = fits.ImageHDU(pixels, name=name)
        write_tile(
            tmp_path / "tiles", "t", band, draw(header, ra_N, dec_N, flux), header, companion,
            packed=packed,
        )  # fmt: skip
    survey = f"{tmp_path}/tiles/*.fits*?{OPTIONS}&bands=g,r&hdu={1 if packed else 0}"
    (rows,) = read_all(survey)
    missing = np.isnan(rows.image_BCYX).mean(axis=(2, 3))
    assert missing[:, 0].max() == 1.0  # right half of g
    assert missing[:, 1].max() == 1.0  # lower half of r
    assert missing.min() == 0.0


def test_saturation_is_that_of_each_band(tmp_path):
    header, ra_N, dec_N = make_stars()
    for band, level, flux in (("g", 50.0, 40.0), ("r", 300.0, 200.0), ("i", 300.0, 400.0)):
        own = header.copy()
        own["SATURATE"] = level
        write_tile(tmp_path / "tiles", "t", band, draw(header, ra_N, dec_N, [flux] * 6), own)
    for bands, is_full in (("g,r", False), ("r,i", True)):
        (rows,) = read_all(f"{tmp_path}/tiles/*.fits?{OPTIONS}&bands={bands}")
        assert ((rows.flags_B & Flag.SATURATED) != 0).tolist() == [is_full] * 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("shape", r"has an image of shape \(90, 90\), .* one of \(100, 100\)"),
        ("shift", "lies elsewhere on the sky than .* by up to 0.5 px"),
        ("missing", "has no file of band r, expected one of each band"),
        ("planes", r"shape \(2, 100, 100\)"),
        ("truncated", "is truncated"),
    ],
)
def test_bands_that_do_not_belong_together_reject_their_tile_alone(tmp_path, change, message):
    _, ra_N, dec_N = make_stars()
    write_sky(tmp_path / "tiles", ra_N, dec_N)
    path = tmp_path / "tiles" / "east_r.fits"
    image_YX, own = fits.getdata(path), fits.getheader(path)
    path.unlink()
    if change == "shape":
        image_YX = image_YX[:90, :90]
    if change == "shift":
        own["CRPIX1"] += 0.5
    if change == "planes":
        image_YX = np.stack([image_YX] * 2)
    if change != "missing":
        fits.PrimaryHDU(image_YX, own).writeto(path)
    if change == "truncated":
        path.write_bytes(path.read_bytes()[:20_000])
    east, west = surveys.list_shards(f"{tmp_path}/tiles/*.fits?{OPTIONS}&bands=g,r").shards
    with pytest.raises(ShardError, match=message):
        list(surveys.read_shard(east))
    assert sum(len(rows.row_B) for rows in surveys.read_shard(west)) > 1


def test_a_tile_that_lacks_a_band_leaves_its_objects_to_those_that_overlap_it(tmp_path):
    _, ra_N, dec_N = make_stars()
    write_sky(tmp_path / "tiles", ra_N, dec_N)
    lines = [f"{i},{ra},{dec}" for i, (ra, dec) in enumerate(zip(ra_N, dec_N, strict=True))]
    (tmp_path / "c.csv").write_text("\n".join(["id,ra,dec", *lines]))
    survey = f"{tmp_path}/tiles/*.fits?format=fields&size=16&bands=g,r&catalog=../c.csv"
    _, west = surveys.list_shards(survey).shards
    before = sum(len(rows.row_B) for rows in surveys.read_shard(west))
    (tmp_path / "tiles/east_r.fits").unlink()
    east, west = surveys.list_shards(survey).shards
    after = sum(len(rows.row_B) for rows in surveys.read_shard(west))
    assert before < after
    with pytest.raises(ShardError, match="no file of band r"):
        list(surveys.read_shard(east))


def test_a_tile_alone_without_all_its_bands_says_so(tmp_path):
    header, ra_N, dec_N = make_stars()
    write_tile(tmp_path / "tiles", "t", "g", draw(header, ra_N, dec_N, np.full(6, 100.0)), header)
    (shard,) = surveys.list_shards(f"{tmp_path}/tiles/*.fits?{OPTIONS}&bands=g,r").shards
    with pytest.raises(ShardError, match="no file of band r"):
        list(surveys.read_shard(shard))


def test_files_of_other_bands_are_left_out_however_often_a_survey_is_listed(tmp_path):
    _, ra_N, dec_N = make_stars()
    write_sky(tmp_path / "tiles", ra_N, dec_N, bands="gri")
    survey = f"{tmp_path}/tiles/*.fits?{OPTIONS}&bands=g,r"
    listed = surveys.list_shards(survey).shards
    assert [len(shard.inputs) for shard in listed] == [2, 2]
    assert surveys.list_shards(survey, known=listed).shards == listed
    for band in "gr":
        whole = (tmp_path / f"tiles/east_{band}.fits").read_bytes()
        (tmp_path / f"tiles/new_{band}.fits").write_bytes(whole)
    *before, new = surveys.list_shards(survey, known=listed).shards
    assert tuple(before) == listed
    assert [file.path[-10:] for file in new.inputs] == ["new_g.fits", "new_r.fits"]


def test_planes_of_one_file_stay_bands_whatever_its_name(tmp_path):
    header, ra_N, dec_N = make_stars()
    cube = np.stack([draw(header, ra_N, dec_N, np.full(6, flux)) for flux in (100.0, 200.0)])
    (tmp_path / "t").mkdir()
    fits.PrimaryHDU(cube, header).writeto(tmp_path / "t" / "cube_g.fits")
    (rows,) = read_all(f"{tmp_path}/t/*.fits?{OPTIONS}&bands=g,r")
    assert rows.image_BCYX.shape == (6, 2, 16, 16)


def test_the_name_of_a_survey_without_a_catalog_is_what_it_was(tmp_path):
    header, ra_N, dec_N = make_stars()
    write_tile(tmp_path / "tiles", "t", "g", draw(header, ra_N, dec_N, np.full(6, 100.0)), header)
    (shard,) = surveys.list_shards(f"{tmp_path}/tiles/*.fits?{OPTIONS}").shards
    assert {"catalog", "id", "ra", "dec", "angles", "members"}.isdisjoint(shard.params)
    assert dataclasses.asdict(shard)["params"]["index"] == "0"
