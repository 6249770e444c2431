"""How astroray talks to S3: one request an object, retried while the store is busy.

boto3 does all of it rather than pyarrow's file system: conditional puts need it anyway, and one
client means one chain of credentials, endpoints and retries, with errors that carry a code.
Endpoint and credentials are found the way boto3 finds them: environment, profile, ~/.aws, role.
"""

import contextlib
import functools
import io
import itertools
import logging
import os
import random
import re
import shutil
import socket
import time
from collections.abc import Collection, Iterator
from typing import Any, BinaryIO

import boto3
import urllib3
from boto3.s3.transfer import TransferConfig
from botocore import exceptions
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from astroray.errors import AstrorayError, ConfigError, FileError, StorageError
from astroray.storage.meter import PIECE_BYTES
from astroray.storage.names import Found, has_hidden, matches

_log = logging.getLogger("astroray.storage")
MAX_ATTEMPTS = 11
"""Tries of one request in all. botocore waits at random up to 0.05 s, then twice as long each
time: on average half a minute in all, so that a store may be restarted under a scan."""
MAX_PUT_BYTES = 5 * 1024**3
"""What S3 takes in one request; more goes up in parts, and stands there once all of them do."""
MIN_PART_BYTES = 64 * 2**20
"""As many of these, or larger ones, as 10,000 parts hold."""
CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 60
SILENT_ATTEMPTS, NOTE_EVERY_S = 8, 5.0
"""Before what is waited for is said: some 3 s. Whatever times out has taken longer."""
_TIMEOUTS = (exceptions.ConnectTimeoutError, exceptions.ReadTimeoutError)
_WAITING = "waiting for S3, try %d of %d: %s; if that is not your store, check AWS_ENDPOINT_URL"
_silence = {"end": 0.0}
_BROKEN = (BotoCoreError, urllib3.exceptions.HTTPError)
"""What a request raises that gets no answer, or but a part of one: botocore has no words of its own
for what TLS says within a body."""


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
    with _errors(folder, "list"):
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
        raise _missing(path)
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
    with _errors(path, "read"):
        for attempt in range(MAX_ATTEMPTS):
            asked = {"Range": span} if span else {}
            try:
                answer = _client().get_object(Bucket=bucket, Key=key, **asked)
            except ClientError as error:
                if _status(error) == 416:  # beyond the end: an empty object has no first byte
                    return head(path)[0]
                raise
            try:
                shutil.copyfileobj(answer["Body"], file, PIECE_BYTES)
            except _BROKEN:  # the connection broke: botocore retries only up to the body
                if attempt == MAX_ATTEMPTS - 1:
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
    with _errors(path, "write"):
        _client().put_object(Bucket=bucket, Key=key, Body=data)


def put_file(path: str, file: BinaryIO) -> None:
    """Writes an object of the bytes of an open file, from its beginning; they are not held."""
    bucket, key = _split(path)
    size_bytes = file.seek(0, os.SEEK_END)
    file.seek(0)
    with _errors(path, "write"):
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
    for attempt in range(MAX_ATTEMPTS):
        with _errors(path, "write"):
            try:
                _client().put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
            except ClientError as error:
                status = _status(error)
                if status == 412:
                    is_repeated = attempt > 0 or _num_tries(error) > 1
                    return is_repeated and _holds(path, data)
                # 409: another request on this key is under way and may yet fail, so ask again
                if status != 409 or attempt == MAX_ATTEMPTS - 1:
                    raise
            else:
                return True
        time.sleep(random.random() * min(0.1 * 2**attempt, 5))
    raise AssertionError("the last try returns or raises")


def delete(path: str) -> None:
    """Removes an object; none there is no error."""
    bucket, key = _split(path)
    with _errors(path, "delete"):
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
        retries={"mode": "standard", "total_max_attempts": MAX_ATTEMPTS},
    )
    try:
        client = boto3.session.Session().client("s3", config=config)
    except ValueError as error:  # botocore's word for an endpoint that is no URL
        raise ConfigError(f"{error}; check AWS_ENDPOINT_URL, expected http(s)://host") from error
    client.meta.events.register_first("needs-retry.s3", _look_at_failure)
    return client


def _look_at_failure(
    caught_exception: Exception | None = None, attempts: int = 1, response: Any = None, **_: Any
) -> None:
    """Raises what asking again cannot mend; says what is waited for once that takes seconds."""
    if caught_exception and _is_lasting(caught_exception):
        raise caught_exception
    status = response[0].status_code if response else 0
    trouble = caught_exception or (f"it answers {status}" if status >= 500 else "")
    is_slow = attempts >= SILENT_ATTEMPTS or isinstance(caught_exception, _TIMEOUTS)
    if trouble and is_slow and attempts < MAX_ATTEMPTS and time.monotonic() > _silence["end"]:
        _silence["end"] = time.monotonic() + NOTE_EVERY_S  # of many requests one speaks for all
        _log.warning(_WAITING, attempts, MAX_ATTEMPTS, trouble)


