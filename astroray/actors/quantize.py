"""What quantizing a model reads and leaves: a sample, its layers' ranges, the quantized file."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from astroray.actors.decide import SCHEMES_TRIED, Decision, decide
from astroray.actors.sample import draw_prepared
from astroray.encoders import read_model_file
from astroray.encoders.quantized import Quantized
from astroray.encoders.store import Model, load_model, save_model
from astroray.errors import ConfigError
from astroray.quantization.activations import Ranges, observe_ranges, require_linear_layers
from astroray.quantization.modules import measure_errors, pack_layers
from astroray.surveys.shards import Shard
from astroray_kernels import PackedWeights

__all__ = ["Layer", "Quantization", "QuantizePlan", "quantize_model", "quantize_prepared"]

OBSERVED_ROWS = 512
"""Rows whose activations are looked at; the paper takes three texts of 512 tokens."""
ERROR_ROWS = 32
BATCH = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizePlan:
    """Which model is quantized how, and where the file goes."""

    model_path: str
    out: str
    scheme: str
    """Of `quantization.modules.SCHEMES`, or auto: the fastest way that keeps the list, measured.

    A way is numbers and attention, decided together."""
    max_rows: int
    seed: int = 0
    num_threads: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """One linear layer as it was found and as it became in one scheme."""

    name: str
    num_in: int
    num_out: int
    density: float | None
    """Clustering density; None where no group has outliers."""
    format: str
    num_outliers: int
    error_db: float | None
    """Signal over error of its output; None where there is no error."""
    bytes_before: int
    """Of the weights in bfloat16."""
    bytes_after: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantization:
    """What was found and written."""

    model_id: str
    reference_id: str
    choice: str
    num_rows: int
    schemes: Mapping[str, Sequence[Layer]]
    ranges: Mapping[str, Ranges]
    decision: Decision | None
    """How auto decided; None where the scheme was named."""


def quantize_model(
    shards: Sequence[Shard], plan: QuantizePlan, *, show: Callable[[str], None] = lambda _: None
) -> Quantization:
    """Observes a model's layers on a sample of the shards, and writes it with its layers rounded.

    Raises ConfigError where the model is quantized already or has no linear layer, where no cutout
    can be used, and where layers cannot have the scheme.
    """
    model = _load_plain(plan.model_path)
    show("drawing the sample")
    sample = draw_prepared(shards, model.preparation, max_rows=plan.max_rows, seed=plan.seed)
    return _quantize(model, sample, plan, show)


def quantize_prepared(sample_NCYX: np.ndarray, plan: QuantizePlan) -> Quantization:
    """Observes a model's layers on objects that are prepared for it, and writes it quantized.

    sample_NCYX  float16 [N, C, Y, X]

    Raises ConfigError as `quantize_model` does.
    """
    return _quantize(_load_plain(plan.model_path), sample_NCYX, plan, lambda text: None)


def _quantize(
    model: Model, sample_NCYX: np.ndarray, plan: QuantizePlan, show: Callable[[str], None]
) -> Quantization:
    torch.set_num_threads(plan.num_threads)
    image_NCYX = torch.from_numpy(sample_NCYX)
    if not len(image_NCYX):
        raise ConfigError(
            "the sample is empty: no cutout of the survey can be used, expected some to observe "
            "the activations on; `astroray scan` with this model lists the reasons"
        )
    show("observing activations")
    ranges = observe_ranges(model.network, _runner(image_NCYX[:: _step(image_NCYX, OBSERVED_ROWS)]))
    names = SCHEMES_TRIED if plan.scheme == "auto" else (plan.scheme,)
    packed = {name: pack_layers(model.network, ranges, name) for name in names}
    show("measuring the error of each layer")
    few = _runner(image_NCYX[:: _step(image_NCYX, ERROR_ROWS)])
    schemes = {
        name: _layers(layers, ranges, measure_errors(model.network, layers, few))
        for name, layers in packed.items()
    }
    quantized = Quantized(choice=plan.scheme, reference_id=model.model_id, schemes=packed)
    decision = None
    if plan.scheme == "auto":
        decision = decide(model, quantized, image_NCYX, show=show)
        quantized = dataclasses.replace(
            quantized, choice=decision.choice, attention=decision.attention
        )
    return Quantization(
        model_id=_save(plan.out, model, quantized, len(image_NCYX), schemes, decision),
        reference_id=model.model_id,
        choice=quantized.choice,
        num_rows=len(image_NCYX),
        schemes=schemes,
        ranges=ranges,
        decision=decision,
    )


def _load_plain(path: str) -> Model:
    file = read_model_file(path)
    if file.quantized:
        raise ConfigError(
            f"{path} is quantized already ({', '.join(file.quantized['schemes'])}), "
            f"expected the model with id {file.quantized['reference_id']} that it was made from"
        )
    model = load_model(path)
    require_linear_layers(model.network)
    return model


def _save(
    path: str,
    model: Model,
    quantized: Quantized,
    num_rows: int,
    schemes: Mapping[str, Sequence[Layer]],
    decision: Decision | None,
) -> str:
    record: dict[str, Any] = {
        "num_rows": num_rows,
        "layers": {name: [dataclasses.asdict(one) for one in all] for name, all in schemes.items()},
        "decision": dataclasses.asdict(decision) if decision else None,
    }
    fit = {**model.fit, "quantized": record}
    return save_model(path, dataclasses.replace(model, fit=fit, quantized=quantized))


def _layers(
    packed: Mapping[str, PackedWeights], ranges: Mapping[str, Ranges], errors: Mapping[str, float]
) -> list[Layer]:
    return [
        Layer(
            name=name,
            num_in=weights.num_in,
            num_out=weights.num_out,
            density=_finite(ranges[name].density),
            format=weights.format,
            num_outliers=len(weights.outlier_O),
            error_db=_finite(errors[name]),
            bytes_before=2 * weights.num_in * weights.num_out,
            bytes_after=weights.num_bytes,
        )
        for name, weights in packed.items()
    ]


def _runner(image_NCYX: Tensor) -> Callable[[nn.Module], None]:
    def run(network: nn.Module) -> None:
        for batch_BCYX in torch.split(image_NCYX, BATCH):
            network(batch_BCYX.float().to(memory_format=torch.channels_last))

    return run


def _step(image_NCYX: Tensor, num_rows: int) -> int:
    """The distance of evenly spaced rows, at most `num_rows` of them."""
    return max(1, -(-len(image_NCYX) // num_rows))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
