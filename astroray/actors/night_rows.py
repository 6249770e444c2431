"""What a night writes of the objects that it searched: rows, changes, drift, and for the record.

A search in one process and one over partitions both hand over a `Searched`. Objects are known by
numbers, whichever the search has given them. M objects that were searched, or would have been had
the clock not stopped the search.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from astroray import faults, scores, storage
from astroray.actors.search import (
    GAUSSIAN_PATH,
    SearchOutcome,
    SearchPlan,
    outcome_of,
    publish_rows,
    rows_by_shard,
    shown_objects,
)
from astroray.catalog.changes import change_list
from astroray.neighbors.distances import parts
from astroray.neighbors.search import Neighbors
from astroray.report.thumbnails import read_thumbnails
from astroray.run_files import changes_file
from astroray.run_record import Changes, Counts, Drift, NightFound, Suspect
from astroray.scores import drift, outliers
from astroray.scores.gaussian import Gaussian
from astroray.scores.outliers import Unique
from astroray.storage.parquet import publish_parquet
from astroray.surveys.shards import Reject

__all__ = ["BEFORE", "Searched", "publish_night", "unique_new"]

UNUSUAL_SHARE = 0.01
"""Of a night's objects, at least as many as the list is long, are looked through for clusters."""
ROWS_AT_ONCE = 16_384
BEFORE = ("object_id", "shard", "row", "outlier_score", "rank", "certified")
"""What a night reads of the older catalogs."""
GROUPS = ("detector", "field", "night")
"""By what the outliers of a night may cluster."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Searched:
    """The objects that a night searched, and what it knows of all others."""

    table: pa.Table
    """[M] as `outliers.catalog_table` wants them, with GROUPS."""
    number_M: np.ndarray
    """[M] int64, ascending."""
    found: Neighbors
    """[M] what was found of the objects of `table`; neighbors are given by number."""
    is_new_M: np.ndarray
    """[M] bool, whether this night embedded it; all objects that it embedded are in `table`."""
    before: pa.Table
    """Columns BEFORE of the certified rows of the reference, all of which are in `table`."""
    num_objects: int
    """Of the version."""
    num_positions: int
    num_duplicates: int
    vectors: scores.Vectors
    rows_of: Callable[[np.ndarray, Sequence[str]], pa.Table]
    """Numbers [B] to some columns of `object_id`, `shard` and `row`."""
    first_SD: np.ndarray
    """[S, D] embeddings of the first reference, `drift.SAMPLE` spread over all in their order."""
    before_score_N: np.ndarray
    """Scores of the reference's objects before, in the order of their embeddings."""

    @property
    def num_old(self) -> int:
        """Objects of the reference."""
        return self.num_objects - int(self.is_new_M.sum())

    def names_of(self, number_B: np.ndarray) -> pa.Array:
        """The `object_id` of objects."""
        return self.rows_of(number_B, ["object_id"])["object_id"].combine_chunks()


def publish_night(plan: SearchPlan, versions: Sequence[str], searched: Searched) -> SearchOutcome:
    """Writes the rows that were searched and the change list, and says what the record needs.

    versions  run directories that the night refers to, oldest first
    """
    faults.reach("search.found")
    drifted, suspects, suspect_of = _look(searched)
    changes = change_list(searched.before, _listed(plan, searched), suspect_of)
    publish_parquet(changes_file(plan.run_dir), changes)
    further = _further(searched, _gaussian(plan))
    publish_rows(plan, searched.table, searched.found, further, searched.names_of)
    night = NightFound(
        objects_new=int(searched.is_new_M.sum()),
        rows_written=len(searched.number_M),
        changes=Changes(**{kind: _count(changes, kind) for kind in ("entered", "left", "moved")}),
        drift=drifted,
        suspects=suspects,
    )
    return _outcome(plan, versions, searched, changes, night)


def _count(changes: pa.Table, kind: str) -> int:
    return pc.sum(pc.equal(changes["change"], kind)).as_py() or 0


def unique_new(rows: pa.Table, known: pa.ChunkedArray) -> Unique:
    """Of several rows of a night for one object one stays, and none where it is known.

    known  objects of the reference, of those that may be in `rows` all
    """
    unique = outliers.drop_duplicates(rows)
    ids = rows["object_id"].take(pa.array(unique.kept_M))
    is_known_M = pc.is_in(ids, value_set=known.combine_chunks()).to_numpy()
    known_M = unique.kept_M[is_known_M]
    rejects = [*unique.rejects, *_known(rows.take(pa.array(known_M)))]
    dropped_R = np.concatenate([unique.dropped_R, known_M])
    order_R = np.argsort(dropped_R)
    return Unique(
        kept_M=unique.kept_M[~is_known_M],
        dropped_R=dropped_R[order_R],
        rejects=[rejects[place] for place in order_R.tolist()],
    )


