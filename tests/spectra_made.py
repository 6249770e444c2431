"""Files of spectra as SDSS, LAMOST and DESI publish them, small and made from a seed."""

import gzip
import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io import fits

from astroray import storage
from astroray.surveys import spectra
from astroray.surveys.shards import Reject, SurveyUri
from astroray.surveys.spectrum_rows import RawSpectrum, Spectra, settle

NUM = 600
LOGLAM = 3.58 + 5e-4 * np.arange(NUM)
BRIGHTSKY, NEARBADPIXEL = 1 << 23, 1 << 16


def fluxes(seed=0, *, num=NUM, line=0.0):
    """A sloped continuum with noise of 2 %; `line` is the height of an emission line."""
    place = np.arange(num)
    flux = 10 + 5 * place / num + 0.2 * np.random.default_rng(seed).normal(size=num)
    return flux + line * np.exp(-0.5 * ((place - num / 3) / 6) ** 2)


def write_sdss(path, flux=None, *, ivar=None, mask=None, cards=None, redshift=0.5):
    flux = fluxes() if flux is None else flux
    columns = {
        "flux": flux,
        "loglam": LOGLAM[: len(flux)],
        "ivar": np.full(len(flux), 25.0) if ivar is None else ivar,
    }
    made = [fits.Column(name=name, format="E", array=value) for name, value in columns.items()]
    bits = np.zeros(len(flux), np.int32) if mask is None else mask
    made.append(fits.Column(name="and_mask", format="J", array=bits))
    about = [
        fits.Column(name="CLASS", format="6A", array=["GALAXY"]),
        fits.Column(name="Z", format="E", array=[redshift]),
    ]
    primary = fits.PrimaryHDU()
    primary.header.update(
        {"TELESCOP": "SDSS 2.5-M", "PLATEID": 618, "MJD": 52049, "FIBERID": 372,
         "PLUG_RA": 236.97, "PLUG_DEC": 52.81, "RADECSYS": "FK5", "EQUINOX": 2000.0}
        | (cards or {})
    )  # fmt: skip
    hdus = [primary, fits.BinTableHDU.from_columns(made, name="COADD")]
    hdus.append(fits.BinTableHDU.from_columns(about, name="SPECOBJ"))
    return _write(path, hdus)


def write_lamost(path, flux=None, *, layout="rows", cards=None, mask=None):
    """layout: rows (DR2 to DR8), old (DR1, the third row is no wavelength), table (from DR9)."""
    flux = fluxes() if flux is None else flux
    ivar, bits = np.full(len(flux), 25.0), np.zeros(len(flux)) if mask is None else mask
    wave = 10 ** LOGLAM[: len(flux)]
    known = {"TELESCOP": "LAMOST", "OBSID": 105172, "RA": 332.05, "DEC": -0.34, "Z": 1e-4}
    if layout == "table":
        columns = {"FLUX": flux, "IVAR": ivar, "WAVELENGTH": wave, "ANDMASK": bits, "ORMASK": bits}
        made = [
            fits.Column(name=name, format=f"{len(flux)}E", array=[value])
            for name, value in columns.items()
        ]
        hdus = [fits.PrimaryHDU(), fits.BinTableHDU.from_columns(made, name="COADD")]
    else:
        third = np.ones(len(flux)) if layout == "old" else wave
        rows = np.array([flux, ivar, third, bits, bits], np.float32)
        hdus = [fits.PrimaryHDU(rows)]
        known |= {"COEFF0": LOGLAM[0], "COEFF1": 5e-4, "RADECSYS": "FK5", "EQUINOX": 2000.0}
    if layout == "old":
        del known["OBSID"]
        known |= {"LMJD": 55862, "PLANID": "B6212", "SPID": 6, "FIBERID": 3}
    hdus[0].header.update(known | (cards or {}))
    return _write(path, hdus)


def write_desi(path, *, kinds=("TGT", "SKY", "TGT", ""), dead=()):
    """Two arms that overlap; fibers of `kinds`, those of `dead` without a good pixel."""
    num = len(kinds)
    ids = np.array([39633297352951412 + i for i in range(num)])
    fibers = [
        fits.Column(name="TARGETID", format="K", array=ids),
        fits.Column(name="OBJTYPE", format="3A", array=list(kinds)),
        fits.Column(name="TARGET_RA", format="D", array=215.0 + np.arange(num)),
        fits.Column(name="TARGET_DEC", format="D", array=53.0 + np.arange(num)),
    ]
    hdus = [fits.PrimaryHDU(), fits.BinTableHDU.from_columns(fibers, name="FIBERMAP")]
    for arm, first in (("B", 3600.0), ("R", 5760.0)):
        wave = first + 4.0 * np.arange(560)
        flux = np.array([fluxes(i, num=len(wave)) for i in range(num)], np.float32)
        ivar = np.full(flux.shape, 25.0, np.float32)
        ivar[list(dead)] = 0.0
        mask = np.zeros(flux.shape, np.uint32)
        mask[:, 5], mask[:, 6] = 1, 2  # SOMEBADPIX, ALLBADPIX
        for name, data in (("WAVELENGTH", wave), ("FLUX", flux), ("IVAR", ivar), ("MASK", mask)):
            hdus.append(fits.ImageHDU(data, name=f"{arm}_{name}"))
    return _write(path, hdus)


def write_parquet(path, *, num=4, **columns):
    rows = {
        "object_id": [f"obj {i}" for i in range(num)],
        "ra": [10.0 + i for i in range(num)],
        "dec": [1.0] * num,
        "wavelength": [(10**LOGLAM).tolist()] * num,
        "flux": [fluxes(i).tolist() for i in range(num)],
        "ivar": [[25.0] * NUM] * num,
    }
    pq.write_table(pa.table({**rows, **columns}), path)
    return path


def spectrum(flux, *, wavelength=None, ivar=25.0, mask=None, row=0):
    """A settled spectrum; `ivar` is a number or an array, None where unknown."""
    flux = np.asarray(flux, np.float64)
    raw = RawSpectrum(
        object_id=f"obj {row}", ra_deg=10.0, dec_deg=-5.0,
        wavelength=10 ** LOGLAM[: len(flux)] if wavelength is None else wavelength,
        flux=flux, ivar=None if ivar is None else np.broadcast_to(ivar, flux.shape).copy(),
        mask=mask, origin="other",
    )  # fmt: skip
    found = settle(raw, row=row, where="it")
    assert not isinstance(found, Reject), found
    return found


def slice_of(*found):
    return Spectra(
        row_B=np.arange(len(found)),
        object_id_B=[f"obj {row}" for row in range(len(found))],
        ra_deg_B=np.full(len(found), 10.0),
        dec_deg_B=np.full(len(found), -5.0),
        flags_B=np.zeros(len(found), np.int32),
        spectrum_B=found,
    )


def shards_of(survey):
    uri = SurveyUri.parse(str(survey))
    return spectra.list_shards(storage.list_files(uri.location), uri)


def read(survey, *, rows=None):
    """All that the survey's shards give, as a list."""
    return [one for shard in shards_of(survey) for one in spectra.read_spectra(shard, rows=rows)]


def _write(path, hdus):
    buffer = io.BytesIO()
    fits.HDUList(hdus).writeto(buffer)
    data = buffer.getvalue()
    path.write_bytes(gzip.compress(data, 1) if path.name.endswith(".gz") else data)
    return path
