"""How shards and their rows pass through workers on Ray: every Ray Dataset is built here.

A row of a dataset names a shard and never carries its pixels; what comes back is small.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from astroray.actors.embed import Embedder, EmbedPlan, pack_shard
from astroray.actors.held import call_held
from astroray.execution import workers
from astroray.execution.workers import WorkerPlan
from astroray.receipts import Receipt
from astroray.surveys.shards import Shard

__all__ = ["embed_shards", "map_rows"]

MAX_INPUT_BLOCKS = 2000
"""Ray keeps statistics for every block, so a survey of a million shards is cut into fewer."""


def embed_shards(shards: Sequence[Shard], plan: EmbedPlan, pool: WorkerPlan) -> Iterator[Receipt]:
    """Receipts of the shards, in the order in which they get done; the workers publish the rest."""
    rows = [{"shard": pack_shard(shard)} for shard in shards]
    for batch in _map(rows, Embedder, pool, told=(plan, workers.RayNodes())):
        for text in batch["receipt"]:
            yield Receipt(**json.loads(text))


def map_rows(
    shards: Sequence[Shard],
    rows_of: Mapping[str, Sequence[int]],
    function: Any,
    pool: WorkerPlan,
    *,
    told: tuple[Any, ...] = (),
) -> Iterator[Mapping[str, Any]]:
    """Batches that `function` makes of chosen rows of shards, by the name of the shard.

    function  of a batch, or the class of a worker that is made once, of `told`
    """
    by_name = {shard.name: shard for shard in shards}
    rows = [
        {"shard": pack_shard(by_name[name]), "rows": json.dumps(list(numbers))}
        for name, numbers in rows_of.items()
    ]
    yield from _map(rows, function, pool, told=told)


def _map(
    rows: Sequence[Mapping[str, str]], function: Any, pool: WorkerPlan, *, told: tuple[Any, ...]
) -> Iterator[Mapping[str, Any]]:
    if not rows:  # Ray refuses a pool of none
        return
    import ray.data

    options: dict[str, Any] = {}
    if isinstance(function, type):
        least, most = (min(size, len(rows)) for size in (pool.min_workers, pool.max_workers))
        if pool.num_gpus:  # Ray ends a process whose task had a GPU, and its model with it
            compute: Any = ray.data.ActorPoolStrategy(min_size=least, max_size=most)
            options = {"fn_constructor_args": told, "num_gpus": pool.num_gpus, "compute": compute}
        else:  # in the processes that fit before and search afterwards: their libraries are loaded
            function = partial(call_held, made=function, told=told)
            options = {"compute": ray.data.TaskPoolStrategy(most)}
    blocks = min(len(rows), MAX_INPUT_BLOCKS)
    dataset = ray.data.from_items(list(rows), override_num_blocks=blocks)
    made = dataset.map_batches(function, batch_size=1, num_cpus=pool.num_cpus, **options)
    with workers.plain_errors():
        yield from made.iter_batches(batch_size=None, prefetch_batches=0)
