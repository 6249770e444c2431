"""An evaluation as a table for people and as rows for machines."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from astroray.evaluation.measured_rows import measured_row, rounded
from astroray.evaluation.metrics import Estimate
from astroray.evaluation.neighborhoods import NEIGHBOR_SCORES
from astroray.evaluation.results import Line, Results
from astroray.evaluation.text_columns import aligned

__all__ = ["REFERENCES", "json_rows", "notes", "text_table"]

REFERENCES = (
    "size",
    "brightness",
    "pixels",
    "pca",
    "cae",
    "attcae",
    "amplitude",
    "scatter",
    "lc-pca",
    "spec-pca",
)
"""Encoders that no bar is set for: the baselines and the published ones."""
GAIN_GOAL = 0.10
"""Recall that a better encoder has above attcae's on the mixed subset of efigi and of sim."""
ERROR_GOAL = 0.6
"""What attcae leaves of the pixels' 1 - AUC on the mixed subset of sim, at most."""
LARGEST_CHANGE_MIXED, LARGEST_CHANGE = 0.005, 0.01
"""What fewer bits may change of an AUC: on the mixed subsets of sim; elsewhere, where 0 is not in
the interval."""


def json_rows(results: Results) -> list[dict[str, Any]]:
    """One row a number, in the shape of a benchmark's: what, value, unit, goal, ok, low, high...

    A row whose encoder was not reached has no value and a reason, and is not ok.
    """
    return [row for line in results.lines() for row in _rows_of(results, line)]


def _rows_of(results: Results, line: Line) -> Iterator[dict[str, Any]]:
    where = f"{results.protocol.name} {line.subset.name} {line.encoder} {line.score}"
    for name, number in line.means.items():
        yield _row(line, name, f"{where}: {name}", number) | {
            "contamination": line.subset.num_outliers
            / (len(line.subset.inlier_I) + line.subset.num_outliers),
            "facts": _known({**line.metrics, "lift": line.lift, **line.facts}),
        }
    if not line.means:
        yield _row(line, "recall", f"{where}: recall", None)
    for (peer, name), number in line.minus.items():
        row = _row(line, name, f"{where}: {name} minus {peer}", number) | {"peer": peer}
        yield row | _bar(results.protocol.name, line, peer, name, number)
    is_measured = results.protocol.name == "sim" and math.isfinite(line.error_ratio)
    if is_measured and line.encoder == "attcae" and line.subset.is_mixed:
        yield _row(line, "auc", f"{where}: (1 - auc) over that of pixels", None) | {
            "value": rounded(line.error_ratio),
            "unit": "x",
            "peer": "pixels",
            "goal": ERROR_GOAL,
            "goal_is": "at most",
            "ok": line.error_ratio <= ERROR_GOAL,
        }


def _row(line: Line, metric: str, what: str, number: Estimate | None) -> dict[str, Any]:
    unit = "AUC" if metric == "auc" else "share"
    row = measured_row(what, number, unit=unit, runs=line.num_seeds) | {
        "subset": line.subset.name,
        "encoder": line.encoder,
        "score": line.score,
        "metric": metric,
        "complete": line.is_complete,
    }
    if line.reason:
        row["reason"] = line.reason
    if line.facts["trained_on_share"]:
        row["note"] = _trained_on(line)
    return row


def _bar(protocol: str, line: Line, peer: str, name: str, number: Estimate) -> dict[str, Any]:
    """Goal of a difference where the better encoder has one; only certifiable scores count."""
    if peer == line.reference:
        return _change_bar(protocol, line, name, number)
    is_candidate = (
        line.encoder.partition("?")[0] not in REFERENCES and line.score in NEIGHBOR_SCORES
    )
    is_candidate &= not line.reference
    if peer != "attcae" or not is_candidate or not line.subset.has_bar:
        return {}
    is_gain = line.subset.is_mixed and protocol in ("efigi", "sim")
    if is_gain and name == "recall":
        ok = number.value >= GAIN_GOAL and number.low > 0
        return {"goal": GAIN_GOAL, "ok": ok}
    if not is_gain and name == "auc":
        return {"goal": 0.0, "goal_is": "not significantly below", "ok": number.high >= 0}
    return {}


