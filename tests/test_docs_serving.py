"""What docs/serving.md tells people to type works."""

import os
import re
import shlex
import shutil
import subprocess
import threading
from pathlib import Path

import click
import pytest
import uvicorn

from astroray import surveys
from astroray.archive import Archive
from astroray.cli import cli
from astroray.settings import from_dict
from astroray.surveys.shards import Cutouts
from astroray.web.app import build_app
from astroray.web.curve_uploads import CurveLimits
from astroray.web.flares import build_flare_router
from astroray.web.guard import Limits
from astroray.web.security import Tokens
from astroray.web.serve_config import ServeConfig
from benchmarks.bad_uploads import curve_bytes, fits_bytes
from tests.flares_made import star
from tests.served_run import SURVEY, PlainEncoder, PlainForecaster, make_forecaster, make_run

DOCS = (Path(__file__).parents[1] / "docs" / "serving.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", DOCS, re.DOTALL | re.MULTILINE)
CURLS = [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]
COMMANDS = [line for kind, text in BLOCKS if not kind for line in text.splitlines()]


class Served(uvicorn.Server):
    """A server that says when it listens."""

    def __init__(self, config):
        super().__init__(config)
        self.is_up = threading.Event()

    async def startup(self, sockets=None):
        await super().startup(sockets)
        self.is_up.set()


@pytest.fixture(scope="module")
def environment(tmp_path_factory, free_port):
    """A served run, and what a shell needs to ask it."""
    folder = tmp_path_factory.mktemp("docs")
    archive = Archive(make_run(folder))
    tokens = Tokens(str(folder / "tokens.json"))
    forecaster = PlainForecaster(make_forecaster(str(folder / "flares.model")))
    routers = [build_flare_router(forecaster, archive.run_id, CurveLimits())]
    app = build_app(
        archive, PlainEncoder(archive.model), tokens=tokens, limits=Limits(), routers=routers
    )
    (folder / "lc.fits").write_bytes(curve_bytes(*star(days=8.0)))
    shard = surveys.list_shards(SURVEY).shards[0]
    found = next(item for item in surveys.read_shard(shard) if isinstance(item, Cutouts))
    (folder / "cutout.fits").write_bytes(fits_bytes(found.image_BCYX[0], found.bands))
    server = Served(uvicorn.Config(app, port=free_port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    assert server.is_up.wait(60)
    known = {"TOKEN": tokens.issue("docs", ["read"]), "ID": str(found.object_id_B[0])}
    yield folder, os.environ | known | {"URL": f"http://127.0.0.1:{free_port}"}
    server.should_exit = True
    thread.join()


@pytest.mark.parametrize("line", CURLS)
def test_every_line_for_curl_gets_an_answer(environment, line):
    if not shutil.which("curl"):
        pytest.skip("no curl on this machine")
    folder, variables = environment
    done = subprocess.run(
        ["sh", "-c", line], cwd=folder, env=variables, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    if "-o cutout.png" in line:
        assert (folder / "cutout.png").read_bytes().startswith(b"\x89PNG")
    else:
        assert b"run_id" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_flag_exists(command):
    words = shlex.split(command)[1:]
    verb: click.Command = cli
    while isinstance(verb, click.Group):
        verb = verb.commands[words.pop(0)]
    flags = {option for param in verb.params for option in param.opts}
    assert {word for word in words if word.startswith("--")} <= flags


def test_the_settings_that_are_shown_exist():
    import yaml

    (text,) = (text for kind, text in BLOCKS if kind == "yaml")
    from_dict(ServeConfig, {"run_dir": "x", **yaml.safe_load(text)}, where="the docs")
    limits = ServeConfig(run_dir="x").limits
    assert f"{limits.body_bytes // 2**20} MiB" in DOCS
    assert f"{limits.requests_per_s:g} requests a second" in DOCS
    assert f"{limits.curves.curves} light curves and {limits.curves.cadences:,} cadences" in DOCS
