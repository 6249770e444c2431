"""Light curves in Parquet, npz and text files, which have no mission's header."""

import gzip

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from astroray.errors import ConfigError, ShardError
from astroray.surveys.light_curve_columns import star_of_file
from astroray.surveys.light_curves import LightCurve, read_light_curves
from astroray.surveys.shards import Reject
from tests.light_curves_made import fluxes, read, shards_of, times

TIME = times("tess")


def write_parquet(path, *, num_rows=7, groups_of=3, kind=pa.list_, **changes):
    """One light curve a row; row i has 100 + i cadences. `changes` replace or remove columns."""
    lengths = range(100, 100 + num_rows)
    lists = {
        "time": pa.array([TIME[:n] for n in lengths], kind(pa.float64())),
        "flux": pa.array([fluxes(n, seed=n) for n in lengths], kind(pa.float32())),
        "flux_err": pa.array([np.full(n, 2.0) for n in lengths], kind(pa.float64())),
        "quality": pa.array([np.arange(n) % 50 == 9 for n in lengths], kind(pa.bool_())).cast(
            kind(pa.int32())
        ),
    }
    plain = {
        "object_id": pa.array([f"TIC {n}" for n in lengths]),
        "ra": pa.array([10.0 + n for n in range(num_rows)]),
        "dec": pa.array([-5.0] * num_rows),
    }
    columns = {
        name: value for name, value in (plain | lists | changes).items() if value is not None
    }
    pq.write_table(pa.table(columns), path, row_group_size=groups_of)
    return f"{path}?time=BTJD&mission=tess"


@pytest.mark.parametrize(
    "ids",
    [
        pa.array([25118964.0, 25118965.0]),  # pandas' of integers with a null
        pa.array([b"25118964", b"25118965 "]),  # astropy's of text in FITS
        pa.array([25118964, 25118965], pa.decimal128(20, 0)),  # a database's
        pa.array(["25118964", "25118965"]).dictionary_encode(),
    ],
    ids=lambda ids: str(ids.type),
)
def test_identifiers_are_the_same_text_whatever_type_a_column_has(tmp_path, ids):
    survey = write_parquet(tmp_path / "a.parquet", num_rows=2, object_id=ids)
    assert [curve.object_id for curve in read(survey)] == ["25118964", "25118965"]


def test_identifiers_that_have_lost_digits_are_refused_and_not_taken_for_one_object(tmp_path):
    ids = pa.array([1237651200000000001.0, 1237651200000000002.0])
    survey = write_parquet(tmp_path / "a.parquet", num_rows=2, object_id=ids)
    with pytest.raises(ShardError, match=r"'object_id' of .* not below 9007199254740992"):
        read(survey)


def test_positions_may_be_text_and_what_is_no_number_is_rejected(tmp_path):
    survey = write_parquet(tmp_path / "a.parquet", num_rows=2, ra=["10.5", ""])
    assert [curve.ra_deg for curve in read(survey)] == pytest.approx([10.5, np.nan], nan_ok=True)
    rejects = read(write_parquet(tmp_path / "b.parquet", num_rows=2, ra=["10:00:00", "1"]))
    assert [reject.kind for reject in rejects] == ["corrupt", "corrupt"]
    assert "column 'ra' is to hold degrees" in rejects[0].reason


@pytest.mark.parametrize("kind", [pa.list_, pa.large_list])
def test_each_row_of_a_parquet_file_is_a_light_curve(tmp_path, kind):
    survey = write_parquet(tmp_path / "a.parquet", kind=kind)
    (shard,) = shards_of(survey)
    assert shard.num_rows == 7
    found = list(read_light_curves(shard))
    for row, curve in enumerate(found):
        num = 100 + row
        assert (curve.row, curve.object_id, curve.mission) == (row, f"TIC {num}", "tess")
        assert (curve.ra_deg, curve.dec_deg, curve.time_zero) == (10.0 + row, -5.0, "BTJD")
        np.testing.assert_array_equal(curve.time_d, TIME[:num])
        expected = np.where(curve.quality != 0, np.nan, fluxes(num, seed=num))
        np.testing.assert_array_equal(curve.flux, expected)
        assert np.flatnonzero(curve.quality).tolist() == list(range(9, num, 50))
        assert (curve.flux_err == 2).all()
    only = list(read_light_curves(shard, rows=[5, 2]))
    assert [curve.row for curve in only] == [2, 5]
    np.testing.assert_array_equal(only[1].flux, found[5].flux)


