"""The stars of a survey on a cluster: named first, then worked on in groups, many at once."""

from collections.abc import Callable, Sequence
from typing import Any

from astroray.execution import workers
from astroray.forecast.star_groups import group_stars, name_rows
from astroray.search.stages import noted, run_all
from astroray.surveys.shards import Shard

__all__ = ["map_stars"]


def map_stars(
    shards: Sequence[Shard],
    work: Callable[..., Any],
    *arguments: Any,
    expect: Callable[[int], None] = lambda num_stars: None,
    show: Callable[[str], None] = lambda text: None,
) -> list[Any]:
    """What `work(group, *arguments)` gives for each group of whole stars, in their order.

    work  a function of a module, which takes a StarGroup; it runs in a Ray task, of a late one in
          two at the same time
    expect  is told how many stars were named, before any work; what it raises ends it
    show  is told how many groups are done
    """
    placing = workers.plan_workers(workers="auto", num_gpus=0.0, machines=workers.machines())
    each = workers.each_remotely(
        num_cpus=placing.num_cpus, at_once=placing.max_workers, repeats_late=True
    )

    def run(function: Callable[..., Any], told: Sequence[tuple[Any, ...]], what: str) -> list[Any]:
        def note(words: str, done: int, of: int) -> None:
            if done:
                show(f"{words} {done}/{of}")

        return run_all(noted(each, note, what), function, told)

    named = run(name_rows, [(shard,) for shard in shards], "naming the stars  shards")
    expect(len({name for one in named for _, name in one.stars or () if name}))
    told = [(group, *arguments) for group in group_stars(named)]
    return run(work, told, "windows  groups of stars")
