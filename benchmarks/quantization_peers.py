"""How others quantize a linear layer, each at 4 bits with a scale for 32 numbers, in plain PyTorch.

Every peer has the same weights, the same sample and the same format (int4, symmetric, groups of
32); what differs is how it treats outliers. Numbers are rounded and multiplied in float32: what is
compared is accuracy. Letters: S tokens, K input channels, N output channels.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from astroray.quantization.activations import Ranges, linear_layers, outlier_channels
from astroray.quantization.modules import MIN_DENSITY, pack_layers
from astroray_kernels import PackedWeights, osc_linear, pack_weights

__all__ = ["FALLBACKS", "OSC", "PEERS", "replace"]

GROUP = 32
Treat = Callable[[Tensor], Tensor]
"""Tokens [S, K] to outputs [S, N], bias left out."""
SMOOTHING = 0.5
SHRINKS = 20


class PeerLinear(nn.Module):
    """A linear layer whose product is computed by a peer."""

    def __init__(self, layer: nn.Linear, treat: Treat) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.bias, self.treat = layer.bias, treat

    def forward(self, x: Tensor) -> Tensor:
        y = self.treat(x.flatten(0, -2)).reshape(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias


def round_groups(x: Tensor, *, bits: int = 4, group: int | None = GROUP) -> Tensor:
    """Numbers rounded to symmetric integers with a scale for each group along the last axis."""
    x_G = x.reshape(*x.shape[:-1], -1, group or x.shape[-1])
    largest = 2 ** (bits - 1) - 1
    scale_G = x_G.abs().amax(-1, keepdim=True).clamp(min=1e-30) / largest
    return ((x_G / scale_G).round().clamp(-largest, largest) * scale_G).reshape(x.shape)


def nearest(weight_NK: Tensor, sample_SK: Tensor, ranges: Ranges) -> Treat:
    """Round to nearest: nothing is done about outliers."""
    weight_NK = round_groups(weight_NK)
    return lambda x_SK: F.linear(round_groups(x_SK), weight_NK)


def dynamic_columns(weight_NK: Tensor, sample_SK: Tensor, ranges: Ranges) -> Treat:
    """LLM.int8() (2208.07339): columns with an outlier in this call are multiplied in 16 bits."""
    low_NK = round_groups(weight_NK)

    def treat(x_SK: Tensor) -> Tensor:
        is_out_K = (x_SK.abs() > ranges.threshold).any(0)
        low = F.linear(round_groups(x_SK.masked_fill(is_out_K, 0.0)), low_NK)
        return low + F.linear(x_SK[:, is_out_K], weight_NK[:, is_out_K])

    return treat


def smooth(weight_NK: Tensor, sample_SK: Tensor, ranges: Ranges) -> Treat:
    """SmoothQuant (2211.10438): a part of each channel's size moves into the weights."""
    scale_K = ranges.amax_K.clamp(min=1e-5) ** SMOOTHING
    scale_K = scale_K / weight_NK.abs().amax(0).clamp(min=1e-5) ** (1 - SMOOTHING)
    low_NK = round_groups(weight_NK * scale_K)
    return lambda x_SK: F.linear(round_groups(x_SK / scale_K), low_NK)


def shift_and_scale(weight_NK: Tensor, sample_SK: Tensor, ranges: Ranges) -> Treat:
    """Outlier Suppression+ (2304.09145): channels are shifted to their middle, tall ones shrunk.

    The height above which they are shrunk is the best of twenty on the sample.
    """
    middle_K = (sample_SK.amax(0) + sample_SK.amin(0)) / 2
    centered_SK = sample_SK - middle_K
    tall_K, exact_SN = centered_SK.abs().amax(0), F.linear(centered_SK, weight_NK)

    def scaled(height: float) -> tuple[Tensor, Tensor]:
        scale_K = (tall_K / height).clamp(min=1.0)
        return scale_K, round_groups(weight_NK * scale_K)

    def error(height: float) -> float:
        scale_K, low_NK = scaled(height)
        got_SN = F.linear(round_groups(centered_SK / scale_K), low_NK)
        return float((got_SN - exact_SN).square().sum())

    top = float(tall_K.max())
    scale_K, low_NK = scaled(min((top * i / SHRINKS for i in range(1, SHRINKS + 1)), key=error))
    shifted_N = F.linear(middle_K, weight_NK)
    return lambda x_SK: F.linear(round_groups((x_SK - middle_K) / scale_K), low_NK) + shifted_N


def rotate(weight_NK: Tensor, sample_SK: Tensor, ranges: Ranges) -> Treat:
    """Block-Hadamard rotation, as in QuaRot (2404.00456): a group's outlier is spread over it."""
    turn = _hadamard(GROUP)

    def turned(x: Tensor) -> Tensor:
        return (x.reshape(*x.shape[:-1], -1, GROUP) @ turn).reshape(x.shape)

    low_NK = round_groups(turned(weight_NK))
    return lambda x_SK: F.linear(round_groups(turned(x_SK)), low_NK)


