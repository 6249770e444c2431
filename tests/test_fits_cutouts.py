"""Cutouts in FITS files, however a survey keeps them, become the same rows."""

import dataclasses
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from astroray import surveys
from astroray.errors import ConfigError, ShardError
from astroray.surveys import celestial, fits_cutouts
from astroray.surveys.shards import Cutouts, Reject, Shard
from benchmarks.bad_uploads import curve_bytes

N, C, Y, X = 25, 3, 12, 14


def make_cube(num_bands: int = C) -> np.ndarray:
    shape = (N, num_bands, Y, X)
    return np.random.default_rng(7).normal(5, 2, shape).astype(np.float32)


def make_table(**columns: np.ndarray) -> fits.BinTableHDU:
    kinds = {"U": "20A", "i": "K", "f": "D"}
    return fits.BinTableHDU.from_columns(
        [
            fits.Column(name=name, format=kinds[values.dtype.kind], array=values)
            for name, values in columns.items()
        ]
    )


def known_objects() -> dict[str, np.ndarray]:
    return {
        "ID": np.array([f"J{i:03d}" for i in range(N)]),
        "RA": np.linspace(10, 20, N),
        "DEC": np.linspace(-5, 5, N),
    }


def write(path: Path, *hdus: fits.hdu.base.ExtensionHDU) -> str:
    fits.HDUList(list(hdus)).writeto(path)
    return str(path)


def test_a_folder_of_two_kinds_is_refused_by_an_example_of_each(tmp_path):
    for name in ("a", "b", "d"):
        write(tmp_path / f"{name}.fits", fits.PrimaryHDU(make_cube()[0, 0]))
    (tmp_path / "broken.fits").write_bytes(b"nothing")
    list_all(str(tmp_path))
    (tmp_path / "c.fits").write_bytes(curve_bytes(np.arange(900) / 720, np.ones(900)))
    message = (
        r"objects such as .*/a\.fits \(14 x 12 px\) and light curves .*/c\.fits.*rejects the others"
    )
    with pytest.raises(ConfigError, match=message):
        list_all(str(tmp_path))
    (shard,) = list_all(f"{tmp_path}?format=fits_cutouts")
    assert len(read(shard)[1]) == 2


@pytest.mark.parametrize("first", ["stamp", "field"])
def test_stamps_beside_wide_fields_are_refused_whichever_comes_first(tmp_path, first):
    field = np.zeros((520, 530), np.float32)
    pixels = {"stamp": make_cube()[0, 0], "field": field}
    for name, kind in zip("ab", sorted(pixels, key=lambda kind: kind != first), strict=True):
        write(tmp_path / f"{name}.fits", fits.PrimaryHDU(pixels[kind]))
    with pytest.raises(ConfigError, match=r"wide fields \(above 512 px\) such as") as refused:
        list_all(str(tmp_path))
    assert "(530 x 520 px)" in str(refused.value)
    for format in ("fits_cutouts", "fields"):
        assert f"say '{tmp_path}?format={format}'" in str(refused.value).replace("or '", "say '")
        assert len(list_all(f"{tmp_path}?format={format}"))


def test_a_listing_opens_a_file_once_and_not_all_of_them(tmp_path, monkeypatch):
    for number in range(40):
        write(tmp_path / f"{number:02d}.fits", fits.PrimaryHDU(make_cube()[0, 0]))
    opened: list[str] = []
    open_fits = fits_cutouts.open_fits
    monkeypatch.setattr(
        fits_cutouts, "open_fits", lambda path: opened.append(Path(path).stem) or open_fits(path)
    )
    list_all(str(tmp_path))
    assert len(opened) == len(set(opened)) == 12
    assert {opened[0], opened[-1]} == {"00", "39"}
    opened.clear()
    list_all(f"{tmp_path}?format=fits_cutouts")
    assert opened == ["00"]


def list_all(survey: str) -> tuple[Shard, ...]:
    return surveys.list_shards(survey).shards


