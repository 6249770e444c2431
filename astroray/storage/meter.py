"""How many bytes this process reads: in all, which is what a resume costs, and at a time."""

import threading

PIECE_BYTES = 2**20
"""Of a file on its way that are in memory at a time."""


class Meter:
    """Bytes read, counted by several threads."""

    def __init__(self) -> None:
        self.bytes_read = 0
        self._lock = threading.Lock()

    def add(self, num_bytes: int) -> None:
        """Counts so many more; fewer than none are taken back."""
        with self._lock:
            self.bytes_read += num_bytes


METER = Meter()
