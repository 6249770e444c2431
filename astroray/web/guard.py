"""What every request passes before a route sees it: size, rate, token, origin, and the audit log.

Nothing is open unless it is named: a route that forgets to ask for a scope still needs a token.
"""

import asyncio
import contextlib
import dataclasses
import hmac
import json
import logging
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from astroray.errors import ConfigError
from astroray.web.curve_uploads import CurveLimits
from astroray.web.security import CHALLENGE, Token, Tokens, secret_of

__all__ = ["AuditLog", "Guard", "Limits"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_log = logging.getLogger("astroray.audit")

_SAFE = ("GET", "HEAD", "OPTIONS")
_MAX_CALLERS = 10_000
_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'",
}
"""Sent with every answer, unless the route says otherwise."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request and one caller may ask for; rates are those of one replica."""

    body_bytes: int = 16 * 2**20
    """Largest upload."""
    body_s: float = 30.0
    """Longest time that an upload may take."""
    pixels: int = 4_194_304
    """Most pixels of an upload, over all bands."""
    curves: CurveLimits = dataclasses.field(default_factory=CurveLimits)
    """Most light curves and cadences of an upload."""
    in_flight: int = 64
    """Requests that one replica works on at once; more are told to come again."""
    requests_per_s: float = 100.0
    """Requests of one token, in the long run."""
    burst: int = 200
    """Requests of one token at once."""
    strangers_per_s: float = 5.0
    """Requests without a valid token, of one address."""


class AuditLog:
    """One JSON line a request, appended to a file; without a path to the log `astroray.audit`."""

    def __init__(self, path: str = "") -> None:
        self.path = path

    def write(self, entry: Mapping[str, Any]) -> None:
        """Appends one entry. The line is written at once, so replicas may share the file."""
        line = json.dumps(entry, ensure_ascii=True)
        if not self.path:
            _log.info("%s", line)
            return
        try:
            with open(self.path, "a", encoding="ascii") as file:
                file.write(line + "\n")
        except OSError as error:  # the answer is on its way; the entry goes where it still can
            _log.error("%s cannot be written (%s): %s", self.path, error.strerror, line)

    def tail(self, count: int) -> list[dict[str, Any]]:
        """The last `count` entries, newest last; at most the last MiB is looked at.

        What a full disk or a kill has left half written is passed over.
        """
        if not self.path:
            return []
        try:
            with open(self.path, "rb") as file:
                start = max(0, file.seek(0, 2) - 2**20)
                file.seek(start)
                lines = file.read().splitlines()[1 if start else 0 :]
        except FileNotFoundError:
            return []
        entries: list[dict[str, Any]] = []
        for line in lines:
            with contextlib.suppress(ValueError):
                entries.append(json.loads(line))
        return entries[-count:]


