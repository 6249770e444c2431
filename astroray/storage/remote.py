"""Which store an address is in: S3, or a web server, which is only read."""

import io
import os
from collections.abc import Iterable
from typing import BinaryIO, Protocol, cast

from astroray.errors import ConfigError
from astroray.storage.names import Found

__all__ = ["get", "get_range", "is_remote", "is_web", "is_whole", "store"]

_WEB = ("http", "https")


class Store(Protocol):
    """What both offer; see `object_store`."""

    def list_objects(self, location: str) -> Iterable[Found]: ...
    def list_direct(self, folder: str) -> list[Found]: ...
    def list_names(self, folder: str) -> list[str]: ...
    def list_folders(self, folder: str) -> list[str]: ...
    def head(self, path: str) -> tuple[int, str]: ...
    def exists(self, path: str) -> bool: ...
    def get_file(self, path: str, file: BinaryIO, span: str = "") -> int: ...
    def put(self, path: str, data: bytes) -> None: ...
    def put_file(self, path: str, file: BinaryIO) -> None: ...
    def put_new(self, path: str, data: bytes) -> bool: ...
    def delete(self, path: str) -> None: ...


def is_remote(path: str) -> bool:
    """Whether `path` lies on S3 or a web server rather than on this machine's disks.

    Raises ConfigError on an address of another kind, which would pass for a folder `gs:`.
    """
    scheme, mark, _ = path.partition("://")
    if mark and scheme not in ("s3", *_WEB):
        raise ConfigError(
            f"{path}: {scheme}:// is not read: download the files, or copy them to S3; expected a "
            "path of this machine, s3://bucket/key or https://server/path"
        )
    return bool(mark)


def is_web(path: str) -> bool:
    """Whether `path` lies on a web server: nothing is written there, and folders have no list."""
    return path.partition("://")[0] in _WEB


def is_whole(path: str) -> bool:
    """Whether `path` says by itself where a file lies, rather than from some folder."""
    return os.path.isabs(path) or is_remote(path)


def store(path: str) -> Store:
    """What talks to the store of a remote path: loaded now, for boto3 and requests take 0.3 s."""
    if is_web(path):
        from astroray.storage import web_store

        return cast(Store, web_store)
    from astroray.storage import object_store

    return cast(Store, object_store)


def get(path: str) -> bytes:
    """The whole file. Raises FileError where it is missing or forbidden."""
    data = io.BytesIO()
    store(path).get_file(path, data)
    return data.getvalue()


def get_range(path: str, start: int, size: int) -> tuple[bytes, int]:
    """At most so many bytes of a file from `start`, and the size of all; raises as `get`.

    A negative start counts from the end, which is then read to.
    """
    span = f"bytes={start}" if start < 0 else f"bytes={start}-{start + size - 1}"
    data = io.BytesIO()
    whole = store(path).get_file(path, data, span)
    if len(data.getvalue()) == whole:  # all of it was sent, as by a server that knows no ranges
        first = max(0, whole + start) if start < 0 else start
        return data.getvalue()[first : first + size], whole
    return data.getvalue(), whole
