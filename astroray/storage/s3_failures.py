"""When a request to S3 is made again, when that is said, and which error ends it."""

import contextlib
import logging
import socket
import time
from collections.abc import Iterator
from typing import Any

import urllib3
from botocore import exceptions
from botocore.exceptions import BotoCoreError, ClientError

from astroray.errors import AstrorayError, ConfigError, FileError, StorageError

__all__ = [
    "BROKEN", "MAX_ATTEMPTS", "errors", "look_at_failure", "missing", "status_of", "tries_of",
]  # fmt: skip

_log = logging.getLogger("astroray.storage")
MAX_ATTEMPTS = 11
"""Tries of one request in all. botocore waits at random up to 0.05 s, then twice as long each
time: on average half a minute in all, so that a store may be restarted under a scan."""
SILENT_ATTEMPTS, NOTE_EVERY_S = 8, 5.0
"""Before what is waited for is said: some 3 s. Whatever times out has taken longer."""
_TIMEOUTS = (exceptions.ConnectTimeoutError, exceptions.ReadTimeoutError)
_WAITING = "waiting for S3, try %d of %d: %s; if that is not your store, check AWS_ENDPOINT_URL"
_silence = {"end": 0.0}
BROKEN = (BotoCoreError, urllib3.exceptions.HTTPError)
"""What a request raises that gets no answer, or but a part of one: botocore has no words of its own
for what TLS says within a body."""


def look_at_failure(
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
def errors(path: str, action: str) -> Iterator[None]:
    """Raises what botocore raises as FileError of this file, or StorageError or ConfigError."""
    try:
        yield
    except ClientError as error:
        raise _answered(path, action, error) from error
    except BROKEN as error:
        raise _unanswered(path, action, error) from error


def _answered(path: str, action: str, error: Any) -> AstrorayError:
    """The error for an answer of the store that is no success."""
    about = error.response.get("Error", {})
    status, code, said = status_of(error), about.get("Code", ""), about.get("Message", "")
    resume = "then run the same command again to resume"
    if code == "NoSuchBucket":
        bucket = path.removeprefix("s3://").partition("/")[0]
        return StorageError(
            f"cannot {action} {path}: there is no bucket {bucket!r}; create it, or check the name "
            "and AWS_ENDPOINT_URL"
        )
    if code in _NO_FILE_S_FAULT:
        told = f" ({said})" if said and _NO_FILE_S_FAULT[code] == _OTHER_REGION else ""
        return StorageError(f"cannot {action} {path}: {_NO_FILE_S_FAULT[code]}{told}, {resume}")
    if status == 404 and action == "read":
        return missing(path)
    if status == 403:
        kind = FileError if action == "read" else StorageError
        return kind(
            f"cannot {action} {path}: the store forbids it ({code}); {_CREDENTIALS}, and the "
            "permissions of the bucket"
        )
    tries = tries_of(error)
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


def missing(path: str) -> FileError:
    """The error for an object that is not there."""
    return FileError(f"{path} is missing; check the path, or restore the file")


def status_of(error: Any) -> int:
    """The HTTP status of a ClientError; 0 where it has none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def tries_of(error: Any) -> int:
    """How often botocore made the request that ended in a ClientError."""
    return int(error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0)) + 1
