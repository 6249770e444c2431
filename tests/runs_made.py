"""Small finished run directories, as a scan leaves them, made from a seed."""

import dataclasses
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from astroray import catalog, ledger, schema, storage
from astroray.provenance import Machine
from astroray.report.page import write_report
from astroray.report.thumbnails import publish_thumbnails, render_thumbnail
from astroray.run_record import (
    Backends,
    CatalogProof,
    Changes,
    Counts,
    Coverage,
    ModelRef,
    NightFound,
    NightRecord,
    RunRecord,
)

NUM_TOP = 4
K = 6
SHARDS = ("east", "west")


@dataclasses.dataclass
class Run:
    """A run directory that a test makes, and the ids of its objects by rank."""

    path: str
    ids: list[str]

    def report(self) -> str:
        return Path(write_report(self.path)).read_text("utf-8")


def make_run(
    folder: Path,
    num_objects: int,
    *,
    sky: str = "none",
    first_id: str = "object-0",
    num_pictures: int | None = None,
    picture: bytes | None = None,
    further: Mapping[str, float | None] | None = None,
    **facts: object,
) -> Run:
    """A run of objects whose embedding is random; rank i is row i.

    further  values of scores beside the ranking, one for all objects; else they rise and fall
    """
    rng = np.random.default_rng(5)
    ids = [first_id, *(f"object-{i}" for i in range(1, num_objects))][:num_objects]
    embedding_ND = rng.normal(size=(num_objects, 5)).astype(np.float32)
    distance_NN = np.linalg.norm(embedding_ND[:, None] - embedding_ND[None], axis=2)
    nearest_NK = distance_NN.argsort(axis=1)[:, 1 : K + 1]
    scores = sorted(float(np.sort(row)[1 : K + 1].max(initial=0)) for row in distance_NN)[::-1]
    ra_deg_N, dec_deg_N = {
        "none": (np.full(num_objects, np.nan), np.full(num_objects, np.nan)),
        "small": (359.9 + rng.random(num_objects) * 0.2, 10 + rng.random(num_objects) * 0.1),
        "wide": (rng.uniform(0, 360, num_objects), rng.uniform(-80, 80, num_objects)),
    }[sky]
    rows = {
        **schema.identity(ids, ra_deg_N % 360, dec_deg_N),
        "shard": pa.array([SHARDS[i % 2] for i in range(num_objects)], pa.string()),
        "row": pa.array(np.arange(num_objects), pa.int64()),
        "processing_flags": pa.array([i % 4 for i in range(num_objects)], pa.int32()),
    }
    no_score = num_objects < 2
    table = pa.table(
        {
            **rows,
            "model_id": pa.array(["m0"] * num_objects, pa.string()),
            "outlier_score": pa.array([None if no_score else s for s in scores], pa.float64()),
            "rank": pa.array(np.arange(1, num_objects + 1), pa.int64()),
            "score_kind": pa.array(["exact"] * num_objects, pa.string()),
            "certified": pa.array([i < NUM_TOP for i in range(num_objects)], pa.bool_()),
            "neighbor_id": pa.array(
                [[ids[j] for j in row] for row in nearest_NK], pa.list_(pa.string())
            ),
            "neighbor_distance": pa.array(
                [distance_NN[i, row].tolist() for i, row in enumerate(nearest_NK)],
                pa.list_(pa.float64()),
            ),
            **{
                field.name: pa.array(
                    [(further or {}).get(field.name, i % 7 + n / 2) for i in range(num_objects)],
                    pa.float64(),
                )
                for n, field in enumerate(schema.FURTHER_SCORES)
            },
        }
    ).select(schema.CATALOG.names)
    run_dir = str(folder / "run")
    catalog.write_catalog(table.cast(schema.CATALOG), run_dir, name="t", created="2026-01-01")
    write_embeddings(run_dir, rows, embedding_ND)
    num_pictures = num_objects if num_pictures is None else num_pictures
    if num_pictures:
        jpeg = picture or render_thumbnail(np.ones((1, 4, 4)), bands=["g"], pixels="display")
        publish_thumbnails(run_dir, dict.fromkeys(ids[:num_pictures], jpeg))
    make_record(num_objects, scores, **facts).publish(run_dir)
    return Run(run_dir, ids)


def write_embeddings(run_dir: str, rows: dict[str, pa.Array], embedding_ND: np.ndarray) -> None:
    blank = dict.fromkeys(["field", "night", "detector"], pa.nulls(len(embedding_ND), pa.string()))
    column = pa.FixedSizeListArray.from_arrays(pa.array(embedding_ND.ravel()), 5)
    table = pa.table({**rows, "embedding": column, **blank}).select(schema.embeddings(5).names)
    for shard in SHARDS:
        part = table.filter(pa.compute.equal(table["shard"], shard))
        sink = io.BytesIO()
        pq.write_table(part, sink)
        storage.publish(ledger.embeddings_path(run_dir, shard), sink.getvalue())


def make_model(model_id: str, *, dim: int = 5) -> ModelRef:
    return ModelRef(model_id=model_id, encoder="pca", dim=dim)


def make_proof(num_certified: int, num_objects: int = 100, **facts: Any) -> CatalogProof:
    known = {
        "num_rescored": num_objects,
        "threshold": 0.5,
        "next_bound": 0.4,
        "sentence": "exact: all re-scored",
    }
    return CatalogProof(
        num_certified=num_certified,
        num_objects=num_objects,
        score="kth",
        k=max(1, min(K, num_objects - 1)),
        model_id="m0",
        **{**known, **facts},
    )


def make_night(reference: str, *, shards_left: int = 0, objects_new: int = 3) -> NightRecord:
    return NightRecord(
        reference=reference,
        number=1,
        inherits="0",
        coverage=Coverage(shards_new=2, shards_left=shards_left),
        found=NightFound(
            objects_new=objects_new,
            rows_written=objects_new,
            changes=Changes(entered=2, left=0, moved=0),
        ),
    )


def make_record(num_objects: int, scores: list[float], **facts: object) -> RunRecord:
    has_more = num_objects > NUM_TOP
    proof = make_proof(
        min(NUM_TOP, num_objects),
        num_objects,
        threshold=scores[NUM_TOP - 1] if has_more else None,
        next_bound=scores[NUM_TOP] if has_more else None,
    )
    counts = Counts(shards=2, rows_read=num_objects, rows_embedded=num_objects)
    known: dict[str, object] = {
        "survey": "s3://sky/cutouts/*.fits?size_px=32",
        "fingerprint": "f00d",
        "config": {"seed": 0, "search": {"k": K, "num_probes": None}},
        "created": "2026-01-01T05:00:00Z",
        "state": "running",
        "versions": {"astroray": "0.1.0"},
        "machine": Machine(cpu="a processor", cores=2, memory_bytes=2**33, system="Linux x86_64"),
        "backends": Backends(device="cpu", index="flat", index_reason="few objects"),
        "model": make_model("m0"),
        "counts": counts,
        "seconds": {"embed": 30.0, "search": 10.0},
        "proof": proof,
    }
    return RunRecord(**{**known, **facts})  # type: ignore[arg-type]
