"""How bytes that anybody may have sent become light curves, or a refusal with its reason.

They are read by the reader of surveys, after what they claim has been checked: a light curve here
is what it is in a scan. What computing on one would cost is told by its times, and limited too.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, get_args

from astroray.errors import DataError
from astroray.storage import InputFile
from astroray.surveys.light_curve_rows import LightCurve, LightCurves, TimeZero
from astroray.surveys.light_curves import read_light_curves, read_shard
from astroray.surveys.quality import Mission
from astroray.surveys.shards import Reject, Shard, reject
from astroray.web.fits_limits import check_fits, unpack
from astroray.web.parquet_limits import PARQUET_MAGIC, check_parquet

__all__ = [
    "CurveLimits", "Stated", "UnknownFormatError", "open_upload", "read_curves",
    "read_rows",
]  # fmt: skip

_MAX_APERTURE_PX = 1_000_000
_BYTES_A_CADENCE = 128
"""That a file may unpack to: Kepler's twenty columns take 100."""
_MAX_STEPS = 10_000_000
"""Cadences that may fit between the first and the last: what is cut or binned by them stays
bounded."""


class UnknownFormatError(DataError):
    """The first bytes are those of no format that is taken.

    name   what errors call the file
    taken  which other formats are, in words
    """

    def __init__(self, name: str, data: bytes, taken: str) -> None:
        is_form = data.startswith(b"--")
        hint = "; that is a form: send the file itself, as `curl --data-binary @FILE` does"
        super().__init__(
            f"{name} begins with {data[:8]!r}, expected a FITS file (plain or gzip){taken}"
            f"{hint * is_form}"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurveLimits:
    """How much one upload of light curves or spectra may hold."""

    curves: int = 64
    """Light curves or spectra, that is rows of a Parquet file."""
    cadences: int = 300_000
    """Over all light curves, or pixels over all spectra."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stated:
    """What a file may not say of itself; empty: as the served survey has it."""

    time: str = ""
    """BKJD, BTJD, BJD or MJD."""
    mission: str = ""
    """kepler, k2, tess or other."""

    def __post_init__(self) -> None:
        """Refuses what no reader knows."""
        for name, known in (("time", get_args(TimeZero)), ("mission", get_args(Mission))):
            if getattr(self, name) not in ("", *known):
                raise DataError(
                    f"{name} is {getattr(self, name)[:40]!r}, expected one of {', '.join(known)}"
                )

    def given(self) -> dict[str, str]:
        """What was said."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value}


def read_curves(data: bytes, stated: Stated, *, limits: CurveLimits) -> list[LightCurve | Reject]:
    """The light curves of a FITS or Parquet file, and those of its rows that are none.

    Raises DataError where it cannot be used as a whole.
    """
    shard, contents = open_upload(data, limits, stated.given(), "the upload")
    return _read(shard, contents, limits)


def read_rows(
    data: bytes,
    stated: Stated,
    *,
    limits: CurveLimits,
    params: Mapping[str, Any],
    name: str = "the upload",
) -> LightCurves:
    """The rows that a scan of the survey would have of a file: windows where it cuts into them.

    Raises DataError where there is none.
    """
    shard, contents = open_upload(data, limits, {**params, **stated.given()}, name)
    items = _read(shard, contents, limits)
    rejects = [item for item in items if isinstance(item, Reject)]
    good = [item.row for item in items if isinstance(item, LightCurve)]
    slices: list[LightCurves] = []
    if good:
        wanted = None if shard.params.get("window") else good
        for found in read_shard(shard, rows=wanted, contents=contents):
            if isinstance(found, LightCurves):
                slices.append(found)
            else:
                rejects.append(found)
    if not slices:
        reason = rejects[0].reason if rejects else "it has no row"
        raise DataError(f"no light curve of {name} can be used: {reason}")
    return LightCurves.joined(slices)


def open_upload(
    data: bytes,
    limits: CurveLimits,
    params: Mapping[str, Any],
    name: str,
    *,
    reader: str = "light_curves",
    max_pixels: int = _MAX_APERTURE_PX,
) -> tuple[Shard, dict[str, bytes]]:
    """The upload as a shard of one file, and the bytes of that, after a look at its claims.

    max_pixels  over all images of a FITS file
    """
    max_bytes = _BYTES_A_CADENCE * limits.cadences
    data = unpack(data, max_bytes=max_bytes)
    if data.startswith(b"SIMPLE  ="):
        data = check_fits(data, max_pixels=max_pixels)
        kind = "fits"
    elif data.startswith(PARQUET_MAGIC):
        check_parquet(data, max_rows=limits.curves, max_values=limits.cadences, max_bytes=max_bytes)
        kind = "parquet"
    else:
        raise UnknownFormatError(name, data, " or a Parquet file")
    shard = Shard(
        name=name,
        reader=reader,
        inputs=(InputFile(path=name, size_bytes=len(data), version=""),),
        params={**params, "kind": kind, "folder": ""},
    )
    return shard, {name: data}


def _read(
    shard: Shard, contents: Mapping[str, bytes], limits: CurveLimits
) -> list[LightCurve | Reject]:
    """All whole light curves of the file. Raises DataError where they are too long together."""
    items: list[LightCurve | Reject] = []
    num_cadences = 0
    for item in read_light_curves(shard, contents=contents):
        if isinstance(item, LightCurve):
            num_cadences += len(item.flux)
            item = _bounded(item)
        items.append(item)
        if num_cadences > limits.cadences:
            raise DataError(
                f"{shard.name} has more than {limits.cadences} cadences; send it in parts"
            )
    return items


def _bounded(curve: LightCurve) -> LightCurve | Reject:
    """The light curve; a reject where its times leave room for more cadences than any grid has."""
    steps = (curve.time_d[-1] - curve.time_d[0]) * 86400.0 / curve.cadence_s
    if steps <= _MAX_STEPS:
        return curve
    return reject(
        curve.row,
        "span",
        f"{curve.object_id} has a cadence of {curve.cadence_s:.3g} s over "
        f"{curve.time_d[-1] - curve.time_d[0]:.6g} d, expected at most {_MAX_STEPS} cadences from "
        "first to last",
    )
