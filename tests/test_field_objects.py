"""Stamps at the positions of a catalog: each once, from the tile in which it lies deepest."""

import dataclasses
import json

import cdshealpix
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.coordinates import Latitude, Longitude, SkyCoord
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.table import Table
from astropy.wcs import WCS

from astroray import runs, surveys
from astroray.errors import ConfigError, LedgerError, ShardError
from astroray.ledger import check_unchanged, objects_folder, read_listing, write_listing
from astroray.schema import Flag
from astroray.surveys.shards import Cutouts
from tests.tiles_made import (
    CENTERS,
    SIDE_PX,
    draw,
    make_sky,
    read_rows,
    tile_header,
    write_sky,
    write_tile,
)

SIZE_PX = 16


def write_catalog(path, ids, ra_N, dec_N, **more):
    table = {"object_id": ids, "ra": ra_N, "dec": dec_N, **more}
    if path.suffix == ".parquet":
        pq.write_table(pa.table(table), path, row_group_size=16)
    elif path.suffix == ".csv":
        rows = zip(*table.values(), strict=True)
        lines = [",".join(table), *(",".join(map(str, row)) for row in rows)]
        path.write_text("\n".join(lines))
    else:
        kind = {".fits": "fits", ".xml": "votable", ".ecsv": "ascii.ecsv"}[path.suffix]
        Table(table).write(path, format=kind)
    return path


@pytest.fixture
def sky(tmp_path):
    """Two tiles in two bands and a catalog of the objects in them."""
    ids, ra_N, dec_N = make_sky(60)
    write_sky(tmp_path / "tiles", ra_N, dec_N)
    write_catalog(tmp_path / "objects.parquet", ids, ra_N, dec_N)
    return tmp_path, ids, ra_N, dec_N


def listed_in(run_dir, survey, known=()):
    """The shards of a survey as a run lists them."""
    folder = objects_folder(str(run_dir))
    return surveys.list_shards(survey, known=known, objects_folder=folder).shards


def survey_of(folder, catalog="../objects.parquet", **options):
    named = {"format": "fields", "bands": "g,r", "size": SIZE_PX, "catalog": catalog, **options}
    return f"{folder}/tiles/*.fits?" + "&".join(f"{key}={value}" for key, value in named.items())


def deepest(ra, dec):
    """The tile in which a position is farthest from the edge, and its pixel, by astropy alone."""
    found = []
    for name in sorted(CENTERS):
        x, y = WCS(tile_header(*CENTERS[name])).all_world2pix(ra, dec, 0)
        depth = min(x + 0.5, SIDE_PX - 0.5 - x, y + 0.5, SIDE_PX - 0.5 - y)
        found.append((float(depth), name, float(x), float(y)))
    return max(found, key=lambda one: one[0])


def test_every_object_is_cut_once_from_the_tile_in_which_it_lies_deepest(sky):
    folder, ids, ra_N, dec_N = sky
    rows, rejects = read_rows(survey_of(folder))
    assert rejects == []
    inside = 0
    for object_id, ra, dec in zip(ids, ra_N, dec_N, strict=True):
        depth, name, x, y = deepest(ra, dec)
        if depth < 0:
            assert object_id not in rows
            continue
        inside += 1
        field, got_ra, got_dec, flags, image_CYX = rows[object_id]
        assert (field, got_ra, got_dec) == (name, ra, dec)
        assert bool(flags & Flag.EDGE) == bool(np.isnan(image_CYX).any())
        for band, stamp_YX in zip("gr", image_CYX, strict=True):
            with fits.open(folder / "tiles" / f"{name}_{band}.fits") as hdus:
                middle = (np.floor(x - SIZE_PX / 2 + 1) + SIZE_PX / 2,
                          np.floor(y - SIZE_PX / 2 + 1) + SIZE_PX / 2)  # fmt: skip
                expected = Cutout2D(
                    hdus[0].data, middle, SIZE_PX, mode="partial", fill_value=np.nan
                )
            np.testing.assert_array_equal(stamp_YX, expected.data)
        if not flags & Flag.EDGE:  # the star is in the middle, twice as bright in r
            np.testing.assert_allclose(image_CYX[1].max() / image_CYX[0].max(), 2, rtol=0.05)
            assert image_CYX[0, 7:9, 7:9].max() > 60, object_id
    assert len(rows) == inside > 50


