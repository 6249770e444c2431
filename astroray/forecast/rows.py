"""A comparison of forecasters as a table for people and as rows for machines."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from astroray.evaluation.measured_rows import measured_row
from astroray.evaluation.metrics import Estimate
from astroray.evaluation.text_columns import aligned
from astroray.flares.windows import Windows
from astroray.forecast.comparison import Comparison

__all__ = ["json_rows", "metric_row", "text_table", "undecided"]

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
FORWARD = ("forward_auc", "forward")
WIDE = 0.05
"""An interval of a lead in AUC that is wider and holds 0 says nothing: good forecasters are not so
far ahead of simple ones."""
BIAS = (
    "within-star: chance is below .5 for forecasts that follow the star's past\n"
    "forward: each forecast against the star's earlier ones, chance is .5; see docs/forecasts.md"
)


def json_rows(
    comparisons: Sequence[Comparison],
    *,
    models: Sequence[str],
    bars: Mapping[str, Sequence[str]],
    within: Mapping[str, Mapping[str, tuple[float, float]]],
) -> list[dict[str, Any]]:
    """One row a number, in the shape of a benchmark's, and the reliability of each forecaster.

    bars  by track, the peers above which the model's AUC and AUPRC have to be: the lower end of
          the 95 % interval of the difference over stars above 0
    within  by split and metric, the range in which the model's skill within stars has to be
    """
    rows: list[dict[str, Any]] = []
    for found in comparisons:
        for name in found.skills:
            rows += _skill_rows(found, name, within.get(found.split, {}) if name in models else {})
        for (name, peer, metric), difference in found.differences.items():
            what = f"{found.track} {found.split} {name}: {metric} minus {peer}"
            row = metric_row(what, difference) | {"peer": peer}
            if name in models and peer in bars.get(found.track, ()):
                row |= {"goal": 0.0, "goal_is": "interval above", "ok": difference.low > 0}
            rows.append(row)
    return rows


def _skill_rows(
    found: Comparison, name: str, within: Mapping[str, tuple[float, float]]
) -> Iterator[dict[str, Any]]:
    skill = found.skills[name]
    values = skill.numbers()
    if forward := found.metrics.get((name, FORWARD[0])):
        values[FORWARD[0]] = forward.value
    for metric, value in values.items():
        what = f"{found.track} {found.split} {name}: {metric}"
        row = metric_row(what, found.metrics.get((name, metric), value))
        if metric in within:
            low, high = within[metric]
            row |= {"goal": [low, high], "goal_is": "within", "ok": low <= value <= high}
        yield row
    yield metric_row(f"{found.track} {found.split} {name}: reliability", skill.brier) | {
        "unit": "",
        "reliability": [list(point) for point in skill.reliability],
    }


def metric_row(
    what: str, number: Estimate | float, reason: str = "too few windows with and without a flare"
) -> dict[str, Any]:
    """A number in the shape of a benchmark's row; null with the reason where it is NaN."""
    row = measured_row(what, number, goal_is="")
    return row if row["ok"] else row | {"reason": reason}


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
        title = (
            f"\n{found.track}, {found.split}: {found.num_windows} windows, {found.num_stars} stars"
        )
        blocks.append(f"{title}\n{aligned(_skill_lines(found))}")
        gains = [["", "AUC", "95 %", "AUPRC", "95 %"]]
        for model, peer in itertools.product(models, found.skills):
            pair = [found.differences.get((model, peer, metric)) for metric in ("auc", "auprc")]
            if all(pair):
                gains.append([f"{model} - {peer}", *(text for d in pair if d for text in _span(d))])
        if len(gains) > 1:
            blocks.append(f"\n{aligned(gains)}")
    if any(metric == FORWARD[0] for found in comparisons for _, metric in found.metrics):
        blocks.append(f"\n{BIAS}")
    return "\n".join(blocks)


def undecided(comparisons: Sequence[Comparison], models: Sequence[str]) -> list[str]:
    """For each split and model, of which others its test windows do not say which is better."""
    told = []
    for found, model in itertools.product(comparisons, models):
        leads = {peer: found.differences.get((model, peer, "auc")) for peer in found.skills}
        peers = [peer for peer, lead in leads.items() if lead and _says_nothing(lead)]
        if peers:
            told.append(
                f"{found.split}: nothing follows of whether {model} is better than "
                f"{', '.join(peers)}: {found.num_flared} of {found.num_windows} windows have a "
                f"flare, too few; the 95 % interval of its lead in AUC holds 0 and is wider than "
                f"{WIDE}"
            )
    return told


def _says_nothing(lead: Estimate) -> bool:
    """Whether either may be far ahead; so where no resample gave a number."""
    is_decided = lead.low > 0 or lead.high < 0
    return not is_decided and not lead.high - lead.low <= WIDE


def _skill_lines(found: Comparison) -> list[list[str]]:
    """A line of heads, and one for each forecaster."""
    lines = [["", *(head for _, head in COLUMNS)]]
    for name, skill in found.skills.items():
        lines.append([name, *(_number(getattr(skill, metric)) for metric, _ in COLUMNS)])
    forward = [found.metrics.get((name, FORWARD[0])) for name in found.skills]
    if any(forward):
        column = [FORWARD[1], *(_number(value.value if value else math.nan) for value in forward)]
        lines = [[*line, text] for line, text in zip(lines, column, strict=True)]
    return lines


def _span(difference: Estimate) -> tuple[str, str]:
    return f"{difference.value:+.4f}", f"{difference.low:+.4f}..{difference.high:+.4f}"


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "–"