def _known(rows: pa.Table) -> list[Reject]:
    return [
        Reject(
            row=row,
            stage="catalog",
            kind="duplicate",
            shard=shard,
            reason=f"object_id {object_id} is in the reference already, whose row was kept, since "
            "a bound does not outlive a withdrawn object; expected one row an object: files of "
            "equal names in several folders need one survey of the folder above, whose "
            "identifiers hold the folder, or a table of identifiers",
        )
        for shard, row, object_id in zip(
            *(rows[name].to_pylist() for name in ("shard", "row", "object_id")), strict=True
        )
    ]


def _listed(plan: SearchPlan, searched: Searched) -> pa.Table:
    """CATALOG rows of all that are or were in the certified list, without further scores."""
    was_listed = pc.is_in(
        searched.table["object_id"], value_set=searched.before["object_id"].combine_chunks()
    )
    row_L = np.flatnonzero(searched.found.certified_N | was_listed.to_numpy())
    return outliers.catalog_table(
        searched.table,
        searched.found,
        {name: np.full(len(row_L), np.nan) for name in scores.COLUMNS},
        model_id=plan.model_id,
        row_M=row_L,
        names_of=searched.names_of,
    )


def _gaussian(plan: SearchPlan) -> Gaussian | None:
    """What the first reference measured Mahalanobis distances by."""
    path = storage.join(plan.run_dir, GAUSSIAN_PATH)
    return Gaussian.from_bytes(storage.read_bytes(path)) if storage.exists(path) else None


def _further(searched: Searched, gaussian: Gaussian | None) -> dict[str, np.ndarray]:
    """Further scores of all that were searched, by column, [M]; some rows at a time."""
    found = searched.found
    some = [
        scores.scores_again(
            searched.vectors(searched.number_M[part]), found.take(part), searched.vectors, gaussian
        )
        for part in parts(len(searched.number_M), ROWS_AT_ONCE)
    ]
    none = np.zeros(0)
    return {name: np.concatenate([none, *(of[name] for of in some)]) for name in scores.COLUMNS}


def _look(searched: Searched) -> tuple[Drift | None, tuple[Suspect, ...], dict[str, str]]:
    """Drift and suspects for the record, and why an outlier of the night is suspect, by its id."""
    found, new_Q = searched.found, np.flatnonzero(searched.is_new_M)
    num_new, num_top = len(new_Q), found.proof.num_certified
    described = drift.describe_drift(
        searched.first_SD,
        (searched.vectors(searched.number_M[new_Q[p]]) for p in parts(num_new, ROWS_AT_ONCE)),
        searched.before_score_N,
        found.score_N[new_Q],
    )
    # What a person would look at first among the night's objects.
    num_seen = max(min(num_top, num_new), round(UNUSUAL_SHARE * num_new))
    is_outlier_Q = np.zeros(num_new, bool)
    is_outlier_Q[np.argsort(found.rank_N[new_Q], kind="stable")[:num_seen]] = True
    new = searched.table.take(pa.array(new_Q))
    suspects, suspect_Q = drift.find_suspects({name: new[name] for name in GROUPS}, is_outlier_Q)
    in_list = int(found.certified_N[new_Q].sum())
    whole = drift.suspect_night(num_new, searched.num_objects, in_list, num_top)
    ids = new["object_id"].to_pylist()
    suspect_of = {
        ids[row]: suspects[suspect_Q[row]].sentence for row in np.flatnonzero(suspect_Q >= 0)
    }
    return described, (*whole, *suspects), suspect_of


def _outcome(
    plan: SearchPlan,
    versions: Sequence[str],
    searched: Searched,
    changes: pa.Table,
    night: NightFound,
) -> SearchOutcome:
    shown = searched.rows_of(_shown(plan, searched, changes), ["object_id", "shard", "row"])
    pictures = _pictures(versions[-1], set(shown["object_id"].to_pylist())) if versions else {}
    is_missing = pc.invert(pc.is_in(shown["object_id"], pa.array(list(pictures), pa.string())))
    counts = Counts(
        duplicates=searched.num_duplicates,
        inherited=searched.num_old,
        catalog=searched.num_objects,
        positions=searched.num_positions,
    )
    wanted = rows_by_shard(shown.filter(is_missing))
    outcome = outcome_of(plan, searched.found, counts=counts, wanted=wanted)
    return dataclasses.replace(outcome, pictures=pictures, night=night)


def _shown(plan: SearchPlan, searched: Searched, changes: pa.Table) -> np.ndarray:
    """The numbers of the objects whose pictures the report shows."""
    number_M, found = searched.number_M, searched.found
    shown = shown_objects(
        plan,
        number_M[np.argsort(found.rank_N)],
        lambda number_T: found.neighbor_NK[np.searchsorted(number_M, number_T)],
    )
    has_changed = pc.is_in(
        searched.table["object_id"], value_set=changes["object_id"].combine_chunks()
    )
    return np.union1d(shown, number_M[has_changed.to_numpy()])


def _pictures(reference: str, wanted: set[str]) -> Mapping[str, bytes]:
    """JPEG by object_id of the wanted objects that the reference has a picture of."""
    stored = read_thumbnails(reference)
    return {object_id: jpeg for object_id, jpeg in stored.items() if object_id in wanted}