def test_a_stamp_is_where_the_cutout_of_astropy_is_by_its_position(sky):
    folder, ids, ra_N, dec_N = sky
    rows, _ = read_rows(survey_of(folder, size=15))  # an odd side has a middle pixel
    header = tile_header(*CENTERS["east"])
    with fits.open(folder / "tiles/east_g.fits") as hdus:
        image_YX = hdus[0].data
    own = [i for i, name in enumerate(ids) if name in rows and rows[name][0] == "east"]
    assert len(own) > 10
    for i in own:
        place = SkyCoord(ra_N[i], dec_N[i], unit="deg")
        expected = Cutout2D(image_YX, place, 15, wcs=WCS(header), mode="partial")
        np.testing.assert_array_equal(rows[ids[i]][4][0], expected.data)


def test_objects_off_all_tiles_are_counted_and_those_without_a_position_are_rejects(
    tmp_path, caplog
):
    ids, ra_N, dec_N = make_sky(8)
    ra_N[:4], dec_N[:4] = 150.004, 2.0
    ra_N[4], dec_N[5], ra_N[6] = np.nan, -999.0, 330.0
    ra_N[7], dec_N[7] = 150.02, 2.0  # near, yet outside
    write_sky(tmp_path / "tiles", ra_N[:4], dec_N[:4])
    write_catalog(tmp_path / "objects.parquet", ids, ra_N, dec_N)
    survey = survey_of(tmp_path)
    rows, rejects = read_rows(survey)
    assert sorted(rows) == ids[:4]
    assert [(r.kind, r.row) for r in rejects] == [("position", 0), ("position", 1)]
    assert "object J4 in row 4 of" in rejects[0].reason
    listed = listed_in(tmp_path / "run", survey)
    assert runs.count_outside(str(tmp_path / "run"), listed) == 2
    assert "2 of 8 objects" in caplog.text
    empty = next(shard for shard in listed if shard.params.get("image") == "west")
    assert (empty.num_rows, empty.inputs[2:]) == (0, ())


def test_a_tile_that_comes_later_leaves_the_others_as_they_are(sky):
    folder, ids, _, _ = sky
    west = [folder / "tiles" / f"west_{band}.fits" for band in "gr"]
    for path in west:
        path.rename(folder / path.name)
    known = listed_in(folder / "run", survey_of(folder))
    before, _ = read_rows(survey_of(folder))
    for path in west:
        (folder / path.name).rename(path)
    (first, later) = listed_in(folder / "run", survey_of(folder), known)
    assert first is known[0]
    run_dir = str(folder / "run")
    assert runs.count_outside(run_dir, [first]) == len(ids) - len(before)
    assert runs.count_outside(run_dir, [first, later]) is None  # nobody has counted anew
    again = {name for item in surveys.read_shard(first) for name in item.object_id_B}
    added = {name for item in surveys.read_shard(later) for name in item.object_id_B}
    assert again == set(before)
    both, _ = read_rows(survey_of(folder))
    assert again | added == set(both)  # none is lost; those in both are duplicates of the first
    assert again & added


def test_a_catalog_that_changed_is_noticed_as_a_file_of_the_survey_is(sky):
    folder, ids, ra_N, dec_N = sky
    write_listing(str(folder / "run"), surveys.list_shards(survey_of(folder)).shards)
    known = read_listing(str(folder / "run"))
    assert not surveys.list_shards(survey_of(folder), known=known).changed
    write_catalog(folder / "objects.parquet", ids[1:], ra_N[1:], dec_N[1:])
    changed = surveys.list_shards(survey_of(folder), known=known).changed
    assert len(changed) == 2
    with pytest.raises(LedgerError, match=r"objects\.parquet"):
        check_unchanged(known, changed, {known[0].name})


@pytest.mark.parametrize("suffix", ["csv", "fits", "xml", "ecsv"])
def test_catalogs_of_any_kind_give_the_same(sky, suffix):
    folder, ids, ra_N, dec_N = sky
    write_catalog(folder / f"objects.{suffix}", ids, ra_N, dec_N)
    expected, _ = read_rows(survey_of(folder))
    found, _ = read_rows(survey_of(folder, f"../objects.{suffix}"))
    assert list(found) == list(expected)
    for name, row in found.items():
        np.testing.assert_array_equal(row[4], expected[name][4])


