"""How a light curve or spectrum becomes a small picture: flux against time or wavelength."""

import dataclasses
import io
from typing import Literal, cast

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from astroray.report.figures import round_numbers
from astroray.surveys.light_curve_rows import LightCurve, LightCurves
from astroray.surveys.shards import Rows
from astroray.surveys.spectrum_rows import Spectra, Spectrum

__all__ = [
    "draw_curve", "draw_spectrum", "render_curve", "render_curves", "render_spectra",
    "render_spectrum",
]  # fmt: skip

SIZE_PX = 192
FINE = 3
"""Drawn so many times larger, then scaled down: lines come out smooth."""
BACKGROUND, LINE, DOT, TEXT = (10, 13, 19), (109, 139, 181), (226, 233, 244), (154, 163, 180)
MARGIN_PX, TEXT_PX = 8, 15
SHOWN_QUANTILES = (0.001, 0.999)
"""Flux beyond is drawn at the edge, so that one bad cadence does not flatten all others."""
NOISY, FAR = 2.0, 5.0
DOTS = 400
"""Of fewer points each is drawn as a dot, of more the range of each column; of a picture of
SIZE_PX, of wider ones in proportion."""
LEAST_WITH_TEXT_PX = 150
"""A smaller picture has no words, a much wider one has more of them."""
WIDE_PX, TICKS_PX = 3 * SIZE_PX, 2 * SIZE_PX
JPEG_QUALITY = 88

Format = Literal["JPEG", "PNG"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Plot:
    """What is drawn of one object; only points that count, so that what is missing stays empty."""

    x_T: np.ndarray
    y_T: np.ndarray
    is_sure_T: np.ndarray
    """Whether a point is one of those by which the range that is shown is chosen."""
    unit: str
    """What stands after the range of y."""
    sign: str
    """How its numbers are signed: + where y are differences."""
    below: str
    """Words below."""
    aside: str
    """More of them, for wide pictures."""
    ticks: str = ""
    """Unit of x, of which large pictures have numbers below in place of the words."""


def render_curves(rows: Rows) -> list[bytes]:
    """The picture of each light curve of a slice, [B]."""
    return [render_curve(curve) for curve in cast(LightCurves, rows).curve_B]


def render_spectra(rows: Rows) -> list[bytes]:
    """The picture of each spectrum of a slice, [B]."""
    return [render_spectrum(spectrum) for spectrum in cast(Spectra, rows).spectrum_B]


def draw_curve(rows: Rows, at: int, *, width_px: int, height_px: int) -> bytes:
    """One light curve of a slice as PNG."""
    curve = cast(LightCurves, rows).curve_B[at]
    return render_curve(curve, width_px=width_px, height_px=height_px, format="PNG")


def draw_spectrum(rows: Rows, at: int, *, width_px: int, height_px: int) -> bytes:
    """One spectrum of a slice as PNG."""
    spectrum = cast(Spectra, rows).spectrum_B[at]
    return render_spectrum(spectrum, width_px=width_px, height_px=height_px, format="PNG")


def render_curve(
    curve: LightCurve,
    *,
    width_px: int = SIZE_PX,
    height_px: int = SIZE_PX,
    format: Format = "JPEG",
) -> bytes:
    """A picture: time to the right, flux up, its length and its range in words.

    Of a long light curve each column shows the range of its cadences and their median. The
    range is relative to the median flux where that is above 0, else in the unit of the file.
    """
    seen_T = np.isfinite(curve.flux)
    time_d, flux = curve.time_d[seen_T], curve.flux[seen_T]
    level = float(np.median(flux))
    plot = _Plot(
        x_T=time_d,
        y_T=100 * (flux / level - 1) if level > 0 else flux - level,
        is_sure_T=np.ones(len(flux), bool),
        unit=" %" if level > 0 else "",
        sign="+",
        below=_length(time_d),
        aside=f"{curve.time_zero} {time_d[0]:.2f} to {time_d[-1]:.2f}",
    )
    return _render(plot, width_px, height_px, format)


def render_spectrum(
    spectrum: Spectrum,
    *,
    width_px: int = SIZE_PX,
    height_px: int = SIZE_PX,
    format: Format = "JPEG",
) -> bytes:
    """A picture: wavelength to the right, flux up, both ranges in words.

    Each column shows the range of its pixels and their median; where none counts it is empty. Flux
    is relative to its median where that is above 0, else in the unit of the file. Noise
    at the end of an arm does not flatten the rest: see `_is_sure`.
    """
    wavelength, flux = spectrum.wavelength[spectrum.seen_T], spectrum.flux[spectrum.seen_T]
    level = float(np.median(flux))
    redshift = f"z = {spectrum.redshift:z.4f}" if np.isfinite(spectrum.redshift) else ""
    plot = _Plot(
        x_T=wavelength,
        y_T=flux / level if level > 0 else flux,
        is_sure_T=_is_sure(flux - level, spectrum.ivar[spectrum.seen_T]),
        unit=" of median" if level > 0 else "",
        sign="-",
        below=f"{wavelength[0]:,.0f} to {wavelength[-1]:,.0f} Angstrom",
        aside=redshift,
        ticks="Angstrom",
    )
    return _render(plot, width_px, height_px, format)


def _render(plot: _Plot, width_px: int, height_px: int, format: Format) -> bytes:
    x, y = plot.x_T, plot.y_T
    low, high = _range(y[plot.is_sure_T])
    width, height, margin = width_px * FINE, height_px * FINE, MARGIN_PX * FINE
    has_text = min(width_px, height_px) >= LEAST_WITH_TEXT_PX
    text = TEXT_PX * FINE if has_text else 0
    top, base = margin + text, height - margin - text
    x_T = margin + (x - x[0]) / (x[-1] - x[0]) * (width - 2 * margin)
    y_T = base - (y.clip(low, high) - low) / (high - low) * (base - top)
    picture = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    if len(y) > DOTS * width_px / SIZE_PX:
        _draw_columns(draw, x_T, y_T)
    else:
        _draw_dots(draw, x_T, y_T)
    if has_text:
        _write(draw, plot, (low, high), picture.size, base)
    return _encoded(picture.resize((width_px, height_px), Image.Resampling.LANCZOS), format)


def _write(
    draw: ImageDraw.ImageDraw,
    plot: _Plot,
    shown: tuple[float, float],
    size: tuple[int, int],
    base: float,
) -> None:
    """The words around a plot, or, below a large one that has `ticks`, the numbers of x."""
    width, height, margin, text = *size, MARGIN_PX * FINE, TEXT_PX * FINE
    font = ImageFont.load_default(text)
    top, foot = margin / 2, height - margin / 2
    low, high = (_number(value, plot.sign) for value in shown)
    has_ticks = bool(plot.ticks) and width >= TICKS_PX * FINE
    against = f", against {plot.ticks}" if has_ticks else ""
    draw.text((margin, top), f"{low} to {high}{plot.unit}{against}", TEXT, font, anchor="lt")
    if not has_ticks:
        draw.text((margin, foot), plot.below, TEXT, font, anchor="ls")
        if width >= WIDE_PX * FINE:
            draw.text((width - margin, foot), plot.aside, TEXT, font, anchor="rs")
        return
    draw.text((width - margin, top), plot.aside, TEXT, font, anchor="rt")
    first, last = plot.x_T[0], plot.x_T[-1]
    for value in round_numbers(first, last):
        x = margin + (value - first) / (last - first) * (width - 2 * margin)
        draw.line((x, base, x, base + margin / 2), TEXT, FINE)
        side = "l" if x < 3 * text else "r" if x > width - 3 * text else "m"
        draw.text((x, foot), f"{value:.0f}", TEXT, font, anchor=f"{side}s")


def _encoded(picture: Image.Image, format: Format) -> bytes:
    buffer = io.BytesIO()
    if format == "JPEG":
        picture.save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True, subsampling="4:4:4")
    else:
        picture.save(buffer, "PNG")
    return buffer.getvalue()


