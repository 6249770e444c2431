"""A catalog in the formats of other tools: every value, unit and UCD, however the rows come."""

import io
from functools import partial
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from astropy.io import fits, votable
from astropy.table import Table
from pyarrow import csv

from astroray import schema
from astroray.catalog import exports, pixels
from astroray.catalog.exports import export_catalog, export_rows, to_astropy
from astroray.catalog.votable import to_votable
from astroray.errors import ConfigError
from tests.catalogs_made import by_rank, make_catalog, mixed, write
from tests.memory_used import peak_bytes

__all__ = ["mixed"]


def whole_file(table: pa.Table, format: str) -> bytes:
    """The file as astropy and pyarrow write it of a table that is held."""
    sink = io.BytesIO()
    if format == "csv":
        columns = {name: table[name] for name in table.column_names}
        columns["neighbor_id"] = pa.compute.binary_join(table["neighbor_id"], "|")
        lists = table["neighbor_distance"].to_pylist()
        for k in range(max(map(len, lists))):
            columns[f"neighbor_distance_{k + 1}"] = pa.array(
                [row[k] if k < len(row) else None for row in lists], pa.float64()
            )
        order = [n for n in columns if not n.startswith("neighbor_distance")]
        slots = [n for n in columns if n.startswith("neighbor_distance_")]
        place = order.index("neighbor_id") + 1
        names = [*order[:place], *slots, *order[place:]]
        csv.write_csv(pa.table({name: columns[name] for name in names}), sink)
        return sink.getvalue()
    columns = to_astropy(table)
    if format == "votable":
        to_votable(columns).to_xml(sink, tabledata_format="binary2")
        return sink.getvalue()
    hdu = fits.table_to_hdu(columns)
    hdu.name = "CATALOG"
    for number, name in enumerate(columns.colnames, start=1):
        hdu.header[f"TCOMM{number}"] = columns[name].description
        hdu.header[f"TUCD{number}"] = columns[name].meta["ucd"]
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(sink)
    return sink.getvalue()


@pytest.mark.parametrize("rows_at_once", [101, 1000])
@pytest.mark.parametrize("format", ["votable", "fits", "csv"])
def test_a_file_written_by_pieces_has_the_bytes_of_one_written_whole(
    mixed, tmp_path, monkeypatch, format, rows_at_once
):
    monkeypatch.setattr(exports, "ROWS_AT_ONCE", rows_at_once)
    out = tmp_path / "out"
    export_catalog(str(mixed[1]), format=format, out=str(out))
    assert out.read_bytes() == whole_file(by_rank(mixed[0]), format)
    again = tmp_path / "again"
    export_rows(by_rank(mixed[0]), format=format, out=str(again))
    assert again.read_bytes() == out.read_bytes()


