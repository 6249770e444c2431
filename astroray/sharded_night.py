"""A night of more embeddings than one process holds: number, search in parts, certify, publish.

The tasks are in `actors/night_parts.py` and `actors/join.py`; here is their order, and what is
known of all objects at once: a few numbers each, never an embedding. Nothing here knows of Ray.
"""

import hashlib
import json

import numpy as np

from astroray import ledger, versions
from astroray.actors import index, night_parts
from astroray.actors.index import IndexPlan
from astroray.actors.join import JoinPlan
from astroray.actors.night_parts import COLUMNS, NightPlan
from astroray.actors.search import SearchOutcome, SearchPlan
from astroray.exact_rounds import ExactLists, Places, write_columns
from astroray.grouping import Groups, Stored, grouped, rows_of_partition
from astroray.indexing import Each, Note, noted, run_all
from astroray.neighbors.certificate import Certified, certify_top
from astroray.neighbors.search import Neighbors
from astroray.versions import Inherited

__all__ = ["rank_night_sharded"]

LEAST_ROWS = 65_536
"""Of a part: a round costs each part the merging of its lists."""


def rank_night_sharded(
    search: SearchPlan, each: Each, *, reason: str, note: Note = lambda *_: None
) -> SearchOutcome:
    """Scores what a night adds, proves the top again, and writes the rows that have changed.

    note  is told what is being done, how many tasks of it are done, and of how many

    The files and the outcome are those of `actors.night.rank_night` to the last bit, but for the
    words of the index. Raises LedgerError where a file that the night refers to is missing or
    differs.
    """
    inherited = versions.read_inherited(search.run_dir)
    plan, groups = _plan(search, inherited)
    every = noted(each, note)
    run_all(
        every,
        night_parts.read_before,
        [(plan, place, *file) for place, file in enumerate(inherited.catalogs)],
    )
    tasks = [(plan.index, *group, COLUMNS) for group in enumerate(groups)]
    run_all(every, index.identify, tasks)
    (numbering,) = run_all(every, night_parts.number_night, [(plan,)])
    run_all(every, night_parts.build_part, [(plan, *group) for group in enumerate(groups)])
    join = JoinPlan(
        partitions=tuple(plan.part(group) for group in range(len(groups))),
        cells="",
        objects=plan.objects,
        ranking=plan.index.scratch("ranking"),
        scratch=plan.index.scratch("").removesuffix(".arrow"),
        num_objects=numbering.num_objects,
        width=min(search.search.k, numbering.num_objects - 1) + 1,
    )
    found = _certify(search, plan, join, ExactLists(join, Places.of(join), each, note), reason)
    (outcome,) = run_all(
        every, night_parts.finish_night, [(plan, join, search, found, numbering.num_duplicates)]
    )
    index.remove_scratch(search.run_dir)
    return outcome


def _plan(search: SearchPlan, inherited: Inherited) -> tuple[NightPlan, Groups]:
    """Groups of the reference's shards, then of the night's, and what their tasks are told."""
    own = ledger.read_receipts(search.run_dir).values()
    old = _embedded(list(inherited.receipts.values()))
    new = _embedded([(search.run_dir, receipt) for receipt in own])
    stored = [*old, *new]
    rows_each = rows_of_partition(
        sum(receipt.rows_embedded for _, receipt in stored),
        index.dimensions(*stored[0]),
        search.search.partition_mb,
        least=LEAST_ROWS,
    )
    old_groups, new_groups = grouped(old, rows_each), grouped(new, rows_each)
    plan = NightPlan(
        index=IndexPlan(
            run_dir=search.run_dir,
            model_id=search.model_id,
            source=_source(inherited, stored, rows_each),
            seed=search.search.seed,
            num_groups=len(old_groups) + len(new_groups),
        ),
        num_old_groups=len(old_groups),
        num_catalogs=len(inherited.catalogs),
    )
    return plan, old_groups + new_groups


def _embedded(stored: list[Stored]) -> list[Stored]:
    """The shards that have embeddings."""
    return [(run_dir, receipt) for run_dir, receipt in stored if receipt.rows_embedded]


def _source(inherited: Inherited, stored: list[Stored], rows_each: int) -> str:
    """Hash of all that the files of a search depend on."""
    facts = [
        rows_each,
        [sha256 for _, _, sha256 in inherited.catalogs],
        [(receipt.shard, receipt.checksum) for _, receipt in stored],
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]


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
    _write_ranking(join, certified, bound_N)
    words = f"{reason}; {len(join.partitions)} parts, the scores before are the bounds"
    return exact.without_objects(certified.proof, words)


def _bounds(plan: NightPlan, k: int) -> np.ndarray:
    """Upper bounds of all scores, [N], infinite where an object is searched in any case.

    Those are the new ones and the list before, so that who left it is known by an exact score.
    A distance to the last of fewer than k neighbors bounds nothing: with more objects the k-th
    of them lies further out.
    """
    is_old_N = night_parts.read_objects(plan, "is_old")
    is_bound_N = is_old_N & ~night_parts.read_objects(plan, "was_listed")
    is_bound_N &= is_old_N.sum() > k
    return np.where(is_bound_N, night_parts.read_objects(plan, "score_before"), np.inf)


def _write_ranking(join: JoinPlan, certified: Certified, bound_N: np.ndarray) -> None:
    """Publishes what is known of all objects, and which the night writes."""
    write_columns(
        join.ranking,
        score=certified.score_N,
        is_exact=certified.is_exact_N,
        rank=certified.rank_N,
        certified=certified.certified_N,
        is_searched=certified.is_exact_N | np.isinf(bound_N),
    )
