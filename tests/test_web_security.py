"""Tokens, scopes and the guard: who gets through, with what, and what is noted."""

import asyncio
import base64
import json
import os
from pathlib import Path

import pytest

from astroray.errors import ConfigError
from astroray.web import guard, security
from astroray.web.guard import AuditLog, Guard, Limits
from astroray.web.security import Tokens


@pytest.fixture
def tokens(tmp_path):
    return Tokens(str(tmp_path / "keys" / "tokens.json"))


def test_a_token_is_kept_as_a_hash_in_a_file_that_only_its_owner_reads(tokens):
    secret = tokens.issue("ana", ["read"])
    text = Path(tokens.path).read_text()
    assert secret not in text
    assert secret.removeprefix(security.PREFIX) not in text
    assert os.stat(tokens.path).st_mode & 0o777 == 0o600
    found = Tokens(tokens.path).find(secret)[0]
    assert found is not None
    assert (found.name, found.scopes) == ("ana", ("read",))
    assert tokens.find(secret[:-1])[0] is None
    assert tokens.find(found.sha256)[0] is None


def test_admin_allows_all_and_other_scopes_only_themselves(tokens):
    ana = tokens.find(tokens.issue("ana", ["label"]))[0]
    root = tokens.find(tokens.issue("root", ["admin"]))[0]
    assert [ana.allows(scope) for scope in security.SCOPES] == [False, True, False]
    assert [root.allows(scope) for scope in security.SCOPES] == [True, True, True]


def test_a_revoked_or_expired_token_is_forgotten_by_those_who_have_read_the_file(
    tokens, monkeypatch
):
    other = Tokens(tokens.path)
    secret = tokens.issue("ana", ["read"])
    assert other.find(secret)[0] is not None
    tokens.revoke("ana")
    assert other.find(secret)[0] is None
    short, long = (tokens.issue(end, ["read"], expires=end) for end in ("2998-01-01", "2999-01-01"))
    assert tokens.find(short)[0] is not None
    monkeypatch.setattr(security, "now", lambda: "2998-01-01T00:00:00Z")
    assert tokens.find(short)[0] is None
    assert tokens.find(long)[0] is not None


@pytest.mark.parametrize(
    ("name", "scopes", "expires", "message"),
    [
        ("ana\n", ["read"], "", "token name is"),
        ("ana", ["write"], "", "expected some of read, label, admin"),
        ("ana", [], "", "expected some of"),
        ("ana", ["read"], "soon", "expected a date"),
        ("ana", ["read"], "2001-01-01", "which is over"),
    ],
)
def test_a_token_that_cannot_be_is_refused(tokens, name, scopes, expires, message):
    with pytest.raises(ConfigError, match=message):
        tokens.issue(name, scopes, expires=expires)


def test_names_are_unique_and_an_unknown_one_cannot_be_revoked(tokens):
    tokens.issue("ana", ["read"])
    with pytest.raises(ConfigError, match="has a token 'ana' already"):
        tokens.issue("ana", ["admin"])
    with pytest.raises(ConfigError, match="no token 'bob', only ana"):
        tokens.revoke("bob")


def test_a_damaged_file_of_tokens_lets_nobody_in(tokens, tmp_path):
    secret = tokens.issue("ana", ["read"])
    Path(tokens.path).write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        Tokens(tokens.path).find(secret)
    client = Client(tokens, AuditLog())
    assert client.ask(authorization=f"Bearer {secret}")[0] == 503
    assert client.ask()[0] == 401  # who brings no token needs no file of them


@pytest.mark.parametrize(
    ("headers", "secret"),
    [
        ({"authorization": "Bearer  abc "}, "abc"),
        ({"authorization": "bearer abc"}, "abc"),
        ({"authorization": "Basic " + base64.b64encode(b"me:a:b").decode()}, "a:b"),
        ({"authorization": "Basic !!!"}, ""),
        ({"authorization": "Basic " + base64.b64encode(b"\xff").decode()}, ""),
        ({"cookie": "x=1; astroray_token=abc"}, "abc"),
        ({"cookie": 'seen={"a": 1}; a b; =; \u00fc=1; astroray_token=abc; f[0]=x y'}, "abc"),
        ({"cookie": "astroray_token_80=a; astroray_token_81=b", "host": "localhost:81"}, "b"),
        ({"cookie": "astroray_token_80=a; astroray_token=c", "host": "[::1]"}, "c"),
        ({"authorization": "Digest abc"}, ""),
        ({}, ""),
    ],
)
def test_a_secret_comes_as_bearer_as_basic_password_or_as_cookie(headers, secret):
    assert security.secret_of(headers) == secret


