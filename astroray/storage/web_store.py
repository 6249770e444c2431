"""How astroray reads what an archive offers over HTTP: files, their parts, folders by their pages.

Only reading: nothing is written to a web server. `requests` does the talking, so proxies
(`HTTPS_PROXY`), `~/.netrc` and `REQUESTS_CA_BUNDLE` hold as everywhere. A web server has no
listing; a folder is what the page of links shows that Apache, nginx and others make of it.
"""

import contextlib
import functools
import html.parser
import os
import random
import re
import shutil
import socket
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, NoReturn

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.exceptions import MaxRetryError
from urllib3.util.retry import Retry

from astroray.errors import AstrorayError, ConfigError, FileError, StorageError
from astroray.provenance import versions
from astroray.storage.meter import PIECE_BYTES
from astroray.storage.names import Found, has_hidden, matches

MAX_ATTEMPTS = 8
"""Tries of one request in all."""
WAIT_S = 0.5
"""Before a request is tried again; twice as long each time, unless the server says when."""
TIMEOUT_S = (10, 60)
"""To connect, and between two pieces."""
_BUSY = (408, 429, 500, 502, 503, 504)
_NUM_REQUESTS = 16
"""At a time, where many files are looked up."""
_MOST_PAGE_BYTES = 64 * 2**20
_BROKEN = (urllib3.exceptions.HTTPError, ConnectionError, TimeoutError)
"""What a connection raises that ends within a body."""
_PACKED = (".gz", ".tgz", ".z")
"""Names of what is packed in itself, which some servers call an encoding of its transport."""


def list_objects(location: str) -> list[Found]:
    """One file, else all below a folder, else all that match a glob, sorted by address.

    Names that begin with a dot or underscore are left out, unless `location` spells them.
    """
    if not location.endswith("/") and (single := _look(location)):
        return [(location, *single)]
    literal = re.split(r"[*?[]", location, maxsplit=1)[0]
    if literal == location:
        folder = f"{location.rstrip('/')}/"
        paths = [p for p in _walk(folder) if not has_hidden(p.removeprefix(folder))]
    else:
        folder = f"{literal.rpartition('/')[0]}/"
        patterns = location.removeprefix(folder).split("/")
        depth = None if "**" in patterns else len(patterns)
        below = ((p, p.removeprefix(folder).split("/")) for p in _walk(folder, depth))
        paths = [path for path, parts in below if matches(parts, patterns)]
    return _described(sorted(paths))


def _described(paths: Sequence[str]) -> list[Found]:
    """Size and version of each, several at a time."""
    with ThreadPoolExecutor(_NUM_REQUESTS, thread_name_prefix="look") as pool:
        return [(path, *facts) for path, facts in zip(paths, pool.map(head, paths), strict=True)]


def list_direct(folder: str) -> list[Found]:
    """The files that the page of `folder` links to, sorted; empty where there is no such page."""
    links = _links(f"{folder.rstrip('/')}/")
    return _described(sorted(link for link in links if not link.endswith("/")))


def list_names(folder: str) -> list[str]:
    """Names of the same files."""
    links = _links(f"{folder.rstrip('/')}/")
    return sorted(link.rpartition("/")[2] for link in links if not link.endswith("/"))


def list_folders(folder: str) -> list[str]:
    """Names of the folders that the page of `folder` links to."""
    links = _links(f"{folder.rstrip('/')}/")
    return [link.rstrip("/").rpartition("/")[2] for link in links if link.endswith("/")]


def head(path: str) -> tuple[int, str]:
    """Size in bytes and version of a file. Raises FileError where it is missing or forbidden.

    The version is the time of its last change, which mirrors agree on, else its etag.
    """
    found = _look(path)
    if found is None:
        raise _missing(path)
    return found


def exists(path: str) -> bool:
    """Whether a file stands there; an address that ends with a slash is a folder."""
    return not path.endswith("/") and _look(path) is not None


