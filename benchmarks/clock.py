"""What a call takes: wall time, and beside it CPU time, which other processes disturb less."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple


class Timed(NamedTuple):
    """A call that was made once."""

    result: Any
    wall_s: float
    cpu_s: float
    """Of all threads of this process."""


def timed(call: Callable[[], Any]) -> Timed:
    """Calls it once, and says what it gave and took."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    result = call()
    return Timed(result, time.perf_counter() - wall_s, time.process_time() - cpu_s)