def test_a_hats_catalog_gives_each_tile_the_partitions_that_lie_on_it(sky):
    folder, ids, ra_N, dec_N = sky
    far = {"object_id": ["far"], "RA0": [10.0], "DEC0": [-70.0]}
    near = {"object_id": ids, "RA0": ra_N, "DEC0": dec_N}
    for table in (near, far):
        lon, lat = Longitude(table["RA0"][:1], "deg"), Latitude(table["DEC0"][:1], "deg")
        pixel = int(cdshealpix.lonlat_to_healpix(lon, lat, 1)[0])
        path = folder / f"hats/dataset/Norder=1/Dir=0/Npix={pixel}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(table), path)
    (folder / "hats/hats.properties").write_text(
        f"hats_col_ra=RA0\nhats_col_dec=DEC0\nhats_nrows={len(ids) + 1}\n"
    )
    expected, _ = read_rows(survey_of(folder))
    found, _ = read_rows(survey_of(folder, "../hats"))
    assert list(found) == list(expected)
    listed = listed_in(folder / "run", survey_of(folder, "../hats"))
    assert [len(shard.inputs) for shard in listed] == [3, 3]
    assert runs.count_outside(str(folder / "run"), listed) == len(ids) + 1 - len(expected)


def test_a_shard_survives_the_ledger_and_some_rows_are_the_same_rows(sky):
    folder = sky[0]
    shard = surveys.list_shards(survey_of(folder)).shards[0]
    copy = dataclasses.replace(shard, params=json.loads(json.dumps(dict(shard.params))))
    (whole,) = surveys.read_shard(copy)
    (some,) = surveys.read_shard(copy, rows=[7, 2])
    assert isinstance(some, Cutouts)
    assert some.row_B.tolist() == [2, 7]
    assert list(some.object_id_B) == [whole.object_id_B[2], whole.object_id_B[7]]
    np.testing.assert_array_equal(some.image_BCYX, whole.image_BCYX[[2, 7]])


def test_an_image_is_read_by_strips_that_hold_whole_stamps(sky, monkeypatch):
    folder = sky[0]
    expected, _ = read_rows(survey_of(folder))
    monkeypatch.setattr("astroray.surveys.fields._STRIP_BYTES", 4 * 2 * SIDE_PX * 20)
    found, _ = read_rows(survey_of(folder))
    assert list(found) == list(expected)
    for name, row in found.items():
        np.testing.assert_array_equal(row[4], expected[name][4])


@pytest.mark.parametrize("kind", ["SIP", "TPV"])
@pytest.mark.parametrize("packed", [False, True])
def test_distorted_and_packed_tiles_have_their_objects_in_the_middle(tmp_path, kind, packed):
    ids, ra_N, dec_N = make_sky(30)
    write_sky(tmp_path / "tiles", ra_N, dec_N, kind=kind, packed=packed)
    write_catalog(tmp_path / "objects.parquet", ids, ra_N, dec_N)
    survey = survey_of(tmp_path).replace("*.fits?", "*.fits*?")
    rows, _ = read_rows(survey)
    assert len(rows) > 20
    for row in rows.values():
        if not row[3] & Flag.EDGE:
            assert row[4][0, 7:9, 7:9].max() > 60


def test_a_position_on_the_other_side_of_the_sky_is_on_no_tile(tmp_path):
    ra_N, dec_N = np.array([150.004, 330.004, 150.004]), np.array([2.0, -2.0, 88.0])
    write_sky(tmp_path / "tiles", ra_N[:1], dec_N[:1], kind="SIP")
    write_catalog(tmp_path / "objects.parquet", ["a", "b", "c"], ra_N, dec_N)
    assert sorted(read_rows(survey_of(tmp_path))[0]) == ["a"]


def test_an_object_at_the_same_depth_in_two_tiles_belongs_to_the_first_by_name(tmp_path):
    header = tile_header(150.0, 2.0)
    for name in ("b", "a"):
        write_tile(tmp_path / "tiles", name, "g", draw(header, [], [], []), header)
        write_tile(tmp_path / "tiles", name, "r", draw(header, [], [], []), header)
    write_catalog(tmp_path / "objects.parquet", ["x"], np.array([150.0]), np.array([2.0]))
    assert read_rows(survey_of(tmp_path))[0]["x"][0] == "a"


def test_images_of_one_name_keep_their_objects_apart(tmp_path):
    east, west = (tile_header(*CENTERS[name]) for name in ("east", "west"))
    stars = np.array([150.006, 149.994]), np.array([2.0, 2.0])
    for header, packed in ((east, False), (west, True)):
        for band in "gr":
            image_YX = draw(header, *stars, [100.0, 100.0])
            write_tile(tmp_path / "tiles", f"t_{band}", "x", image_YX, header, packed=packed)
    write_catalog(tmp_path / "objects.parquet", ["e", "w"], *stars)
    survey = survey_of(tmp_path, bands="").replace("*.fits?", "t_g_x.fits*?")
    rows, _ = read_rows(survey)
    assert sorted(rows) == ["e", "w"]
    assert all(row[4][0, 7:9, 7:9].max() > 60 for row in rows.values())


