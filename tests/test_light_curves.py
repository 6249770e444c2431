"""Light curves of Kepler, K2 and TESS are read right, and bad ones are rejects with a reason."""

import gzip
import re

import numpy as np
import pytest
from astropy.io import fits

from astroray.errors import ConfigError
from astroray.surveys import light_curves, quality
from astroray.surveys.fits_tables import read_hdus
from astroray.surveys.light_curve_fits import is_light_curve
from astroray.surveys.light_curves import LightCurve
from astroray.surveys.quality import KeplerQuality, TessQuality
from astroray.surveys.shards import Reject
from tests.light_curves_made import (
    PRIMARY,
    fluxes,
    read,
    shards_of,
    times,
    write_mission,
    write_table,
)

KNOWN = {
    "kepler": ("KIC 9726699", "BKJD", 1765.45, {"teff_k": 3661, "quarter": 2, "kepler_mag": 12.7}),
    "k2": ("EPIC 211117077", "BKJD", 1765.45, {"campaign": 4, "kepler_mag": 13.8}),
    "tess": ("TIC 358108509", "BTJD", 120.0, {"teff_k": 2824, "sector": 1, "tess_mag": 14.3}),
}


def read_one(path, options=""):
    (found,) = read(f"{path}?{options}" if options else path)
    return found


def rejected(path, options=""):
    found = read_one(path, options)
    assert isinstance(found, Reject), found
    assert (found.row, found.stage) == (0, "read")
    return found.kind, found.reason


@pytest.mark.parametrize("mission", ["kepler", "k2", "tess"])
def test_a_light_curve_comes_back_as_the_mission_wrote_it(tmp_path, mission):
    curve = read_one(write_mission(tmp_path / "a.fits", mission))
    object_id, zero, cadence_s, meta = KNOWN[mission]
    assert (curve.object_id, curve.time_zero, curve.mission) == (object_id, zero, mission)
    assert (curve.row, curve.flux_kind) == (0, "pdcsap")
    np.testing.assert_array_equal(curve.time_d, times(mission))
    np.testing.assert_array_equal(curve.flux, fluxes())
    assert (curve.flux_err == 10).all()
    assert curve.cadence_s == pytest.approx(cadence_s, abs=0.01)
    assert curve.ra_deg == PRIMARY[mission]["RA_OBJ"]
    assert curve.dec_deg == PRIMARY[mission]["DEC_OBJ"]
    assert meta.items() <= dict(curve.meta).items()
    assert "metallicity_dex" not in curve.meta  # an undefined card is no number
    for column in (curve.time_d, curve.flux, curve.flux_err):
        assert column.dtype == np.dtype(np.float64)
        assert column.dtype.isnative
    assert curve.quality.dtype == np.int32


def test_a_packed_file_equals_the_plain_one(tmp_path):
    plain = write_mission(tmp_path / "a.fits", quality=np.arange(200) % 5)
    packed = tmp_path / "a.fits.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    first, second = read_one(plain), read_one(packed)
    np.testing.assert_array_equal(first.flux, second.flux)
    np.testing.assert_array_equal(first.quality, second.quality)
    assert first.meta == second.meta


def test_sap_flux_is_read_where_it_is_asked_for(tmp_path):
    curve = read_one(write_mission(tmp_path / "a.fits"), "flux=sap")
    np.testing.assert_array_equal(curve.flux, fluxes() + np.float32(5))
    assert curve.flux_kind == "sap"
    assert (curve.flux_err == 11).all()


def test_a_missing_flux_column_is_no_reason_to_take_another(tmp_path):
    path = write_mission(tmp_path / "a.fits", without=("PDCSAP_FLUX", "PDCSAP_FLUX_ERR"))
    kind, reason = rejected(path)
    assert kind == "schema"
    assert "no pdcsap flux" in reason
    assert "it has SAP_FLUX" in reason
    assert read_one(path, "flux=sap").flux_kind == "sap"


def test_masked_flux_is_nan_and_its_time_and_bits_stay(tmp_path):
    bits = np.zeros(200, np.int32)
    bits[3] = KeplerQuality.COARSE_POINT | KeplerQuality.ZERO_CROSSING
    bits[5] = KeplerQuality.IMPULSIVE_OUTLIER
    curve = read_one(write_mission(tmp_path / "a.fits", quality=bits))
    assert np.flatnonzero(np.isnan(curve.flux)).tolist() == [3]
    np.testing.assert_array_equal(curve.quality, bits)
    np.testing.assert_array_equal(curve.time_d, times())
    assert curve.meta["cadences_masked"] == 1


