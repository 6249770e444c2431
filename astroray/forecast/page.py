"""What a person is shown of forecasts: one HTML file that needs no network."""

import functools
import math
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup, escape

from astroray.forecast.forecast_record import ForecastRecord
from astroray.run_files import publish_page
from astroray.templates import load_template
from astroray.templates.svg import svg_text

__all__ = ["course_figure", "reliability_figure", "write_page"]

NUM_STARS = 50
NUM_COURSES = 12
"""Stars of which all forecasts are drawn, those most likely to flare next."""
SIZE, LEFT, BOTTOM, TOP, RIGHT = 420, 58, 46, 12, 16
COURSE_WIDTH, COURSE_HEIGHT = 480, 150
TICKS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
"""Steps of an axis of probabilities."""
MOST_TICKS = 5


def write_page(folder: str, record: ForecastRecord, forecasts: pa.Table) -> str:
    """Publishes `index.html` in a folder; returns its path."""
    newest = forecasts.filter(forecasts["newest"]).sort_by(
        [("probability", "descending"), ("object_id", "ascending")]
    )
    listed = newest.slice(0, NUM_STARS).to_pylist()
    html = load_template("astroray.forecast", "page.html.jinja").render(
        record=record,
        newest=listed,
        courses=[
            (
                row["object_id"],
                course_figure(
                    forecasts.filter(pc.equal(forecasts["object_id"], row["object_id"])),
                    record.alarm,
                ),
            )
            for row in listed[:NUM_COURSES]
        ],
        num_stars=newest.num_rows,
        here=reliability_figure(record.reliability, "of these light curves"),
        held_out=reliability_figure(
            [(a, b, n) for a, b, n in record.trained["reliability"]], "of the model's test stars"
        ),
    )
    return publish_page(folder, html)


def reliability_figure(points: Sequence[tuple[float, float, int]], name: str) -> Markup:
    """How often a flare came against the probability forecast, in bins of equal number.

    Bars are one sigma of a binomial share. Empty where there is no point.
    """
    if not points:
        return Markup("")
    most = max(max(mean, share) for mean, share, _ in points)
    step = next(step for step in TICKS if most <= MOST_TICKS * step)
    num_ticks = max(1, math.ceil(most / step))
    top = num_ticks * step
    base, right = SIZE - BOTTOM, SIZE - RIGHT

    def x(value: float) -> float:
        return LEFT + min(value / top, 1.0) * (right - LEFT)

    def y(value: float) -> float:
        return base - min(value / top, 1.0) * (base - TOP)

    parts = [f'<path class="grid" d="M{x(0):.1f} {y(0):.1f}L{x(top):.1f} {y(top):.1f}"/>']
    for tick in (number * step for number in range(num_ticks + 1)):
        parts.append(_centered(x(tick), base + 16, f"{tick:.2g}"))
        parts.append(_centered(LEFT - 20, y(tick) + 4, f"{tick:.2g}"))
    line = "L".join(f"{x(mean):.1f} {y(share):.1f}" for mean, share, _ in points)
    parts.append(f'<path class="line" d="M{line}"/>')
    for mean, share, number in points:
        sigma = (share * (1 - share) / number) ** 0.5
        low, high = y(max(share - sigma, 0)), y(share + sigma)
        parts.append(f'<path class="bar" d="M{x(mean):.1f} {low:.1f}V{high:.1f}"/>')
        parts.append(f'<circle class="dot" cx="{x(mean):.1f}" cy="{y(share):.1f}" r="4"/>')
    parts += [
        f'<path class="axis" d="M{LEFT} {TOP}V{base}H{right}"/>',
        _centered((LEFT + right) / 2, SIZE - 8, "forecast probability"),
        _centered(13, (TOP + base) / 2, "share of windows with a flare", is_turned=True),
    ]
    return Markup(
        f'<svg class="figure" viewBox="0 0 {SIZE} {SIZE}" role="img" '
        f'aria-label="Reliability {escape(name)}">{"".join(parts)}</svg>'
    )


def course_figure(forecasts: pa.Table, alarm: float) -> Markup:
    """The forecasts of one star in order, a stroke each, bright where a flare came.

    forecasts  rows of FORECASTS of one star, by time; pauses between windows are left out
    alarm      probability from which on a flare is forecast, dashed
    """
    rows = forecasts.to_pylist()
    base, right = COURSE_HEIGHT - 26, COURSE_WIDTH - 12
    top = min(1.0, 1.1 * max(alarm, *(row["probability"] for row in rows)))
    step = (right - LEFT) / len(rows)
    kinds = {True: "came", False: "quiet", None: "open"}
    strokes: dict[str, list[str]] = {kind: [] for kind in kinds.values()}
    for number, row in enumerate(rows):
        height = row["probability"] / top * (base - TOP)
        place = f"M{LEFT + (number + 0.5) * step:.1f} {base}v{-height:.1f}"
        strokes[kinds[row["flared"]]].append(place)
    width = min(10.0, max(0.6, 0.8 * step))
    parts = [
        f'<path class="{kind}" stroke-width="{width:.2f}" d="{"".join(places)}"/>'
        for kind, places in strokes.items()
        if places
    ]
    level = base - alarm / top * (base - TOP)
    first, last = rows[0], rows[-1]
    parts += [
        f'<path class="limit" d="M{LEFT} {level:.1f}H{right}"/>',
        f'<path class="axis" d="M{LEFT} {TOP}V{base}H{right}"/>',
        *(
            _centered(LEFT - 24, base - share * (base - TOP) + 4, f"{share * top:.2f}")
            for share in (0.0, 1.0)
        ),
        _centered(LEFT + 50, COURSE_HEIGHT - 8, f"{first['time_zero']} {first['end']:.1f}"),
        _centered(right - 30, COURSE_HEIGHT - 8, f"{last['end']:.1f} d"),
    ]
    return Markup(
        f'<svg class="figure" viewBox="0 0 {COURSE_WIDTH} {COURSE_HEIGHT}" role="img" '
        f'aria-label="Forecasts of {escape(first["object_id"])}">{"".join(parts)}</svg>'
    )


_centered = functools.partial(svg_text, anchor="middle")
