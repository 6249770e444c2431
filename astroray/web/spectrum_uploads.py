"""How bytes that anybody may have sent become spectra, or a refusal with its reason.

They are read by the reader of surveys, after what they claim has been checked, as light curves are.
"""

from collections.abc import Mapping
from typing import Any

from astroray.errors import DataError, SchemaError
from astroray.surveys.fits_tables import read_hdus
from astroray.surveys.shards import Reject
from astroray.surveys.spectra import read_shard
from astroray.surveys.spectrum_fits import holds_many
from astroray.surveys.spectrum_rows import Spectra
from astroray.web.curve_uploads import CurveLimits, open_upload

__all__ = ["read_spectra"]

_PLAIN: Mapping[str, Any] = {"mask": "default", "rest": False, "unit": "Angstrom"}


def read_spectra(
    data: bytes, *, limits: CurveLimits, params: Mapping[str, Any], name: str = "the upload"
) -> Spectra:
    """The rows that a scan of the survey would have of a FITS or Parquet file.

    params  of a shard of the survey, whose options count
    name    what errors call the file

    Raises DataError where there is none.
    """
    shard, contents = open_upload(data, limits, {**_PLAIN, **params}, name, reader="spectra")
    if shard.params["kind"] == "fits" and holds_many(read_hdus(name, contents[name])):
        raise SchemaError(
            f"{name} is a file of DESI with many spectra; send the spectrum of one as Parquet"
        )
    slices: list[Spectra] = []
    rejects: list[Reject] = []
    for found in read_shard(shard, contents=contents):
        if isinstance(found, Reject):
            rejects.append(found)
        else:
            slices.append(found)
    if not slices:
        reason = rejects[0].reason if rejects else "it has no row"
        raise DataError(f"no spectrum of {name} can be used: {reason}")
    rows = Spectra.joined(slices)
    if rows.num_values > limits.cadences:
        raise DataError(
            f"{name} has {rows.num_values} pixels, expected at most {limits.cadences}; send fewer "
            "spectra"
        )
    return rows
