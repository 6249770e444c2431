"""How a fit begins, or goes on: the settings that its folder keeps."""

import json
from collections.abc import Mapping
from typing import Any

from astroray import ledger, storage
from astroray.errors import ConfigError

__all__ = ["is_fitted", "note_settings"]

FIT_SETTINGS = "settings.json"


def is_fitted(folder: str, model_path: str, settings: Mapping[str, Any]) -> bool:
    """Whether the model of a fit is there already.

    folder  keeps the fit's state; one that ended before it had read anything is free

    Raises ConfigError where the folder holds a fit with other settings, and where the model was
    made by none.
    """
    path = _settings_file(folder)
    known = json.loads(storage.read_bytes(path)) if storage.exists(path) else None
    if known is None and storage.exists(model_path):
        raise ConfigError(
            f"{model_path} exists and was made by no fit in {folder}; remove it or give another "
            "--out"
        )
    changed = list(ledger.differences(known or {}, settings))
    if known is None or (changed and ledger.is_bare(folder, FIT_SETTINGS)):
        return False
    if changed:
        raise ConfigError(
            f"{folder} holds another fit: {'; '.join(changed)}; repeat its command to resume it, "
            "give another --out, or remove the folder and the model to fit anew"
        )
    return storage.exists(model_path)


def note_settings(folder: str, settings: Mapping[str, Any]) -> None:
    """Makes the folder that of a fit with these settings; after all that refuses them."""
    storage.publish(_settings_file(folder), json.dumps(settings, indent=1).encode())


def _settings_file(folder: str) -> str:
    return storage.join(folder, FIT_SETTINGS)
