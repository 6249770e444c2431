"""How the figures of the report are drawn: small SVG whose colors the page's style sheet owns.

Classes of the style sheet: `bulk`, `pictured` and `outlier` for objects, `axis`, `grid`, `bar`,
`bar top`, `threshold`, `bound` and `curve` for the rest.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from markupsafe import Markup, escape

from astroray.report.sky_view import SkyView, view_of
from astroray.templates.svg import svg_text

WIDTH = 640


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dot:
    """An object that a map names: it has a tooltip, and a link or a picture where there is one."""

    index: int
    """Its row in the positions of the map."""
    label: str
    href: str
    """Where on the page it is shown, "" where it is not."""
    picture: str
    """HTML id of its picture, "" where it has none."""
    is_outlier: bool


def score_histogram(count_B: np.ndarray, edge_B: np.ndarray, *, threshold: float | None) -> Markup:
    """Objects by outlier score, counts on a logarithmic axis, the proven list marked.

    Empty for fewer than three objects.

    count_B     [B]      objects of each bin; those without a finite score are left out
    edge_B      [B + 1]  edges of the bins
    threshold            score of the last certified object, None without a certificate
    """
    if count_B.sum() < 3:
        return Markup()
    height, left, bottom, top, right = 300, 52, 44, 34, 16
    low, high = float(edge_B[0]), float(edge_B[-1])
    decades = max(1.0, math.log10(count_B.max()) * 1.04)
    floor = -0.25  # one object is a bar too

    def x_of(value: float) -> float:
        return left + (value - low) / (high - low) * (WIDTH - left - right)

    def y_of(count: float) -> float:
        share = (math.log10(count) - floor) / (decades - floor)
        return height - bottom - share * (height - bottom - top)

    base = height - bottom
    parts = []
    for exponent in range(int(decades) + 1):
        y = y_of(10**exponent)
        parts.append(f'<path class="grid" d="M{left} {y:.1f}H{WIDTH - right}"/>')
        parts.append(svg_text(left - 8, y + 4, f"{10**exponent:,}", anchor="end"))
    for count, x0, x1 in zip(count_B, edge_B[:-1], edge_B[1:], strict=True):
        if count:
            is_top = threshold is not None and x1 > threshold
            y, x = y_of(count), x_of(x0)
            parts.append(
                f'<rect class="bar{" top" if is_top else ""}" x="{x + 0.5:.1f}" y="{y:.1f}" '
                f'width="{max(x_of(x1) - x - 1, 0.8):.1f}" height="{base - y:.1f}">'
                f"<title>{x0:.4g} to {x1:.4g}: {count:,} objects</title></rect>"
            )
    parts.append(f'<path class="axis" d="M{left} {base}H{WIDTH - right}"/>')
    parts += [
        svg_text(x_of(t), base + 18, _tick(t), anchor="middle") for t in round_numbers(low, high)
    ]
    parts.append(svg_text((left + WIDTH - right) / 2, height - 6, "outlier score", anchor="middle"))
    parts.append(svg_text(left, 14, "objects", anchor="middle"))
    if threshold is not None:
        parts += _threshold(x_of(threshold), threshold, top, base, WIDTH - right)
    return _svg(height, "Histogram of outlier scores with logarithmic counts", parts)


def embedding_map(xy_M2: np.ndarray, dots: Sequence[Dot]) -> Markup:
    """Objects as a map of the embedding places them; empty for fewer than three.

    xy_M2  [M, 2]  finite, any unit; objects not in `dots` are drawn without a name
    """
    if len(xy_M2) < 3:
        return Markup()
    low_2, high_2 = xy_M2.min(axis=0), xy_M2.max(axis=0)
    span_2 = np.maximum(high_2 - low_2, 1e-9 + 0.02 * (high_2 - low_2).max())
    margin = 22
    unit = min((WIDTH - 2 * margin) / span_2[0], (460 - 2 * margin) / span_2[1])
    height = max(round(span_2[1] * unit + 2 * margin), 200)
    center_2 = (low_2 + high_2) / 2
    x_M = WIDTH / 2 + (xy_M2[:, 0] - center_2[0]) * unit
    y_M = height / 2 - (xy_M2[:, 1] - center_2[1]) * unit
    parts = [
        f'<rect class="frame" x=".5" y=".5" width="{WIDTH - 1}" height="{height - 1}" rx="6"/>',
        *_points(np.stack([x_M, y_M], axis=1), dots),
    ]
    return _svg(height, f"Map of the embedding of {len(xy_M2):,} objects", parts)


def sky_map(ra_deg_N: np.ndarray, dec_deg_N: np.ndarray, dots: Sequence[Dot]) -> Markup:
    """Positions, north up and east left: a tangent plane, or Mollweide for a wide survey.

    Empty for fewer than two objects.

    ra_deg_N   [N]  right ascension, deg, ICRS, finite
    dec_deg_N  [N]  declination, deg, ICRS, finite
    """
    if len(ra_deg_N) < 2:
        return Markup()
    view = view_of(ra_deg_N, dec_deg_N)
    draw = _all_sky if view.kind == "MOL" else _tangent_plane
    return draw(view, view.places(ra_deg_N, dec_deg_N), dots)


def loss_curve(loss_P: Sequence[float], validation_loss_P: Sequence[float] = ()) -> Markup:
    """Loss by pass, logarithmic; that of a validation part dashed, its lowest pass marked.

    Empty for fewer than two finite positive values of the first.
    """
    lines = [
        [(i, value) for i, value in enumerate(losses, start=1) if 0 < value < math.inf]
        for losses in (loss_P, validation_loss_P)
    ]
    trained, held = lines
    if len(trained) < 2:
        return Markup()
    height, left, bottom, top, right = 190, 64, 36, 14, 16
    logs = [math.log10(value) for line in lines for _, value in line]
    low, high = min(logs), max(max(logs), min(logs) + 1e-6)
    last = max(trained[-1][0], 2)

    def at(number: float, value: float) -> tuple[float, float]:
        x = left + (number - 1) / (last - 1) * (WIDTH - left - right)
        y = top + (high - math.log10(value)) / (high - low) * (height - top - bottom)
        return x, y

    parts = []
    for number, value in (trained[0], trained[-1]):
        _, y = at(number, value)
        parts.append(f'<path class="grid" d="M{left} {y:.1f}H{WIDTH - right}"/>')
        parts.append(svg_text(left - 8, y + 4, f"{value:.3g}", anchor="end"))
    for kind, line in (("curve held", held), ("curve", trained)):
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in (at(*point) for point in line))
        parts += [f'<path class="{kind}" d="M{path}"/>'] if path else []
    if held:
        x, y = at(*min(held, key=lambda point: point[1]))
        parts.append(f'<circle class="pictured" cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
    parts.append(svg_text(left, height - 10, "pass 1"))
    parts.append(svg_text(WIDTH - right, height - 10, f"pass {trained[-1][0]}", anchor="end"))
    return _svg(height, "Loss by pass", parts)


def _threshold(x: float, threshold: float, top: int, base: int, right: int) -> list[str]:
    """The line that parts the proven objects from all others, labelled where there is room."""
    anchor, shift = ("start", 8) if x < right - 170 else ("end", -8)
    return [
        f'<path class="threshold" d="M{x:.1f} {top - 14}V{base}"/>',
        svg_text(x + shift, top - 4, f"threshold {threshold:.4g}", anchor=anchor, kind="strong"),
    ]


def _all_sky(view: SkyView, place_N2: np.ndarray, dots: Sequence[Dot]) -> Markup:
    radius_px = (WIDTH - 40) / 2
    height = round(radius_px + 40)
    unit = radius_px / (180 * 2 * math.sqrt(2) / math.pi)

    def at(place_N2: np.ndarray) -> np.ndarray:
        return np.asarray(np.array([WIDTH, height]) / 2 + place_N2 * [unit, -unit])

    parts = [
        f'<ellipse class="frame" cx="{WIDTH / 2}" cy="{height / 2}" rx="{radius_px}" '
        f'ry="{radius_px / 2}"/>'
    ]
    meridians = [view.ra_deg + offset_deg for offset_deg in range(-120, 180, 60)]
    edges = (view.ra_deg - 179.99, view.ra_deg + 179.99)
    parallels = [-60.0, -30.0, 0.0, 30.0, 60.0]
    for _, line_P2 in view.lines("ra", meridians, along_deg=(-90, 90)):
        parts.append(_line(at(line_P2)))
    for dec_deg, line_P2 in view.lines("dec", parallels, along_deg=edges):
        parts.append(_line(at(line_P2)))
        if dec_deg:
            x, y = at(line_P2)[-1]
            parts.append(svg_text(x - 4, y + 4, f"{dec_deg:+g}°", anchor="end"))
    parts += _points(at(place_N2), dots)
    for ra_deg, line_P2 in view.lines("ra", meridians, along_deg=(0, 0)):
        x, y = at(line_P2)[0]
        parts.append(svg_text(x + 4, y - 5, f"{ra_deg % 360:g}°", kind="halo"))
    return _svg(height, "All-sky map of the survey in Mollweide projection", parts)


def _tangent_plane(view: SkyView, place_N2: np.ndarray, dots: Sequence[Dot]) -> Markup:
    low_2, high_2 = place_N2.min(axis=0), place_N2.max(axis=0)
    half_2, middle_2 = np.maximum((high_2 - low_2) / 2, 2e-4) * 1.06, (high_2 + low_2) / 2
    left, bottom, pad = 74, 40, 10
    room_2 = np.array([WIDTH - left - pad, 460 - bottom - pad])
    unit = float((room_2 / (2 * half_2)).min())
    room_2[1] = max(round(2 * half_2[1] * unit + bottom + pad), 200) - bottom - pad
    height = int(room_2[1]) + bottom + pad
    half_2 = room_2 / 2 / unit

    def at(place_N2: np.ndarray) -> np.ndarray:
        x_N, y_N = ((place_N2 - middle_2) * [1, -1] + half_2).T * unit
        return np.stack([left + x_N, pad + y_N], axis=1)

    box = f'x="{left}" y="{pad}" width="{room_2[0]}" height="{room_2[1]}"'
    inner = f'viewBox="{left} {pad} {room_2[0]} {room_2[1]}"'
    lines, names = _graticule(view, middle_2, half_2, at, (left, height - bottom))
    parts = [
        f'<rect class="frame" {box} rx="6"/>',
        f"<svg {box} {inner}>{''.join(lines)}</svg>",  # which cuts them off at its edge
        *names,
        svg_text(left - 8, height - 6, "Dec ↑  RA ←", anchor="end"),
        *_points(at(place_N2), dots),
    ]
    return _svg(height, "Map of the survey on the sky, north up, east left", parts)


def _graticule(
    view: SkyView,
    middle_2: np.ndarray,
    half_2: np.ndarray,
    at: Callable[[np.ndarray], np.ndarray],
    corner: tuple[float, float],
) -> tuple[list[str], list[str]]:
    """Lines of a tangent plane, and their names where they leave it at its left and lower edge.

    middle_2, half_2  of the window, deg
    at                places [P, 2] of the plane, deg, as pixels of the figure
    corner            the lower left one, px
    """
    edge_E = np.linspace(-1, 1, 41)
    rim_N2 = np.concatenate([np.stack(pair, axis=1) for side in (-1.0, 1.0) for pair in (
        (edge_E, np.full(41, side)), (np.full(41, side), edge_E))])  # fmt: skip
    ra_N, dec_N = view.positions(middle_2 + rim_N2 * half_2)
    ra_N = (ra_N - view.ra_deg + 180) % 360 - 180 + view.ra_deg
    ra_edges, dec_edges = (ra_N.min(), ra_N.max()), (dec_N.min(), dec_N.max())
    if _has_pole(view, middle_2, half_2):  # all meridians meet in the window
        ra_edges = (view.ra_deg - 180, view.ra_deg + 180)
        dec_edges = (dec_edges[0], 90.0) if view.dec_deg > 0 else (-90.0, dec_edges[1])
    left, foot = corner
    lines, names = [], []
    axes: tuple[tuple[Literal["ra", "dec"], tuple[float, float], tuple[float, float]], ...] = (
        ("dec", dec_edges, ra_edges),
        ("ra", ra_edges, dec_edges),
    )
    for axis, edges, along in axes:
        for value, line_P2 in view.lines(axis, _sky_ticks(*edges), along_deg=along):
            if axis == "dec" and abs(value) >= 90:
                continue  # a pole is a point
            line_P2 = at(line_P2)
            lines.append(_line(line_P2))
            label = _degrees(value % 360 if axis == "ra" else value, edges[1] - edges[0])
            if axis == "dec" and (y := _crossing(line_P2, 0, left)) is not None:
                names.append(svg_text(left - 8, y + 4, label, anchor="end"))
            if axis == "ra" and (x := _crossing(line_P2, 1, foot)) is not None:
                names.append(svg_text(x, foot + 18, label.lstrip("+"), anchor="middle"))
    return lines, names


def _has_pole(view: SkyView, middle_2: np.ndarray, half_2: np.ndarray) -> bool:
    if abs(view.dec_deg) < 20:  # its place is far away, or not in the plane at all
        return False
    (pole_2,) = view.places(np.zeros(1), np.array([math.copysign(90.0, view.dec_deg)]))
    return bool((np.abs(pole_2 - middle_2) < half_2).all())


def _points(place_N2: np.ndarray, dots: Sequence[Dot]) -> list[str]:
    """Unnamed objects as one path of round-capped strokes, then the named ones, outliers last."""
    x_N, y_N = place_N2.T
    is_unnamed_N = np.ones(len(x_N), bool)
    is_unnamed_N[[dot.index for dot in dots]] = False
    bulk = "".join(
        f"M{x:.1f} {y:.1f}h0" for x, y in zip(x_N[is_unnamed_N], y_N[is_unnamed_N], strict=True)
    )
    parts = [f'<path class="bulk" d="{bulk}"/>'] if bulk else []
    for dot in sorted(dots, key=lambda dot: dot.is_outlier):
        kind, radius = ("outlier", 4.2) if dot.is_outlier else ("pictured", 2.6)
        picture = f' data-picture="{escape(dot.picture)}"' if dot.picture else ""
        circle = (
            f'<circle class="{kind}" cx="{x_N[dot.index]:.1f}" cy="{y_N[dot.index]:.1f}" '
            f'r="{radius}"{picture} data-label="{escape(dot.label)}">'
            f"<title>{escape(dot.label)}</title></circle>"
        )
        parts.append(f'<a href="{escape(dot.href)}">{circle}</a>' if dot.href else circle)
    return parts


def _svg(height: float, title: str, parts: Sequence[str]) -> Markup:
    return Markup(
        f'<svg class="figure" viewBox="0 0 {WIDTH} {height}" role="group" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )


def _line(line_P2: np.ndarray) -> str:
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in line_P2)
    return f'<path class="grid" d="M{path}"/>'


def _crossing(line_P2: np.ndarray, axis: int, value: float) -> float | None:
    """Where a line first passes a value of one axis: its place on the other; None where nowhere."""
    away_P = line_P2[:, axis] - value
    (found,) = np.nonzero(away_P[:-1] * away_P[1:] <= 0)
    if not len(found):
        return None
    i = found[0]
    part = away_P[i] / (away_P[i] - away_P[i + 1]) if away_P[i] != away_P[i + 1] else 0.0
    before, after = line_P2[i : i + 2, 1 - axis]
    return float(before + part * (after - before))


def round_numbers(low: float, high: float, *, count: int = 6) -> list[float]:
    """Those within [low, high], about `count` of them, steps of 1, 2 or 5."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def _sky_ticks(low: float, high: float) -> list[float]:
    """Round numbers of degrees within [low, high); of most of a circle its twelfths."""
    if high - low <= 120:
        return round_numbers(low, high, count=8)
    return [30.0 * i for i in range(math.ceil(low / 30), math.ceil(high / 30))]


def _tick(value: float) -> str:
    return f"{value:.6g}"


def _degrees(value_deg: float, span_deg: float) -> str:
    """A tick's label with the digits that tell ticks of a sixth of the span apart."""
    return f"{value_deg:+.{max(0, math.ceil(-math.log10(span_deg / 6)))}f}°"
