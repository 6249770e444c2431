"""Identifiers and positions reach the right file or row, exact to the last digit."""

import contextlib
import gzip
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy import units
from astropy.table import Table

from astroray.errors import ConfigError
from astroray.surveys.column_names import find_name
from astroray.surveys.file_matches import NamedRows
from astroray.surveys.object_tables import ObjectTable, TableOptions, open_object_table
from astroray.surveys.objects import Objects
from astroray.surveys.survey_paths import survey_folder
from astroray.surveys.table_columns import open_columns

LONG_ID = 8647474693034869239  # odd: no float64 holds it


@contextlib.contextmanager
def _opened(folder: Path, **options: str) -> Iterator[ObjectTable]:
    with open_object_table(str(folder), TableOptions(**options)) as table:
        assert table is not None
        yield table


def _read(folder: Path, **options: str) -> NamedRows:
    with _opened(folder, **options) as table:
        return table.read()


def _by_row(folder: Path, num_rows: int, **options: str) -> Objects:
    with _opened(folder, **options) as table:
        (objects,) = table.by_row([num_rows])
        return objects


def _by_file(folder: Path, paths: Sequence[str], **options: str) -> Objects:
    with _opened(folder, **options) as table:
        return Objects.joined(list(table.by_file(paths, "/s", step=2)))


def _write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("names", "known", "found"),
    [
        (["Obj-ID", "object_id"], ["objid", "object_id"], "Obj-ID"),
        (["ra", "RA (J2000)"], ["raj2000", "ra"], "RA (J2000)"),
        (["TIME.BTJD"], ["time_btjd"], "TIME.BTJD"),
        (["имя", "ra"], ["номер"], None),  # letters of any script tell names apart
        (["#", "ra"], ["?"], None),
    ],
)
def test_a_known_name_is_found_by_its_letters_and_digits(names, known, found):
    assert find_name(names, known) == found


def _astropy_table() -> Table:
    return Table(
        {
            "ObjID": np.array([LONG_ID, LONG_ID - 2], np.int64),
            "RAJ2000": [12.5, 200.25] * units.deg,
            "DEJ2000": [-3.5, 45.0] * units.deg,
            "FileName": ["a.jpg", "b.jpg"],
        }
    )


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.tsv", "t.parquet", "t.parq", "t.fits",
                                  "t.xml", "t.ecsv"])  # fmt: skip
def test_every_format_keeps_nineteen_digits_and_finds_well_known_columns(
    tmp_path: Path, name: str
) -> None:
    table, path = _astropy_table(), tmp_path / name
    if ".parq" in name:
        columns = {key: pa.array(table[key].tolist()) for key in table.colnames}
        pq.write_table(pa.table(columns), path)
    elif ".csv" in name or ".tsv" in name:
        mark = "\t" if "tsv" in name else ","
        rows = [table.colnames, *(map(str, row) for row in table.iterrows())]
        data = "\n".join(mark.join(row) for row in rows).encode()
        path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    else:
        table.write(path, format="votable" if name.endswith("xml") else None)
    objects = _by_file(tmp_path, ["/s/b.jpg", "/s/a.jpg"], table=name)
    assert list(objects.object_id_N) == [str(LONG_ID - 2), str(LONG_ID)]
    assert objects.ra_deg_N.tolist() == [200.25, 12.5]
    assert objects.dec_deg_N.tolist() == [45.0, -3.5]


@pytest.mark.parametrize(
    ("name", "unit", "scale"),
    [
        ("t.fits", units.rad, np.pi / 180),
        ("t.fits", units.arcmin, 60.0),
        ("t.fits", units.hour, 1 / 15),
        ("t.ecsv", units.hourangle, 1 / 15),
    ],
)
def test_units_that_a_table_states_are_respected(
    tmp_path: Path, name: str, unit: units.UnitBase, scale: float
) -> None:
    ra = np.array([15.0, 30.0]) * scale * unit
    Table({"id": ["x", "y"], "ra": ra, "dec": [1.0, 2.0]}).write(tmp_path / name)
    objects = _by_row(tmp_path, 2, table=name)
    np.testing.assert_allclose(objects.ra_deg_N, [15.0, 30.0], rtol=1e-12)


def test_a_unit_that_is_no_angle_is_refused(tmp_path: Path) -> None:
    Table({"id": ["x"], "ra": [1.0] * units.m, "dec": [1.0]}).write(tmp_path / "t.fits")
    with pytest.raises(ConfigError, match=r"'ra' of .*t.fits is in 'm', expected an angle"):
        _read(tmp_path, table="t.fits")


def test_sexagesimal_text_is_hours_and_degrees(tmp_path: Path) -> None:
    _write(
        tmp_path, "t.csv", "id,ra,dec\na,13:39:52.8,+00:50:23.4\nb,01 00 00,-10 30 00\nc,7.5,1\n"
    )
    objects = _by_row(tmp_path, 3, table="t.csv")
    np.testing.assert_allclose(objects.ra_deg_N, [204.97, 15.0, 7.5], atol=1e-9)
    np.testing.assert_allclose(objects.dec_deg_N, [0.8398333333, -10.5, 1.0], atol=1e-9)


@pytest.mark.parametrize("position", ["-999,-999", "99.99,99.99", "361,0", "10,-90.5", "10,",
                                      "nan,nan", "unknown,5", "inf,1", "-1,0"])  # fmt: skip
def test_a_position_that_cannot_be_becomes_null_and_the_object_stays(
    tmp_path: Path, position: str
) -> None:
    _write(tmp_path, "t.csv", f"id,ra,dec\na,{position}\nb,360,90\n")
    objects = _by_row(tmp_path, 2, table="t.csv")
    assert list(objects.object_id_N) == ["a", "b"]
    assert np.isnan(objects.ra_deg_N[0])
    assert np.isnan(objects.dec_deg_N[0])
    assert (objects.ra_deg_N[1], objects.dec_deg_N[1]) == (0.0, 90.0)


def test_right_ascension_of_half_turns_is_brought_to_whole_ones_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _write(tmp_path, "t.csv", "id,ra,dec\na,-30,5\nb,180,9\nc,-999,-999\nd,-1,-1\ne,-180,0\n")
    with caplog.at_level(logging.WARNING):
        objects = _by_row(tmp_path, 5, table="t.csv")
    np.testing.assert_array_equal(objects.ra_deg_N, [330, 180, np.nan, np.nan, 180])
    assert "t.csv is -180..180 deg: 360 is added to 2 of 5" in caplog.text
    assert "2 of 5 positions" in caplog.text  # codes for unknown stay unknown


def test_impossible_positions_are_counted_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _write(tmp_path, "t.csv", "id,ra,dec\na,-999,-999\nb,1,1\nc,,\n")
    with caplog.at_level(logging.WARNING):
        _read(tmp_path, table="t.csv")
    assert "1 of 3 positions" in caplog.text


def test_exchanged_columns_of_position_are_refused_rather_than_dropped(tmp_path: Path) -> None:
    _write(tmp_path, "t.csv", "id,ra,dec\na,5,150.5\nb,-30,211\nc,,\n")
    with pytest.raises(ConfigError, match=r"the first is ra 5, dec 150.5 deg: .*look exchanged"):
        _read(tmp_path, table="t.csv")
    _write(tmp_path, "t.csv", "id,ra,dec\na,-999,-999\nb,-999,-999\n")  # none is known
    assert np.isnan(_by_row(tmp_path, 2, table="t.csv").ra_deg_N).all()


def test_a_column_of_words_is_no_position(tmp_path: Path) -> None:
    _write(tmp_path, "t.csv", "id,ra,dec\na,red,blue\n")
    with pytest.raises(ConfigError, match=r"ra column 'ra' of .*t.csv holds no angles: got 'red'"):
        _read(tmp_path, table="t.csv")


