"""Where the work runs: Ray is started or joined here, and plans that would hang are refused."""

import contextlib
import dataclasses
import itertools
import logging
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar, cast

from astroray import allowance, faults, storage
from astroray.actors.held import let_go
from astroray.errors import AstrorayError, BackendError, ConfigError
from astroray.execution import ray_logs, session_folder
from astroray.execution.small_start import small_start
from astroray.execution.tasks import LOOK_S, Tasks, put_once
from astroray.execution.worker_bounds import parse_workers
from astroray.interrupts import keep_handlers

Params = ParamSpec("Params")
Result = TypeVar("Result")

CPUS_PER_WORKER = 0.75
"""So that two workers fit on two cores and Ray's own tasks still run beside them."""

ENVIRONMENT = {
    # Activations and images of many MB would be mapped and unmapped anew for every batch; kept
    # in the heap, encoding on a CPU is 1.6 times as fast and a training step takes 0.6 of the time.
    # The one arena is the main one: those of other threads, as Ray's, hold no blocks over 64 MB.
    "GLIBC_TUNABLES": (
        "glibc.malloc.mmap_threshold=8589934592:glibc.malloc.trim_threshold=8589934592:"
        "glibc.malloc.arena_max=1"
    ),
}
"""What every worker is started with."""

NUM_STARTS = 3
"""Ray gives up a start after 30 s, which on a machine that is busy with other work is not long."""
BUSY = 3.0
"""Processes a core that want to run: with more of them a start may take that long."""

RAY_DATA_NOTE = "\nFailed to apply UDF"
"""Begins what Ray Data adds to the message of an error that passes through it."""

PROXY_MIDDLEWARES = "astroray.web.asked_again.middlewares"
"""What Ray Serve's proxy on a local cluster loads; elsewhere the machines' environment says so."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkerPlan:
    """How many workers the embed stage has, and what each one holds."""

    min_workers: int
    max_workers: int
    num_cpus: float
    num_gpus: float
    device: str
    """cpu or cuda: what the workers run on."""


def plan_workers(
    *,
    workers: str,
    num_gpus: float | None,
    machines: Sequence[Mapping[str, float]],
    num_shards: int | None = None,
) -> WorkerPlan:
    """A plan that the cluster can place at once.

    workers    auto, N, or MIN..MAX
    num_gpus   GPUs a worker, fractions too; None: one each where the cluster has any, else none
    machines   CPU and GPU of each; a worker lies on one of them, and a fraction on one GPU
    num_shards  shards that there are, since more workers are of no use; None: not known yet

    Raises ConfigError where the plan does not fit, since Ray would wait for ever.
    """
    cpus, gpus = (sum(one.get(name, 0.0) for one in machines) for name in ("CPU", "GPU"))
    gpus_each = (1.0 if gpus else 0.0) if num_gpus is None else num_gpus
    room = sum(_room(one, gpus_each) for one in machines)
    has = f"{cpus:g} and {gpus:g}" + f" on {len(machines)} machines" * (len(machines) > 1)
    if room < 1:
        raise ConfigError(
            f"a worker needs {CPUS_PER_WORKER} CPUs and {gpus_each:g} GPUs, the cluster has "
            f"{has}; lower num_gpus or start a larger cluster"
        )
    most = min(room, max(1, int(cpus)))
    low, high = parse_workers(workers) or (most, most)
    if low > room:
        raise ConfigError(
            f"workers is {workers}, but only {room} fit: each needs {CPUS_PER_WORKER} CPUs and "
            f"{gpus_each:g} GPUs of {has}; Ray would wait for ever"
        )
    limit = high if num_shards is None else max(1, num_shards)
    return WorkerPlan(
        min_workers=min(low, limit),
        max_workers=min(high, limit),
        num_cpus=CPUS_PER_WORKER,
        num_gpus=gpus_each,
        device="cuda" if gpus_each else "cpu",
    )


def _room(machine: Mapping[str, float], gpus_each: float) -> int:
    """Workers that fit on a machine."""
    by_cpu = int(machine.get("CPU", 0.0) / CPUS_PER_WORKER)
    if not gpus_each:
        return by_cpu
    gpus = machine.get("GPU", 0.0)
    by_gpu = int(gpus) * int(1 / gpus_each) if gpus_each < 1 else int(gpus / gpus_each)
    return min(by_cpu, by_gpu)


def machines() -> list[dict[str, float]]:
    """What each machine of the cluster that was joined or started has: CPU, GPU and others."""
    return [node["Resources"] for node in _alive()]


def metrics_addresses() -> list[str]:
    """Where Prometheus finds what Ray tells of each machine."""
    return [
        f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        for node in _alive()
    ]


def cpus_of_one_machine(num_gpus: float = 0.0) -> int:
    """CPUs of the largest machine with so many GPUs: a task that asks for more waits for ever."""
    able = [one for one in machines() if one.get("GPU", 0.0) >= num_gpus]
    return max([1, *(int(one.get("CPU", 0)) for one in able)])


def _alive() -> list[dict[str, Any]]:
    """The machines that are there, as Ray describes them."""
    import ray

    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in nodes if node["Alive"]]


@dataclasses.dataclass(frozen=True)
class RayNodes:
    """The machines of the cluster, as a worker on one of them sees them: `attempts.Nodes`."""

    def here(self) -> str:
        import ray

        return str(ray.get_runtime_context().get_node_id())

    def alive(self) -> set[str]:
        return {node["NodeID"] for node in _alive()}


def refuse_local(*paths: str) -> None:
    """Raises ConfigError where a result would lie on one of several machines, unseen by the others.

    Needs the running cluster; call it before the first row is read.
    """
    local = next((path for path in paths if not storage.is_remote(path)), None)
    addresses = {node["NodeManagerAddress"] for node in _alive()}
    if local is not None and len(addresses) > 1:
        raise ConfigError(
            f"out is {local}, a folder of one machine, but the cluster has {len(addresses)} "
            "machines, which would not see each other's files; give an s3:// address"
        )


@contextlib.contextmanager
def cluster(*, log_dir: str = "", num_cpus: int | None = None) -> Iterator[None]:
    """Joins the cluster of RAY_ADDRESS (a submitted job) or an own local one, gone afterwards.

    log_dir   where Ray's own messages go; "" for nowhere
    num_cpus  logical CPUs of a local cluster; None: the cores of this machine

    A local cluster listens on loopback, has a token of its own, and sends no usage statistics.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    # Seconds between two looks at training workers, without which a fit has no end; 2 by default.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ.setdefault("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", PROXY_MIDDLEWARES)
    with ray_logs.ray_data_to(log_dir):
        import ray

        if ray.is_initialized():  # the caller's own cluster is used as it is
            _set_up_ray_data()
            yield
        else:
            with _own_or_joined(log_dir=log_dir, num_cpus=num_cpus):
                yield


