"""The stars of a survey on a cluster: named first, then worked on in groups, many at once."""

from collections.abc import Callable, Sequence
from typing import Any

from astroray.execution import workers
from astroray.forecast.star_groups import StarGroup, name_rows, survey_groups
from astroray.surveys.shards import Shard

__all__ = ["map_stars"]


def map_stars(
    shards: Sequence[Shard],
    work: Callable[..., Any],
    *arguments: Any,
    show: Callable[[str], None] = lambda text: None,
) -> list[Any]:
    """What `work(group, *arguments)` gives for each group of whole stars, in their order.

    work  a function of a module, which takes a StarGroup; it runs in a Ray task
    show  is told how many groups are done
    """
    placing = workers.plan_workers(workers="auto", num_gpus=0.0, machines=workers.machines())
    each = workers.each_remotely(num_cpus=placing.num_cpus, at_once=placing.max_workers)

    def run(function: Callable[..., Any], told: Sequence[tuple[Any, ...]], what: str) -> list[Any]:
        found: dict[int, Any] = {}
        for place, result in each(function, told):
            found[place] = result
            show(f"{what} {len(found)}/{len(told)}")
        return [found[place] for place in range(len(told))]

    def name(several: Sequence[Shard]) -> list[Any]:
        return run(name_rows, [(shard,) for shard in several], "naming the stars  shards")

    groups: list[StarGroup] = survey_groups(shards, name)
    return run(work, [(group, *arguments) for group in groups], "windows  groups of stars")
