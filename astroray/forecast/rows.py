"""A comparison of forecasters as a table for people and as rows for machines."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from astroray.flares.windows import Windows
from astroray.forecast.comparison import Comparison, Difference

__all__ = ["json_rows", "text_table"]

COLUMNS = (
    ("auc", "AUC"),
    ("auprc", "AUPRC"),
    ("within_star_auc", "within-star"),
    ("tss", "TSS"),
    ("hss", "HSS"),
    ("f1", "F1"),
    ("brier", "Brier"),
    ("balanced_accuracy", "1:1 accuracy"),
)


def json_rows(
    comparisons: Sequence[Comparison],
    *,
    models: Sequence[str],
    bars: Mapping[str, Sequence[str]],
    within: Mapping[str, tuple[float, float]],
) -> list[dict[str, Any]]:
    """One row a number, in the shape of a benchmark's, and the reliability of each forecaster.

    bars  by track, the peers above which the model's AUC and AUPRC have to be: the lower end of
          the 95 % interval of the difference over stars above 0
    within  by split, the range in which the model's median within-star AUC has to be
    """
    rows: list[dict[str, Any]] = []
    for found in comparisons:
        for name in found.skills:
            rows += _skill_rows(found, name, within.get(found.split) if name in models else None)
        for (name, peer, metric), difference in found.differences.items():
            what = f"{found.track} {found.split} {name}: {metric} minus {peer}"
            row = _row(what, difference.value, difference) | {"peer": peer}
            if name in models and peer in bars.get(found.track, ()):
                row |= {"goal": 0.0, "goal_is": "interval above", "ok": difference.low > 0}
            rows.append(row)
    return rows


def _skill_rows(
    found: Comparison, name: str, within: tuple[float, float] | None
) -> Iterator[dict[str, Any]]:
    skill = found.skills[name]
    for metric, value in skill.numbers().items():
        what = f"{found.track} {found.split} {name}: {metric}"
        row = _row(what, value, found.metrics.get((name, metric)))
        if metric == "within_star_auc" and within:
            ok = within[0] <= value <= within[1]
            row |= {"goal": list(within), "goal_is": "within", "ok": ok}
        yield row
    yield _row(f"{found.track} {found.split} {name}: reliability", skill.brier, None) | {
        "unit": "",
        "reliability": [list(point) for point in skill.reliability],
    }


def _row(what: str, value: float, difference: Difference | None) -> dict[str, Any]:
    known = math.isfinite(value)
    row: dict[str, Any] = {
        "what": what,
        "value": round(value, 5) if known else None,
        "unit": "",
        "goal": None,
        "goal_is": "",
        "ok": known,
        "peer": "",
        "limit": None,
        "low": round(difference.low, 5) if difference else None,
        "high": round(difference.high, 5) if difference else None,
        "runs": 1,
        "error": None,
    }
    if not known:
        row["reason"] = "too few windows with and without a flare"
    return row


def text_table(
    comparisons: Sequence[Comparison], windows: Windows, *, models: Sequence[str]
) -> str:
    """Aligned plain text: a block for each split, then what the model has more than each other."""
    blocks = [
        f"{len(windows)} windows of {len(windows.star_ids)} stars, a flare within 24 h of "
        f"{windows.label_W.mean():.2%}"
    ]
    blocks += [f"  left out: {count} {reason}" for reason, count in windows.dropped.items()]
    for found in comparisons:
        heads = ["", *(head for _, head in COLUMNS)]
        lines = [
            [name, *(_number(getattr(skill, metric)) for metric, _ in COLUMNS)]
            for name, skill in found.skills.items()
        ]
        title = (
            f"\n{found.track}, {found.split}: {found.num_windows} windows, {found.num_stars} stars"
        )
        blocks.append(f"{title}\n{_aligned([heads, *lines])}")
        gains = [["", "AUC", "95 %", "AUPRC", "95 %"]]
        for model, peer in itertools.product(models, found.skills):
            pair = [found.differences.get((model, peer, metric)) for metric in ("auc", "auprc")]
            if all(pair):
                gains.append([f"{model} - {peer}", *(text for d in pair if d for text in _span(d))])
        if len(gains) > 1:
            blocks.append(f"\n{_aligned(gains)}")
    return "\n".join(blocks)


def _span(difference: Difference) -> tuple[str, str]:
    return f"{difference.value:+.4f}", f"{difference.low:+.4f}..{difference.high:+.4f}"


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "–"


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            [
                line[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True)),
            ]
        )
        for line in lines
    )
