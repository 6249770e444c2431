"""Files that are copied between disks and object stores, however large, without holding them."""

import os
from collections.abc import Iterator

from astroray.storage import is_remote, object_store, publishing
from astroray.storage.disk_errors import reading
from astroray.storage.meter import METER
from astroray.storage.remote import is_web, store

__all__ = ["copy_file"]


def copy_file(path: str, target: str) -> None:
    """`target` becomes a file of the same bytes, whole or absent; an older one is replaced.

    From one place on S3 to another the store copies by itself; from a web server to S3 the bytes
    go through a file on this machine's disk. Raises FileError where `path` is missing or may not be
    read, StorageError where `target` cannot be written.
    """
    if all(is_remote(one) and not is_web(one) for one in (path, target)):
        object_store.copy(path, target)
        return
    if is_remote(target):
        with reading(path), open(path, "rb") as source:
            METER.add(os.fstat(source.fileno()).st_size)
            store(target).put_file(target, source)
        return
    with publishing(target) as file:
        if is_remote(path):
            store(path).get_file(path, file)
        else:
            file.writelines(_pieces(path))
        METER.add(file.tell())


def _pieces(path: str) -> Iterator[bytes]:
    with reading(path), open(path, "rb") as source:
        while data := source.read(object_store.PIECE_BYTES):
            yield data
