"""Files that are copied between disks and object stores, however large, without holding them."""

import os
from collections.abc import Iterator

from astroray.storage import is_remote, object_store, publishing
from astroray.storage.disk_errors import reading
from astroray.storage.meter import METER

__all__ = ["copy_file"]


def copy_file(path: str, target: str) -> None:
    """`target` becomes a file of the same bytes, whole or absent; an older one is replaced.

    From an object store to another place of one the bytes go through a file on this machine's
    disk. Raises FileError where `path` is missing or may not be read, StorageError where `target`
    cannot be written.
    """
    if is_remote(target) and not is_remote(path):
        with reading(path), open(path, "rb") as source:
            METER.add(os.fstat(source.fileno()).st_size)
            object_store.put_file(target, source)
        return
    with publishing(target) as file:
        if is_remote(path):
            object_store.get_file(path, file)
        else:
            file.writelines(_pieces(path))
        METER.add(file.tell())


def _pieces(path: str) -> Iterator[bytes]:
    with reading(path), open(path, "rb") as source:
        while data := source.read(object_store.PIECE_BYTES):
            yield data
