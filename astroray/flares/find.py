"""How the flares of one shard of light curves are found and published."""

import dataclasses
import functools
import hashlib
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from astroray import faults, ledger, schema, storage
from astroray.attempts import Nodes, begin_attempt
from astroray.errors import DataError
from astroray.flares.detrend import Detrended, detrend
from astroray.flares.energy import FLARE_TEMPERATURE_K, flare_energy_erg
from astroray.flares.events import Event, FlareRule, find_events
from astroray.flares.flare_fit import FlareFit, fit_flare
from astroray.flares.inject import ED_EDGES_S, recover_flares
from astroray.flares.long_flares import search_flares
from astroray.flares.sketch import sketch_curve
from astroray.receipts import Receipt, read_receipt
from astroray.run_files import flare_part_file
from astroray.storage.meter import METER
from astroray.storage.parquet import parquet_bytes, publish_parquet
from astroray.surveys.light_curves import LightCurve, read_light_curves
from astroray.surveys.shards import Reject, Shard

__all__ = ["CurveFlares", "FindPlan", "find_in_light_curve", "find_in_shard"]

PROFILE_POINTS = (15, 30)
"""Most cadences of a profile before and after the flare, or a fifth and a half of it if more."""
REFUSALS = {
    "single": "one cadence stands out and no decay follows: a cosmic ray, or noise",
    "short": "two cadences stand out and no decay follows",
    "gap": "more than half of its cadences are missing",
    "slow": "lasts so long that the trend cannot be told from it",
    "step": "the flux stays as high beside it as in it: the shoulder of a step or of a long dip",
    "shape": "rises more slowly than it decays",
    "doubtful": "confidence is {confidence:.2f}, expected at least {limit:.2f}",
}

_log = logging.getLogger("astroray.flares")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FindPlan:
    """What every worker is told; small, so that it travels with each task."""

    run_dir: str
    session: str
    rule: FlareRule
    num_injections: int
    """Made flares put into each light curve; 0 for none."""
    seed: int
    flare_k: float = FLARE_TEMPERATURE_K


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurveFlares:
    """What one light curve holds."""

    events: Sequence[Event]
    profiles: Sequence[tuple[np.ndarray, np.ndarray] | None]
    """Of each event: times after its peak in d, and relative flux; None where it was refused."""
    fits: Sequence[FlareFit | None]
    """Of each event; None where it was refused."""
    facts: Mapping[str, Any]
    """Columns of schema.FLARE_CURVES beyond identity, shard and row."""


def find_in_light_curve(curve: LightCurve, plan: FindPlan, *, shard: str) -> CurveFlares:
    """Flares and refused candidates of a light curve, and how complete they are.

    The made flares depend on the seed of the plan, the shard and the row, on nothing else.
    Raises DataError where the light curve cannot be detrended.
    """
    rule = plan.rule.for_mission(curve.mission)
    detrended, events = search_flares(curve.time_d, curve.flux, rule, fired_T=curve.fired_T)
    digest = int(hashlib.sha256(shard.encode()).hexdigest()[:8], 16)
    injected_E = recovered_E = np.zeros(len(ED_EDGES_S) - 1, np.int64)
    if plan.num_injections:
        recovery = recover_flares(
            curve.time_d,
            curve.flux,
            events,
            num_flares=plan.num_injections,
            seed=[plan.seed, digest, curve.row],
            rule=rule,
            fired_T=curve.fired_T,
        )
        injected_E, recovered_E = recovery.num_injected_E, recovery.num_recovered_E
    num_cadences = int((detrended.segment_T >= 0).sum())
    num_refused = sum(bool(event.refused) for event in events)
    sketch = sketch_curve(curve.time_d, curve.flux) if len(events) > num_refused else (None, None)
    upside_down = 2 * np.nanmedian(curve.flux) - curve.flux
    turned = detrend(curve.time_d, upside_down, fired_T=curve.fired_T)
    mirrored = find_events(curve.time_d, turned, rule)
    return CurveFlares(
        events=events,
        profiles=[_profile(event, curve.time_d, detrended) for event in events],
        fits=[None if e.refused else fit_flare(curve.time_d, detrended, e) for e in events],
        facts={
            "mission": curve.mission,
            "flux_kind": curve.flux_kind,
            "cadence": detrended.cadence_d * 86400,
            "window": detrended.window_d,
            "noise": float(np.nanmedian(detrended.noise_T)),
            "num_cadences": num_cadences,
            "observed": num_cadences * detrended.cadence_d,
            "num_flares": len(events) - num_refused,
            "num_refused": num_refused,
            "num_mirrored": sum(not event.refused for event in mirrored),
            "teff": _known(curve.meta.get("teff_k")),
            "radius": _known(curve.meta.get("radius_sun")),
            "num_injected": injected_E.tolist(),
            "num_recovered": recovered_E.tolist(),
            "first": float(curve.time_d[0]),
            "last": float(curve.time_d[-1]),
            "time_zero": curve.time_zero,
            "sketch_low": sketch[0],
            "sketch_high": sketch[1],
        },
    )