def read(shard: Shard, rows: list[int] | None = None) -> tuple[list[Cutouts], list[Reject]]:
    items = list(surveys.read_shard(shard, rows=rows))
    read_rows = [
        row for item in items for row in (item.row_B if isinstance(item, Cutouts) else [item.row])
    ]
    assert read_rows == sorted(read_rows)
    return (
        [item for item in items if isinstance(item, Cutouts)],
        [item for item in items if isinstance(item, Reject)],
    )


def joined(survey: str) -> Cutouts:
    """All rows of a survey of one shape that has no rejects."""
    slices = []
    for shard in list_all(survey):
        found, rejects = read(shard)
        assert not rejects
        slices += found
    parts = {
        name: np.concatenate([np.asarray(getattr(item, name)) for item in slices])
        for name in ("row_B", "object_id_B", "ra_deg_B", "dec_deg_B", "image_BCYX", "flags_B")
    }
    return dataclasses.replace(slices[0], **parts)


def tangent_cards(ra_deg: float, dec_deg: float) -> fits.Header:
    header = fits.Header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
    header["CRVAL1"], header["CRVAL2"] = ra_deg, dec_deg
    header["CRPIX1"], header["CRPIX2"] = (X + 1) / 2, (Y + 1) / 2  # the center, counted from 1
    header["CDELT1"], header["CDELT2"] = -1e-4, 1e-4
    header["RADESYS"] = "ICRS"
    return header


def test_a_cube_with_a_table_beside_it_has_the_tables_names_and_positions(tmp_path):
    cube, objects = make_cube(), known_objects()
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(cube), make_table(**objects))
    cutouts = joined(f"{path}?bands=g,r,i")
    np.testing.assert_array_equal(cutouts.image_BCYX, cube)
    assert list(cutouts.object_id_B) == objects["ID"].tolist()
    np.testing.assert_array_equal(cutouts.ra_deg_B, objects["RA"])
    np.testing.assert_array_equal(cutouts.dec_deg_B, objects["DEC"])
    assert (cutouts.bands, cutouts.pixels) == (("g", "r", "i"), "flux")
    assert cutouts.image_BCYX.dtype == np.float32


def test_a_large_cube_is_cut_into_ranges_of_rows(tmp_path):
    cube, objects = make_cube(), known_objects()
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(cube), make_table(**objects))
    shards = list_all(f"{path}?shard_rows=10")
    assert [shard.num_rows for shard in shards] == [10, 10, 5]
    assert len({shard.name for shard in shards}) == 3
    (last,), _ = read(shards[2])
    assert last.row_B.tolist() == [0, 1, 2, 3, 4]
    assert list(last.object_id_B) == objects["ID"][20:].tolist()
    np.testing.assert_array_equal(last.image_BCYX, cube[20:])
    (some,), _ = read(shards[1], rows=[7, 2])
    assert some.row_B.tolist() == [2, 7]
    assert list(some.object_id_B) == ["J012", "J017"]
    np.testing.assert_array_equal(some.image_BCYX, cube[[12, 17]])


def test_an_outside_table_names_the_rows_of_a_cube(tmp_path):
    cube = make_cube(1)[:, 0]
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(cube))
    lines = ["name,ra,dec", *(f"obj{i},{i}.5,{-i}.25" for i in range(N))]
    (tmp_path / "table.csv").write_text("\n".join(lines))
    cutouts = joined(f"{path}?table=table.csv&shard_rows=10")
    assert list(cutouts.object_id_B) == [f"obj{i}" for i in range(N)]
    np.testing.assert_array_equal(cutouts.ra_deg_B, np.arange(N) + 0.5)
    np.testing.assert_array_equal(cutouts.image_BCYX[:, 0], cube)


def test_a_table_of_another_length_is_refused(tmp_path):
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(make_cube()))
    (tmp_path / "table.csv").write_text("name\na\nb\n")
    with pytest.raises(ConfigError, match="2 rows"):
        list_all(f"{path}?table=table.csv")


