"""How bytes that anybody may have sent become spectra, or a refusal with its reason.

They are read by the reader of surveys, after what they claim has been checked, as light curves are.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from astroray.errors import DataError
from astroray.surveys.fits_tables import read_hdus
from astroray.surveys.shards import Reject
from astroray.surveys.spectra import read_shard
from astroray.surveys.spectrum_fits import holds_many
from astroray.surveys.spectrum_rows import Spectra
from astroray.web.curve_uploads import CurveLimits, open_upload

__all__ = ["read_spectra"]

_PLAIN: Mapping[str, Any] = {"mask": "default", "rest": False, "unit": "Angstrom"}
_NUMBERS_A_PIXEL = 20
"""That images may hold of a pixel of a spectrum: DESI keeps eleven of the resolution beside flux,
inverse variance and mask."""


def read_spectra(
    data: bytes, *, limits: CurveLimits, params: Mapping[str, Any], name: str = "the upload"
) -> Spectra:
    """The rows that a scan of the survey would have of a FITS or Parquet file, DESI's targets too.

    params  of a shard of the survey, whose options count
    name    what errors call the file

    Raises DataError where there is none.
    """
    shard, contents = open_upload(
        data,
        limits,
        {**_PLAIN, **params},
        name,
        reader="spectra",
        max_pixels=_NUMBERS_A_PIXEL * limits.cadences,
    )
    if shard.params["kind"] == "fits" and holds_many(read_hdus(name, contents[name])):
        shard = dataclasses.replace(shard, params={**shard.params, "kind": "desi"})
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
