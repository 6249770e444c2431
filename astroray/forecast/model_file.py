"""What a trained forecaster is on disk: merged weights, calibration and threshold in one file."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import safetensors.torch

from astroray import storage
from astroray.errors import ConfigError
from astroray.forecast.calibration import Calibration
from astroray.forecast.lora import Method, attach, merge
from astroray.forecast.model import Forecaster, ForecasterConfig

__all__ = ["TrainedForecaster", "load_forecaster", "save_forecaster"]

KIND = "astroray flare forecaster 1"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedForecaster:
    """A forecaster ready to serve."""

    model: Forecaster
    model_id: str
    calibration: Calibration
    alarm: float
    """Probability from which a flare is forecast: that of the largest TSS on validation."""
    facts: Mapping[str, Any]
    """How it was trained, and its skill on stars that it never saw."""


def save_forecaster(
    path: str,
    model: Forecaster,
    *,
    method: Method,
    calibration: Calibration,
    alarm: float,
    facts: Mapping[str, Any],
) -> str:
    """Publishes a tuned model, merged; returns its id, the hash of all that decides a forecast."""
    described = {
        "network": dataclasses.asdict(model.config),
        "method": method,
        "calibration": dataclasses.asdict(calibration),
        "alarm": alarm,
    }
    weights = {name: value.contiguous() for name, value in merge(model).state_dict().items()}
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    digest.update(safetensors.torch.save(weights))
    model_id = digest.hexdigest()[:16]
    metadata = {
        "kind": KIND,
        "model_id": model_id,
        "described": json.dumps(described),
        "facts": json.dumps(dict(facts)),
    }
    storage.publish(path, safetensors.torch.save(weights, metadata=metadata))
    return model_id


def load_forecaster(path: str) -> TrainedForecaster:
    """Reads a model file; raises FileError where there is none, ConfigError where it is another."""
    data = storage.read_bytes(path)
    try:
        size = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + size]).get("__metadata__", {})
    except (ValueError, AttributeError):
        metadata = {}
    if metadata.get("kind") != KIND:
        raise ConfigError(
            f"{path} is no flare forecaster, expected a file that `astroray train flares` wrote"
        )
    described = json.loads(metadata["described"])
    model = Forecaster(ForecasterConfig(**described["network"]))
    if described["method"] == "adapter":
        attach(model, "adapter")
    model.load_state_dict(safetensors.torch.load(data))
    return TrainedForecaster(
        model=model.eval(),
        model_id=metadata["model_id"],
        calibration=Calibration(**described["calibration"]),
        alarm=described["alarm"],
        facts=json.loads(metadata["facts"]),
    )
