"""What a FITS file of Kepler, K2 or TESS says of its light curve.

Read are the missions' own files (Kepler and K2 llc and slc, TESS lc and fast-lc, TESS-SPOC) and
those that others made of their pixels:

    K2SC      HDUs PDC and SAP, flux less what follows the position (Aigrain et al. 2016)
    K2SFF     HDU BESTAPER: T, FCOR, for sap FRAW; MOVING is where thrusters fired (Vanderburg &
              Johnson 2014)
    K2VARCAT  DETFLUX, for sap APTFLUX (Armstrong et al. 2015)
    EVEREST   FLUX, for sap FRAW (Luger et al. 2016)
    QLP       KSPSAP_FLUX, from sector 56 on DET_FLUX, both less a spline; for sap SAP_FLUX (Huang
              et al. 2020)
    eleanor   CORR_FLUX, for sap RAW_FLUX; BTJD without a word of it (Feinstein et al. 2019)
    lightkurve, AltaiPony  FLUX, whatever was put there; the unit of TIME, or a card, names its zero

Times are barycentric and TDB as the headers say, in the middle of cadences, with TIMECORR already
in them. A header that says otherwise rejects the file; one that says nothing is believed to copy
the mission's times, as K2VARCAT does. Kepler files before version 5.0 are rejected too: their
times are UTC while their headers say TDB (archive.stsci.edu/kepler/timing_error.html).
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import get_args

import numpy as np
from astropy.io import fits

from astroray.errors import SchemaError
from astroray.surveys.fits_tables import Hdu, Header, find_table, read_hdus
from astroray.surveys.light_curve_rows import ZERO_JD, FluxKind, RawCurve, TimeZero
from astroray.surveys.quality import KeplerQuality, Mission

_TABLES = {"pdcsap": ("LIGHTCURVE", "PDC"), "sap": ("LIGHTCURVE", "SAP")}
_K2SC: Mapping[str, FluxKind] = {"PDC": "pdcsap", "SAP": "sap"}
"""What FLUX is in a table of such a name."""
_TIMES = ("TIME", "T")
_FLUX: Mapping[str, tuple[tuple[str, str, FluxKind], ...]] = {
    "pdcsap": (
        ("PDCSAP_FLUX", "PDCSAP_FLUX_ERR", "pdcsap"),
        ("KSPSAP_FLUX", "KSPSAP_FLUX_ERR", "flux"),
        ("DET_FLUX", "DET_FLUX_ERR", "flux"),
        ("DETFLUX", "DETFLUX_ERR", "flux"),
        ("CORR_FLUX", "FLUX_ERR", "flux"),
    ),
    "sap": (
        ("SAP_FLUX", "SAP_FLUX_ERR", "sap"),
        ("APTFLUX", "APTFLUX_ERR", "sap"),
        ("FRAW", "FRAW_ERR", "sap"),
        ("RAW_FLUX", "FLUX_ERR", "sap"),
    ),
}
_QUALITY = ("SAP_QUALITY", "QUALITY", "TESS_FLAGS", "DQUALITY")
_THRUSTERS = "MOVING"
"""K2SFF's only flag."""
_ZERO_BY_UNIT: Mapping[str, TimeZero] = {"bkjd": "BKJD", "btjd": "BTJD"}
"""Units that lightkurve gives TIME."""
_META = {
    "teff_k": ("TEFF",), "logg": ("LOGG",), "radius_sun": ("RADIUS",),
    "metallicity_dex": ("FEH", "MH"), "kepler_mag": ("KEPMAG",), "tess_mag": ("TESSMAG", "TMAG"),
    "quarter": ("QUARTER",), "campaign": ("CAMPAIGN",), "sector": ("SECTOR",),
}  # fmt: skip
_CATALOGS: Mapping[Mission, str] = {"kepler": "KIC", "k2": "EPIC", "tess": "TIC"}
_TIC = ("TICID", "TIC_ID", "TARGETID")
_KIC = ("KEPLERID", "TARGETID")
_FIRST_EPIC = 200_000_000
_DAYS_SINCE = re.compile(r"BJD\s*-\s*(\d+(?:\.\d*)?)")
_FIRST_TDB_VERSION = 5.0


def is_light_curve(hdus: fits.HDUList) -> bool:
    """Whether an open FITS file is a light curve of Kepler, K2 or TESS."""
    telescope = str(hdus[0].header.get("TELESCOP", "")).strip().lower()
    own = {"LIGHTCURVE", "BESTAPER", "LC ARRAYS"}
    return telescope in ("kepler", "tess") and any(hdu.name in own for hdu in hdus)


