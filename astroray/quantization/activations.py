"""What flows into a network's linear layers, measured: how large each channel is, which stand out.

OSC (arXiv 2604.12782), section 2 and Algorithm 1, as statistics that are gathered batch by batch.
Letters: S tokens of the sample, K input channels, G groups of consecutive channels.
"""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from astroray.errors import ConfigError

__all__ = ["GROUP", "Ranges", "linear_layers", "observe_ranges", "outlier_channels"]

GROUP = 32
ALPHA = 5.0
"""A number is an outlier above so many mean magnitudes of its layer: the paper's alpha."""
MIN_SHARE = 0.01
"""Share of the tokens in which a channel, or a group, must hold an outlier to count.

The paper asks for one token. Of 1,536 tokens of Gaussian numbers, 97 % of the groups then have an
outlier channel, though nothing stands out."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Ranges:
    """What a linear layer was given over a sample."""

    num_tokens: int
    mean_abs: float
    amax_K: Tensor
    """[K] float32, largest magnitude of each channel."""
    hits_K: Tensor
    """[K] int64, tokens in which the channel is the largest of its group and an outlier."""

    @property
    def threshold(self) -> float:
        """What an outlier exceeds."""
        return ALPHA * self.mean_abs

    @property
    def hits_GK(self) -> Tensor:
        """Hits by group, [G, 32]; the last group is filled up with zeros."""
        return F.pad(self.hits_K, (0, -len(self.hits_K) % GROUP)).reshape(-1, GROUP)

    @property
    def density_G(self) -> Tensor:
        """Clustering density of each group, [G] float32.

        Of the tokens with an outlier in the group, the share that has it in the group's most
        frequent channel; NaN where fewer than 1 % of the tokens have one.
        """
        hits_G = self.hits_GK.sum(1)
        density_G = self.hits_GK.amax(1) / hits_G.clamp(min=1)
        return density_G.where(hits_G >= MIN_SHARE * self.num_tokens, torch.nan)

    @property
    def density(self) -> float:
        """Mean of `density_G`; NaN where no group has outliers."""
        return float(self.density_G.nanmean())


def linear_layers(network: nn.Module) -> dict[str, nn.Linear]:
    """All linear layers by name, those of subclasses too."""
    return {name: m for name, m in network.named_modules() if isinstance(m, nn.Linear)}


def require_linear_layers(network: nn.Module) -> None:
    """Raises ConfigError where there is nothing to put on fewer bits."""
    if not linear_layers(network):
        raise ConfigError(
            "the model has no linear layers, expected some to put on fewer bits; give one of an "
            "encoder that has them, such as vit-tiny, or leave it as it is: without them it is fast"
        )


def observe_ranges(network: nn.Module, run: Callable[[nn.Module], object]) -> dict[str, Ranges]:
    """What the linear layers of a network are given, by name; those never reached are left out.

    run  puts the whole sample through the network; called twice, since the threshold of an
         outlier is a mean over the sample

    Raises ConfigError where no layer is reached, or a layer is given a NaN or an infinity.
    """
    layers = linear_layers(network)
    sizes: dict[str, _Sizes] = {}
    with _listening(layers, lambda name, x_SK: _grow(sizes, name, x_SK)):
        run(network)
    if not sizes:
        raise ConfigError(
            f"the sample reached none of the {len(layers)} linear layers of the network, expected "
            "at least one; give a sample that is not empty"
        )
    hits = {name: torch.zeros_like(size.amax_K, dtype=torch.int64) for name, size in sizes.items()}

    def count(name: str, x_SK: Tensor) -> None:
        if name in sizes:  # not one that is only given batches of nothing
            hits[name] += _count_hits(x_SK, ALPHA * sizes[name].mean_abs)

    with _listening(layers, count):
        run(network)
    return {
        name: Ranges(
            num_tokens=size.num_tokens,
            mean_abs=size.mean_abs,
            amax_K=size.amax_K.cpu(),
            hits_K=hits[name].cpu(),
        )
        for name, size in sizes.items()
    }


def outlier_channels(ranges: Ranges) -> Tensor:
    """At most one channel of each group: its most frequent, where that holds 1 % of the tokens.

    Algorithm 1 of the paper with a least count. Returns places int64 [O], ascending.
    """
    best_G, place_G = ranges.hits_GK.max(1)
    is_kept_G = best_G >= max(1.0, MIN_SHARE * ranges.num_tokens)
    first_G = torch.arange(len(place_G)) * GROUP
    return (first_G + place_G)[is_kept_G]


@dataclasses.dataclass
class _Sizes:
    """Sums of a layer so far."""

    num_tokens: int
    sum_abs: float
    amax_K: Tensor

    @property
    def mean_abs(self) -> float:
        return self.sum_abs / (self.num_tokens * len(self.amax_K))


def _grow(sizes: dict[str, _Sizes], name: str, x_SK: Tensor) -> None:
    if not x_SK.numel():
        return
    if bad := int((~x_SK.isfinite()).sum()):
        raise ConfigError(
            f"layer {name} is given {bad} NaN or infinite numbers of {x_SK.numel()}, expected "
            "none; look for broken weights or a broken object of the sample"
        )
    abs_SK = x_SK.abs()
    size = sizes.setdefault(name, _Sizes(0, 0.0, torch.zeros_like(abs_SK[0])))
    size.num_tokens += len(abs_SK)
    size.sum_abs += float(abs_SK.sum(dtype=torch.float64))
    size.amax_K = torch.maximum(size.amax_K, abs_SK.amax(0))


def _count_hits(x_SK: Tensor, threshold: float) -> Tensor:
    """Of each channel, tokens in which it is the largest of its group and above the threshold."""
    num_channels = x_SK.shape[1]
    padded_SK = F.pad(x_SK.abs(), (0, -num_channels % GROUP))
    largest_SG, place_SG = padded_SK.reshape(len(x_SK), -1, GROUP).max(2)
    channel_SG = place_SG + torch.arange(place_SG.shape[1], device=x_SK.device) * GROUP
    counted = channel_SG[largest_SG > threshold]
    return torch.bincount(counted, minlength=padded_SK.shape[1])[:num_channels]


@contextmanager
def _listening(layers: dict[str, nn.Linear], hear: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Calls `hear` with each layer's name and its tokens float32 [S, K], without gradients."""

    def hook_of(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            x = given[0].detach()
            hear(name, x.reshape(-1, x.shape[-1]).float())

        return hook

    hooks = [layer.register_forward_pre_hook(hook_of(name)) for name, layer in layers.items()]
    try:
        with torch.inference_mode():
            yield
    finally:
        for hook in hooks:
            hook.remove()
