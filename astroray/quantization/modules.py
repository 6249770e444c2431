"""Which linear layers of a network get which number format, and the network with them replaced.

Knows no encoder: any `nn.Module` whose dense layers are `nn.Linear`, subclasses too. A layer that
the sample did not reach, as those that only train, stays as it is.
"""

import copy
import dataclasses
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from astroray.errors import BackendError, ConfigError
from astroray.quantization.activations import Ranges, linear_layers, outlier_channels
from astroray.quantization.layer_chains import gelus_behind, norms_before, seconds_behind
from astroray_kernels import Norm, PackedWeights, osc_linear, osc_mlp, pack_weights, resolved
from astroray_kernels.dispatch import BackendError as KernelError
from astroray_kernels.dispatch import Need

__all__ = ["SCHEMES", "QuantizedLinear", "install_layers", "measure_errors", "pack_layers"]

MIN_DENSITY = 0.4
"""Clustering density below which one channel a group would leave most outliers where they are.

Between the inputs of attention and of the first dense layer (0.6 to 0.8 in the paper's Table 1),
which it quantizes to 4 bits, and those of the last (0.2 to 0.35), which it does not."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scheme:
    """How the layers of a network are quantized."""

    format: str
    """Of `astroray_kernels.osc.formats`."""
    has_outliers: bool
    """Whether outlier channels are kept apart in 16 bits."""
    min_density: float = 0.0
    """A layer whose outliers are less clustered has 8 bits instead."""


SCHEMES: Mapping[str, Scheme] = {
    "w8a8": Scheme(format="int8", has_outliers=False),
    "w8a8o": Scheme(format="int8", has_outliers=True),
    "osc-w4a4": Scheme(format="int4_g32", has_outliers=True, min_density=MIN_DENSITY),
    "osc-mxfp4": Scheme(format="mxfp4", has_outliers=True, min_density=MIN_DENSITY),
    "osc-nvfp4": Scheme(format="nvfp4", has_outliers=True, min_density=MIN_DENSITY),
}
"""Every scheme by name: 8 bits, those and outlier channels, OSC in integers, MXFP4 and NVFP4."""


class QuantizedLinear(nn.Module):
    """A linear layer on 8 or 4 bits [..., K] to [..., N], and what its kernel does around it.

    packed      its weights
    activation  none, or gelu: applied to its results
    norm        of each token before it is quantized, or None
    second      weights of a layer that takes the results, which are not stored then, or None

    For inference; its backend is chosen where the weights are, when made or moved. Raises
    BackendError where this machine cannot run it.
    """

    def __init__(
        self,
        packed: PackedWeights,
        *,
        activation: str = "none",
        norm: Norm | None = None,
        second: PackedWeights | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = packed.num_in, (second or packed).num_out
        self.activation, self.packed, self.norm, self.second = activation, packed, norm, second
        self.backend = self._resolved()

    def forward(self, x: Tensor) -> Tensor:
        kwargs: dict[str, Any] = {
            "activation": self.activation,
            "norm": self.norm,
            "backend": self.backend,
        }
        if self.second is None:
            return osc_linear(x, self.packed, **kwargs)
        return osc_mlp(x, self.packed, self.second, **kwargs)

    def extra_repr(self) -> str:
        layers = [self.packed] if self.second is None else [self.packed, self.second]
        widths = " to ".join(str(one.num_out) for one in layers)
        kept = "+".join(str(len(one.outlier_O)) for one in layers)
        format = "+".join(dict.fromkeys(one.format for one in layers))
        return f"{self.in_features} to {widths}, {format}, {kept} outlier channels"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "QuantizedLinear":
        """Moves with its network; a change of dtype does not reach packed numbers."""
        device = fn(torch.empty(0, device=self.packed.codes.device)).device
        if device != self.packed.codes.device:
            self.packed = self.packed.to(device)
            self.norm = None if self.norm is None else self.norm.to(device)
            self.second = None if self.second is None else self.second.to(device)
            self.backend = self._resolved()
        return self

    def _resolved(self) -> str:
        need = Need(precision=self.packed.format, dtype=torch.float32)
        try:
            return resolved("osc_linear", self.packed.codes.device, "auto", need)
        except KernelError as error:
            raise BackendError(f"quantized layer: {error}; use encoder.quantize=none") from error


def pack_layers(
    network: nn.Module, ranges: Mapping[str, Ranges], scheme: str
) -> dict[str, PackedWeights]:
    """The layers of `ranges` rounded as the scheme says, by name.

    Raises ConfigError on an unknown scheme, on a layer whose input channels are not a multiple of
    the format's group, on weights that are not finite, and on a network that is quantized already.
    """
    if scheme not in SCHEMES:
        raise ConfigError(f"scheme is {scheme!r}, expected one of {', '.join(SCHEMES)}")
    if any(isinstance(module, QuantizedLinear) for module in network.modules()):
        raise ConfigError("the network is quantized already, expected one with nn.Linear layers")
    layers = linear_layers(network)
    return {name: _pack(name, layers[name], one, SCHEMES[scheme]) for name, one in ranges.items()}


def install_layers(network: nn.Module, packed: Mapping[str, PackedWeights]) -> nn.Module:
    """A copy of the network whose layers of these names are quantized; the rest is as it was.

    What `layer_chains` finds around a layer is computed by its kernel and leaves an `nn.Identity`:
    the norm before it, the GELU right behind it, and the layer behind that.
    """
    copied = copy.deepcopy(network).eval()
    norms, gelus = norms_before(copied, packed), gelus_behind(copied)
    seconds = _seconds(copied, packed, gelus)
    layers = {
        name: QuantizedLinear(
            weights,
            activation="gelu" if name in gelus else "none",
            norm=_norm(copied.get_submodule(norms[name])) if name in norms else None,
            second=packed[seconds[name]] if name in seconds else None,
        )
        for name, weights in packed.items()
        if name not in seconds.values()
    }
    computed = {
        *norms.values(),
        *seconds.values(),
        *(gelus[name] for name in layers if name in gelus),
    }
    for name in computed:
        copied.set_submodule(name, nn.Identity())
    for name, layer in layers.items():
        copied.set_submodule(name, layer)
    return copied.eval()


def measure_errors(
    network: nn.Module, packed: Mapping[str, PackedWeights], run: Callable[[nn.Module], object]
) -> dict[str, float]:
    """Signal over error of each layer's output in dB, each given what it is given unquantized.

    run  puts a sample through the network
    """
    sums = {name: torch.zeros(2, dtype=torch.float64) for name in packed}
    layers = {name: QuantizedLinear(weights) for name, weights in packed.items()}
    floats = linear_layers(network)

    def hook_of(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
            error = layers[name](given[0]).double() - output.double()
            signal = output.double().square().sum()
            sums[name] += torch.stack([signal, error.square().sum()]).cpu()

        return hook

    hooks = [floats[name].register_forward_hook(hook_of(name)) for name in packed]
    try:
        with torch.inference_mode():
            run(network)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: _decibel(*total.tolist()) for name, total in sums.items()}


def _pack(name: str, layer: nn.Linear, ranges: Ranges, scheme: Scheme) -> PackedWeights:
    # NaN, where nothing stands out, is not below: 4 bits then lose nothing to outliers
    is_diffuse = ranges.density < scheme.min_density
    try:
        return pack_weights(
            layer.weight,
            layer.bias,
            format="int8" if is_diffuse else scheme.format,
            outlier_channels=outlier_channels(ranges) if scheme.has_outliers else None,
        )
    except ValueError as error:
        raise ConfigError(f"layer {name} cannot be quantized: {error}") from error


def _seconds(
    network: nn.Module, packed: Collection[str], gelus: Mapping[str, str]
) -> dict[str, str]:
    """Layers of `packed` that the kernel of another one computes, by that one; none twice."""
    behind, seconds = seconds_behind(network), dict[str, str]()
    for name in packed:
        second = behind.get(gelus.get(name, ""), "")
        if name not in seconds.values() and second in packed and second not in seconds:
            seconds[name] = second
    return seconds


def _norm(module: nn.Module) -> Norm:
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    epsilon = cast(float | None, module.eps)
    return Norm(
        weight_K=None if weight is None else weight.detach().float(),
        bias_K=None if bias is None else bias.detach().float(),
        epsilon=torch.finfo(torch.float32).eps if epsilon is None else epsilon,
        takes_mean=isinstance(module, nn.LayerNorm),
    )


def _decibel(signal: float, error: float) -> float:
    return 10 * math.log10(signal / error) if signal and error else math.inf
