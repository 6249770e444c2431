"""Light curves that others made of the missions' pixels, as archives and lightkurve have them."""

import numpy as np
import pytest
from astropy.io import fits

from astroray.errors import ConfigError
from astroray.surveys.light_curve_fits import is_light_curve
from astroray.surveys.shards import Reject
from tests.light_curves_made import PRIMARY, fluxes, read, shards_of, times, write_table

TESS_HALF_HOUR = 1325.3 + np.arange(200) / 48
NO_FLAG = np.zeros(200, np.int32)


def read_one(path, options=""):
    (found,) = read(f"{path}?{options}" if options else path)
    return found


def write_qlp(path, corrected, *, quality=NO_FLAG, **more):
    columns = {
        "TIME": TESS_HALF_HOUR, "CADENCENO": np.arange(200), "SAP_FLUX": fluxes() / 1000.0,
        f"{corrected}_FLUX": fluxes() / 1001.0, f"{corrected}_FLUX_ERR": np.full(200, 0.01),
        "QUALITY": quality, "ORBITID": NO_FLAG, "SAP_BKG": np.zeros(200),
        f"{corrected}_FLUX_SML": np.zeros(200), f"{corrected}_FLUX_LAG": np.zeros(200),
    } | more  # fmt: skip
    primary = PRIMARY["tess"] | {"ORIGIN": "MIT/QLP", "TICID": "358108509", "FILEVER": None}
    system = {"TUNIT1": "BJD - 2457000, days", "BJDREFI": 2457000, "TIMESYS": "TDB"}
    return write_table(path, columns, name="LIGHTCURVE", primary=primary, table=system)


@pytest.mark.parametrize("corrected", ["KSPSAP", "DET"])  # the second from sector 56 on
def test_qlp_gives_its_corrected_flux_and_the_aperture_s_where_asked(tmp_path, corrected):
    path = write_qlp(tmp_path / "q.fits", corrected)
    curve = read_one(path)
    assert (curve.object_id, curve.time_zero, curve.flux_kind) == ("TIC 358108509", "BTJD", "flux")
    np.testing.assert_array_equal(curve.flux, fluxes() / 1001.0)
    assert (curve.flux_err == 0.01).all()
    assert curve.cadence_s == pytest.approx(1800)
    assert curve.meta["radius_sun"] == 0.129
    sap = read_one(path, "flux=sap")
    assert (sap.flux_kind, sap.flux[0]) == ("sap", fluxes()[0] / 1000.0)
    with fits.open(path) as hdus:
        assert is_light_curve(hdus)


def test_scattered_light_is_masked_and_qlp_s_low_precision_where_asked(tmp_path):
    bits = NO_FLAG.copy()
    bits[3:6] = 4096, 2**30, 2048
    path = write_qlp(tmp_path / "q.fits", "DET", quality=bits)
    assert np.flatnonzero(np.isnan(read_one(path).flux)).tolist() == [3]
    assert np.flatnonzero(np.isnan(read_one(path, "quality=hard").flux)).tolist() == [3, 4, 5]


def test_any_column_of_flux_is_read_by_its_name(tmp_path):
    more = {"SYS_RM_FLUX": fluxes() / 999.0}
    path = write_qlp(tmp_path / "q.fits", "DET", **more)
    curve = read_one(path, "flux=sys_rm_flux")
    assert (curve.flux[7], curve.flux_kind) == (fluxes()[7] / 999.0, "flux")
    assert np.isnan(curve.flux_err).all()
    with pytest.raises(ConfigError, match="has SAP_FLUX, DET_FLUX, DET_FLUX_SML, DET_FLUX_LAG, SY"):
        shards_of(f"{path}?flux=kspsap_flux")
    np.savez(tmp_path / "tic7.npz", time_btjd=TESS_HALF_HOUR, flux=fluxes())
    with pytest.raises(ConfigError, match="only of FITS files it names a column"):
        shards_of(f"{tmp_path}/*.npz?format=light_curves&flux=det_flux")


