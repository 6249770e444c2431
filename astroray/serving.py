"""How a run is served on Ray: replicas of the web app and of the model. Ray Serve is only here."""

import asyncio
import contextlib
import logging
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import ray
import torch
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.config import AutoscalingConfig, BackpressureConfig
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from astroray import runs
from astroray.actors.answer import Answerer
from astroray.actors.run_model import RunModel, model_of_run
from astroray.archive import Archive
from astroray.errors import AstrorayError, BackendError, ConfigError
from astroray.execution import workers
from astroray.forecast.forecast_record import tell_strangers
from astroray.forecast.model_file import TrainedForecaster, load_forecaster
from astroray.forecast.predict import forecast_curves
from astroray.labelling.labels import LabelLog
from astroray.run_folders import finished_run, version_of
from astroray.settings import from_dict
from astroray.surveys.light_curve_rows import LightCurve
from astroray.surveys.shards import Reject
from astroray.web.app import build_app
from astroray.web.flares import FlareForecast, build_flare_router
from astroray.web.guard import AuditLog
from astroray.web.labelling import LOGIN_PATH, build_label_router
from astroray.web.listening import address_of
from astroray.web.routes import BusyError
from astroray.web.security import Tokens
from astroray.web.serve_config import Replicas, ServeConfig

__all__ = ["build", "serving"]

APP = "astroray"
MAX_FORECASTS = 8
"""Of one web replica at once; more are told to come again. A model replica answers twice its batch
of requests at once, and forecasts must leave room for uploads."""
_TRIES = 4
"""Replicas that an upload is given to before its client is told to come again."""
_READY_S = 5.0
_HEALTH: dict[str, Any] = {"health_check_period_s": 2, "graceful_shutdown_timeout_s": 10}
_QUIET = {"log_level": "WARNING", "enable_access_log": False}

_log = logging.getLogger("astroray.serving")

Result = TypeVar("Result")


@contextlib.contextmanager
def serving(config: ServeConfig) -> Iterator[str]:
    """Serves a run until the context ends; yields the address. Ray is started or joined.

    Raises ConfigError where the run is not done, the replicas do not fit into the cluster or that
    serves something already, BackendError where the port is taken, or they could not compute in the
    numbers of the run.
    """
    finished_run(config.run_dir)  # what is wrong with the run is said before anything starts
    is_ours = not (ray.is_initialized() or os.environ.get("RAY_ADDRESS"))
    with runs.logs_of(config.run_dir) as log_dir, workers.cluster(log_dir=log_dir):
        if not is_ours:  # Serve may take a new Ray of this process for the one before
            _refuse_second()
        check_room(config, workers.machines())
        check_model(config)
        _start_proxy(config)
        try:
            try:
                serve.run(_bind(config), name=APP, route_prefix="/", logging_config=_QUIET)
            except RuntimeError as error:
                raise BackendError(f"the replicas do not start: {error}; see {log_dir}") from None
            scheme = "https" if config.tls_cert else "http"
            yield address_of(config.host, config.port, scheme=scheme)
        finally:
            if is_ours:  # and ends with all that is left on it
                serve.delete(APP)
            else:
                serve.shutdown()  # type: ignore[no-untyped-call]


def _refuse_second() -> None:
    """Raises ConfigError where the cluster serves: on its own port, and it would end with us."""
    there = serve.status()
    if there.applications or there.proxies:
        names = ", ".join(there.applications) or "without an application"
        raise ConfigError(
            f"Ray Serve runs on this cluster already ({names}), on a port of its own; add the run "
            "to its config file as cluster/serve.yaml has it, or end it with `serve shutdown`"
        )


def _start_proxy(config: ServeConfig) -> None:
    """Raises BackendError where it cannot listen."""
    https = {"ssl_certfile": config.tls_cert, "ssl_keyfile": config.tls_key}
    options = {"host": config.host, "port": config.port}
    try:
        serve.start(
            proxy_location="HeadOnly",
            http_options=options | (https if config.tls_cert else {}),
            logging_config=_QUIET,
        )
    except RuntimeError as error:  # of a Ray task: its last line has the reason
        reason = str(error).strip().rpartition("\n")[2]
        raise BackendError(
            f"Ray Serve's proxy does not start: {reason}; choose another --host or --port"
        ) from None


def build(args: Mapping[str, Any]) -> serve.Application:
    """The application of a Serve YAML, `import_path: astroray.serving:build`.

    args  settings of ServeConfig, nested; run_dir at least. Host and port are those of the YAML.
    """
    config: ServeConfig = from_dict(ServeConfig, args, where="args of the Serve YAML")
    return _bind(config)