def test_text_identifiers_keep_leading_zeros_and_quotes(tmp_path: Path) -> None:
    _write(tmp_path, "t.csv", 'name,note\n007,x\n"NGC 1, south",y\n1e5,z\n')
    assert list(_by_row(tmp_path, 3, table="t.csv").object_id_N) == [
        "007",
        "NGC 1, south",
        "1e5",
    ]


def test_float_identifiers_that_lost_digits_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [float(LONG_ID), 2.0]}), tmp_path / "t.parquet")
    with pytest.raises(ConfigError, match=r"column 'id' of .* floats lose digits"):
        _read(tmp_path, table="t.parquet")


def test_small_whole_floats_are_integers(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [12.0, None]}), tmp_path / "t.parquet")
    assert list(_by_row(tmp_path, 2, table="t.parquet").object_id_N) == ["12", None]


def test_named_columns_win_over_well_known_ones_in_any_case(tmp_path: Path) -> None:
    _write(tmp_path, "t.csv", "id,SDSSID,ra,PRI_RA,dec\n1,587,5,6,7\n")
    objects = _by_row(tmp_path, 1, table="t.csv", id="sdssid", ra="PRI_RA")
    assert list(objects.object_id_N) == ["587"]
    assert objects.ra_deg_N.tolist() == [6.0]


def test_an_unknown_column_is_refused_with_the_candidates(tmp_path: Path) -> None:
    _write(tmp_path, "t.csv", "a,b\n1,2\n")
    with pytest.raises(ConfigError, match=r"t.csv has no column 'c' for option id, .*'a', 'b'"):
        _read(tmp_path, table="t.csv", id="c")


def test_a_table_without_known_columns_is_told_from_one_without_rows(tmp_path: Path) -> None:
    _write(tmp_path, "t.csv", "targetid,mag\n1,2\n")
    with pytest.raises(ConfigError, match=r"no column of a known name, got \['targetid', 'mag'\]"):
        _read(tmp_path, table="t.csv")
    _write(tmp_path, "t.csv", "id,ra,dec\n")
    with pytest.raises(ConfigError, match=r"t\.csv has no rows"):
        _read(tmp_path, table="t.csv")


def test_half_a_position_is_refused(tmp_path: Path) -> None:
    _write(tmp_path, "t.csv", "id,ra,delta\n1,2,3\n")
    with pytest.raises(ConfigError, match=r"none of .*name it with dec=COLUMN"):
        _read(tmp_path, table="t.csv")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.fits", b"SIMPLE  = nonsense"),
        ("t.parquet", b"PAR1 no table"),
        ("t.csv", b"id,ra\n1\n1,2,3\n"),
        ("t.csv", b""),
        ("t.csv", b"id,ra,dec\n"),
        ("t.csv", b"\xff\xfe\x00"),
        ("t.xml", b"<html></html>"),
        ("t.ecsv", b"nothing"),
        ("t.csv.gz", b"\x1f\x8b\x08broken"),
        ("t.doc", b"id\n1\n"),
    ],
)
def test_a_file_that_is_no_table_is_refused_by_name(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=name):
        _read(tmp_path, table=name)


def test_a_missing_table_and_columns_without_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no.csv is missing"):
        _read(tmp_path, table="no.csv")
    with pytest.raises(ConfigError, match="add table=PATH"):
        _read(tmp_path, id="x")
    with open_object_table(str(tmp_path), TableOptions()) as table:
        assert table is None


def test_files_are_found_by_path_name_or_stem(tmp_path: Path) -> None:
    _write(tmp_path, "t.csv", "file,id\nimages/a.jpg,1\nb.fits,2\ns_51.4_+0.98,3\n")
    paths = ["/s/images/a.jpg", "/s/x/b.png", "/s/x/s_51.4_+0.98.jpg"]
    objects = _by_file(tmp_path, paths, table="t.csv")
    assert list(objects.object_id_N) == ["1", "2", "3"]


