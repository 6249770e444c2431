"""Whether one process searches all embeddings of a run, or many do, of a scan and of a night."""

import dataclasses

from astroray import storage
from astroray.actors.night import rank_night
from astroray.actors.search import SearchOutcome, SearchPlan, rank_survey
from astroray.catalog import versions
from astroray.errors import ConfigError
from astroray.execution import workers
from astroray.execution.workers import WorkerPlan
from astroray.neighbors.search import SearchConfig, check_gpu, choose_index
from astroray.search.sharded import rank_sharded
from astroray.search.sharded_night import rank_night_sharded
from astroray.search.stages import Note
from astroray.storage import kept_copies

__all__ = ["check_index", "rank_run"]


def check_index(search: SearchConfig, plan_of_workers: WorkerPlan) -> None:
    """Before long work, raises ConfigError or BackendError where a GPU is asked for and missing."""
    if not search.is_on_gpu:
        return
    if not plan_of_workers.num_gpus:
        raise ConfigError(
            f"search.index is {search.index}, and workers have no GPU; set num_gpus, start a "
            "cluster with GPUs, or take another index"
        )
    workers.remotely(check_gpu, num_cpus=1, num_gpus=plan_of_workers.num_gpus)()


def rank_run(
    plan: SearchPlan,
    plan_of_workers: WorkerPlan,
    *,
    num_own: int,
    dim: int,
    is_night: bool,
    note: Note,
) -> SearchOutcome:
    """Scores and certifies all embedded objects of a run and writes NEIGHBORS and CATALOG.

    num_own  rows that the run itself embedded; a night counts those of older versions besides
    """
    threads = plan_of_workers.max_workers
    num_rows = num_own + (versions.read_inherited(plan.run_dir).num_rows if is_night else 0)
    index: str = plan.search.index
    reason = "asked for"
    if index == "auto":
        index, reason = choose_index(num_rows, dim, can_shard=True)
    if index == "sharded" and num_rows:
        each = workers.each_remotely(
            num_cpus=plan_of_workers.num_cpus, at_once=threads, repeats_late=True
        )
        in_parts = rank_night_sharded if is_night else rank_sharded
        outcome = in_parts(plan, each, reason=reason, note=note)
        if storage.is_remote(plan.run_dir):
            workers.on_each_machine(kept_copies.clear)
        return outcome
    num_gpus = plan_of_workers.num_gpus if plan.search.is_on_gpu and not is_night else 0.0
    threads = min(threads, workers.cpus_of_one_machine(num_gpus))
    alone = "auto" if index == "sharded" else plan.search.index  # what one process can do
    search = dataclasses.replace(plan.search, index=alone, num_threads=threads)
    rank = rank_night if is_night else rank_survey
    task = workers.remotely(rank, num_cpus=threads, num_gpus=num_gpus)
    return task(dataclasses.replace(plan, search=search))
