"""Fits networks with Ray Train, in as many training workers as asked.

A fit's state is one file, published whole or absent by the first worker. Ray Train's own
checkpoints are not used: a kill can tear the snapshot that lists them, and the newest one is
lost when a worker dies before it is registered.
"""

import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch

from astroray import allowance, faults, storage
from astroray.encoders.own_errors import lacks_memory
from astroray.encoders.recipe import Recipe
from astroray.errors import AstrorayError, BackendError, ConfigError, FileError, StorageError
from astroray.execution import workers
from astroray.fitting.fit_state import FitConfig, FitProgress, FitResult, FitState
from astroray.fitting.passes import REPORT_EVERY_S, Place, Plan, find_recipe, run_worker

__all__ = ["check_placement", "find_place", "fit_network", "train_in_workers"]

_log = logging.getLogger("astroray.training")
FORMAT_VERSION = 2
PROGRESS_NAME = "progress.json"
MAX_FAILURES = 3
REFUSAL_NAME = "refused.txt"
WORKER_ENVIRONMENT = {
    **workers.ENVIRONMENT,
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # without it matrix products on GPU do not repeat
}


def fit_network(
    sample_path: str,
    encoder: str,
    network: Mapping[str, Any],
    config: FitConfig,
    folder: str,
    *,
    report: Callable[[FitProgress], None],
) -> FitResult:
    """Fits the network of `encoder` in the running Ray cluster; goes on where a killed fit was.

    sample_path  .npy file, float16 [N, C, Y, X], pixels in 0..1 without NaN; local or S3
    network      keyword numbers of the network's class
    folder       the fit's own folder is made in it, named by a hash of sample and configuration;
                 another configuration starts anew beside it
    report       called in this thread, about once a second

    Raises ConfigError on a plan that this cluster cannot place, BackendError where training
    workers died more than three times.
    """
    use_gpu = check_placement(config.train_workers)
    recipe = find_recipe(encoder, config)
    name = f"fit-{_fingerprint(sample_path, encoder, network, config, recipe, use_gpu)}"
    plan = Plan(
        sample_path=storage.absolute(sample_path),
        encoder=encoder,
        network=dict(network),
        config=config,
        recipe=recipe,
        folder=storage.join(storage.absolute(folder), name),
        fault_plan=faults.armed(),
    )
    state = FitState.load(plan.folder)
    if state is None or not state.is_finished:
        _train_with_ray(plan, use_gpu, report)
        state = FitState.load(plan.folder)
    if state is None:
        raise StorageError(f"{plan.folder} lost the state of the fit; fit again")
    return state.result(config)


