"""How published embeddings become the catalog: load, drop duplicates, search, certify, write."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from astroray import faults, ledger, provenance, schema, scores, storage
from astroray.actors import catalog_parts
from astroray.catalog import pixels
from astroray.catalog.pixels import CatalogFile
from astroray.errors import LedgerError
from astroray.neighbors.candidates import why_products
from astroray.neighbors.search import Neighbors, SearchConfig, search
from astroray.receipts import Receipt, read_receipts
from astroray.run_record import Backends, CatalogProof, Counts, NightFound
from astroray.scores import outliers
from astroray.scores.gaussian import Gaussian

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

    def is_late(self) -> bool:
        """Whether a night has to stop searching."""
        return self.finish_by_s is not None and time.time() > self.finish_by_s


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchOutcome:
    """What the search stage found, without the rows themselves."""

    counts: Counts
    """Of objects; those of shards are zero."""
    proof: CatalogProof
    backends: Backends
    """Of the search alone."""
    wanted: Mapping[str, Sequence[int]]
    """Rows by shard whose pictures the report shows."""
    pictures: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    """By object_id, pictures of such rows that a night takes from its reference."""
    night: NightFound | None = None
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
        memory_bytes=provenance.machine().memory_bytes,
    )
    faults.reach("search.found")
    gaussian = Gaussian.of(embedding_ND)
    publish_gaussian(plan.run_dir, gaussian)
    further = scores.further_scores(embedding_ND, found, gaussian)
    publish_rows(plan, objects, found, further, objects["object_id"].combine_chunks().take)
    wanted_M = shown_objects(plan, np.argsort(found.rank_N), found.neighbor_NK.__getitem__)
    counts = Counts(
        duplicates=len(unique.rejects),
        catalog=len(objects),
        positions=len(objects) - objects["ra"].null_count,
    )
    wanted = rows_by_shard(objects.select(["shard", "row"]).take(pa.array(wanted_M)))
    return outcome_of(plan, found, counts=counts, wanted=wanted)


def publish_gaussian(run_dir: str, gaussian: Gaussian | None) -> None:
    """Keeps what Mahalanobis distances are measured by: nights measure by it too."""
    if gaussian:
        storage.publish(storage.join(run_dir, GAUSSIAN_PATH), gaussian.to_bytes())


def publish_rows(
    plan: SearchPlan,
    objects: pa.Table,
    found: Neighbors,
    further: Mapping[str, np.ndarray],
    names_of: Callable[[np.ndarray], pa.Array],
) -> None:
    """Writes NEIGHBORS and CATALOG of some objects, made a row group at a time.

    objects   [M]  as of `outliers.catalog_table`
    found     [M]  what was found of them
    further   [M]  each of their further scores
    names_of       see `outliers.catalog_table`
    """
    by_name_M = pc.sort_indices(objects["object_id"]).to_numpy()
    healpix_29 = objects["_healpix_29"].take(pa.array(by_name_M)).combine_chunks()
    is_placed_M = healpix_29.is_valid().to_numpy(zero_copy_only=False)
    healpix_29_M = healpix_29.fill_null(0).to_numpy()
    order_M = catalog_parts.in_order(healpix_29_M, is_placed_M, found.rank_N[by_name_M])
    healpix_29_P = healpix_29_M[order_M[: is_placed_M.sum()]]
    files = pixels.divide_sky(healpix_29_P, len(order_M))

    def groups_of(file: CatalogFile) -> Iterator[pa.Table]:
        for group in file.row_groups:
            row_B = by_name_M[order_M[group]]
            scores_of = {name: score_M[row_B] for name, score_M in further.items()}
            yield outliers.catalog_table(
                objects, found, scores_of, model_id=plan.model_id, row_M=row_B, names_of=names_of
            )

    catalog_parts.write_parts(
        plan.run_dir, files, groups_of, healpix_29_P, name=plan.name, created=plan.created
    )


def outcome_of(
    plan: SearchPlan,
    found: Neighbors,
    *,
    counts: Counts,
    wanted: Mapping[str, Sequence[int]],
) -> SearchOutcome:
    """What the run record needs of a search."""
    return SearchOutcome(
        counts=counts,
        proof=CatalogProof.of(found.proof, model_id=plan.model_id),
        backends=Backends(
            index=found.index,
            index_reason=found.index_reason,
            products=found.products,
            products_reason=why_products(found.products),
        ),
        wanted=wanted,
    )


def load_embeddings(run_dir: str) -> pa.Table:
    """All embeddings of the done shards, by shard and row, each file checked by its receipt."""
    own = read_receipts(run_dir).items()
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


def shown_objects(
    plan: SearchPlan, object_R: np.ndarray, near_of: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """The objects whose pictures the report shows: the top, its neighbors, and a random sample.

    object_R  [R]  objects by rank
    near_of   neighbors [T, K] of objects [T], nearest first, -1 for none
    """
    best_T = object_R[: plan.search.top]
    shown_TK = near_of(best_T)[:, :SHOWN_NEIGHBORS]
    drawn = object_R[draw_random(plan, len(object_R))]
    return np.unique(np.concatenate([best_T, shown_TK[shown_TK >= 0], drawn]))


def draw_random(plan: SearchPlan, num_rows: int) -> np.ndarray:
    """Rows, in the order of rank, of the objects that the report shows at random."""
    num_random = min(plan.num_random, num_rows)
    return np.random.default_rng(plan.seed).choice(num_rows, num_random, replace=False)


def rows_by_shard(chosen: pa.Table) -> dict[str, list[int]]:
    """The places of rows with `shard` and `row`, by shard."""
    wanted: dict[str, list[int]] = {}
    for shard, row in zip(chosen["shard"].to_pylist(), chosen["row"].to_pylist(), strict=True):
        wanted.setdefault(shard, []).append(row)
    return {shard: sorted(wanted[shard]) for shard in sorted(wanted)}
