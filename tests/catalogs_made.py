"""Catalogs that tests make from a seed."""

import numpy as np
import pyarrow as pa

from astroray import schema


def make_catalog(num_rows: int, *, num_unplaced: int = 0, seed: int = 5) -> pa.Table:
    """CATALOG rows at random positions; the last `num_unplaced` have none."""
    rng = np.random.default_rng(seed)
    ra_deg, dec_deg = (
        rng.uniform(0, 360, num_rows),
        np.degrees(np.arcsin(rng.uniform(-1, 1, num_rows))),
    )
    ra_deg[num_rows - num_unplaced :] = np.nan
    names = [f"obj {i}" for i in range(num_rows)]
    lengths = rng.integers(0, 4, num_rows)
    columns = schema.identity(names, ra_deg, dec_deg) | {
        "shard": pa.array([f"s{i % 3}" for i in range(num_rows)], pa.string()),
        "row": pa.array(range(num_rows), pa.int64()),
        "model_id": pa.array(["m"] * num_rows, pa.string()),
        "outlier_score": pa.array(
            [float(x) if k else None for x, k in zip(rng.random(num_rows), lengths, strict=True)],
            pa.float64(),
        ),
        "rank": pa.array(rng.permutation(num_rows) + 1, pa.int64()),
        "score_kind": pa.array(["exact"] * num_rows, pa.string()),
        "certified": pa.array(rng.random(num_rows) < 0.1, pa.bool_()),
        "neighbor_id": pa.array([names[:k] for k in lengths], pa.list_(pa.string())),
        "neighbor_distance": pa.array(
            [sorted(rng.random(k)) for k in lengths], pa.list_(pa.float64())
        ),
        "processing_flags": pa.array(rng.integers(0, 4, num_rows), pa.int32()),
    }
    for field in schema.FURTHER_SCORES:
        score_N = rng.random(num_rows)
        columns[field.name] = pa.array(score_N, mask=score_N < 0.1)
    return pa.table(columns, schema=schema.CATALOG)


def by_rank(table: pa.Table) -> pa.Table:
    return table.sort_by("rank").combine_chunks()