def test_k2sff_gives_its_best_aperture_without_cadences_in_which_thrusters_fired(tmp_path):
    moving = NO_FLAG.copy()
    moving[12] = 1
    best = {"T": times("k2"), "FRAW": fluxes() / 1000.0, "FCOR": fluxes() / 1001.0}
    best |= {"ARCLENGTH": np.zeros(200), "MOVING": moving, "CADENCENO": np.arange(200)}
    path = write_table(
        tmp_path / "hlsp_k2sff.fits", best, name="BESTAPER", primary=PRIMARY["k2"],
        table={"BJDREFI": 2454833, "TUNIT1": "BJD - 2454833"},
        more=[("CIRC_APER0", best | {"FCOR": np.zeros(200)})],
    )  # fmt: skip
    curve = read_one(path)
    assert (curve.object_id, curve.time_zero, curve.mission) == ("EPIC 211117077", "BKJD", "k2")
    assert (curve.flux[0], curve.flux_kind) == (fluxes()[0] / 1001.0, "flux")
    assert np.flatnonzero(np.isnan(curve.flux)).tolist() == [12]
    assert np.isfinite(read_one(path, "quality=none").flux).all()
    assert read_one(path, "flux=sap").flux[0] == fluxes()[0] / 1000.0


def test_everest_gives_what_it_detrended_and_not_that_for_sap(tmp_path):
    arrays = {"CADN": times("k2"), "FLUX": fluxes() * 1.0, "FRAW": fluxes() + 3.0}
    arrays |= {"FRAW_ERR": np.full(200, 9.0), "QUALITY": NO_FLAG, "TIME": times("k2")}
    arrays |= {"FCOR": fluxes() - 1.0}
    table = {"BJDREFI": 2454833, "TIMESYS": "TDB"}
    path = write_table(
        tmp_path / "e.fits", arrays, name="LC ARRAYS", primary=PRIMARY["k2"], table=table
    )
    assert read_one(path).flux[0] == fluxes()[0]
    sap = read_one(path, "flux=sap")
    assert (sap.flux[0], sap.flux_err[0], sap.flux_kind) == (fluxes()[0] + 3.0, 9, "sap")


def test_eleanor_says_neither_mission_nor_zero_of_time_in_the_usual_words(tmp_path):
    lite = {"TIME": TESS_HALF_HOUR, "BARYCORR": np.zeros(200), "RAW_FLUX": fluxes() + 9.0,
            "CORR_FLUX": fluxes() * 1.0, "FLUX_ERR": np.full(200, 2.0),
            "QUALITY": NO_FLAG}  # fmt: skip
    cards = {"LITE": True, "TIC_ID": 358108509, "TMAG": 14.3, "SECTOR": 1, "CEN_RA": 51.1,
             "CEN_DEC": -77.4, "PCORIGIN": "MAST"}  # fmt: skip
    curve = read_one(write_table(tmp_path / "e.fits", lite, primary=cards))
    assert (curve.object_id, curve.time_zero, curve.mission) == ("TIC 358108509", "BTJD", "tess")
    assert (curve.ra_deg, curve.dec_deg, curve.meta["tess_mag"]) == (51.1, -77.4, 14.3)
    assert (curve.flux[0], curve.flux_err[0]) == (fluxes()[0], 2)
    assert read_one(tmp_path / "e.fits", "flux=sap").flux[0] == fluxes()[0] + 9


@pytest.mark.parametrize(
    ("mission", "zero", "quality", "cards", "name"),
    [
        ("tess", "BTJD", "QUALITY", {"TELESCOP": "TESS", "MISSION": "TESS", "OBJECT": "25155310",
         "TARGETID": 25155310, "SECTOR": 1}, "TIC 25155310"),
        ("kepler", "BKJD", "SAP_QUALITY", {"TELESCOP": "KEPLER", "MISSION": "Kepler",
         "OBJECT": "9726699", "KEPLERID": 9726699, "QUARTER": 2}, "KIC 9726699"),
    ],
)  # fmt: skip
def test_a_light_curve_that_lightkurve_wrote_is_one_of_its_star(
    tmp_path, mission, zero, quality, cards, name
):
    written = {"TIME": times(mission), "FLUX": fluxes() * 1.0, "FLUX_ERR": np.full(200, 3.0)}
    written |= {"CADENCENO": np.arange(200), quality: NO_FLAG}
    path = write_table(
        tmp_path / "lk.fits", written, name="LIGHTCURVE", primary=cards,
        table={"TUNIT1": zero.lower()},
    )  # fmt: skip
    curve = read_one(path)
    assert not isinstance(curve, Reject), curve.reason
    assert (curve.object_id, curve.time_zero, curve.mission) == (name, zero, mission)
    assert (curve.flux[0], curve.flux_err[0], curve.flux_kind) == (fluxes()[0], 3, "flux")
    assert curve.time_d[0] == times(mission)[0]