def get_file(path: str, file: BinaryIO, span: str = "") -> int:
    """Writes the whole file to an open one that is empty, a piece at a time.

    span  which bytes, as HTTP's Range has it; "": all. Servers may send all anyway.

    Returns the size of the whole file. Raises FileError where it is missing or forbidden.
    """
    headers = {"Range": span} if span else {}
    for attempt in range(MAX_ATTEMPTS):
        try:
            with _asked("GET", path, headers=headers, stream=True) as answer:
                if answer.status_code == 416:  # beyond the end: an empty file has no first byte
                    return _whole_size(answer)
                _check(path, "read", answer)
                answer.raw.decode_content = not _is_packed(path)
                shutil.copyfileobj(answer.raw, file, PIECE_BYTES)
                return _whole_size(answer) if answer.status_code == 206 else file.tell()
        except _BROKEN as error:  # within the body, which `requests` does not ask for again
            if attempt == MAX_ATTEMPTS - 1:
                raise _unanswered(path, "read", error) from error
        file.seek(0)
        file.truncate()
        time.sleep(random.random() * WAIT_S * min(2 ** (attempt + 1), 40))
    raise AssertionError("the last attempt returns or raises")


def put(path: str, data: bytes) -> NoReturn:
    """Refused: ConfigError."""
    raise _read_only(path)


def put_file(path: str, file: BinaryIO) -> NoReturn:
    """Refused: ConfigError."""
    raise _read_only(path)


def put_new(path: str, data: bytes) -> NoReturn:
    """Refused: ConfigError."""
    raise _read_only(path)


def delete(path: str) -> NoReturn:
    """Refused: ConfigError."""
    raise _read_only(path)


def _read_only(path: str) -> ConfigError:
    return ConfigError(
        f"{path} cannot be written: a web server is only read; choose a folder of this machine or "
        "s3://bucket/key"
    )


def _walk(folder: str, depth: int | None = None) -> Iterator[str]:
    """Addresses of the files below a folder, by its pages; so many folders deep at most."""
    for link in _links(folder):
        if not link.endswith("/"):
            yield link
        elif depth is None or depth > 1:
            yield from _walk(link, None if depth is None else depth - 1)


def _links(folder: str) -> list[str]:
    """What the page of a folder links to directly below it; folders end with a slash."""
    with _asked("GET", folder, stream=True) as answer:
        if answer.status_code in (404, 410):
            return []
        _check(folder, "list", answer)
        if "html" not in answer.headers.get("Content-Type", ""):
            return []
        page = answer.raw.read(_MOST_PAGE_BYTES, decode_content=True)
        base = f"{answer.url.partition('?')[0].rpartition('/')[0]}/"  # after redirections
    reader = _LinkReader()
    reader.feed(page.decode(answer.encoding or "utf-8", "replace"))
    names = set()
    for href in reader.hrefs:
        with contextlib.suppress(ValueError):  # no address at all
            whole = urllib.parse.urljoin(base, href)
            name = whole.removeprefix(base)
            if name != whole and re.fullmatch(r"[^/?#]+/?", name):
                names.add(name)
    return sorted(folder + _plain(name) for name in names)


def _plain(name: str) -> str:
    """A name as a person writes it, which requests spell by themselves, without `%20` and such.

    Identifiers are made of names, and tables hold them so.
    """
    plain = urllib.parse.unquote(name)
    return name if re.search(r"[%?#\ufffd]|/.", plain) else plain


class _LinkReader(html.parser.HTMLParser):
    """Collects where the links of a page lead."""

    def __init__(self) -> None:
        super().__init__()
        self.hrefs: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.hrefs += [value for name, value in attrs if name == "href" and value]


def _look(path: str) -> tuple[int, str] | None:
    """Size and version of a file; None where there is none, or a page of links in its place."""
    with _asked("HEAD", path) as answer:
        if answer.status_code in (405, 501):  # a server that does not know the question
            return _look_inside(path)
        return _facts(path, answer)


def _look_inside(path: str) -> tuple[int, str] | None:
    with _asked("GET", path, headers={"Range": "bytes=0-0"}, stream=True) as answer:
        return _facts(path, answer)


