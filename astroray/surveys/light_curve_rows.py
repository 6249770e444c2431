"""When what a file holds is one usable light curve, and why not otherwise.

Rules, the same for every format:

    cadences without a time are dropped (missions fill gaps so) and counted
    times that go backwards reject the curve: sorting would hide what is wrong with the file
    a cadence that stands twice with equal flux is kept once and counted; with two fluxes it
    rejects the curve, since nothing tells which one is meant
    a gap above `max_gap_d` rejects the curve, as do times outside the mission's life; 0 is 1000
    days for the missions, whose stars return every two years, and 10000 for others
    flux that is masked, infinite or missing is NaN; fewer than two numbers reject the curve
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np

from astroray.errors import SchemaError
from astroray.surveys.quality import Mission, explain_mask, mask_bits, thrusters_fired
from astroray.surveys.shards import ModalityName, Reject, Rows, reject

FluxKind = Literal["pdcsap", "sap", "flux"]
TimeZero = Literal["BKJD", "BTJD", "BJD", "MJD"]

ZERO_JD: Mapping[TimeZero, float] = {
    "BKJD": 2454833.0, "BTJD": 2457000.0, "BJD": 0.0, "MJD": 2400000.5,
}  # fmt: skip
"""Julian date at which each way of counting days begins."""

_LIFE_JD: Mapping[Mission, tuple[float, float]] = {
    "kepler": (2454897.0, 2456500.0),  # launch; the second lost wheel of 2013-05-11, some margin
    "k2": (2456500.0, 2458430.0),  # to the end of fuel on 2018-10-30
    "tess": (2458226.0, np.inf),  # from the launch
}
_MAX_GAP_D: Mapping[Mission, float] = {
    "kepler": 1000.0, "k2": 1000.0, "tess": 1000.0, "other": 10000.0,
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class LightCurve:
    """One light curve of one object, whole as its file has it (a quarter, campaign or sector).

    An object seen in several files has as many light curves, all with its `object_id`.
    """

    object_id: str
    """The mission's own, "KIC 9726699", "EPIC 211117077", "TIC 25118964"; else the table's."""
    row: int
    """Within the shard, from 0."""
    ra_deg: float
    """ICRS; NaN where unknown."""
    dec_deg: float
    """ICRS; NaN where unknown."""
    time_d: np.ndarray
    """[T] float64, strictly ascending, mid-cadence, barycentric, TDB, counted from `time_zero`."""
    time_zero: TimeZero
    """Where `time_d` begins: ZERO_JD has its Julian date."""
    flux: np.ndarray
    """[T] float64 in the file's unit; NaN where missing or masked by quality."""
    flux_err: np.ndarray
    """[T] float64; NaN where unknown."""
    quality: np.ndarray
    """[T] int32, the mission's bits as read; 0 throughout where the file has none."""
    flux_kind: FluxKind
    """flux: what the file calls so, or relative flux made of magnitudes."""
    mission: Mission
    cadence_s: float
    """Median spacing."""
    meta: Mapping[str, float]
    """teff_k, logg, radius_sun, metallicity_dex, kepler_mag, tess_mag, quarter, campaign, sector
    where the header has them; always cadences_read, cadences_no_time, cadences_duplicate and
    cadences_masked (of those kept)."""

    @property
    def fired_T(self) -> np.ndarray:
        """[T] bool, cadences in which the thrusters of K2 fired."""
        return thrusters_fired(self.quality, self.mission)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LightCurves(Rows):
    """Rows of one shard, a light curve each, of any lengths."""

    modality: ClassVar[ModalityName] = "light_curves"

    curve_B: Sequence[LightCurve]
    """[B]."""

    @property
    def num_values(self) -> int:
        return sum(len(curve.flux) for curve in self.curve_B)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RawCurve:
    """What a file says of one object, before anything is checked; fields as in LightCurve.

    time_d, flux  [T]  float64 as read
    flux_err      [T]  float64, or None where the file has none
    quality       [T]  float64, or None where the file has none
    """

    object_id: str
    ra_deg: float
    dec_deg: float
    time_d: np.ndarray
    time_zero: TimeZero
    flux: np.ndarray
    flux_err: np.ndarray | None
    quality: np.ndarray | None
    flux_kind: FluxKind
    mission: Mission
    meta: Mapping[str, float]