def _fingerprint(
    sample_path: str,
    encoder: str,
    network: Mapping[str, Any],
    config: FitConfig,
    recipe: Recipe,
    use_gpu: bool,
) -> str:
    """Hash of all that decides the bytes of the fit, except for the machine."""
    meaning = dataclasses.asdict(config) | {
        "checkpoint_every_s": None,
        "recipe": dataclasses.asdict(recipe),
        "encoder": encoder,
        "network": dict(network),
        "device": "cuda" if use_gpu else "cpu",
        "torch": torch.__version__,
        "format_version": FORMAT_VERSION,
    }
    digest = hashlib.sha256(json.dumps(meaning, sort_keys=True).encode())
    with storage.local_copy(sample_path) as local, open(local, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()[:12]


def check_placement(train_workers: int) -> bool:
    """Whether each training worker gets a GPU; refuses what Ray would wait for without end."""
    machines = workers.machines()
    cpus, gpus = (sum(int(one.get(name, 0)) for one in machines) for name in ("CPU", "GPU"))
    if train_workers > cpus:
        raise ConfigError(
            f"{train_workers} training workers need a CPU each, the cluster has {cpus}; "
            f"set train_workers to at most {cpus}"
        )
    return gpus >= train_workers


def _train_with_ray(plan: Plan, use_gpu: bool, report: Callable[[FitProgress], None]) -> None:
    seen: list[FitProgress] = []

    def look() -> None:
        progress = _read_progress(plan.folder)
        if progress is not None and progress not in seen[-1:]:
            report(progress)
            seen[:] = [progress]

    train_in_workers(
        _train_in_worker,
        plan,
        num_workers=plan.config.train_workers,
        use_gpu=use_gpu,
        folder=plan.folder,
        what=f"fitting {plan.encoder}",
        look=look,
    )


def train_in_workers(
    work: Callable[[dict[str, Any]], None],
    plan: object,
    *,
    num_workers: int,
    use_gpu: bool,
    folder: str,
    what: str,
    look: Callable[[], None],
) -> None:
    """Runs a training loop by Ray Train, with `{"plan": plan}`, in as many workers as asked.

    work    a function of a module, which Ray Train calls in each worker, again after a failure;
            but not after a ConfigError, which would come again
    folder  where Ray Train keeps what it notes; absolute
    look    called in this thread about twice a second

    Raises what astroray's own code raised in a worker, BackendError where workers died too often.
    """
    refusal = storage.join(folder, REFUSAL_NAME)
    storage.delete(refusal)
    trainer = ray.train.torch.TorchTrainer(
        functools.partial(_work_or_refuse, work, refusal),
        train_loop_config={"plan": plan},
        scaling_config=ray.train.ScalingConfig(
            num_workers=num_workers,
            use_gpu=use_gpu,
            resources_per_worker={"CPU": 1, "GPU": 1} if use_gpu else {"CPU": 1},
        ),
        run_config=ray.train.RunConfig(  # type: ignore[call-arg]
            name="ray_train",
            storage_path=folder,
            failure_config=ray.train.FailureConfig(max_failures=MAX_FAILURES),
            worker_runtime_env={"env_vars": WORKER_ENVIRONMENT},
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )
    # In a thread of its own, since in the main one Ray Train would keep Ctrl-C for itself; the
    # executor is not waited for, so that an interrupted driver ends at once.
    executor = concurrent.futures.ThreadPoolExecutor(1)
    fit = executor.submit(trainer.fit)
    executor.shutdown(wait=False)
    while not fit.done():
        concurrent.futures.wait([fit], timeout=REPORT_EVERY_S / 2)
        look()
    error = fit.exception()
    if isinstance(error, ray.train.TrainingFailedError):
        raise _explain(error, what) from error
    fit.result()
    if storage.exists(refusal):
        raise ConfigError(storage.read_bytes(refusal).decode())


def _work_or_refuse(
    work: Callable[[dict[str, Any]], None], refusal: str, config: dict[str, Any]
) -> None:
    """Does the work; notes a ConfigError and ends, since Ray Train would try again after one.

    Where others may wait for the worker that refuses, it fails: Ray Train begins all anew, and
    each ends by what was noted.
    """
    if storage.exists(refusal):
        return
    try:
        work(config)
    except ConfigError as error:
        storage.publish(refusal, str(error).encode())
        if ray.train.get_context().get_world_size() > 1:
            raise
    except Exception:
        _log.exception("training failed")
        raise


def find_place() -> tuple[int, int, int]:
    """Rank, number of workers and threads of the training worker that this process is."""
    context = ray.train.get_context()
    threads = max(1, allowance.num_cores() // context.get_local_world_size())
    return context.get_world_rank(), context.get_world_size(), threads


def _explain(error: ray.train.TrainingFailedError, what: str) -> AstrorayError:
    """Why workers failed too often: the machine, or what our code or the user's raised there.

    Ray Train keeps exceptions apart from where they were raised, which its own text alone says.
    """
    failures = list(getattr(error, "worker_failures", {}).values())
    own = next((one for one in failures if isinstance(one, AstrorayError)), None)
    if own is not None:
        return own
    text, times = str(error).strip(), f"{what} failed {MAX_FAILURES + 1} times"
    if not failures or any(_is_of_machine(one) for one in failures):
        return BackendError(
            f"{times}: {text[-600:]}; free memory or use fewer train_workers, then run the same "
            "command again to resume"
        )
    places = re.findall(r'File "(.+?)", line (\d+), in (\S+)', text)
    where = " ({}, line {}, in {})".format(*places[-1]) if places else ""
    said = " ".join(str(failures[0]).split())[:600]
    return AstrorayError(
        f"{times}: {type(failures[0]).__name__}: {said}{where}; mend that line if it is yours, "
        "else report it; the whole traceback is in logs/workers"
    )


def _is_of_machine(error: BaseException) -> bool:
    """Whether memory did not suffice, or a worker died."""
    return lacks_memory(error) or type(error).__module__.startswith("ray.")


def _train_in_worker(config: dict[str, Plan]) -> None:
    """What Ray Train runs in each training worker."""
    plan = config["plan"]
    faults.arm(plan.fault_plan)
    rank, num_workers, threads = find_place()
    place = Place(
        rank=rank,
        num_workers=num_workers,
        device=ray.train.torch.get_device(),
        threads=threads,
        wrap=ray.train.torch.prepare_model,
        report=functools.partial(_publish_progress, plan.folder),
    )
    run_worker(plan, place)


def _publish_progress(folder: str, progress: FitProgress) -> None:
    data = json.dumps(dataclasses.asdict(progress)).encode()
    storage.publish(storage.join(folder, PROGRESS_NAME), data)


def _read_progress(folder: str) -> FitProgress | None:
    path = storage.join(folder, PROGRESS_NAME)
    try:
        return FitProgress(**json.loads(storage.read_bytes(path)))
    except (FileError, StorageError):  # not yet there, or the store is busy: the next look will do
        return None
