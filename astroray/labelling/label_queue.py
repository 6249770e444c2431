"""Which objects a person is shown next, and why each: the best, some doubtful ones, some at random.

To show only what is thought to be interesting would never show what is missed: of each batch a part
is what the labels say least of, and a part is drawn from all that are left, which an honest
estimate of what is still to be found needs.
"""

import dataclasses
import math

import numpy as np

from astroray.labelling.interest import Learnt

__all__ = ["Next", "next_objects", "round_size"]

UNCERTAIN_SHARE = 0.1
AUDIT_SHARE = 0.05
DOUBTFUL_POOL = 10
"""Doubtful objects are taken from so many times their number of the best ones not yet shown."""
FIRST_ROUND, ROUND, LARGE_ROUND = 10, 5, 20
LARGE_SURVEY = 1_000_000
"""From so many objects on, ordering them anew takes so long that it is done less often."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Next:
    """An object to be shown."""

    row: int
    """Row of the catalog."""
    why: str
    """certified, ranked, learnt, uncertain or audit."""


def round_size(num_objects: int, num_done: int) -> int:
    """Objects to be shown before labels are learnt from anew.

    num_done  labelled or shown already
    """
    if num_objects >= LARGE_SURVEY:
        return LARGE_ROUND
    return ROUND if num_done else FIRST_ROUND


def next_objects(
    learnt: Learnt | None,
    certified_N: np.ndarray,
    is_done_N: np.ndarray,
    *,
    size: int,
    seed: int,
) -> list[Next]:
    """At most `size` objects that are not done, in the order in which to show them.

    learnt       what labels say of all; None before the first one: then the catalog's order counts
    certified_N  [N] bool, proven to be in the top; rows are in order of rank
    is_done_N    [N] bool, labelled or shown already
    """
    open_M = np.flatnonzero(~is_done_N)
    num = min(size, len(open_M))
    num_done = len(is_done_N) - len(open_M)
    num_audit = _due(AUDIT_SHARE, num_done, num)
    num_uncertain = _due(UNCERTAIN_SHARE, num_done, num) if learnt else 0
    order_M = (
        open_M if learnt is None else open_M[np.argsort(-learnt.value_N[open_M], kind="stable")]
    )
    best = order_M[: num - num_audit - num_uncertain]
    rest = order_M[len(best) :]
    chosen = {int(row): _why_best(learnt, bool(certified_N[row])) for row in best}
    if learnt is not None and num_uncertain:
        pool = rest[: DOUBTFUL_POOL * num_uncertain]
        doubtful = pool[np.argsort(-learnt.doubt_of(pool), kind="stable")][:num_uncertain]
        chosen |= dict.fromkeys((int(row) for row in doubtful), "uncertain")
        rest = np.setdiff1d(rest, doubtful)
    random = np.random.default_rng(seed)
    drawn = random.choice(np.sort(rest), min(num_audit, len(rest)), replace=False)
    chosen |= dict.fromkeys((int(row) for row in drawn), "audit")
    return [Next(row=row, why=why) for row, why in _mixed(chosen)]


def _due(share: float, num_done: int, num: int) -> int:
    """How many of the next `num` objects make up that share of all that are done then."""
    return math.floor((num_done + num) * share) - math.floor(num_done * share)


def _why_best(learnt: Learnt | None, is_certified: bool) -> str:
    if learnt is not None:
        return "learnt"
    return "certified" if is_certified else "ranked"


def _mixed(chosen: dict[int, str]) -> list[tuple[int, str]]:
    """The others spread evenly among the best, so that no batch ends in a row of them."""
    best = [(row, why) for row, why in chosen.items() if why not in ("uncertain", "audit")]
    others = [(row, why) for row, why in chosen.items() if why in ("uncertain", "audit")]
    mixed: list[tuple[int, str]] = []
    for number, other in enumerate(others):
        upto = round((number + 1) * len(best) / (len(others) + 1))
        mixed += best[len(mixed) - number : upto]
        mixed.append(other)
    return mixed + best[len(mixed) - len(others) :]
