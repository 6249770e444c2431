"""What an object's neighbors say of it, as rows of CATALOG and NEIGHBORS, one row an object."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from astroray import schema
from astroray.neighbors.distances import parts
from astroray.neighbors.search import Neighbors
from astroray.surveys.shards import Reject

NAMES_AT_ONCE = 10_000_000  # of neighbors: they fit one Arrow array of 2 GB


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unique:
    """Which rows stay where an object was embedded more than once."""

    kept_M: np.ndarray
    """[M] int64, rows that stay, ascending."""
    dropped_R: np.ndarray
    """[R] int64, rows that are rejected, ascending."""
    rejects: Sequence[Reject]
    """[R] one for each row of `dropped_R`."""


def drop_duplicates(rows: pa.Table) -> Unique:
    """Of all rows with one `object_id` the one with the smallest (shard, row) stays, no other.

    `rows` has the columns `object_id`, `shard` and `row`; the result does not depend on its order
    beyond the order of the rejects.
    """
    code_N = rows["object_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    several_R = np.flatnonzero(np.bincount(code_N)[code_N] > 1)
    order_R = several_R[_order_of(rows.take(pa.array(several_R)), code_N[several_R])]
    starts_R = np.diff(code_N[order_R], prepend=-1) != 0
    keeper_R = order_R[starts_R][np.cumsum(starts_R) - 1]
    dropped_R, keeper_R = order_R[~starts_R], keeper_R[~starts_R]
    by_row_R = np.argsort(dropped_R)
    dropped_R, keeper_R = dropped_R[by_row_R], keeper_R[by_row_R]
    is_kept_N = np.ones(len(code_N), bool)
    is_kept_N[dropped_R] = False
    return Unique(
        kept_M=np.flatnonzero(is_kept_N),
        dropped_R=dropped_R,
        rejects=_rejects(rows.take(pa.array(dropped_R)), rows.take(pa.array(keeper_R))),
    )


def catalog_table(
    objects: pa.Table,
    neighbors: Neighbors,
    further_scores: Mapping[str, np.ndarray],
    *,
    model_id: str,
    names_of: Callable[[np.ndarray], pa.Array],
    row_M: np.ndarray | None = None,
) -> pa.Table:
    """CATALOG, in the order of `objects`, or of those of its rows that `row_M` names.

    `objects` has the identity, `shard`, `row` and `processing_flags` of the rows that were
    searched, in the order of the search; `further_scores` are those of the rows of the result. A
    score is null where an object has no neighbor. `names_of` says which `object_id` each neighbor
    [B] has.
    Raises SchemaError where a column is missing.
    """
    picked = objects.select([name for name in objects.column_names if name in _CARRIED])
    if row_M is None:
        row_M = np.arange(len(objects))
    else:
        picked = picked.take(pa.array(row_M))
    score_M = neighbors.score_N[row_M]
    columns = {name: picked[name] for name in picked.column_names} | {
        "model_id": pa.repeat(pa.scalar(model_id, pa.string()), len(row_M)),
        "outlier_score": pa.array(score_M, mask=np.isnan(score_M)),
        "rank": pa.array(neighbors.rank_N[row_M]),
        "score_kind": pa.DictionaryArray.from_arrays(
            neighbors.is_exact_N[row_M].astype(np.int8), ["bound", "exact"]
        ).cast(pa.string()),
        "certified": pa.array(neighbors.certified_N[row_M]),
    }
    columns |= {n: pa.array(s_M, mask=np.isnan(s_M)) for n, s_M in further_scores.items()}
    columns |= _neighbor_columns(names_of, neighbors, row_M)
    return schema.conform(pa.table(columns), schema.CATALOG, "catalog")


def neighbors_table(rows: pa.Table) -> pa.Table:
    """NEIGHBORS of rows of CATALOG; lists are shorter where fewer were found."""
    return schema.conform(rows, schema.NEIGHBORS, "neighbors")


_CARRIED = {*schema.IDENTITY.names, "shard", "row", "processing_flags"}


def _neighbor_columns(
    names_of: Callable[[np.ndarray], pa.Array], neighbors: Neighbors, row_M: np.ndarray
) -> dict[str, pa.ChunkedArray]:
    names, distances = [], []
    for part in parts(len(row_M), NAMES_AT_ONCE // max(1, neighbors.neighbor_NK.shape[1])):
        near_BK = neighbors.neighbor_NK[row_M[part]]
        distance_BK = neighbors.distance_NK[row_M[part]]
        found_BK = near_BK >= 0
        ends_B = np.concatenate([[0], np.cumsum(found_BK.sum(axis=1))]).astype(np.int32)
        offsets = pa.array(ends_B)
        names.append(pa.ListArray.from_arrays(offsets, names_of(near_BK[found_BK])))
        distances.append(pa.ListArray.from_arrays(offsets, pa.array(distance_BK[found_BK])))
    return {
        "neighbor_id": pa.chunked_array(names, schema.NEIGHBOR_ID.type),
        "neighbor_distance": pa.chunked_array(distances, schema.NEIGHBOR_DISTANCE.type),
    }


def _order_of(rows: pa.Table, code_R: np.ndarray) -> np.ndarray:
    """Rows sorted by object, then shard, then row."""
    keyed = rows.select(["shard", "row"]).append_column("code", pa.array(code_R))
    by = [("code", "ascending"), ("shard", "ascending"), ("row", "ascending")]
    return pc.sort_indices(keyed, sort_keys=by).to_numpy().astype(np.int64)


def _rejects(dropped: pa.Table, kept: pa.Table) -> list[Reject]:
    return [
        Reject(
            row=row,
            stage="catalog",
            kind="duplicate",
            shard=shard,
            reason=f"object_id {object_id} is also in row {kept_row} of shard {kept_shard}, which "
            "was kept as the smallest (shard, row); expected one row an object",
        )
        for shard, row, object_id, kept_shard, kept_row in zip(
            dropped["shard"].to_pylist(),
            dropped["row"].to_pylist(),
            dropped["object_id"].to_pylist(),
            kept["shard"].to_pylist(),
            kept["row"].to_pylist(),
            strict=True,
        )
    ]
