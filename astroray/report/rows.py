"""Which rows of a catalog the report looks at, as many however large the survey is.

The top of the list, the objects that have pictures, and a sample for each map. The catalog is
read twice, a row group at a time, and of most groups only the few columns that decide.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from astroray import ledger, schema, storage
from astroray.catalog import versions
from astroray.run_record import RunRecord
from astroray.storage.parquet import read_parquet

__all__ = ["ReportRows", "Top", "num_top", "read_embeddings", "read_rows", "read_top"]

MAX_OUTLIERS = 100
DEFAULT_OUTLIERS = 24  # without a certificate
MAX_MAP_OBJECTS = 5_000
MAX_MAP_SHARDS = 64  # besides those of the outliers: a map need not read a whole survey
DRAWN = 4 * MAX_MAP_OBJECTS
"""Rows that a map is drawn from, about, where there are more."""
GROUPS = pa.schema([schema.FIELD, schema.NIGHT, schema.DETECTOR])
"""What a survey may say of where an object was seen."""
_LIGHT = ["object_id", "rank", "shard", "ra", "dec"]
_MAPPED = [name for name in schema.MAP.names if name in schema.CATALOG.names]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Top:
    """The first rows of a catalog, and how large it is."""

    rows: pa.Table
    """CATALOG, by rank."""
    num_objects: int
    num_positions: int
    num_scores: int
    """Finite ones."""
    score_range: tuple[float, float]
    """Of the finite scores."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportRows:
    """What the report shows besides the top; all by rank."""

    others: pa.Table
    """CATALOG rows of objects that are named and are not in the top."""
    placed: pa.Table
    """Identity of the objects on the sky map: the top, the named, a sample of all others."""
    mapped: pa.Table
    """Identity and scores of the objects on the embedding map, drawn from a sample of shards."""
    count_B: np.ndarray
    """[B] objects by score."""
    edge_B: np.ndarray
    """[B + 1] edges of the bins."""


def num_top(record: RunRecord) -> int:
    """Outliers that the report of a run shows: those proven, at most MAX_OUTLIERS."""
    proven = record.proof.num_certified if record.proof else 0
    return min(proven or DEFAULT_OUTLIERS, MAX_OUTLIERS)


def read_top(run_dir: str, num_top: int) -> Top:
    """The first `num_top` rows of a version, and its size. Raises LedgerError without a catalog."""
    found = [schema.CATALOG.empty_table()]
    num_objects = num_positions = num_scores = 0
    ends: list[float] = []
    for piece in versions.read_pieces(run_dir):
        some = piece.read(["rank", "ra", "outlier_score"])
        num_objects += len(some)
        num_positions += len(some) - some["ra"].null_count
        score_B = _finite(some)
        num_scores += len(score_B)
        ends += [float(score_B.min()), float(score_B.max())] if len(score_B) else []
        is_top_B = some["rank"].to_numpy() <= num_top
        if is_top_B.any():
            found.append(piece.read(schema.CATALOG.names).filter(pa.array(is_top_B)))
    return Top(
        rows=_by_rank(found),
        num_objects=num_objects,
        num_positions=num_positions,
        num_scores=num_scores,
        score_range=(min(ends, default=0.0), max(ends, default=0.0)),
    )


