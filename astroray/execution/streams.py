"""How shards and their rows pass through workers on Ray: every Ray Dataset is built here.

A row of a dataset names a shard and never carries its pixels; what comes back is small.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from astroray.actors.embed import Embedder, EmbedPlan, pack_shard
from astroray.execution import workers
from astroray.execution.workers import WorkerPlan
from astroray.receipts import Receipt
from astroray.surveys.shards import Shard

__all__ = ["embed_shards", "map_rows"]

MAX_INPUT_BLOCKS = 2000
"""Ray keeps statistics for every block, so a survey of a million shards is cut into fewer."""


def embed_shards(shards: Sequence[Shard], plan: EmbedPlan, pool: WorkerPlan) -> Iterator[Receipt]:
    """Receipts of the shards, in the order in which they get done; the workers publish the rest."""
    if not shards:  # Ray refuses a pool of none
        return
    from ray.data import ActorPoolStrategy

    compute = ActorPoolStrategy(
        min_size=min(pool.min_workers, len(shards)), max_size=min(pool.max_workers, len(shards))
    )
    rows = [{"shard": pack_shard(shard)} for shard in shards]
    told = (plan, workers.RayNodes())
    made = _map(
        rows, Embedder, pool,
        fn_constructor_args=told, compute=compute, num_gpus=pool.num_gpus or None,
    )  # fmt: skip
    for batch in made:
        for text in batch["receipt"]:
            yield Receipt(**json.loads(text))


def map_rows(
    shards: Sequence[Shard],
    rows_of: Mapping[str, Sequence[int]],
    function: Any,
    pool: WorkerPlan,
    **options: Any,
) -> Iterator[Mapping[str, Any]]:
    """Batches that `function` makes of chosen rows of shards, by the name of the shard.

    options  of `Dataset.map_batches`
    """
    by_name = {shard.name: shard for shard in shards}
    rows = [
        {"shard": pack_shard(by_name[name]), "rows": json.dumps(list(numbers))}
        for name, numbers in rows_of.items()
    ]
    yield from _map(rows, function, pool, **options)


def _map(
    rows: Sequence[Mapping[str, str]], function: Any, pool: WorkerPlan, **options: Any
) -> Iterator[Mapping[str, Any]]:
    if not rows:
        return
    import ray.data

    blocks = min(len(rows), MAX_INPUT_BLOCKS)
    dataset = ray.data.from_items(list(rows), override_num_blocks=blocks)
    made = dataset.map_batches(function, batch_size=1, num_cpus=pool.num_cpus, **options)
    with workers.plain_errors():
        yield from made.iter_batches(batch_size=None, prefetch_batches=0)
