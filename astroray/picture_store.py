"""Which pictures are kept in memory, and which are drawn together: those of one file, read once."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping

__all__ = ["PictureStore"]

Draw = Callable[[Hashable, list[int]], Mapping[int, bytes]]
_NUM_LOCKS = 64


class PictureStore:
    """Encoded pictures by sheet and row, drawn at their first use. Safe between threads.

    A sheet is what one reading gives: a shard, at a size. Rows of it that are asked for at once, or
    ahead of time, are drawn by one reading: in a wide field that is a search for its sources. What
    was not asked for the longest makes room; a picture larger than the whole room is not kept.

    draw  pictures of rows of a sheet; rows without one are left out, and asked for again next time
    """

    def __init__(self, draw: Draw, *, max_bytes: int) -> None:
        self.draw, self.max_bytes = draw, max_bytes
        self.num_bytes = 0
        self._kept: OrderedDict[tuple[Hashable, int], bytes] = OrderedDict()
        self._waiting: dict[Hashable, set[int]] = {}
        self._lock = threading.Lock()
        self._sheet_locks = [threading.Lock() for _ in range(_NUM_LOCKS)]

    def get(self, sheet: Hashable, row: int) -> bytes | None:
        """The picture of a row; None where there is none now."""
        found = self._find(sheet, row)
        if found is not None:
            return found
        with self._lock:
            self._waiting.setdefault(sheet, set()).add(row)
        with self._lock_of(sheet):  # meanwhile others come, and the next to draw takes them along
            found = self._find(sheet, row)
            if found is not None:
                return found
            with self._lock:
                rows = self._waiting.pop(sheet, set()) | {row}
            return self._draw(sheet, rows).get(row)

    def draw_ahead(self, sheet: Hashable, rows: Iterable[int]) -> None:
        """Draws rows that will be asked for, those that are not kept."""
        with self._lock_of(sheet):
            missing = {row for row in rows if self._find(sheet, row) is None}
            if missing:
                self._draw(sheet, missing)

    def _draw(self, sheet: Hashable, rows: set[int]) -> Mapping[int, bytes]:
        drawn = self.draw(sheet, sorted(rows))
        with self._lock:
            for row, picture in drawn.items():
                self._keep((sheet, row), picture)
        return drawn

    def _find(self, sheet: Hashable, row: int) -> bytes | None:
        with self._lock:
            if (sheet, row) in self._kept:
                self._kept.move_to_end((sheet, row))
            return self._kept.get((sheet, row))

    def _keep(self, key: tuple[Hashable, int], picture: bytes) -> None:
        if len(picture) > self.max_bytes:
            return
        self.num_bytes += len(picture) - len(self._kept.pop(key, b""))
        self._kept[key] = picture
        while self.num_bytes > self.max_bytes:
            self.num_bytes -= len(self._kept.popitem(last=False)[1])

    def _lock_of(self, sheet: Hashable) -> threading.Lock:
        return self._sheet_locks[hash(sheet) % _NUM_LOCKS]