def fixed_columns(weight_NK: Tensor, sample_SK: Tensor, ranges: Ranges) -> Treat:
    """QUIK (2310.09259): the tallest columns in 16 bits, wherever; 8 bits where K > N.

    As many columns as OSC may have at most: one for 32.
    """
    num_in, bits = weight_NK.shape[1], 8 if weight_NK.shape[1] > weight_NK.shape[0] else 4
    kept = ranges.amax_K.topk(num_in // GROUP).indices
    is_kept_K = torch.zeros(num_in, dtype=torch.bool).index_fill(0, kept, True)
    group = GROUP if bits == 4 else None
    low_NK = round_groups(weight_NK.masked_fill(is_kept_K, 0.0), bits=bits, group=group)

    def treat(x_SK: Tensor) -> Tensor:
        low_SK = round_groups(x_SK.masked_fill(is_kept_K, 0.0), bits=bits, group=group)
        return F.linear(low_SK, low_NK) + F.linear(x_SK[:, kept], weight_NK[:, kept])

    return treat


def dynamic_groups(weight_NK: Tensor, sample_SK: Tensor, ranges: Ranges) -> Treat:
    """Each token's own outlier of each group in 16 bits: what OSC's table stands in for."""
    low_NK = round_groups(weight_NK)

    def treat(x_SK: Tensor) -> Tensor:
        x_SGK = x_SK.reshape(len(x_SK), -1, GROUP)
        size_SG1, place_SG1 = x_SGK.abs().max(2, keepdim=True)
        own = torch.zeros_like(x_SGK).scatter_(2, place_SG1, x_SGK.gather(2, place_SG1))
        own = own.where(size_SG1 > ranges.threshold, 0.0).flatten(1)
        return F.linear(round_groups(x_SK - own), low_NK) + F.linear(own, weight_NK)

    return treat


def eight_bits(weight_NK: Tensor, sample_SK: Tensor, ranges: Ranges) -> Treat:
    """8 bits, a scale a token and an output channel: twice the bits, for orientation."""
    low_NK = round_groups(weight_NK, bits=8, group=None)
    return lambda x_SK: F.linear(round_groups(x_SK, bits=8, group=None), low_NK)


PEERS: Mapping[str, Callable[[Tensor, Tensor, Ranges], Treat]] = {
    "round-to-nearest": nearest,
    "LLM.int8-style columns": dynamic_columns,
    "SmoothQuant": smooth,
    "Outlier Suppression+": shift_and_scale,
    "block-Hadamard": rotate,
    "QUIK-like": fixed_columns,
    "dynamic per group": dynamic_groups,
    "8 bits": eight_bits,
}
FALLBACKS: Mapping[str, str] = {
    "round-to-nearest, 8 bits where diffuse": "round-to-nearest",
    "dynamic per group, 8 bits where diffuse": "dynamic per group",
}
"""A peer whose layers have 8 bits where OSC's fallback has them: the paper's W2 in FP8."""
OSC = (
    "OSC",
    "OSC, 8 bits where diffuse",
    "OSC MXFP4, 8 bits where diffuse",
    "OSC NVFP4, 8 bits where diffuse",
    "8 bits, OSC",
)
"""Ours, by the kernels that a scan runs."""


def replace(
    network: nn.Module, name: str, ranges: Mapping[str, Ranges], samples: Mapping[str, Tensor]
) -> dict[str, PeerLinear]:
    """The layers of `ranges` as a peer, or ours, computes them, by name.

    samples  [S, K] of each layer, what a peer may look at
    """
    layers = linear_layers(network)
    if name in OSC:
        packed = _ours(network, name, ranges)
        return {one: PeerLinear(layers[one], _product(packed[one])) for one in ranges}
    peer, spared = PEERS[FALLBACKS.get(name, name)], set[str]()
    if name in FALLBACKS:
        spared = {one for one in ranges if ranges[one].density < MIN_DENSITY}
    return {
        one: PeerLinear(
            layers[one],
            (eight_bits if one in spared else peer)(layers[one].weight, samples[one], ranges[one]),
        )
        for one in ranges
    }


def _ours(
    network: nn.Module, name: str, ranges: Mapping[str, Ranges]
) -> Mapping[str, PackedWeights]:
    schemes = dict(zip(OSC[1:], ("osc-w4a4", "osc-mxfp4", "osc-nvfp4", "w8a8o"), strict=True))
    scheme = schemes.get(name)
    if scheme is not None:
        return pack_layers(network, ranges, scheme)
    layers = linear_layers(network)
    return {
        one: pack_weights(
            layers[one].weight, format="int4_g32", outlier_channels=outlier_channels(ranges[one])
        )
        for one in ranges
    }


def _product(packed: PackedWeights) -> Treat:
    packed = dataclasses.replace(packed, bias_N=None)  # the layer adds it
    return lambda x_SK: osc_linear(x_SK, packed)


def _hadamard(size: int) -> Tensor:
    turn = torch.ones(1, 1)
    while len(turn) < size:
        turn = torch.cat([torch.cat([turn, turn], 1), torch.cat([turn, -turn], 1)])
    return turn / math.sqrt(size)