@pytest.mark.parametrize(
    ("asked", "masked"), [("none", []), ("default", [1]), ("hard", [1, 2]), ("16", [3]),
                          ("0x812", [2, 3])],
)  # fmt: skip
def test_the_mask_is_the_users_choice(tmp_path, asked, masked):
    bits = np.zeros(200, np.int32)
    bits[1], bits[2], bits[3] = 8, 2048, 16
    curve = read_one(write_mission(tmp_path / "a.fits", quality=bits), f"quality={asked}")
    assert np.flatnonzero(np.isnan(curve.flux)).tolist() == masked


def test_cadences_without_a_time_are_dropped_and_counted(tmp_path):
    time = times()
    time[[0, 50, 199]] = np.nan
    curve = read_one(write_mission(tmp_path / "a.fits", time=time))
    np.testing.assert_array_equal(curve.time_d, time[np.isfinite(time)])
    np.testing.assert_array_equal(curve.flux, fluxes()[np.isfinite(time)])
    assert (curve.meta["cadences_read"], curve.meta["cadences_no_time"]) == (200, 3)


def test_infinite_flux_and_errors_that_are_none_become_nan(tmp_path):
    flux = fluxes()
    flux[7] = np.inf
    path = write_mission(tmp_path / "a.fits", flux=flux)
    assert np.isnan(read_one(path).flux[7])
    table = {"TIME": times(), "FLUX": fluxes(), "FLUX_ERR": np.where(np.arange(200) < 2, 0, 3.0)}
    bare = write_table(tmp_path / "b.fits", table, primary=PRIMARY["kepler"])
    assert np.isnan(read_one(bare, "time=BKJD").flux_err).sum() == 2


def test_a_cadence_that_stands_twice_alike_is_kept_once_and_counted(tmp_path):
    order = np.insert(np.arange(200), 10, [10, 10])
    path = write_mission(tmp_path / "a.fits", time=times()[order], flux=fluxes()[order])
    curve = read_one(path)
    np.testing.assert_array_equal(curve.flux, fluxes())
    assert (np.diff(curve.time_d) > 0).all()
    assert curve.meta["cadences_duplicate"] == 2


def test_another_zero_point_of_time_is_turned_into_bjd(tmp_path):
    path = write_mission(
        tmp_path / "a.fits", time=times() + 4833, table={"BJDREFI": 2450000, "BJDREFF": 0.5}
    )
    curve = read_one(path)
    assert curve.time_zero == "BJD"
    np.testing.assert_allclose(curve.time_d, times() + 2454833.5, rtol=0, atol=1e-9)


def test_k2sc_gives_the_hdu_of_the_flux_that_is_asked_for(tmp_path):
    bits = np.zeros(200, np.int32)
    bits[4] = KeplerQuality.THRUSTER_FIRING
    pdc = {"time": times("k2"), "quality": bits, "flux": fluxes() * 1.0, "error": np.full(200, 2.0)}
    path = write_table(
        tmp_path / "k2sc.fits",
        pdc,
        name="PDC",
        primary=PRIMARY["k2"],
        table={"TIMESYS": "TDB", "BJDREFI": 2454833},
        more=[("SAP", pdc | {"flux": fluxes() + 7.0})],
    )
    curve = read_one(path)
    assert (curve.object_id, curve.flux_kind) == ("EPIC 211117077", "pdcsap")
    assert np.isnan(curve.flux[4])
    assert curve.flux[0] == fluxes()[0]
    assert curve.flux_err[0] == 2
    sap = read_one(path, "flux=sap")
    assert (sap.flux_kind, sap.flux[0]) == ("sap", fluxes()[0] + 7.0)


def test_k2varcat_counts_time_by_the_unit_of_its_column(tmp_path):
    stored = {"TIME": times("k2"), "APTFLUX": fluxes() * 1.0, "DETFLUX": fluxes() / 1000.0}
    path = write_table(
        tmp_path / "v.fits", stored, primary=PRIMARY["k2"], table={"TUNIT1": "BJD - 2454833"}
    )
    curve = read_one(path)
    assert (curve.time_zero, curve.flux_kind, curve.flux[0]) == (
        "BKJD", "flux", fluxes()[0] / 1000.0,
    )  # fmt: skip
    assert np.isnan(curve.flux_err).all()
    assert read_one(path, "flux=sap").flux_kind == "sap"


