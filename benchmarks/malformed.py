"""What the endpoints answer to bad uploads: bombs, and good files that were spoiled, by thousands.

The app itself is asked, without a server between. Its models cost nothing here: what is tested
stands before them, and a spoiled file that is still whole gets an answer.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bad_uploads import (
    bombs,
    curve_bombs,
    curve_bytes,
    fits_bytes,
    parquet_bytes,
    picture_bytes,
    spoiled,
)
from benchmarks.rows import BenchRow

__all__ = ["measure_malformed"]

IMAGE_ROUTES = ("/v1/embed", "/v1/score", "/v1/similar")
CURVE_ROUTES = ("/v1/flares/forecast", "/v1/score")
NUM_STARS, NUM_CADENCES = 24, 600


def measure_malformed(
    run_dir: str, tokens: str, secret: str, *, count: int, scratch: Path
) -> Iterator[BenchRow]:
    """A row a route: answers that are neither 4xx nor those of a file that is still whole.

    run_dir  a run of images; one of light curves is made in `scratch`
    """
    app = _app(run_dir, tokens)
    image_CYX = np.random.default_rng(1).normal(10, 3, (3, 24, 24)).astype(np.float32)
    good = [fits_bytes(image_CYX, ("g", "r", "i")), picture_bytes("PNG"), picture_bytes("JPEG")]
    for number, route in enumerate(IMAGE_ROUTES):
        bodies = itertools.chain(bombs().values(), spoiled(good, count, seed=number))
        yield _row(app, secret, route, "", bodies)
    time_d, flux = _star(0)
    good = [curve_bytes(time_d, flux), parquet_bytes(time_d, flux)]
    app = _app(_make_curve_run(scratch), tokens)
    for number, route in enumerate(CURVE_ROUTES):
        bodies = itertools.chain(curve_bombs().values(), spoiled(good, count, seed=10 + number))
        yield _row(app, secret, route, ", of light curves", bodies)


def _row(app: Any, secret: str, route: str, of_what: str, bodies: Iterator[bytes]) -> BenchRow:
    statuses = asyncio.run(_ask(app, secret, route, bodies))
    other = sum(n for status, n in statuses.items() if status != 200 and status // 100 != 4)
    return BenchRow(
        what=f"bad uploads at {route}{of_what}: answers other than 4xx", goal=0, is_at_most=True,
        unit="answers", value=float(other), runs=1,
        facts={"uploads": sum(statuses.values()), "still_whole": statuses[200]},
    )  # fmt: skip


async def _ask(app: Any, secret: str, route: str, bodies: Iterator[bytes]) -> Counter[int]:
    """How often the app answers with each status; 500 where it raises. One loop for all."""
    statuses: Counter[int] = Counter()
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
        "scheme": "http", "path": route, "raw_path": route.encode(), "query_string": b"",
        "root_path": "", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
    }  # fmt: skip

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses[message["status"]] += 1

    for body in bodies:
        headers = {"authorization": f"Bearer {secret}", "content-length": str(len(body))}
        pairs = [(key.encode(), value.encode()) for key, value in headers.items()]

        async def receive(body: bytes = body) -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        before = statuses.total()
        try:
            await app({**scope, "headers": pairs, "state": {}}, receive, send)
        except Exception as error:  # noqa: BLE001 - any is what this looks for
            print(f"{route}: {type(error).__name__}: {error}")
            if statuses.total() == before:
                statuses[500] += 1
    return statuses


def _app(run_dir: str, tokens: str) -> Any:
    from astroray.archive import Archive
    from astroray.web.app import build_app
    from astroray.web.flares import build_flare_router
    from astroray.web.guard import Limits
    from astroray.web.security import Tokens

    archive = Archive(run_dir)
    limits = Limits(requests_per_s=1e9, burst=10**9)
    models = _Free(archive.embedding_ND.shape[1])
    return build_app(
        archive,
        models,
        tokens=Tokens(tokens),
        limits=limits,
        routers=[build_flare_router(models, archive.run_id, limits.curves)],
    )


def _make_curve_run(scratch: Path) -> str:
    from astroray import pipeline
    from astroray.config import load_config

    folder = scratch / "stars"
    folder.mkdir()
    for number in range(NUM_STARS):
        (folder / f"{number}.fits").write_bytes(curve_bytes(*_star(number), star=number + 1))
    run_dir = str(scratch / "curves")
    survey = f"{folder}/*.fits?format=light_curves"
    pipeline.scan(load_config(survey, run_dir, None, {"num_random": 0}))
    return run_dir


def _star(number: int) -> tuple[np.ndarray, np.ndarray]:
    flux = np.random.default_rng(number).normal(1000, 2, NUM_CADENCES)
    return 1400 + np.arange(NUM_CADENCES) / 144, flux


class _Free:
    """Models that cost nothing."""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    async def embed(self, image_CYX: np.ndarray) -> np.ndarray:
        return np.zeros(self.dim, np.float32)

    async def forecast(self, items: Sequence[Any]) -> Any:
        from astroray.web.flares import FlareForecast

        return FlareForecast(
            model_id="none", alarm=0.5, strangers="", table=None, rejects=[], dropped={}
        )

    async def is_ready(self) -> bool:
        return True
