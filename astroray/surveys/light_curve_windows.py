"""How a light curve is cut into rows of one length in time."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from astroray.surveys.light_curve_rows import LightCurve
from astroray.surveys.shards import Reject, reject

__all__ = ["ROWS_PER_CURVE", "cut_windows"]

ROWS_PER_CURVE = 10_000_000
"""Row numbers that each light curve of a shard has for its windows."""


def cut_windows(curve: LightCurve, cadences: int) -> Iterator[LightCurve | Reject]:
    """Pieces that last so many cadences, from the first one on; the last may be shorter.

    A piece of a gap alone does not exist; one with fewer than two fluxes is a reject. The number
    of the piece, and the first day of the whole, are in `meta` as `window` and `first_day`.
    """
    passed_T = (curve.time_d - curve.time_d[0]) * (86400.0 / (cadences * curve.cadence_s))
    number_T = np.floor(passed_T + 1e-6).astype(np.int64)
    starts = np.flatnonzero(np.diff(number_T, prepend=-1))
    for start, stop in zip(starts, [*starts[1:], len(number_T)], strict=True):
        number, part = int(number_T[start]), slice(int(start), int(stop))
        row = curve.row * ROWS_PER_CURVE + number
        num_seen = int(np.count_nonzero(np.isfinite(curve.flux[part])))
        if num_seen < 2:
            reason = (
                f"window {number} of {curve.object_id} has {num_seen} numbers among "
                f"{part.stop - part.start} cadences of flux, expected at least 2"
            )
            yield reject(row, "empty", reason)
            continue
        yield dataclasses.replace(
            curve,
            row=row,
            time_d=curve.time_d[part],
            flux=curve.flux[part],
            flux_err=curve.flux_err[part],
            quality=curve.quality[part],
            meta={**curve.meta, "window": float(number), "first_day": float(curve.time_d[0])},
        )