def test_a_file_of_lightkurve_names_its_time_in_long_cards(tmp_path):
    stored = {"time": times("k2"), "flux": fluxes() * 1.0, "quality": np.zeros(200)}
    primary = {"MISSION": "K2", "LABEL": "EPIC 211983544", "KEPLERID": 211983544}
    primary |= {"RA": 130.6, "DEC": 19.9}
    primary |= {"HIERARCH time_format": "bkjd", "HIERARCH time_scale": "tdb"}
    curve = read_one(write_table(tmp_path / "a.fits", stored, primary=primary))
    assert (curve.object_id, curve.time_zero, curve.mission) == ("EPIC 211983544", "BKJD", "k2")
    assert (curve.ra_deg, curve.dec_deg, curve.flux_kind) == (130.6, 19.9, "flux")


def test_a_file_that_does_not_say_from_when_it_counts_needs_the_user(tmp_path):
    stored = {"TIME": times(), "FLUX": fluxes() * 1.0}
    path = write_table(tmp_path / "a.fits", stored, primary=PRIMARY["kepler"])
    kind, reason = rejected(path)
    assert kind == "schema"
    assert "say it with time=" in reason
    assert read_one(path, "time=BKJD").time_zero == "BKJD"


def test_columns_equal_those_that_astropy_reads(tmp_path):
    random = np.random.default_rng(3)
    columns = [
        fits.Column(name="L", format="L", array=[True] * 9),
        fits.Column(name="X", format="11X", array=np.ones((9, 11), bool)),
        fits.Column(name="A", format="7A", array=["text"] * 9),
        fits.Column(name="V", format="3E", array=np.ones((9, 3))),
        fits.Column(name="P", format="PE()", array=[np.ones(n) for n in range(9)]),
        fits.Column(name="B", format="B", array=np.arange(9)),
        fits.Column(name="I", format="I", array=np.arange(9) - 4, null=-4),
        fits.Column(name="J", format="J", bzero=2**31, array=np.arange(9, dtype=np.uint32)),
        fits.Column(name="K", format="K", array=np.arange(9) << 40),
        fits.Column(name="S", format="I", array=np.arange(9)),
        fits.Column(name="E", format="E", array=random.normal(size=9)),
        fits.Column(name="D", format="D", array=random.normal(size=9)),
    ]
    path = tmp_path / "a.fits"
    table = fits.BinTableHDU.from_columns(columns)
    table.header["TSCAL10"], table.header["TZERO10"] = 0.5, 3.0
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path)
    hdu = read_hdus(str(path))[1]
    with fits.open(path) as expected:
        for name in "BJKSED":
            np.testing.assert_array_equal(hdu.numbers(name), expected[1].data[name], name)
    assert hdu.numbers("S").tolist() == [3 + n / 2 for n in range(9)]
    assert np.isnan(hdu.numbers("I")[0])
    assert hdu.numbers("I")[1:].tolist() == [-3, -2, -1, 0, 1, 2, 3, 4]
    for name in "LXAVP":
        with pytest.raises(Exception, match="expected one number a row"):
            hdu.numbers(name)


def changed(values, where, value):
    values = np.array(values)
    values[where] = value
    return values