def _profile(
    event: Event, time_d: np.ndarray, detrended: Detrended
) -> tuple[np.ndarray, np.ndarray] | None:
    """The cadences in and around a flare, none from beyond a pause that splits the light curve."""
    if event.refused:
        return None
    before, after = PROFILE_POINTS
    length = event.last - event.first
    piece = np.flatnonzero(detrended.segment_T == detrended.segment_T[event.peak])
    first = max(piece[0], event.first - max(before, length // 5))
    stop = min(piece[-1], event.last + max(after, length // 2)) + 1
    return time_d[first:stop] - event.peak_d, detrended.relative_T[first:stop]


def find_in_shard(plan: FindPlan, shard: Shard, nodes: Nodes | None = None) -> Receipt:
    """Searches one shard and publishes its tables, rejects and done mark; does nothing twice.

    A shard that cannot be read as a whole becomes one reject; so does one that has killed its
    worker `attempts.MAX_DEATHS` times. In the receipt, rows embedded are light curves searched.
    """
    done = read_receipt(plan.run_dir, shard.name)
    if done is not None:
        return done
    started, bytes_before = time.monotonic(), METER.bytes_read
    attempt = begin_attempt(plan.run_dir, shard.name, plan.session, nodes=nodes)
    faults.reach("shard.begun", shard.name)
    rows = _Rows(shard.name, plan)
    killer = attempt.quarantine(stage="detrend", advice="look at logs/workers")
    fault = killer or _fill(rows, shard)
    if fault:
        rows = _Rows(shard.name, plan)
        rows.rejects.append(fault)
    checksum = rows.publish()
    faults.reach("shard.encoded", shard.name)
    receipt = Receipt(
        shard=shard.name,
        rows_read=rows.num_curves + len(rows.rejects) - (fault is not None),
        rows_embedded=rows.num_curves,
        rows_rejected=len(rows.rejects) - (fault is not None),
        shard_rejected=fault is not None,
        checksum=checksum,
        attempt=attempt.number,
        seconds=round(time.monotonic() - started, 4),
        bytes_read=METER.bytes_read - bytes_before,
    )
    ledger.mark_done(plan.run_dir, receipt, rows.rejects)
    _log.info("searched %s", receipt)
    return receipt


def _fill(rows: "_Rows", shard: Shard) -> Reject | None:
    """Searches every light curve of the shard; a reject where it is unreadable as a whole."""
    try:
        for item in read_light_curves(shard):
            if isinstance(item, Reject):
                rows.rejects.append(item)
                continue
            try:
                rows.add(item, find_in_light_curve(item, rows.plan, shard=shard.name))
            except DataError as error:
                reason = f"{item.object_id}: {error}"
                rows.rejects.append(
                    Reject(row=item.row, stage="detrend", kind="unusable", reason=reason)
                )
    except DataError as error:
        return Reject.of_shard(error)
    return None


class _Rows:
    """The tables of one shard on their way to its files."""

    def __init__(self, shard: str, plan: FindPlan) -> None:
        self.shard = shard
        self.plan = plan
        self.rejects: list[Reject] = []
        self._curves: list[dict[str, Any]] = []
        self._candidates: list[dict[str, Any]] = []

    @property
    def num_curves(self) -> int:
        return len(self._curves)

    def add(self, curve: LightCurve, found: CurveFlares) -> None:
        identity = {
            "object_id": curve.object_id,
            "ra": curve.ra_deg,
            "dec": curve.dec_deg,
            "shard": self.shard,
            "row": curve.row,
        }
        self._curves.append({**identity, **found.facts})
        self._candidates += [{**identity, **row} for row in self._describe(curve, found)]

    def _describe(self, curve: LightCurve, found: CurveFlares) -> Iterator[dict[str, Any]]:
        energy_erg = functools.partial(
            flare_energy_erg,
            mission=curve.mission,
            teff_k=curve.meta.get("teff_k", math.nan),
            radius_sun=curve.meta.get("radius_sun", math.nan),
            flare_k=self.plan.flare_k,
        )
        for event, profile, fit in zip(found.events, found.profiles, found.fits, strict=True):
            err_s = fit.equivalent_duration_err_s if fit else event.equivalent_duration_err_s
            reason = REFUSALS[event.refused] if event.refused else None
            limit = self.plan.rule.for_mission(curve.mission).min_confidence
            yield {
                "start": event.start_d,
                "peak": event.peak_d,
                "stop": event.stop_d,
                "time_zero": curve.time_zero,
                "amplitude": event.amplitude,
                "fwhm": fit and _known(fit.fwhm_d),
                "fwhm_err": fit and _known(fit.fwhm_err_d),
                "equivalent_duration": event.equivalent_duration_s,
                "equivalent_duration_err": err_s,
                "energy": _known(energy_erg(event.equivalent_duration_s)),
                "energy_err": _known(energy_erg(err_s)),
                "snr": event.snr,
                "num_points": event.num_points,
                "confidence": event.confidence,
                "flare_flags": event.flags,
                "num_shared": 0,  # known when all shards are searched
                "profile_time": profile and profile[0].astype(np.float32),
                "profile_flux": profile and profile[1].astype(np.float32),
                "class": event.refused or None,
                "reason": reason and reason.format(confidence=event.confidence, limit=limit),
            }

    def publish(self) -> str:
        """Publishes both tables; returns the checksum of the candidates."""
        run_dir = self.plan.run_dir
        curves = _table(self._curves, schema.FLARE_CURVES, "flare_curves")
        publish_parquet(flare_part_file(run_dir, "light_curves", self.shard), curves)
        candidates = _table(self._candidates, schema.REFUSED_FLARES, "refused_flares")
        data = parquet_bytes(candidates)
        storage.publish(flare_part_file(run_dir, "candidates", self.shard), data)
        return hashlib.sha256(data).hexdigest()


def _table(rows: Sequence[Mapping[str, Any]], promised: pa.Schema, where: str) -> pa.Table:
    identity = schema.identity(
        [row["object_id"] for row in rows],
        np.array([row["ra"] for row in rows], np.float64),
        np.array([row["dec"] for row in rows], np.float64),
    )
    rest = {
        field.name: pa.array([row[field.name] for row in rows], field.type)
        for field in promised
        if field.name not in identity
    }
    return schema.conform(pa.table({**identity, **rest}), promised, where)


def _known(value: float | None) -> float | None:
    """None, which a table writes as null, for what is missing or not finite."""
    return None if value is None or not math.isfinite(value) else float(value)
