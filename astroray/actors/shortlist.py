"""How a pass on fewer bits only selects: the reference encodes and ranks its shortlist again.

The shortlist is twice the list that is wanted, as the rule asks by which `auto` takes a fast way.
An object of it is compared with all that were encoded again: the shortlist and the neighbors that
the fast pass found of it. Its distances are so at most too large, never too small.
Letters: M objects encoded again, S of them in the shortlist, D dimensions.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from astroray import catalog, faults, schema, surveys
from astroray.actors.catalog_parts import write_parts
from astroray.actors.embed import EmbedPlan, prepare_slice, start_encoder, unpack_shard
from astroray.actors.search import (
    SHOWN_NEIGHBORS,
    SearchOutcome,
    SearchPlan,
    draw_random,
    rows_by_shard,
)
from astroray.catalog.ordering import order_rows
from astroray.errors import DataError, LedgerError
from astroray.neighbors.certificate import Proof, neighbors_used
from astroray.neighbors.search import Neighbors, search
from astroray.run_record import Backends, CatalogProof, Counts

__all__ = ["Reencoder", "find_shortlist", "rank_shortlist"]

LIST_FACTOR = 2
"""Length of the shortlist over that of the list."""


class Reencoder:
    """Worker of the refine stage: row numbers of shards in, embeddings of the reference out.

    Called with a batch {"shard": [packed Shard], "rows": [JSON of row numbers]}; returns
    {"object_id", "embedding"}. Raises LedgerError where a shard can no longer be read.
    """

    def __init__(self, plan: EmbedPlan) -> None:
        faults.arm(plan.fault_plan)
        self.encoder = start_encoder(dataclasses.replace(plan, quantize="none"))

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        ids: list[str] = []
        embeddings: list[np.ndarray] = []
        for text, rows in zip(batch["shard"], batch["rows"], strict=True):
            shard = unpack_shard(text)
            try:
                for item in surveys.read_shard(shard, rows=json.loads(rows)):
                    read, prepared = prepare_slice(item, self.encoder.model.prepare)
                    if read is not None:
                        ids += [read.object_id_B[i] for i in prepared.index_B]
                        embeddings.append(self.encoder.push(prepared.input_BCYX))
            except DataError as error:
                raise LedgerError(
                    f"shard {shard.name} of the shortlist can no longer be read: {error}; restore "
                    "its files and run the same command again"
                ) from error
            embeddings.append(self.encoder.flush())
        return {"object_id": ids, "embedding": list(np.concatenate(embeddings))}


def find_shortlist(run_dir: str, top: int) -> dict[str, list[int]]:
    """Rows by shard of the first 2 `top` objects of a run's catalog, and of their neighbors."""
    listed, _ = _shortlist(run_dir, top)
    return _places(run_dir, _names(listed), np.zeros(0, np.int64))


def rank_shortlist(
    plan: SearchPlan,
    encoded: Mapping[str, Sequence[float]],
    *,
    reference_id: str,
    selected_by: str,
) -> SearchOutcome:
    """Ranks the shortlist by its distances in the reference's space, and writes the catalog anew.

    encoded       embeddings of the reference by object_id
    reference_id  model_id of the reference, which the re-ranked rows get
    selected_by   the numbers of the pass that selected, for the proof

    The other rows keep score, model_id and order. Raises LedgerError where objects of the shortlist
    were not encoded again.
    """
    listed, num_rows = _shortlist(plan.run_dir, plan.search.top)
    missing = set(listed["object_id"].to_pylist()) - encoded.keys()
    if missing:
        raise LedgerError(
            f"{len(missing)} objects of the shortlist were not encoded again, first "
            f"{min(missing)}; their shards have changed: restore them and run the command again"
        )
    ids = sorted(encoded)
    ranked, proof = _ranked(listed, encoded, plan, is_all=len(ids) == num_rows)
    model_id = pa.repeat(pa.scalar(reference_id, pa.string()), len(ranked))
    ranked = _with(ranked, "model_id", model_id)
    ranked = _with(ranked, "certified", pa.array(np.arange(len(ranked)) < proof.num_certified))
    with order_rows(_rewritten(plan.run_dir, ranked)) as rows:
        write_parts(
            plan.run_dir, rows.files, rows.groups, rows.healpix_29_P,
            name=plan.name, created=plan.created,
        )  # fmt: skip
    return SearchOutcome(
        counts=Counts(reencoded=len(ids)),
        proof=CatalogProof(
            **vars(proof),
            sentence=f"{proof.in_words()}, among {len(ids)} of {num_rows} objects that "
            f"{selected_by} selected, encoded again by model {reference_id}",
            model_id=reference_id,
            selected_by=selected_by,
            num_reencoded=len(ids),
            num_survey=num_rows,
        ),
        backends=Backends(),
        wanted=_wanted(plan, ranked, num_rows),
    )


def _shortlist(run_dir: str, top: int) -> tuple[pa.Table, int]:
    """The first rows of a catalog, by rank, that have a score, and how many rows it has."""
    found, num_rows = [schema.CATALOG.empty_table()], 0
    for piece in catalog.read_pieces(run_dir):
        some = piece.read(["rank", "outlier_score"])
        num_rows += len(some)
        is_listed = pc.and_(
            pc.less_equal(some["rank"], LIST_FACTOR * top), pc.is_valid(some["outlier_score"])
        )
        if pc.any(is_listed).as_py():
            found.append(piece.read(schema.CATALOG.names).filter(is_listed))
    return pa.concat_tables(found).sort_by("rank").combine_chunks(), num_rows