def _is_lasting(error: Exception) -> bool:
    """Whether there is no such host, or it speaks no TLS, or none that is trusted here."""
    inner = getattr(error, "kwargs", {}).get("error")
    if isinstance(error, exceptions.SSLError):
        return any(text in str(inner) for text in ("CERTIFICATE_VERIFY", "WRONG_VERSION"))
    return getattr(getattr(inner, "__cause__", None), "errno", None) == socket.EAI_NONAME


def _split(path: str) -> tuple[str, str]:
    bucket, _, key = path.removeprefix("s3://").partition("/")
    if not bucket:
        raise ConfigError(f"{path} names no bucket, expected s3://bucket/key")
    return bucket, key


def _head(path: str, action: str) -> tuple[int, str] | None:
    bucket, key = _split(path)
    with _errors(path, action):
        try:
            answer = _client().head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if _status(error) == 404:
                return None
            _ask_why(bucket, key, _status(error))
            raise
    return answer["ContentLength"], answer["ETag"].strip('"')


def _ask_why(bucket: str, key: str, status: int) -> None:
    """Raises the reason of a refusal, which the answer to a HEAD has no body to give."""
    if 300 <= status < 500 and status not in (408, 429):
        _client().get_object(Bucket=bucket, Key=key, Range="bytes=0-0")


def _list(bucket: str, prefix: str, *, delimiter: str = "") -> Iterator[Found]:
    """Keys with their sizes and etags; the empty objects that stand for folders are left out."""
    with _errors(f"s3://{bucket}/{prefix}", "list"):
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


_CREDENTIALS = (
    "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, and AWS_ENDPOINT_URL"
)
_OTHER_REGION = "the bucket is in another region; set AWS_DEFAULT_REGION to it"
_NO_FILE_S_FAULT = {
    "AuthorizationHeaderMalformed": _OTHER_REGION,
    "PermanentRedirect": _OTHER_REGION,
    "ExpiredToken": "the session token has expired; renew it",
    "ExpiredTokenException": "the session token has expired; renew it",
    "InvalidAccessKeyId": f"the store does not know the access key; {_CREDENTIALS}",
    "InvalidToken": f"the session token is not valid; {_CREDENTIALS}",
    "SignatureDoesNotMatch": f"the secret key is wrong; {_CREDENTIALS}",
    "RequestTimeTooSkewed": "the clock of this machine is wrong; set it",
}
"""Codes that say: no file can be reached, so no single file is at fault."""


@contextlib.contextmanager
def _errors(path: str, action: str) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        raise _answered(path, action, error) from error
    except _BROKEN as error:
        raise _unanswered(path, action, error) from error


def _answered(path: str, action: str, error: Any) -> AstrorayError:
    """The error for an answer of the store that is no success."""
    about = error.response.get("Error", {})
    status, code, said = _status(error), about.get("Code", ""), about.get("Message", "")
    resume = "then run the same command again to resume"
    if code == "NoSuchBucket":
        bucket = _split(path)[0]
        return StorageError(
            f"cannot {action} {path}: there is no bucket {bucket!r}; create it, or check the name "
            "and AWS_ENDPOINT_URL"
        )
    if code in _NO_FILE_S_FAULT:
        told = f" ({said})" if said and _NO_FILE_S_FAULT[code] == _OTHER_REGION else ""
        return StorageError(f"cannot {action} {path}: {_NO_FILE_S_FAULT[code]}{told}, {resume}")
    if status == 404 and action == "read":
        return _missing(path)
    if status == 403:
        kind = FileError if action == "read" else StorageError
        return kind(
            f"cannot {action} {path}: the store forbids it ({code}); {_CREDENTIALS}, and the "
            "permissions of the bucket"
        )
    tries = _num_tries(error)
    is_refusal = 400 <= status < 500 and status not in (408, 409, 429)  # waiting would not help
    advice = "check the address and AWS_ENDPOINT_URL" if is_refusal else "wait until it is well"
    return StorageError(
        f"cannot {action} {path}: the store answers {status} {code} {said!r} after "
        f"{tries} {'try' if tries == 1 else 'tries'}; {advice}, {resume}"
    )


def _unanswered(path: str, action: str, error: Any) -> AstrorayError:
    """The error for a request that got no answer, or was never sent."""
    if isinstance(error, (exceptions.NoCredentialsError, exceptions.PartialCredentialsError)):
        return ConfigError(f"cannot {action} {path}: no credentials for S3; {_CREDENTIALS}")
    if isinstance(
        error,
        (
            exceptions.ParamValidationError,
            exceptions.ProfileNotFound,
            exceptions.ConfigParseError,
            exceptions.NoRegionError,
            exceptions.InvalidConfigError,
        ),
    ):
        return ConfigError(f"cannot {action} {path}: {error}; {_CREDENTIALS}")
    tried = "" if _is_lasting(error) else f" (tried up to {MAX_ATTEMPTS} times)"
    return StorageError(
        f"cannot {action} {path}: {error}{tried}; check the network and AWS_ENDPOINT_URL, then "
        "run the same command again to resume"
    )


def _missing(path: str) -> FileError:
    return FileError(f"{path} is missing; check the path, or restore the file")


def _status(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _num_tries(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0)) + 1