def check_room(config: ServeConfig, machines: Sequence[Mapping[str, float]]) -> None:
    """Raises ConfigError where the least replicas do not fit: Serve would wait for ever.

    machines  CPU and GPU of each
    """
    kinds = (("CPU", "num_cpus"), ("GPU", "num_gpus"))
    for resource, name in kinds:
        parts = [
            (part.min_replicas, getattr(part, name, 0.0)) for part in (config.web, config.encoder)
        ]
        largest = max((machine.get(resource, 0.0) for machine in machines), default=0.0)
        if (each := max(need for _, need in parts)) > largest:
            raise ConfigError(
                f"a replica needs {each:g} {resource}, no machine of the cluster has more than "
                f"{largest:g}; lower {name} of web or encoder"
            )
        wanted = sum(count * need for count, need in parts)
        there = sum(machine.get(resource, 0.0) for machine in machines)
        if wanted > there:
            raise ConfigError(
                f"the replicas need {wanted:g} {resource}, the cluster has {there:g}; lower "
                f"min_replicas or {name} of web and encoder"
            )


def check_model(config: ServeConfig) -> None:
    """Raises BackendError where a replica could not compute in the numbers of the run.

    A worker of the replicas' kind tries it, where not every machine can.
    """
    model = _current_model(config)
    if model is None or model.is_plain:
        return

    def load() -> None:
        _answerer(config).load(model)

    encoder = config.encoder
    workers.remotely(load, num_cpus=encoder.num_cpus, num_gpus=encoder.num_gpus)()


def _current_model(config: ServeConfig) -> RunModel | None:
    """The model of the run; None while that is scanned again."""
    try:
        record = finished_run(config.run_dir)
    except ConfigError:
        return None
    return model_of_run(version_of(config.run_dir), record)


def _answerer(config: ServeConfig) -> Answerer:
    return Answerer(
        device="cuda" if config.encoder.num_gpus else "cpu",
        num_threads=config.encoder.num_threads,
        attention=config.attention,
    )


def _bind(config: ServeConfig) -> serve.Application:
    encoder, web = config.encoder, config.web
    encoders = serve.deployment(
        **_HEALTH,
        autoscaling_config=_scale(encoder),
        max_ongoing_requests=2 * encoder.max_batch,
        max_queued_requests=encoder.max_queued,
        ray_actor_options={"num_cpus": encoder.num_cpus, "num_gpus": encoder.num_gpus},
    )(ModelHolder)
    apps = serve.deployment(
        **_HEALTH,
        autoscaling_config=_scale(web),
        max_ongoing_requests=2 * config.limits.in_flight,  # the guard says no before Serve does
        max_queued_requests=2 * config.limits.in_flight,
        ray_actor_options={"num_cpus": web.num_cpus},
        backpressure_config=BackpressureConfig(retry_after_s=1.0),
    )(serve.ingress()(WebApp))
    return apps.bind(config, encoders.bind(config))


def _scale(replicas: Replicas) -> AutoscalingConfig:
    return AutoscalingConfig(
        min_replicas=replicas.min_replicas,
        max_replicas=replicas.max_replicas,
        target_ongoing_requests=replicas.target_ongoing_requests,
    )


class ModelHolder:
    """Encodes uploads in batches, in a thread of its own, so that the next batch can gather.

    Where a forecaster of flares is served it holds that too. Forecasts have a thread of theirs: one
    takes seconds, and those that wait for it would keep uploads from their thread.
    """

    def __init__(self, config: ServeConfig) -> None:
        settings = config.encoder
        self.answerer = _answerer(config)
        self.encoding, self.forecasting = (
            ThreadPoolExecutor(1, name, torch.set_num_threads, (settings.num_threads,))
            for name in ("encode", "forecast")
        )
        if (model := _current_model(config)) is not None:
            self.encoding.submit(self.answerer.load, model).result()
        self.forecaster = load_forecaster(config.flares) if config.flares else None
        batched: Any = self.embed
        batched.set_max_batch_size(settings.max_batch)
        batched.set_batch_wait_timeout_s(settings.batch_wait_ms / 1e3)
        self.fault = ""

    @serve.batch
    async def embed(self, requests: list[tuple[RunModel, np.ndarray]]) -> list[np.ndarray]:
        """Embeddings of (model of the run, prepared row [C, Y, X])."""
        try:
            return await _on(self.encoding, self.answerer.embed_each, requests)
        except (RuntimeError, BackendError) as error:  # CUDA's errors do not go away
            self.fault = str(error)
            raise

    async def forecast(self, items: Sequence[LightCurve | Reject]) -> FlareForecast:
        """Forecasts of flares in all windows of light curves."""
        return await _on(self.forecasting, forecast, items, self.forecaster)

    async def load(self, model: RunModel) -> bool:
        """Loads a model, so that the first upload does not wait for it."""
        await _on(self.encoding, self.answerer.load, model)
        return True

    def check_health(self) -> None:
        """Has this replica replaced where its device fails."""
        if self.fault:
            raise BackendError(self.fault)


async def _on(thread: Executor, work: Callable[..., Result], *arguments: Any) -> Result:
    """What a function gives that runs elsewhere."""
    return await asyncio.get_running_loop().run_in_executor(thread, work, *arguments)


