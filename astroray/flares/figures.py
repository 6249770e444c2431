"""How flare frequencies and completeness are drawn: small SVG whose colors the page owns."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from astroray.flares.frequency import Completeness, FlareFrequency
from astroray.flares.inject import ED_EDGES_S
from astroray.templates.svg import svg_text

__all__ = ["completeness_figure", "curve_figure", "flare_figure", "frequency_figure"]

WIDTH, HEIGHT = 420, 240
PROFILE_WIDTH, PROFILE_HEIGHT = 240, 130
LEFT, RIGHT, TOP, BOTTOM = 54, 24, 12, 40
CURVE_WIDTH, CURVE_HEIGHT = 860, 170
LONGEST_STEP = 1.5
"""Cadences from one to the next; where it is longer, one is missing."""


class _Axes:
    """A plane with a logarithmic horizontal axis, and a vertical one in a given range."""

    def __init__(self, low_s: float, high_s: float, low_y: float, high_y: float) -> None:
        self.x0, self.x1 = math.floor(math.log10(low_s)), math.ceil(math.log10(high_s))
        self.x1 = max(self.x1, self.x0 + 1)
        self.y0, self.y1 = low_y, high_y

    def x(self, value_s: float) -> float:
        share = (math.log10(value_s) - self.x0) / (self.x1 - self.x0)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        share = (min(max(value, self.y0), self.y1) - self.y0) / (self.y1 - self.y0)
        return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)

    def frame(self, ticks: Sequence[tuple[float, str]], name: str) -> list[str]:
        base = HEIGHT - BOTTOM
        parts = [f'<path class="axis" d="M{LEFT} {base}H{WIDTH - RIGHT}"/>']
        for power in range(self.x0, self.x1 + 1):
            x = self.x(10.0**power)
            parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{base}"/>')
            parts.append(svg_text(x, base + 18, f"{10.0**power:g}", anchor="middle"))
        for value, label in ticks:
            y = self.y(value)
            parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
            parts.append(svg_text(LEFT - 6, y + 4, label, anchor="end"))
        middle = (LEFT + WIDTH - RIGHT) / 2
        parts.append(svg_text(middle, HEIGHT - 8, "equivalent duration, s", anchor="middle"))
        parts.append(svg_text(12, (TOP + base) / 2, name, anchor="middle", is_turned=True))
        return parts


def frequency_figure(frequency: FlareFrequency, name: str) -> Markup:
    """Cumulative flares per day by equivalent duration: found with its interval, and corrected.

    Both axes are logarithmic. Empty where there is no flare of positive equivalent duration.
    """
    ed_s = frequency.equivalent_duration_s_F
    is_shown = ed_s > 0
    if not is_shown.any():
        return Markup()
    ed_s = ed_s[is_shown]
    found, low, high, corrected = (
        np.log10(rate[is_shown])
        for rate in (
            frequency.rate_per_d_F,
            frequency.low_per_d_F,
            frequency.high_per_d_F,
            frequency.corrected_per_d_F,
        )
    )
    top = math.ceil(max(float(np.nanmax(np.append(corrected, -9))), float(high.max())))
    axes = _Axes(float(ed_s.min()), float(ed_s.max()), math.floor(float(found.min())), top)
    ticks = [(float(p), f"{10.0**p:g}") for p in range(int(axes.y0), int(axes.y1) + 1)]
    parts = axes.frame(ticks, "flares per day, cumulative")
    outline = [(axes.x(s), axes.y(v)) for s, v in zip(ed_s, high, strict=True)]
    outline += [(axes.x(s), axes.y(v)) for s, v in zip(ed_s[::-1], low[::-1], strict=True)]
    parts.append(f'<path class="band" d="{_path(outline)}Z"/>')
    known = np.isfinite(corrected)
    line = [(axes.x(s), axes.y(v)) for s, v in zip(ed_s[known], corrected[known], strict=True)]
    parts.append(f'<path class="corrected" d="{_path(line)}"/>')
    for s, v in zip(ed_s, found, strict=True):
        title = f"{s:.3g} s: {10.0**v:.3g} per day"
        parts.append(
            f'<circle class="found" cx="{axes.x(s):.1f}" cy="{axes.y(v):.1f}" r="2.6">'
            f"<title>{title}</title></circle>"
        )
    return _svg(parts, f"Cumulative flare frequency of {name}")


def completeness_figure(completeness: Completeness, name: str) -> Markup:
    """Share of made flares that are found, by equivalent duration, with its interval.

    Empty where nothing was injected.
    """
    known = np.flatnonzero(np.isfinite(completeness.share_E))
    if not known.size:
        return Markup()
    edges = np.array(ED_EDGES_S)
    axes = _Axes(float(edges[known[0]]), float(edges[known[-1] + 1]), 0.0, 1.0)
    parts = axes.frame([(0, "0"), (0.5, "50 %"), (1, "100 %")], "made flares found")
    centers = [(i, float(np.sqrt(edges[i] * edges[i + 1]))) for i in known.tolist()]
    line = [(axes.x(s), axes.y(float(completeness.share_E[i]))) for i, s in centers]
    parts.append(f'<path class="corrected" d="{_path(line)}"/>')
    for i, s in centers:
        low, high = float(completeness.low_E[i]), float(completeness.high_E[i])
        x, share = axes.x(s), float(completeness.share_E[i])
        parts.append(f'<path class="span" d="M{x:.1f} {axes.y(low):.1f}V{axes.y(high):.1f}"/>')
        parts.append(
            f'<circle class="found" cx="{x:.1f}" cy="{axes.y(share):.1f}" r="2.6">'
            f"<title>{s:.3g} s: {share:.0%}, {low:.0%} to {high:.0%}</title></circle>"
        )
    return _svg(parts, f"Completeness of the flares of {name}")


def flare_figure(time_d: Sequence[float], flux: Sequence[float], name: str) -> Markup:
    """A flare's relative flux over time: its length in hours and height in per cent beside it.

    time_d, flux  [P]  d, relative flux

    The line breaks where a flux is NaN, and where cadences are missing.
    """
    time_P, flux_P = np.asarray(time_d, np.float64), np.asarray(flux, np.float64)
    known_P = np.isfinite(flux_P)
    low, high = min(0.0, float(flux_P[known_P].min())), float(flux_P[known_P].max())
    x_P = 8 + (time_P - time_P[0]) / (time_P[-1] - time_P[0]) * (PROFILE_WIDTH - 16)
    unit = (PROFILE_HEIGHT - 38) / (high - low)
    y_P = PROFILE_HEIGHT - 22 - (flux_P - low) * unit
    step_P = np.diff(time_P)
    breaks = np.flatnonzero(np.diff(known_P) | (step_P > LONGEST_STEP * np.median(step_P))) + 1
    pieces = [
        _path(list(zip(x.tolist(), y.tolist(), strict=True))) + "h1" * (len(x) == 1)
        for x, y in zip(np.split(x_P, breaks), np.split(y_P, breaks), strict=True)
        if np.isfinite(y[0])
    ]
    hours = 24 * (time_P[-1] - time_P[0])
    base = PROFILE_HEIGHT - 22 + low * unit
    parts = [
        f'<path class="grid" d="M8 {base:.1f}H{PROFILE_WIDTH - 8}"/>',
        f'<path class="corrected" d="{"".join(pieces)}"/>',
        svg_text(8, PROFILE_HEIGHT - 6, f"{hours:.2g} h", anchor="start"),
        svg_text(PROFILE_WIDTH - 8, PROFILE_HEIGHT - 6, f"peak +{100 * high:.3g} %", anchor="end"),
    ]
    return Markup(
        f'<svg class="figure" viewBox="0 0 {PROFILE_WIDTH} {PROFILE_HEIGHT}" role="img" '
        f'aria-label="{escape(name)}">{"".join(parts)}</svg>'
    )


def curve_figure(curve: Mapping[str, Any], peaks_d: Sequence[float]) -> Markup:
    """A whole light curve, from the faintest to the brightest of each bin, its flares marked.

    curve    a row of FLARE_CURVES
    peaks_d  times of its flares, d, from the curve's zero of time

    Empty where the curve has no sketch.
    """
    if curve["sketch_low"] is None:
        return Markup()
    low_B, high_B = (np.asarray(curve[f"sketch_{end}"], np.float64) for end in ("low", "high"))
    known_B = np.isfinite(low_B)
    bottom, top = float(low_B[known_B].min()), float(high_B[known_B].max())
    base, ceiling = CURVE_HEIGHT - 30, 24
    unit = (base - ceiling) / max(top - bottom, 1e-9)
    step = (CURVE_WIDTH - 16) / len(low_B)
    strokes = []
    for at in np.flatnonzero(known_B).tolist():
        # At least a dot: a bin may hold a single cadence.
        y, height = base - (low_B[at] - bottom) * unit, (high_B[at] - low_B[at]) * unit
        strokes.append(f"M{8 + (at + 0.5) * step:.1f} {y:.1f}v{-max(height, 1.2):.1f}")
    parts = [f'<path class="curve" d="{"".join(strokes)}"/>']
    days = max(curve["last"] - curve["first"], 1e-9)
    for peak_d in peaks_d:
        x = 8 + (peak_d - curve["first"]) / days * (CURVE_WIDTH - 16)
        parts.append(
            f'<path class="mark" d="M{x - 4:.1f} 8h8l-4 8z"><title>{peak_d:.4f}</title></path>'
        )
    zero = curve["time_zero"]
    ends = f"{100 * bottom:+.3g} to {100 * top:+.3g} %"
    parts += [
        svg_text(8, CURVE_HEIGHT - 8, f"{zero} {curve['first']:.1f}", anchor="start"),
        svg_text(CURVE_WIDTH / 2, CURVE_HEIGHT - 8, ends, anchor="middle"),
        svg_text(CURVE_WIDTH - 8, CURVE_HEIGHT - 8, f"{curve['last']:.1f} d", anchor="end"),
    ]
    title = escape(f"Light curve of {curve['object_id']}, {len(peaks_d)} flares marked")
    return Markup(
        f'<svg class="figure wide" viewBox="0 0 {CURVE_WIDTH} {CURVE_HEIGHT}" role="img" '
        f'aria-label="{title}">{"".join(parts)}</svg>'
    )


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) if points else "M0 0"


def _svg(parts: Sequence[str], title: str) -> Markup:
    return Markup(
        f'<svg class="figure" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )
