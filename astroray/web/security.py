"""Who may ask what: bearer tokens with scopes, of which only hashes are kept.

A token is 256 random bits, so one round of SHA-256 is enough to keep it: no dictionary holds it.
It is shown once, when it is issued. It comes back as `Authorization: Bearer TOKEN`; as the password
of `Authorization: Basic`, which TOPCAT, browsers and `curl -u` send; or, for pages, as a cookie.

    read    every GET, and uploads that are answered and forgotten
    label   to write labels; says nothing about reading
    admin   everything, and the audit log
"""

import base64
import binascii
import contextlib
import dataclasses
import hashlib
import hmac
import json
import os
import re
import secrets
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

from fastapi import HTTPException, Request

from astroray import storage
from astroray.errors import ConfigError, FileError
from astroray.moments import in_utc, now

__all__ = ["COOKIE", "SCOPES", "Token", "Tokens", "needs"]

SCOPES = ("read", "label", "admin")
COOKIE = "astroray_token"
"""A page that sets it says HttpOnly and SameSite=Strict."""
CHALLENGE = 'Bearer, Basic realm="astroray"'
_NO_TOKEN = "no valid token: send Authorization: Bearer TOKEN"
PREFIX = "astroray_"
"""So that scanners of repositories and logs know a token when they see one."""
_NAME = re.compile(r"[A-Za-z0-9@._-]{1,64}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Token:
    """One token without its secret."""

    name: str
    """Who holds it; stands in the audit log and beside labels."""
    scopes: tuple[str, ...]
    sha256: str
    created: str
    expires: str = ""
    """UTC, ISO 8601; empty for never."""

    def allows(self, scope: str) -> bool:
        """Whether it may be used for `scope`; admin may do everything."""
        return scope in self.scopes or "admin" in self.scopes

    @property
    def is_expired(self) -> bool:
        """Whether its last moment is over."""
        return bool(self.expires) and self.expires <= now()


class Tokens:
    """The tokens of one JSON file, which is read again when it changes; safe between threads."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(os.path.expanduser(path))
        self._lock = threading.Lock()
        self._version: tuple[int, int] | None = None
        self._tokens: tuple[Token, ...] = ()

    def all(self) -> tuple[Token, ...]:
        """All tokens, in order of issue; none where there is no file. Raises ConfigError."""
        with self._lock:
            version = self._stat()
            if version != self._version:
                self._tokens = _load(self.path) if version else ()
                self._version = version
            return self._tokens

    def find(self, secret: str) -> tuple[Token | None, str]:
        """The token of a secret; or None, and why the secret opens nothing. Raises ConfigError.

        Every known hash is compared, each in constant time. That a token has expired, only who has
        it is told.
        """
        found = None
        if secret:
            digest = _digest(secret)
            for token in self.all():
                if hmac.compare_digest(token.sha256, digest):
                    found = token
        if found is None:
            return None, _NO_TOKEN
        if found.is_expired:
            when = f"the token of {found.name} expired at {found.expires}"
            return None, f"{when}; ask for another one"
        return found, ""

    def issue(self, name: str, scopes: Sequence[str], *, expires: str = "") -> str:
        """Adds a token and returns its secret, which is kept nowhere.

        Raises ConfigError on a name that is taken or odd, an unknown scope, or an end in the past.
        """
        if not _NAME.fullmatch(name):
            raise ConfigError(f"token name is {name!r}, expected 1 to 64 of A-Z a-z 0-9 @ . _ -")
        unknown = sorted(set(scopes) - set(SCOPES))
        if unknown or not scopes:
            raise ConfigError(f"scopes are {list(scopes)}, expected some of {', '.join(SCOPES)}")
        secret = PREFIX + secrets.token_urlsafe(32)
        token = Token(
            name=name,
            scopes=tuple(scope for scope in SCOPES if scope in scopes),
            sha256=_digest(secret),
            created=now(),
            expires=_moment(expires),
        )
        if token.is_expired:
            raise ConfigError(f"expires is {expires!r}, which is over; expected a later date")
        with self._held():
            known = self.all()
            if any(other.name == name for other in known):
                raise ConfigError(f"{self.path} has a token {name!r} already; revoke it first")
            self._save((*known, token))
        return secret

    def revoke(self, name: str) -> None:
        """Removes a token; servers that run forget it within a request. Raises ConfigError."""
        with self._held():
            known = self.all()
            left = tuple(token for token in known if token.name != name)
            if left == known:
                names = ", ".join(token.name for token in known) or "none"
                raise ConfigError(f"{self.path} has no token {name!r}, only {names}")
            self._save(left)

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        """Two commands that change the file at once would lose a token."""
        import fcntl

        os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
        with open(f"{self.path}.lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _save(self, tokens: Sequence[Token]) -> None:
        rows = [dataclasses.asdict(token) for token in tokens]
        text = json.dumps({"tokens": rows}, indent=1)
        storage.publish(self.path, text.encode() + b"\n", is_secret=True)

    def _stat(self) -> tuple[int, int] | None:
        try:
            stat = os.stat(self.path)
        except FileNotFoundError:
            return None
        return stat.st_mtime_ns, stat.st_ino  # a published file is a new one


def needs(scope: str) -> Callable[[Request], Awaitable[Token]]:
    """A FastAPI dependency: the caller's token, which must allow `scope`; else 401 or 403.

    The guard in front of the app has looked the caller up: `request.state.token`.
    """
    if scope not in SCOPES:
        raise ConfigError(f"scope is {scope!r}, expected one of {', '.join(SCOPES)}")

    async def caller(request: Request) -> Token:  # else FastAPI asks a thread for it
        token: Token | None = getattr(request.state, "token", None)
        if token is None:
            raise HTTPException(401, _NO_TOKEN, headers={"WWW-Authenticate": CHALLENGE})
        if not token.allows(scope):
            raise HTTPException(
                403, f"token {token.name!r} has scopes {', '.join(token.scopes)}, needs {scope}"
            )
        return token

    return caller


def secret_of(headers: Mapping[str, str]) -> str:
    """The secret that a request brings, by lower-case headers; empty where it brings none."""
    kind, _, rest = headers.get("authorization", "").partition(" ")
    rest = rest.strip()
    if kind.lower() == "bearer":
        return rest
    if kind.lower() == "basic":
        with contextlib.suppress(binascii.Error, UnicodeDecodeError, ValueError):
            return base64.b64decode(rest, validate=True).decode().partition(":")[2]
        return ""
    # Not by http.cookies: it gives up at the first cookie of another program that is not as the RFC
    # has it, and all programs of a host share their cookies, whatever their ports.
    for part in headers.get("cookie", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == cookie_name(headers):
            return value
    return ""


def cookie_name(headers: Mapping[str, str]) -> str:
    """The cookie of the token, with the port where the address has one, by lower-case headers.

    So two servers on one host do not take each other's tokens away.
    """
    port = headers.get("host", "").rpartition(":")[2]
    return f"{COOKIE}_{port}" if port.isascii() and port.isdigit() else COOKIE


def _load(path: str) -> tuple[Token, ...]:
    advice = f"mend it, or move it away and issue tokens again with `astroray token add`: {path}"
    try:
        rows = json.loads(storage.read_bytes(path))["tokens"]
        tokens = tuple(Token(**{**row, "scopes": tuple(row["scopes"])}) for row in rows)
    except (FileError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"the file of tokens cannot be read ({error}); {advice}") from None
    return tokens


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _moment(text: str) -> str:
    """A date or time as UTC, ISO 8601. Raises ConfigError."""
    if not text:
        return ""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"expires is {text!r}, expected a date such as 2027-01-31") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return in_utc(moment)