@contextlib.contextmanager
def _own_or_joined(*, log_dir: str, num_cpus: int | None) -> Iterator[None]:
    import ray

    if not (joined := bool(os.environ.get("RAY_ADDRESS"))):
        _require_token()
    with session_folder.scratch() as scratch:
        try:
            with ray_logs.noise_to(log_dir):
                _init(joined=joined, num_cpus=num_cpus, scratch=scratch)
                _set_up_ray_data()
                try:
                    yield
                finally:
                    # Who is told to stop has few seconds to give back the lease.
                    if joined and log_dir and not isinstance(sys.exception(), KeyboardInterrupt):
                        ray_logs.fetch_worker_logs(log_dir)
                    ray.shutdown()
        finally:
            if log_dir and not joined:
                ray_logs.keep_worker_logs(scratch, log_dir)


def _require_token() -> None:
    """Token authentication, with a token that only this process and its children know.

    Ray reads the mode when it is imported and the token once a process; with the mode unset, a
    token that it finds switches the mode to `token` at any time.
    """
    if not os.environ.get("RAY_AUTH_TOKEN"):
        os.environ.pop("RAY_AUTH_MODE", None)
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _init(*, joined: bool, num_cpus: int | None, scratch: str) -> None:
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if joined:
        options["runtime_env"] = {"env_vars": ENVIRONMENT}
    else:
        os.environ.update(ENVIRONMENT)  # the workers of a local cluster inherit it
        # A process of every fit that asks whether its machine is about to be taken away.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        # By 1 s, the default, a search on all cores ends workers whose libraries the report needs.
        os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "5000")
        options |= {
            "address": "local",
            "include_dashboard": False,
            "num_cpus": num_cpus or allowance.num_cores(),
            "object_store_memory": 256 * 2**20,
            "_temp_dir": scratch,
        }
    for starts_left in reversed(range(NUM_STARTS)):
        try:
            with keep_handlers(), contextlib.nullcontext() if joined else small_start():
                ray.init(**options)
            return
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise _not_started(error) from error
        except Exception as error:
            if type(error) is not Exception:  # that one is of a start that took over 30 s
                raise
            session_folder.end_processes_of(scratch)
            if not starts_left:
                raise _not_started(error) from error


