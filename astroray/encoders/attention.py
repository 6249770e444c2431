"""Which attention a network computes with, resolved once when its model is loaded."""

import functools
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from astroray.encoders import PLAIN_ATTENTION, AttentionName
from astroray.encoders.layers import Attention, AttentionCore
from astroray.errors import BackendError
from astroray_kernels import vfa_attention
from astroray_kernels.dispatch import BackendError as KernelError
from astroray_kernels.dispatch import Need, resolved, why_not

__all__ = ["choose_attention", "why_no_native"]

SKIP_NATS = 8.0
"""VSA leaves out tiles that weigh less than e^-8 of the largest."""
KERNELS: Mapping[str, tuple[str, float | None]] = {
    "vfa": ("bf16", None),
    "vfa-int8-qk": ("int8_qk", None),
    "vsa": ("bf16", SKIP_NATS),
}
"""Precision and skip of `vfa_attention` by what `encoder.attention` may be."""


def choose_attention(network: nn.Module, asked: AttentionName, device: torch.device | str) -> str:
    """Makes all attention of a network that of `asked` and says what it became.

    auto         PyTorch's; what a quantized model decided is `encoders.selecting`'s to know
    vfa          attention with a frozen row maximum (arXiv 2604.12798), products in bf16
    vfa-int8-qk  the same, the product of queries and keys in int8
    vsa          vfa, leaving out tiles of small weight

    Returns `sdpa`, or op, backend and precision, such as `vfa native bf16`; "" where the network
    has no attention. Raises BackendError where this machine cannot run what was asked for.
    """
    layers = _layers(network)
    if not layers:
        return ""
    if asked in PLAIN_ATTENTION:
        core: AttentionCore = F.scaled_dot_product_attention
        name = "sdpa"
    else:
        precision, skip = KERNELS[asked]
        try:
            backend = resolved("vfa_attention", device, need=_need(layers[0], asked))
        except KernelError as error:
            raise BackendError(
                f"encoder.attention is {asked}: {error}; use encoder.attention=sdpa"
            ) from error
        core = functools.partial(vfa_attention, precision=precision, skip=skip, backend=backend)
        name = f"{asked.partition('-')[0]} {backend} {precision}"
    for layer in layers:
        layer.core = core
    return name


def why_no_native(network: nn.Module, asked: AttentionName, device: torch.device | str) -> str:
    """Why native code has none of a network's attention in one of `KERNELS`; "" where it has."""
    return why_not("vfa_attention", "native", device, _need(_layers(network)[0], asked))


def _layers(network: nn.Module) -> list[Attention]:
    return [layer for layer in network.modules() if isinstance(layer, Attention)]


def _need(layer: Attention, asked: AttentionName) -> Need:
    precision, skip = KERNELS[asked]
    dim = layer.to_out.in_features // layer.num_heads
    return Need(precision=precision, skip=skip, dim=dim, dtype=torch.float32)
