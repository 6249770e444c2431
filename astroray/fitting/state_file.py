"""How the state of a fit lies in its folder."""

import io
from collections.abc import Mapping
from typing import Any

from astroray import storage

__all__ = ["load_state", "save_state"]

STATE_NAME = "state.pt"


def save_state(folder: str, state: Mapping[str, Any]) -> None:
    """Publishes a state in `folder`, whole or absent, in place of the one before."""
    import torch  # takes a second, and the command line reads fit_state.py

    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    storage.publish(storage.join(folder, STATE_NAME), buffer.getvalue())


def load_state(folder: str) -> dict[str, Any]:
    """The newest state in `folder`, its tensors on the CPU; empty where a fit begins."""
    import torch

    path = storage.join(folder, STATE_NAME)
    if not storage.exists(path):
        return {}
    buffer = io.BytesIO(storage.read_bytes(path))
    state: dict[str, Any] = torch.load(buffer, map_location="cpu", weights_only=True)
    return state
