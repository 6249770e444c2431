"""What Prometheus may know of a running scan, through the metrics of its Ray cluster.

Every series has the label `run`, the run id. Ray puts `ray_` before each name.
"""

import time
from collections.abc import Mapping, Sequence

from astroray.neighbors.certificate import Proof
from astroray.receipts import Receipt
from astroray.run_record import RejectCount

__all__ = ["GAUGES", "SUMS", "RunMetrics"]

SUMS: Mapping[str, str] = {
    "astroray_objects": "objects embedded",
    "astroray_shards": "shards done",
    "astroray_rejects": "rows and shards rejected, by reason",
}
"""Names and meanings of what only rises; Ray puts `_total` after each name."""
GAUGES: Mapping[str, str] = {
    "astroray_objects_per_second": "objects embedded a second, since the stage began",
    "astroray_worker_idle_share": "share of the workers' time in which they had no shard, 0..1",
    "astroray_certificate_rescored": "objects that the certificate scored exactly",
    "astroray_certificate_share": "share of all objects that it scored exactly, 0..1",
    "astroray_search_seconds": "seconds of the search, its certificate and the catalog",
    "astroray_ended_timestamp_seconds": "Unix time at which the run was done",
}
"""Names and meanings of what stands at a value."""


class RunMetrics:
    """The series of one run, as its driver sets them. Needs the running Ray cluster.

    num_workers  workers that the embed stage asked for
    """

    def __init__(self, run_id: str, *, num_workers: int) -> None:
        from ray.util.metrics import Counter, Gauge

        self._sums = {
            name: Counter(name, text, ("run", "reason") if name == "astroray_rejects" else ("run",))
            for name, text in SUMS.items()
        }
        self._gauges = {name: Gauge(name, text, ("run",)) for name, text in GAUGES.items()}
        for metric in (*self._sums.values(), *self._gauges.values()):
            metric.set_default_tags({"run": run_id})
        self._num_workers = num_workers
        self._started_s = time.monotonic()
        self._num_objects = 0
        self._busy_s = 0.0

    def add(self, receipt: Receipt, rejects: Sequence[RejectCount]) -> None:
        """Counts a finished shard; `rejects` as `ledger.summarize_rejects` gives them."""
        self._num_objects += receipt.rows_embedded
        self._busy_s += receipt.seconds
        elapsed_s = time.monotonic() - self._started_s
        self._sums["astroray_shards"].inc(1)
        if receipt.rows_embedded:  # Ray refuses to add nothing
            self._sums["astroray_objects"].inc(receipt.rows_embedded)
        for kind in rejects:
            number = kind.rows + kind.shards
            self._sums["astroray_rejects"].inc(number, tags={"reason": kind.kind})
        busy_share = self._busy_s / (self._num_workers * elapsed_s)
        self._gauges["astroray_objects_per_second"].set(self._num_objects / elapsed_s)
        self._gauges["astroray_worker_idle_share"].set(max(0.0, 1.0 - busy_share))

    def certified(self, proof: Proof, *, seconds: float) -> None:
        """Sets the gauges of what the proof of the list cost."""
        share = proof.num_rescored / max(proof.num_objects, 1)
        self._gauges["astroray_certificate_rescored"].set(proof.num_rescored)
        self._gauges["astroray_certificate_share"].set(share)
        self._gauges["astroray_search_seconds"].set(seconds)

    def ended(self) -> None:
        """Sets when the run was done: now."""
        self._gauges["astroray_ended_timestamp_seconds"].set(time.time())
