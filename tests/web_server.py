"""A web server of one's own for tests, which can be made to misbehave: a pytest plugin."""

import dataclasses
import http.server
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from astroray.storage import web_store


@dataclasses.dataclass(kw_only=True)
class WebServer:
    """A server of the files below `folder`, on the loopback address."""

    folder: Path
    address: str
    statuses: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    """By path: what the next requests are answered with."""
    cuts: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    """By path: after how many bytes the next bodies end."""
    has_pages: bool = True
    """Whether folders have pages of links."""
    has_ranges: bool = True
    has_head: bool = True
    last_modified: str = "Fri, 01 Mar 2024 00:00:00 GMT"
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    """Said with every file."""
    together: threading.Barrier | None = None
    """Whom requests for files wait for before they are answered."""
    asked: list[str] = dataclasses.field(default_factory=list)

    def put(self, name: str, data: bytes) -> str:
        """Writes a file, gives its address."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return f"{self.address}/{name}"


class _Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    web: WebServer

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        if self.web.has_head:
            self._answer(has_body=False)
        else:
            self._end(405)

    def do_GET(self) -> None:
        if self.web.together:
            self.web.together.wait(timeout=10)
        self._answer(has_body=True)

    def _answer(self, *, has_body: bool) -> None:
        self.web.asked.append(f"{self.command} {self.path}")
        if wanted := self.web.statuses.get(self.path):
            self._end(wanted.pop(0))
            return
        path = Path(self.translate_path(self.path))
        if path.is_dir() and self.path.endswith("/") and not self.web.has_pages:
            self._end(403)
        elif path.is_file():
            self._send(path.read_bytes(), has_body)
        elif has_body:
            super().do_GET()
        else:
            super().do_HEAD()

    def _send(self, data: bytes, has_body: bool) -> None:
        span = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        size, start, stop = len(data), 0, len(data)
        if span and self.web.has_ranges:
            start = int(span[1]) if span[1] else max(0, size - int(span[2]))
            stop = min(size, int(span[2]) + 1) if span[1] and span[2] else size
            if start >= size:
                self._end(416, {"Content-Range": f"bytes */{size}"})
                return
        self.send_response(206 if stop - start < size else 200)
        if stop - start < size:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.send_header("Content-Length", str(stop - start))
        said = {"Last-Modified": self.web.last_modified} if self.web.last_modified else {}
        for name, value in (said | self.web.headers).items():
            self.send_header(name, value)
        self.end_headers()
        if has_body:
            cuts = self.web.cuts.get(self.path)
            self.wfile.write(data[start:stop][: cuts.pop(0) if cuts else None])
            self.close_connection = cuts is not None

    def _end(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": "0", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()


@pytest.fixture
def web(tmp_path_factory: pytest.TempPathFactory, monkeypatch) -> Iterator[WebServer]:
    """A server of an empty folder; requests are tried again without waiting."""
    monkeypatch.setattr(web_store, "WAIT_S", 0.0)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    web_store._session_of.cache_clear()
    folder = tmp_path_factory.mktemp("web")
    handler = type("Handler", (_Handler,), {})
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *args: handler(*args, directory=str(folder))
    )
    handler.web = WebServer(folder=folder, address=f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield handler.web
    server.shutdown()
    server.server_close()
    thread.join()
    web_store._session_of.cache_clear()
