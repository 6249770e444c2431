"""Which pictures are kept in memory: the ones asked for last, up to a number of bytes."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

__all__ = ["PictureCache"]


class PictureCache:
    """Encoded pictures by key; what was not asked for the longest makes room. Safe between threads.

    A picture larger than the whole room is made anew each time.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._kept: OrderedDict[Hashable, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], bytes | None]) -> bytes | None:
        """The picture of a key, made where it is not kept; None, where `make` gives it, is not."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = make()  # two who ask at once both make it, and nobody waits for another's picture
        if made is not None and len(made) <= self.max_bytes:
            with self._lock:
                self._keep(key, made)
        return made

    def _keep(self, key: Hashable, made: bytes) -> None:
        self.num_bytes += len(made) - len(self._kept.pop(key, b""))
        self._kept[key] = made
        while self.num_bytes > self.max_bytes:
            self.num_bytes -= len(self._kept.popitem(last=False)[1])
