"""How much memory a piece of work takes at its peak, as far as rows are concerned."""

import tracemalloc
from collections.abc import Callable

import pyarrow as pa


def peak_bytes(work: Callable[[], object]) -> int:
    """Of Arrow's memory and of Python's and NumPy's; files that are mapped do not count."""
    before, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        work()
        return pool.max_memory() + tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)
