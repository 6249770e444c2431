"""Which folder holds a language model that forecasts can be built on, and how it is told apart.

Nothing is downloaded and none of a folder's own code is run: weights are read from safetensors, and
the network's class is one of the installed transformers'.
"""

import functools
import glob
import hashlib
import json
import os
from typing import Any

from astroray import storage
from astroray.errors import BackendError, ConfigError

__all__ = ["check_backbone", "check_tuning", "find_backbone", "fingerprint_of", "load_backbone"]

SETTINGS = "config.json"
TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json")
"""A tokenizer has one of these."""
OTHERS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")
WEIGHTS = "*.safetensors"
CAUSAL = ("ForCausalLM", "LMHeadModel")
"""Ends of the names that Hugging Face gives to causal language models."""


def check_backbone(folder: str) -> str:
    """Fingerprint of the language model in a folder.

    Raises ConfigError where there is none that can be used, without reading its weights into a
    network; BackendError without transformers or peft.
    """
    _import_transformers()
    if storage.is_remote(folder):
        raise ConfigError(
            f"backbone is {folder}, expected a folder that every machine of the cluster sees"
        )
    if not os.path.isdir(folder):
        raise ConfigError(
            f"backbone is {folder}, which is no folder; expected one of a Hugging Face causal "
            "language model, as `save_pretrained` or `hf download --local-dir` writes it"
        )
    names = sorted(os.listdir(folder))
    if SETTINGS not in names:
        raise ConfigError(
            f"{folder} has no {SETTINGS}, expected a Hugging Face causal language model; "
            f"it holds {', '.join(names[:5]) or 'nothing'}"
        )
    architecture = _architecture(folder)
    if not architecture.endswith(CAUSAL):
        raise ConfigError(
            f"{folder} is a {architecture or 'model of no named architecture'}, expected a causal "
            "language model (...ForCausalLM or ...LMHeadModel)"
        )
    if not glob.glob(os.path.join(glob.escape(folder), WEIGHTS)):
        raise ConfigError(
            f"{folder} has no {WEIGHTS}, and other weights are not read since they can run code; "
            "load it where you trust it and write it by save_pretrained"
        )
    if not set(TOKENIZER) & set(names):
        raise ConfigError(
            f"{folder} has no tokenizer, expected {', '.join(TOKENIZER[:-1])} or {TOKENIZER[-1]}; "
            "save it there with the tokenizer's save_pretrained"
        )
    return fingerprint_of(folder)


def check_tuning(method: str, pretrain_passes: int) -> None:
    """Raises ConfigError where a language model is to be tuned in a way that it cannot be."""
    if method != "lora" or pretrain_passes:
        raise ConfigError(
            f"a language model is tuned by {method} after {pretrain_passes} passes of "
            "pre-training, expected lora and 0: it comes pre-trained, and its own weights stay in "
            "their folder; leave out --method and --pretrain-passes"
        )


def fingerprint_of(folder: str) -> str:
    """Hash of the files that decide a forecast: settings, weights, tokenizer."""
    names = {SETTINGS, *TOKENIZER, *OTHERS}
    paths = [path for name in names if os.path.exists(path := os.path.join(folder, name))]
    paths += glob.glob(os.path.join(glob.escape(folder), f"{WEIGHTS}*"))  # and their index
    digest = hashlib.sha256()
    for path in sorted(paths):
        status = os.stat(path)
        content = _hash_file(path, status.st_size, status.st_mtime_ns)
        digest.update(f"{os.path.basename(path)} {content}\n".encode())
    return digest.hexdigest()[:16]


def find_backbone(recorded: str, fingerprint: str, model_path: str) -> str:
    """The folder of a language model on which the forecaster of a model file was trained.

    recorded  where it was then; a folder of the same name beside the model file does as well

    Raises ConfigError where it is in neither place or has changed.
    """
    places = [recorded]
    if not storage.is_remote(model_path):
        beside = os.path.dirname(os.path.abspath(model_path))
        places.append(os.path.join(beside, os.path.basename(recorded)))
    found = [place for place in dict.fromkeys(places) if os.path.isdir(place)]
    for place in found:
        if check_backbone(place) == fingerprint:
            return place
    if found:
        raise ConfigError(
            f"{found[0]} is not the language model that {model_path} was trained on: its "
            f"fingerprint is {fingerprint_of(found[0])}, expected {fingerprint}; put back the "
            "weights, settings and tokenizer of then, or train anew"
        )
    raise ConfigError(
        f"the language model that {model_path} was trained on is not there, expected "
        f"{' or '.join(dict.fromkeys(places))} with fingerprint {fingerprint}; put its folder in "
        "one of these places"
    )


def load_backbone(folder: str) -> tuple[Any, Any]:
    """A folder's network in float32, without the head that says the next word, and its tokenizer.

    Raises ConfigError where transformers cannot build the one or the other, or weights are missing.
    """
    import safetensors

    transformers = _import_transformers()
    known: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    logs = transformers.utils.logging
    was_shown = logs.is_progress_bar_enabled()
    logs.disable_progress_bar()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **known)
        model, told = transformers.AutoModelForCausalLM.from_pretrained(
            folder, use_safetensors=True, dtype="float32", output_loading_info=True, **known
        )
    except (
        *(OSError, ValueError, KeyError, RuntimeError, ImportError),
        safetensors.SafetensorError,
    ) as error:
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(
            f"{folder} could not be loaded as a language model ({reason}), expected one that the "
            f"installed transformers {transformers.__version__} knows"
        ) from error
    finally:
        if was_shown:
            logs.enable_progress_bar()
    lacking = sorted(told["missing_keys"])
    if lacking:
        raise ConfigError(
            f"the weights of {folder} lack {lacking[0]} and {len(lacking) - 1} more, expected all "
            f"that a {_architecture(folder)} has; copy the folder anew"
        )
    return model.base_model, tokenizer


def _architecture(folder: str) -> str:
    path = os.path.join(folder, SETTINGS)
    try:
        with open(path, encoding="utf-8") as file:
            names = json.load(file).get("architectures") or [""]
    except (ValueError, AttributeError):
        raise ConfigError(f"{path} is no JSON object; copy the folder anew") from None
    return str(names[0])


@functools.lru_cache(maxsize=256)
def _hash_file(path: str, size: int, changed_ns: int) -> str:
    """Of the content; the other arguments are there to remember it by."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _import_transformers() -> Any:
    try:
        import peft  # noqa: F401
        import transformers
    except ImportError as error:
        raise BackendError(
            f"{error.name} is not installed, expected for a language model as backbone; "
            "pip install 'astroray[flares]'"
        ) from None
    return transformers