def test_a_cube_without_a_table_has_shard_and_row_as_names(tmp_path):
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(make_cube()))
    (shard,) = list_all(path)
    (cutouts,), _ = read(shard)
    assert list(cutouts.object_id_B) == [f"{shard.name}:{i}" for i in range(N)]
    assert np.isnan(cutouts.ra_deg_B).all()


@pytest.mark.parametrize("packing", ["gz", "rice"])
def test_a_packed_cube_equals_the_plain_one(tmp_path, packing):
    cube = np.round(make_cube(1)[:, 0] * 100).astype(np.int16)
    if packing == "gz":
        plain = Path(write(tmp_path / "a.fits", fits.PrimaryHDU(cube)))
        (tmp_path / "b.fits.gz").write_bytes(gzip.compress(plain.read_bytes()))
        survey = f"{tmp_path / 'b.fits.gz'}?shard_rows=10"
    else:
        hdu = fits.CompImageHDU(cube, compression_type="RICE_1")
        survey = f"{write(tmp_path / 'b.fits.fz', fits.PrimaryHDU(), hdu)}?shard_rows=10"
    np.testing.assert_array_equal(joined(survey).image_BCYX[:, 0], cube)


def test_masks_and_weights_of_the_same_shape_make_pixels_missing(tmp_path):
    cube = make_cube()
    mask, ivar = np.zeros(cube.shape, np.uint8), np.ones(cube.shape, np.float32)
    mask[3, 1, 2, 4], ivar[20, 0, 5, 6], ivar[21, 0, 5, 6] = 1, 0, -1
    path = write(
        tmp_path / "a.fits",
        fits.PrimaryHDU(cube), fits.ImageHDU(mask, name="MASK"), fits.ImageHDU(ivar, name="IVAR"),
    )  # fmt: skip
    missing = np.argwhere(np.isnan(joined(f"{path}?shard_rows=10").image_BCYX))
    assert missing.tolist() == [[3, 1, 2, 4], [20, 0, 5, 6], [21, 0, 5, 6]]


def test_stamps_of_one_file_have_the_names_and_places_of_their_hdus(tmp_path):
    cube = make_cube()
    hdus = [
        fits.ImageHDU(cube[i], header=tangent_cards(30 + i, -i), name=f"G{i}") for i in range(N)
    ]
    (shard,) = list_all(write(tmp_path / "a.fits", fits.PrimaryHDU(), *hdus))
    (cutouts,), rejects = read(shard)
    assert not rejects
    assert list(cutouts.object_id_B) == [f"G{i}" for i in range(N)]
    np.testing.assert_array_equal(cutouts.image_BCYX, cube)
    np.testing.assert_allclose(cutouts.ra_deg_B, 30.0 + np.arange(N), atol=1e-8)
    np.testing.assert_allclose(cutouts.dec_deg_B, -1.0 * np.arange(N), atol=1e-8)
    (some,), _ = read(shard, rows=[4])
    assert (some.row_B.tolist(), list(some.object_id_B)) == ([4], ["G4"])


def test_stamps_whose_names_do_not_tell_them_apart_are_named_by_object_or_row(tmp_path):
    for key, expected in {"OBJECT": "star7", "NOTHING": None}.items():
        hdus = [fits.ImageHDU(make_cube()[i], name="SCI", ver=i + 1) for i in range(N)]
        for i, hdu in enumerate(hdus):
            hdu.header[key[:8]] = f"star{i}"
        (shard,) = list_all(write(tmp_path / f"{key}.fits", fits.PrimaryHDU(), *hdus))
        (cutouts,), _ = read(shard)
        assert cutouts.object_id_B[7] == (expected or f"{shard.name}:7")


