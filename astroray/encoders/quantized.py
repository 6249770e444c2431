"""How a model file holds layers on fewer bits: names of tensors, and what is said of them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from astroray.encoders import AttentionName
from astroray_kernels import PackedWeights

__all__ = ["Quantized", "read_quantized"]

PREFIX = "quantized"
PARTS = {
    "codes": "codes",
    "scale": "scale_NG",
    "outlier_channels": "outlier_O",
    "outlier_rows": "outlier_ON",
    "bias": "bias_N",
}
"""The tensors of a layer: name in the file, and field of `PackedWeights`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantized:
    """The layers of a model on fewer bits, in one or several schemes."""

    choice: str
    """What `encoder.quantize: auto` becomes: a scheme, or none, bf16, torch-int8."""
    attention: AttentionName = "auto"
    """What `encoder.attention: auto` becomes beside that choice; auto: PyTorch's."""
    reference_id: str
    """model_id of the model that was quantized, whose network the file holds too."""
    schemes: Mapping[str, Mapping[str, PackedWeights]]
    """Layers by scheme and name."""

    def meaning(self) -> dict[str, Any]:
        """What the model's id is made of beside the tensors."""
        schemes = {
            scheme: {name: packed.format for name, packed in layers.items()}
            for scheme, layers in self.schemes.items()
        }
        return {
            "choice": self.choice,
            "attention": self.attention,
            "reference_id": self.reference_id,
            "schemes": schemes,
        }

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by the name that they have in the file."""
        return {
            f"{PREFIX}.{scheme}.{name}.{part}": tensor
            for scheme, layers in self.schemes.items()
            for name, packed in layers.items()
            for part, field in PARTS.items()
            if (tensor := getattr(packed, field)) is not None
        }


def read_quantized(meaning: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Quantized:
    """The layers of `Quantized.meaning` and `Quantized.tensors`."""
    return Quantized(
        choice=meaning["choice"],
        attention=meaning.get("attention", "auto"),  # older files have none
        reference_id=meaning["reference_id"],
        schemes={
            scheme: {
                name: _layer(format, tensors, f"{PREFIX}.{scheme}.{name}.")
                for name, format in formats.items()
            }
            for scheme, formats in meaning["schemes"].items()
        },
    )


def _layer(format: str, tensors: Mapping[str, Tensor], prefix: str) -> PackedWeights:
    parts: dict[str, Any] = {field: tensors.get(prefix + part) for part, field in PARTS.items()}
    return PackedWeights(format=format, **parts)