BAD = {
    "all NaN": ({"flux": np.full(200, np.nan)}, "empty", "0 numbers among 200 cadences"),
    "backwards": ({"time": times()[::-1]}, "time", r"goes backwards.*199 such steps"),
    "one step back": ({"time": changed(times(), 90, 0.0)}, "time", "goes backwards"),
    "twice": ({"time": changed(times(), 8, times()[7])}, "duplicate", "has two fluxes"),
    "one point": ({"time": times(num=1)}, "short", "1 cadences with a time"),
    "no point": ({"time": times(num=0)}, "short", "0 cadences with a time"),
    "no time": ({"time": np.full(200, np.nan)}, "short", "0 cadences with a time"),
    "one number": ({"flux": changed(np.full(200, np.nan), 3, 1)}, "empty", "1 numbers among 200"),
    "gap": ({"time": changed(times(), slice(100, None), times(num=100) + 1400)}, "gap",
            "a gap of 1398.0 d after time"),
    "masked": ({"quality": np.full(200, 4)}, "masked", "coarse_point in 200 cadences: the point"),
    "TESS star": ({"primary": {"TICID": 5}}, "schema", "contradicts itself"),
    "TESS telescope": ({"primary": {"TELESCOP": "TESS"}}, "schema", "contradicts itself"),
    "another telescope": ({"primary": {"TELESCOP": "CHEOPS"}}, "schema", "telescope 'CHEOPS'"),
    "another mission": ({"primary": {"MISSION": "K3"}}, "schema", "of the mission 'K3'"),
    "K2's star": ({"primary": {"KEPLERID": 211117077}}, "schema", "is of K2"),
    "two stars": ({"primary": {"OBJECT": "KIC 9726698"}}, "schema", "of two targets"),
    "TESS's zero": ({"table": {"BJDREFI": 2457000}}, "mission", "not within 2454897 to 2456500"),
    "K2's time": ({"time": times("k2")}, "mission", "says it is of kepler"),
    "UTC": ({"table": {"TIMESYS": "UTC"}}, "schema", "expected TDB at SOLARSYSTEM"),
    "not barycentric": ({"table": {"TIMEREF": "LOCAL"}}, "schema", "expected TDB at SOLARSYSTEM"),
    "in seconds": ({"table": {"TIMEUNIT": "s"}}, "schema", "expected TDB at SOLARSYSTEM in d"),
    "UTC said TDB": ({"primary": {"FILEVER": "3.0"}}, "schema", "Kepler's times are UTC"),
    "no time column": ({"without": ("TIME",)}, "schema", "no table with a column TIME"),
    "negative bits": ({"quality": np.full(200, -1)}, "schema", "has quality -1"),
}  # fmt: skip


@pytest.mark.parametrize(("made", "kind", "reason"), BAD.values(), ids=BAD)
def test_a_bad_light_curve_is_a_reject_that_says_why(tmp_path, made, kind, reason):
    got_kind, got_reason = rejected(write_mission(tmp_path / "a.fits", **made))
    assert got_kind == kind
    assert re.search(reason, got_reason)
    assert str(tmp_path) in got_reason


def test_a_long_gap_is_taken_where_the_user_says_so(tmp_path):
    made, _, _ = BAD["gap"]
    curve = read_one(write_mission(tmp_path / "a.fits", **made), "max_gap_d=1500")
    assert len(curve.time_d) == 200
    assert rejected(tmp_path / "a.fits", "max_gap_d=900")[0] == "gap"


def test_a_file_cut_anywhere_is_a_reject_and_never_a_light_curve(tmp_path):
    whole = write_mission(tmp_path / "whole.fits").read_bytes()
    aperture_bytes = 6 * 5 * 4
    last = len(whole) - 2880 + aperture_bytes  # the padding after it may be missing
    for name, data in {"plain.fits": whole[:last], "packed.fits.gz": gzip.compress(whole)}.items():
        folder = tmp_path / name
        folder.mkdir()
        cuts = np.linspace(0, len(data) - 1, 40).astype(int)
        for cut in cuts:
            (folder / f"{cut:06d}-{name}").write_bytes(data[:cut])
        found = read(folder)
        assert [item.row for item in found] == list(range(len(cuts)))
        assert {item.kind for item in found if isinstance(item, Reject)} == {"corrupt"}
        assert all(isinstance(item, Reject) for item in found)


def test_damaged_bytes_end_as_rejects_or_light_curves_and_never_as_a_crash(tmp_path):
    whole = np.frombuffer(write_mission(tmp_path / "whole.fits").read_bytes(), np.uint8)
    random = np.random.default_rng(5)
    folder = tmp_path / "damaged"
    folder.mkdir()
    for i in range(150):
        data = whole.copy()
        where = random.integers(0, 5 * 2880, 12)  # the headers
        data[where] = random.integers(32, 127, 12)
        (folder / f"{i:03d}.fits").write_bytes(data.tobytes())
    found = read(folder)
    assert [item.row for item in found] == list(range(150))
    assert {type(item) for item in found} == {LightCurve, Reject}


@pytest.mark.parametrize("data", [b"", b"no FITS", b"SIMPLE  =", b"\x1f\x8b\x08", b"\0" * 3000])
def test_what_is_no_fits_file_is_a_reject(tmp_path, data):
    (tmp_path / "a.fits").write_bytes(data)
    assert rejected(tmp_path / "a.fits")[0] == "corrupt"


