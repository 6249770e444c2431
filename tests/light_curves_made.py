"""Light curves that tests make, in the files that Kepler, K2 and TESS publish."""

import numpy as np
from astropy.io import fits

from astroray import storage
from astroray.surveys import light_curves
from astroray.surveys.shards import SurveyUri

CADENCE_D = {"kepler": 0.0204335, "k2": 0.0204335, "tess": 2 / 1440}
FIRST_D = {"kepler": 169.5, "k2": 2228.8, "tess": 1325.3}
PRIMARY = {
    "kepler": {
        "TELESCOP": "Kepler", "MISSION": "Kepler", "OBJECT": "KIC 9726699", "KEPLERID": 9726699,
        "QUARTER": 2, "RA_OBJ": 297.7, "DEC_OBJ": 46.48, "RADESYS": "ICRS", "TEFF": 3661,
        "LOGG": 4.6, "RADIUS": 0.5, "FEH": None, "KEPMAG": 12.7, "FILEVER": "6.1",
    },
    "k2": {
        "TELESCOP": "Kepler", "MISSION": "K2", "OBJECT": "EPIC 211117077", "KEPLERID": 211117077,
        "CAMPAIGN": 4, "RA_OBJ": 55.97, "DEC_OBJ": 24.84, "RADESYS": "ICRS", "KEPMAG": 13.8,
        "FILEVER": "6.1",
    },
    "tess": {
        "TELESCOP": "TESS", "OBJECT": "TIC 358108509", "TICID": 358108509, "SECTOR": 1,
        "RA_OBJ": 51.1119, "DEC_OBJ": -77.4515, "RADESYS": "ICRS", "TEFF": 2824.0, "LOGG": 5.2,
        "RADIUS": 0.129, "MH": None, "TESSMAG": 14.3, "FILEVER": "1.0",
    },
}  # fmt: skip


def times(mission="kepler", num=200):
    """Cadences of a mission, evenly spaced."""
    return FIRST_D[mission] + CADENCE_D[mission] * np.arange(num)


def fluxes(num=200, *, seed=0):
    """A star of 1000 electrons a second with 1 % of noise, as float32."""
    return np.random.default_rng(seed).normal(1000, 10, num).astype(np.float32)


def write_mission(
    path, mission="kepler", *, time=None, flux=None, quality=None, primary=None, table=None,
    without=(),
):  # fmt: skip
    """A file as the mission's pipeline exports it: all of the twenty columns, and the aperture.

    `primary` and `table` change cards of the two headers (None removes one); `without` names
    columns to leave out. SAP flux is PDCSAP flux and 5.
    """
    time = times(mission) if time is None else np.asarray(time, float)
    flux = fluxes(len(time)) if flux is None else np.asarray(flux, np.float32)
    quality = np.zeros(len(time), np.int32) if quality is None else np.asarray(quality, np.int32)
    stored = {
        "TIME": ("D", time), "TIMECORR": ("E", 0.001), "CADENCENO": ("J", np.arange(len(time))),
        "SAP_FLUX": ("E", flux + 5), "SAP_FLUX_ERR": ("E", 11.0), "SAP_BKG": ("E", 1.0),
        "SAP_BKG_ERR": ("E", 1.0), "PDCSAP_FLUX": ("E", flux), "PDCSAP_FLUX_ERR": ("E", 10.0),
        "QUALITY" if mission == "tess" else "SAP_QUALITY": ("J", quality),
    } | {
        f"{kind}{axis}{err}": ("E" if err else "D", 0.0)
        for kind in ("PSF_CENTR", "MOM_CENTR") for axis in "12" for err in ("", "_ERR")
    } | {"POS_CORR1": ("E", 0.0), "POS_CORR2": ("E", 0.0)}  # fmt: skip
    columns = [
        fits.Column(name=name, format=form, array=np.broadcast_to(values, len(time)).copy())
        for name, (form, values) in stored.items()
        if name not in without
    ]
    first, second = fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns, name="LIGHTCURVE")
    set_cards(first.header, PRIMARY[mission] | (primary or {}))
    zero_jd = 2457000 if mission == "tess" else 2454833
    system = {"TIMESYS": "TDB", "TIMEREF": "SOLARSYSTEM", "TIMEUNIT": "d", "BJDREFI": zero_jd,
              "BJDREFF": 0.0, "RADESYS": "ICRS"}  # fmt: skip
    set_cards(second.header, system | (table or {}))
    aperture = fits.ImageHDU(np.ones((6, 5), np.int32), name="APERTURE")
    fits.HDUList([first, second, aperture]).writeto(path)
    return path


def write_table(path, columns, *, primary, name="", table=None, more=()):
    """A file of one plain table, or several: `more` holds further (name, columns)."""
    hdus = [fits.PrimaryHDU()]
    set_cards(hdus[0].header, primary)
    for extension, stored in ((name, columns), *more):
        made = [
            fits.Column(name=n, format={"f": "D", "i": "J"}[np.asarray(v).dtype.kind], array=v)
            for n, v in stored.items()
        ]
        hdus.append(fits.BinTableHDU.from_columns(made, name=extension))
        set_cards(hdus[-1].header, table or {})
    fits.HDUList(hdus).writeto(path)
    return path


def set_cards(header, cards):
    """Sets each card; None makes it undefined where it is new, and removes it where it is not."""
    for key, value in cards.items():
        if value is None and key in header:
            del header[key]
        else:
            header[key] = value


def read(survey, *, rows=None):
    """All that the survey's shards give, as a list."""
    found = []
    for shard in shards_of(survey):
        found += light_curves.read_light_curves(shard, rows=rows)
    return found


def shards_of(survey):
    """The shards of a survey of light curves."""
    uri = SurveyUri.parse(str(survey))
    return light_curves.list_shards(storage.list_files(uri.location), uri)
