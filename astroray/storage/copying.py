"""Files that are copied between disks and object stores, however large, without holding them."""

import os
from collections.abc import Iterator

from astroray.storage import is_remote, publishing
from astroray.storage.disk_errors import reading
from astroray.storage.meter import METER, PIECE_BYTES
from astroray.storage.remote import store

__all__ = ["copy_file"]


def copy_file(path: str, target: str) -> None:
    """`target` becomes a file of the same bytes, whole or absent; an older one is replaced.

    From one remote place to another the bytes go through a file on this machine's
    disk. Raises FileError where `path` is missing or may not be read, StorageError where `target`
    cannot be written.
    """
    if is_remote(target) and not is_remote(path):
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
        while data := source.read(PIECE_BYTES):
            yield data
