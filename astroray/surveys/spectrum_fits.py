"""What a FITS file of SDSS, LAMOST or DESI says of its spectra.

    SDSS, BOSS, eBOSS  spec-PLATE-MJD-FIBER, lite and full: table COADD,
                       flux, loglam, ivar, and_mask; redshift in SPECOBJ or SPALL
    LAMOST LRS         an image of five rows (flux, inverse variance, wavelength or, before DR2,
                       the flux less its continuum, and-mask, or-mask), from DR9 on table COADD
    DESI               coadd and spectra files: arms B, R, Z as images [object, pixel], FIBERMAP

Wavelengths of all three are vacuum and heliocentric or barycentric. FK5 positions of J2000 are
taken as ICRS, from which they differ by less than 0.03 arcsec.
"""

import math
import re
from collections.abc import Iterator, Sequence

import numpy as np
from astropy.io import fits

from astroray.errors import SchemaError
from astroray.surveys.fits_tables import Hdu, Header, read_hdus
from astroray.surveys.spectrum_rows import Origin, RawSpectrum, from_logarithm

__all__ = ["holds_many", "is_spectrum", "read_many", "read_one"]

_ARM = re.compile(r"([A-Z])_WAVELENGTH")
_TARGET = "TGT"
_FIVE_ROWS = 5
_SKY = "SKY"


def is_spectrum(hdus: fits.HDUList) -> bool:
    """Whether an open FITS file holds spectra of SDSS, LAMOST or DESI."""
    primary = hdus[0].header
    names = {hdu.name.upper() for hdu in hdus}
    telescope = str(primary.get("TELESCOP", "")).strip().upper()
    if "FIBERMAP" in names and any(_ARM.fullmatch(name) for name in names):
        return True
    has_five = primary.get("NAXIS") == 2 and primary.get("NAXIS2") == _FIVE_ROWS
    if telescope == "LAMOST":
        return has_five or "COADD" in names
    return telescope.startswith("SDSS") and "COADD" in names


def holds_many(hdus: Sequence[Hdu]) -> bool:
    """Whether a file holds the spectra of many objects."""
    return any(_ARM.fullmatch(hdu.name) for hdu in hdus)


def read_one(path: str, data: bytes | None = None) -> RawSpectrum:
    """The spectrum in a file of one object; `data` are its bytes where they are at hand.

    Raises FileError or ShardError where the file cannot be read, SchemaError where it holds no
    spectrum of one object.
    """
    hdus = read_hdus(path, data)
    primary = hdus[0].header
    table = next((hdu for hdu in hdus if {"FLUX", "IVAR"} <= hdu.columns.keys()), None)
    if primary.text("TELESCOP").upper() == "LAMOST":
        return _lamost(hdus[0], table, path)
    if table is None or "LOGLAM" not in table.columns:
        raise SchemaError(
            f"{path} holds no spectrum of one object, expected a file of SDSS (table COADD) or "
            "LAMOST; files of DESI go by themselves, and others as Parquet or npz"
        )
    return _sdss(hdus, table, path)


def read_many(
    path: str, rows: Sequence[int] | None, data: bytes | None = None
) -> Iterator[tuple[int, RawSpectrum]]:
    """The targets of a DESI file by their row in its FIBERMAP, or only `rows`, in order.

    Fibers on the sky, or on nothing, are no objects: they have no row.
    Raises as `read_one` does.
    """
    hdus = read_hdus(path, data)
    named = {hdu.name: hdu for hdu in reversed(hdus)}
    arms = [match[1] for hdu in hdus if (match := _ARM.fullmatch(hdu.name))]
    fibers = named.get("FIBERMAP")
    if fibers is None or not arms or "TARGETID" not in fibers.columns:
        raise SchemaError(f"{path} has no FIBERMAP with TARGETID and no arms, expected DESI's")
    wavelength = np.concatenate([named[f"{arm}_WAVELENGTH"].pixels() for arm in arms])
    order = np.argsort(wavelength, kind="stable")
    flux_NT, ivar_NT = (_arms(named, arms, what, path)[:, order] for what in ("FLUX", "IVAR"))
    has_masks = all(f"{arm}_MASK" in named for arm in arms)
    mask_NT = _arms(named, arms, "MASK", path)[:, order] if has_masks else None
    if flux_NT.shape != (fibers.num_rows, len(order)) or ivar_NT.shape != flux_NT.shape:
        raise SchemaError(
            f"{path} has fluxes of shape {flux_NT.shape}, expected {fibers.num_rows} fibers with "
            f"{len(order)} pixels"
        )
    ids = fibers.integers("TARGETID")
    kinds = fibers.texts("OBJTYPE") if "OBJTYPE" in fibers.columns else [_TARGET] * len(ids)
    ra_N, dec_N = (fibers.numbers(f"TARGET_{name}") for name in ("RA", "DEC"))
    wanted = range(len(ids)) if rows is None else sorted(set(rows) & set(range(len(ids))))
    for row in wanted:
        if kinds[row].upper() != _TARGET:
            continue
        ra_deg, dec_deg = _place(float(ra_N[row]), float(dec_N[row]))
        yield (
            row,
            RawSpectrum(
                object_id=f"DESI {ids[row]}",
                ra_deg=ra_deg,
                dec_deg=dec_deg,
                wavelength=wavelength[order],
                flux=flux_NT[row],
                ivar=ivar_NT[row],
                mask=None if mask_NT is None else mask_NT[row],
                origin="desi",
            ),
        )