@pytest.mark.parametrize("format", ["votable", "fits", "csv"])
def test_eight_times_the_rows_are_exported_in_as_much_memory(tmp_path, monkeypatch, format):
    monkeypatch.setattr(exports, "ROWS_AT_ONCE", 100)
    monkeypatch.setattr(pixels, "ROW_GROUP_SIZE", 100)
    peaks = []
    for num_rows in (100, 100, 800):  # the first loads what is loaded once
        write(make_catalog(num_rows, num_unplaced=num_rows // 4), tmp_path / str(num_rows))
        out = tmp_path / f"{len(peaks)}.out"
        run_dir = str(tmp_path / str(num_rows))
        export = partial(export_catalog, run_dir, format=format, out=str(out))
        peaks.append(peak_bytes(export))
    assert peaks[2] < 1.5 * peaks[1]


def test_votable_keeps_values_units_ucds_and_descriptions(mixed, tmp_path):
    table, run_dir = mixed
    out = str(tmp_path / "catalog.vot")
    assert export_catalog(str(run_dir), format="votable", out=out) == 300
    got, expected = Table.read(out), by_rank(table).to_pydict()
    assert list(got["object_id"]) == expected["object_id"]
    check_numbers(got, expected)
    fields = {field.name: field for field in votable.parse_single_table(out).fields}
    assert str(fields["ra"].unit) == "deg"
    assert fields["ra"].ucd == "pos.eq.ra;meta.main"
    assert fields["outlier_score"].description.startswith("distance to the neighbors")


def test_votable_says_in_which_frame_its_positions_are(mixed, tmp_path):
    _, run_dir = mixed
    out = str(tmp_path / "catalog.vot")
    export_catalog(str(run_dir), format="votable", out=out)
    (resource,) = votable.parse(out, verify="exception").resources
    (frame,) = resource.coordinate_systems
    assert frame.system == "ICRS"
    refs = {field.name: field.ref for field in resource.tables[0].fields if field.ref}
    assert refs == {"ra": frame.ID, "dec": frame.ID}


def test_fits_keeps_values_units_ucds_and_comments(mixed, tmp_path):
    table, run_dir = mixed
    out = str(tmp_path / "catalog.fits")
    assert export_catalog(str(run_dir), format="fits", out=out) == 300
    got, expected = Table.read(out), by_rank(table).to_pydict()
    assert [str(name) for name in got["object_id"]] == expected["object_id"]
    check_numbers(got, expected)
    header = fits.getheader(out, "CATALOG")
    facts = {header[f"TTYPE{i}"]: i for i in range(1, header["TFIELDS"] + 1)}
    assert header[f"TUNIT{facts['dec']}"] == "deg"
    assert header[f"TUCD{facts['dec']}"] == "pos.eq.dec;meta.main"
    assert header[f"TCOMM{facts['outlier_score']}"].endswith("null where there is no neighbor")


def check_numbers(got: Table, expected: dict[str, list]) -> None:
    """Numbers equal to the last bit, the unknown as NaN or masked."""
    for name in ("ra", "outlier_score"):
        nan_for_none = [np.nan if value is None else value for value in expected[name]]
        np.testing.assert_array_equal(np.ma.filled(got[name], np.nan), nan_for_none)
    healpix = [-1 if value is None else value for value in expected["_healpix_29"]]
    assert np.ma.filled(got["_healpix_29"], -1).tolist() == healpix
    assert np.ma.getmaskarray(got["_healpix_29"]).sum() == 7
    assert [bool(x) for x in got["certified"]] == expected["certified"]
    assert [str(x) for x in np.ma.filled(got["neighbor_id"], "")] == [
        "|".join(ids) for ids in expected["neighbor_id"]
    ]
    distance_NK = np.ma.filled(got["neighbor_distance"], np.nan)
    assert distance_NK.shape == (300, 3)
    assert [row[np.isfinite(row)].tolist() for row in distance_NK] == expected["neighbor_distance"]


def test_csv_reads_back_in_pandas(mixed, tmp_path):
    table, run_dir = mixed
    out = tmp_path / "catalog.csv"
    assert export_catalog(str(run_dir), format="csv", out=str(out)) == 300
    got, expected = pd.read_csv(out), by_rank(table)
    assert got["object_id"].tolist() == expected["object_id"].to_pylist()
    np.testing.assert_array_equal(got["ra"], expected["ra"].to_numpy())
    assert got["certified"].tolist() == expected["certified"].to_pylist()
    distances = got[[f"neighbor_distance_{k}" for k in (1, 2, 3)]].to_numpy()
    lists = [row[np.isfinite(row)].tolist() for row in distances]
    assert lists == expected["neighbor_distance"].to_pylist()


@pytest.mark.parametrize("format", ["votable", "fits", "csv"])
def test_an_empty_catalog_can_be_exported(tmp_path, format):
    write(schema.CATALOG.empty_table(), tmp_path)
    out = tmp_path / "out"
    assert export_catalog(str(tmp_path), format=format, out=str(out)) == 0
    assert out.stat().st_size > 0


def test_neighbors_whose_names_hold_the_separator_can_be_taken_apart(tmp_path):
    table = make_catalog(4)
    ids = [["a|b", "c"], ["50%|7C"], [], ["plain"]]
    place = table.column_names.index("neighbor_id")
    table = table.set_column(place, table.schema.field(place), pa.array(ids, pa.list_(pa.string())))
    export_rows(table, format="csv", out=str(tmp_path / "out.csv"))
    joined = csv.read_csv(tmp_path / "out.csv")["neighbor_id"].to_pylist()
    assert joined == ["a%7Cb|c", "50%25%7C7C", "", "plain"]
    apart = [[unquote(name) for name in text.split("|") if name] for text in joined]
    assert apart == ids


def test_an_export_replaces_a_file_only_when_told(mixed, tmp_path):
    out = tmp_path / "catalog.csv"
    out.write_text("mine")
    with pytest.raises(ConfigError, match="already there"):
        export_catalog(str(mixed[1]), format="csv", out=str(out))
    assert out.read_text() == "mine"
    export_catalog(str(mixed[1]), format="csv", out=str(out), overwrite=True)
    assert out.read_text().startswith('"object_id"')


def test_an_unknown_export_format_is_refused_with_the_known_ones(mixed, tmp_path):
    with pytest.raises(ConfigError, match="votable, fits, csv"):
        export_catalog(str(mixed[1]), format="xlsx", out=str(tmp_path / "x"))


def test_text_that_fits_cannot_hold_is_refused_in_words(tmp_path):
    table = make_catalog(2, num_unplaced=2)
    names = pa.array(["α Cen", "b"], pa.string())
    write(table.set_column(0, schema.OBJECT_ID, names), tmp_path)
    with pytest.raises(ConfigError, match=r"ASCII text only, got '"):
        export_catalog(str(tmp_path), format="fits", out=str(tmp_path / "x.fits"))
    export_catalog(str(tmp_path), format="votable", out=str(tmp_path / "x.vot"))
    assert set(Table.read(tmp_path / "x.vot")["object_id"]) == {"α Cen", "b"}


def test_votable_has_room_for_characters_of_two_units(tmp_path):
    table = make_catalog(2, num_unplaced=2)
    names = pa.array(["🔭🔭🔭", "b"], pa.string())
    write(table.set_column(0, schema.OBJECT_ID, names), tmp_path)
    export_catalog(str(tmp_path), format="votable", out=str(tmp_path / "x.vot"))
    assert set(Table.read(tmp_path / "x.vot")["object_id"]) == {"🔭🔭🔭", "b"}


def test_what_is_not_known_to_be_certified_is_not_certified_in_fits(tmp_path):
    table = make_catalog(2, num_unplaced=2)
    place = table.schema.get_field_index("certified")
    rows = table.set_column(place, table.schema.field(place), pa.array([True, None]))
    export_rows(rows, format="fits", out=str(tmp_path / "x.fits"))
    assert Table.read(tmp_path / "x.fits")["certified"].tolist() == [True, False]


def test_votable_has_no_unit_that_its_standard_deprecates(tmp_path):
    fields = pa.schema([schema.FLARES.field("energy")])
    rows = pa.table({"energy": [1e33]}, fields)
    for format in ("votable", "fits"):
        export_rows(rows, format=format, out=str(tmp_path / format))  # a warning is an error here
    (column,) = Table.read(tmp_path / "votable", format="votable").itercols()
    assert column.unit.to("erg") == 1.0
    assert Table.read(tmp_path / "fits", format="fits")["energy"].unit == "erg"
