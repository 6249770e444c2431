"""What a measurement is, and how a benchmark prints it: one JSON object as its last line.

    {"name", "device", "versions", "commit", "when", "quick", "rows": [...]}

A row's `value` is the median of the ratios of interleaved pairs wherever there is a peer, `low`
and `high` their range. A row without a value is not ok and says why.
"""

import argparse
import dataclasses
import json
import os
import statistics
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from astroray import provenance

__all__ = [
    "BenchRow",
    "MeasurementError",
    "find_survey_data",
    "measured",
    "run_benchmark",
    "spread",
]

PEER_PACKAGES = ("pyod", "scikit-learn")
"""Peers that no result of a run depends on, so that a run record does not name them."""


class MeasurementError(Exception):
    """A measurement failed; the message becomes the row's reason."""


def find_survey_data() -> str:
    """The folder of real survey data, `ASTRORAY_TEST_DATA`; raises MeasurementError without."""
    folder = os.environ.get("ASTRORAY_TEST_DATA", "")
    if not os.path.isdir(folder):
        raise MeasurementError(
            f"ASTRORAY_TEST_DATA is {folder!r}, expected the folder of real survey data that holds "
            "galaxies/"
        )
    return folder


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchRow:
    """One claim and what was measured; a row is printed, never edited."""

    what: str
    """The claim, in words that stay the same from run to run."""
    goal: float | None
    """What `value` is compared with; None: only the check of correctness decides."""
    is_at_most: bool = False
    """Whether the goal is the largest good value, as of times and memory; else the smallest."""
    value: float | None = None
    """Median of the runs; None: could not be measured, see `reason`."""
    unit: str = "x"
    peer: str = ""
    """What it was compared with, in the same run."""
    limit: float | None = None
    """What the machine allows at best, where that is known."""
    low: float | None = None
    high: float | None = None
    runs: int = 0
    error: float | None = None
    """Largest difference from the peer's results, checked before any timing."""
    reason: str = ""
    """Why there is no value."""
    facts: dict[str, float] = dataclasses.field(default_factory=dict)
    """What the value was made of, and CPU time beside wall time; numbers with their unit."""

    def __post_init__(self) -> None:
        if (self.value is None) != bool(self.reason):
            raise ValueError(
                f"row {self.what!r} has value {self.value} and reason {self.reason!r}, expected "
                "a value or else a reason"
            )

    @property
    def ok(self) -> bool:
        """Whether the value was measured and reaches its goal."""
        if self.value is None or self.goal is None:
            return self.value is not None
        return self.value <= self.goal if self.is_at_most else self.value >= self.goal

    def to_json(self) -> dict[str, Any]:
        """The row as its line has it, numbers rounded to five digits."""
        values = dataclasses.asdict(self) | {"ok": self.ok}
        values["goal_is"] = "at most" if values.pop("is_at_most") else "at least"
        if not self.reason:
            del values["reason"]
        return {name: _rounded(value) for name, value in values.items()}


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median and range of what the runs gave, at least one, as fields of a row."""
    return {
        "value": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "runs": len(values),
    }


def measured(
    claims: Sequence[Callable[..., BenchRow]], measure: Callable[[], Sequence[Mapping[str, Any]]]
) -> list[BenchRow]:
    """Rows of `claims`, which lack what `measure` gives: the other fields of each, in order.

    Where it raises MeasurementError, they are rows without a value.
    """
    try:
        fields = measure()
    except MeasurementError as error:
        fields = [{"reason": str(error)}] * len(claims)
    return [claim(**values) for claim, values in zip(claims, fields, strict=True)]


def run_benchmark(
    name: str,
    claim: str,
    measure: Callable[[bool, Path], Iterable[BenchRow]],
    arguments: Sequence[str] | None = None,
) -> None:
    """The command line of a benchmark: parses `--json --quick --scratch`, measures, prints.

    measure  takes whether it is quick, and a folder to write to that is removed afterwards
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=claim)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--quick", action="store_true", help="the same rows from fewer runs")
    parser.add_argument(
        "--scratch", metavar="DIR", help="where to write; what is written is removed in the end"
    )
    asked = parser.parse_args(arguments)
    if asked.scratch:
        Path(asked.scratch).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="astroray-bench-", dir=asked.scratch) as folder:
        rows = []
        for row in measure(asked.quick, Path(folder).resolve()):
            print(_sentence(row), flush=True)
            rows.append(row)
    if asked.json:
        print(json.dumps(_document(name, rows, asked.quick), allow_nan=False), flush=True)


def _document(name: str, rows: Sequence[BenchRow], quick: bool) -> dict[str, Any]:
    document = provenance.document(name, [row.to_json() for row in rows])
    return document | {"quick": quick, "versions": document["versions"] | _peer_versions()}


def _sentence(row: BenchRow) -> str:
    sign = "<=" if row.is_at_most else ">="
    goal = "" if row.goal is None else f"  goal {sign} {row.goal:g}"
    if row.value is None:
        return f"NO  {row.what}: not measured, {row.reason}"
    span = "" if row.low is None else f" [{row.low:.3g}..{row.high:.3g}]"
    limit = "" if row.limit is None else f"  limit {row.limit:.3g}"
    error = "" if row.error is None else f"  error {row.error:.1g}"
    facts = "".join(f"  {key} {value:.4g}" for key, value in row.facts.items())
    mark = "ok " if row.ok else "NO "
    return f"{mark} {row.what}: {row.value:.3g} {row.unit}{span}{goal}{limit}{error}{facts}"


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _peer_versions() -> dict[str, str]:
    found = {}
    for name in PEER_PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
