"""The peer of the embed stage: a bare loop in one process, and what Ray and a model take to start.

Plain on purpose: read, prepare, encode in fixed batches, and nothing else.
"""

import dataclasses
import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from astroray import surveys
from astroray.config import BATCH_SIZES
from astroray.preparation.modalities import MODALITIES
from astroray.surveys.shards import Reject, Shard
from benchmarks.clock import timed

if TYPE_CHECKING:  # a fresh process loads torch and ray itself, some of them on the clock
    from astroray.encoders.store import Model

BATCH_SIZE = BATCH_SIZES["cpu"]
WORKER_NICE = 15
"""Priority that Ray gives its workers; the loop takes it too, or a neighbor's load would slow one
side alone."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lap:
    """One shard of the loop."""

    rows: int
    wall_s: float
    cpu_s: float


def embed_plainly(shard: Shard, model: "Model") -> np.ndarray:
    """The peer: embeddings [N, D] of a shard, read, prepared and encoded in fixed batches."""
    import torch

    modality = MODALITIES[model.modality]
    left_BCYX = np.zeros((0, *modality.shape(model.network_config)), np.float32)
    outputs: list[np.ndarray] = []
    with torch.inference_mode():
        for item in surveys.read_shard(shard):
            if isinstance(item, Reject):
                continue
            image_BCYX = modality.prepare(item, model.preparation).input_BCYX
            if len(left_BCYX):
                image_BCYX = np.concatenate([left_BCYX, image_BCYX])
            num_full = len(image_BCYX) // BATCH_SIZE * BATCH_SIZE
            for start in range(0, num_full, BATCH_SIZE):
                batch_BCYX = torch.from_numpy(image_BCYX[start : start + BATCH_SIZE])
                outputs.append(model.embed(batch_BCYX).numpy())
            left_BCYX = image_BCYX[num_full:]
        if len(left_BCYX):
            padded_BCYX = torch.zeros((BATCH_SIZE, *left_BCYX.shape[1:]))
            padded_BCYX[: len(left_BCYX)] = torch.from_numpy(left_BCYX)
            outputs.append(model.embed(padded_BCYX).numpy()[: len(left_BCYX)])
    return np.concatenate(outputs)


def run_loop(survey: str, model_path: str, save_to: str = "") -> list[Lap]:
    """The peer over all shards of a survey; embeddings are saved by shard, after the time."""
    import torch

    from astroray.encoders.store import load_model

    os.setpriority(os.PRIO_PROCESS, 0, WORKER_NICE)
    torch.set_num_threads(1)
    model = load_model(model_path)
    laps: list[Lap] = []
    embeddings: dict[str, np.ndarray] = {}
    for shard in surveys.list_shards(survey).shards:
        embedding_ND, wall_s, cpu_s = timed(partial(embed_plainly, shard, model))
        laps.append(Lap(rows=len(embedding_ND), wall_s=wall_s, cpu_s=cpu_s))
        embeddings[shard.name] = embedding_ND
    if save_to:
        np.savez(save_to, allow_pickle=False, **embeddings)
    return laps


def run_loops(survey: str, model_path: str, num_loops: int) -> float:
    """Objects/s of so many peers at once, in processes that share nothing: the machine's limit."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_loops, mp_context=context) as pool:
        loops = [pool.submit(run_loop, survey, model_path) for _ in range(num_loops)]
        return sum(steady_per_s(loop.result()) for loop in loops)


def steady_per_s(laps: Sequence[Lap]) -> float:
    """Objects/s of a loop after its first shard."""
    return sum(lap.rows for lap in laps[1:]) / sum(lap.wall_s for lap in laps[1:])


def start_ray() -> dict[str, float]:
    """Seconds of `ray.init` and a first pipeline of one row that does nothing, imports included.

    Also those of a second pipeline, whose nothing is done by an actor.
    """
    began_s = time.perf_counter()
    import ray.data

    from astroray.execution import workers

    class Nothing:
        def __call__(self, batch: Any) -> Any:
            return batch

    with workers.cluster():  # ray.init with the options of a scan
        ray.data.from_items([{"row": 0}]).map_batches(lambda batch: batch).take_all()
        first_s = time.perf_counter() - began_s
        pool = ray.data.ActorPoolStrategy(size=1)
        ray.data.from_items([{"row": 0}]).map_batches(Nothing, compute=pool).take_all()
        return {"first_s": first_s, "second_s": time.perf_counter() - began_s - first_s}


def start_model(model_path: str) -> float:
    """Seconds until a model is loaded, torch included."""
    began_s = time.perf_counter()
    from astroray.encoders.store import load_model

    load_model(model_path)
    return time.perf_counter() - began_s
