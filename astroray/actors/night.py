"""How a night's embeddings join those of its reference, in one process: bounds, search, certify."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from astroray import ledger
from astroray.actors.night_rows import BEFORE, GROUPS, Searched, publish_night, unique_new
from astroray.actors.search import (
    SearchOutcome,
    SearchPlan,
    embedding_matrix,
    load_embeddings,
    read_embeddings,
)
from astroray.catalog import versions
from astroray.catalog.versions import Inherited
from astroray.neighbors.distances import spread
from astroray.neighbors.search import Neighbors, search
from astroray.scores import drift
from astroray.surveys.shards import Reject

__all__ = ["rank_night"]

_NEEDED = [
    *("object_id", "ra", "dec", "_healpix_29", "shard", "row", "processing_flags"),
    *(*GROUPS, "embedding"),
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Objects:
    """All objects of a version: first those of the reference, then those of the night."""

    table: pa.Table
    """As `outliers.catalog_table` wants them, with GROUPS."""
    embedding_ND: np.ndarray
    bound_N: np.ndarray
    """[N] float64, infinite where unknown."""
    num_old: int
    before: pa.Table
    """The certified rows of the reference."""
    before_score_N: np.ndarray
    """[N] their scores before, NaN where they had none and for the night's objects."""
    is_first_N: np.ndarray
    """[N] bool, embedded by the first reference."""
    rejects: Sequence[Reject]


def rank_night(plan: SearchPlan) -> SearchOutcome:
    """Scores what a night adds, proves the top again, and writes the rows that have changed.

    The scores of the reference are upper bounds, since objects were only added. A new object, and
    one that was certified before, is searched among all; others as their bounds demand. CATALOG
    gets the rows that were searched; all others stay as an older version wrote them.

    Raises LedgerError where a file that the night refers to is missing or differs.
    """
    inherited = versions.read_inherited(plan.run_dir)
    objects = _gather(plan, inherited)
    ledger.write_rejects(plan.run_dir, "duplicates", objects.rejects, attempt=1)
    found = search(
        objects.embedding_ND,
        objects.table["object_id"],
        plan.search,
        bound_N=objects.bound_N,
        is_late=plan.is_late,
    )
    return publish_night(plan, inherited.versions, _searched(objects, found))


def _gather(plan: SearchPlan, inherited: Inherited) -> _Objects:
    """The objects of the reference with their bounds, and the night's own without."""
    before = versions.read_older(inherited, BEFORE)
    old = _kept(read_embeddings(inherited.receipts, _NEEDED), before)
    place_O = _index_in(old["object_id"], before["object_id"])
    new = load_embeddings(plan.run_dir)
    unique = unique_new(new, before["object_id"])
    new = new.take(pa.array(unique.kept_M))
    certified = before.filter(before["certified"])
    score_O = before["outlier_score"].to_numpy(zero_copy_only=False)[place_O]
    # A distance to the last of fewer than k neighbors bounds nothing: with more objects the k-th
    # of them lies further out. Where there was no neighbor there is no score.
    bound_O = score_O if len(before) > plan.search.k else np.full(len(score_O), np.inf)
    # The list before is searched again, so that who left it is known by an exact score.
    is_certified_O = before["certified"].to_numpy(zero_copy_only=False)[place_O]
    bound_O = np.where(is_certified_O, np.inf, bound_O)
    joined = [old.drop_columns("embedding"), new.select(_NEEDED).drop_columns("embedding")]
    matrices = [embedding_matrix(table) for table in (old, new) if len(table)]
    return _Objects(
        table=pa.concat_tables(joined).combine_chunks(),
        embedding_ND=np.concatenate(matrices) if matrices else np.zeros((0, 1), np.float32),
        bound_N=np.concatenate([bound_O, np.full(len(new), np.inf)]),
        num_old=len(old),
        before=certified,
        before_score_N=np.concatenate([score_O, np.full(len(new), np.nan)]),
        is_first_N=np.concatenate([_is_first(old, inherited), np.zeros(len(new), bool)]),
        rejects=unique.rejects,
    )


def _searched(objects: _Objects, found: Neighbors) -> Searched:
    """The objects that were searched, and what the clock kept from being searched."""
    row_M = np.flatnonzero(found.is_exact_N | np.isinf(objects.bound_N))
    first_F = np.flatnonzero(objects.is_first_N)
    table = objects.table
    return Searched(
        table=table.take(pa.array(row_M)),
        number_M=row_M,
        found=found.take(row_M),
        is_new_M=row_M >= objects.num_old,
        before=objects.before,
        num_objects=len(table),
        num_positions=len(table) - table["ra"].null_count,
        num_duplicates=len(objects.rejects),
        vectors=objects.embedding_ND.__getitem__,
        rows_of=lambda number_B, columns: table.select(list(columns)).take(pa.array(number_B)),
        first_SD=objects.embedding_ND[first_F[spread(len(first_F), drift.SAMPLE)]],
        before_score_N=objects.before_score_N,
    )


def _kept(old: pa.Table, before: pa.Table) -> pa.Table:
    """Older embeddings without the duplicates that the older versions dropped."""
    if len(old) == len(before):
        return old
    place_O = _index_in(old["object_id"], before["object_id"])
    same = [pc.equal(old[name], before[name].take(pa.array(place_O))) for name in ("shard", "row")]
    return old.filter(pc.and_(*same)).combine_chunks()


def _is_first(old: pa.Table, inherited: Inherited) -> np.ndarray:
    """Which rows the first of all versions embedded, bool [O]."""
    first = inherited.versions[:1]
    names = [name for name, (version, _) in inherited.receipts.items() if [version] == first]
    is_first = pc.is_in(old["shard"], pa.array(names, pa.string()))
    return np.asarray(is_first.to_numpy(), bool)


def _index_in(ids: pa.ChunkedArray, known: pa.ChunkedArray) -> np.ndarray:
    """Places of ids among the known ones, int64 [N]; -1 where there is none."""
    index = pc.index_in(ids, value_set=known.combine_chunks())
    return pc.fill_null(index, -1).to_numpy().astype(np.int64)
