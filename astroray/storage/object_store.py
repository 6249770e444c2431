"""How astroray talks to S3: one request an object, retried while the store is busy.

boto3 does all of it rather than pyarrow's file system: conditional puts need it anyway, and one
client means one chain of credentials, endpoints and retries, with errors that carry a code.
Endpoint and credentials are found the way boto3 finds them: environment, profile, ~/.aws, role.
"""

import functools
import io
import itertools
import os
import random
import re
import shutil
import time
from collections.abc import Collection, Iterator
from typing import Any, BinaryIO

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

from astroray.errors import ConfigError, FileError
from astroray.storage import s3_failures
from astroray.storage.meter import PIECE_BYTES
from astroray.storage.names import Found, has_hidden, matches
from astroray.storage.s3_failures import (
    BROKEN,
    errors,
    look_at_failure,
    missing,
    status_of,
    tries_of,
)

MAX_PUT_BYTES = 5 * 1024**3
"""What S3 takes in one request; more goes up in parts, and stands there once all of them do."""
MIN_PART_BYTES = 64 * 2**20
"""As many of these, or larger ones, as 10,000 parts hold."""
CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 60


def list_objects(location: str) -> Iterator[Found]:
    """One object, else all below a folder, else all that match a glob, in the store's order.

    Names that begin with a dot or underscore are left out, unless `location` spells them.
    """
    bucket, key = _split(location)
    forbidden: FileError | None = None
    try:
        if key and not key.endswith("/") and (single := _head(location, "read")):
            yield location, *single
            return
    except FileError as error:  # what a folder gets too, where only some keys may be read
        forbidden = error
    folder = f"{key.rstrip('/')}/" if key.rstrip("/") else ""
    found = (f for f in _list(bucket, folder) if not has_hidden(f[0].removeprefix(folder)))
    first = next(found, None)
    if first is None and (literal := re.split(r"[*?[]", key, maxsplit=1)[0]) != key:
        patterns = key.split("/")
        found = (f for f in _list(bucket, literal) if matches(f[0].split("/"), patterns))
        first = next(found, None)
    if first is not None:
        for name, size, etag in itertools.chain([first], found):
            yield f"s3://{bucket}/{name}", size, etag
    elif forbidden:
        raise forbidden


def list_names(folder: str) -> list[str]:
    """Names of the objects directly in `folder`, sorted; empty where there is no such folder."""
    return [path.rpartition("/")[2] for path, _, _ in list_direct(folder)]


def list_direct(folder: str) -> list[Found]:
    """The objects directly in `folder`, sorted by path; empty where there is no such folder."""
    bucket, key = _split(folder)
    prefix = f"{key.rstrip('/')}/" if key else ""
    found = _list(bucket, prefix, delimiter="/")
    return sorted((f"s3://{bucket}/{key}", size, etag) for key, size, etag in found)


def list_folders(folder: str) -> list[str]:
    """What stands directly below `folder` and has objects below itself; no folder has none."""
    bucket, key = _split(folder)
    prefix = f"{key.rstrip('/')}/" if key else ""
    with errors(folder, "list"):
        pages = _client().get_paginator("list_objects_v2")
        return [
            item["Prefix"][len(prefix) : -1]
            for page in pages.paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
            for item in page.get("CommonPrefixes", ())
        ]


def head(path: str) -> tuple[int, str]:
    """Size in bytes and etag of an object. Raises FileError where it is missing or forbidden."""
    found = _head(path, "read")
    if found is None:
        raise missing(path)
    return found


def exists(path: str) -> bool:
    """Whether an object stands there; a bucket, or a key that ends with a slash, is a folder."""
    key = _split(path)[1]
    return bool(key) and not key.endswith("/") and _head(path, "look for") is not None


def get_file(path: str, file: BinaryIO, span: str = "") -> int:
    """Writes the whole object to an open file that is empty, a piece at a time.

    span  which bytes, as HTTP's Range has it; "": all

    Returns the size of the whole object. Raises FileError where it is missing or forbidden.
    """
    bucket, key = _split(path)
    with errors(path, "read"):
        for attempt in range(s3_failures.MAX_ATTEMPTS):
            asked = {"Range": span} if span else {}
            try:
                answer = _client().get_object(Bucket=bucket, Key=key, **asked)
            except ClientError as error:
                if status_of(error) == 416:  # beyond the end: an empty object has no first byte
                    return head(path)[0]
                raise
            try:
                shutil.copyfileobj(answer["Body"], file, PIECE_BYTES)
            except BROKEN:  # the connection broke: botocore retries only up to the body
                if attempt == s3_failures.MAX_ATTEMPTS - 1:
                    raise
            else:
                known = str(answer.get("ContentRange", ""))  # bytes 0-9/100
                return int(known.rpartition("/")[2] or answer["ContentLength"])
            file.seek(0)
            file.truncate()
            time.sleep(random.random() * min(2**attempt, 20))
    raise AssertionError("the last attempt returns or raises")


