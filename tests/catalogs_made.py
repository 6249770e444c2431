"""Catalogs that tests make from a seed."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from astroray import schema
from astroray.catalog import write_catalog

CREATED = "2026-01-02T03:04UTC"


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


def write(table: pa.Table, run_dir: Path, *, rows_per_pixel: int = 1_000_000) -> list[str]:
    return write_catalog(
        table, str(run_dir), name="test", created=CREATED, rows_per_pixel=rows_per_pixel
    )


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[pa.Table, Path]:
    """A catalog of 300 rows in pixels of at most 20, 7 rows without a position."""
    table, run_dir = make_catalog(300, num_unplaced=7), tmp_path_factory.mktemp("run")
    write(table, run_dir, rows_per_pixel=20)
    return table, run_dir
