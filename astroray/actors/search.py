"""How published embeddings become the catalog: load, drop duplicates, search, certify, write."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from astroray import catalog, faults, ledger, outliers, provenance, schema, scores, storage
from astroray.errors import LedgerError
from astroray.ledger import Receipt
from astroray.neighbors import Neighbors, SearchConfig, search

SHOWN_NEIGHBORS = 5
"""Neighbors of an outlier that the report has pictures of."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """What the search stage is told."""

    run_dir: str
    name: str
    """Name of the catalog: the survey."""
    created: str
    model_id: str
    search: SearchConfig
    num_random: int
    """Objects drawn at random for the report's gallery."""
    seed: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchOutcome:
    """What the search stage found, without the rows themselves."""

    counts: Mapping[str, int]
    proof: Mapping[str, Any]
    backends: Mapping[str, str]
    wanted: Mapping[str, Sequence[int]]
    """Rows by shard whose pictures the report shows."""


def rank_survey(plan: SearchPlan) -> SearchOutcome:
    """Scores and certifies all embedded objects of a run and writes NEIGHBORS and CATALOG.

    Raises LedgerError where a done shard's embeddings are missing or differ from its receipt.
    """
    objects = load_embeddings(plan.run_dir)
    unique = outliers.drop_duplicates(objects)
    ledger.write_rejects(plan.run_dir, "duplicates", unique.rejects, attempt=1)
    if len(unique.rejects):
        objects = objects.take(pa.array(unique.kept_M))
    embedding_ND = embedding_matrix(objects)
    found = search(
        embedding_ND,
        objects["object_id"],
        plan.search,
        memory_bytes=provenance.machine()["memory_bytes"],
    )
    faults.reach("search.found")
    further = scores.further_scores(embedding_ND, found)
    return publish_ranking(plan, objects, found, further, num_duplicates=len(unique.rejects))


def publish_ranking(
    plan: SearchPlan,
    objects: pa.Table,
    found: Neighbors,
    further: Mapping[str, np.ndarray],
    *,
    num_duplicates: int,
) -> SearchOutcome:
    """Writes NEIGHBORS and CATALOG of what was found; arguments as of `outliers.catalog_table`."""
    rows = outliers.catalog_table(objects, found, further, model_id=plan.model_id)
    ledger.publish_table(
        storage.join(plan.run_dir, "neighbors", "neighbors.parquet"),
        outliers.neighbors_table(objects, found),
    )
    faults.reach("search.neighbors")
    catalog.write_catalog(rows, plan.run_dir, name=plan.name, created=plan.created)
    faults.reach("search.catalog")
    return SearchOutcome(
        counts={
            "duplicates": num_duplicates,
            "catalog": len(rows),
            "positions": len(rows) - rows["ra"].null_count,
        },
        proof={
            **dataclasses.asdict(found.proof),
            "sentence": found.proof.sentence(),
            "model_id": plan.model_id,
        },
        backends={
            "index": found.index,
            "index_reason": found.index_reason,
            "products": found.products,
        },
        wanted=_wanted(rows, top=plan.search.top, num_random=plan.num_random, seed=plan.seed),
    )


def load_embeddings(run_dir: str) -> pa.Table:
    """All embeddings of the done shards, by shard and row, each file checked by its receipt."""
    tables = []
    for receipt in ledger.read_receipts(run_dir).values():
        if receipt.shard_rejected:
            continue
        tables.append(read_shard(run_dir, receipt))
    if not tables:
        return schema.embeddings(1).empty_table()
    return pa.concat_tables(tables).combine_chunks()


def read_shard(run_dir: str, receipt: Receipt) -> pa.Table:
    """EMBEDDINGS of a done shard, checked by its receipt; LedgerError says how to mend them."""
    try:
        return ledger.read_embeddings(run_dir, receipt)
    except LedgerError as error:
        advice = f"run `astroray verify {run_dir} --repair`, then scan again"
        raise LedgerError(f"{error}; {advice}") from None


def embedding_matrix(objects: pa.Table) -> np.ndarray:
    """The embedding column as float32 [N, D]."""
    column = objects["embedding"].combine_chunks()
    dim = objects.schema.field("embedding").type.list_size
    return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)


def _wanted(rows: pa.Table, *, top: int, num_random: int, seed: int) -> dict[str, list[int]]:
    """Rows by shard of the top outliers, their nearest neighbors, and a random sample."""
    by_rank = rows.sort_by("rank")
    best = by_rank.slice(0, top)
    ids = set(best["object_id"].to_pylist())
    for neighbors in best["neighbor_id"].to_pylist():
        ids.update((neighbors or [])[:SHOWN_NEIGHBORS])
    every_id = by_rank["object_id"].to_numpy(zero_copy_only=False)
    num_random = min(num_random, len(every_id))
    ids.update(np.random.default_rng(seed).choice(every_id, num_random, replace=False))
    chosen = rows.filter(pc.is_in(rows["object_id"], pa.array(sorted(ids), pa.string())))
    wanted: dict[str, list[int]] = {}
    for shard, row in zip(chosen["shard"].to_pylist(), chosen["row"].to_pylist(), strict=True):
        wanted.setdefault(shard, []).append(row)
    return {shard: sorted(wanted[shard]) for shard in sorted(wanted)}
