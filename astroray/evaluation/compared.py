"""Which encoders an evaluation compares: how they are asked for, and what comes beside them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from astroray.config import EncoderConfig
from astroray.encoders import (
    ENCODERS,
    QuantizeName,
    choose_encoder,
    is_own,
    kind_of,
    read_model_file,
)
from astroray.errors import ConfigError
from astroray.evaluation.quantized import split_numbers
from astroray.settings import from_dict, gather, to_dict
from astroray.surveys.shards import ModalityName, SurveyUri

__all__ = ["ALWAYS", "Compared", "FitSettings", "compared_encoders"]

ALWAYS: Mapping[ModalityName, tuple[str, ...]] = {
    "images": ("size", "brightness", "pixels", "pca"),
    "light_curves": ("amplitude", "scatter", "lc-pca"),
    "spectra": ("amplitude", "scatter", "spec-pca"),
}
"""Trivial baselines that every table shows."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitSettings:
    """What may be set of an encoder that is fitted here, called as in a scan's `encoder.`."""

    latent: int | None = None
    """Length of the network's output; None: its own default."""
    network: Mapping[str, int | float | bool | str] = dataclasses.field(default_factory=dict)
    """Further keywords of a class of the user's own."""

    def given(self) -> dict[str, Any]:
        """The settings that are not the default."""
        return {name: value for name, value in to_dict(self).items() if value}

    def options(self) -> dict[str, str]:
        """The same as they are asked for."""
        latent = {} if self.latent is None else {"latent": self.latent}
        keywords = {f"network.{key}": value for key, value in self.network.items()}
        return {key: str(value) for key, value in (latent | keywords).items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compared:
    """An encoder as the table calls it."""

    label: str
    name: str
    """Of ENCODERS or of a trivial baseline."""
    path: str | None = None
    """Model file that was given."""
    settings: FitSettings = dataclasses.field(default_factory=FitSettings)
    numbers: QuantizeName = "auto"
    """What it computes with."""
    reference: str = ""
    """Label of the same encoder in float32; empty where it is not on fewer bits."""

    @property
    def is_fitted_long(self) -> bool:
        """Whether its fit is gradient descent."""
        is_given = self.path is not None
        is_fitted = self.name in ENCODERS or is_own(self.name)
        return not is_given and is_fitted and kind_of(self.name).is_descended()

    def describe(self) -> dict[str, Any]:
        """What has to be asked for to have it again."""
        asked = {"name": self.name, "settings": self.settings.given(), "numbers": self.numbers}
        return asked | ({"path": self.path} if self.path else {})


def compared_encoders(asked: Sequence[str], modality: ModalityName) -> list[Compared]:
    """Trivial baselines, then what was asked for, each once, behind what it is compared with.

    asked  names or model files; `rings?latent=64` and `nets:Small?network.width=24` are fitted
           with these settings, `vit-tiny:w8a8o` computes with those numbers

    Raises ConfigError on other names and settings, and on encoders of another modality.
    """
    encoders = {label: Compared(label=label, name=label) for label in ALWAYS[modality]}
    for one in asked:
        text, numbers = split_numbers(one)
        plain = _given(text, modality)
        for encoder in plain:
            encoders.setdefault(encoder.label, encoder)
        if numbers != "auto":
            last = plain[-1]
            label = f"{last.label}:{numbers}"
            encoders[label] = dataclasses.replace(
                last, label=label, path=None, numbers=numbers, reference=last.label
            )
    return list(encoders.values())


def _given(text: str, modality: ModalityName) -> list[Compared]:
    """The encoder of a name or a file; of a quantized file its reference, then it itself."""
    uri = SurveyUri.parse(text)
    name = uri.location
    if name in ENCODERS or is_own(name):
        name = choose_encoder(name, modality)
        settings = _settings(text, name, uri.options, modality)
        label = str(SurveyUri(location=name, options=settings.options()))
        return [Compared(label=label, name=name, settings=settings)]
    if uri.options:
        raise ConfigError(
            f"encoder is {text!r}, but {name} is not fitted here; settings are for one of "
            f"{sorted(ENCODERS)}"
        )
    if name in ALWAYS[modality]:
        return [Compared(label=name, name=name)]
    return _of_file(name, modality)


def _settings(
    text: str, name: str, options: Mapping[str, str], modality: ModalityName
) -> FitSettings:
    """The settings of an encoder; raises ConfigError on those that a scan refuses."""
    values, _ = gather(None, {key: yaml.safe_load(value) for key, value in options.items()})
    settings: FitSettings = from_dict(FitSettings, values, where=f"encoder {text}", path="encoder.")
    EncoderConfig(name=name, latent=settings.latent, network=settings.network)
    if is_own(name):
        from astroray.encoders.own import check_keywords

        check_keywords(name, settings.network, modality)
    return settings


def _of_file(path: str, modality: ModalityName) -> list[Compared]:
    file = read_model_file(path)
    choose_encoder(file.encoder, modality)
    own = Compared(label=f"{file.encoder}:{file.model_id[:8]}", name=file.encoder, path=path)
    if not file.quantized:
        return [own]
    before = f"{file.encoder}:{file.quantized['reference_id'][:8]}"
    return [
        dataclasses.replace(own, label=before, numbers="none"),
        dataclasses.replace(own, reference=before),
    ]
