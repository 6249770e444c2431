"""Named points at which a test may kill the process; they do nothing in a normal run.

A fault plan is a folder. A file `<point>` in it, or `<point>@<text>` to be met only where `text`
is part of the detail, kills the process that reaches the point first: the file is removed, so
each one kills once. `<point>#2` is a second file of one point. A file `reached`, where there is
one, gets a line for every point on the way: its name, a tab, the detail.
"""

import os
import signal
from collections.abc import Mapping
from typing import Literal

Process = Literal["driver", "worker", "fit", "search"]

POINTS: Mapping[str, tuple[Process, str]] = {
    "listed": ("driver", "the listing is written"),
    "sampled": ("driver", "the sample of the fit is drawn"),
    "fit.saved": ("fit", "a state of the fit is written"),
    "fitted": ("driver", "the model file is written"),
    "shard.begun": ("worker", "the attempt at a shard is noted, nothing is read"),
    "shard.encoded": ("worker", "a shard is encoded, nothing is written"),
    "shard.embeddings": ("worker", "its embeddings are written, its rejects are not"),
    "shard.rejects": ("worker", "its rejects are written, its done mark is not"),
    "shard.done": ("worker", "its done mark is written, the driver does not know"),
    "receipt": ("driver", "the driver knows that a shard is done"),
    "embedded": ("driver", "all shards are done"),
    "index.routed": ("search", "vectors of a group of shards have their cells, nothing is written"),
    "index.partition": ("search", "a partition of the index is sorted, not written"),
    "index.built": ("driver", "all partitions are written, the manifest is not"),
    "index.manifest": ("driver", "the index is complete"),
    "search.cells": ("search", "a partition is about to be searched in the cells around"),
    "search.partitions": ("search", "some partitions are about to be searched exactly"),
    "search.found": ("search", "neighbors are found, nothing is written"),
    "search.neighbors": ("search", "NEIGHBORS is written"),
    "search.file": ("search", "a file of the catalog is written, others may not be"),
    "search.catalog": ("search", "the catalog is complete, the driver does not know"),
    "searched": ("driver", "counts and proof are in the run record"),
    "thumbnails": ("driver", "the report's pictures are written"),
    "reported": ("driver", "the report is written, the run is not marked as done"),
    "done": ("driver", "the run is marked as done"),
    "publish.written": ("driver", "a file is written under its temporary name, in any process"),
    "publish.renamed": ("driver", "a file has its name, its folder is not synced"),
}
"""Every point: which process dies there, and how far a scan has come then."""

_plan: str = ""


def arm(folder: str) -> None:
    """Uses the fault plan in `folder` in this process; "" disarms."""
    global _plan
    _plan = folder


def armed() -> str:
    """The fault plan of this process, to be handed on to another one; "" where there is none."""
    return _plan


def reach(point: str, detail: str = "") -> None:
    """Kills this process with SIGKILL where the plan says so, once a token."""
    if not _plan:
        return
    names = sorted(os.listdir(_plan))
    if "reached" in names:
        with open(os.path.join(_plan, "reached"), "a", encoding="utf-8") as log:
            log.write(f"{point}\t{detail}\n")
    for name in names:
        wanted, _, text = name.partition("@")
        if wanted.partition("#")[0] == point and text in detail:
            try:
                os.unlink(os.path.join(_plan, name))
            except FileNotFoundError:
                continue  # another process took this token
            os.kill(os.getpid(), signal.SIGKILL)