def _facts(path: str, answer: Any) -> tuple[int, str] | None:
    if answer.status_code in (404, 410) or answer.url.partition("?")[0].endswith("/"):
        return None
    _check(path, "read", answer)
    version = answer.headers.get("Last-Modified") or answer.headers.get("ETag", "").strip('W/"')
    return _whole_size(answer), version


def _whole_size(answer: Any) -> int:
    """Bytes of a file; 0 where the server does not say."""
    known = answer.headers.get("Content-Range", "")  # bytes 0-9/100
    size = known.rpartition("/")[2] or answer.headers.get("Content-Length", "")
    return int(size) if size.isdecimal() else 0


def _is_packed(path: str) -> bool:
    return path.lower().endswith(_PACKED)


@contextlib.contextmanager
def _asked(method: str, path: str, **options: Any) -> Iterator[Any]:
    """The answer to a request, whatever it says; StorageError where there is none."""
    parts = urllib.parse.urlsplit(path)
    if not parts.hostname:
        raise ConfigError(f"{path} names no server, expected https://server/path")
    try:
        answer = _session().request(
            method, path, timeout=TIMEOUT_S, allow_redirects=True, **options
        )
    except requests.RequestException as error:
        raise _unanswered(path, "read", error) from error
    with answer:
        yield answer


class _Tries(Retry):
    """As urllib3 counts them, but that a name which is no server's is asked for once."""

    def increment(self, method: Any = None, url: Any = None, *args: Any, **known: Any) -> "_Tries":
        """The tries that are left."""
        error = known.get("error")
        if getattr(getattr(error, "__cause__", None), "errno", None) == socket.EAI_NONAME:
            raise MaxRetryError(known["_pool"], url, error)
        return super().increment(method, url, *args, **known)


def _session() -> Any:
    return _session_of(os.getpid())


@functools.lru_cache(maxsize=1)
def _session_of(pid: int) -> Any:
    """One session a process, whose connections must not be shared across a fork."""
    retries = _Tries(
        total=MAX_ATTEMPTS - 1,
        backoff_factor=WAIT_S,
        backoff_jitter=WAIT_S,
        status_forcelist=_BUSY,
        allowed_methods=("GET", "HEAD"),
        raise_on_status=False,
    )
    session = requests.Session()
    session.headers["Accept-Encoding"] = "identity"  # bytes as they lie there, with their size
    session.headers["User-Agent"] = f"astroray/{versions()['astroray']}"
    adapter = HTTPAdapter(pool_connections=8, pool_maxsize=32, max_retries=retries)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


def _check(path: str, action: str, answer: Any) -> None:
    """Raises the error of an answer that is no success."""
    status, why = answer.status_code, answer.reason
    if status < 400:
        return
    if status in (404, 410):
        raise _missing(path)
    if status in (401, 403, 407):
        raise FileError(
            f"cannot {action} {path}: the server forbids it ({status} {why}); put user and "
            "password of it into ~/.netrc, or fetch the files yourself"
        )
    if status not in _BUSY:
        raise FileError(f"cannot {action} {path}: the server answers {status} {why}; check it")
    raise StorageError(
        f"cannot {action} {path}: the server answers {status} {why} after {MAX_ATTEMPTS} tries; "
        "wait until it is well, then run the same command again to resume"
    )


def _unanswered(path: str, action: str, error: Exception) -> AstrorayError:
    """The error for a request that got no answer, or was never sent."""
    if isinstance(error, (requests.exceptions.InvalidURL, requests.exceptions.TooManyRedirects)):
        return ConfigError(f"cannot {action} {path}: {error}; check the address")
    return StorageError(
        f"cannot {action} {path}: {error} (tried up to {MAX_ATTEMPTS} times); check the network, "
        "and HTTPS_PROXY where one is needed, then run the same command again to resume"
    )


def _missing(path: str) -> FileError:
    return FileError(f"{path} is missing; check the address")