def test_stamps_of_several_shapes_come_in_order_and_in_slices_of_one_shape(tmp_path):
    sizes = [8, 8, 9, 8]
    hdus = [fits.ImageHDU(np.full((s, s), i, "f4")) for i, s in enumerate(sizes)]
    (shard,) = list_all(write(tmp_path / "a.fits", fits.PrimaryHDU(), *hdus))
    slices, _ = read(shard)
    assert [item.row_B.tolist() for item in slices] == [[0, 1], [2], [3]]
    assert [item.image_BCYX.shape[-1] for item in slices] == [8, 9, 8]


def write_stamps(folder: Path) -> np.ndarray:
    images = make_cube()[:6]
    for i, image in enumerate(images):
        header = tangent_cards(40 + i, 3.0)
        header["FILTER"] = "g,r,i"
        write(folder / f"s{i}.fits", fits.PrimaryHDU(image, header=header))
    return images


def test_one_stamp_a_file_is_grouped_and_named_by_its_file(tmp_path):
    images = write_stamps(tmp_path)
    shards = list_all(f"{tmp_path}?shard_files=4")
    assert [shard.num_rows for shard in shards] == [4, 2]
    cutouts = joined(f"{tmp_path}?shard_files=4")
    assert list(cutouts.object_id_B) == [f"s{i}" for i in range(6)]
    assert cutouts.bands == ("g", "r", "i")
    np.testing.assert_array_equal(cutouts.image_BCYX, images)
    np.testing.assert_allclose(cutouts.ra_deg_B, 40.0 + np.arange(6), atol=1e-8)


def test_a_header_without_celestial_axes_costs_no_coordinate_system(tmp_path, monkeypatch):
    """It took as long as to read the cutout: a third of the time of a survey of files a band."""
    write(tmp_path / "plain.fits", fits.PrimaryHDU(make_cube()[0]))

    def build(*_arguments, **_options):
        raise AssertionError("a coordinate system is built for a header that has none")

    monkeypatch.setattr(celestial, "WCS", build)
    assert np.isnan(joined(str(tmp_path / "plain.fits")).ra_deg_B).all()


def test_positions_of_a_table_go_before_those_of_headers(tmp_path):
    write_stamps(tmp_path)
    (tmp_path / "t.csv").write_text("file,id,ra,dec\ns0.fits,zero,1.5,2.5\ns2.fits,two,3.5,4.5\n")
    cutouts = joined(f"{tmp_path}/*.fits?table=t.csv")
    assert list(cutouts.object_id_B) == ["zero", "s1", "two", "s3", "s4", "s5"]
    np.testing.assert_allclose(cutouts.ra_deg_B, [1.5, 41, 3.5, 43, 44, 45], atol=1e-8)


def test_bad_files_are_rejected_one_by_one_and_the_rest_is_read(tmp_path):
    images = write_stamps(tmp_path)
    broken = tmp_path / "s1.fits"
    broken.write_bytes(broken.read_bytes()[:3000])
    (tmp_path / "s3.fits").write_bytes(b"")
    (shard,) = list_all(str(tmp_path))
    (tmp_path / "s4.fits").unlink()
    slices, rejects = read(shard)
    assert [(item.row, item.stage, item.kind) for item in rejects] == [
        (1, "read", "corrupt"), (3, "read", "corrupt"), (4, "read", "missing"),
    ]  # fmt: skip
    assert "truncated" in rejects[0].reason
    assert [item.row_B.tolist() for item in slices] == [[0], [2], [5]]
    np.testing.assert_array_equal(slices[1].image_BCYX[0], images[2])


def test_a_bad_first_file_does_not_hide_what_the_survey_is(tmp_path):
    write_stamps(tmp_path)
    (tmp_path / "a.fits").write_bytes(b"no FITS")
    (shard,) = list_all(str(tmp_path))
    slices, rejects = read(shard)
    assert [reject.row for reject in rejects] == [0]
    assert sum(len(item.row_B) for item in slices) == 6


def test_leading_axes_of_length_one_are_dropped(tmp_path):
    write(tmp_path / "a.fits", fits.PrimaryHDU(np.ones((1, 1, Y, X), np.float32)))
    cutouts = joined(str(tmp_path))
    assert cutouts.image_BCYX.shape == (1, 1, Y, X)
    assert cutouts.bands == ("b0",)