def read_fits(
    path: str,
    *,
    flux: str,
    otherwise_zero: str,
    otherwise_mission: Mission,
    data: bytes | None = None,
) -> RawCurve:
    """The light curve in a FITS file; only the columns of time, flux, error and quality are read.

    `flux` is pdcsap, sap or the name of a column; `otherwise_zero` and `otherwise_mission` count
    where the header does not say; `data` are its bytes where they are at hand.
    Raises FileError or ShardError where the file cannot be read, SchemaError where it has no such
    columns or its header contradicts itself.
    """
    hdus = read_hdus(path, data)
    table, time_column = _find_table(hdus, flux, path)
    primary = hdus[0].header
    mission = _mission(primary, path, otherwise_mission)
    zero, shift_d = _time_zero(table, time_column, primary, path, otherwise_zero)
    flux_column, error_column, kind = _flux_columns(table, flux)
    ra_deg, dec_deg = _position(primary, table.header)
    time_d = table.numbers(time_column)
    return RawCurve(
        object_id=_object_id(primary, mission, path),
        ra_deg=ra_deg,
        dec_deg=dec_deg,
        time_d=time_d + shift_d if shift_d else time_d,
        time_zero=zero,
        flux=table.numbers(flux_column),
        flux_err=table.numbers(error_column) if error_column in table.columns else None,
        quality=_quality(table, mission),
        flux_kind=kind,
        mission=mission,
        meta=_meta(primary),
    )


def _find_table(hdus: Sequence[Hdu], flux: str, path: str) -> tuple[Hdu, str]:
    """The table of the light curve and its column of time. Raises SchemaError where none is."""
    for column in _TIMES:
        table = find_table(hdus, names=_TABLES.get(flux, _TABLES["pdcsap"]), column=column)
        if table is not None:
            return table, column
    raise SchemaError(
        f"{path} has no table with a column TIME, expected a light curve; name the files of "
        "light curves with a glob"
    )


def _quality(table: Hdu, mission: Mission) -> np.ndarray | None:
    """Bits of each cadence; None where the file has none."""
    column = next((name for name in _QUALITY if name in table.columns), None)
    if column:
        return table.numbers(column)
    if mission == "k2" and _THRUSTERS in table.columns:
        return np.where(table.numbers(_THRUSTERS) > 0, float(KeplerQuality.THRUSTER_FIRING), 0.0)
    return None


def _mission(primary: Header, path: str, otherwise: Mission) -> Mission:
    """Raises SchemaError where the header names another telescope, or two missions."""
    telescope = primary.text("TELESCOP").lower()
    named = primary.text("MISSION").lower()
    if telescope not in ("kepler", "tess", ""):
        raise SchemaError(
            f"{path} is of the telescope {primary.text('TELESCOP')!r}, expected Kepler or TESS"
        )
    if named not in ("kepler", "k2", "tess", ""):
        raise SchemaError(
            f"{path} is of the mission {primary.text('MISSION')!r}, expected Kepler, K2 or TESS"
        )
    is_tess = {telescope == "tess"} if telescope else set()
    is_tess |= {named == "tess"} if named else set()
    catalogs = ((True, "TICID"), (True, "TIC_ID"), (False, "KEPLERID"))
    is_tess |= {has for has, key in catalogs if primary.text(key)}
    if not is_tess:
        return otherwise
    if len(is_tess) > 1:
        raise SchemaError(
            f"header of {path} contradicts itself: telescope {primary.text('TELESCOP')!r}, mission "
            f"{primary.text('MISSION')!r}, KEPLERID {primary.text('KEPLERID')!r}, TICID "
            f"{primary.text('TICID')!r}; expected those of one mission"
        )
    if True in is_tess:
        return "tess"
    is_epic = primary.number("KEPLERID") >= _FIRST_EPIC
    if named == "kepler" and is_epic:
        raise SchemaError(
            f"{path} says MISSION = 'Kepler', but KEPLERID {primary.text('KEPLERID')} is of K2; "
            "its header is wrong"
        )
    return "k2" if named == "k2" or is_epic else "kepler"