def _not_started(error: Exception) -> BackendError:
    load, num_cores = os.getloadavg()[0], allowance.num_cores()
    text = f"Ray does not start: {error}; run `astroray doctor` to see what this machine lacks"
    if load > BUSY * num_cores:
        text += f", or wait until it has less to do: its load is {load:.0f} on {num_cores} cores"
    return BackendError(text)


def _set_up_ray_data() -> None:
    """Quiet, and with the errors of our code as they are: Ray's wrapper loses them in actors."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.raise_original_map_exception = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Raises astroray's own error where Ray wraps one, BackendError where workers die."""
    import ray.exceptions

    lost = (
        ray.exceptions.WorkerCrashedError,
        ray.exceptions.ActorDiedError,
        ray.exceptions.OutOfMemoryError,
        ray.exceptions.NodeDiedError,
    )
    try:
        yield
    except ray.exceptions.RayError as error:
        if own := _own_error(error):
            raise type(own)(str(own).partition(RAY_DATA_NOTE)[0]) from None
        if isinstance(error, lost):
            raise BackendError(
                f"a worker died again and again: {str(error).strip()[:600]}; it may have run out "
                "of memory: use fewer workers, then run the same command again to resume"
            ) from error
        raise


def remotely(
    function: Callable[Params, Result], *, num_cpus: float, num_gpus: float = 0.0
) -> Callable[Params, Result]:
    """`function` as a Ray task that the caller waits for; errors come back as they were."""
    import ray

    fault_plan = faults.armed()

    def run(*args: Params.args, **kwargs: Params.kwargs) -> Result:
        let_go()
        faults.arm(fault_plan)
        return function(*args, **kwargs)

    task = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus)(run)

    def call(*args: Params.args, **kwargs: Params.kwargs) -> Result:
        with plain_errors():
            result: Result = ray.get(task.remote(*args, **kwargs))
            return result

    return call


def each_remotely(
    *, num_cpus: float, at_once: int, repeats_late: bool = False
) -> Callable[[Callable[..., Any], Sequence[tuple[Any, ...]]], Iterator[tuple[int, Any]]]:
    """A function that calls another one on each tuple of arguments, each call being a Ray task.

    At most `at_once` tasks run at a time. It yields the place of each tuple and the result, in the
    order in which the tasks end. Ray repeats a task whose worker or node died. An object that is
    an argument of several tasks is sent to each machine once.

    repeats_late  whether a task that takes far longer than the others, as on a machine that is
                  ill, is begun once more when nothing else is left to begin; the first to end
                  counts. For functions that may run twice at the same time.
    """
    import ray

    fault_plan = faults.armed()

    def run(
        function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[int, Any]]:
        def armed(*args: Any) -> Any:
            let_go()
            faults.arm(fault_plan)
            return function(*args)

        task = ray.remote(num_cpus=num_cpus)(armed)
        todo = iter(enumerate(put_once(arguments)))
        tasks = Tasks(task.remote)
        with plain_errors():
            while True:
                for place, args in itertools.islice(todo, at_once - len(tasks.running)):
                    tasks.begin(place, args)
                if not tasks.running:
                    return
                spare = at_once - len(tasks.running) if repeats_late else 0
                done, _ = ray.wait(
                    list(tasks.running), num_returns=1, timeout=LOOK_S if spare else None
                )
                if done:
                    yield tasks.end(done[0]), ray.get(done[0])
                else:
                    tasks.repeat_late(spare)

    return run


def on_each_machine(function: Callable[[], object]) -> None:
    """Calls a function once on every machine of the cluster, whatever else runs there."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    places = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=True) for node in _alive()]
    task = ray.remote(num_cpus=0)(function)
    ray.get([task.options(scheduling_strategy=place).remote() for place in places])


def _own_error(error: BaseException | None) -> AstrorayError | None:
    """The first of astroray's errors in a chain of causes."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if type(error).__module__ == "astroray.errors":
            return cast(AstrorayError, error)
        error = getattr(error, "cause", None) or error.__cause__ or error.__context__
    return None
