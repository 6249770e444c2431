"""A remote file of which little is read: parts, by their bytes, when asked for."""

import io

from astroray.storage.meter import METER
from astroray.storage.remote import get_range

__all__ = ["Ranges"]

LEAST_BYTES = 2**16
"""Of a request: what follows is often asked for next. The end is read first, as Arrow does."""


class Ranges(io.RawIOBase):
    """An open file that makes a request for what is read; the end of it and the last are kept.

    Raises FileError where it is missing or forbidden.
    """

    def __init__(self, path: str) -> None:
        self.path, self.place = path, 0
        tail, self.size = get_range(path, -LEAST_BYTES, LEAST_BYTES)
        METER.add(len(tail))
        self._tail = self._last = (self.size - len(tail), tail)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.place}.get(whence, self.size)
        return self.place

    def read(self, size: int = -1) -> bytes:
        left = max(0, self.size - self.place)
        data = self._between(self.place, left if size < 0 else min(size, left))
        self.place += len(data)
        return data

    def _between(self, start: int, size: int) -> bytes:
        if not size:
            return b""
        for first, data in (self._tail, self._last):
            if first <= start and start + size <= first + len(data):
                return data[start - first : start - first + size]
        data, _ = get_range(self.path, start, max(size, LEAST_BYTES))
        METER.add(len(data))
        self._last = start, data
        return data[:size]
