"""The public quantized linear layer: what it accepts, and what it computes."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from astroray_kernels.dispatch import Need, select
from astroray_kernels.osc.norms import Norm
from astroray_kernels.osc.packed import PackedWeights
from astroray_kernels.osc.reference import QuantizedActivations

__all__ = ["osc_linear", "osc_mlp", "quantize_activations"]

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
ACTIVATIONS = ("none", "gelu")


def osc_linear(
    x: Tensor,
    packed: PackedWeights,
    *,
    activation: str = "none",
    norm: Norm | None = None,
    backend: str = "auto",
) -> Tensor:
    """activation(norm(x) W^T + bias) on 8 or 4 bits, outlier channels in 16.

    OSC, arXiv 2604.12782.

    x           [..., K]  float32, bfloat16, float16, for the reference float64 too; any strides,
                          any leading shape, empty ones too
    packed      the layer, from `pack_weights`, on the device of x
    activation  none, or gelu (that of the error function)
    norm        of each token, before it is quantized; None: none
    backend     auto, or one that must run: triton, native, reference (`dispatch.resolved`)

    Returns [..., N], contiguous, of x's dtype. A token, that is a row of x, which holds a NaN or an
    infinity gives NaN in all its outputs; no other token does. Tokens do not depend on one another.

    For inference: the result has no gradient.
    Raises TypeError and ValueError on arguments that cannot work, BackendError where this machine
    cannot run what was asked for.
    """
    x_MK = _tokens("osc_linear", x, packed, norm)
    _check_activation("osc_linear", activation)
    function = _function("osc_linear", x_MK, (packed,), backend)
    if not x_MK.numel():
        return x.new_empty((*x.shape[:-1], packed.num_out))
    y_MN: Tensor = function(x_MK, packed, activation=activation, norm=norm)
    return y_MN.reshape(*x.shape[:-1], packed.num_out)


def osc_mlp(
    x: Tensor,
    first: PackedWeights,
    second: PackedWeights,
    *,
    activation: str = "gelu",
    norm: Norm | None = None,
    backend: str = "auto",
) -> Tensor:
    """second(activation(first(norm(x)))): two layers, what is between them not stored.

    The results of the first layer are float32 when they are quantized for the second, of any x;
    all else as `osc_linear` twice, of whose [..., K] to [..., N] `first` has K and `second` N.
    """
    x_MK = _tokens("osc_mlp", x, first, norm)
    _check_activation("osc_mlp", activation)
    _check_second(first, second)
    function = _function("osc_mlp", x_MK, (first, second), backend)
    if not x_MK.numel():
        return x.new_empty((*x.shape[:-1], second.num_out))
    y_MN: Tensor = function(x_MK, first, second, activation=activation, norm=norm)
    return y_MN.reshape(*x.shape[:-1], second.num_out)


def quantize_activations(
    x: Tensor, packed: PackedWeights, *, norm: Norm | None = None, backend: str = "auto"
) -> QuantizedActivations:
    """What `osc_linear` multiplies: codes, scales and outlier channels of [M] tokens of K channels.

    Arguments as in `osc_linear`; leading shapes become one. All backends return the same bits,
    but that Triton's norm is torch's own, whose sums have another order.
    """
    x_MK = _tokens("quantize_activations", x, packed, norm)
    function = _function("quantize_activations", x_MK, (packed,), backend)
    return cast(QuantizedActivations, function(x_MK, packed, norm=norm))


def _function(
    op: str, x_MK: Tensor, layers: tuple[PackedWeights, ...], backend: str
) -> Callable[..., Any]:
    for packed in layers:
        need = Need(precision=packed.format, dtype=x_MK.dtype)
        function = select(op, x_MK.device, backend, need)
    return function


def _tokens(op: str, x: Tensor, packed: PackedWeights, norm: Norm | None) -> Tensor:
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
    for name in ("weight_K", "bias_K") if norm is not None else ():
        part = getattr(norm, name)
        if part is not None and (
            part.shape != (packed.num_in,) or part.dtype != torch.float32 or part.device != x.device
        ):
            raise ValueError(
                f"{op}: {name} of the norm is {part.dtype} {list(part.shape)} on {part.device}, "
                f"expected torch.float32 [{packed.num_in}] on {x.device}"
            )
    return x.detach().reshape(-1, x.shape[-1])


def _check_activation(op: str, activation: str) -> None:
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"{op}: activation is {activation!r}, expected one of {', '.join(ACTIVATIONS)}"
        )


def _check_second(first: PackedWeights, second: PackedWeights) -> None:
    if not isinstance(second, PackedWeights):
        raise TypeError(
            f"osc_mlp: second is {type(second).__name__}, expected what pack_weights gives"
        )
    if second.num_in != first.num_out or second.codes.device != first.codes.device:
        raise ValueError(
            f"osc_mlp: the second layer has {second.num_in} input channels on "
            f"{second.codes.device}, expected the {first.num_out} output channels of the first on "
            f"{first.codes.device}"
        )
