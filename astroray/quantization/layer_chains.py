"""What stands around the linear layers of a network, so that their kernel can compute it as well.

Knows no network: `nn.Sequential` says what is behind a layer, and the forward of a module, traced
with its children left whole, what a norm feeds. What cannot be traced is left as it is.
"""

import itertools
from collections import Counter
from collections.abc import Collection

from torch import fx, nn

__all__ = ["gelus_behind", "norms_before", "seconds_behind"]

NORMS = (nn.LayerNorm, nn.RMSNorm)
_UNTRACEABLE = (TypeError, ValueError, RuntimeError, AttributeError, LookupError, AssertionError)
"""What a forward raises that asks a traced value for a number; torch.fx's own is a ValueError."""


class _OtherUseError(Exception):
    """A value goes elsewhere than into linear layers; takes no message."""


class _WholeChildren(fx.Tracer):
    """Traces the forward of one module; what its children do is not looked at."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def gelus_behind(network: nn.Module) -> dict[str, str]:
    """Names of linear layers with a GELU of the error function right behind them, and its name."""
    return {
        one: other
        for one, layer, other, gelu in _followed(network)
        if isinstance(layer, nn.Linear) and _is_exact_gelu(gelu)
    }


def seconds_behind(network: nn.Module) -> dict[str, str]:
    """Names of GELUs of the error function with a linear layer right behind them, and its name."""
    return {
        one: other
        for one, gelu, other, layer in _followed(network)
        if isinstance(layer, nn.Linear) and _is_exact_gelu(gelu)
    }


def norms_before(network: nn.Module, names: Collection[str]) -> dict[str, str]:
    """Of these linear layers those that are given a norm's output, and the name of the norm.

    Only where nothing else is given that output, and the layer is given nothing else: the norm
    can then be left out of the network. LayerNorm and RMSNorm over the last axis.
    """
    uses = Counter(id(module) for _, module in network.named_modules(remove_duplicate=False))
    found: dict[str, str] = {}
    for path, parent in network.named_modules():
        for child, norm in parent.named_children():
            if type(norm) not in NORMS or len(norm.normalized_shape) != 1:
                continue
            try:
                graph = _WholeChildren().trace(parent)
                layers = _fed(graph, _only_call(graph, child), parent, path)
            except (*_UNTRACEABLE, _OtherUseError):
                continue
            modules = [norm, *(network.get_submodule(layer) for layer in layers)]
            if all(uses[id(module)] == 1 for module in modules) and set(layers) <= set(names):
                found |= dict.fromkeys(layers, _joined(path, child))
    return found


def _followed(network: nn.Module) -> list[tuple[str, nn.Module, str, nn.Module]]:
    """Neighbors in an `nn.Sequential`, past what does nothing when a network is used."""
    found = []
    for path, module in network.named_modules():
        if getattr(type(module), "forward", None) is nn.Sequential.forward:  # of no subclass
            children = [
                (_joined(path, name), child)
                for name, child in module.named_modules(remove_duplicate=False)  # each place
                if name and "." not in name and not isinstance(child, nn.Dropout | nn.Identity)
            ]
            found += [(*one, *other) for one, other in itertools.pairwise(children)]
    return found


def _is_exact_gelu(module: nn.Module) -> bool:
    return isinstance(module, nn.GELU) and module.approximate == "none"


def _fed(graph: fx.Graph, node: fx.Node, module: nn.Module, path: str) -> list[str]:
    """Linear layers that a value goes into. Raises _OtherUseError where it goes elsewhere too."""
    layers = []
    for user in node.users:
        if user.op != "call_module" or user.args != (node,) or user.kwargs:
            raise _OtherUseError
        child = str(user.target)
        _only_call(graph, child)
        part, name = module.get_submodule(child), _joined(path, child)
        if isinstance(part, nn.Linear):
            layers.append(name)
        else:
            inner = _WholeChildren().trace(part)
            given = next(one for one in inner.nodes if one.op == "placeholder")
            layers += _fed(inner, given, part, name)
    return layers


def _only_call(graph: fx.Graph, child: str) -> fx.Node:
    """Where a child is called, once, and not used in any other way."""
    touching = [
        node
        for node in graph.nodes
        if node.op in ("call_module", "get_attr") and f"{node.target}.".startswith(f"{child}.")
    ]
    if len(touching) != 1 or touching[0].op != "call_module":
        raise _OtherUseError
    return touching[0]


def _joined(path: str, child: str) -> str:
    return f"{path}.{child}" if path else child