def test_blank_pixels_are_missing(tmp_path):
    hdu = fits.PrimaryHDU(np.full((Y, X), 3, np.int16))
    hdu.data[2, 5] = -32768
    hdu.header["BLANK"] = -32768
    write(tmp_path / "a.fits", hdu)
    missing = np.argwhere(np.isnan(joined(str(tmp_path)).image_BCYX))
    assert missing.tolist() == [[0, 0, 2, 5]]


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        ((512, 30), "stamp"),
        ((513, 30), "fields"),
        ((6, 20, 20), "stamp"),
        ((7, 20, 20), "cube"),
        ((2, 3, 20, 20), "cube"),
    ],
    ids=str,
)
def test_what_a_survey_is_follows_from_the_size_of_its_first_image(tmp_path, shape, found):
    (shard,) = list_all(write(tmp_path / "a.fits", fits.PrimaryHDU(np.zeros(shape, np.uint8))))
    assert (shard.params["layout"] if shard.reader == "fits_cutouts" else shard.reader) == found


@pytest.mark.parametrize(
    ("shapes", "num_rows", "found"),
    [
        (((7, 600, 30),), 7, "cube"),  # a table of as many rows says that planes are objects
        (((7, 600, 30),), 8, "fields"),
        (((6, 600, 30),), 6, "fields"),
        (((600, 30), (20, 30)), 2, "mef"),
        (((600, 30), (600, 20)), 2, "fields"),
    ],
    ids=str,
)
def test_what_a_survey_is_follows_from_all_images_and_the_length_of_a_table(
    tmp_path, shapes, num_rows, found
):
    images = [fits.ImageHDU(np.zeros(shape, np.uint8)) for shape in shapes]
    rows = {name: values[:num_rows] for name, values in known_objects().items()}
    for shard in list_all(
        write(tmp_path / "a.fits", fits.PrimaryHDU(), *images, make_table(**rows))
    ):
        assert (shard.params["layout"] if shard.reader == "fits_cutouts" else shard.reader) == found


def test_a_packed_cube_is_one_shard_and_so_is_a_file_of_stamps_whatever_the_rows_of_a_shard(
    tmp_path,
):
    plain = Path(write(tmp_path / "a.fits", fits.PrimaryHDU(make_cube())))
    (tmp_path / "b.fits.gz").write_bytes(gzip.compress(plain.read_bytes()))
    assert [shard.num_rows for shard in list_all(f"{plain}?shard_rows=24")] == [24, 1]
    assert [s.num_rows for s in list_all(f"{tmp_path / 'b.fits.gz'}?shard_rows=10")] == [None]
    stamps = [fits.ImageHDU(image) for image in make_cube(1)[:, 0]]
    path = write(tmp_path / "c.fits", fits.PrimaryHDU(), *stamps)
    assert [shard.num_rows for shard in list_all(f"{path}?layout=mef&shard_rows=1")] == [None]


@pytest.mark.parametrize(
    ("limit", "sizes"),
    [
        ({"_SLICE_ROWS": 10}, [10, 10, 5]),
        ({"_SLICE_BYTES": 8 * C * Y * X * 4}, [8, 8, 8, 1]),
        ({"_SLICE_BYTES": 8 * C * Y * X * 4 - 1}, [7, 7, 7, 4]),
    ],
)
def test_slices_have_at_most_so_many_rows_and_bytes(tmp_path, monkeypatch, limit, sizes):
    for name, value in limit.items():
        monkeypatch.setattr(fits_cutouts, name, value)
    (shard,) = list_all(write(tmp_path / "a.fits", fits.PrimaryHDU(make_cube())))
    slices, _ = read(shard)
    assert [len(some.row_B) for some in slices] == sizes
    np.testing.assert_array_equal(np.concatenate([s.image_BCYX for s in slices]), make_cube())