async def echo(scope, receive, send):
    """An app that answers with the body it got and the name of its caller."""
    body = (await receive())["body"]
    token = scope["state"]["token"]
    headers = [(b"x-caller", (token.name if token else "-").encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Client:
    """Requests to a Guard, without a server."""

    def __init__(self, tokens, audit, **limits):
        self.guard = Guard(
            echo,
            tokens=tokens,
            limits=Limits(**limits),
            audit=audit,
            open_paths=["/healthz"],
            login_path="/ui/login",
            headers={"x-run": "r1"},
        )

    def ask(self, path="/", *, method="GET", body=(b"",), **headers):
        chunks = list(body)
        sent = []
        if any(chunks) and "content_length" not in headers:
            headers["transfer_encoding"] = "chunked"

        async def receive():
            if not chunks:
                await asyncio.sleep(3600)
            part = chunks.pop(0)
            if part is None:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": part, "more_body": part is not body[-1]}

        async def send(message):
            sent.append(message)

        pairs = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
        scope = {"type": "http", "method": method, "path": path, "query_string": b"q=1"}
        scope |= {"headers": [(b"host", b"sky.org"), *pairs], "client": ("10.0.0.1", 5)}
        asyncio.run(self.guard(scope, receive, send))
        answer = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
        return sent[0]["status"], answer, b"".join(m.get("body", b"") for m in sent[1:])


@pytest.fixture
def audit(tmp_path):
    return AuditLog(str(tmp_path / "audit.jsonl"))


@pytest.fixture
def key(tokens):
    return "Bearer " + tokens.issue("ana", ["read"])


def test_without_a_valid_token_only_open_paths_answer(tokens, audit, key):
    client = Client(tokens, audit)
    status, headers, body = client.ask("/v1/catalog")
    assert (status, headers["www-authenticate"]) == (401, security.CHALLENGE)
    assert json.loads(body) == {"detail": "no valid token: send Authorization: Bearer TOKEN"}
    assert client.ask("/v1/catalog", authorization=key + "x")[0] == 401
    assert client.ask("/healthz")[:1] == (200,)
    status, headers, _ = client.ask("/v1/catalog", authorization=key)
    assert (status, headers["x-caller"]) == (200, "ana")


def test_who_has_an_expired_token_is_told_so(tokens, audit, monkeypatch):
    key = "Bearer " + tokens.issue("ana", ["read"], expires="2998-01-01")
    monkeypatch.setattr(security, "now", lambda: "2998-01-01T00:00:00Z")
    client = Client(tokens, audit)
    status, headers, body = client.ask("/v1/catalog", authorization=key)
    assert (status, headers["www-authenticate"]) == (401, security.CHALLENGE)
    assert "token of ana expired at 2998-01-01T00:00:00Z" in json.loads(body)["detail"]
    assert "no valid token" in client.ask("/v1/catalog", authorization=key + "x")[2].decode()


def test_the_file_of_tokens_is_looked_at_once_a_request(tokens, audit, key, monkeypatch):
    looks = []
    all_of = Tokens.all
    monkeypatch.setattr(Tokens, "all", lambda self: looks.append(1) or all_of(self))
    assert Client(tokens, audit).ask("/v1/catalog", authorization=key + "x")[0] == 401
    assert looks == [1]


def test_a_browser_without_a_token_is_sent_from_pages_to_log_in(tokens, audit, key):
    client = Client(tokens, audit)
    html = "text/html,application/xhtml+xml,*/*;q=0.8"
    for path in ("/ui", "/ui/report"):
        status, headers, _ = client.ask(path, accept=html)
        assert (status, headers["location"]) == (303, "/ui/login")
    assert client.ask("/ui/login", accept=html)[0] == 200
    assert client.ask("/ui", accept=html, authorization=key)[0] == 200
    others = [{"path": "/ui"}, {"path": "/uix"}, {"path": "/v1/run"}, {"method": "POST"}]
    for one in others:
        accept = {} if one == {"path": "/ui"} else {"accept": html}
        assert client.ask(**{"path": "/ui/labels", **one, **accept})[0] == 401


def test_every_answer_carries_the_security_headers(tokens, audit, key):
    client = Client(tokens, audit)
    for headers in (client.ask(authorization=key)[1], client.ask()[1], client.ask("/healthz")[1]):
        assert headers.items() >= {**guard._HEADERS, "x-run": "r1"}.items()
        assert not any(name.startswith("access-control") for name in headers)
        assert len(headers["x-astroray-request"]) == 16


def test_a_request_that_claims_no_body_is_not_waited_for(tokens, audit, key):
    nothing_comes = {"authorization": key, "body": ()}
    assert Client(tokens, audit).ask(**nothing_comes)[0] == 200


def test_half_of_a_body_is_not_handed_on(tokens, audit, key):
    status, _, body = Client(tokens, audit).ask(authorization=key, body=(b"half", None))
    assert (status, json.loads(body)["detail"]) == (
        400,
        "the client left before its body was whole",
    )
    assert audit.tail(1)[0]["status"] == 400


@pytest.mark.parametrize(
    ("claimed", "body", "status"),
    [
        ("100", (b"x" * 100,), 200),
        ("101", (b"",), 413),
        ("9" * 30, (b"",), 413),
        ("-1", (b"",), 400),
        ("ten", (b"",), 400),
        ("0", (b"x" * 60, b"x" * 40), 200),  # a client that lies, and chunks
        ("0", (b"x" * 60, b"x" * 41), 413),
    ],
)
def test_a_body_above_the_limit_is_refused_whatever_it_claims(
    tokens, audit, key, claimed, body, status
):
    client = Client(tokens, audit, body_bytes=100)
    got = client.ask(method="POST", authorization=key, content_length=claimed, body=body)
    assert got[0] == status
    assert status != 200 or got[2] == b"".join(body)


def test_a_body_that_never_ends_is_given_up(tokens, audit, key):
    client = Client(tokens, audit, body_s=0.05)
    chunks = [b"x", b"never sent"]
    sent = []

    async def receive():
        if len(chunks) > 1:
            return {"type": "http.request", "body": chunks.pop(0), "more_body": True}
        return await asyncio.Future()

    async def send(message):
        sent.append(message)

    headers = [(b"authorization", key.encode()), (b"content-length", b"11")]
    scope = {"type": "http", "method": "POST", "path": "/", "headers": headers, "client": None}
    asyncio.run(client.guard(scope, receive, send))
    assert sent[0]["status"] == 408


def test_more_requests_at_once_than_allowed_are_told_to_come_again(tokens, audit, key):
    client, seen = Client(tokens, audit, in_flight=2), []

    async def asks_while_it_answers(scope, receive, send):
        async def keep(message):
            if message["type"] == "http.response.start":
                seen.append((message["status"], dict(message["headers"]).get(b"retry-after")))

        await client.guard(scope, receive, keep)
        await echo(scope, receive, send)

    client.guard.app = asks_while_it_answers
    assert client.ask(authorization=key)[0] == 200
    assert seen == [(503, b"1"), (200, None)]
    client.guard.app = echo
    assert client.ask(authorization=key)[0] == 200  # none of them is counted any longer


def test_a_caller_above_its_rate_is_told_when_to_come_again(tokens, audit, key):
    client = Client(tokens, audit, requests_per_s=0.1, burst=3, strangers_per_s=0.1)
    assert [client.ask(authorization=key)[0] for _ in range(4)] == [200, 200, 200, 429]
    status, headers, _ = client.ask(authorization=key)
    assert status == 429
    assert 8 <= int(headers["retry-after"]) <= 10
    other = "Bearer " + tokens.issue("bob", ["read"])
    assert client.ask(authorization=other)[0] == 200
    assert [client.ask()[0] for _ in range(4)] == [401, 401, 401, 429]
    assert client.ask("/healthz")[0] == 200


@pytest.mark.parametrize(
    ("method", "origin", "status"),
    [
        ("POST", "http://sky.org", 200),
        ("POST", "http://evil.org", 403),
        ("POST", "http://[", 403),
        ("DELETE", "null", 403),
        ("GET", "http://evil.org", 200),
    ],
)
def test_a_page_of_another_site_may_not_write(tokens, audit, key, method, origin, status):
    client = Client(tokens, audit)
    assert client.ask(method=method, authorization=key, origin=origin)[0] == status


def test_the_audit_log_has_one_line_a_request_and_no_secret(tokens, audit, key):
    client = Client(tokens, audit)
    client.ask("/a\nb", authorization=key, method="POST", body=(b"xyz",))
    client.ask("/v1")
    client.ask("/healthz")
    text = Path(audit.path).read_text()
    assert key.split()[1] not in text
    first, second = (json.loads(line) for line in text.splitlines())
    assert (first["caller"], first["status"], first["path"]) == ("ana", 200, "/a\nb")
    assert (first["bytes_in"], first["bytes_out"], first["address"]) == (3, 3, "10.0.0.1")
    assert (second["caller"], second["status"]) == (None, 401)
    assert audit.tail(1) == [second]
    assert audit.tail(5) == [first, second]


def test_the_audit_log_can_be_read_after_a_disk_was_full(tokens, audit, key):
    client = Client(tokens, audit)
    client.ask("/v1", authorization=key)
    (entry,) = audit.tail(5)
    with open(audit.path, "a", encoding="ascii") as file:
        file.write('{"when": "2026-')
    client.ask("/v2", authorization=key)
    client.ask("/v3", authorization=key)
    assert [one["path"] for one in audit.tail(5)] == [entry["path"], "/v3"]
