"""Files of one object with an HDU a band, and masks that name what they mask or their planes."""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from astroray import surveys
from astroray.errors import ConfigError
from astroray.surveys.fits_files import open_fits
from astroray.surveys.shards import Cutouts

SIDE = 12
FLUX_CYX = np.random.default_rng(3).normal(5, 2, (3, SIDE, SIDE)).astype(np.float32)


def cards(ra_deg: float, band: str = "") -> fits.Header:
    header = fits.Header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
    header["CRVAL1"], header["CRVAL2"] = ra_deg, 2.0
    header["CRPIX1"] = header["CRPIX2"] = (SIDE + 1) / 2
    header["CDELT1"], header["CDELT2"] = -1e-4, 1e-4
    if band:
        header["FILTER"] = band
    return header


def write_object(
    path: Path, *more: fits.ImageHDU, ra_deg: float = 30.0, bands: str = "gri"
) -> None:
    images = [
        fits.ImageHDU(flux_YX, cards(ra_deg, band.strip()), name=f"SCI_{place}")
        for flux_YX, band, place in zip(FLUX_CYX, bands, "GRI", strict=True)
    ]
    fits.HDUList([fits.PrimaryHDU(), *images, *more]).writeto(path)


def read(survey: str | Path) -> list[Cutouts]:
    rows = [
        row
        for shard in surveys.list_shards(str(survey)).shards
        for row in surveys.read_shard(shard)
    ]
    assert all(isinstance(row, Cutouts) for row in rows)
    return rows


@pytest.mark.parametrize("bands", ["gri", "   "], ids=["named bands", "one place"])
def test_images_of_one_place_in_a_file_are_the_bands_of_one_object(tmp_path, bands):
    for i in range(2):
        write_object(tmp_path / f"obj{i}.fits", ra_deg=30.0 + i, bands=bands)
    (rows,) = read(tmp_path)
    assert list(rows.object_id_B) == ["obj0", "obj1"]
    assert rows.bands == (("g", "r", "i") if bands == "gri" else ("SCI_G", "SCI_R", "SCI_I"))
    np.testing.assert_allclose(rows.ra_deg_B, [30.0, 31.0])
    np.testing.assert_array_equal(rows.image_BCYX[1], FLUX_CYX)


def test_images_of_one_band_or_of_several_places_are_an_object_each(tmp_path):
    write_object(tmp_path / "epochs.fits", bands="ggg")
    (epochs,) = read(tmp_path / "epochs.fits")
    assert list(epochs.object_id_B) == ["SCI_G", "SCI_R", "SCI_I"]
    stars = [fits.ImageHDU(FLUX_CYX[0], cards(10 + i, "gri"[i]), name=f"S{i}") for i in range(3)]
    fits.HDUList([fits.PrimaryHDU(), *stars]).writeto(tmp_path / "stars.fits")
    found = [name for rows in read(tmp_path / "stars.fits") for name in rows.object_id_B]
    assert found == ["S0", "S1", "S2"]


def test_names_of_hdus_that_recur_in_every_file_stay_apart(tmp_path):
    for name in ("one", "two"):
        write_object(tmp_path / f"{name}.fits", bands="ggg")
    found = {name for rows in read(tmp_path) for name in rows.object_id_B}
    assert found == {f"{name}:SCI_{band}" for name in ("one", "two") for band in "GRI"}


def test_a_mask_with_a_label_belongs_to_the_image_of_that_label(tmp_path):
    mask_YX = np.zeros((SIDE, SIDE), np.uint8)
    mask_YX[4, 5] = 1
    weight_YX = np.ones((SIDE, SIDE), np.float32)
    weight_YX[6, 7] = 0
    write_object(
        tmp_path / "a.fits",
        fits.ImageHDU(mask_YX, name="MASK_R"),
        fits.ImageHDU(weight_YX, name="I_WGT"),
        fits.ImageHDU(weight_YX, name="VAR_G"),
    )
    (rows,) = read(tmp_path / "a.fits")
    assert np.argwhere(np.isnan(rows.image_BCYX[0])).tolist() == [[1, 4, 5], [2, 6, 7]]
    hdus = [fits.ImageHDU(FLUX_CYX[0], cards(i), name=f"VAR_{i}") for i in range(3)]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(tmp_path / "variables.fits")
    (stars,) = read(tmp_path / "variables.fits")
    assert list(stars.object_id_B) == ["VAR_0", "VAR_1", "VAR_2"]