def _rewritten(run_dir: str, ranked: pa.Table) -> Iterator[pa.Table]:
    """The rows of a catalog, the first ones as they are ranked now; no other one is certified."""
    yield ranked
    for piece in catalog.read_pieces(run_dir):
        rows = piece.read(schema.CATALOG.names)
        rows = rows.filter(pc.greater(rows["rank"], len(ranked)))
        yield _with(rows, "certified", pa.array(np.zeros(len(rows), bool)))


def _with(rows: pa.Table, name: str, values: pa.Array) -> pa.Table:
    """Rows of CATALOG with another column in place of one."""
    return rows.set_column(rows.schema.get_field_index(name), schema.CATALOG.field(name), values)


def _names(listed: pa.Table) -> pa.Array:
    """Who is in a list, and who are its neighbors."""
    ids = set(listed["object_id"].to_pylist())
    for neighbors in listed["neighbor_id"].to_pylist():
        ids.update(neighbors or [])
    return pa.array(sorted(ids), pa.string())


def _places(run_dir: str, ids: pa.Array, rank_R: np.ndarray) -> dict[str, list[int]]:
    """Rows by shard of some objects of a catalog, by name or rank."""
    found = [schema.CATALOG.empty_table().select(["shard", "row"])]
    for piece in catalog.read_pieces(run_dir):
        rows = piece.read(["object_id", "rank", "shard", "row"])
        is_named = pc.is_in(rows["object_id"], value_set=ids)
        is_ranked = pc.is_in(rows["rank"], value_set=pa.array(rank_R))
        found.append(rows.filter(pc.or_(is_named, is_ranked)).select(["shard", "row"]))
    return rows_by_shard(pa.concat_tables(found))


def _wanted(plan: SearchPlan, ranked: pa.Table, num_rows: int) -> dict[str, list[int]]:
    """Rows by shard of what the report shows."""
    near = pc.list_slice(ranked["neighbor_id"].slice(0, plan.search.top), 0, SHOWN_NEIGHBORS)
    rank_R = np.concatenate([np.arange(plan.search.top), draw_random(plan, num_rows)]) + 1
    return _places(plan.run_dir, pc.list_flatten(near).combine_chunks(), rank_R)


def _ranked(
    listed: pa.Table, encoded: Mapping[str, Sequence[float]], plan: SearchPlan, *, is_all: bool
) -> tuple[pa.Table, Proof]:
    """The shortlist in its new order, and why its head is what it is."""
    if not len(listed):
        return listed, _proof(np.zeros(0), plan, num_encoded=0)
    ids = sorted(encoded)
    embedding_MD = np.array([encoded[name] for name in ids], np.float32)
    found = search(
        embedding_MD, ids, dataclasses.replace(plan.search, index="flat", num_probes=None)
    )
    place_S = np.searchsorted(np.array(ids), listed["object_id"].to_numpy(zero_copy_only=False))
    order_S = np.lexsort((place_S, -found.score_N[place_S]))  # ties by object_id
    place_S = place_S[order_S]
    near, distances = _neighbor_lists(found, place_S, ids)
    columns = {name: listed[name].take(pa.array(order_S)) for name in listed.column_names} | {
        "outlier_score": pa.array(found.score_N[place_S]),
        "rank": pa.array(np.arange(1, len(listed) + 1)),
        # over all objects a score can only be lower
        "score_kind": pa.array(["exact" if is_all else "bound"] * len(listed)),
        "neighbor_id": near,
        "neighbor_distance": distances,
    }
    ranked = schema.conform(pa.table(columns), schema.CATALOG, "catalog")
    return ranked, _proof(found.score_N[place_S], plan, num_encoded=len(ids))


def _neighbor_lists(
    found: Neighbors, place_S: np.ndarray, ids: Sequence[str]
) -> tuple[pa.Array, pa.Array]:
    names, distances = [], []
    for near_K, distance_K in zip(
        found.neighbor_NK[place_S], found.distance_NK[place_S], strict=True
    ):
        is_found_K = near_K >= 0
        names.append([ids[place] for place in near_K[is_found_K]])
        distances.append(distance_K[is_found_K].tolist())
    return (
        pa.array(names, schema.NEIGHBOR_ID.type),
        pa.array(distances, schema.NEIGHBOR_DISTANCE.type),
    )


def _proof(score_S: np.ndarray, plan: SearchPlan, *, num_encoded: int) -> Proof:
    """Of a shortlist whose scores, descending, are all known."""
    num_top = min(plan.search.top, len(score_S))
    return Proof(
        num_certified=num_top,
        num_objects=len(score_S),
        num_rescored=len(score_S),
        threshold=float(score_S[num_top - 1]) if num_top else None,
        next_bound=float(score_S[num_top]) if num_top < len(score_S) else None,
        score=plan.search.score,
        k=neighbors_used(plan.search.k, num_encoded),
    )
