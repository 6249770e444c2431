"""Headless Chromium that tests drive by keys, over its debugging socket."""

import asyncio
import contextlib
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-extensions"),
    *("--remote-debugging-port=0", "--window-size=1280,1000"),
]


def find_browser() -> str:
    """The path of Chromium; skips the test where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next((path for name in names if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"no browser here: none of {', '.join(names)} is on the path")
    return browser


class PageError(Exception):
    """The page does not know what is asked of it."""


class Page:
    """One page of a browser."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.numbers = itertools.count(1)

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the DevTools protocol."""
        number = next(self.numbers)
        await self.socket.send_json({"id": number, "method": method, "params": params})
        async for message in self.socket:
            answer = json.loads(message.data)
            if answer.get("id") == number:
                if "error" in answer:
                    raise PageError(answer["error"])
                return answer["result"]
        raise AssertionError("the browser is gone")

    async def value(self, expression: str) -> Any:
        """What a JavaScript expression gives."""
        answer = await self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise PageError(answer["exceptionDetails"])
        return answer["result"].get("value")

    async def until(self, expression: str, *, seconds: float = 60.0) -> None:
        """Waits until an expression is true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(PageError):  # a page that is about to change has no body
                if await self.value(f"Boolean({expression})"):
                    return
            await asyncio.sleep(0.05)
        raise AssertionError(f"never true: {expression}")

    async def press(self, key: str) -> None:
        """One key, as a person presses it."""
        for kind in ("keyDown", "keyUp"):
            text = {"text": key} if kind == "keyDown" and len(key) == 1 else {}
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, **text)

    async def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """The mouse, its button held, from one place of the window to another; a click in place."""
        at = [start, *([end, end] if end != start else []), end]
        kinds = ["mousePressed", *["mouseMoved"] * (len(at) - 2), "mouseReleased"]
        for kind, (x, y) in zip(kinds, at, strict=True):
            held = {"button": "left", "clickCount": 1, "buttons": int(kind != "mouseReleased")}
            await self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **held)


@contextlib.asynccontextmanager
async def open_page(folder: Path, address: str, *flags: str) -> AsyncIterator[Page]:
    """A browser of its own, with no cookie, at an address; `folder` is its profile."""
    command = [find_browser(), *FLAGS, *flags, f"--user-data-dir={folder}", address]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port_file = folder / "DevToolsActivePort"
        for _ in range(1200):
            if port_file.exists() and len(port_file.read_text().splitlines()) == 2:
                break
            await asyncio.sleep(0.05)
        port = port_file.read_text().splitlines()[0]
        async with aiohttp.ClientSession() as session:
            pages: list[dict[str, Any]] = []
            while not pages:  # the browser answers before it has opened one
                async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                    pages = [one for one in await answer.json() if one["type"] == "page"]
            async with session.ws_connect(pages[0]["webSocketDebuggerUrl"]) as socket:
                yield Page(socket)
    finally:
        process.kill()
        process.wait()