@pytest.mark.parametrize("kind", [fits.ImageHDU, fits.CompImageHDU])
def test_only_planes_of_lost_flux_of_a_mask_with_named_planes_are_missing(tmp_path, kind):
    planes = {"BAD": 0, "SAT": 1, "DETECTED": 5, "NO_DATA": 8, "INJECTED": 25}
    header = fits.Header({f"HIERARCH MP_{name}": bit for name, bit in planes.items()})
    mask_YX = np.full((SIDE, SIDE), 1 << planes["DETECTED"] | 1 << planes["INJECTED"], np.int32)
    mask_YX[1, 2] |= 1  # lost in float32 beside bit 25
    mask_YX[3, 4] |= 1 << planes["NO_DATA"]
    fits.HDUList(
        [
            fits.PrimaryHDU(),
            fits.ImageHDU(FLUX_CYX[0], name="IMAGE"),
            kind(mask_YX, header, name="MASK"),
            fits.ImageHDU(FLUX_CYX[1], name="VARIANCE"),
        ]
    ).writeto(tmp_path / "calexp.fits")
    with open_fits(str(tmp_path / "calexp.fits")) as file:
        (image,) = file.sciences()
        assert np.argwhere(file.read_bad(image)).tolist() == [[1, 2], [3, 4]]


PATTERNS = ["{}_{}.fits", "{1}-{0}.fits", "sub/{}.{}.fits", "{1}/{0}.fits"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_files_of_a_band_each_are_one_object_by_their_names(tmp_path, pattern):
    for i in range(3):
        for band, flux_YX in zip("gri", FLUX_CYX, strict=True):
            path = tmp_path / pattern.format(f"J{i}", band)
            path.parent.mkdir(exist_ok=True)
            fits.writeto(path, flux_YX + i, cards(30.0 + i))
    (rows,) = read(f"{tmp_path}?bands=g,r,i")
    below = "sub/" if "sub" in pattern else ""
    assert list(rows.object_id_B) == [f"{below}J{i}" for i in range(3)]
    assert rows.bands == ("g", "r", "i")
    np.testing.assert_allclose(rows.ra_deg_B, [30.0, 31.0, 32.0])
    np.testing.assert_allclose(rows.image_BCYX[2], FLUX_CYX + 2)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [("{}-cutout-{}-9813-pdr3.fits", ["HSC-G", "HSC-R", "HSC-I"]), ("{1}/{0}.fits", ["g", "r"])],
)
def test_files_of_a_band_each_are_not_taken_for_objects_where_no_bands_are_named(
    tmp_path, pattern, names
):
    for i, band in itertools.product(range(2), names):
        path = tmp_path / pattern.format(i, band)
        path.parent.mkdir(exist_ok=True)
        fits.writeto(path, FLUX_CYX[0])
    bands = ",".join(names)
    with pytest.raises(ConfigError, match=f"differ in the band alone .* say bands={bands} to"):
        surveys.list_shards(f"{tmp_path}/**")
    (rows,) = read(f"{tmp_path}/**?bands={bands}")
    assert rows.image_BCYX.shape[:2] == (2, len(names))
    (each,) = read(f"{tmp_path}/**?layout=stamp")
    assert len(each.object_id_B) == 2 * len(names)


def test_names_that_end_in_a_letter_are_no_bands(tmp_path):
    write_bands(tmp_path, "ngc_a", "ngc_g", "m31_r", "m33_r", "m51-i")
    assert len(surveys.list_shards(str(tmp_path)).shards) == 1


def write_bands(folder: Path, *names: str, side: int = SIDE) -> None:
    for name in names:
        fits.writeto(folder / f"{name}.fits", np.full((side, side), 2.0, np.float32))


