"""How far a running scan is, in the numbers that one line shows."""

import dataclasses
import time
from collections.abc import Callable

from astroray.ledger import Receipt


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a running scan stands; what the progress line shows."""

    stage: str
    """list, fit, embed, search or report."""
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

    def __init__(self, show: Show, shards_total: int, shards_done: int, started: float) -> None:
        self.show = show
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
                stage="embed",
                objects=self.objects,
                objects_per_s=self.objects / elapsed_s,
                shards_done=self.shards_done,
                shards_total=self.shards_total,
                rejects=self.rejects,
                seconds_left=elapsed_s / share - elapsed_s,
            )
        )