def test_a_whole_name_goes_before_a_name_without_suffix(tmp_path: Path) -> None:
    _write(tmp_path, "t.csv", "file,id\n1.png,p\n1.jpg,j\n")
    objects = _by_file(tmp_path, ["/s/1.jpg", "/s/1.png"], table="t.csv")
    assert list(objects.object_id_N) == ["j", "p"]


def test_equal_names_in_several_folders_are_told_apart_by_folder(tmp_path: Path) -> None:
    _write(tmp_path, "t.csv", "file,id\nstar/1.jpg,s1\ngalaxy/1.jpg,g1\n")
    objects = _by_file(tmp_path, ["/s/galaxy/1.jpg", "/s/star/1.jpg"], table="t.csv")
    assert list(objects.object_id_N) == ["g1", "s1"]


def test_rows_that_disagree_about_a_file_are_refused_and_equal_ones_are_not(tmp_path: Path) -> None:
    _write(tmp_path, "t.csv", "file,id\n1.jpg,a\n1.jpg,a\n")
    assert list(_by_file(tmp_path, ["/s/1.jpg"], table="t.csv").object_id_N) == ["a"]
    _write(tmp_path, "t.csv", "file,id\n1.jpg,a\n1.jpg,b\n")
    with pytest.raises(ConfigError, match=r"2 rows for 1.jpg \(rows 0 and 1"):
        _by_file(tmp_path, ["/s/1.jpg"], table="t.csv")


def test_two_files_of_one_row_are_refused(tmp_path: Path) -> None:
    _write(tmp_path, "t.csv", "file,id\n1.jpg,a\n")
    with pytest.raises(ConfigError, match=r"/s/a/1.jpg and /s/b/1.jpg are both row 0"):
        _by_file(tmp_path, ["/s/a/1.jpg", "/s/b/1.jpg"], table="t.csv")


