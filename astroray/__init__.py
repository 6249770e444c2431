"""astroray finds the unusual in sky surveys, at survey scale.

The public names are loaded on first use, so that `import astroray` loads neither torch nor ray.
"""

import importlib

__version__ = "0.1.0"

_HOMES = {
    "ScanConfig": "pipeline",
    "list_shards": "surveys",
    "load_model": "encoders.store",
    "read_catalog": "catalog",
    "read_shard": "surveys",
    "scan": "pipeline",
}
__all__ = ["ScanConfig", "list_shards", "load_model", "read_catalog", "read_shard", "scan"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'astroray' has no attribute {name!r}, only {__all__}")
    return getattr(importlib.import_module(f"astroray.{_HOMES[name]}"), name)
