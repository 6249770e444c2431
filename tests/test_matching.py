"""A table of the user's beside the objects of a run, by identifier or by position."""

import numpy as np
import pandas
import pytest
from astropy.table import Table

from astroray.catalog.matching import join_table
from astroray.catalog.source_files import source_files
from astroray.errors import ConfigError
from astroray.ledger import write_listing
from astroray.storage import InputFile
from astroray.surveys.object_tables import TableOptions
from astroray.surveys.shards import Shard

BIG = 2**60 + 1  # no float has it
OBJECTS = pandas.DataFrame(
    {
        "object_id": [str(BIG + 2), "sub/J1", str(BIG)],
        "ra": [10.0, np.nan, 30.0],
        "dec": [1.0, np.nan, 3.0],
        "rank": [1, 2, 3],
    }
)
OWN = pandas.DataFrame(
    {
        "source_id": [BIG, BIG + 1, BIG + 2],
        "mag": [20.5, 21.5, 22.5],
        "rank": 7,
        "is_odd": [True, True, False],
    }
)


def join(table, *, radius_arcsec=None, **options):
    return join_table(OBJECTS, table, TableOptions(**options), radius_arcsec=radius_arcsec)


def written(tmp_path, suffix):
    path = tmp_path / f"own{suffix}"
    if suffix == ".csv":
        OWN.to_csv(path, index=False)
    elif suffix == ".parquet":
        OWN.to_parquet(path)
    else:
        Table.from_pandas(OWN).write(path, format={".vot": "votable"}.get(suffix))
    return path


@pytest.mark.parametrize("kind", [".csv", ".parquet", ".fits", ".vot", "frame", "table"])
def test_rows_go_to_the_objects_whose_identifiers_they_bear_to_the_last_digit(tmp_path, kind):
    held = {"frame": OWN, "table": Table.from_pandas(OWN)}
    joined = join(held[kind] if kind in held else written(tmp_path, kind))
    assert list(joined["object_id"]) == list(OBJECTS["object_id"])
    assert joined["source_id"].tolist() == [BIG + 2, pandas.NA, BIG]
    np.testing.assert_array_equal(joined["mag"].to_numpy(float), [22.5, np.nan, 20.5])
    assert joined["rank"].tolist() == [1, 2, 3]
    assert joined["rank_table"].tolist() == [7, pandas.NA, 7]
    assert joined["is_odd"].tolist() == [False, pandas.NA, True]
    assert joined[joined["is_odd"]]["rank"].tolist() == [3]


def test_objects_that_are_named_by_their_files_are_found_by_a_column_of_files():
    joined = join(
        pandas.DataFrame({"filename": ["J1.fits", "J2.fits"], "kind": ["star", "galaxy"]})
    )
    assert joined["kind"].isna().tolist() == [True, False, True]
    assert joined["kind"][1] == "star"
    told = joined.attrs["joined"]
    assert told == "by 'filename' of the table: 1 of 3 objects have a row"


def test_positions_that_cannot_be_used_do_not_matter_to_identifiers():
    joined = join(OWN.assign(ra=1.0))
    assert joined["mag"].notna().tolist() == [True, False, True]


def test_the_nearest_row_within_the_radius_is_taken_and_its_distance_told():
    arcsec = 1 / 3600
    stars = Table({"RAJ2000": [10.0, 10.0, 30.0], "dec": [1 + 2 * arcsec, 1 + arcsec, 4.0]})
    joined = join(stars, radius_arcsec=3.0, ra="RAJ2000")
    np.testing.assert_allclose(joined["separation_arcsec"], [1.0, np.nan, np.nan], atol=1e-6)
    np.testing.assert_allclose(joined["dec_table"], [1 + arcsec, np.nan, np.nan])
    assert joined.attrs["joined"].startswith("by 'RAJ2000' and 'dec' of the table: 1 of 3")


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        (pandas.DataFrame({"id": ["x"]}), {}, "first is 'x'; name the column with id="),
        (pandas.DataFrame({"id": [str(BIG)] * 2}), {}, "2 rows of object"),
        (
            pandas.DataFrame({"mag": [1.0], "ra": 2.0, "dec": 3.0}),
            {},
            "has no identifiers, got the",
        ),
        (pandas.DataFrame({"mag": [1.0]}), {"id": "nmae"}, "no column 'nmae' for option id,"),
        (
            pandas.DataFrame({"ra": [99.0], "dec": [9.0]}),
            {"radius_arcsec": 1.0},
            "within 1 arcsec of an object, of 2 objects and 1 rows",
        ),
        (
            pandas.DataFrame({"id": ["x"], "mag": [1.0]}),
            {"radius_arcsec": 1.0},
            r"no positions, got the columns \['id', 'mag'\]; name them with ra= and dec=",
        ),
        (pandas.DataFrame({"id": ["x"]}), {"radius_arcsec": "1"}, "radius_arcsec is '1'"),
        (pandas.DataFrame({"id": ["x"]}), {"radius_arcsec": -1.0}, "expected a number above 0"),
        ("missing.csv", {}, "missing.csv is missing"),
        ([1, 2], {}, "table is a list, expected the path of a file"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_with_what_was_found(table, options, message):
    with pytest.raises(ConfigError, match=message):
        join(table, **options)


def test_objects_whose_identifiers_are_no_file_names_are_found_by_their_files(tmp_path):
    own = pandas.DataFrame({"file": ["b.fits.gz", "a.fits"], "kind": ["QSO", "STAR"]})
    objects = pandas.DataFrame({"object_id": ["L 1", "L 2", "L 3"], "shard": ["s", "s", "t"]})
    objects = objects.assign(row=[0, 1, 0])
    inputs = [InputFile(path=f"/d/{name}", size_bytes=1, version="1") for name in own["file"]]
    write_listing(
        str(tmp_path),
        [
            Shard(name="s", reader="spectra", inputs=inputs, params={}, num_rows=2),
            Shard(name="t", reader="spectra", inputs=inputs[:1], params={}, num_rows=None),
        ],
    )
    files = source_files(str(tmp_path), objects)
    assert files == ["/d/b.fits.gz", "/d/a.fits", ""], "no object has the file of several rows"
    joined = join_table(objects, own, TableOptions(), radius_arcsec=None, files=lambda: files)
    assert joined["kind"].tolist()[:2] == ["QSO", "STAR"]
    assert joined["kind"].isna().tolist() == [False, False, True]
    with pytest.raises(ConfigError, match="or the file name of an object, such as 'L 1'"):
        join_table(objects, own, TableOptions(), radius_arcsec=None)
