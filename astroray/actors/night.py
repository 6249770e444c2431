"""How a night's embeddings join those of its reference: bounds, search, certify, write the new."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from astroray import drift, faults, ledger, outliers, scores, storage, versions
from astroray.actors.search import (
    GAUSSIAN_PATH,
    SearchOutcome,
    SearchPlan,
    by_shard,
    embedding_matrix,
    load_embeddings,
    outcome_of,
    publish_rows,
    read_embeddings,
    shown_objects,
)
from astroray.changes import change_list
from astroray.neighbors.search import Neighbors, search
from astroray.report.thumbnails import read_thumbnails
from astroray.surveys.shards import Reject
from astroray.versions import Inherited

__all__ = ["rank_night"]

UNUSUAL_SHARE = 0.01
"""Of a night's objects, at least as many as the list is long, are looked through for clusters."""

_BEFORE = ["object_id", "shard", "row", "outlier_score", "rank", "certified"]
_NEEDED = ["object_id", "ra", "dec", "_healpix_29", "shard", "row", "processing_flags", "embedding"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Objects:
    """All objects of a version: first those of the reference, then those of the night."""

    table: pa.Table
    """As `outliers.catalog_table` wants them."""
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
    new: pa.Table
    """EMBEDDINGS of the night's objects, without `embedding`."""
    rejects: list[Reject]


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
        is_late=lambda: plan.finish_by_s is not None and time.time() > plan.finish_by_s,
    )
    faults.reach("search.found")
    # All that was searched, and what the clock kept from being searched.
    row_M = np.flatnonzero(found.is_exact_N | np.isinf(objects.bound_N))
    seen, suspect_of = _look(objects, found)
    changes = change_list(objects.before, _listed(plan, objects, found), suspect_of)
    ledger.publish_table(storage.join(plan.run_dir, "changes.parquet"), changes)
    again = scores.scores_again(objects.embedding_ND, found, row_M, _gaussian(plan))
    publish_rows(plan, objects.table, found, again, row_M)
    outcome = _outcome(plan, inherited, objects, found, row_M, changes)
    return dataclasses.replace(outcome, night={**outcome.night, **seen})


def _gather(plan: SearchPlan, inherited: Inherited) -> _Objects:
    """The objects of the reference with their bounds, and the night's own without."""
    before = versions.read_older(inherited, _BEFORE)
    old = _kept(read_embeddings(inherited.receipts, _NEEDED), before)
    place_O = _index_in(old["object_id"], before["object_id"])
    new = load_embeddings(plan.run_dir)
    unique = outliers.drop_duplicates(new)
    new = new.take(pa.array(unique.kept_M))
    known_M = np.flatnonzero(_index_in(new["object_id"], before["object_id"]) >= 0)
    rejects = [*unique.rejects, *_known(new.take(pa.array(known_M)))]
    new = new.take(pa.array(np.setdiff1d(np.arange(len(new)), known_M)))
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
        new=new.drop_columns("embedding"),
        rejects=rejects,
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


def _known(rows: pa.Table) -> list[Reject]:
    return [
        Reject(
            row=row,
            stage="catalog",
            kind="duplicate",
            shard=shard,
            reason=f"object_id {object_id} is in the reference already, whose row was kept, since "
            "a bound does not outlive a withdrawn object; expected one row an object",
        )
        for shard, row, object_id in zip(
            *(rows[name].to_pylist() for name in ("shard", "row", "object_id")), strict=True
        )
    ]


def _listed(plan: SearchPlan, objects: _Objects, found: Neighbors) -> pa.Table:
    """CATALOG rows of all that are or were in the certified list, without further scores."""
    was_listed = pc.is_in(
        objects.table["object_id"], value_set=objects.before["object_id"].combine_chunks()
    )
    row_M = np.flatnonzero(found.certified_N | was_listed.to_numpy())
    unknown = {name: np.full(len(row_M), np.nan) for name in scores.COLUMNS}
    return outliers.catalog_table(
        objects.table, found, unknown, model_id=plan.model_id, row_M=row_M
    )


def _gaussian(plan: SearchPlan) -> scores.Gaussian | None:
    """What the first reference measured Mahalanobis distances by."""
    path = storage.join(plan.run_dir, GAUSSIAN_PATH)
    return scores.Gaussian.from_bytes(storage.read_bytes(path)) if storage.exists(path) else None


def _look(objects: _Objects, found: Neighbors) -> tuple[dict[str, Any], dict[str, str]]:
    """Drift and suspects for the record, and why an outlier of the night is suspect, by its id."""
    num_new, num_top = len(objects.new), found.proof.num_certified
    score_M = found.score_N[objects.num_old :]
    described = drift.describe_drift(
        objects.embedding_ND[objects.is_first_N],
        objects.embedding_ND[objects.num_old :],
        objects.before_score_N,
        score_M,
    )
    # What a person would look at first among the night's objects.
    num_seen = max(min(num_top, num_new), round(UNUSUAL_SHARE * num_new))
    is_outlier_M = np.zeros(num_new, bool)
    is_outlier_M[np.argsort(found.rank_N[objects.num_old :], kind="stable")[:num_seen]] = True
    columns = {name: objects.new[name] for name in ("detector", "field", "night")}
    suspects, suspect_M = drift.find_suspects(columns, is_outlier_M)
    in_list = int(found.certified_N[objects.num_old :].sum())
    whole = drift.suspect_night(num_new, len(found.rank_N), in_list, num_top)
    ids = objects.new["object_id"].to_pylist()
    suspect_of = {
        ids[row]: suspects[suspect_M[row]].sentence() for row in np.flatnonzero(suspect_M >= 0)
    }
    named = [{**dataclasses.asdict(s), "sentence": s.sentence()} for s in [*whole, *suspects]]
    return {"drift": described, "suspects": named}, suspect_of


def _outcome(
    plan: SearchPlan,
    inherited: Inherited,
    objects: _Objects,
    found: Neighbors,
    row_M: np.ndarray,
    changes: pa.Table,
) -> SearchOutcome:
    row_R = row_M[np.argsort(found.rank_N[row_M])]
    shown = shown_objects(plan, row_R, found.neighbor_NK.__getitem__)
    wanted = objects.table["object_id"].take(pa.array(shown)).to_pylist()
    wanted += changes["object_id"].to_pylist()
    pictures = _pictures(inherited.versions[-1], set(wanted)) if inherited.versions else {}
    missing = sorted(set(wanted) - set(pictures))
    counts = {
        "duplicates": len(objects.rejects),
        "inherited": objects.num_old,
        "catalog": len(objects.table),
        "positions": len(objects.table) - objects.table["ra"].null_count,
    }
    outcome = outcome_of(plan, found, counts=counts, wanted=by_shard(objects.table, missing))
    night: dict[str, Any] = {
        "objects_new": len(objects.new),
        "rows_written": len(row_M),
        "changes": {
            name: pc.sum(pc.equal(changes["change"], name)).as_py() or 0
            for name in ("entered", "left", "moved")
        },
    }
    return dataclasses.replace(outcome, pictures=pictures, night=night)


def _pictures(reference: str, wanted: set[str]) -> Mapping[str, bytes]:
    """JPEG by object_id of the wanted objects that the reference has a picture of."""
    stored = read_thumbnails(reference)
    return {object_id: jpeg for object_id, jpeg in stored.items() if object_id in wanted}