def _time_zero(
    table: Hdu, column: str, primary: Header, path: str, otherwise: str
) -> tuple[TimeZero, float]:
    """The zero point of the times, and days to add where it is none of the named ones.

    Raises SchemaError where times are not barycentric TDB in days, or their zero is not stated.
    """
    _check_time_system(table.header, primary, path)
    reference = table.header.number("BJDREFI")
    fraction = table.header.number("BJDREFF")
    unit = table.unit(column)
    counted = _DAYS_SINCE.match(unit)
    if math.isfinite(reference):
        zero_jd = reference + (fraction if math.isfinite(fraction) else 0.0)
    elif counted:
        zero_jd = float(counted[1])
    elif unit.lower() in _ZERO_BY_UNIT:
        return _ZERO_BY_UNIT[unit.lower()], 0.0
    else:
        is_eleanor = bool(primary.text("TIC_ID")) and "CORR_FLUX" in table.columns
        named = primary.text("time_format").upper() or ("BTJD" if is_eleanor else otherwise)
        for zero in get_args(TimeZero):
            if named == zero:
                return zero, 0.0
        raise SchemaError(
            f"{path} does not say from when TIME counts (no BJDREFI, unit {unit!r}), expected one "
            f"of {get_args(TimeZero)}; say it with time=, e.g. time=BKJD"
        )
    names = {jd: name for name, jd in ZERO_JD.items()}
    return (names[zero_jd], 0.0) if zero_jd in names else ("BJD", zero_jd)


def _check_time_system(header: Header, primary: Header, path: str) -> None:
    system = (header.text("TIMESYS") or primary.text("time_scale")).upper()
    place = header.text("TIMEREF").upper()
    unit = header.text("TIMEUNIT").lower()
    if system not in ("TDB", "") or place not in ("SOLARSYSTEM", "") or unit not in ("d", ""):
        raise SchemaError(
            f"{path} has times in system {system or 'TDB'}, referred to {place or 'SOLARSYSTEM'}, "
            f"unit {unit or 'd'}; expected TDB at SOLARSYSTEM in d"
        )
    is_kepler = primary.text("MISSION").lower() == "kepler"
    if is_kepler and primary.number("FILEVER") < _FIRST_TDB_VERSION:
        raise SchemaError(
            f"{path} has FILEVER {primary.text('FILEVER')}, expected at least "
            f"{_FIRST_TDB_VERSION}: before that Kepler's times are UTC, though the header says "
            "TDB; fetch it again from the archive"
        )


def _flux_columns(table: Hdu, flux: str) -> tuple[str, str, FluxKind]:
    """Columns of flux and its error, and what the flux is. Raises SchemaError where none is."""
    for column, error, kind in _FLUX.get(flux, ()):
        if column in table.columns:
            return column, error, kind
    if flux not in _FLUX and flux.upper() in table.columns:
        return flux.upper(), f"{flux.upper()}_ERR", "flux"
    if "FLUX" in table.columns and flux in _FLUX:
        kind = _K2SC.get(table.name, "flux")
        return "FLUX", "FLUX_ERR" if kind == "flux" else "ERROR", kind
    if "FCOR" in table.columns and flux == "pdcsap":
        return "FCOR", "FCOR_ERR", "flux"
    wanted = _FLUX[flux][0][0] if flux in _FLUX else flux.upper()
    marks = ("FLUX", "FRAW", "FCOR")
    found = [name for name in table.columns if any(mark in name for mark in marks)]
    found = [name for name in found if "ERR" not in name]
    raise SchemaError(
        f"{table.path} has no {flux} flux, expected a column {wanted}; it has "
        f"{', '.join(found) or 'none'}: name one with flux=, or see flux=sap"
    )


def _object_id(primary: Header, mission: Mission, path: str) -> str:
    """The target as its catalog calls it; empty where the header names none.

    Raises SchemaError where OBJECT and the identifier are of different targets.
    """
    named = primary.text("OBJECT") or primary.text("LABEL")
    keys = _TIC if mission == "tess" else _KIC
    number = next((text for text in map(primary.text, keys) if text), "")
    digits = re.search(r"\d+$", named)
    if digits and number.isdecimal() and int(digits[0]) != int(number):
        raise SchemaError(
            f"header of {path} is of two targets: {named!r} and {number}; expected one"
        )
    if number.isdecimal() and mission in _CATALOGS:
        return f"{_CATALOGS[mission]} {int(number)}"
    return named


def _position(primary: Header, table: Header) -> tuple[float, float]:
    """ICRS; the primary header's, which is that of the input catalog; NaN together if unknown."""
    ra_deg = _first_number(primary, ("RA_OBJ", "RA", "CEN_RA"))
    dec_deg = _first_number(primary, ("DEC_OBJ", "DEC", "CEN_DEC"))
    system = primary.text("RADESYS") or table.text("RADESYS") or "ICRS"
    if system == "ICRS" and 0 <= ra_deg <= 360 and -90 <= dec_deg <= 90:
        return ra_deg % 360.0, dec_deg
    return math.nan, math.nan


def _meta(primary: Header) -> dict[str, float]:
    found = {name: _first_number(primary, keys) for name, keys in _META.items()}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _first_number(header: Header, keys: tuple[str, ...]) -> float:
    numbers = (header.number(key) for key in keys)
    return next((number for number in numbers if math.isfinite(number)), math.nan)
