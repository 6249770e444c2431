"""How many bytes this process has read, by which it is judged what a resume costs."""

import threading


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