def put(path: str, data: bytes) -> None:
    """Writes an object, which is there whole or not at all."""
    if len(data) > MAX_PUT_BYTES:
        put_file(path, io.BytesIO(data))
        return
    bucket, key = _split(path)
    with errors(path, "write"):
        _client().put_object(Bucket=bucket, Key=key, Body=data)


def put_file(path: str, file: BinaryIO) -> None:
    """Writes an object of the bytes of an open file, from its beginning; they are not held."""
    bucket, key = _split(path)
    size_bytes = file.seek(0, os.SEEK_END)
    file.seek(0)
    with errors(path, "write"):
        if size_bytes <= MAX_PUT_BYTES:
            _client().put_object(Bucket=bucket, Key=key, Body=file)
        else:
            _put_parts(bucket, key, file)


def _put_parts(bucket: str, key: str, file: BinaryIO) -> None:
    """Writes an object in parts, one of them in memory at a time; what fails leaves none behind."""
    config = TransferConfig(
        multipart_threshold=1, multipart_chunksize=MIN_PART_BYTES, use_threads=False
    )
    _client().upload_fileobj(file, bucket, key, Config=config)


def put_new(path: str, data: bytes) -> bool:
    """Writes an object only where none stands; False where one does.

    True too where a reply was lost and the repeated request finds this very `data`: who must know
    whose object it is puts something unique into it.
    """
    bucket, key = _split(path)
    for attempt in range(s3_failures.MAX_ATTEMPTS):
        with errors(path, "write"):
            try:
                _client().put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
            except ClientError as error:
                status = status_of(error)
                if status == 412:
                    is_repeated = attempt > 0 or tries_of(error) > 1
                    return is_repeated and _holds(path, data)
                # 409: another request on this key is under way and may yet fail, so ask again
                if status != 409 or attempt == s3_failures.MAX_ATTEMPTS - 1:
                    raise
            else:
                return True
        time.sleep(random.random() * min(0.1 * 2**attempt, 5))
    raise AssertionError("the last try returns or raises")


def delete(path: str) -> None:
    """Removes an object; none there is no error."""
    bucket, key = _split(path)
    with errors(path, "delete"):
        _client().delete_object(Bucket=bucket, Key=key)


def _client() -> Any:
    named = ((name, value) for name, value in os.environ.items() if name.startswith("AWS_"))
    return _client_of(os.getpid(), frozenset(named))


@functools.lru_cache(maxsize=1)
def _client_of(pid: int, environment: Collection[tuple[str, str]]) -> Any:
    """One client a process, whose connections must not be shared across a fork.

    A new one where the AWS_* variables have changed: a notebook may set them after a first try.
    """
    # Not every store knows the checksums that boto3 adds unasked since 1.36. Ours are in the run
    # directory, and SHA-256 or TLS guards a request on its way.
    named = dict(environment)
    config = Config(
        request_checksum_calculation=named.get(
            "AWS_REQUEST_CHECKSUM_CALCULATION", "when_required"
        ).lower(),
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        max_pool_connections=32,
        retries={"mode": "standard", "total_max_attempts": s3_failures.MAX_ATTEMPTS},
    )
    try:
        client = boto3.session.Session().client("s3", config=config)
    except ValueError as error:  # botocore's word for an endpoint that is no URL
        raise ConfigError(f"{error}; check AWS_ENDPOINT_URL, expected http(s)://host") from error
    client.meta.events.register_first("needs-retry.s3", look_at_failure)
    return client


def _split(path: str) -> tuple[str, str]:
    bucket, _, key = path.removeprefix("s3://").partition("/")
    if not bucket:
        raise ConfigError(f"{path} names no bucket, expected s3://bucket/key")
    return bucket, key


def _head(path: str, action: str) -> tuple[int, str] | None:
    bucket, key = _split(path)
    with errors(path, action):
        try:
            answer = _client().head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if status_of(error) == 404:
                return None
            _ask_why(bucket, key, status_of(error))
            raise
    return answer["ContentLength"], answer["ETag"].strip('"')


def _ask_why(bucket: str, key: str, status: int) -> None:
    """Raises the reason of a refusal, which the answer to a HEAD has no body to give."""
    if 300 <= status < 500 and status not in (408, 429):
        _client().get_object(Bucket=bucket, Key=key, Range="bytes=0-0")


def _list(bucket: str, prefix: str, *, delimiter: str = "") -> Iterator[Found]:
    """Keys with their sizes and etags; the empty objects that stand for folders are left out."""
    with errors(f"s3://{bucket}/{prefix}", "list"):
        pages = _client().get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=bucket, Prefix=prefix, Delimiter=delimiter):
            for item in page.get("Contents", ()):
                if not item["Key"].endswith("/"):
                    yield item["Key"], item["Size"], item["ETag"].strip('"')


def _holds(path: str, data: bytes) -> bool:
    found = io.BytesIO()
    try:
        get_file(path, found)
    except FileError:
        return False
    return found.getvalue() == data
