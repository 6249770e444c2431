"""What a trained forecaster is on disk: weights, calibration and threshold in one file.

LoRA is merged into the weights. Of a language model the tuned weights alone are in the file, and
the fingerprint and the folder of the others.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import safetensors.torch
from torch import Tensor

from astroray import storage
from astroray.errors import ConfigError, FileError
from astroray.forecast.backbone import find_backbone
from astroray.forecast.calibration import Calibration
from astroray.forecast.language_model import LanguageConfig, LanguageForecaster, Network
from astroray.forecast.lora import Method, adapter_state, attach, load_adapter, merge
from astroray.forecast.model import Forecaster, ForecasterConfig

__all__ = ["FORMAT", "TrainedForecaster", "load_forecaster", "save_forecaster"]

KIND = "astroray flare forecaster"
FORMAT = f"{KIND} 2"
"""2: windows know of a star what was known at their end, and patches are read out by place."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedForecaster:
    """A forecaster ready to serve."""

    model: Network
    model_id: str
    calibration: Calibration
    alarm: float
    """Probability from which a flare is forecast: that of the largest TSS on validation."""
    facts: Mapping[str, Any]
    """How it was trained, and its skill on stars that it never saw."""


def save_forecaster(
    path: str,
    model: Network,
    *,
    method: Method,
    calibration: Calibration,
    alarm: float,
    facts: Mapping[str, Any],
) -> str:
    """Publishes a tuned model; returns its id, the hash of all that decides a forecast."""
    folder = ""
    if isinstance(model, LanguageForecaster):
        folder, network = model.config.folder, {"language_model": model.config.fingerprint}
        weights = adapter_state(model)
    else:
        network = dataclasses.asdict(model.config)
        weights = {name: value.contiguous() for name, value in merge(model).state_dict().items()}
    described = {
        "network": network,
        "method": method,
        "calibration": dataclasses.asdict(calibration),
        "alarm": alarm,
    }
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    digest.update(safetensors.torch.save(weights))
    model_id = digest.hexdigest()[:16]
    metadata = {
        "kind": FORMAT,
        "model_id": model_id,
        "described": json.dumps(described),
        "facts": json.dumps(dict(facts)),
        "backbone": folder,
    }
    storage.publish(path, safetensors.torch.save(weights, metadata=metadata))
    return model_id


def load_forecaster(path: str) -> TrainedForecaster:
    """Reads a model file, and the folder of its language model where it has one.

    Raises ConfigError where there is none or it is another, or where the folder is not there or has
    changed.
    """
    try:
        data = storage.read_bytes(path)
    except FileError as error:
        raise ConfigError(f"{error}; expected a file of `astroray train flares`") from None
    try:
        size = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + size]).get("__metadata__", {})
    except (ValueError, AttributeError):
        metadata = {}
    kind = metadata.get("kind", "")
    if kind.startswith(KIND) and kind != FORMAT:
        raise ConfigError(
            f"{path} is format {kind.removeprefix(KIND).strip()} of a flare forecaster, expected "
            f"{FORMAT.removeprefix(KIND).strip()}: its windows mean something else; train it again"
        )
    if kind != FORMAT:
        raise ConfigError(
            f"{path} is no flare forecaster, expected a file that `astroray train flares` wrote"
        )
    described = json.loads(metadata["described"])
    weights = safetensors.torch.load(data)
    network = described["network"]
    return TrainedForecaster(
        model=(
            _on_backbone(path, metadata["backbone"], network["language_model"], weights)
            if "language_model" in network
            else _of_weights(ForecasterConfig(**network), described["method"], weights)
        ).eval(),
        model_id=metadata["model_id"],
        calibration=Calibration(**described["calibration"]),
        alarm=described["alarm"],
        facts=json.loads(metadata["facts"]),
    )


def _of_weights(
    config: ForecasterConfig, method: Method, weights: Mapping[str, Tensor]
) -> Forecaster:
    model = Forecaster(config)
    if method == "adapter":
        attach(model, "adapter")
    model.load_state_dict(dict(weights))
    return model


def _on_backbone(
    path: str, folder: str, fingerprint: str, weights: Mapping[str, Tensor]
) -> Network:
    found = find_backbone(folder, fingerprint, path)
    model = attach(
        LanguageForecaster(LanguageConfig(folder=found, fingerprint=fingerprint)), "lora"
    )
    load_adapter(model, weights)
    return merge(model)
