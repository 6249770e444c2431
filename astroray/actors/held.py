"""What a process keeps from one task to the next: a worker that is dear to make."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["call_held", "let_go"]


def call_held(batch: Mapping[str, Any], *, made: Callable[..., Any], told: tuple[Any, ...]) -> Any:
    """What `made(*told)` makes of a batch; the process makes it once and keeps the latest.

    told  can be hashed: two that are equal stand for the same worker
    """
    return _make(made, told)(batch)


def let_go() -> None:
    """Frees what is kept, for work of another kind."""
    _make.cache_clear()


@functools.lru_cache(maxsize=1)
def _make(made: Callable[..., Any], told: tuple[Any, ...]) -> Any:
    return made(*told)
