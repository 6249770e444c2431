"""The job `astroray train flares`: windows of a survey, a fit by Ray Train, the model file.

MODEL                            the merged forecaster
MODEL.fit/adapter.safetensors    the tuned weights alone
MODEL.fit/base.safetensors       the pre-trained backbone, without labels; none of a language model
MODEL.fit/                       settings, windows and state: the same command goes on from them
"""

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import numpy as np
import torch

from astroray import storage, surveys
from astroray.errors import ConfigError, DataError, FileError
from astroray.execution import workers
from astroray.fitting.beginning import is_fitted, note_settings
from astroray.flares.windows import Windows, join_windows
from astroray.forecast.backbone import check_backbone, check_tuning
from astroray.forecast.calibration import Calibration
from astroray.forecast.fit import (
    Crew,
    FitPlan,
    ForecasterState,
    fit_forecaster,
    forecast_logits,
    restore,
)
from astroray.forecast.kept_windows import (
    forget_groups,
    keep_group,
    read_group,
    read_windows,
    write_windows,
)
from astroray.forecast.language_model import LanguageConfig
from astroray.forecast.lora import Method, save_adapter, save_base
from astroray.forecast.model import ForecasterConfig
from astroray.forecast.model_file import FORMAT, load_forecaster, save_forecaster
from astroray.forecast.skill import Threshold, measure_skill
from astroray.forecast.star_tasks import map_stars
from astroray.storage.leases import hold_lease
from astroray.surveys.shards import Reject, Shard, SurveyUri

__all__ = ["TrainConfig", "flare_shards", "train_flares"]

READER = "light_curves"
NUM_PARTS = 5
"""Stars are dealt into so many parts: one for validation, one for the test, others to train."""
WINDOWS, PROGRESS = "windows.npz", "progress.txt"
MIN_FLARES = 10
PRETRAIN_PASSES = 10

