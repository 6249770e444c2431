"""astroray finds the unusual in sky surveys, at survey scale.

The public names are loaded on first use, so that `import astroray` loads neither torch nor ray.
"""

import importlib
import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # so that editors and type checkers know them
    from astroray.encoders.store import load_model
    from astroray.notebook import Run, open_run, scan
    from astroray.preview import look
    from astroray.surveys import list_shards, read_shard

if os.name != "posix":
    raise ImportError(
        f"astroray runs on Linux and macOS, this is {os.name!r}; on Windows install it in WSL"
    )

__version__ = "0.1.0"
_IMPORTED_S = time.time()
"""When; modules of the user's that were written since may be other code than is loaded."""

_HOMES = {
    "Run": "notebook",
    "list_shards": "surveys",
    "load_model": "encoders.store",
    "look": "preview",
    "open_run": "notebook",
    "read_shard": "surveys",
    "scan": "notebook",
}
__all__ = ["Run", "list_shards", "load_model", "look", "open_run", "read_shard", "scan"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'astroray' has no attribute {name!r}, only {__all__}")
    return getattr(importlib.import_module(f"astroray.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
