"""Run directories that hold embeddings and their receipts, as the embed stage leaves them."""

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from astroray import ledger, schema
from astroray.actors.search import SearchPlan
from astroray.catalog import versions
from astroray.neighbors.search import SearchConfig
from astroray.receipts import Receipt


def make_embedded(
    folder: Path | str,
    embedding_ND: np.ndarray,
    ids: Sequence[str],
    *,
    rows_each: int = 40,
    on_sky: bool = False,
    name: str = "shard",
) -> str:
    """A run directory with these objects, some rows a shard; on the sky every other one is.

    name  beginning of the names of the shards
    """
    for start in range(0, len(ids), rows_each):
        some = slice(start, start + rows_each)
        write_shard(
            str(folder), f"{name}-{start:09d}", embedding_ND[some], ids[some], on_sky=on_sky
        )
    return str(folder)


def write_shard(
    run_dir: str, name: str, embedding_ND: np.ndarray, ids: Sequence[str], *, on_sky: bool = False
) -> None:
    """Embeddings of one shard and its done mark; on the sky every other row is."""
    row_N = np.arange(len(ids))
    has_position_N = (row_N % 2 == 0) & on_sky
    ra_deg_N = np.where(has_position_N, row_N * 0.7 % 360, np.nan)
    dec_deg_N = np.where(has_position_N, row_N * 0.3 % 80, np.nan)
    _finish_shard(run_dir, name, schema.identity(ids, ra_deg_N, dec_deg_N), embedding_ND)


def publish_shard(run_dir: str, name: str, ids: Sequence[str], embedding_ND: np.ndarray) -> None:
    """The same, every row at a place of its own on the sky."""
    draw = np.random.default_rng(int(hashlib.sha256(name.encode()).hexdigest()[:8], 16))
    dec_deg_N = np.degrees(np.arcsin(draw.uniform(-1, 1, len(ids))))
    ra_deg_N = np.asarray(draw.uniform(0, 360, len(ids)))
    _finish_shard(run_dir, name, schema.identity(ids, ra_deg_N, dec_deg_N), embedding_ND)


def _finish_shard(
    run_dir: str, name: str, identity: dict[str, pa.Array], embedding_ND: np.ndarray
) -> None:
    num, dim = embedding_ND.shape
    flat = pa.array(np.ascontiguousarray(embedding_ND, np.float32).ravel())
    columns = {
        **identity,
        "shard": pa.array([name] * num, pa.string()),
        "row": pa.array(np.arange(num), pa.int64()),
        "embedding": pa.FixedSizeListArray.from_arrays(flat, dim),
        "processing_flags": pa.array(np.zeros(num, np.int32)),
        **dict.fromkeys(("field", "night", "detector"), pa.nulls(num, pa.string())),
    }
    sink = io.BytesIO()
    pq.write_table(schema.conform(pa.table(columns), schema.embeddings(dim), "embeddings"), sink)
    receipt = Receipt(
        shard=name,
        rows_read=num,
        rows_embedded=num,
        rows_rejected=0,
        shard_rejected=False,
        checksum=hashlib.sha256(sink.getvalue()).hexdigest(),
        attempt=1,
        seconds=0.0,
        bytes_read=0,
    )
    ledger.finish_shard(run_dir, receipt, embeddings=sink.getvalue(), rejects=[])


def begin_night(reference: str, out: str) -> None:
    """A run directory that goes on from a finished one."""
    versions.describe_version(reference).publish(out)


def plan_search(run_dir: str, **settings: Any) -> SearchPlan:
    """What the search stage of a small run is told, by settings of SearchConfig."""
    return plan_of(run_dir, SearchConfig(**settings))


def plan_of(run_dir: str, search: SearchConfig) -> SearchPlan:
    """What the search stage of a run directory is told."""
    return SearchPlan(
        run_dir=run_dir,
        name="made",
        created="2026-01-01T00:00:00Z",
        model_id="m0",
        search=search,
        num_random=3,
        seed=0,
    )


def in_turn(
    function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]
) -> Iterator[tuple[int, Any]]:
    """Tasks in this process, the last first: their order must not matter."""
    for place in reversed(range(len(arguments))):
        yield place, function(*arguments[place])