def test_rows_that_cannot_be_used_are_rejects_and_none_is_lost(tmp_path):
    time = [TIME, None, TIME[::-1], TIME[:1], [], TIME, [*TIME[:3], None, *TIME[4:]]]
    flux = [fluxes(), fluxes(), fluxes(), [1.0], [], fluxes(50), fluxes()]
    lists = {"time": pa.array(time), "flux": pa.array(flux), "flux_err": None, "quality": None}
    found = read(write_parquet(tmp_path / "a.parquet", **lists))
    assert [item.row for item in found] == list(range(7))
    kinds = [item.kind if isinstance(item, Reject) else "read" for item in found]
    assert kinds == ["read", "missing", "time", "short", "short", "shape", "read"]
    assert (len(found[6].time_d), found[6].meta["cadences_no_time"]) == (199, 1)
    assert "row 1 of" in found[1].reason


def test_objects_without_identifier_or_position_are_called_by_shard_and_row(tmp_path):
    survey = write_parquet(tmp_path / "a.parquet", object_id=None, ra=None)
    (shard,) = shards_of(survey)
    found = list(read_light_curves(shard))
    assert [curve.object_id for curve in found] == [f"{shard.name}:{row}" for row in range(7)]
    assert np.isnan([curve.dec_deg for curve in found]).all()


def test_nobody_guesses_from_when_times_count(tmp_path):
    survey = write_parquet(tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match="say it with time="):
        shards_of(survey.partition("?")[0])
    named = write_parquet(tmp_path / "b.parquet", time=None, time_btjd=pa.array([TIME[:100]] * 7))
    assert shards_of(named.partition("?")[0])


@pytest.mark.parametrize("names", [["g", "r"], [b"g", b"r"], [1.0, 2.0]])
def test_arrays_with_measurements_in_several_bands_are_refused_until_one_is_chosen(tmp_path, names):
    band = np.array(names)[np.arange(200) % 2]
    np.savez(tmp_path / "a.npz", time=TIME, flux=fluxes(), band=band)
    first = "1" if names[0] == 1.0 else "g"
    survey = f"{tmp_path}/a.npz?time=BTJD"
    with pytest.raises(ConfigError, match=f"measurements in the bands {first}, .*band={first}"):
        read(survey)
    (curve,) = read(f"{survey}&band={first}")
    np.testing.assert_array_equal(curve.time_d, TIME[::2])
    np.savez(tmp_path / "b.npz", time=TIME, flux=fluxes())
    with pytest.raises(ConfigError, match="has no column of bands"):
        read(f"{tmp_path}/b.npz?time=BTJD&band=g")


