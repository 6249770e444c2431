"""The small remote files of a shard are fetched before they are read, several at a time.

A store takes tens of milliseconds to answer, however small the file is: read one by one, a shard
of small files would be mostly waited for. A file fetched here is handed out once, to its first
reader.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import BinaryIO

from astroray.storage.remote import get, is_remote, store

__all__ = ["fetch", "fetching"]

NUM_REQUESTS = 6
"""Files that are fetched at a time, as many as a browser fetches from one host."""
NUM_AHEAD = 24
MAX_AHEAD_BYTES, MAX_FILE_BYTES = 64 * 2**20, 16 * 2**20
"""Most bytes held at a time, and of one file: the bytes of a larger one take longer than the
answer of the store."""


def fetch(path: str, file: BinaryIO) -> None:
    """Writes a whole remote file to an open one that is empty; raises as `remote.get` does."""
    for ahead in tuple(_UNDER_WAY):
        if (data := ahead.take(path)) is not None:
            file.write(data)
            return
    store(path).get_file(path, file)


@contextlib.contextmanager
def fetching(files: Sequence[tuple[str, int]]) -> Iterator[None]:
    """Fetches these files in the background while the block reads them, in this order.

    files  paths and sizes in bytes; `fetch` gets local and large ones only when they are read
    """
    small = [(path, size) for path, size in files if 0 < size <= MAX_FILE_BYTES and is_remote(path)]
    if len(small) < 2:
        yield
        return
    pool = ThreadPoolExecutor(NUM_REQUESTS, thread_name_prefix="ahead")
    ahead = _Ahead(pool, small)
    _UNDER_WAY.append(ahead)
    try:
        yield
    finally:
        _UNDER_WAY.remove(ahead)
        ahead.end()


class _Ahead:
    """Files in the order in which they will be taken, the first of them on their way."""

    def __init__(self, pool: ThreadPoolExecutor, files: Sequence[tuple[str, int]]) -> None:
        self.pool = pool
        self.later = deque(files)
        self.held: dict[str, tuple[Future[bytes], int]] = {}
        self.lock = threading.Lock()
        self._fill()

    def take(self, path: str) -> bytes | None:
        """The bytes of a file, once; None where it is not among those on their way."""
        with self.lock:
            if path not in self.held:  # whoever reads another shard asks too, maybe at the end
                return None
            future, _ = self.held.pop(path)
            self._fill()
        try:
            return future.result()
        except CancelledError:  # the shard that it was to be fetched for has ended
            return None

    def end(self) -> None:
        """Gives up what was not taken; a thread that reads another shard fetches it by itself."""
        with self.lock:
            self.held.clear()
            self.later.clear()
            self.pool.shutdown(wait=False, cancel_futures=True)

    def _fill(self) -> None:
        num_bytes = sum(size for _, size in self.held.values())
        while self.later and len(self.held) < NUM_AHEAD:
            path, size = self.later[0]
            if self.held and num_bytes + size > MAX_AHEAD_BYTES:
                break
            self.later.popleft()
            if path not in self.held:
                self.held[path] = (self.pool.submit(get, path), size)
                num_bytes += size


_UNDER_WAY: list[_Ahead] = []
"""Those of this process, whose threads may read several shards."""
