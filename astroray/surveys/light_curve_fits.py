"""What a FITS file of Kepler, K2 or TESS says of its light curve.

Read are the missions' own files (Kepler and K2 llc and slc, TESS lc and fast-lc), K2SC (Aigrain,
Parviainen & Pope 2016: flux less the part that follows the position; HDUs PDC and SAP), K2VARCAT
(Armstrong et al. 2015: DETFLUX for pdcsap, APTFLUX for sap) and the files that lightkurve and
AltaiPony write (`flux`). Times are barycentric and TDB as the headers say, with TIMECORR already
in them. A header that says otherwise rejects the file; one that says nothing is believed to copy
the mission's times, as K2VARCAT does. Kepler files before version 5.0 are rejected too: their
times are UTC while their headers say TDB (archive.stsci.edu/kepler/timing_error.html).
"""

import math
import re
from collections.abc import Mapping
from typing import get_args

from astropy.io import fits

from astroray.errors import SchemaError
from astroray.surveys.fits_tables import Hdu, Header, find_table, read_hdus
from astroray.surveys.light_curve_rows import ZERO_JD, FluxKind, RawCurve, TimeZero
from astroray.surveys.quality import Mission

_TABLES = {"pdcsap": ("LIGHTCURVE", "PDC"), "sap": ("LIGHTCURVE", "SAP")}
_FLUX: Mapping[str, tuple[tuple[str, str, FluxKind], ...]] = {
    "pdcsap": (
        ("PDCSAP_FLUX", "PDCSAP_FLUX_ERR", "pdcsap"),
        ("DETFLUX", "DETFLUX_ERR", "flux"),
    ),
    "sap": (("SAP_FLUX", "SAP_FLUX_ERR", "sap"), ("APTFLUX", "APTFLUX_ERR", "sap")),
}
_QUALITY = ("SAP_QUALITY", "QUALITY")
_META = {
    "teff_k": ("TEFF",), "logg": ("LOGG",), "radius_sun": ("RADIUS",),
    "metallicity_dex": ("FEH", "MH"), "kepler_mag": ("KEPMAG",), "tess_mag": ("TESSMAG",),
    "quarter": ("QUARTER",), "campaign": ("CAMPAIGN",), "sector": ("SECTOR",),
}  # fmt: skip
_CATALOGS: Mapping[Mission, str] = {"kepler": "KIC", "k2": "EPIC", "tess": "TIC"}
_FIRST_EPIC = 200_000_000
_DAYS_SINCE = re.compile(r"BJD\s*-\s*(\d+(?:\.\d*)?)")
_FIRST_TDB_VERSION = 5.0


def is_light_curve(hdus: fits.HDUList) -> bool:
    """Whether an open FITS file is a light curve as Kepler, K2 or TESS publish it."""
    telescope = str(hdus[0].header.get("TELESCOP", "")).strip().lower()
    return telescope in ("kepler", "tess") and any(hdu.name == "LIGHTCURVE" for hdu in hdus)


def read_fits(
    path: str,
    *,
    flux: str,
    otherwise_zero: str,
    otherwise_mission: Mission,
    data: bytes | None = None,
) -> RawCurve:
    """The light curve in a FITS file; only the columns of time, flux, error and quality are read.

    `flux` is pdcsap or sap; `otherwise_zero` and `otherwise_mission` count where the header does
    not say; `data` are its bytes where they are at hand.
    Raises FileError or ShardError where the file cannot be read, SchemaError where it has no such
    columns or its header contradicts itself.
    """
    hdus = read_hdus(path, data)
    table = find_table(hdus, names=_TABLES[flux], column="TIME")
    if table is None:
        raise SchemaError(
            f"{path} has no table with a column TIME, expected a light curve; name the files of "
            "light curves with a glob"
        )
    primary = hdus[0].header
    mission = _mission(primary, path, otherwise_mission)
    zero, shift_d = _time_zero(table, primary, path, otherwise_zero)
    flux_column, error_column, kind = _flux_columns(table, flux)
    quality = next((name for name in _QUALITY if name in table.columns), None)
    ra_deg, dec_deg = _position(primary, table.header)
    time_d = table.numbers("TIME")
    return RawCurve(
        object_id=_object_id(primary, mission, path),
        ra_deg=ra_deg,
        dec_deg=dec_deg,
        time_d=time_d + shift_d if shift_d else time_d,
        time_zero=zero,
        flux=table.numbers(flux_column),
        flux_err=table.numbers(error_column) if error_column in table.columns else None,
        quality=table.numbers(quality) if quality else None,
        flux_kind=kind,
        mission=mission,
        meta=_meta(primary),
    )


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
    is_tess |= {has for has, key in ((True, "TICID"), (False, "KEPLERID")) if primary.text(key)}
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


def _time_zero(table: Hdu, primary: Header, path: str, otherwise: str) -> tuple[TimeZero, float]:
    """The zero point of TIME, and days to add where it is none of the named ones.

    Raises SchemaError where times are not barycentric TDB in days, or their zero is not stated.
    """
    _check_time_system(table.header, primary, path)
    reference = table.header.number("BJDREFI")
    fraction = table.header.number("BJDREFF")
    unit = table.unit("TIME")
    counted = _DAYS_SINCE.match(unit)
    if math.isfinite(reference):
        zero_jd = reference + (fraction if math.isfinite(fraction) else 0.0)
    elif counted:
        zero_jd = float(counted[1])
    else:
        named = primary.text("time_format").upper() or otherwise
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
    for column, error, kind in _FLUX[flux]:
        if column in table.columns:
            return column, error, kind
    if "FLUX" in table.columns:
        if table.name in _TABLES[flux]:  # K2SC: the HDU's name says of what
            return "FLUX", "ERROR", "pdcsap" if flux == "pdcsap" else "sap"
        return "FLUX", "FLUX_ERR", "flux"
    found = [name for name in table.columns if "FLUX" in name and "ERR" not in name]
    raise SchemaError(
        f"{table.path} has no {flux} flux, expected a column {_FLUX[flux][0][0]}; it has "
        f"{', '.join(found) or 'none'}: see flux=pdcsap or flux=sap"
    )


def _object_id(primary: Header, mission: Mission, path: str) -> str:
    """The target as its catalog calls it; empty where the header names none.

    Raises SchemaError where OBJECT and the identifier are of different targets.
    """
    named = primary.text("OBJECT") or primary.text("LABEL")
    number = primary.text("TICID" if mission == "tess" else "KEPLERID")
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
    ra_deg = _first_number(primary, ("RA_OBJ", "RA"))
    dec_deg = _first_number(primary, ("DEC_OBJ", "DEC"))
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