@pytest.mark.parametrize("suffix", [".fits", ""])
def test_a_manifest_with_a_row_for_each_file_of_a_band_names_its_object(tmp_path, suffix):
    rows = ["object_id,ra,dec,filter,filename"]
    for ra_deg in (11, 10):
        for flux_YX, band in zip(FLUX_CYX, "GRI", strict=True):
            name = f"{ra_deg}-cutout-HSC-{band}-9813-pdr3"
            fits.writeto(tmp_path / f"{name}.fits", flux_YX)
            rows.append(f"id{ra_deg},{ra_deg},2,HSC-{band},{name}{suffix}")
    (tmp_path / "manifest.csv").write_text("\n".join(rows))
    (found,) = read(f"{tmp_path}?bands=HSC-G,HSC-R,HSC-I&table=manifest.csv")
    assert list(found.object_id_B) == ["id10", "id11"]
    assert found.ra_deg_B.tolist() == [10, 11]
    np.testing.assert_array_equal(found.image_BCYX[0], FLUX_CYX)


def test_an_object_that_lacks_a_band_or_has_one_of_another_shape_is_a_reject(tmp_path):
    write_bands(tmp_path, "1_g", "1_r", "2_g", "3_g", "3_z")
    write_bands(tmp_path, "3_r", side=SIDE + 1)
    (tmp_path / "t.csv").write_text("id,ra,dec\n1,10,1\n2,20,2\n3,30,3\n")
    (shard,) = surveys.list_shards(f"{tmp_path}?bands=g,r&table=t.csv").shards
    one, two, three = surveys.read_shard(shard)
    assert (list(one.object_id_B), one.ra_deg_B.tolist()) == (["1"], [10.0])
    assert (two.row, two.kind) == (1, "missing")
    assert "2_g.fits has no file of band r" in two.reason
    assert (three.row, three.kind) == (2, "shape")
    assert [row.row for row in surveys.read_shard(shard, rows=[1])] == [1]


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["1_g", "1_r", "g_1"], "bands=g,r", "are both band g of one object"),
        (
            ["1_g", "1_r"],
            "layout=band&bands=g,z",
            "is of band z, expected names such as 123_z.fits",
        ),
        (["1_g", "1_r"], "layout=band", "layout=band needs bands=g,r,i"),
        (["1_g", "1_r"], "layout=band&bands=g,r&shard_files=0", "shard_files is 0"),
    ],
)
def test_files_whose_bands_are_unclear_are_refused(tmp_path, names, options, message):
    write_bands(tmp_path, *names)
    with pytest.raises(ConfigError, match=message):
        surveys.list_shards(f"{tmp_path}?{options}")


def test_shards_of_band_files_are_bounded_and_survive_json(tmp_path):
    write_bands(tmp_path, *(f"{i}_{band}" for i in range(7) for band in "gr"))
    shards = surveys.list_shards(f"{tmp_path}?bands=g,r&shard_files=6").shards
    assert [shard.num_rows for shard in shards] == [3, 3, 1]
    stored = dataclasses.replace(shards[0], params=json.loads(json.dumps(shards[0].params)))
    (rows,) = surveys.read_shard(stored, rows=[2])
    assert list(rows.object_id_B) == ["2"]


def test_stamps_of_other_bands_are_left_out_however_often_a_survey_is_listed(tmp_path):
    for name in ("1", "2"):
        for band, flux_YX in zip("gri", FLUX_CYX, strict=True):
            fits.PrimaryHDU(flux_YX).writeto(tmp_path / f"{name}_{band}.fits")
    survey = f"{tmp_path}/*.fits?bands=g,r"
    listed = surveys.list_shards(survey).shards
    assert surveys.list_shards(survey, known=listed).shards == listed
    fits.PrimaryHDU(FLUX_CYX[0]).writeto(tmp_path / "3_g.fits")
    *_, late = surveys.list_shards(survey, known=listed).shards
    (reject,) = surveys.read_shard(late)
    assert reject.kind == "missing"
