"""What a Ray of this process alone starts, and where it listens: no options of `ray.init`."""

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

__all__ = ["small_start"]


@contextlib.contextmanager
def small_start() -> Iterator[None]:
    """Within it `ray.init` starts a cluster that listens on loopback alone and has no monitors.

    On loopback alone is Ray's way on macOS. Elsewhere it takes the machine's address and listens
    on all, with series that need no token. The monitors are processes that `ray start` can leave
    out: one sends what workers write to drivers that ask for it, which ours do not; the other
    starts machines, of which there is one here.
    """
    from ray._private import parameter, ray_constants

    parameters: Any = parameter
    with_all, on_all = parameters.RayParams, ray_constants.ENABLE_RAY_CLUSTER
    parameters.RayParams = partial(with_all, include_log_monitor=False, no_monitor=True)
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        parameters.RayParams, ray_constants.ENABLE_RAY_CLUSTER = with_all, on_all
