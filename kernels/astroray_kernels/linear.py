"""The public quantized linear layer: what it accepts, and what it computes."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from astroray_kernels.dispatch import Need, select
from astroray_kernels.osc.packed import PackedWeights, pack_weights
from astroray_kernels.osc.reference import QuantizedActivations

__all__ = [
    "PackedWeights",
    "QuantizedActivations",
    "osc_linear",
    "pack_weights",
    "quantize_activations",
]

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
ACTIVATIONS = ("none", "gelu")


def osc_linear(
    x: Tensor, packed: PackedWeights, *, activation: str = "none", backend: str = "auto"
) -> Tensor:
    """activation(x W^T + bias) on 8 or 4 bits with outlier channels in 16 (OSC, arXiv 2604.12782).

    x           [..., K]  float32, bfloat16, float16, for the reference float64 too; any strides,
                          any leading shape, empty ones too
    packed      the layer, from `pack_weights`, on the device of x
    activation  none, or gelu (that of the error function)
    backend     auto, or one that must run: triton, native, reference (`dispatch.resolved`)

    Returns [..., N], contiguous, of x's dtype. A token, that is a row of x, which holds a NaN or an
    infinity gives NaN in all its outputs; no other token does. Tokens do not depend on one another.

    For inference: the result has no gradient.
    Raises TypeError and ValueError on arguments that cannot work, BackendError where this machine
    cannot run what was asked for.
    """
    x_MK = _tokens("osc_linear", x, packed)
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"osc_linear: activation is {activation!r}, expected one of {', '.join(ACTIVATIONS)}"
        )
    function = _function("osc_linear", x_MK, packed, backend)
    if not x_MK.numel():
        return x.new_empty((*x.shape[:-1], packed.num_out))
    y_MN: Tensor = function(x_MK, packed, activation=activation)
    return y_MN.reshape(*x.shape[:-1], packed.num_out)


def quantize_activations(
    x: Tensor, packed: PackedWeights, *, backend: str = "auto"
) -> QuantizedActivations:
    """What `osc_linear` multiplies: codes, scales and outlier channels of [M] tokens of K channels.

    x and backend as in `osc_linear`; leading shapes become one. All backends return the same bits.
    """
    x_MK = _tokens("quantize_activations", x, packed)
    function = _function("quantize_activations", x_MK, packed, backend)
    return cast(QuantizedActivations, function(x_MK, packed))


def _function(op: str, x_MK: Tensor, packed: PackedWeights, backend: str) -> Callable[..., Any]:
    need = Need(precision=packed.format, dtype=x_MK.dtype)
    return cast(Callable[..., Any], select(op, x_MK.device, backend, need))


def _tokens(op: str, x: Tensor, packed: PackedWeights) -> Tensor:
    if not isinstance(x, Tensor) or x.dtype not in DTYPES:
        got = f"dtype {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(
            f"{op}: x has {got}, expected a tensor of one of {', '.join(map(str, DTYPES))}"
        )
    if not isinstance(packed, PackedWeights):
        raise TypeError(
            f"{op}: packed is {type(packed).__name__}, expected what pack_weights gives"
        )
    if x.ndim < 1 or x.shape[-1] != packed.num_in:
        raise ValueError(
            f"{op}: x has shape {list(x.shape)}, expected [..., {packed.num_in}], the input "
            "channels of the layer"
        )
    if x.device != packed.codes.device:
        raise ValueError(
            f"{op}: x is on {x.device} and the layer on {packed.codes.device}, expected one "
            "device; use packed.to(device)"
        )
    return x.detach().reshape(-1, x.shape[-1])
