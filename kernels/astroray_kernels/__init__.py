"""Kernels of astroray, attention, linear layers, nearest vectors: one meaning, several machines.

The public names are loaded on first use, so that `import astroray_kernels` loads no torch.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from astroray_kernels.attention import vfa_attention
    from astroray_kernels.dispatch import BackendError, Need, resolved, select, why_not
    from astroray_kernels.linear import osc_linear, osc_mlp, quantize_activations
    from astroray_kernels.nearest import nearest_vectors
    from astroray_kernels.osc.norms import Norm
    from astroray_kernels.osc.packed import PackedWeights, pack_weights

_HOMES = {
    "BackendError": "dispatch",
    "Need": "dispatch",
    "Norm": "osc.norms",
    "PackedWeights": "osc.packed",
    "nearest_vectors": "nearest",
    "osc_linear": "linear",
    "osc_mlp": "linear",
    "pack_weights": "osc.packed",
    "quantize_activations": "linear",
    "resolved": "dispatch",
    "select": "dispatch",
    "vfa_attention": "attention",
    "why_not": "dispatch",
}
__all__ = [
    "BackendError",
    "Need",
    "Norm",
    "PackedWeights",
    "nearest_vectors",
    "osc_linear",
    "osc_mlp",
    "pack_weights",
    "quantize_activations",
    "resolved",
    "select",
    "vfa_attention",
    "why_not",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'astroray_kernels' has no attribute {name!r}, only {__all__}")
    return getattr(importlib.import_module(f"astroray_kernels.{_HOMES[name]}"), name)
