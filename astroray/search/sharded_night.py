"""A night of more embeddings than one process holds: number, search in parts, certify, publish.

The tasks are in `actors/night_parts.py` and `actors/join.py`; here is their order, and what is
known of all objects at once: a few numbers each, never an embedding. Nothing here knows of Ray.
"""

import numpy as np

from astroray.actors import index, night_parts
from astroray.actors.join import JoinPlan, read_column, write_columns, write_ranking
from astroray.actors.night_parts import COLUMNS, NightPlan
from astroray.actors.search import SearchOutcome, SearchPlan
from astroray.catalog import versions
from astroray.neighbors.certificate import Certified, certify_top
from astroray.neighbors.partitions import Manifest
from astroray.neighbors.search import Neighbors
from astroray.search.exact_rounds import ExactLists, Places
from astroray.search.night_index import NightIndex
from astroray.search.stages import Each, Note, noted, run_all
from astroray.words import plural

__all__ = ["rank_night_sharded"]


def rank_night_sharded(
    search: SearchPlan, each: Each, *, reason: str, note: Note = lambda *_: None
) -> SearchOutcome:
    """Scores what a night adds, proves the top again, and writes the rows that have changed.

    note  is told what is being done, how many tasks of it are done, and of how many

    The files and the outcome are those of `actors.night.rank_night` to the last bit, but for the
    index and the words of it. Raises LedgerError where a file that the night refers to is missing
    or differs; one of an older index is named in the log, and all is built anew.
    """
    every = noted(each, note)
    night = NightIndex(search, every)
    plan = night.plan
    catalogs = versions.read_inherited(search.run_dir).catalogs[: plan.num_catalogs]
    run_all(every, night_parts.read_before, [(plan, *file) for file in enumerate(catalogs)])
    tasks = [(plan.index, *group, COLUMNS) for group in enumerate(night.groups)]
    run_all(every, index.identify, tasks)
    (numbering,) = run_all(every, night_parts.number_night, [(plan,)])
    manifest = night.build(numbering, reason=reason)
    join = _join_plan(search, plan, manifest, numbering.num_objects)
    exact = ExactLists(join, Places.of(join), each, note, at_once=search.search.num_threads)
    found = _certify(search, plan, join, exact, reason)
    (outcome,) = run_all(
        every, night_parts.finish_night, [(plan, join, search, found, numbering.num_duplicates)]
    )
    index.remove_scratch(search.run_dir)
    return outcome


def _join_plan(
    search: SearchPlan, plan: NightPlan, manifest: Manifest, num_objects: int
) -> JoinPlan:
    """What the tasks that search all layers are told."""
    named = [
        (place, manifest.path(search.run_dir, entry.uri))
        for place, layer in enumerate(manifest.layers)
        for entry in layer.partitions
    ]
    return JoinPlan(
        partitions=tuple(path for _, path in named),
        layers=tuple(place for place, _ in named),
        cells=plan.index.cells,
        objects=plan.index.path("objects"),
        ranking=plan.index.scratch("ranking"),
        scratch=plan.index.scratch("").removesuffix(".arrow"),
        num_objects=num_objects,
        width=min(search.search.k, num_objects - 1) + 1,
    )


def _certify(
    search: SearchPlan, plan: NightPlan, join: JoinPlan, exact: ExactLists, reason: str
) -> Neighbors:
    """Searches what the bounds demand and writes ranks and lists; proof and words of the index."""
    config = search.search
    bound_N = _bounds(plan, config.k)
    has_neighbors = len(bound_N) > 1
    certified = certify_top(
        bound_N if has_neighbors else np.full(len(bound_N), np.nan),
        np.full(len(bound_N), not has_neighbors),
        lambda number_B: exact.scores(number_B, config.score),
        top=config.top,
        k=config.k,
        score=config.score,
        is_late=search.is_late,
    )
    exact.publish()
    _write_ranking(plan, join, certified, bound_N)
    count = len(join.partitions)
    how = f"{count} {plural('partition', count)}, the scores before are the bounds"
    words = f"{reason}; {how}"
    return exact.without_objects(certified.proof, words)


def _bounds(plan: NightPlan, k: int) -> np.ndarray:
    """Upper bounds of all scores, [N], infinite where an object is searched in any case.

    Those are the new ones and the list before, so that who left it is known by an exact score.
    A distance to the last of fewer than k neighbors bounds nothing: with more objects the k-th
    of them lies further out.
    """
    score_N, is_old_N, was_listed_N = (
        read_column(plan.objects, name) for name in ("score", "is_old", "certified")
    )
    is_bound_N = is_old_N & ~was_listed_N & (is_old_N.sum() > k)
    return np.where(is_bound_N, score_N, np.inf)


def _write_ranking(
    plan: NightPlan, join: JoinPlan, certified: Certified, bound_N: np.ndarray
) -> None:
    """Publishes what is known of all objects, and which the night writes; for later those alone.

    Later an object goes by its place, which further layers do not change.
    """
    is_searched_N = certified.is_exact_N | np.isinf(bound_N)
    columns = {
        "score": certified.score_N,
        "rank": certified.rank_N,
        "certified": certified.certified_N,
    }
    write_columns(join.ranking, **columns, is_exact=certified.is_exact_N, is_searched=is_searched_N)
    place_N = read_column(plan.objects, "place")
    number_M = np.flatnonzero(is_searched_N | (not plan.older))
    number_M = number_M[np.argsort(place_N[number_M])]
    later = {name: of[number_M] for name, of in columns.items()}
    write_ranking(plan.index.path("ranking"), number=place_N[number_M], **later)
