"""What a person is shown of an evaluation of flare forecasts: one HTML file without a network."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from astroray.evaluation.metrics import Estimate
from astroray.forecast.comparison import Comparison
from astroray.forecast.finders import FinderSkill
from astroray.forecast.page import reliability_figure
from astroray.run_files import publish_page
from astroray.templates import load_template

__all__ = ["write_evaluation_page"]

BAR_WIDTH, BAR_HEIGHT = 170, 18
CHANCE = 0.5


def write_evaluation_page(
    folder: str,
    document: Mapping[str, Any],
    comparisons: Sequence[Comparison],
    finders: Sequence[FinderSkill],
    *,
    models: Sequence[str],
) -> str:
    """Publishes `index.html` in the folder of an evaluation; returns its path.

    document  as rows.json holds it
    models    forecasters whose lead over the others is shown
    """
    html = load_template("astroray.forecast", "evaluation.html.jinja").render(
        document=document,
        sections=[_section(found, models) for found in comparisons],
        finders=[
            [_finder_row(skill) for skill in finders if (skill.survey, skill.labels) == block]
            for block in dict.fromkeys((skill.survey, skill.labels) for skill in finders)
        ],
    )
    return publish_page(folder, html)


def interval_figure(
    value: Estimate | None, low: float, high: float, mark: float | None = None
) -> Markup:
    """A number as a dot on its interval, between the ends of an axis with a stroke at `mark`.

    Empty where there is none.
    """
    if value is None or not math.isfinite(value.value):
        return Markup()

    def x(at: float) -> float:
        share = (at - low) / (high - low)
        return 4 + min(max(share, 0.0), 1.0) * (BAR_WIDTH - 8)

    middle = BAR_HEIGHT / 2
    chance = "" if mark is None else f'<path class="chance" d="M{x(mark):.1f} 0V{BAR_HEIGHT}"/>'
    bar = ""
    if math.isfinite(value.low):
        bar = f'<path class="span" d="M{x(value.low):.1f} {middle}H{x(value.high):.1f}"/>'
    return Markup(
        f'<svg class="interval" width="{BAR_WIDTH}" height="{BAR_HEIGHT}" role="img" '
        f'aria-label="{value.low:.3f} to {value.high:.3f}">'
        f'{chance}{bar}<circle class="dot" cx="{x(value.value):.1f}" cy="{middle}" r="3.5"/></svg>'
    )


def _section(found: Comparison, models: Sequence[str]) -> dict[str, Any]:
    """A split as the page shows it."""
    return {
        "found": found,
        "base_rate": next(iter(found.skills.values())).base_rate,
        "models": models,
        "has_forward": any(metric == "forward_auc" for _, metric in found.metrics),
        "bars": _bars({name: found.metrics.get((name, "auc")) for name in found.skills}, CHANCE),
        "leads": [
            (model, peers)
            for model in models
            if model in found.skills and (peers := _leads(found, model))
        ],
        "curves": [
            (name, reliability_figure(skill.reliability, f"of {name}"))
            for name, skill in found.skills.items()
        ],
    }


def _leads(found: Comparison, model: str) -> list[dict[str, Any]]:
    """What a model has more than each other forecaster."""
    by_metric: dict[str, dict[str, Estimate | None]] = {
        metric: {
            peer: found.differences.get((model, peer, metric))
            for peer in found.skills
            if (model, peer, metric) in found.differences
        }
        for metric in ("auc", "auprc")
    }
    bars = {metric: _bars(values, 0.0) for metric, values in by_metric.items()}
    return [
        {
            "peer": peer,
            **{metric: (by_metric[metric][peer], bars[metric][peer]) for metric in by_metric},
        }
        for peer in by_metric["auc"]
    ]


def _bars(values: Mapping[str, Estimate | None], mark: float) -> dict[str, Markup]:
    """Figures of numbers on one axis, which holds all their intervals and the mark."""
    ends = [mark]
    for value in values.values():
        if value is not None:
            ends += [end for end in (value.low, value.value, value.high) if math.isfinite(end)]
    low, high = min(ends), max(ends)
    high = high if high > low else low + 1.0
    return {name: interval_figure(value, low, high, mark) for name, value in values.items()}


def _finder_row(skill: FinderSkill) -> dict[str, Any]:
    figures = {
        metric: interval_figure(getattr(skill, metric), 0.0, 1.0)
        for metric in ("recall", "precision")
    }
    return {"skill": skill, **figures}
