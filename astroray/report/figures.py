"""How the figures of the report are drawn: small SVG whose colors the page's style sheet owns.

Classes of the style sheet: `bulk`, `pictured` and `outlier` for objects, `axis`, `grid`, `bar`,
`bar top`, `threshold`, `bound` and `curve` for the rest.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup, escape

if TYPE_CHECKING:  # loaded where it is used: a driver draws its maps last
    from astropy.wcs import WCS

WIDTH = 640
WIDE_SURVEY_DEG = 35.0
"""Objects farther than this from their center make an all-sky map; a plane would distort them."""


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
        parts.append(_text(left - 8, y + 4, f"{10**exponent:,}", anchor="end"))
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
    parts += [_text(x_of(t), base + 18, _tick(t), anchor="middle") for t in _ticks(low, high)]
    parts.append(_text((left + WIDTH - right) / 2, height - 6, "outlier score", anchor="middle"))
    parts.append(_text(left, 14, "objects", anchor="middle"))
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
        *_points(x_M, y_M, dots),
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
    center = _center(ra_deg_N, dec_deg_N)
    radius_deg = _radius_deg(ra_deg_N, dec_deg_N, center)
    if radius_deg > WIDE_SURVEY_DEG:
        return _all_sky(ra_deg_N, dec_deg_N, dots, _middle_of_map(center))
    return _tangent_plane(ra_deg_N, dec_deg_N, dots, center)


def sky_places(ra_deg_M: np.ndarray, dec_deg_M: np.ndarray) -> np.ndarray:
    """Places [M, 2] in the projection of `sky_map`, deg, west and north; NaN without a position."""
    known_M = np.isfinite(ra_deg_M)
    places_M2 = np.full((len(ra_deg_M), 2), np.nan)
    if known_M.any():
        ra_deg_N, dec_deg_N = ra_deg_M[known_M], dec_deg_M[known_M]
        center = _center(ra_deg_N, dec_deg_N)
        is_wide = _radius_deg(ra_deg_N, dec_deg_N, center) > WIDE_SURVEY_DEG
        wcs = (
            _projection("MOL", _middle_of_map(center), 0.0)
            if is_wide
            else _projection("TAN", *center)
        )
        places_M2[known_M] = np.stack(wcs.wcs_world2pix(ra_deg_N, dec_deg_N, 1), axis=1)
    return places_M2


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
        parts.append(_text(left - 8, y + 4, f"{value:.3g}", anchor="end"))
    for kind, line in (("curve held", held), ("curve", trained)):
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in (at(*point) for point in line))
        parts += [f'<path class="{kind}" d="M{path}"/>'] if path else []
    if held:
        x, y = at(*min(held, key=lambda point: point[1]))
        parts.append(f'<circle class="pictured" cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
    parts.append(_text(left, height - 10, "pass 1"))
    parts.append(_text(WIDTH - right, height - 10, f"pass {trained[-1][0]}", anchor="end"))
    return _svg(height, "Loss by pass", parts)


def _threshold(x: float, threshold: float, top: int, base: int, right: int) -> list[str]:
    """The line that parts the proven objects from all others, labelled where there is room."""
    anchor, shift = ("start", 8) if x < right - 170 else ("end", -8)
    return [
        f'<path class="threshold" d="M{x:.1f} {top - 14}V{base}"/>',
        _text(x + shift, top - 4, f"threshold {threshold:.4g}", anchor=anchor, kind="strong"),
    ]


def _center(ra_deg_N: np.ndarray, dec_deg_N: np.ndarray) -> tuple[float, float]:
    """Direction of the mean of unit vectors, deg: right across RA 0 and at the poles."""
    ra_N, dec_N = np.radians(ra_deg_N), np.radians(dec_deg_N)
    x = float((np.cos(dec_N) * np.cos(ra_N)).mean())
    y = float((np.cos(dec_N) * np.sin(ra_N)).mean())
    z = float(np.sin(dec_N).mean())
    return math.degrees(math.atan2(y, x)) % 360, math.degrees(math.atan2(z, math.hypot(x, y)))


def _radius_deg(ra_deg_N: np.ndarray, dec_deg_N: np.ndarray, center: tuple[float, float]) -> float:
    """Largest distance of an object from the center, deg."""
    ra, dec, ra_N, dec_N = (np.radians(v) for v in (*center, ra_deg_N, dec_deg_N))
    cosine_N = np.sin(dec) * np.sin(dec_N) + np.cos(dec) * np.cos(dec_N) * np.cos(ra_N - ra)
    return float(np.degrees(np.arccos(np.clip(cosine_N, -1, 1)).max()))


def _middle_of_map(center: tuple[float, float]) -> float:
    """Right ascension in the middle of an all-sky map, deg."""
    return round(center[0] / 30) * 30 % 360


def _projection(kind: str, ra_deg: float, dec_deg: float) -> "WCS":
    from astropy.wcs import WCS

    wcs = WCS(naxis=2)
    wcs.wcs.ctype = [f"RA---{kind}", f"DEC--{kind}"]
    wcs.wcs.crval = [ra_deg, dec_deg]
    wcs.wcs.cdelt = [-1.0, 1.0]  # east is left
    return wcs


def _all_sky(
    ra_deg_N: np.ndarray, dec_deg_N: np.ndarray, dots: Sequence[Dot], ra_center_deg: float
) -> Markup:
    wcs = _projection("MOL", ra_center_deg, 0.0)
    radius_px = (WIDTH - 40) / 2
    height = round(radius_px + 40)
    unit = radius_px / (180 * 2 * math.sqrt(2) / math.pi)

    def place(ra_deg: np.ndarray, dec_deg: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y = wcs.wcs_world2pix(ra_deg, dec_deg, 1)
        return WIDTH / 2 + x * unit, height / 2 - y * unit

    edge_deg = np.linspace(-90, 90, 91)
    parts = [
        f'<ellipse class="frame" cx="{WIDTH / 2}" cy="{height / 2}" rx="{radius_px}" '
        f'ry="{radius_px / 2}"/>'
    ]
    for offset_deg in range(-120, 180, 60):
        ra_deg = (ra_center_deg + offset_deg) % 360
        parts.append(_line(*place(np.full(91, ra_deg), edge_deg)))
    for dec_deg in (-60, -30, 0, 30, 60):
        ra_line_deg = ra_center_deg + np.linspace(-179.99, 179.99, 91)
        parts.append(_line(*place(ra_line_deg % 360, np.full(91, float(dec_deg)))))
    parts += _points(*place(ra_deg_N, dec_deg_N), dots)
    for offset_deg in range(-120, 180, 60):
        x, y = place(np.array([(ra_center_deg + offset_deg) % 360.0]), np.array([0.0]))
        label = f"{(ra_center_deg + offset_deg) % 360:g}°"
        parts.append(_text(float(x[0]) + 4, float(y[0]) - 5, label, kind="halo"))
    return _svg(height, "All-sky map of the survey in Mollweide projection", parts)


def _tangent_plane(
    ra_deg_N: np.ndarray,
    dec_deg_N: np.ndarray,
    dots: Sequence[Dot],
    center: tuple[float, float],
) -> Markup:
    wcs = _projection("TAN", *center)
    x_N, y_N = wcs.wcs_world2pix(ra_deg_N, dec_deg_N, 1)
    half_x, half_y = (max(float(np.abs(v - (v.max() + v.min()) / 2).max()), 2e-4) * 1.06
                      for v in (x_N, y_N))  # fmt: skip
    middle_x, middle_y = (float(v.max() + v.min()) / 2 for v in (x_N, y_N))
    left, bottom, pad = 74, 40, 10
    unit = min((WIDTH - left - pad) / (2 * half_x), (460 - bottom - pad) / (2 * half_y))
    height = max(round(2 * half_y * unit + bottom + pad), 200)
    half_x, half_y = (WIDTH - left - pad) / 2 / unit, (height - bottom - pad) / 2 / unit

    def place(ra_deg: np.ndarray, dec_deg: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y = wcs.wcs_world2pix(ra_deg, dec_deg, 1)
        return left + (half_x + x - middle_x) * unit, pad + (half_y - y + middle_y) * unit

    def sky_at(x: float, y: float) -> tuple[float, float]:
        ra, dec = wcs.wcs_pix2world([middle_x + x], [middle_y + y], 1)
        return float(ra[0]), float(dec[0])

    parts = [
        f'<rect class="frame" x="{left}" y="{pad}" width="{WIDTH - left - pad}" '
        f'height="{height - bottom - pad}" rx="6"/>'
    ]
    dec_low, dec_high = sky_at(0, -half_y)[1], sky_at(0, half_y)[1]
    for dec_deg in _ticks(dec_low, dec_high, count=6):
        y = float(place(np.array([center[0]]), np.array([dec_deg]))[1][0])
        parts.append(f'<path class="grid" d="M{left} {y:.1f}H{WIDTH - pad}"/>')
        parts.append(_text(left - 8, y + 4, _degrees(dec_deg, dec_high - dec_low), anchor="end"))
    middle_dec = sky_at(0, 0)[1]
    ra_high, ra_low = sky_at(-half_x, 0)[0], sky_at(half_x, 0)[0]
    ra_low -= 360 if ra_low > ra_high else 0
    for ra_deg in _ticks(ra_low, ra_high, count=6):
        x = float(place(np.array([ra_deg % 360]), np.array([middle_dec]))[0][0])
        parts.append(f'<path class="grid" d="M{x:.1f} {pad}V{height - bottom}"/>')
        label = _degrees(ra_deg % 360, ra_high - ra_low).lstrip("+")
        parts.append(_text(x, height - bottom + 18, label, anchor="middle"))
    parts.append(_text(left - 8, height - 6, "Dec ↑  RA ←", anchor="end"))
    parts += _points(*place(ra_deg_N, dec_deg_N), dots)
    return _svg(height, "Map of the survey on the sky, north up, east left", parts)


def _points(x_N: np.ndarray, y_N: np.ndarray, dots: Sequence[Dot]) -> list[str]:
    """Unnamed objects as one path of round-capped strokes, then the named ones, outliers last."""
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


def _text(x: float, y: float, text: str, *, anchor: str = "start", kind: str = "label") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text class="{kind}" {place}>{escape(text)}</text>'


def _line(x: np.ndarray, y: np.ndarray) -> str:
    path = "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True))
    return f'<path class="grid" d="M{path}"/>'


def _ticks(low: float, high: float, *, count: int = 6) -> list[float]:
    """Round numbers within [low, high], about `count` of them, steps of 1, 2 or 5."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def _tick(value: float) -> str:
    return f"{value:.6g}"


def _degrees(value_deg: float, span_deg: float) -> str:
    """A tick's label with the digits that tell ticks of a sixth of the span apart."""
    return f"{value_deg:+.{max(0, math.ceil(-math.log10(span_deg / 6)))}f}°"