def test_an_image_is_no_light_curve(tmp_path):
    fits.PrimaryHDU(np.ones((8, 8))).writeto(tmp_path / "a.fits")
    kind, reason = rejected(tmp_path / "a.fits")
    assert kind == "schema"
    assert "no table with a column TIME" in reason


def test_a_file_that_is_gone_is_a_reject_of_its_row_alone(tmp_path):
    for name in "abc":
        write_mission(tmp_path / f"{name}.fits")
    (shard,) = shards_of(tmp_path)
    (tmp_path / "b.fits").unlink()
    first, second, third = light_curves.read_light_curves(shard)
    assert (first.row, second.row, third.row) == (0, 1, 2)
    assert (second.stage, second.kind) == ("read", "missing")
    (only,) = light_curves.read_light_curves(shard, rows=[2])
    np.testing.assert_array_equal(only.flux, third.flux)


def test_positions_that_are_none_are_nan_together(tmp_path):
    half = write_mission(tmp_path / "a.fits", primary={"DEC_OBJ": None})
    assert np.isnan([read_one(half).ra_deg, read_one(half).dec_deg]).all()
    wrong = write_mission(tmp_path / "b.fits", primary={"DEC_OBJ": 91.0})
    assert np.isnan(read_one(wrong).ra_deg)


def test_files_become_shards_of_at_most_the_asked_size_in_order(tmp_path):
    for i in range(5):
        write_mission(tmp_path / f"{i}.fits", primary={"OBJECT": f"KIC {i}", "KEPLERID": i})
    shards = shards_of(f"{tmp_path}?shard_files=2")
    assert [shard.num_rows for shard in shards] == [2, 2, 1]
    assert {shard.reader for shard in shards} == {"light_curves"}
    found = read(f"{tmp_path}?shard_files=2")
    assert [item.object_id for item in found] == [f"KIC {i}" for i in range(5)]
    assert [item.row for item in found] == [0, 1, 0, 1, 0]


@pytest.mark.parametrize(
    "option", ["flux=best", "quality=soft", "quality=-1", "time=UTC", "mission=hubble",
               "max_gap_d=-1", "max_gap_d=nan", "fluxx=sap", "shard_files=0"],
)  # fmt: skip
def test_options_that_cannot_work_are_refused_before_reading(tmp_path, option):
    write_mission(tmp_path / "a.fits")
    with pytest.raises(ConfigError, match=option.partition("=")[0]):
        shards_of(f"{tmp_path}?{option}")


def test_a_light_curve_file_is_told_from_an_image_by_its_header(tmp_path):
    with fits.open(write_mission(tmp_path / "a.fits", "tess")) as hdus:
        assert is_light_curve(hdus)
    stored = {"TIME": times(), "FLUX": fluxes() * 1.0}
    with fits.open(write_table(tmp_path / "b.fits", stored, primary={"TELESCOP": "TESS"})) as hdus:
        assert not is_light_curve(hdus)


def test_the_default_masks_are_those_of_the_missions_but_for_what_flares_set():
    assert quality.mask_bits("default", "kepler") == 1 | 2 | 4 | 8 | 32 | 256 | 16384 | 65536
    assert quality.mask_bits("default", "k2") == 1130799  # lightkurve's default of Kepler and K2
    spoc = 1 | 2 | 4 | 8 | 16 | 32 | 128 | 4096 | 16384 | 32768
    assert quality.mask_bits("default", "tess") == spoc
    for mission, flags in (("kepler", KeplerQuality), ("k2", KeplerQuality), ("tess", TessQuality)):
        flares = flags.IMPULSIVE_OUTLIER | flags.APERTURE_COSMIC_RAY
        assert quality.mask_bits("default", mission) & flares == 0
        hard = quality.mask_bits("hard", mission)
        assert hard & flares == flares
        assert hard & quality.mask_bits("default", mission) == quality.mask_bits("default", mission)


def test_bits_of_an_unknown_mission_mask_a_cadence_whatever_they_are():
    assert (np.array([0, 1, 2**30], np.int32) & np.int32(quality.mask_bits("hard", "other"))).any()
    assert quality.explain_mask(np.array([0, 4, 5]), -1, "other") == (
        "bit 4 in 2 cadences; bit 1 in 1 cadences"
    )