Show = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What is trained and how; raises ConfigError on values that cannot work."""

    survey: str
    out: str
    """Model file; `out`.fit is its folder."""
    method: str = "lora"
    """lora, adapter, or full."""
    backbone: str = ""
    """Folder of a Hugging Face causal language model to be tuned instead of astroray's own
    network; every machine of the cluster sees it."""
    num_passes: int = 20
    pretrain_passes: int | None = None
    """None: 10, and 0 with a backbone, which comes pre-trained."""
    tuning_rate: float | None = None
    """Learning rate of tuning; None: the method's own."""
    train_workers: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.out:
            raise ConfigError("out is empty, expected a model file; give --out MODEL")
        if self.method not in ("lora", "adapter", "full"):
            raise ConfigError(f"method is {self.method!r}, expected lora, adapter or full")
        for name, least in (("num_passes", 1), ("pretrain_passes", 0), ("train_workers", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} is {value}, expected at least {least}")
        if self.tuning_rate is not None and not self.tuning_rate > 0:
            raise ConfigError(f"tuning_rate is {self.tuning_rate}, expected more than 0")
        if self.backbone:
            check_tuning(self.method, self.pretrain_passes or 0)

    @property
    def folder(self) -> str:
        """Where the fit stands, absolute, since Ray's workers have another working directory."""
        return f"{storage.absolute(self.out)}.fit"

    def expect_stars(self, num_stars: int) -> None:
        """Raises DataError on fewer stars than parts; of none, their rejects say why later."""
        if 0 < num_stars < NUM_PARTS:
            raise DataError(
                f"{self.survey} has light curves of {num_stars} stars that can be read, expected "
                f"at least {NUM_PARTS}: one to choose the best pass, one to test it, the others to "
                "learn from; give more stars, or see with `astroray look` which are rejected"
            )


def train_flares(config: TrainConfig, *, show: Show = lambda text: None) -> dict[str, Any]:
    """Trains a forecaster on a survey of light curves and writes it; returns its facts.

    The same call goes on where a killed one was and ends in the same bytes. Raises ConfigError
    where settings differ from the folder's, DataError where there are too few stars or flares.
    """
    config = dataclasses.replace(
        config, survey=SurveyUri.absolute(config.survey), out=storage.absolute(config.out)
    )
    fingerprint = check_backbone(config.backbone) if config.backbone else ""
    if config.backbone:
        config = dataclasses.replace(config, backbone=os.path.abspath(config.backbone))
    with hold_lease(config.folder):
        settings = dataclasses.asdict(config) | {
            "out": None,
            "backbone_fingerprint": fingerprint,
            "format": FORMAT,
        }
        if is_fitted(config.folder, config.out, settings):
            known = load_forecaster(config.out)
            return {**known.facts, "model_id": known.model_id}
        shards = flare_shards(config.survey)
        note_settings(config.folder, settings)
        storage.remove_temporaries(config.folder)
        log_dir = "" if storage.is_remote(config.folder) else storage.join(config.folder, "logs")
        with workers.cluster(log_dir=log_dir):
            path = storage.join(config.folder, WINDOWS)
            if not storage.exists(path):
                found = map_stars(
                    shards, keep_group, config.folder, expect=config.expect_stars, show=show
                )
                try:
                    _keep_windows(map(read_group, found), path, config)
                except DataError:  # a fit of another survey may take the folder
                    forget_groups(config.folder)
                    raise
            forget_groups(config.folder)
            show("starting Ray Train")
            _fit_by_ray(config, show)
            return workers.remotely(_finish, num_cpus=1)(config)


def flare_shards(survey: str) -> list[Shard]:
    """The shards of a survey of light curves; raises ConfigError where it is another."""
    uri = SurveyUri.parse(survey)
    if uri.location not in surveys.SCHEMES:
        uri = dataclasses.replace(uri, options={"format": READER, **uri.options})
    shards = list(surveys.list_shards(str(uri)).shards)
    if not shards or any(shard.reader != READER for shard in shards):
        raise ConfigError(f"{survey} holds no light curves, expected some; leave out format=")
    return shards


def deal_stars(windows: Windows, seed: int) -> np.ndarray:
    """[W] part of each window's star: 0 validation, 1 test, the rest training.

    Stars in order of their windows with a flare are dealt five by five, so that few stars still put
    flares into each part. Which of the five goes where is drawn: no part has the ones that flare
    most, and the rate that probabilities are calibrated to is that of all.
    """
    num_stars = len(windows.star_ids)
    flares_S = np.bincount(windows.star_W[windows.label_W], minlength=num_stars)
    parts_RP = np.tile(np.arange(NUM_PARTS), (-(-num_stars // NUM_PARTS), 1))
    drawn_RP = np.random.default_rng(seed).permuted(parts_RP, axis=1)
    part_S = np.empty(num_stars, np.int64)
    part_S[np.argsort(-flares_S, kind="stable")] = drawn_RP.ravel()[:num_stars]
    return part_S[windows.star_W]


def _keep_windows(
    found: Iterable[tuple[Windows | None, Sequence[Reject]]],
    path: str,
    config: TrainConfig,
) -> None:
    """Publishes the windows of all stars, as they were found group by group."""
    parts, rejected, first = [], Counter[str](), ""
    for windows, rejects in found:
        rejected.update(f"light curves rejected: {reject.kind}" for reject in rejects)
        first = first or "".join(reject.reason for reject in rejects[:1])
        if windows is not None:
            parts.append(windows)
    if not parts:
        raise DataError(
            f"no star of {config.survey} gives a window: {rejected.total()} light curves were "
            f"rejected, first: {first}"
        )
    windows = join_windows(parts)
    part_W = deal_stars(windows, config.seed)
    for name, is_W in (
        ("training", part_W > 1),
        ("validation", part_W == 0),
        ("test", part_W == 1),
    ):
        num_flares = int(windows.label_W[is_W].sum())
        if num_flares < MIN_FLARES:
            raise DataError(
                f"the {name} part of {config.survey} has {num_flares} windows with a flare of "
                f"{int(is_W.sum())}, of {len(windows.star_ids)} stars in all, "
                f"expected at least {MIN_FLARES}; give more stars or longer light curves"
            )
    dropped = {**windows.dropped, **rejected}
    write_windows(path, dataclasses.replace(windows, dropped=dropped))


def _fit_by_ray(config: TrainConfig, show: Show) -> None:
    from astroray.fitting.training import check_placement, train_in_workers

    seen = [""]

    def look() -> None:
        try:
            text = storage.read_bytes(storage.join(config.folder, PROGRESS)).decode()
        except FileError:
            return
        if text != seen[0]:
            show(text)
            seen[0] = text

    check_placement(config.train_workers)
    train_in_workers(
        work_in_worker,
        config,
        num_workers=config.train_workers,
        use_gpu=False,
        folder=config.folder,
        what="training a forecaster",
        look=look,
    )


def work_in_worker(told: dict[str, TrainConfig]) -> None:
    """One training worker's share of the fit, from the newest state on."""
    from astroray.fitting.training import find_place

    config = told["plan"]
    rank, num_workers, threads = find_place()
    torch.set_num_threads(threads)
    windows = read_windows(storage.join(config.folder, WINDOWS))
    part_W = deal_stars(windows, config.seed)

    def show(text: str) -> None:
        if rank == 0:
            storage.publish(storage.join(config.folder, PROGRESS), text.encode())

    fit_forecaster(
        windows.take(np.flatnonzero(part_W > 1)),
        windows.take(np.flatnonzero(part_W == 0)),
        fit_plan(config),
        state=ForecasterState.load(config.folder),
        crew=Crew(rank=rank, num_workers=num_workers),
        keep=lambda state: state.save(config.folder),
        show=show,
    )


def fit_plan(config: TrainConfig) -> FitPlan:
    """The plan of a fit that was asked for."""
    passes = config.pretrain_passes
    return FitPlan(
        network=LanguageConfig.of(config.backbone) if config.backbone else ForecasterConfig(),
        method=cast(Method, config.method),
        num_passes=config.num_passes,
        pretrain_passes=(0 if config.backbone else PRETRAIN_PASSES) if passes is None else passes,
        tuning_rate=config.tuning_rate,
        seed=config.seed,
    )


def _finish(config: TrainConfig) -> dict[str, Any]:
    """Calibrates on validation, judges on the test stars, writes the files; returns the facts."""
    windows = read_windows(storage.join(config.folder, WINDOWS))
    part_W = deal_stars(windows, config.seed)
    validation, test = (windows.take(np.flatnonzero(part_W == part)) for part in (0, 1))
    state = ForecasterState.load(config.folder)
    model = restore(state, fit_plan(config))
    score_V = forecast_logits(model, validation)
    curve = Calibration.fit(score_V, validation.label_W)
    threshold = Threshold.choose(curve.probability(score_V), validation.label_W)
    probability_W = curve.probability(forecast_logits(model, test))
    skill = measure_skill(probability_W, test.label_W, test.star_W, threshold)
    facts = {
        "survey": config.survey,
        "method": config.method,
        "backbone": config.backbone,
        "stars": len(windows.star_ids),
        "missions": dict(windows.missions),
        "windows": len(windows),
        "dropped": dict(windows.dropped),
        "validation_stars": len(set(validation.star_W.tolist())),
        "test_stars": len(set(test.star_W.tolist())),
        "test_windows": len(test),
        "base_rate": float(test.label_W.mean()),
        "skill": {name: value for name, value in skill.numbers().items() if np.isfinite(value)},
        "reliability": [list(point) for point in skill.reliability],
        "pretraining_loss": state.losses,
        "validation_auprc": state.auprcs,
        "best_pass": int(np.argmax(state.auprcs)) + 1,
        "train_workers": config.train_workers,
        "seed": config.seed,
    }
    save_adapter(storage.join(config.folder, "adapter.safetensors"), model, config.method)
    if state.base:
        save_base(storage.join(config.folder, "base.safetensors"), state.base)
    model_id = save_forecaster(
        config.out,
        model,
        method=cast(Method, config.method),
        calibration=curve,
        alarm=float(threshold.of_tss),
        facts=facts,
    )
    return {**facts, "model_id": model_id}
