"""The labelling page of a run on this machine, without Ray: one process, tokens made for it."""

import asyncio
import contextlib
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from fastapi import FastAPI

from astroray import storage
from astroray.actors.answer import Answerer
from astroray.archive import Archive
from astroray.catalog.exports import export_rows
from astroray.catalog.versions import read_version
from astroray.labelling.labels import LabelLog, labels_table
from astroray.run_folders import finished_run, version_of
from astroray.runs import check_takes
from astroray.web.app import build_app
from astroray.web.guard import Limits
from astroray.web.labelling import LOGIN_PATH, build_label_router
from astroray.web.security import Tokens

__all__ = ["export_labels", "labelling_app", "run_app"]

LIMITS = Limits(requests_per_s=1000.0, burst=5000)
"""A page of pictures asks for hundreds at once, of people who sit at this machine."""


@contextlib.contextmanager
def labelling_app(run_dir: str, names: Sequence[str]) -> Iterator[tuple[FastAPI, dict[str, str]]]:
    """The app of a finished run and the secret of each person, valid until the context ends.

    Raises ConfigError where the run is not done, or a name cannot be that of a person, and
    StorageError where its folder takes no labels.
    """
    finished_run(run_dir)
    check_takes(run_dir, "labels")
    archive = Archive(run_dir)
    with tempfile.TemporaryDirectory() as folder:
        tokens = Tokens(os.path.join(folder, "tokens.json"))
        secret_of = {name: tokens.issue(name, ["read", "label"]) for name in names}
        app = build_app(
            archive,
            _Here(archive),
            tokens=tokens,
            limits=LIMITS,
            routers=[build_label_router(archive, LabelLog(archive.run_dir))],
            login_path=LOGIN_PATH,
        )
        yield app, secret_of


def run_app(app: FastAPI, listening: socket.socket) -> None:
    """Answers until interrupted."""
    import uvicorn

    config = uvicorn.Config(app, log_level="warning", server_header=False, lifespan="off")
    uvicorn.Server(config).run(sockets=[listening])


def export_labels(run_dir: str, out: str, format: str, *, overwrite: bool = False) -> int:
    """Writes the labels that stand, beside what the catalog says; returns their number.

    Raises ConfigError where `out` is there already, without `overwrite`.
    """
    finished_run(run_dir)
    run_dir = version_of(run_dir)
    rows = labels_table(LabelLog(run_dir).read(), read_version(run_dir))
    return export_rows(rows, format=format, out=out, overwrite=overwrite)


class _Here:
    """Encodes uploads in this process; the model is loaded at the first one."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self._answerer: Callable[[], Answerer] = _once(
            lambda: Answerer(device="cpu", num_threads=1)
        )

    async def embed(self, image_CYX: np.ndarray) -> np.ndarray:
        return await asyncio.to_thread(self._embed, image_CYX)

    async def is_ready(self) -> bool:
        return storage.exists(self.archive.model.path)

    def _embed(self, image_CYX: np.ndarray) -> np.ndarray:
        return self._answerer().embed([(self.archive.model, image_CYX)])[0]


def _once(make: Callable[[], Answerer]) -> Callable[[], Answerer]:
    """The same answerer at every call, made at the first one, by whichever thread."""
    lock = threading.Lock()
    made: list[Answerer] = []

    def get() -> Answerer:
        with lock:
            if not made:
                made.append(make())
            return made[0]

    return get