def test_a_file_that_the_table_lacks_keeps_its_path_as_identifier(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _write(tmp_path, "t.csv", "file,id,ra,dec\n1.jpg,a,5,6\n")
    objects = _by_file(tmp_path, ["/s/1.jpg", "/s/x/2.jpg"], table="t.csv")
    assert list(objects.object_id_N) == ["a", "x/2"]
    np.testing.assert_array_equal(objects.ra_deg_N, [5.0, np.nan])
    assert "1 of 2 files are not in" in caplog.text


def test_a_table_of_other_files_is_refused(tmp_path: Path) -> None:
    _write(tmp_path, "t.csv", "file,id\n1.jpg,a\n")
    with pytest.raises(ConfigError, match=r"none of 1 files .*'2.jpg', the table names '1.jpg'"):
        _by_file(tmp_path, ["/s/2.jpg"], table="t.csv")
    _write(tmp_path, "t.csv", "ra,dec\n1,2\n")
    with pytest.raises(ConfigError, match="neither file names nor identifiers"):
        _by_file(tmp_path, ["/s/2.jpg"], table="t.csv")


def test_rows_need_a_table_of_the_same_length(tmp_path: Path) -> None:
    _write(tmp_path, "t.csv", "id\na\nb\n")
    with pytest.raises(ConfigError, match=r"t.csv has 2 rows, expected 3"):
        _by_row(tmp_path, 3, table="t.csv")


def test_file_names_serve_as_identifiers_of_rows_only_where_unique(tmp_path: Path) -> None:
    _write(tmp_path, "t.csv", "file\n100_010.451-009.284.fits\nb.fits\n")
    names = _by_row(tmp_path, 2, table="t.csv").object_id_N
    assert list(names) == ["100_010.451-009.284", "b"]
    _write(tmp_path, "t.csv", "file\nframe.fits\nframe.fits\n")
    assert list(_by_row(tmp_path, 2, table="t.csv").object_id_N) == [None, None]


def test_several_tables_are_one(tmp_path: Path) -> None:
    _write(tmp_path, "t.csv", "file,ra,dec\n1.jpg,5,6\n")
    _write(tmp_path, "u.csv", "file,DEC,RA\n2.jpg,8,7\n")
    objects = _by_file(tmp_path, ["/s/1.jpg", "/s/2.jpg"], table="t.csv,u.csv")
    assert objects.ra_deg_N.tolist() == [5.0, 7.0]


def test_the_folder_of_a_survey_is_its_fixed_part(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.npy").write_bytes(b"x")
    assert survey_folder(str(tmp_path / "a")) == str(tmp_path / "a")
    assert survey_folder(str(tmp_path / "a" / "x.npy")) == str(tmp_path / "a")
    assert survey_folder(str(tmp_path / "a" / "*" / "x*.jpg")) == str(tmp_path / "a")


def test_a_table_is_found_beside_above_or_by_its_whole_path(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    _write(tmp_path, "t.csv", "id\na\n")
    for name in ("../t.csv", str(tmp_path / "t.csv")):
        assert len(_read(tmp_path / "images", table=name).names) == 1


def test_objects_survive_json_and_slicing() -> None:
    nan = np.nan
    objects = Objects(
        object_id_N=["a", None, "c"], ra_deg_N=np.array([1.5, nan, 3.0]),
        dec_deg_N=np.array([-1.0, nan, 4.0]),
    )  # fmt: skip
    text = json.dumps(objects.take(slice(1, 3)).to_params(), allow_nan=False)
    again = Objects.from_params(json.loads(text))
    assert list(again.object_id_N) == [None, "c"]
    np.testing.assert_array_equal(again.ra_deg_N, [nan, 3.0])
    assert Objects.unknown(3).to_params() == {"object_id": [None] * 3, "ra": None, "dec": None}


def test_real_tables_keep_their_identifiers(real_data: Path) -> None:
    folder = real_data / "galaxies" / "sdss_stripe82"
    objects = _read(folder, table="gz2_votes.csv", id="gz2_objid").objects
    assert objects.object_id_N[0] == "8647474693034869238"
    assert np.isfinite(objects.ra_deg_N).all()


def test_a_damaged_packed_table_is_refused_as_one(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(b"id,ra,dec\n" + b"1,2,3\n" * 1000))
    packed[30:33] = bytes(byte ^ 0x5F for byte in packed[30:33])
    (tmp_path / "t.csv.gz").write_bytes(packed)
    with pytest.raises(ConfigError, match=r"table t.csv.gz cannot be read"):
        open_columns("t.csv.gz", tmp_path / "t.csv.gz").load(["id"])


def _all_sky(angles_per_deg: float) -> str:
    """A table of 200 positions all over the sky, as text of CSV."""
    ra_deg_N = np.linspace(0, 360, 200, endpoint=False)
    dec_deg_N = np.degrees(np.arcsin(np.linspace(-1, 1, 200)))
    pairs = zip(ra_deg_N * angles_per_deg, dec_deg_N * angles_per_deg, strict=True)
    return "id,ra,dec\n" + "".join(f"o{i},{ra},{dec}\n" for i, (ra, dec) in enumerate(pairs))


def test_positions_that_fill_the_sky_in_radians_are_not_taken_for_degrees(tmp_path: Path) -> None:
    _write(tmp_path, "t.csv", _all_sky(np.pi / 180))
    with pytest.raises(ConfigError, match=r"have no unit and look like radians: .* angles=rad"):
        _read(tmp_path, table="t.csv")
    objects = _read(tmp_path, table="t.csv", angles="rad").objects
    np.testing.assert_allclose(objects.ra_deg_N, np.linspace(0, 360, 200, endpoint=False))
    assert _read(tmp_path, table="t.csv", angles="deg").objects.ra_deg_N.max() < 2 * np.pi
    _write(tmp_path, "t.csv", _all_sky(1.0))
    assert _read(tmp_path, table="t.csv").objects.ra_deg_N.max() > 350
