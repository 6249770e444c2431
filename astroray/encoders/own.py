"""Encoders of the user's own: a class of a module outside of astroray, named `module:Class`."""

import hashlib
import importlib
import inspect
from pathlib import Path
from typing import Any, cast, get_args

from torch import nn

from astroray.encoders import EncoderKind
from astroray.encoders.recipe import Recipe
from astroray.errors import ConfigError
from astroray.surveys.shards import ModalityName

__all__ = ["build_own", "own_code", "own_kind"]

CONTRACT = (
    "expected a torch.nn.Module whose constructor takes keyword numbers and whose forward makes "
    "[B, D] of [B, C, S, S]; see docs/encoders.md"
)


def own_kind(name: str) -> EncoderKind:
    """What its class says of itself. Raises ConfigError where there is no such class.

    A class with a method `loss` is trained, by its `recipe` where it has one; `modality`,
    `standardize` and a keyword `latent` mean what EncoderKind says.
    """
    found = _class(name)
    modality: Any = getattr(found, "modality", "images")
    if modality not in get_args(ModalityName):
        raise ConfigError(
            f"modality of {name} is {modality!r}, expected one of {get_args(ModalityName)}"
        )
    recipe = getattr(found, "recipe", Recipe())
    if not isinstance(recipe, Recipe):
        raise ConfigError(f"recipe of {name} is {recipe!r}, expected an encoders.recipe.Recipe")
    return EncoderKind(
        network=name,
        fit="network" if hasattr(found, "loss") else "none",
        standardize=bool(getattr(found, "standardize", False)),
        recipe=recipe,
        modality=cast(ModalityName, modality),
        has_latent="latent" in inspect.signature(found).parameters,
    )


def build_own(name: str, numbers: dict[str, int]) -> nn.Module:
    """Its network. Raises ConfigError where its constructor takes other keywords."""
    found = _class(name)
    try:
        inspect.signature(found).bind(**numbers)
    except TypeError as error:
        raise ConfigError(
            f"encoder {name} is built with {', '.join(numbers)}: {error}; {CONTRACT}"
        ) from None
    return found(**numbers)


def own_code(name: str) -> str:
    """Hash of the module that the class is written in: other code makes other embeddings."""
    file = inspect.getsourcefile(_class(name))
    if file is None:
        raise ConfigError(f"encoder {name} has no source file, expected a module of Python text")
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]


def _class(name: str) -> type[nn.Module]:
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ImportError as error:
        raise ConfigError(
            f"the encoder {name} cannot be imported: {error}; install its module, or put its "
            "folder on PYTHONPATH, on every machine of the run"
        ) from None
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        got = "nothing" if found is None else f"{type(found).__name__} {attribute}"
        raise ConfigError(f"encoder is {name}, and {module} has {got} of that name, {CONTRACT}")
    return found