def _is_sure(above_T: np.ndarray, ivar_T: np.ndarray) -> np.ndarray:
    """[T] bool: pixels no noisier than NOISY times the usual, or FAR off the median in sigmas, as
    bright lines are; all where the noise is not known.
    """
    if not np.isfinite(ivar_T).all():
        return np.ones(len(ivar_T), bool)
    sigma_T = ivar_T**-0.5
    return (sigma_T <= NOISY * np.median(sigma_T)) | (np.abs(above_T) > FAR * sigma_T)


def _range(shown: np.ndarray) -> tuple[float, float]:
    """Lowest and highest flux that is drawn in its place."""
    low, high = (float(value) for value in np.quantile(shown, SHOWN_QUANTILES))
    return (low, high) if high > low else (low - 1.0, low + 1.0)


def _draw_columns(draw: ImageDraw.ImageDraw, x_T: np.ndarray, y_T: np.ndarray) -> None:
    """A bar of the range of each column of the small picture, and a dot at its median."""
    column_T = (x_T // FINE).astype(np.int64)
    starts = np.flatnonzero(np.diff(column_T, prepend=column_T[0] - 1))
    for part_x, part_y in zip(np.split(x_T, starts[1:]), np.split(y_T, starts[1:]), strict=True):
        x = float(part_x[0] // FINE * FINE)
        draw.rectangle((x, part_y.min() - 1, x + FINE - 1, part_y.max() + 1), LINE)
        _dot(draw, x + FINE / 2, float(np.median(part_y)), FINE / 2)


def _draw_dots(draw: ImageDraw.ImageDraw, x_T: np.ndarray, y_T: np.ndarray) -> None:
    for x, y in zip(x_T.tolist(), y_T.tolist(), strict=True):
        _dot(draw, x, y, 1.5 * FINE)


def _dot(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float) -> None:
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), DOT)


def _number(value: float, sign: str) -> str:
    return f"{value:{sign}.2g}" if 1e-3 <= abs(value) < 100 else f"{value:{sign},.0f}"


def _length(time_d: np.ndarray) -> str:
    days = float(time_d[-1] - time_d[0])
    if days >= 1000:
        return f"{days / 365.25:.3g} years"
    return f"{days:.3g} d" if days >= 1 else f"{24 * days:.3g} h"