def read_rows(run_dir: str, top: Top, named: Sequence[str]) -> ReportRows:
    """What the report shows besides the top.

    named  object_id of those that must be found again: the pictured
    """
    ids = pa.array(named, pa.string())
    shards, of_shards = _some_shards(run_dir, top)
    others, placed, mapped = ([schema.CATALOG.empty_table()] for _ in range(3))
    placed[0], mapped[0] = placed[0].select(_LIGHT), mapped[0].select(_MAPPED)
    low, high = top.score_range
    if low == high:
        low, high = low - 0.5, high + 0.5
    bins = min(60, 8 + top.num_scores // 8)
    count_B, edge_B = np.zeros(bins, np.int64), np.linspace(low, high, bins + 1)
    for piece in versions.read_pieces(run_dir):
        some = piece.read([*_LIGHT, "outlier_score"])
        count_B += np.histogram(_finite(some), bins=bins, range=(low, high))[0]
        some = some.select(_LIGHT)
        rank_B = some["rank"].to_numpy()
        is_named_B = _is_in(some["object_id"], ids)
        is_kept_B = is_named_B | (rank_B <= len(top.rows))
        is_placed_B = some["ra"].is_valid().to_numpy() & (
            is_kept_B | _is_drawn(rank_B, DRAWN / max(1, top.num_objects))
        )
        is_mapped_B = _is_in(some["shard"], shards) & (
            is_kept_B | _is_drawn(rank_B, DRAWN / max(1, of_shards))
        )
        placed.append(some.filter(pa.array(is_placed_B)))
        if is_mapped_B.any():
            mapped.append(piece.read(_MAPPED).filter(pa.array(is_mapped_B)))
        if (is_other_B := is_named_B & (rank_B > len(top.rows))).any():
            others.append(piece.read(schema.CATALOG.names).filter(pa.array(is_other_B)))
    kept = pa.concat_arrays([top.rows["object_id"].combine_chunks(), ids])
    return ReportRows(
        others=_by_rank(others),
        placed=_sampled(_by_rank(placed), kept),
        mapped=_sampled(_by_rank(mapped), kept),
        count_B=count_B,
        edge_B=edge_B,
    )


def read_embeddings(run_dir: str, rows: pa.Table) -> tuple[np.ndarray, np.ndarray, pa.Table]:
    """Of some rows of a version those whose shards have them, [M], their embeddings and GROUPS.

    The embeddings are [M, D]; GROUPS are null where the survey does not say.
    """
    code = rows["shard"].combine_chunks().dictionary_encode()
    shard_N, names = code.indices.to_numpy(), code.dictionary.to_pylist()
    found, embeddings, groups = [np.zeros(0, np.int64)], [], [GROUPS.empty_table()]
    receipts = versions.read_all_receipts(run_dir)
    for shard in np.unique(shard_N):
        version, _ = receipts.get(names[shard], (run_dir, None))
        found_M, embedding_MD, groups_M = _of_shard(
            version, names[shard], rows["object_id"], np.flatnonzero(shard_N == shard)
        )
        if len(found_M):
            found.append(found_M)
            embeddings.append(embedding_MD)
            groups.append(groups_M)
    embedding_MD = np.concatenate(embeddings) if embeddings else np.zeros((0, 2))
    return np.concatenate(found), embedding_MD, pa.concat_tables(groups)


def _of_shard(
    run_dir: str, shard: str, ids: pa.ChunkedArray, wanted_M: np.ndarray
) -> tuple[np.ndarray, np.ndarray, pa.Table]:
    path = ledger.embeddings_path(run_dir, shard)
    if not storage.exists(path):
        return np.zeros(0, np.int64), np.zeros((0, 2)), GROUPS.empty_table()
    table = read_parquet(storage.read_bytes(path), ["object_id", "embedding", *GROUPS.names])
    index = pc.index_in(
        ids.take(pa.array(wanted_M)).combine_chunks(),
        value_set=table["object_id"].combine_chunks(),
    )
    is_found_M = index.is_valid().to_numpy(zero_copy_only=False)
    column = table["embedding"].take(index.drop_null()).combine_chunks()
    width = table["embedding"].type.list_size
    embedding_MD = column.flatten().to_numpy().reshape(-1, width).astype(np.float64)
    groups = table.select(GROUPS.names).take(index.drop_null())
    return wanted_M[is_found_M], embedding_MD, schema.conform(groups, GROUPS, "groups")


def _some_shards(run_dir: str, top: Top) -> tuple[pa.Array, int]:
    """Shards of the embedding map, those of the top among them, and the rows that they have."""
    receipts = versions.read_all_receipts(run_dir)
    names = [name for name, (_, receipt) in receipts.items() if receipt.rows_embedded]
    drawn = np.random.default_rng(0).permutation(len(names))[:MAX_MAP_SHARDS]
    chosen = {names[i] for i in drawn} | set(top.rows["shard"].to_pylist())
    num_rows = sum(receipts[name][1].rows_embedded for name in chosen & receipts.keys())
    return pa.array(sorted(chosen), pa.string()), num_rows


def _is_drawn(rank_B: np.ndarray, share: float) -> np.ndarray:
    """A share of all ranks, the same whatever else there is (splitmix64, Steele et al. 2014)."""
    mixed_B = rank_B.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed_B = (mixed_B ^ (mixed_B >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed_B = (mixed_B ^ (mixed_B >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (mixed_B ^ (mixed_B >> np.uint64(31))) < min(share, 1.0) * 2.0**64


def _sampled(rows: pa.Table, kept: pa.Array) -> pa.Table:
    """At most MAX_MAP_OBJECTS rows, those to be kept first."""
    is_kept_N = _is_in(rows["object_id"], kept)
    kept_M, rest_M = np.flatnonzero(is_kept_N), np.flatnonzero(~is_kept_N)
    room = max(MAX_MAP_OBJECTS - len(kept_M), 0)
    if len(rest_M) > room:
        rest_M = np.random.default_rng(0).choice(rest_M, room, replace=False)
    return rows.take(pa.array(np.sort(np.concatenate([kept_M, rest_M])).astype(np.int64)))


def _is_in(values: pa.ChunkedArray, known: pa.Array) -> np.ndarray:
    return np.asarray(pc.is_in(values, value_set=known).to_numpy(), bool)


def _finite(some: pa.Table) -> np.ndarray:
    score_B = some["outlier_score"].to_numpy(zero_copy_only=False)
    return np.asarray(score_B[np.isfinite(score_B)], np.float64)


def _by_rank(tables: Sequence[pa.Table]) -> pa.Table:
    return pa.concat_tables(tables).sort_by("rank").combine_chunks()
