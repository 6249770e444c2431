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
from astroray.neighbors.search import Neighbors, SearchConfig, search

GAUSSIAN_PATH = "model/gaussian.safetensors"
"""Mean and covariance of the survey, by which the nights after it measure."""
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
    finish_by_s: float | None = None
    """Unix time at which a night stops searching; None: when its list is proven."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchOutcome:
    """What the search stage found, without the rows themselves."""

    counts: Mapping[str, int]
    proof: Mapping[str, Any]
    backends: Mapping[str, str]
    wanted: Mapping[str, Sequence[int]]
    """Rows by shard whose pictures the report shows."""
    pictures: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    """Of them, those that a night has from its reference, by object_id."""
    night: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What a night found besides."""


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
    gaussian = scores.Gaussian.of(embedding_ND)
    publish_gaussian(plan.run_dir, gaussian)
    further = scores.further_scores(embedding_ND, found, gaussian)
    return publish_ranking(plan, objects, found, further, num_duplicates=len(unique.rejects))


def publish_gaussian(run_dir: str, gaussian: scores.Gaussian | None) -> None:
    """Keeps what Mahalanobis distances are measured by: nights measure by it too."""
    if gaussian:
        storage.publish(storage.join(run_dir, GAUSSIAN_PATH), gaussian.to_bytes())


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
    publish_rows(plan, rows)
    wanted = wanted_ids(rows, plan)
    counts = {
        "duplicates": num_duplicates,
        "catalog": len(rows),
        "positions": len(rows) - rows["ra"].null_count,
    }
    return outcome_of(plan, found, counts=counts, wanted=by_shard(rows, wanted))


def publish_rows(plan: SearchPlan, rows: pa.Table) -> None:
    """Writes NEIGHBORS, then CATALOG."""
    publish_neighbors(plan.run_dir, rows)
    faults.reach("search.neighbors")
    catalog.write_catalog(rows, plan.run_dir, name=plan.name, created=plan.created)
    faults.reach("search.catalog")


def neighbors_path(run_dir: str, part: int | None = None) -> str:
    """Where NEIGHBORS lies; a part of it where the catalog was written by parts."""
    name = "neighbors" if part is None else f"neighbors-{part:05d}"
    return storage.join(run_dir, "neighbors", f"{name}.parquet")


def publish_neighbors(run_dir: str, rows: pa.Table) -> None:
    """Writes NEIGHBORS of rows of CATALOG as one file."""
    clear_neighbors(run_dir, keep=[neighbors_path(run_dir)])
    ledger.publish_table(neighbors_path(run_dir), outliers.neighbors_table(rows))


def clear_neighbors(run_dir: str, keep: Sequence[str]) -> None:
    """Removes the files of NEIGHBORS that are not written again."""
    folder = storage.join(run_dir, "neighbors")
    for name in storage.list_names(folder):
        if (path := storage.join(folder, name)) not in keep:
            storage.delete(path)


def outcome_of(
    plan: SearchPlan,
    found: Neighbors,
    *,
    counts: Mapping[str, int],
    wanted: Mapping[str, Sequence[int]],
) -> SearchOutcome:
    """What the run record needs of a search."""
    proof = dataclasses.asdict(found.proof)
    proof |= {"sentence": found.proof.sentence(), "model_id": plan.model_id}
    return SearchOutcome(
        counts=counts,
        proof=proof,
        backends={
            "index": found.index,
            "index_reason": found.index_reason,
            "products": found.products,
        },
        wanted=wanted,
    )


def load_embeddings(run_dir: str) -> pa.Table:
    """All embeddings of the done shards, by shard and row, each file checked by its receipt."""
    own = ledger.read_receipts(run_dir).items()
    return read_embeddings({name: (run_dir, receipt) for name, receipt in own})


def read_embeddings(
    receipts: Mapping[str, tuple[str, Receipt]], columns: Sequence[str] | None = None
) -> pa.Table:
    """Embeddings by shard and row, each file checked by its receipt; columns None: all.

    receipts  by shard: the run directory that embedded it, and its receipt
    """
    tables = []
    for run_dir, receipt in receipts.values():
        if receipt.shard_rejected:
            continue
        tables.append(read_shard(run_dir, receipt, columns))
    if not tables:
        empty = schema.embeddings(1).empty_table()
        return empty.select(columns) if columns else empty
    return pa.concat_tables(tables).combine_chunks()


def read_shard(run_dir: str, receipt: Receipt, columns: Sequence[str] | None = None) -> pa.Table:
    """EMBEDDINGS of a done shard, checked by its receipt; LedgerError says how to mend them."""
    try:
        return ledger.read_embeddings(run_dir, receipt, columns)
    except LedgerError as error:
        advice = f"run `astroray verify {run_dir} --repair`, then scan again"
        raise LedgerError(f"{error}; {advice}") from None


def embedding_matrix(objects: pa.Table) -> np.ndarray:
    """The embedding column as float32 [N, D]."""
    column = objects["embedding"].combine_chunks()
    dim = objects.schema.field("embedding").type.list_size
    return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)


def wanted_ids(rows: pa.Table, plan: SearchPlan) -> list[str]:
    """Objects whose pictures the report shows: the top, its neighbors, and a random sample."""
    by_rank = rows.sort_by("rank")
    best = by_rank.slice(0, plan.search.top)
    ids = set(best["object_id"].to_pylist())
    for neighbors in best["neighbor_id"].to_pylist():
        ids.update((neighbors or [])[:SHOWN_NEIGHBORS])
    ids.update(by_rank["object_id"].take(pa.array(draw_random(plan, len(rows)))).to_pylist())
    return sorted(ids)


def draw_random(plan: SearchPlan, num_rows: int) -> np.ndarray:
    """Rows, in the order of rank, of the objects that the report shows at random."""
    num_random = min(plan.num_random, num_rows)
    return np.random.default_rng(plan.seed).choice(num_rows, num_random, replace=False)


def by_shard(rows: pa.Table, ids: Sequence[str]) -> dict[str, list[int]]:
    """The rows of some objects, by shard."""
    return rows_by_shard(rows.filter(pc.is_in(rows["object_id"], pa.array(ids, pa.string()))))


def rows_by_shard(chosen: pa.Table) -> dict[str, list[int]]:
    """The places of rows with `shard` and `row`, by shard."""
    wanted: dict[str, list[int]] = {}
    for shard, row in zip(chosen["shard"].to_pylist(), chosen["row"].to_pylist(), strict=True):
        wanted.setdefault(shard, []).append(row)
    return {shard: sorted(wanted[shard]) for shard in sorted(wanted)}
