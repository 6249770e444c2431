"""Arrays by name as one npz file, whole or absent."""

import io
from collections.abc import Mapping

import numpy as np

from astroray import storage

__all__ = ["publish_arrays", "read_arrays"]


def publish_arrays(path: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Publishes arrays as one file, whole or absent; its bytes are made in memory."""
    sink = io.BytesIO()
    np.savez(sink, **arrays)  # type: ignore[arg-type]
    storage.publish(path, sink.getvalue())


def read_arrays(path: str) -> dict[str, np.ndarray]:
    """The arrays of a file by name."""
    with np.load(io.BytesIO(storage.read_bytes(path))) as file:
        return {name: file[name] for name in file.files}
