"""How a shard of light curves becomes windows, star by star, and which light curves do not."""

import dataclasses
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from astroray import storage
from astroray.errors import DataError
from astroray.flares.curve_windows import curve_windows, events_for_windows, rule_for
from astroray.flares.events import Event
from astroray.flares.windows import Windows, join_windows
from astroray.surveys.shards import Reject, Shard

if TYPE_CHECKING:
    from astroray.surveys.light_curves import LightCurve

__all__ = ["StarPlace", "collect_windows", "read_windows", "star_windows", "write_windows"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StarPlace:
    """Where a star is, and where its times are counted from."""

    ra_deg: float
    dec_deg: float
    time_zero: str


def collect_windows(
    shard: Shard, *, unanswered: bool = False
) -> tuple[Windows | None, list[Reject], dict[str, StarPlace]]:
    """Windows of the stars in a shard, rejects of its light curves, and where the stars are.

    All light curves of a star in the shard are one; None where no star gives a window.
    """
    from astroray.surveys.light_curves import read_light_curves

    try:
        return star_windows(read_light_curves(shard), unanswered=unanswered)
    except DataError as error:
        return None, [Reject.of_shard(error)], {}


def star_windows(
    items: Iterable["LightCurve | Reject"], *, unanswered: bool = False
) -> tuple[Windows | None, list[Reject], dict[str, StarPlace]]:
    """The same of light curves that are at hand; one that is bad takes no other with it."""
    rejects: list[Reject] = []
    by_star: dict[str, list[LightCurve]] = {}
    for item in items:
        if isinstance(item, Reject):
            rejects.append(item)
        else:
            by_star.setdefault(item.object_id, []).append(item)
    parts = []
    for curves in by_star.values():
        curves.sort(key=lambda curve: curve.time_d[0])
        rule = rule_for(curves[0].mission)
        usable: list[LightCurve] = []
        events: list[Event] = []
        for curve in curves:
            try:
                events += events_for_windows(curve, rule)
                usable.append(curve)
            except DataError as error:
                rejects.append(_refuse(curve, error))
        if usable:
            parts.append(curve_windows(usable, rule, events=events, unanswered=unanswered))
    places = {
        name: StarPlace(
            ra_deg=curves[0].ra_deg, dec_deg=curves[0].dec_deg, time_zero=curves[0].time_zero
        )
        for name, curves in by_star.items()
    }
    return (join_windows(parts) if parts else None), rejects, places


def write_windows(path: str, windows: Windows) -> None:
    """Publishes windows as one npz file, whole or absent."""
    columns = {
        name: value for name, value in vars(windows).items() if isinstance(value, np.ndarray)
    }
    sink = io.BytesIO()
    np.savez(
        sink,
        star_ids=np.array(windows.star_ids, np.str_),
        reasons=np.array(list(windows.dropped), np.str_),
        counts=np.array(list(windows.dropped.values()), np.int64),
        **columns,  # type: ignore[arg-type]
    )
    storage.publish(path, sink.getvalue())


def read_windows(path: str) -> Windows:
    """Windows that `write_windows` published."""
    with np.load(io.BytesIO(storage.read_bytes(path))) as file:
        columns = {name: file[name] for name in file.files}
    ids: Sequence[str] = columns.pop("star_ids").tolist()
    dropped = dict(
        zip(columns.pop("reasons").tolist(), columns.pop("counts").tolist(), strict=True)
    )
    return Windows(star_ids=ids, dropped=dropped, **columns)


def _refuse(curve: "LightCurve", error: DataError) -> Reject:
    reason = f"{curve.object_id}: {error}"
    return Reject(row=curve.row, stage="windows", kind="unusable", reason=reason)
