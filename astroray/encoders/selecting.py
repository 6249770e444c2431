"""What the pass over the survey computes with, resolved once when its model is loaded."""

import copy
import dataclasses
import logging
import warnings

import torch
from torch import Tensor, nn

from astroray.encoders import AttentionName, QuantizeName, fixed_numbers
from astroray.encoders.attention import choose_attention
from astroray.encoders.onnx_network import OnnxNetwork
from astroray.encoders.store import Model
from astroray.errors import BackendError, ConfigError
from astroray.quantization.modules import QuantizedLinear, install_layers

__all__ = ["choose_backends", "choose_numbers", "is_fast"]

FAST = ("native", "triton")
"""Backends of attention that a decision may stand on; the others stand in for them."""

_log = logging.getLogger("astroray.encode")


def choose_backends(
    model: Model, *, quantize: QuantizeName, attention: AttentionName, device: torch.device | str
) -> tuple[Model, dict[str, str]]:
    """The model with numbers and attention as asked for, on `device`, and what they became.

    See `choose_numbers` and `choose_attention`. An attention of `auto` is what the model's file
    decided beside the numbers that it chose; beside other numbers, PyTorch's. Where this machine
    lacks that kernel it is PyTorch's too, which is logged.

    Returns names by what was asked: `quantize`, and `attention` where the network has one. Raises
    BackendError where this machine cannot run what was asked for by name.
    """
    held = model.quantized
    model, numbers = choose_numbers(model, quantize, device)
    found = {"quantize": numbers}
    if attention == "auto" and held is not None and numbers.split()[0] == held.choice:
        name = _decided_attention(model.network, held.attention, device)
    else:
        name = choose_attention(model.network, attention, device)
    return model, found | ({"attention": name} if name else {})


def is_fast(attention: str) -> bool:
    """Whether an attention that `choose_attention` named may be decided for: PyTorch's too."""
    words = attention.split()
    return len(words) < 2 or words[1] in FAST


def _decided_attention(
    network: nn.Module, decided: AttentionName, device: torch.device | str
) -> str:
    """The attention of a decision, or PyTorch's where this machine has no fast code for it."""
    try:
        name = choose_attention(network, decided, device)
        if is_fast(name):
            return name
        reason = f"here it would be {name}"
    except BackendError as error:
        reason = str(error)
    _log.warning("the model decided for attention %s: %s; it is sdpa now", decided, reason)
    return choose_attention(network, "sdpa", device)


def choose_numbers(
    model: Model, asked: QuantizeName, device: torch.device | str
) -> tuple[Model, str]:
    """The model whose network computes with what was asked for, on `device`, and what that is.

    none        float32, the reference
    auto        what `astroray quantize` chose or was told; of a model that it did not make: none
    bf16        weights and activations in bfloat16
    torch-int8  PyTorch's own dynamic 8-bit layers, for CPUs; a batch has one scale for all rows
    the rest    a scheme of `quantization.modules.SCHEMES`

    Returns the name with the kernels that run it, such as `w8a8o native`. Raises ConfigError
    where the file lacks the scheme, BackendError where this machine cannot run it.
    """
    name: str = asked
    if asked == "auto":
        name = model.quantized.choice if model.quantized else "none"
    if name == "none":
        return model.to(torch.device(device)), name
    if isinstance(model.network, OnnxNetwork):
        raise fixed_numbers(asked)
    if name == "bf16":
        network: nn.Module = _Bfloat16(model.network)
    elif name == "torch-int8":
        network = _torch_int8(model.network, device)
    else:
        held = model.quantized.schemes if model.quantized else {}
        if name not in held:
            raise ConfigError(
                f"encoder.quantize is {name}, but the model holds "
                f"{', '.join(held) or 'no quantized layers'}; make one that does with `astroray "
                f"quantize MODEL --observe SURVEY --scheme {name} --out NEW`"
            )
        packed = {layer: weights.to(device) for layer, weights in held[name].items()}
        network = install_layers(model.network.to(device), packed)
        backends = {m.backend for m in network.modules() if isinstance(m, QuantizedLinear)}
        name = f"{name} {'+'.join(sorted(backends))}"
    return dataclasses.replace(model, network=network).to(torch.device(device)), name


class _Bfloat16(nn.Module):
    """A copy of a network that computes in bfloat16."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).bfloat16()

    def forward(self, image_BCYX: Tensor) -> Tensor:
        embedding_BD: Tensor = self.network(image_BCYX.bfloat16())
        return embedding_BD


def _torch_int8(network: nn.Module, device: torch.device | str) -> nn.Module:
    """A copy whose linear layers are PyTorch's dynamic 8-bit ones."""
    if torch.device(device).type != "cpu":
        raise ConfigError(
            f"encoder.quantize is torch-int8, which PyTorch has for CPUs only, not for {device}; "
            "use w8a8"
        )
    from torch.ao.nn.quantized.dynamic import Linear
    from torch.ao.quantization import default_dynamic_qconfig

    copied = copy.deepcopy(network)
    for path, layer in list(copied.named_modules()):
        if isinstance(layer, nn.Linear):
            plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
            plain.load_state_dict(layer.state_dict())
            plain.qconfig = default_dynamic_qconfig  # type: ignore[assignment]
            parent, _, child = path.rpartition(".")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # PyTorch will take it away one day
                eight = Linear.from_float(plain)  # type: ignore[no-untyped-call]
            eight.in_features, eight.out_features = layer.in_features, layer.out_features
            setattr(copied.get_submodule(parent), child, eight)
    return copied.eval()
