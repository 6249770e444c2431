"""Which weights of a pre-trained forecaster are tuned, kept apart in a file, and merged.

LoRA of rank 8 on all projections of attention and perceptron (Hu et al., arXiv 2106.09685), by
peft, beside them or added to their weights, as is cheaper; or a bottleneck beside each perceptron
(Houlsby et al., arXiv 1902.00751). Norms, the tokens of the record and the heads are tuned in both:
they are not pre-trained.
"""

from collections.abc import Mapping
from typing import Any, Literal

import safetensors.torch
import torch
from torch import Tensor, nn

from astroray import storage
from astroray.errors import BackendError, SchemaError
from astroray.forecast.language_model import Network
from astroray.forecast.model import Forecaster

__all__ = ["Method", "adapter_state", "attach", "load_adapter", "merge"]

Method = Literal["lora", "adapter", "full"]
RANK, ALPHA = 8, 16
DROPOUT = 0.1
"""Of what LoRA beside a projection reads."""
BOTTLENECK = 64


def attach(model: Network, method: Method) -> Network:
    """The model, ready to be tuned by a method: what is not tuned asks for no gradient.

    Right after it the model computes what it did before. Raises BackendError without peft,
    ConfigError for a language model without projections that are known.
    """
    if method == "full":
        return model
    model.requires_grad_(False)
    if method == "lora":
        _inject_lora(model)
    elif isinstance(model, Forecaster):
        for block in model.blocks:
            block.adapter = _Bottleneck(model.config.width)
    for name, parameter in model.named_parameters():
        if model.is_always_tuned(name):
            parameter.requires_grad_(True)
    return model


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the tuned weights alone, and of the scales of the record's numbers."""
    tuned = {name: value for name, value in model.named_parameters() if value.requires_grad}
    scales = {name: value for name, value in model.named_buffers() if name.startswith("record_")}
    return {
        name: value.detach().to("cpu", copy=True).contiguous()
        for name, value in {**tuned, **scales}.items()
    }


def load_adapter(model: Network, state: Mapping[str, Tensor]) -> None:
    """Puts tuned weights into a model that `attach` made ready.

    Raises SchemaError where the weights are of another model or method.
    """
    expected = adapter_state(model)
    wrong = sorted(
        name
        for name in expected.keys() | state.keys()
        if name not in expected or name not in state or expected[name].shape != state[name].shape
    )
    if wrong:
        raise SchemaError(
            f"the adapter does not fit the model: {wrong[0]} and {len(wrong) - 1} more differ; "
            "give the base model and the method that it was trained with"
        )
    model.load_state_dict(dict(state), strict=False)


@torch.no_grad()
def merge(model: Network) -> Network:
    """The same forecaster for serving: LoRA is added into the weights, so that nothing remains.

    A bottleneck is no linear map and stays where it is.
    """
    for name, layer in list(model.named_modules()):
        if hasattr(layer, "get_base_layer"):
            layer.merge(safe_merge=True)
            above, _, last = name.rpartition(".")
            setattr(model.get_submodule(above), last, layer.get_base_layer())
    return model


def save_adapter(path: str, model: nn.Module, method: str) -> None:
    """Publishes the tuned weights alone, whole or absent."""
    data = safetensors.torch.save(adapter_state(model), metadata={"method": method})
    storage.publish(path, data)


def save_base(path: str, weights: Mapping[str, Tensor]) -> None:
    """Publishes a backbone as pre-training left it, without labels."""
    storage.publish(path, safetensors.torch.save(dict(weights)))


def _inject_lora(model: Network) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model

        from astroray.forecast.lora_in_weights import put_in_weights
    except ImportError:
        raise BackendError(
            "peft is not installed, expected for LoRA; pip install 'astroray[flares]', or tune "
            "with --method adapter"
        ) from None
    config: Any = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        lora_dropout=0.0 if model.has_lora_in_weights else DROPOUT,
        target_modules=list(model.projections),
        fan_in_fan_out=model.is_transposed,
    )
    if model.has_lora_in_weights:
        put_in_weights(config)
    inject_adapter_in_model(config, model)


class _Bottleneck(nn.Module):
    """Down, tanh, up; zero at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, BOTTLENECK), nn.Linear(BOTTLENECK, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, tokens_BKD: Tensor) -> Tensor:
        return self.up(torch.tanh(self.down(tokens_BKD)))
