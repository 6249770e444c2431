"""Encoders of the user's own: a class of a module outside of astroray, named `module:Class`."""

import hashlib
import importlib
import inspect
import itertools
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, cast, get_args

from torch import nn

import astroray
from astroray.encoders import EncoderKind
from astroray.encoders.own_errors import in_short, ran_by
from astroray.encoders.recipe import Recipe
from astroray.errors import ConfigError
from astroray.surveys.shards import ModalityName

__all__ = ["build_own", "check_keywords", "own_code", "own_kind"]

CONTRACT = (
    "expected a torch.nn.Module whose constructor takes keyword numbers and whose forward makes "
    "[B, D] of [B, C, S, S]; see docs/own_networks.md"
)
NUMBERS: Mapping[ModalityName, tuple[str, ...]] = {
    "images": ("num_bands", "size_px"),
    "light_curves": ("num_windows",),
    "spectra": ("num_windows",),
}
"""Keywords that the survey gives, as `network` of its preparation has them."""
SAID = tuple(dict.fromkeys(itertools.chain(*NUMBERS.values())))
GIVEN = (*SAID, "latent")
"""Keywords that astroray gives: what the survey says, and `encoder.latent`."""


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


def check_keywords(name: str, keywords: Collection[str], modality: ModalityName) -> None:
    """Raises ConfigError where its constructor takes other keywords than it will be given.

    keywords  those of `encoder.network`
    """
    network = _class(name)
    parameters = inspect.signature(network).parameters
    found = parameters.values()
    if any(one.kind is one.VAR_KEYWORD for one in found):
        known: Collection[str] = {*keywords} - {*GIVEN}
    else:
        known = [one.name for one in found if one.name not in GIVEN]
    if strange := [key for key in keywords if key not in known]:
        raise ConfigError(
            f"encoder.network.{strange[0]} is no keyword of {name}, expected "
            f"{'one of ' + ', '.join(known) if known else 'none: it takes no further ones'}; what "
            f"the survey says ({', '.join(SAID)}) astroray gives, latent is encoder.latent"
        )
    latent = ("latent",) if "latent" in parameters else ()
    _check_constructor(network, name, [*NUMBERS[modality], *latent, *keywords])


def build_own(name: str, numbers: dict[str, Any]) -> nn.Module:
    """Its network. Raises ConfigError where its constructor takes other keywords."""
    found = _class(name)
    _check_constructor(found, name, numbers)
    with ran_by(name):
        return found(**numbers)


def _check_constructor(found: type[nn.Module], name: str, keywords: Collection[str]) -> None:
    try:
        if found.__init__ is nn.Module.__init__:  # whose signature takes anything
            raise TypeError("it has no constructor of its own")
        inspect.signature(found).bind(**dict.fromkeys(keywords))
    except TypeError as error:
        parameters = inspect.signature(found).parameters
        missing = [
            f"give it as --set encoder.network.{one.name}="
            for one in parameters.values()
            if one.name not in keywords and one.default is one.empty
        ]
        is_known = all(key in parameters for key in keywords)
        raise ConfigError(
            f"encoder {name} is built with {', '.join(keywords)}: {error}; "
            f"{missing[0] if missing and is_known else CONTRACT}"
        ) from None


def own_code(name: str) -> str:
    """Hash of the module that the class is written in: other code makes other embeddings."""
    file = inspect.getsourcefile(_class(name))
    if file is None:
        raise ConfigError(f"encoder {name} has no source file, expected a module of Python text")
    return _digest(Path(file).read_bytes())


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:16]


def _class(name: str) -> type[nn.Module]:
    module, _, attribute = name.partition(":")
    if module == "__main__":
        raise ConfigError(
            f"the encoder {name} stands in the notebook or script itself, where no worker can "
            f"import it; write it to a file (%%writefile nets.py) and name it nets:{attribute}"
        )
    try:
        found = getattr(_import(module), attribute, None)
        home = getattr(found, "__module__", module)
        if home != module and isinstance(found, type) and issubclass(found, nn.Module):
            found = getattr(_import(home), found.__qualname__, found)
    except (ImportError, SyntaxError) as error:
        raise ConfigError(
            f"the encoder {name} cannot be imported: {error}; install its module, or put its "
            "folder on PYTHONPATH, on every machine of the run"
        ) from None
    except Exception as error:
        raise ConfigError(
            f"the encoder {name} cannot be imported: {in_short(error)}; mend its module"
        ) from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        got = "nothing" if found is None else f"{type(found).__name__} {attribute}"
        raise ConfigError(f"encoder is {name}, and {module} has {got} of that name, {CONTRACT}")
    return found


_RUN: dict[str, tuple[ModuleType, str]] = {}
"""By name, modules that were asked for here, and the hash of the text that they were run from."""


def _import(name: str) -> ModuleType:
    """A module as its file is now: in a notebook it is edited after it was imported, and run anew.

    Workers import the file, so what they and this process encode with is one code.
    """
    is_known = name in sys.modules
    module = importlib.import_module(name)
    file = Path(getattr(module, "__file__", None) or "none")
    if file.suffix != ".py" or not file.is_file():
        return module
    text = file.read_bytes()
    before, digest = _RUN.get(name, (None, ""))
    is_edited = digest != _digest(text) if before is module else _is_later(file)
    if is_known and is_edited:
        exec(compile(text, str(file), "exec"), module.__dict__)
    _RUN[name] = (module, _digest(text))
    return module


def _is_later(file: Path) -> bool:
    """Whether a file was written since astroray was imported, and maybe since it was itself."""
    return file.stat().st_mtime > astroray._IMPORTED_S
