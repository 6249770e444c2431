"""How far a running scan is, in the numbers that one line shows."""

import dataclasses
import json
import time
from collections.abc import Callable

from astroray import moments, storage
from astroray.errors import FileError
from astroray.neighbors.partitions import FOLDER
from astroray.receipts import Receipt

WRITTEN_EVERY_S = 5.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a running scan stands; what the progress line shows."""

    stage: str
    """start, list, fit, embed, search or report; of `flares find` start or flares."""
    objects: int = 0
    objects_per_s: float = 0.0
    shards_done: int = 0
    shards_total: int = 0
    rejects: int = 0
    seconds_left: float | None = None
    note: str = ""


Show = Callable[[Progress], None]


class Counter:
    """Turns receipts into progress."""

    def __init__(
        self, show: Show, shards_total: int, shards_done: int, started: float, stage: str = "embed"
    ) -> None:
        self.show, self.stage = show, stage
        self.shards_total = shards_total
        self.shards_before = shards_done
        self.shards_done = shards_done
        self.started = started
        self.objects = 0
        self.rejects = 0

    def add(self, receipt: Receipt) -> None:
        self.shards_done += 1
        self.objects += receipt.rows_embedded
        self.rejects += receipt.rows_rejected + receipt.shard_rejected
        elapsed_s = time.monotonic() - self.started
        share = (self.shards_done - self.shards_before) / (self.shards_total - self.shards_before)
        self.show(
            Progress(
                stage=self.stage,
                objects=self.objects,
                objects_per_s=self.objects / elapsed_s,
                shards_done=self.shards_done,
                shards_total=self.shards_total,
                rejects=self.rejects,
                seconds_left=elapsed_s / share - elapsed_s,
            )
        )


class Steps:
    """Turns what a search says of its tasks into progress; now and then writes it for `status`."""

    def __init__(self, show: Show, run_dir: str) -> None:
        self.show, self.run_dir = show, run_dir
        self.what = ""
        self.started = self.written = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what != self.what:
            self.what, self.started = what, now
        left_s = (now - self.started) * (total - done) / done if done else None
        text = f"{what}, {done} of {total} tasks"
        self.show(Progress(stage="search", note=text, seconds_left=left_s))
        if now - self.written < WRITTEN_EVERY_S and self.written:
            return
        self.written = now
        if left_s is not None:
            text += f", {left_s:.0f} s left of them"
        facts = {"text": text, "when": moments.now()}
        storage.publish(_path(self.run_dir), json.dumps(facts).encode())


def read_steps(run_dir: str) -> str:
    """How far the search over partitions of a running scan is, in words; "" where none is on."""
    try:
        facts = json.loads(storage.read_bytes(_path(run_dir)))
    except FileError:
        return ""
    return f"{facts['text']}, at {facts['when']}"


def _path(run_dir: str) -> str:
    """The search removes it with its other scratch when it is done."""
    return storage.join(run_dir, FOLDER, "scratch-progress.json")
