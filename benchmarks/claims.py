"""Claims: rows of a benchmark before they are measured, by which side of the goal is good."""

from collections.abc import Callable
from functools import partial

from benchmarks.rows import BenchRow

__all__ = ["at_least", "at_most"]


def at_least(
    what: str, goal: float | None, *, unit: str = "x", peer: str = "", limit: float | None = None
) -> Callable[..., BenchRow]:
    """The row of what `measured` adds, ok from `goal` up; the fields are those of BenchRow."""
    return partial(BenchRow, what=what, goal=goal, unit=unit, peer=peer, limit=limit)


def at_most(
    what: str, goal: float | None, *, unit: str = "x", peer: str = "", limit: float | None = None
) -> Callable[..., BenchRow]:
    """The same, ok up to `goal`, as of times and memory."""
    return partial(at_least(what, goal, unit=unit, peer=peer, limit=limit), is_at_most=True)
