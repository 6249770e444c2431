"""What the objects of the map are told apart by beside numbers: detector, night, what changed."""

import dataclasses
from collections.abc import Sequence

import pyarrow as pa

from astroray.catalog import versions
from astroray.report.night import read_change_of
from astroray.run_record import RunRecord

__all__ = ["Group", "read_groups"]

WORDS = {"detector": "detector", "field": "field", "night": "night of observation"}
CHANGES = {"entered": "entered the list", "moved": "moved in the list", "left": "left the list"}
NEW, KNOWN = "new in this night", "known before"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """A way to part the objects."""

    name: str
    words: str
    values: Sequence[str]
    """Names of the parts."""
    value_of: Sequence[int | None]
    """[M] of each object the place of its part in `values`; None where it is unknown."""


def read_groups(run_dir: str, record: RunRecord, placed: pa.Table) -> list[Group]:
    """The groups that part the objects of MAP: those of which there are two parts at least."""
    found = [_group(name, words, placed[name].to_pylist()) for name, words in WORDS.items()]
    if record.night:
        found.insert(0, _changes(run_dir, placed))
    return [group for group in found if len(group.values) + (None in group.value_of) > 1]


def _changes(run_dir: str, placed: pa.Table) -> Group:
    """What a night made of each object: its place in the list comes before its being new."""
    change_of = read_change_of(run_dir)
    receipts = versions.read_all_receipts(run_dir)
    new = {name for name, (version, _) in receipts.items() if version == run_dir}
    told = [
        CHANGES.get(change_of.get(object_id, ""), NEW if shard in new else KNOWN)
        for object_id, shard in zip(
            placed["object_id"].to_pylist(), placed["shard"].to_pylist(), strict=True
        )
    ]
    return _group("change", "what this night changed", told, [*CHANGES.values(), NEW, KNOWN])


def _group(name: str, words: str, told: Sequence[str | None], order: Sequence[str] = ()) -> Group:
    """The parts in the order given, else by name."""
    values = [value for value in order or sorted({one for one in told if one}) if value in told]
    place_of = {value: place for place, value in enumerate(values)}
    value_of = [place_of.get(value) if value else None for value in told]
    return Group(name=name, words=words, values=values, value_of=value_of)