def forecast(
    items: Sequence[LightCurve | Reject], trained: TrainedForecaster | None
) -> FlareForecast:
    """What a forecaster makes of the light curves of an upload."""
    if trained is None:
        raise ConfigError("no forecaster is served, expected `flares` to name its model file")
    found = forecast_curves(items, trained, "upload")
    return FlareForecast(
        model_id=trained.model_id,
        alarm=trained.alarm,
        strangers=tell_strangers(trained.facts, found.missions),
        table=found.table,
        rejects=found.rejects,
        dropped=found.dropped,
    )


class _Models:
    """The models that the web app knows: replicas somewhere, any of which may die."""

    def __init__(self, handle: DeploymentHandle, archive: Archive) -> None:
        self.handle = handle
        self.model = archive.model
        self._num_forecasts = 0

    async def embed(self, image_CYX: np.ndarray) -> np.ndarray:
        """Embedding [D]."""
        embedding_D: np.ndarray = await self._ask(self.handle.embed, (self.model, image_CYX))
        return embedding_D

    async def forecast(self, items: Sequence[LightCurve | Reject]) -> FlareForecast:
        """Forecasts of flares in all windows of light curves."""
        if self._num_forecasts >= MAX_FORECASTS:
            raise BusyError("busy: too many forecasts at once")
        self._num_forecasts += 1
        try:
            found: FlareForecast = await self._ask(self.handle.forecast, items)
        finally:
            self._num_forecasts -= 1
        return found

    async def _ask(self, method: Any, argument: Any) -> Any:
        """Asked again where a replica died: an answer depends on nothing else."""
        for _ in range(_TRIES):
            try:
                return await method.remote(argument)
            except BackPressureError:
                raise BusyError("busy: too many uploads wait for a model") from None
            except (RayActorError, DeploymentUnavailableError) as error:
                _log.warning("a model replica was lost, asking another one: %s", error)
        raise BusyError("the model replicas were lost one after the other")

    async def is_ready(self) -> bool:
        """Whether a replica has the model."""
        try:
            async with asyncio.timeout(_READY_S):
                return bool(await self.handle.load.remote(self.model))
        except (TimeoutError, RayActorError, BackPressureError, DeploymentUnavailableError):
            return False


class WebApp:
    """Parses, searches and answers. Changes to another run by itself, between two requests."""

    def __init__(self, config: ServeConfig, encoders: DeploymentHandle) -> None:
        torch.set_num_threads(config.web.num_threads)
        self.config, self.encoders = config, encoders
        self.tokens = Tokens(config.tokens)
        self.audit = AuditLog(audit_path(config))
        finished_run(config.run_dir)
        self.archive = Archive(config.run_dir)
        self.current = self._app_of(self.archive)
        self.watcher: asyncio.Task[None] | None = None

    def __serve_build_asgi_app__(self) -> Callable[..., Any]:
        """The app of the run that is served when a request comes in."""

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if self.watcher is None or self.watcher.done():
                self._begin_watching()
            await self.current(scope, receive, send)

        return app

    def _begin_watching(self) -> None:
        """Also anew, where what nobody foresaw, such as no room for a second run, has ended it."""
        if self.watcher is not None and not self.watcher.cancelled():
            _log.error("the run to be served was looked for in vain: %r", self.watcher.exception())
        self.watcher = asyncio.create_task(self._watch())

    def _app_of(self, archive: Archive) -> Callable[..., Any]:
        models = _Models(self.encoders, archive)
        forecaster = models if self.config.flares else None
        routers = [
            build_label_router(archive, LabelLog(archive.run_dir)),
            build_flare_router(forecaster, archive.run_id, self.config.limits.curves),
        ]
        return build_app(
            archive,
            models,
            tokens=self.tokens,
            limits=self.config.limits,
            audit=self.audit,
            routers=routers,
            login_path=LOGIN_PATH,
        )

    async def _watch(self) -> None:
        """Looks for another finished run for as long as the replica lives."""
        while True:
            await asyncio.sleep(self.config.watch_s * random.uniform(0.8, 1.2))
            try:
                record = await asyncio.to_thread(finished_run, self.config.run_dir)
                if record.run_id == self.archive.run_id:
                    continue
                archive = await asyncio.to_thread(Archive, self.config.run_dir)
                app = self._app_of(archive)
                await _Models(self.encoders, archive).is_ready()
            except AstrorayError as error:  # a scan on its way; the run before goes on
                _log.info("the run in %s is not served yet: %s", self.config.run_dir, error)
                continue
            self.archive, self.current = archive, app


def audit_path(config: ServeConfig) -> str:
    """Where the audit log is written."""
    path = config.audit or os.path.join(runs.log_folder(config.run_dir), "audit.jsonl")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    if Path(config.run_dir) not in Path(path).parents:
        _log.warning("requests are noted in %s of this machine", path)
    return os.path.abspath(path)
