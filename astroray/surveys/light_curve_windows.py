"""How a light curve is cut into rows of one length in time."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from astroray.surveys.light_curve_rows import LightCurve
from astroray.surveys.shards import REST, Reject, reject

__all__ = ["ROWS_PER_CURVE", "cut_windows"]

ROWS_PER_CURVE = 10_000_000
"""Row numbers that each light curve of a shard has for its windows."""
LEAST_SHARE = 0.1
"""Of the cadences of a window: a rest that is shorter is like no window, and would be an outlier
for that alone."""


def cut_windows(curve: LightCurve, cadences: int) -> Iterator[LightCurve | Reject]:
    """Pieces that last so many cadences, from the first one on; the last may be shorter.

    A piece with less than a tenth of its cadences, as at the end or beside a gap, is a reject of
    kind `REST`; where nothing was observed there is none. One with fewer than two fluxes is a
    reject, and a light curve of nothing but rests is a single one. The number of the piece, and
    the first day of the whole, are in `meta` as `window`, `first_day`.
    """
    passed_T = (curve.time_d - curve.time_d[0]) * (86400.0 / (cadences * curve.cadence_s))
    number_T = np.floor(passed_T + 1e-6).astype(np.int64)
    starts = np.flatnonzero(np.diff(number_T, prepend=-1))
    bounds = list(zip(starts, [*starts[1:], len(number_T)], strict=True))
    if all(stop - start < LEAST_SHARE * cadences for start, stop in bounds):
        reason = (
            f"{curve.object_id} has {len(curve.time_d)} cadences, and no window of {cadences} with "
            f"at least {LEAST_SHARE:.0%} of them"
        )
        yield reject(curve.row * ROWS_PER_CURVE, "short", reason)
        return
    for start, stop in bounds:
        number, part = int(number_T[start]), slice(int(start), int(stop))
        row = curve.row * ROWS_PER_CURVE + number
        if stop - start < LEAST_SHARE * cadences:
            reason = (
                f"window {number} of {curve.object_id} has {stop - start} of {cadences} cadences, "
                f"expected at least {LEAST_SHARE:.0%}: what the cut into windows leaves over"
            )
            yield reject(row, REST, reason)
            continue
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
