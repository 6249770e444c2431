"""How a fit begins, or goes on: the settings that its folder keeps."""

import json
from collections.abc import Mapping
from typing import Any

from astroray import ledger, storage
from astroray.errors import ConfigError

__all__ = ["begin_fit"]

FIT_SETTINGS = "settings.json"


def begin_fit(folder: str, model_path: str, settings: Mapping[str, Any]) -> bool:
    """Whether the model of a fit is there already; notes its settings where it begins.

    folder  keeps the fit's state; one that ended before it had read anything is free

    Raises ConfigError where the folder holds a fit with other settings, and where the model was
    made by none.
    """
    path = storage.join(folder, FIT_SETTINGS)
    known = json.loads(storage.read_bytes(path)) if storage.exists(path) else None
    if known is None and storage.exists(model_path):
        raise ConfigError(
            f"{model_path} exists and was made by no fit in {folder}; remove it or give another "
            "--out"
        )
    changed = list(ledger.differences(known or {}, settings))
    if known is None or (changed and ledger.is_bare(folder, FIT_SETTINGS)):
        storage.publish(path, json.dumps(settings, indent=1).encode())
        return False
    if changed:
        raise ConfigError(
            f"{folder} holds another fit: {'; '.join(changed)}; repeat its command to resume it, "
            "give another --out, or remove the folder and the model to fit anew"
        )
    return storage.exists(model_path)