@pytest.mark.parametrize(
    ("column", "stated", "is_fine"),
    [("mjd", "BJD", False), ("time_bkjd", "BTJD", False), ("bjd", "MJD", False),
     ("mjd", "MJD", True), ("bjd", "BTJD", True)],
)  # fmt: skip
def test_an_option_that_contradicts_the_name_of_the_column_is_refused(
    tmp_path, column, stated, is_fine
):
    lists = {"time": None, column: pa.array([TIME[:100]] * 7)}
    path = write_parquet(tmp_path / "a.parquet", **lists).partition("?")[0]
    if is_fine:
        assert {shard.num_rows for shard in shards_of(f"{path}?time={stated}")} == {7}
    else:
        with pytest.raises(ConfigError, match=rf"time is {stated}, but .* in column '{column}'"):
            shards_of(f"{path}?time={stated}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flux": None}, "no column of flux"),
        ({"time": None}, "no column of time"),
        ({"flux": pa.array(["x"] * 7)}, "expected lists of numbers"),
        ({"flux": None, "mag": pa.array([[1.0]] * 7)}, "say mag=true"),
    ],
)
def test_parquet_without_the_columns_is_refused_before_reading(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        shards_of(write_parquet(tmp_path / "a.parquet", **changes))


def test_a_broken_parquet_file_is_an_unreadable_shard_and_the_others_are_read(tmp_path):
    for name in "ab":
        survey = write_parquet(tmp_path / f"{name}.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole[: len(whole) // 2])
    first, second = shards_of(survey.replace("b.parquet", "*.parquet"))
    with pytest.raises(ShardError, match="not a whole Parquet file"):
        list(read_light_curves(first))
    assert (first.num_rows, second.num_rows) == (None, 7)
    assert len(list(read_light_curves(second))) == 7


def test_a_damaged_page_rejects_the_rows_of_its_group_alone(tmp_path):
    survey = write_parquet(tmp_path / "a.parquet")
    path = tmp_path / "a.parquet"
    (shard,) = shards_of(survey)
    chunk = pq.ParquetFile(path).metadata.row_group(1).column(3)
    data = bytearray(path.read_bytes())
    start = chunk.data_page_offset
    data[start : start + chunk.total_compressed_size // 2] = b"\xff" * (
        chunk.total_compressed_size // 2
    )
    path.write_bytes(bytes(data))
    found = list(read_light_curves(shard))
    assert [item.row for item in found] == list(range(7))
    bad = [item.row for item in found if isinstance(item, Reject)]
    assert bad == [3, 4, 5]
    assert {item.kind for item in found if isinstance(item, Reject)} == {"corrupt"}


def test_an_npz_file_is_one_light_curve_of_the_star_in_its_name(tmp_path):
    path = tmp_path / "tic014155762_s0042.npz"
    np.savez(path, time=TIME, flux=fluxes(), flux_err=np.ones(200, np.float16), prob=np.ones(3))
    (curve,) = read(f"{path}?time=BTJD&mission=tess")
    assert (curve.object_id, curve.mission, curve.flux_kind) == ("TIC 14155762", "tess", "flux")
    np.testing.assert_array_equal(curve.flux, fluxes())
    assert (curve.flux_err == 1).all()


def test_arrays_that_are_no_light_curve_are_rejects(tmp_path):
    np.savez(tmp_path / "a.npz", time=TIME, flux=fluxes())
    np.savez(tmp_path / "b.npz", time=TIME, flux=np.ones((200, 2)))
    np.savez(tmp_path / "c.npz", time=TIME, flux=np.array(["x"] * 200, object))
    (tmp_path / "d.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:300])
    found = read(f"{tmp_path}?time=BTJD")
    kinds = [item.kind if isinstance(item, Reject) else item.object_id for item in found]
    assert kinds == ["a", "schema", "schema", "corrupt"]


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_a_csv_file_names_its_columns(tmp_path, suffix):
    lines = [",Flux,TIME_BKJD,flags,note", *(f"{i},{1 + i},{170 + i},0,a" for i in range(5))]
    lines[3] = "2,,172,0,"
    data = "\n".join(lines).encode()
    path = tmp_path / f"kic4665368{suffix}"
    path.write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
    (curve,) = read(f"{path}?mission=kepler")
    assert (curve.object_id, curve.time_zero) == ("KIC 4665368", "BKJD")
    assert curve.time_d.tolist() == [170, 171, 172, 173, 174]
    np.testing.assert_array_equal(curve.flux, [1, 2, np.nan, 4, 5])


def test_magnitudes_become_flux_relative_to_their_median_where_asked(tmp_path):
    lines = ["# star 7", "50000.0 15.0 0.01", "50001 17.5 0.01", "50002 12.5 0.02"]
    for name, between in (("a.dat", " "), ("b.csv", ",")):
        (tmp_path / name).write_text("\n".join(lines).replace(" ", between))
        survey = f"{tmp_path / name}?columns=mjd,mag,err"
        with pytest.raises(ConfigError, match="say mag=true"):
            shards_of(survey)
        (curve,) = read(f"{survey}&mag=true")
        np.testing.assert_allclose(curve.flux, [1, 0.1, 10], rtol=1e-12)
        np.testing.assert_allclose(curve.flux_err, [0.0092103, 0.00092103, 0.184207], rtol=1e-4)
        assert (curve.time_zero, curve.flux_kind, curve.object_id) == ("MJD", "flux", name[0])


def test_columns_without_names_are_not_guessed(tmp_path):
    (tmp_path / "a.dat").write_text("50000.0 15.0\n50001 17.5\n")
    with pytest.raises(ConfigError, match="name its columns with columns="):
        shards_of(f"{tmp_path}?time=MJD")


def test_a_table_of_measurements_is_sorted_into_the_objects_it_names(tmp_path):
    rows = ["b,3,30", "a,2,12", "b,1,10", "a,1,11", "c,5,50", "b,2,", "a,1,11"]
    (tmp_path / "t.csv").write_text("\n".join(["ID,MJD,flux", *rows]))
    survey = f"{tmp_path}?id=ID"
    (shard,) = shards_of(survey)
    assert shard.num_rows == 3
    first, second, third = read_light_curves(shard)
    assert (first.object_id, first.time_d.tolist(), first.row) == ("b", [1, 2, 3], 0)
    np.testing.assert_array_equal(first.flux, [10, np.nan, 30])
    assert (second.object_id, second.flux.tolist(), second.row) == ("a", [11, 12], 1)
    assert second.meta["cadences_duplicate"] == 1
    assert (third.kind, third.row) == ("short", 2)
    (only,) = read_light_curves(shard, rows=[1])
    assert only.object_id == "a"
    with pytest.raises(ConfigError, match="no column 'name'"):
        shards_of(f"{tmp_path}?id=name")


SOURCES = {
    "diaObjectId": [2**62 + 1, 2**62, 2**62 + 1, 2**62, None, 2**62],
    "midpointMjdTai": [3.0, 2.0, 1.0, 1.0, 1.0, 4.0],
    "psfFlux": [30.0, 12.0, 10.0, 11.0, 5.0, None],
    "band": ["g", "g", "g", "g", "g", "r"],
    "ra": [359.9999, None, 0.0001, 10.0, 11.0, 12.0],
    "dec": [-90.0, 5.0, 5.0, 6.0, 7.0, 8.0],
}
"""As Rubin has a DiaSource table, a row a measurement."""


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_row_a_measurement_becomes_curves_at_the_positions_it_states(tmp_path, kind):
    table = pa.table(SOURCES)
    write = pq.write_table if kind == "parquet" else pyarrow.csv.write_csv
    write(table, tmp_path / f"a.{kind}")
    first, second, nameless = read(f"{tmp_path}?id=diaObjectId&band=g")
    assert (first.object_id, first.flux.tolist()) == (str(2**62 + 1), [10, 30])
    assert (first.ra_deg, first.dec_deg) == (359.9999, -90)
    assert (second.object_id, second.flux.tolist()) == (str(2**62), [11, 12])
    assert (second.ra_deg, second.dec_deg) == (10, 6)
    assert nameless.kind == "missing"


def test_a_band_that_a_table_lacks_is_said_with_those_that_it_has(tmp_path, caplog):
    pq.write_table(pa.table(SOURCES), tmp_path / "a.parquet")
    assert read(f"{tmp_path}?id=diaObjectId&band=z") == []
    assert "has nothing in band z: its bands are g, r" in caplog.text


def test_parquet_of_one_measurement_a_row_is_told_from_one_of_lists(tmp_path):
    pq.write_table(pa.table(SOURCES), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match="say which column names the object with id="):
        read(f"{tmp_path}?band=g")
    lists = {name: [values] for name, values in SOURCES.items() if name != "diaObjectId"}
    pq.write_table(pa.table(lists), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match="leave id=ra out, where a row is a light curve"):
        read(f"{tmp_path}?id=ra")


def test_measurements_whose_columns_hold_no_positions_are_read_and_it_is_said(tmp_path, caplog):
    rows = [f"{name},{day},1{day},120.{name},{name}0.0" for name in (1, 2) for day in range(4)]
    (tmp_path / "a.csv").write_text("\n".join(["id,MJD,flux,dec,ra", *rows]))
    first, _ = read(f"{tmp_path}?id=id")
    assert np.isnan([first.ra_deg, first.dec_deg]).all()
    assert "look exchanged" in caplog.text


@pytest.mark.parametrize("text", ["", "\n", "time,flux\n1,x\n2,3\n", "1,2\n3\n", "\0\0\0"])
def test_text_that_is_no_light_curve_is_a_reject_or_refused(tmp_path, text):
    (tmp_path / "0.csv").write_text("time,flux\n1,2\n2,3\n")
    (tmp_path / "1.csv").write_text(text)
    first, second = read(f"{tmp_path}?time=BTJD")
    assert isinstance(first, LightCurve)
    assert isinstance(second, Reject)
    assert second.kind in ("corrupt", "schema")


BANDS = "ID,MJD,flux,band\n" + "".join(
    f"{name},{50000 + day},{day % 3 + 1 + 100 * place},{band}\n"
    for name in "AB"
    for day in range(5)
    for place, band in enumerate("gr")
)


def test_measurements_in_several_bands_are_no_light_curve_until_one_is_chosen(tmp_path):
    (tmp_path / "a.csv").write_text(BANDS)
    with pytest.raises(ConfigError, match="in the bands g, r, expected one: say which"):
        read(f"{tmp_path}/a.csv?id=ID")
    curves = read(f"{tmp_path}/a.csv?id=ID&band=r")
    assert [curve.flux.tolist() for curve in curves] == [[101, 102, 103, 101, 102]] * 2
    (tmp_path / "b.csv").write_text(BANDS.replace("band", "color"))
    with pytest.raises(ConfigError, match=r"band is 'g', but .* has no column of bands"):
        read(f"{tmp_path}/b.csv?id=ID&band=g")


def test_a_row_with_several_bands_is_a_reject_until_one_is_chosen(tmp_path):
    lists = {"MJD": [[1.0, 2.0, 3.0, 4.0]] * 2, "flux": [[1.0, 2.0, 30.0, 40.0]] * 2}
    bands = [["g", "g", "r", "r"], ["g"] * 4]
    pq.write_table(pa.table({"id": ["a", "b"], **lists, "band": bands}), tmp_path / "a.parquet")
    mixed, plain = read(f"{tmp_path}/a.parquet")
    assert (mixed.kind, plain.flux.tolist()) == ("bands", [1, 2, 30, 40])
    assert read(f"{tmp_path}/a.parquet?band=r")[0].flux.tolist() == [30, 40]


def test_a_table_of_many_objects_without_id_is_refused_by_the_column_that_tells_them_apart(
    tmp_path,
):
    (tmp_path / "a.csv").write_text("ID,MJD,flux\nA,1,1\nA,2,2\nB,1,1\nB,2,2\n")
    with pytest.raises(ConfigError, match=r"a.csv goes backwards, .* say id=ID"):
        shards_of(f"{tmp_path}/a.csv")


def test_measurements_without_an_identifier_are_not_taken_for_one_object(tmp_path):
    text = "ID,MJD,flux\n" + "".join(
        f"{n},{day},{day % 3}\n" for n in ("A", "") for day in range(4)
    )
    (tmp_path / "a.csv").write_text(text)
    named, nameless = read(f"{tmp_path}/a.csv?id=ID")
    assert (named.object_id, nameless.kind) == ("A", "missing")
    assert "4 measurements" in nameless.reason


def test_files_of_two_kinds_are_refused_and_strange_ones_left_out(tmp_path):
    (tmp_path / "LICENSE").touch()
    with pytest.raises(ConfigError, match="has no light curves"):
        shards_of(tmp_path)
    (tmp_path / "a.csv").write_text("time,flux\n1,2\n2,3\n")
    assert shards_of(f"{tmp_path}?time=BTJD")[0].num_rows == 1
    np.savez(tmp_path / "b.npz", time=TIME, flux=fluxes())
    with pytest.raises(ConfigError, match="name one kind with a glob"):
        shards_of(f"{tmp_path}?time=BTJD")


@pytest.mark.parametrize(
    ("name", "star"),
    [("kplr010002792-2009259160929_llc.fits", "KIC 10002792"), ("EPIC_211.csv", "EPIC 211"),
     ("hlsp-tic_0042.npz", "TIC 42"), ("arctic42.csv", ""), ("quiet_star_001.csv", "")],
)  # fmt: skip
def test_the_star_in_a_files_name(name, star):
    assert star_of_file(f"/a/tic7/{name}") == star


def test_files_without_a_star_in_the_name_are_called_by_their_path(tmp_path):
    for folder in ("quiet", "flaring"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "s1.csv").write_text("time,flux\n1,2\n2,3\n")
    assert [curve.object_id for curve in read(f"{tmp_path}?time=BTJD")] == [
        "flaring/s1",
        "quiet/s1",
    ]


def test_a_table_beside_light_curves_is_named_with_the_way_to_leave_it_out(tmp_path):
    (tmp_path / "index.csv").write_text("file,kic\nstar.csv,1\n")
    (tmp_path / "star.csv").write_text("time,flux\n" + "".join(f"{t},1.0\n" for t in TIME[:50]))
    with pytest.raises(ConfigError, match=r"index\.csv has no column of time.* with a glob"):
        read(f"{tmp_path}?format=light_curves&time=BTJD")
    (curve,) = read(f"{tmp_path}/star*.csv?format=light_curves&time=BTJD")
    assert len(curve.time_d) == 50
