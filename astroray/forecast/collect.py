"""How the light curves of a group become windows, star by star, and which of them do not."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from astroray.errors import DataError
from astroray.flares.curve_windows import curve_windows, events_for_windows, rule_for
from astroray.flares.events import Event
from astroray.flares.windows import Windows, join_windows
from astroray.forecast.star_groups import StarGroup
from astroray.surveys.light_curves import ZERO_JD, LightCurve, read_light_curves
from astroray.surveys.shards import Reject

__all__ = ["StarPlace", "collect_windows", "star_windows"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StarPlace:
    """Where a star is, where its times are counted from, and where its first light curve lies."""

    ra_deg: float
    dec_deg: float
    time_zero: str
    shard: str


def collect_windows(
    group: StarGroup, *, unanswered: bool = False
) -> tuple[Windows | None, list[Reject], dict[str, StarPlace]]:
    """Windows of the stars in a group, rejects of its light curves, and where the stars are.

    None where no star gives a window. Each reject names its shard.
    """
    return star_windows(_items(group), unanswered=unanswered)


def star_windows(
    items: Iterable[tuple[str, LightCurve | Reject]], *, unanswered: bool = False
) -> tuple[Windows | None, list[Reject], dict[str, StarPlace]]:
    """The same of light curves at hand, each with the name of its shard.

    All light curves of a star are one; one that is bad takes no other with it.
    """
    rejects: list[Reject] = []
    by_star: dict[str, list[tuple[str, LightCurve]]] = {}
    for shard, item in items:
        if isinstance(item, Reject):
            rejects.append(dataclasses.replace(item, shard=shard))
        else:
            by_star.setdefault(item.object_id, []).append((shard, item))
    parts, places = [], {}
    for name, placed in by_star.items():
        placed = _in_one_time(placed)
        first_shard, first = placed[0]
        places[name] = StarPlace(
            ra_deg=first.ra_deg,
            dec_deg=first.dec_deg,
            time_zero=first.time_zero,
            shard=first_shard,
        )
        rule = rule_for(first.mission)
        usable: list[LightCurve] = []
        events: list[Event] = []
        for shard, curve in placed:
            try:
                events += events_for_windows(curve, rule)
                usable.append(curve)
            except DataError as error:
                rejects.append(_refuse(shard, curve, error))
        if usable:
            windows = curve_windows(usable, rule, events=events, unanswered=unanswered)
            parts.append(dataclasses.replace(windows, missions={first.mission: 1}))
    return (join_windows(parts) if parts else None), rejects, places


def _items(group: StarGroup) -> Iterator[tuple[str, LightCurve | Reject]]:
    for shard, rows in group.parts:
        try:
            for item in read_light_curves(shard, rows=rows):
                yield shard.name, item
        except DataError as error:
            yield shard.name, Reject.of_shard(error)


def _in_one_time(
    placed: Sequence[tuple[str, LightCurve]],
) -> list[tuple[str, LightCurve]]:
    """Light curves in order of their begin, with the zero point of time that the first one has."""

    def begin_jd(one: tuple[str, LightCurve]) -> float:
        return float(one[1].time_d[0]) + ZERO_JD[one[1].time_zero]

    ordered = sorted(placed, key=begin_jd)
    zero = ordered[0][1].time_zero
    moved = []
    for shard, curve in ordered:
        if curve.time_zero != zero:
            time_d = curve.time_d + (ZERO_JD[curve.time_zero] - ZERO_JD[zero])
            curve = dataclasses.replace(curve, time_d=time_d, time_zero=zero)
        moved.append((shard, curve))
    return moved


def _refuse(shard: str, curve: LightCurve, error: DataError) -> Reject:
    reason = f"{curve.object_id}: {error}"
    return Reject(row=curve.row, stage="windows", kind="unusable", reason=reason, shard=shard)
