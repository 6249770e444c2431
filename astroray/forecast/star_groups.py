"""Which light curves of a survey are read together, so that each star is whole.

A shard is a group of files in the order of their paths, which is that of quarters or sectors: the
files of one star may lie in many. Its history must not begin anew in each, nor end where the
listing was cut, so stars are named first and then dealt into groups.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence

from astroray.errors import DataError
from astroray.surveys.light_curves import read_light_curves
from astroray.surveys.shards import Reject, Shard

__all__ = ["NamedRows", "StarGroup", "group_stars", "name_rows"]

GROUP_CURVES = 32
"""Light curves of a group: at a few seconds each for their looks, enough for one task."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StarGroup:
    """Light curves that are read together: all of each of their stars."""

    parts: tuple[tuple[Shard, tuple[int, ...] | None], ...]
    """Shards, and the rows of each that are meant; None: all of them."""

    @property
    def name(self) -> str:
        """Of its members alone, safe as a file name; a file with other bytes is another member."""
        members = [[shard.facts(), rows] for shard, rows in self.parts]
        return hashlib.sha256(json.dumps(members, sort_keys=True).encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True, kw_only=True)
class NamedRows:
    """Whose the rows of a shard are."""

    shard: Shard
    stars: tuple[tuple[int, str], ...] | None
    """Row and star, "" where the row cannot be read; None where the whole shard cannot be."""


def name_rows(shard: Shard) -> NamedRows:
    """The stars of a shard, for which it is read whole: a name may stand in a file's header."""
    try:
        stars = tuple(
            (item.row or 0, "" if isinstance(item, Reject) else item.object_id)
            for item in read_light_curves(shard)
        )
    except DataError:  # it is read again with its group, and becomes a reject there
        return NamedRows(shard=shard, stars=None)
    return NamedRows(shard=shard, stars=stars)


def group_stars(named: Sequence[NamedRows], *, size: int = GROUP_CURVES) -> list[StarGroup]:
    """Stars in the order of their first light curves, in groups of about so many light curves.

    No star is split: one that has more light curves than `size` is a group of its own.
    """
    groups = [StarGroup(parts=((one.shard, None),)) for one in named if one.stars is None]
    by_star: dict[tuple[str, int, int], list[tuple[int, int]]] = {}
    for number, one in enumerate(named):
        for row, name in one.stars or ():
            # What cannot be read is nobody's: it goes where it stands.
            key = (name, -1, -1) if name else ("", number, row)
            by_star.setdefault(key, []).append((number, row))
    pending: list[tuple[int, int]] = []
    for places in by_star.values():
        if pending and len(pending) + len(places) > size:
            groups.append(_group(named, pending))
            pending = []
        pending += places
    return [*groups, _group(named, pending)] if pending else groups


def _group(named: Sequence[NamedRows], places: Sequence[tuple[int, int]]) -> StarGroup:
    rows: dict[int, list[int]] = {}
    for number, row in sorted(places):
        rows.setdefault(number, []).append(row)
    return StarGroup(
        parts=tuple((named[number].shard, tuple(those)) for number, those in rows.items())
    )
