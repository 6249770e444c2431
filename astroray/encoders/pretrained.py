"""Weights that come with astroray, and how they suit a survey with other bands."""

import dataclasses
import functools
import hashlib
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from astroray.encoders import ENCODERS, read_metadata
from astroray.errors import ConfigError

__all__ = ["Pretrained", "load_pretrained", "object_hash", "pack_pretrained"]

BAND_TENSORS = ("band_CD", "decoder_band_CD")
ALIKE = {"g": "B", "r": "G", "i": "R", "z": "R", "y": "R", "u": "B"}
"""A color picture of a survey shows its bands g, r and i as blue, green and red (Lupton 2004)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretrained:
    """An encoder's weights as they were shipped."""

    encoder: str
    bands: tuple[str, ...]
    """Bands that it was trained on."""
    story: Mapping[str, Any]
    """How it was trained: command, sets, passes, seconds."""
    trained_on: frozenset[str]
    """`object_hash` of each object."""
    tensors: Mapping[str, Tensor]

    def weights(self, bands: Sequence[str]) -> dict[str, Tensor]:
        """The network's state for a survey in these bands, float32.

        A band that was not trained on takes the vector of the band that looks like it, else the
        mean of all.
        """
        rows = [self._row_of(band) for band in bands]
        state = {name: tensor.float() for name, tensor in self.tensors.items()}
        for name in BAND_TENSORS:
            known_CD = torch.cat([state[name], state[name].mean(0, keepdim=True)])
            state[name] = known_CD[rows]
        return state

    def _row_of(self, band: str) -> int:
        for name in (band, ALIKE.get(band)):
            if name in self.bands:
                return self.bands.index(name)
        return len(self.bands)


@functools.cache
def load_pretrained(encoder: str) -> Pretrained | None:
    """The weights that come with astroray for an encoder; None where there are none."""
    kind = ENCODERS.get(encoder)
    if kind is None or kind.weights is None:
        return None
    data = (importlib.resources.files("astroray.encoders") / kind.weights).read_bytes()
    story = json.loads(read_metadata(data)["astroray_pretrained"])
    tensors = safetensors.torch.load(data)
    hash_N = tensors.pop("trained_on").tolist()
    return Pretrained(
        encoder=story.pop("encoder"),
        bands=tuple(story.pop("bands")),
        story=story,
        trained_on=frozenset(f"{value & (2**64 - 1):016x}" for value in hash_N),
        tensors=tensors,
    )


def pack_pretrained(pretrained: Pretrained) -> bytes:
    """The file that `load_pretrained` reads; numbers are rounded to float16, which halves it.

    Raises ConfigError where a weight is too large for float16.
    """
    tensors = {name: tensor.half().contiguous() for name, tensor in pretrained.tensors.items()}
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ConfigError(
                f"weight {name} has numbers beyond float16, expected at most 65504; train with "
                "more weight decay"
            )
    hashes = [int(text, 16) for text in sorted(pretrained.trained_on)]
    signed = [value - 2**64 if value >= 2**63 else value for value in hashes]
    tensors["trained_on"] = torch.tensor(signed, dtype=torch.int64)
    story = {**pretrained.story, "encoder": pretrained.encoder, "bands": list(pretrained.bands)}
    metadata = {"astroray_pretrained": json.dumps(story, sort_keys=True)}
    return safetensors.torch.save(tensors, metadata)


def object_hash(survey: str, object_id: str) -> str:
    """What a list of training objects calls one: 16 hex digits of sha256 of `<set>/<id>`."""
    return hashlib.sha256(f"{survey}/{object_id}".encode()).hexdigest()[:16]
