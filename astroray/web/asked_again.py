"""A request whose replica dies before it answers is given to another one, in Ray Serve's proxy.

The proxy loads `middlewares` where its environment names it, as `execution.workers` and the image
do. By itself it answers nothing at all where a replica was lost with a request in its hands: the
client gets a bare 500. What changes nothing is asked again.
"""

import json
from collections.abc import AsyncIterator

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["MAX_KEPT_BYTES", "AskedAgain", "middlewares"]

MAX_KEPT_BYTES = 64 * 2**20
"""Bodies of all requests at once that are kept; one that does not fit is asked but once."""
_TRIES = 3
_SAFE = ("GET", "HEAD")


def middlewares() -> list[Middleware]:
    """What the proxy puts around its own app."""
    return [Middleware(AskedAgain)]


def changes_nothing(scope: Scope) -> bool:
    """Whether a request may be asked twice: reading, and all below /v1, where uploads are asked
    about and not kept."""
    return scope["method"] in _SAFE or scope["path"].startswith("/v1/")


class AskedAgain:
    """ASGI middleware: asks an app that returns without an answer once more."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._kept_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not changes_nothing(scope):
            await self.app(scope, receive, send)
            return
        body, answer = _Body(self, receive), _Answer(send)
        try:
            for _ in range(_TRIES):
                await self.app(dict(scope), body.from_start(), answer)
                if answer.is_started or body.is_gone:
                    return
                if not body.is_kept:
                    break
        finally:
            self._kept_bytes -= body.num_bytes
        await answer.refuse()

    def keep(self, num_bytes: int) -> bool:
        """Whether there is room for so many bytes more, which are then taken."""
        if self._kept_bytes + num_bytes > MAX_KEPT_BYTES:
            return False
        self._kept_bytes += num_bytes
        return True


class _Body:
    """What the client sends, kept for as long as it fits."""

    def __init__(self, owner: AskedAgain, receive: Receive) -> None:
        self._owner, self._receive = owner, receive
        self._messages: list[Message] = []
        self.num_bytes = 0
        self.is_kept = True
        self.is_gone = False
        """Whether the client left."""

    def from_start(self) -> Receive:
        """The messages so far, then those that come."""
        messages = self._all()
        return lambda: anext(messages)

    async def _all(self) -> AsyncIterator[Message]:
        for message in list(self._messages):
            yield message
        while True:
            yield await self._next()

    async def _next(self) -> Message:
        message = await self._receive()
        self.is_gone = self.is_gone or message["type"] == "http.disconnect"
        size_bytes = len(message.get("body", b""))
        if self.is_kept and self._owner.keep(size_bytes):
            self.num_bytes += size_bytes
            self._messages.append(message)
        else:
            self.is_kept = False
        return message


class _Answer:
    """Passes an answer on, and knows whether it has begun."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.is_started = False

    async def __call__(self, message: Message) -> None:
        self.is_started = True
        await self._send(message)

    async def refuse(self) -> None:
        """An answer of its own, in the form of all errors."""
        body = json.dumps({"detail": "the server lost what was answering; ask again"}).encode()
        pairs = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            "retry-after": "1",
            "cache-control": "no-store",
            "x-content-type-options": "nosniff",
        }
        headers = [(key.encode(), value.encode()) for key, value in pairs.items()]
        await self({"type": "http.response.start", "status": 503, "headers": headers})
        await self({"type": "http.response.body", "body": body})