def settle(
    raw: RawCurve, *, row: int, where: str, quality: str, max_gap_d: float
) -> LightCurve | Reject:
    """The light curve, or the reject that says which rule of this module it breaks."""
    sizes = {len(raw.time_d), len(raw.flux)}
    sizes |= {len(column) for column in (raw.flux_err, raw.quality) if column is not None}
    if len(sizes) > 1:
        reason = f"{where} has columns of {sorted(sizes)} cadences, expected one length"
        return reject(row, "shape", reason)
    try:
        bits_T = _bits(raw.quality, len(raw.time_d), where)
    except SchemaError as error:
        return reject(row, "schema", str(error))
    kept_T = np.isfinite(raw.time_d)
    num_no_time = len(kept_T) - int(np.count_nonzero(kept_T))
    twice = _duplicates(raw.time_d[kept_T], raw.flux[kept_T], row, where)
    if isinstance(twice, Reject):
        return twice
    kept_T[np.flatnonzero(kept_T)[twice]] = False
    time_d = raw.time_d[kept_T]
    fault = _time_fault(time_d, raw, row, where, max_gap_d)
    if fault is not None:
        return fault
    flux = np.where(np.isfinite(raw.flux[kept_T]), raw.flux[kept_T], np.nan)
    flux_err = np.full(len(flux), np.nan) if raw.flux_err is None else raw.flux_err[kept_T]
    bits_T = bits_T[kept_T]
    mask = mask_bits(quality, raw.mission)
    masked_T = (bits_T & np.int32(mask)) != 0
    seen_T = np.isfinite(flux)
    if np.count_nonzero(seen_T & ~masked_T) < 2:
        return _nothing_left(seen_T, bits_T, mask, raw, row, where)
    return LightCurve(
        object_id=raw.object_id,
        row=row,
        ra_deg=raw.ra_deg,
        dec_deg=raw.dec_deg,
        time_d=time_d,
        time_zero=raw.time_zero,
        flux=np.where(masked_T, np.nan, flux),
        flux_err=np.where(np.isfinite(flux_err) & (flux_err > 0), flux_err, np.nan),
        quality=bits_T,
        flux_kind=raw.flux_kind,
        mission=raw.mission,
        cadence_s=float(np.median(np.diff(time_d))) * 86400.0,
        meta={
            **raw.meta,
            "cadences_read": float(len(kept_T)),
            "cadences_no_time": float(num_no_time),
            "cadences_duplicate": float(len(twice)),
            "cadences_masked": float(np.count_nonzero(masked_T)),
        },
    )


def _bits(quality: np.ndarray | None, num_cadences: int, where: str) -> np.ndarray:
    """Quality as int32. Raises SchemaError where it holds anything but whole numbers of 31 bits."""
    if quality is None:
        return np.zeros(num_cadences, np.int32)
    fits_T = (quality >= 0) & (quality < 2.0**31) & (quality == np.floor(quality))
    if not fits_T.all():
        first = int(np.argmin(fits_T))
        raise SchemaError(
            f"{where} has quality {quality[first]} at cadence {first}, expected whole numbers of "
            "31 bits"
        )
    return quality.astype(np.int32)


def _duplicates(time_d: np.ndarray, flux: np.ndarray, row: int, where: str) -> np.ndarray | Reject:
    """Positions that repeat the cadence before them with equal flux; a reject if it differs."""
    again = np.flatnonzero(np.diff(time_d) == 0) + 1
    before, after = flux[again - 1], flux[again]
    other = again[~((before == after) | (np.isnan(before) & np.isnan(after)))]
    if len(other):
        first = other[0]
        return reject(
            row,
            "duplicate",
            f"{where} has two fluxes, {flux[first - 1]} and {flux[first]}, at time "
            f"{time_d[first]} ({len(other)} such cadences), expected one a cadence",
        )
    return again


def _time_fault(
    time_d: np.ndarray, raw: RawCurve, row: int, where: str, max_gap_d: float
) -> Reject | None:
    if len(time_d) < 2:
        reason = f"{where} has {len(time_d)} cadences with a time, expected at least 2"
        return reject(row, "short", reason)
    step_d = np.diff(time_d)
    if step_d.min() < 0:
        at = int(np.argmax(step_d < 0))
        reason = (
            f"time of {where} goes backwards from {time_d[at]} to {time_d[at + 1]} "
            f"({np.count_nonzero(step_d < 0)} such steps), expected ascending times"
        )
        return reject(row, "time", reason)
    first_jd, last_jd = time_d[[0, -1]] + ZERO_JD[raw.time_zero]
    begin_jd, end_jd = _LIFE_JD.get(raw.mission, (-np.inf, np.inf))
    if not begin_jd <= first_jd <= last_jd <= end_jd:
        reason = (
            f"{where} says it is of {raw.mission}, but its times, BJD {first_jd:.2f} to "
            f"{last_jd:.2f}, are not within {begin_jd:.0f} to {end_jd:.0f}; its header or its "
            "zero point of time is wrong"
        )
        return reject(row, "mission", reason)
    at = int(np.argmax(step_d))
    max_gap_d = max_gap_d or _MAX_GAP_D[raw.mission]
    if step_d[at] > max_gap_d:
        reason = (
            f"{where} has a gap of {step_d[at]:.1f} d after time {time_d[at]}, expected at most "
            f"{max_gap_d}; raise max_gap_d if that is true"
        )
        return reject(row, "gap", reason)
    return None


def _nothing_left(
    seen_T: np.ndarray, bits_T: np.ndarray, mask: int, raw: RawCurve, row: int, where: str
) -> Reject:
    num_seen = int(np.count_nonzero(seen_T))
    if num_seen < 2:
        reason = (
            f"{where} has {num_seen} numbers among {len(seen_T)} cadences of {raw.flux_kind} flux, "
            "expected at least 2"
        )
        return reject(row, "empty", reason)
    why = explain_mask(bits_T[seen_T], mask, raw.mission)
    reason = (
        f"quality masks all but {int(np.count_nonzero(seen_T & ((bits_T & np.int32(mask)) == 0)))} "
        f"of the {num_seen} fluxes of {where} ({why}), expected 2; see quality="
    )
    return reject(row, "masked", reason)
