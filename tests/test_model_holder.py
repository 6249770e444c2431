"""What a model replica does at once: forecasts, however slow, keep no upload waiting."""

import asyncio
import threading
import types

import numpy as np
import pytest

from astroray import serving
from astroray.archive import Archive
from astroray.web.routes import BusyError
from astroray.web.serve_config import ServeConfig
from tests.served_run import make_run


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return Archive(make_run(tmp_path_factory.mktemp("held")))


def test_an_upload_is_encoded_while_forecasts_fill_their_threads(archive, monkeypatch):
    go_on, begun = threading.Event(), threading.Semaphore(0)

    def wait(items, trained):
        begun.release()
        go_on.wait(100)
        return items

    monkeypatch.setattr(serving, "forecast", wait)
    holder = serving.ModelHolder(ServeConfig(run_dir=archive.run_dir))
    image_CYX = np.zeros((3, 16, 16), np.float32)
    embed = serving.ModelHolder.embed.__wrapped__  # what gathers a batch wants a replica around it

    async def ask():
        forecasts = [asyncio.create_task(holder.forecast([number])) for number in range(40)]
        await asyncio.to_thread(begun.acquire)
        try:
            (embedding_D,) = await asyncio.wait_for(embed(holder, [(archive.model, image_CYX)]), 60)
        finally:
            go_on.set()
        return embedding_D, await asyncio.gather(*forecasts)

    embedding_D, found = asyncio.run(ask())
    assert embedding_D.shape == archive.embedding_ND[0].shape
    assert found == [[number] for number in range(40)]


def test_more_forecasts_at_once_than_may_wait_are_told_to_come_again(archive):
    held = asyncio.Event()

    async def wait(items):
        await held.wait()
        return items

    handle = types.SimpleNamespace(forecast=types.SimpleNamespace(remote=wait))
    models = serving._Models(handle, archive)

    async def ask():
        tasks = [asyncio.create_task(models.forecast([i])) for i in range(serving.MAX_FORECASTS)]
        await asyncio.sleep(0)
        with pytest.raises(BusyError, match="forecasts"):
            await models.forecast(["one too many"])
        held.set()
        found = await asyncio.gather(*tasks)
        return found, await models.forecast(["later"])

    found, later = asyncio.run(ask())
    assert found == [[i] for i in range(serving.MAX_FORECASTS)]
    assert later == ["later"]