def _arms(named: dict[str, Hdu], arms: Sequence[str], what: str, path: str) -> np.ndarray:
    """Images of all arms beside each other, [N, T]."""
    missing = [f"{arm}_{what}" for arm in arms if f"{arm}_{what}" not in named]
    if missing:
        raise SchemaError(f"{path} has no HDU {', '.join(missing)}, expected one for each arm")
    images = [named[f"{arm}_{what}"].pixels() for arm in arms]
    if len({len(image) for image in images}) > 1 or {image.ndim for image in images} != {2}:
        shapes = [image.shape for image in images]
        raise SchemaError(f"{path} has {what} of shapes {shapes}, expected [fibers, pixels]")
    return np.concatenate(images, axis=1)


def _sdss(hdus: Sequence[Hdu], table: Hdu, path: str) -> RawSpectrum:
    primary = hdus[0].header
    plate, day, fiber = (primary.number(key) for key in ("PLATEID", "MJD", "FIBERID"))
    object_id = ""
    if plate >= 0 and day >= 0 and fiber >= 0:
        object_id = f"SDSS {plate:04.0f}-{day:05.0f}-{fiber:04.0f}"
    about = next((hdu for hdu in hdus if hdu is not table and "Z" in hdu.columns), None)
    found = about.numbers("Z") if about is not None and "CLASS" in about.columns else np.zeros(0)
    return _raw(
        "sdss",
        object_id,
        _position(primary, "PLUG_RA", "PLUG_DEC"),
        wavelength=from_logarithm(table.vectors("LOGLAM").ravel()),
        flux=table.vectors("FLUX").ravel(),
        ivar=table.vectors("IVAR").ravel(),
        mask=table.vectors("AND_MASK").ravel() if "AND_MASK" in table.columns else None,
        redshift=float(found[0]) if len(found) else math.nan,
    )


def _lamost(image: Hdu, table: Hdu | None, path: str) -> RawSpectrum:
    header = image.header
    kind = header.text("FIBERTYP") or header.text("OBJTYPE")
    if kind.upper() == _SKY:
        raise SchemaError(f"{path} is of a fiber on the sky (FIBERTYP), expected an object")
    if table is not None:
        wavelength, flux, ivar, mask = (
            table.vectors(name).ravel() for name in ("WAVELENGTH", "FLUX", "IVAR", "ANDMASK")
        )
    elif len(image.shape) == 2 and image.shape[0] >= _FIVE_ROWS - 1:
        flux, ivar, wavelength, mask = image.pixels()[: _FIVE_ROWS - 1]
        first, step = header.number("COEFF0"), header.number("COEFF1")
        if math.isfinite(first) and math.isfinite(step):  # the third row was something else once
            wavelength = from_logarithm(first + step * np.arange(len(flux)))
    else:
        raise SchemaError(
            f"{path} has an image of shape {image.shape}, expected five rows of LAMOST: flux, "
            "inverse variance, wavelength, and-mask, or-mask"
        )
    return _raw(
        "lamost",
        _lamost_name(header),
        _position(header, "RA", "DEC"),
        wavelength=wavelength,
        flux=flux,
        ivar=ivar,
        mask=mask,
        redshift=header.number("Z") if header.number("Z") > -1 else math.nan,
    )


def _lamost_name(header: Header) -> str:
    """OBSID, which LAMOST's catalogs have; before DR2 what a file is named by."""
    if header.text("OBSID").isdecimal():
        return f"LAMOST {header.text('OBSID')}"
    day, plan = header.text("LMJD") or header.text("MJD"), header.text("PLANID")
    spectrograph, fiber = header.number("SPID"), header.number("FIBERID")
    if not (day and plan and spectrograph >= 0 and fiber >= 0):
        return ""
    return f"LAMOST {day}-{plan}_sp{spectrograph:02.0f}-{fiber:03.0f}"


def _raw(
    origin: Origin,
    object_id: str,
    place_deg: tuple[float, float],
    *,
    wavelength: np.ndarray,
    flux: np.ndarray,
    ivar: np.ndarray,
    mask: np.ndarray | None,
    redshift: float,
) -> RawSpectrum:
    return RawSpectrum(
        object_id=object_id,
        ra_deg=place_deg[0],
        dec_deg=place_deg[1],
        wavelength=wavelength,
        flux=flux,
        ivar=ivar,
        mask=mask,
        origin=origin,
        redshift=redshift,
    )


def _position(header: Header, ra: str, dec: str) -> tuple[float, float]:
    system = header.text("RADECSYS") or header.text("RADESYS") or "ICRS"
    equinox = header.number("EQUINOX")
    is_icrs = system.upper() in ("ICRS", "FK5") and not abs(equinox - 2000.0) > 0.1
    return _place(header.number(ra), header.number(dec)) if is_icrs else (math.nan, math.nan)


def _place(ra_deg: float, dec_deg: float) -> tuple[float, float]:
    """Both, or NaN together where they are no position."""
    is_place = 0 <= ra_deg <= 360 and -90 <= dec_deg <= 90
    return (ra_deg % 360.0, dec_deg) if is_place else (math.nan, math.nan)
