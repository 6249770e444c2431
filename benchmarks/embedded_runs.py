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
    """Embeddings of one shard and its done mark."""
    num, dim = embedding_ND.shape
    row_N = np.arange(num)
    has_position_N = (row_N % 2 == 0) & on_sky
    ra_deg_N = np.where(has_position_N, row_N * 0.7 % 360, np.nan)
    dec_deg_N = np.where(has_position_N, row_N * 0.3 % 80, np.nan)
    blank = dict.fromkeys(["field", "night", "detector"], pa.nulls(num, pa.string()))
    table = pa.table(
        {
            **schema.identity(list(ids), ra_deg_N, dec_deg_N),
            "shard": pa.array([name] * num, pa.string()),
            "row": pa.array(row_N, pa.int64()),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(embedding_ND.ravel()), dim),
            "processing_flags": pa.array([0] * num, pa.int32()),
            **blank,
        }
    ).select(schema.embeddings(dim).names)
    sink = io.BytesIO()
    pq.write_table(table.cast(schema.embeddings(dim)), sink)
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


def plan_search(run_dir: str, **settings: Any) -> SearchPlan:
    """What the search stage of a small run is told."""
    return SearchPlan(
        run_dir=run_dir,
        name="made",
        created="2026-01-01T00:00:00Z",
        model_id="m0",
        search=SearchConfig(**settings),
        num_random=3,
        seed=0,
    )


def in_turn(
    function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]
) -> Iterator[tuple[int, Any]]:
    """Tasks in this process, the last first: their order must not matter."""
    for place in reversed(range(len(arguments))):
        yield place, function(*arguments[place])