def test_a_folder_of_tables_is_one_catalog(sky):
    folder, ids, ra_N, dec_N = sky
    (folder / "parts").mkdir()
    write_catalog(folder / "parts/a.parquet", ids[:30], ra_N[:30], dec_N[:30])
    write_catalog(folder / "parts/b.csv", ids[30:], ra_N[30:], dec_N[30:])
    expected, _ = read_rows(survey_of(folder))
    for catalog in ("../parts", "../parts/*", "../parts/a.parquet,../parts/b.csv"):
        assert list(read_rows(survey_of(folder, catalog))[0]) == list(expected)


def test_tiles_across_the_meridian_and_at_a_pole_have_their_objects(tmp_path):
    places = [(0.0, 10.0), (359.9999, 10.0), (0.0001, 10.0), (200.0, 89.9999), (20.0, 89.9998)]
    for name, center in (("meridian", (0.0, 10.0)), ("pole", (0.0, 90.0))):
        header = tile_header(*center)
        for band in "gr":
            write_tile(tmp_path / "tiles", name, band, draw(header, [], [], []), header)
    ra_N, dec_N = np.array(places).T
    write_catalog(tmp_path / "objects.parquet", list("abcde"), ra_N, dec_N)
    rows, _ = read_rows(survey_of(tmp_path))
    fields = {name: row[0] for name, row in rows.items()}
    assert fields == dict.fromkeys("abc", "meridian") | dict.fromkeys("de", "pole")


def test_an_image_without_a_place_on_the_sky_is_refused_when_it_is_read(tmp_path):
    write_sky(tmp_path / "tiles", [], [])
    for band in "gr":
        write_tile(tmp_path / "tiles", "bare", band, np.zeros((50, 50), np.float32), None)
    write_catalog(tmp_path / "objects.parquet", ["a"], np.array([150.004]), np.array([2.0]))
    bare = next(s for s in surveys.list_shards(survey_of(tmp_path)).shards if "bare" in s.name)
    with pytest.raises(ShardError, match="no celestial coordinate system"):
        list(surveys.read_shard(bare))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"catalog": "none.parquet"}, "is missing or no table"),
        ({"ra": "x"}, "option ra is 'x'"),
        ({"threshold": "3"}, "option 'threshold' is about sources that are detected"),
        ({"catalog": "", "ra": "x"}, "add catalog="),
        ({"angles": "turns"}, "expected deg or rad"),
        ({"catalog": "../plain.parquet"}, "has no positions"),
        ({"catalog": "../broken.parquet"}, "not a whole Parquet file"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_read(sky, options, message):
    folder = sky[0]
    pq.write_table(pa.table({"id": [1], "mag": [2.0]}), folder / "plain.parquet")
    (folder / "broken.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(ConfigError, match=message):
        surveys.list_shards(survey_of(folder, **options))


def test_objects_without_identifiers_are_called_by_file_and_row(sky):
    folder, _, ra_N, dec_N = sky
    pq.write_table(pa.table({"RAMean": ra_N, "DecMean": dec_N}), folder / "objects.parquet")
    rows, _ = read_rows(survey_of(folder))
    assert all(ra_N[int(name.removeprefix("objects:"))] == row[1] for name, row in rows.items())


def test_sexagesimal_positions_of_parquet_are_read_as_those_of_other_tables(sky):
    folder, ids, ra_N, dec_N = sky
    places = [SkyCoord(ra, dec, unit="deg") for ra, dec in zip(ra_N, dec_N, strict=True)]
    text = {
        "ra": [place.ra.to_string("hourangle", precision=6) for place in places],
        "dec": [place.dec.to_string("deg", precision=6) for place in places],
    }
    expected, _ = read_rows(survey_of(folder))
    pq.write_table(pa.table({"object_id": ids, **text}), folder / "text.parquet")
    for options in ({}, {"ra": "ra", "dec": "dec"}):
        found, _ = read_rows(survey_of(folder, "../text.parquet", **options))
        assert set(found) == set(expected)


def test_a_damaged_count_of_objects_off_all_tiles_is_named(sky):
    folder = sky[0]
    listed = listed_in(folder / "run", survey_of(folder))
    path = folder / "run/ledger/objects/outside.json"
    path.write_bytes(path.read_bytes()[:9])
    with pytest.raises(LedgerError, match=r"outside\.json is damaged"):
        runs.count_outside(str(folder / "run"), listed)
