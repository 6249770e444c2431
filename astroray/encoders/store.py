"""A model in memory: its network beside all that stands before and after it; saved and loaded."""

import dataclasses
import importlib
import json
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from astroray import storage
from astroray.encoders import (
    FORMAT_VERSION,
    content_id,
    is_own,
    kind_of,
    read_model_file,
)
from astroray.encoders.own import build_own, own_code
from astroray.encoders.own_errors import ran_by
from astroray.encoders.quantized import Quantized, read_quantized
from astroray.errors import ConfigError
from astroray.preparation import Prepared
from astroray.preparation.modalities import MODALITIES, AnyPreparation
from astroray.surveys.shards import ModalityName, Rows

__all__ = ["Model", "build_network", "load_model", "save_model"]


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)  # its tensors fill a screen
class Model:
    """A fitted encoder and all that stands before and after its network."""

    encoder: str
    preparation: AnyPreparation
    network: nn.Module
    network_config: Mapping[str, Any]
    center_D: Tensor
    """[D] float32, mean of the network's outputs over the fitting sample."""
    scale_D: Tensor
    """[D] float32, what a centered output is divided by."""
    live_D: Tensor
    """[D] int64, outputs that vary at all; the others are dropped."""
    fit: Mapping[str, Any]
    """How it was fitted: passes, seconds, loss, rows; part of the record, not of the id."""
    model_id: str = ""
    """That of its file; empty before it is saved."""
    quantized: Quantized | None = None
    """Its layers on fewer bits, beside the network that they come from."""

    def __repr__(self) -> str:
        encodes = self.preparation.describe()["input"]
        return f"Model({self.encoder}, {encodes}, dim={self.dim}, model_id={self.model_id!r})"

    @property
    def modality(self) -> ModalityName:
        """What it encodes."""
        return kind_of(self.encoder).modality

    def prepare(self, rows: Rows) -> Prepared:
        """A slice of a survey as the network eats it; rejects what cannot be used."""
        return MODALITIES[self.modality].prepare(rows, self.preparation)

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return len(self.live_D)

    def embed(self, image_BCYX: Tensor) -> Tensor:
        """Embeddings [B, dim] float32 of prepared objects [B, C, Y, X]."""
        with ran_by(self.encoder):
            output_BD = self.network(image_BCYX.to(memory_format=torch.channels_last)).float()
        return ((output_BD - self.center_D) / self.scale_D)[:, self.live_D]

    def to(self, device: torch.device) -> "Model":
        """The same model on another device."""
        return dataclasses.replace(
            self,
            network=self.network.to(device),
            center_D=self.center_D.to(device),
            scale_D=self.scale_D.to(device),
            live_D=self.live_D.to(device),
        )


def build_network(encoder: str, network_config: Mapping[str, Any]) -> nn.Module:
    """The untrained network of an encoder. Raises ConfigError on an unknown name."""
    if is_own(encoder):
        built = build_own(encoder, dict(network_config))
    else:
        module, name = kind_of(encoder).network.split(":")
        network = getattr(importlib.import_module(f"astroray.encoders.{module}"), name)
        built = network(**network_config)
    # the order of memory in which convolutions are 1.5 times as fast on a CPU
    return built.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def save_model(path: str, model: Model) -> str:
    """Publishes the model file, whole or absent, and returns its model_id, made of its content."""
    tensors = {f"network.{name}": tensor for name, tensor in model.network.state_dict().items()}
    tensors |= {
        "frame.center": model.center_D,
        "frame.scale": model.scale_D,
        "frame.live": model.live_D,
    }
    meant: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "encoder": model.encoder,
        "preparation": dataclasses.asdict(model.preparation),
        "network": dict(model.network_config),
    }
    if is_own(model.encoder):
        meant["own"] = {"code": own_code(model.encoder), "modality": model.modality}
    if model.quantized is not None:
        tensors |= model.quantized.tensors()
        meant["quantized"] = model.quantized.meaning()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    meaning = json.dumps(meant, sort_keys=True)
    model_id = content_id(meaning, safetensors.torch.save(tensors))
    metadata = {
        "astroray": meaning,
        "model_id": model_id,
        "fit": json.dumps(dict(model.fit), sort_keys=True),
    }
    storage.publish(path, safetensors.torch.save(tensors, metadata))
    return model_id


def load_model(path: str) -> Model:
    """The model of a file, on the CPU, its id checked against its content.

    Raises ConfigError where the file is no model, is damaged, or is of another format version,
    or where the code of a class of the user's own is another than when it was fitted.
    """
    file = read_model_file(path)
    if is_own(file.encoder) and (code := own_code(file.encoder)) != file.code:
        raise ConfigError(
            f"{path} was fitted with the class {file.encoder} as its module was then (hash "
            f"{file.code}), here it is {code}: embeddings would differ; restore it, or scan into a "
            "new --out"
        )
    tensors = safetensors.torch.load(file.data)
    network = build_network(file.encoder, file.network_config)
    prefix = "network."
    weights = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    network.load_state_dict(weights)
    return Model(
        encoder=file.encoder,
        preparation=file.preparation,
        network=network,
        network_config=file.network_config,
        center_D=tensors["frame.center"],
        scale_D=tensors["frame.scale"],
        live_D=tensors["frame.live"],
        fit=file.fit,
        model_id=file.model_id,
        quantized=read_quantized(file.quantized, tensors) if file.quantized else None,
    )
