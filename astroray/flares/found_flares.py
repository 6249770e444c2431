"""Which flares of a star the finder sees: with all of its light curves, or by a moment in time.

The finder looks beyond a cadence: its trend by half a window, up to 1.2 d, its noise by 2.4 d, by
2.5 d where K2's thrusters fire; which window the trend has all that it is given decides. That is
right for an answer, which may know what came later, and wrong for what a forecast is told. So
flares are also looked for day by day, each time in the last days alone, and with windows of up to
1.2 d, which see half as far:

    a flare is on record from the first look on that sees its end behind it
    until it lies so far back that what came later no longer reaches it, each look replaces what
    the one before said of it; then it stays as it is

F counts flares; J looks; S as in records.py.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from astroray.errors import DataError
from astroray.flares.detrend import DetrendConfig, detrend
from astroray.flares.events import Event, FlareRule, find_events
from astroray.flares.long_flares import search_flares
from astroray.flares.records import PROPERTIES, StarRecord

if TYPE_CHECKING:
    from astroray.surveys.light_curves import LightCurve

__all__ = ["LOOK_D", "candidates_of", "find_record", "known_properties", "known_record"]

LOOK_D = 1.0
"""From one look to the next, about."""
BACK_D = 4.0
"""Of the light curve in each: a day, and on either side of it as far as the finder looks."""
SETTLED_D = 1.2
"""So far back a flare is when its record is final: as far as the noise of LOOK sees."""
LOOK = DetrendConfig(windows_d=tuple(d for d in DetrendConfig().windows_d if d <= SETTLED_D))
META = ("teff_k", "logg", "metallicity_dex", "radius_sun", "period_d")
"""Where LightCurve.meta has records.PROPERTIES."""


def candidates_of(curve: "LightCurve") -> list[Event]:
    """What the finder sees in a light curve; raises DataError where it cannot be detrended."""
    rule = FlareRule().for_mission(curve.mission)
    return search_flares(curve.time_d, curve.flux, rule, fired_T=curve.fired_T)[1]


def find_record(
    curves: Sequence["LightCurve"],
    *,
    observed_S2: np.ndarray,
    events: Sequence[Event] | None = None,
) -> StarRecord:
    """The flares that the finder sees in a star's light curves; sizes are log10 of their ED in s.

    events  what it sees in all of them, where it has been asked already

    One that two light curves show, as those of a star at two cadences, counts once.

    Raises DataError where a light curve cannot be detrended.
    """
    if events is None:
        events = [event for curve in curves for event in candidates_of(curve)]
    return _record(curves, _once(events), observed_S2)


def known_record(
    curves: Sequence["LightCurve"], *, edge_J: np.ndarray, observed_S2: np.ndarray
) -> StarRecord:
    """The flares of a star as they were on record at each moment; nothing later changes that.

    edge_J  [J + 1]  d, the moments of the looks, ascending, and the end of the last one's validity
    """
    seen: list[tuple[Event, float, float]] = []
    settled_d, previous_d = -math.inf, -math.inf
    for moment_d, next_d in itertools.pairwise(edge_J.tolist()):
        for event in _once([event for curve in curves for event in _look(curve, moment_d)]):
            # Half a day to spare: the end of a flare can shift from one look to the next.
            if event.start_d <= settled_d or event.stop_d <= previous_d - SETTLED_D - LOOK_D / 2:
                continue
            is_settled = event.stop_d <= moment_d - SETTLED_D
            seen.append((event, moment_d, math.inf if is_settled else next_d))
            settled_d = event.stop_d if is_settled else settled_d
        previous_d = moment_d
    seen.sort(key=lambda one: one[0].start_d)
    record_F2 = np.array([one[1:] for one in seen], np.float64).reshape(-1, 2)
    record = _record(curves, [event for event, _, _ in seen], observed_S2)
    return dataclasses.replace(record, record_F2=record_F2)


def known_properties(curves: Sequence["LightCurve"], moment_W: np.ndarray) -> np.ndarray:
    """[W, P] what the light curves that had begun at each moment say of the star.

    The first of them that knows a property is believed. Curves stand in order of their begin.
    """
    known_CP = np.full((len(curves) + 1, len(PROPERTIES)), np.nan)
    for number, curve in enumerate(curves):
        said_P = np.array([curve.meta.get(name, math.nan) for name in META])
        known_P = known_CP[number]
        known_CP[number + 1] = np.where(np.isnan(known_P), said_P, known_P)
    begin_C = np.array([curve.time_d[0] for curve in curves])
    return known_CP[np.searchsorted(begin_C, moment_W, "left")]


def _look(curve: "LightCurve", moment_d: float) -> Iterator[Event]:
    """The flares of the last days before a moment that ended before it."""
    first, stop = np.searchsorted(curve.time_d, [moment_d - BACK_D, moment_d])
    time_d, flux = curve.time_d[first:stop], curve.flux[first:stop]
    fired_T = curve.fired_T[first:stop]
    if len(time_d) < 2:
        return
    try:
        detrended = detrend(time_d, flux, LOOK, fired_T=fired_T)
    except DataError:  # too little has been seen; the light curve as a whole is judged elsewhere
        return
    rule = FlareRule().for_mission(curve.mission)
    ended_d = moment_d - rule.merge_points * detrended.cadence_d
    for event in find_events(time_d, detrended, rule):
        if not event.refused and event.stop_d < ended_d:
            yield event


def _once(events: Sequence[Event]) -> list[Event]:
    """Flares in order of their start, without those that begin before one of them has ended."""
    kept: list[Event] = []
    for event in sorted((e for e in events if not e.refused), key=lambda event: event.start_d):
        if not kept or event.start_d > kept[-1].stop_d:
            kept.append(event)
    return kept


def _record(
    curves: Sequence["LightCurve"], events: Sequence[Event], observed_S2: np.ndarray
) -> StarRecord:
    ed_s = np.array([event.equivalent_duration_s for event in events])
    return StarRecord(
        object_id=curves[0].object_id,
        start_F=np.array([event.start_d for event in events]),
        stop_F=np.array([event.stop_d for event in events]),
        size_F=np.log10(np.where(ed_s > 0, ed_s, np.nan)),
        observed_S2=observed_S2,
        property_P=known_properties(curves, np.array([np.inf]))[0],
    )