def _change_bar(protocol: str, line: Line, name: str, number: Estimate) -> dict[str, Any]:
    """Goal of the change that fewer bits make; on every subset, as it is no better encoder."""
    if name != "auc" or line.score not in NEIGHBOR_SCORES:
        return {}
    size = abs(number.value)
    if protocol != "sim":
        ok = number.low <= 0 <= number.high or size <= LARGEST_CHANGE
        return {"goal": LARGEST_CHANGE, "goal_is": "within, or 0 in the interval", "ok": ok}
    if not line.subset.is_mixed:
        return {}
    return {"goal": LARGEST_CHANGE_MIXED, "goal_is": "within", "ok": size <= LARGEST_CHANGE_MIXED}


def text_table(results: Results) -> str:
    """Aligned plain text: a block for each subset, then the seconds of each encoder."""
    lines, peers = results.lines(), results.peers
    heads = (*_HEADS, *(f"{name} - {peer}" for peer in peers for name in ("recall", "AUC")))
    blocks = []
    for subset in results.protocol.subsets:
        found = [line for line in lines if line.subset is subset]
        what = (
            f"{results.protocol.name} {subset.name}  {subset.title}  "
            f"{len(subset.inlier_I)} inliers + {subset.num_outliers} of "
            f"{len(subset.candidate_O)} outliers"
        )
        if not subset.has_bar:
            what += "  (no goal is set for it)"
        blocks.append(f"{what}\n{_aligned(heads, [_cells(line, peers) for line in found])}")
    mixed = [line for line in lines if line.subset.name == results.protocol.fitted]
    stages = ("encoder", "score", "fit s", "passes", "encode s", "index s", "query s")
    blocks.append(f"seconds a seed\n{_aligned(stages, [_seconds(line) for line in mixed])}")
    return "\n\n".join([*blocks, *notes(results)])


def notes(results: Results) -> list[str]:
    """Sentences on what is not complete, or was trained on what it is shown."""
    said: dict[str, None] = {}
    for line in results.lines():
        if not line.is_complete:
            by = f" by {line.score}" if (line.encoder, line.score) in results.reasons else ""
            said[f"* {line.encoder}{by} is not complete: {line.reason}"] = None
        if line.facts["trained_on_share"]:
            said[f"+ {line.encoder} was {_trained_on(line)}"] = None
    return list(said)


_HEADS = ("encoder", "score", "AUC", "recall", "at 5 %", "at 10 %", "at 15 %", "lift")


def _cells(line: Line, peers: Sequence[str]) -> list[str]:
    mark = "" if line.is_complete else "*"
    mark += "+" if line.facts["trained_on_share"] else ""
    cells = [line.encoder + mark, line.score]
    if not line.means:
        return [*cells, "-"]
    cells += [f"{value:.3f}" for value in line.metrics.values()]
    cells.append(f"{line.lift:.1f}")
    for peer in peers:
        for name in ("recall", "auc"):
            number = line.minus.get((peer, name))
            cells.append(
                f"{number.value:+.3f} [{number.low:+.3f} {number.high:+.3f}]" if number else ""
            )
    return cells


def _seconds(line: Line) -> list[str]:
    names = ("fit_s", "passes", "encode_s", "index_s", "query_s")
    if not line.means:
        return [line.encoder, line.score, "-"]
    return [line.encoder, line.score, *(f"{line.facts[name]:.3g}" for name in names)]


def _aligned(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return aligned([heads, *rows], num_left=2, indent="  ")


def _trained_on(line: Line) -> str:
    return f"trained on {line.facts['trained_on_share']:.0%} of these objects"


def _known(values: dict[str, float]) -> dict[str, float]:
    found = {name: rounded(value) for name, value in values.items()}
    return {name: value for name, value in found.items() if value is not None}