class Guard:
    """ASGI middleware. Puts the caller's token into `request.state.token`, None for a stranger."""

    def __init__(
        self,
        app: App,
        *,
        tokens: Tokens,
        limits: Limits,
        audit: AuditLog,
        open_paths: Collection[str],
        headers: Mapping[str, str],
        login_path: str = "",
    ) -> None:
        """`headers` go with every answer; `login_path` is open too.

        Browsers without a token are sent there from the pages of its folder.
        """
        self.app, self.tokens, self.limits, self.audit = app, tokens, limits, audit
        self.open_paths = frozenset({*open_paths, login_path} - {""})
        self.login_path = login_path
        self.headers = {**_HEADERS, **headers}
        self._buckets = _Buckets()
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:  # no route speaks WebSocket
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {
            key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]
        }
        answer = _Answer(send, self.headers)
        try:
            token, why_not = self.tokens.find(secret_of(headers))
        except ConfigError as error:  # nobody is let in; the operator reads why
            _log.error("%s", error)
            await answer.refuse(503, "the server cannot read its tokens", {"retry-after": "60"})
            return
        scope.setdefault("state", {})
        scope["state"] |= {"token": token, "request_id": answer.request_id}
        started = time.perf_counter()
        body = b""
        self._in_flight += 1
        try:
            refusal = self._refuse(scope, headers, token, why_not)
            if refusal is None:
                body, refusal = await self._read(receive, headers)
            if refusal is not None:
                await answer.refuse(*refusal)
            else:
                await self.app(scope, _Replay(body, receive), answer)
        finally:
            self._in_flight -= 1
            if scope["path"] not in self.open_paths:
                self._note(scope, token, answer, len(body), time.perf_counter() - started)

    def _refuse(
        self, scope: Scope, headers: Mapping[str, str], token: Token | None, why_not: str
    ) -> tuple[int, str, dict[str, str]] | None:
        """Why a request is refused before its body is read: status, reason, further headers.

        `why_not` is why it has no token.
        """
        if scope["path"] in self.open_paths:
            return None
        client = (scope.get("client") or ("unknown",))[0]
        if token:
            key, rate, burst = f"token {token.name}", self.limits.requests_per_s, self.limits.burst
        else:
            key, rate, burst = f"address {client}", self.limits.strangers_per_s, self.limits.burst
        wait_s = self._buckets.take(key, rate, burst)
        if wait_s > 0:
            return 429, f"too many requests of this {key}", {"retry-after": _whole(wait_s)}
        if self._in_flight > self.limits.in_flight:
            return 503, "busy: too many requests at once", {"retry-after": "1"}
        if token is None:
            if self._is_page(scope, headers):
                return 303, "log in first", {"location": self.login_path}
            return 401, why_not, {"www-authenticate": CHALLENGE}
        origin = headers.get("origin")
        if origin is None or scope["method"] in _SAFE:
            return None
        if not hmac.compare_digest(_host(origin).encode(), headers.get("host", "").encode()):
            return 403, f"a page of {origin[:100]} may not write here", {}
        return None

    def _is_page(self, scope: Scope, headers: Mapping[str, str]) -> bool:
        """Whether a browser asks for a page that people log in for."""
        folder = self.login_path.rpartition("/")[0]
        is_there = bool(folder) and f"{scope['path']}/".startswith(f"{folder}/")
        return is_there and scope["method"] in _SAFE and "text/html" in headers.get("accept", "")

    async def _read(
        self, receive: Receive, headers: Mapping[str, str]
    ) -> tuple[bytes, tuple[int, str, dict[str, str]] | None]:
        """The whole body, or why it is refused; what is too large is never held."""
        limit = self.limits.body_bytes
        too_large = (413, f"the body is larger than {limit} bytes", {"connection": "close"})
        claimed = headers.get("content-length", "0")
        if not (claimed.isascii() and claimed.isdigit()):
            return b"", (400, f"content-length is {claimed[:40]!r}, expected a number", {})
        if len(claimed) > 18 or int(claimed) > limit:
            return b"", too_large
        if "content-length" not in headers and "transfer-encoding" not in headers:
            return b"", None  # to ask for it would be a call to Ray Serve's proxy
        parts: list[bytes] = []
        size_bytes = 0
        try:
            async with asyncio.timeout(self.limits.body_s):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":  # nobody reads it; the audit log does
                        return b"", (400, "the client left before its body was whole", {})
                    part = message.get("body", b"")
                    size_bytes += len(part)
                    if size_bytes > limit:
                        return b"", too_large
                    parts.append(part)
                    more = message.get("more_body", False)
        except TimeoutError:
            reason = f"the body took more than {self.limits.body_s:g} s"
            return b"", (408, reason, {"connection": "close"})
        return b"".join(parts), None

    def _note(
        self, scope: Scope, token: Token | None, answer: "_Answer", num_bytes: int, spent_s: float
    ) -> None:
        self.audit.write(
            {
                "when": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "request_id": answer.request_id,
                "caller": token.name if token else None,
                "address": (scope.get("client") or ("unknown",))[0],
                "method": scope["method"],
                "path": scope["path"][:500],
                "query": scope.get("query_string", b"").decode("latin-1")[:500],
                "status": answer.status,
                "bytes_in": num_bytes,
                "bytes_out": answer.num_bytes,
                "ms": round(1e3 * spent_s, 1),
            }
        )


class _Replay:
    """The body that was read, then whatever the client sends, which is only that it left."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self.body, self.receive = body, receive
        self.is_read = False

    async def __call__(self) -> Message:
        if self.is_read:
            return await self.receive()
        self.is_read = True
        return {"type": "http.request", "body": self.body, "more_body": False}


class _Answer:
    """Sends an answer with the security headers, and remembers its status and size."""

    def __init__(self, send: Send, headers: Mapping[str, str]) -> None:
        self._send, self._headers = send, headers
        self.request_id = secrets.token_hex(8)
        self.status = 500
        self.num_bytes = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            given = list(message.get("headers", []))
            known = {key.lower() for key, _ in given}
            ours = {**self._headers, "x-astroray-request": self.request_id}
            given += [
                (key.encode(), value.encode())
                for key, value in ours.items()
                if key.encode() not in known
            ]
            message = {**message, "headers": given}
        else:
            self.num_bytes += len(message.get("body", b""))
        await self._send(message)

    async def refuse(self, status: int, reason: str, headers: Mapping[str, str]) -> None:
        """An answer of the guard itself, in the form of all errors."""
        body = json.dumps({"detail": reason}).encode()
        ours = {"content-type": "application/json", "content-length": str(len(body)), **headers}
        pairs = [(key.encode(), value.encode()) for key, value in ours.items()]
        await self({"type": "http.response.start", "status": status, "headers": pairs})
        await self({"type": "http.response.body", "body": body})


class _Buckets:
    """Token buckets by caller; the callers that were quiet longest are forgotten first."""

    def __init__(self) -> None:
        self._level: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str, rate_per_s: float, burst: int) -> float:
        """Takes one request; 0, or how long to wait for it, s."""
        now_s = time.monotonic()
        level, then_s = self._level.pop(key, (float(burst), now_s))
        level = min(float(burst), level + (now_s - then_s) * rate_per_s)
        wait_s = 0.0 if level >= 1 else (1 - level) / rate_per_s
        self._level[key] = (level - 1 if wait_s == 0 else level, now_s)
        if len(self._level) > _MAX_CALLERS:
            self._level.popitem(last=False)
        return wait_s


def _host(origin: str) -> str:
    """Host and port of an origin, as the header `host` has them; empty where it has none."""
    try:
        return urlsplit(origin).netloc
    except ValueError:  # a bracket that does not close
        return ""


def _whole(seconds: float) -> str:
    return str(max(1, math.ceil(seconds)))
