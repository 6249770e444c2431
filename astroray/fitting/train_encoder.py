"""An encoder fitted on a survey: its sample, the passes over it, the model file."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from astroray import allowance, faults, ledger, runs, storage, surveys
from astroray.actors.sample import Sample, SamplePlan, draw_sample, network_config
from astroray.config import EncoderConfig, ScanConfig, load_config
from astroray.encoders import (
    ENCODERS,
    ModelFile,
    choose_encoder,
    is_onnx_file,
    is_own,
    kind_of,
    read_model_file,
)
from astroray.encoders.onnx_file import OnnxFile, read_onnx
from astroray.errors import ConfigError
from astroray.execution import workers
from astroray.execution.progress import Progress, Show
from astroray.fitting.beginning import is_fitted, note_settings
from astroray.fitting.fit_state import FitProgress
from astroray.preparation import Wishes
from astroray.preparation.modalities import MODALITIES
from astroray.settings import to_dict
from astroray.storage.leases import hold_lease
from astroray.surveys.shards import Cutouts, ModalityName, Shard

__all__ = ["check_program", "fit_model", "load_training", "train_encoder"]

FOLDER_SUFFIX = ".fit"
DEFAULT_BUDGET_S = 3600.0
SETTINGS = ("encoder.", "fit.", "max_fit_rows", "seed")
DEFAULTS: Mapping[str, Any] = {
    "encoder.pretrained": False,
    "fit.validation_share": 0.1,
    "max_fit_rows": 16_384,
}


def load_training(path: str, survey: str, flags: Mapping[str, Any]) -> ScanConfig:
    """The settings of a fit whose model file is to be at `path`, its folder beside it.

    flags  dotted keys of a scan's settings; None values are left out

    Raises ConfigError on a key that is no setting of a fit, or a value that cannot work.
    """
    given = {key: value for key, value in flags.items() if value is not None}
    if strange := [key for key in given if not key.startswith(SETTINGS)]:
        raise ConfigError(
            f"{strange[0]} is no setting of a fit, expected one of {', '.join(SETTINGS)}"
        )
    values = {**DEFAULTS, **given}
    if not {"fit.num_passes", "fit.budget_s"} & given.keys():
        values["fit.budget_s"] = DEFAULT_BUDGET_S
    return load_config(survey, f"{path}{FOLDER_SUFFIX}", None, values)


def train_encoder(config: ScanConfig, path: str, *, show: Show = lambda _: None) -> ModelFile:
    """Fits `config.encoder` on `config.survey` and writes the model file at `path`.

    The fit stands in `config.out`; the same call goes on where a killed one was, and ends in the
    same weights. Raises ConfigError where the encoder is none that is trained, the survey is
    empty, or `path` or `config.out` are of another fit.
    """
    path = storage.absolute(path)  # a worker writes it, from a folder of its own
    _check_encoder(config.encoder.name)
    faults.arm(config.fault_plan)
    with contextlib.ExitStack() as stack:
        stack.enter_context(hold_lease(config.out))
        settings = _settings(config)
        if is_fitted(config.out, path, settings):
            return read_model_file(path)
        show(Progress(stage="list", note=config.survey))
        folder = ledger.objects_folder(config.out)
        shards = surveys.list_shards(config.survey, objects_folder=folder).shards
        runs.check_encoder(config.encoder.name, shards, config.encoder.network)
        note_settings(config.out, settings)
        storage.remove_temporaries(config.out)
        log_dir = stack.enter_context(runs.logs_of(config.out))
        stack.enter_context(workers.cluster(log_dir=log_dir))
        workers.refuse_local(config.out, path)
        fit_model(shards, config, folder=config.out, path=path, show=show)
        return read_model_file(path)


def fit_model(
    shards: Sequence[Shard], config: ScanConfig, *, folder: str, path: str, show: Show
) -> None:
    """Draws a sample of the shards, trains where the encoder needs it, writes the model file.

    folder  keeps the sample and the fit, so that the same call goes on where a killed one was

    Needs the running Ray cluster. Raises ConfigError where the survey has no object to fit on.
    """
    encoder = config.encoder
    if not shards:
        raise ConfigError(
            f"{config.survey} holds no objects, expected some to fit an encoder on; "
            "check the survey, or give a fitted model with --encoder PATH"
        )
    modality = surveys.modality_of(shards[0])
    name = choose_encoder(encoder.name, modality)
    show(Progress(stage="fit", note=f"{name}  drawing the sample"))
    program = _read_program(encoder)
    wishes = _wishes(encoder, program, modality)
    plan = SamplePlan(folder=folder, max_rows=config.max_fit_rows, wishes=wishes, seed=config.seed)
    sample = workers.remotely(draw_sample, num_cpus=1)(shards, plan)
    faults.reach("sampled")
    network = network_config(name, sample, latent=encoder.latent, keywords=encoder.network)
    weights: Mapping[str, Any] | None = None
    facts: dict[str, Any] = {"seed": config.seed}
    if program:
        network |= program.numbers(MODALITIES[modality].shape(network))
        weights = {"program": program.to_tensor()}
        facts["program"] = os.path.basename(program.path)
    if kind_of(name).is_descended(pretrained=encoder.pretrained):
        from astroray.fitting.training import fit_network

        config.fit.num_held_out(sample.num_rows)  # refuses before the workers are started
        report = partial(_show_fit, show, name)
        result = fit_network(sample.path, name, network, config.fit, folder, report=report)
        weights, facts = result.state_dict, facts | result.facts()
    told = {
        "path": path,
        "encoder": name,
        "config": network,
        "weights": weights,
        "fit": facts,
        "seed": config.seed,
        "num_threads": allowance.num_cores(),
    }
    workers.remotely(_finish, num_cpus=1)(sample, told)


def _finish(sample: Sample, told: Mapping[str, Any]) -> str:
    """`finish_model` in a worker; a driver that trains nothing does without torch."""
    from astroray.actors.fit import finish_model

    return finish_model(sample, **told)


def check_program(encoder: EncoderConfig, shards: Sequence[Shard]) -> None:
    """Raises ConfigError where an ONNX file takes no objects like the first one of the survey.

    It opens a file of the survey, which a scan without a model reads anyway; one that is damaged
    says nothing here.
    """
    program = _read_program(encoder)
    if not program or not shards:
        return
    modality = surveys.modality_of(shards[0])
    _wishes(encoder, program, modality)
    items = surveys.read_or_reject(shards[0])
    first = next((item for item in items if isinstance(item, Cutouts)), None)
    if first:
        program.numbers((len(encoder.bands or first.bands), *first.image_BCYX.shape[2:]))


def _wishes(encoder: EncoderConfig, program: OnnxFile | None, modality: ModalityName) -> Wishes:
    """How objects are to be prepared by the settings, and by an ONNX file where there is one."""
    wishes = Wishes(size_px=encoder.size_px, bands=encoder.bands, max_missing=encoder.max_missing)
    return program.wishes(modality, wishes) if program else wishes


def _read_program(encoder: EncoderConfig) -> OnnxFile | None:
    """The ONNX file of an encoder that is one."""
    if not is_onnx_file(encoder.name):
        return None
    return read_onnx(encoder.name, output=encoder.output)


def _check_encoder(name: str) -> None:
    trained = sorted(name for name, kind in ENCODERS.items() if kind.fit == "network")
    others = ", ".join(name for name, kind in ENCODERS.items() if kind.fit != "network")
    if is_own(name):
        if kind_of(name).fit != "network":
            raise ConfigError(
                f"{name} has no method loss, expected one: it is what training lowers"
            )
    elif name not in trained:
        raise ConfigError(
            f"model is {name!r}, expected one of {trained}; what needs no training ({others}) a "
            "scan fits at once"
        )


def _settings(config: ScanConfig) -> dict[str, Any]:
    """What the fit is known by."""
    return {
        "survey": config.survey,
        "encoder": to_dict(config.encoder),
        "fit": to_dict(config.fit) | {"checkpoint_every_s": None},
        "max_fit_rows": config.max_fit_rows,
        "seed": config.seed,
    }


def _show_fit(show: Show, encoder: str, progress: FitProgress) -> None:
    of = f" of {progress.num_passes}" if progress.num_passes else ""
    parts = [encoder, f"pass {progress.pass_number}{of}", f"loss {progress.loss:.4f}"]
    if progress.validation_loss is not None:
        parts.append(f"validation {progress.validation_loss:.4f}")
    parts.append(f"{progress.images_per_s:.0f} images/s")
    note = "  ".join(parts)
    show(Progress(stage="fit", note=note, seconds_left=progress.seconds_left))
