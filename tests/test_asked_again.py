"""What changes nothing is asked again where whoever was to answer is lost."""

import asyncio
import json

import pytest

from astroray.web import asked_again
from astroray.web.asked_again import AskedAgain, middlewares

DISCONNECT = {"type": "http.disconnect"}


def body_of(*parts):
    return [
        {"type": "http.request", "body": part, "more_body": part is not parts[-1]} for part in parts
    ]


class Replicas:
    """An app that is lost after so many messages of the body, a number a try, then answers."""

    def __init__(self, *lost_after):
        self.lost_after = list(lost_after)
        self.bodies = []

    async def __call__(self, scope, receive, send):
        parts = []
        self.bodies.append(parts)
        left = self.lost_after.pop(0) if self.lost_after else None
        while left is None or len(parts) < left:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            parts.append(message["body"])
            if left is None and not message["more_body"]:
                break
        if left is None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"".join(parts)})


def ask(app, messages, *, method="POST", path="/v1/embed"):
    """What the client gets: status, or None without an answer, and body."""
    left, sent = list(messages), []

    async def receive():
        return left.pop(0)

    async def send(message):
        sent.append(message)

    asyncio.run(app({"type": "http", "method": method, "path": path}, receive, send))
    if not sent:
        return None, b""
    return sent[0]["status"], b"".join(message["body"] for message in sent[1:])


@pytest.mark.parametrize("lost_after", [[], [0], [1], [2], [1, 2]])
def test_an_upload_is_answered_whole_by_the_next_replica(lost_after):
    replicas = Replicas(*lost_after)
    assert ask(AskedAgain(replicas), body_of(b"first ", b"second")) == (200, b"first second")
    assert len(replicas.bodies) == 1 + len(lost_after)


def test_what_may_change_something_is_never_asked_twice():
    for method, path in (("POST", "/ui/labels"), ("DELETE", "/ui/labels")):
        replicas = Replicas(1)
        assert ask(AskedAgain(replicas), body_of(b"x"), method=method, path=path) == (None, b"")
        assert len(replicas.bodies) == 1
    replicas = Replicas(0)
    assert ask(AskedAgain(replicas), body_of(b""), method="GET", path="/ui") == (200, b"")


def test_nobody_is_asked_for_a_client_that_left():
    replicas = Replicas(9)
    assert ask(AskedAgain(replicas), [*body_of(b"x"), DISCONNECT]) == (None, b"")
    assert len(replicas.bodies) == 1


def test_after_the_last_try_the_client_is_told_to_come_again():
    status, body = ask(AskedAgain(Replicas(1, 1, 1)), body_of(b"x"))
    assert status == 503
    assert "ask again" in json.loads(body)["detail"]


def test_bodies_are_kept_in_a_bounded_room_that_is_given_back(monkeypatch):
    monkeypatch.setattr(asked_again, "MAX_KEPT_BYTES", 10)
    replicas = Replicas(1, 1)
    app = AskedAgain(replicas)
    assert ask(app, body_of(b"12345678901"))[0] == 503
    for _ in range(3):
        assert ask(app, body_of(b"1234567890")) == (200, b"1234567890")


def test_the_proxy_finds_it_by_the_name_in_its_environment():
    from ray._common.utils import import_attr

    from astroray.execution.workers import PROXY_MIDDLEWARES

    assert import_attr(PROXY_MIDDLEWARES) is middlewares
