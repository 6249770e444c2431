"""The labelling page on a port of its own, for tests that open it in a browser."""

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence

import uvicorn

from astroray.labelling.label_server import labelling_app
from astroray.web.listening import listen


@contextlib.contextmanager
def serve_labelling(run_dir: str, names: Sequence[str]) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Serves a run until the block ends: the server's address, and a token for each person."""
    with labelling_app(run_dir, names) as (app, secret_of), listen("127.0.0.1", 0) as where:
        listening, address = where
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        yield address, secret_of
        server.should_exit = True
        thread.join(timeout=20)