def test_a_table_for_the_rows_of_two_files_is_refused(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / f"{name}.fits", fits.PrimaryHDU(make_cube()))
    (tmp_path / "table.csv").write_text("name\n" + "\n".join(f"o{i}" for i in range(N)))
    with pytest.raises(ConfigError, match="goes with the rows of one file, got 2 files"):
        list_all(f"{tmp_path}?table={tmp_path / 'table.csv'}")


def test_large_images_are_handed_to_the_reader_of_fields(tmp_path):
    image_YX = np.random.default_rng(2).normal(0, 1, (40, 600)).astype(np.float32)
    y_YX, x_YX = np.mgrid[:40, :600]
    image_YX += 200 * np.exp(-((x_YX - 300) ** 2 + (y_YX - 20) ** 2) / 8)
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(image_YX))
    (shard,) = list_all(f"{path}?threshold=6&size=16")
    assert shard.reader == "fields"
    (cutouts,), _ = read(shard)
    assert cutouts.image_BCYX.shape == (1, 1, 16, 16)
    (whole,) = list_all(f"{path}?format=fits_cutouts")
    (cutouts,), _ = read(whole)
    assert cutouts.image_BCYX.shape == (1, 1, 40, 600)


def test_options_of_fields_are_refused_for_cutouts_with_advice(tmp_path):
    write_stamps(tmp_path)
    with pytest.raises(ConfigError, match="format=fields"):
        list_all(f"{tmp_path}?threshold=3")


@pytest.mark.parametrize("option", ["layout=sphere", "shard_rows=0", "shard_files=0", "sice=3"])
def test_bad_options_are_refused(tmp_path, option):
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(make_cube()[0]))
    with pytest.raises(ConfigError):
        list_all(f"{path}?{option}")


def test_a_file_of_tables_alone_is_no_survey_of_cutouts(tmp_path):
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(), make_table(**known_objects()))
    with pytest.raises(ConfigError, match="only tables"):
        list_all(path)


def test_a_truncated_cube_is_refused_before_its_first_row(tmp_path):
    path = Path(write(tmp_path / "a.fits", fits.PrimaryHDU(make_cube())))
    shards = list_all(f"{path}?shard_rows=10")
    path.write_bytes(path.read_bytes()[:-6000])
    with pytest.raises(ShardError, match="truncated"):
        next(iter(surveys.read_shard(shards[0])))


def test_the_wrong_number_of_band_names_is_refused(tmp_path):
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(make_cube()))
    (shard,) = list_all(f"{path}?bands=g,r")
    with pytest.raises(ShardError, match="3 bands"):
        read(shard)


def test_shards_survive_json_and_read_the_same(tmp_path):
    write_stamps(tmp_path)
    (shard,) = list_all(str(tmp_path))
    copy = dataclasses.replace(shard, params=json.loads(json.dumps(dict(shard.params))))
    (one,), (other,) = read(shard)[0], read(copy)[0]
    np.testing.assert_array_equal(one.image_BCYX, other.image_BCYX)
    assert list(one.object_id_B) == list(other.object_id_B)


def test_real_radio_cutouts_lie_where_their_names_say(real_data):
    folder = real_data / "galaxies/radio_mirabest"
    for survey, num_rows in ((folder / "fits_original", 2), (folder / "fits", 36)):
        cutouts = joined(str(survey))
        assert cutouts.image_BCYX.shape == (num_rows, 1, 300, 300)
        ra, dec = np.transpose([_place_of_name(name) for name in cutouts.object_id_B])
        np.testing.assert_allclose(cutouts.ra_deg_B, ra, atol=3 / 3600)
        np.testing.assert_allclose(cutouts.dec_deg_B, dec, atol=3 / 3600)


def _place_of_name(name: str) -> tuple[float, float]:
    place = name.split("_")[1]  # 100_244.621+029.983_0.1338_0165.31
    return float(place[:7]), float(place[7:])
