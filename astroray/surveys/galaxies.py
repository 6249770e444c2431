"""How simulated galaxies look: stars, what is planted among them, seeing, sky and noise.

Images are Rubin-like coadds: 0.2 arcsec a pixel, north up (row 0 is the bottom) and east to the
left, sky-subtracted flux in nJy. Light is kept as two planes, old and young stars, in units of the
r band; each band weighs them by its colors and blurs the sum with a Kolmogorov seeing disk.
Shape letter P: the two planes.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import scipy.fft
import scipy.special

KINDS = ("ring", "merger", "lensed_arc", "satellite_trail", "cosmic_ray", "dead_column")
"""What can be planted: three kinds of light, then three kinds of artifacts."""
PIXEL_ARCSEC = 0.2
ZERO_POINT = 31.4
"""AB magnitude of 1 nJy."""

_MARGIN_PX = 8  # around the image: seeing brings in light from beyond its edge
_CENTER_PX, _FINER = 8, 4  # the cusps of galaxies are averaged over finer pixels
_SEEING_ARCSEC = {"u": 0.86, "g": 0.78, "r": 0.73, "i": 0.70, "z": 0.68}
_SKY_MAG_ARCSEC2 = {"u": 22.7, "g": 22.0, "r": 21.1, "i": 20.3, "z": 19.4}
_ELECTRONS_PER_NJY = {"u": 4.0, "g": 10.0, "r": 10.0, "i": 8.0, "z": 5.0}
_READ_NOISE_E = 25.0  # all exposures of the coadd together
_OLD = {"u": (2.0, 3.0), "g": (0.66, 1.7), "r": (0, 0), "i": (-0.33, -0.4), "z": (-0.56, -0.6)}
_YOUNG = {"u": (1.0, 1.0), "g": (0.12, 0.6), "r": (0, 0), "i": (0.0, -0.2), "z": (0.0, -0.3)}
# Above: magnitude relative to r at redshift 0, and its slope with redshift.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Galaxies:
    """What B objects are before any pixel; every field is [B] unless it says otherwise."""

    kind: np.ndarray
    """str: smooth, spiral or one of KINDS."""
    host: np.ndarray
    """str: smooth or spiral."""
    offset_px: np.ndarray
    """[B, 2] x and y of the center from the middle of the image."""
    magnitude: np.ndarray
    """AB, r band, all light of the object."""
    redshift: np.ndarray
    radius_arcsec: np.ndarray
    """Half-light semi-major axis; of the disk in spirals; of the ring itself in rings."""
    axis_ratio: np.ndarray
    angle_deg: np.ndarray
    """Position angle of the major axis, north through east."""
    sersic: np.ndarray
    """Index of a smooth galaxy or of a spiral's bulge."""
    young: np.ndarray
    """Share of a disk's light in r that comes from young stars, in its arms."""
    bulge: np.ndarray
    """Share of a spiral's light in its bulge."""
    num_arms: np.ndarray
    pitch_deg: np.ndarray
    """Of the arms; negative ones wind the other way."""
    phase: np.ndarray
    """Of the arms, rad."""
    neighbor_px: np.ndarray
    """[B, 2] x and y, from the middle of the image, of a faint galaxy nearby; NaN where none."""
    neighbor_magnitude: np.ndarray
    neighbor_radius_arcsec: np.ndarray
    seeing: np.ndarray
    """Of the object's own exposures, relative to the survey's mean."""


def observe(
    galaxies: Galaxies, streams: Sequence[np.random.Generator], *, bands: str, size_px: int
) -> np.ndarray:
    """Images in nJy, float32 [B, C, Y, X], without NaN; an image depends on its own row alone.

    streams  [B]  each object's random numbers: for what is planted, then for its noise
    bands    [C]  letters of ugriz
    """
    planes_PBYX = _grid(galaxies, size_px)
    for b, kind in enumerate(galaxies.kind):
        if kind in _LIGHT:
            x_px, y_px = _pixels(galaxies.offset_px[b : b + 1], size_px + 2 * _MARGIN_PX)
            x, y = x_px[0, None, :] * PIXEL_ARCSEC, y_px[0, :, None] * PIXEL_ARCSEC
            _LIGHT[kind](planes_PBYX[:, b], galaxies, b, x, y, streams[b])
    _add_neighbors(planes_PBYX, galaxies)
    image_BCYX = _blur(galaxies, planes_PBYX, bands)
    noise_CYX = np.empty(image_BCYX.shape[1:], np.float32)
    sky_C, gain_C, read_C = _camera(bands)
    for b, image_CYX in enumerate(image_BCYX):
        streams[b].standard_normal(out=noise_CYX, dtype=np.float32)
        # Gaussian limit of Poisson noise: each pixel has 480 electrons of sky or more.
        noise_CYX *= np.sqrt((np.maximum(image_CYX, 0) + sky_C) / gain_C + read_C**2)
        image_CYX += noise_CYX
        if galaxies.kind[b] in _ARTIFACTS:
            _ARTIFACTS[galaxies.kind[b]](image_CYX, bands, streams[b])
    return image_BCYX


def _camera(bands: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sky in nJy a pixel, electrons per nJy, read noise in nJy; each float32 [C, 1, 1]."""
    sky_C = [
        10 ** (0.4 * (ZERO_POINT - _SKY_MAG_ARCSEC2[band])) * PIXEL_ARCSEC**2 for band in bands
    ]
    gain_C = np.array([_ELECTRONS_PER_NJY[band] for band in bands], np.float32)[:, None, None]
    return np.array(sky_C, np.float32)[:, None, None], gain_C, _READ_NOISE_E / gain_C


def _pixels(
    offset_B2: np.ndarray, side_px: int, *, finer: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """x [B, X] and y [B, Y] of (finer) pixels from the objects' centers, float32, in pixels."""
    line = (np.arange(side_px * finer) + 0.5) / finer - side_px / 2
    x_BX, y_BY = (line - offset_B2[:, axis, None] for axis in (0, 1))
    return x_BX.astype(np.float32), y_BY.astype(np.float32)


def _grid(galaxies: Galaxies, size_px: int) -> np.ndarray:
    """Unblurred light [P, B, Y, X] with margins; nJy a pixel."""
    side_px = size_px + 2 * _MARGIN_PX
    planes_PBYX = _stars(galaxies, *_pixels(galaxies.offset_px, side_px))
    center_px = _CENTER_PX + side_px % 2  # so that both grids have one middle
    fine = _stars(galaxies, *_pixels(galaxies.offset_px, center_px, finer=_FINER))
    # One addition after the other: numpy's own mean rounds by the number of objects.
    total = np.zeros((*fine.shape[:2], center_px, center_px), np.float32)
    for y, x in np.ndindex(_FINER, _FINER):
        total += fine[:, :, y::_FINER, x::_FINER]
    low = (side_px - center_px) // 2
    middle = slice(low, low + center_px)
    planes_PBYX[:, :, middle, middle] = total / np.float32(_FINER**2)
    return planes_PBYX


def _stars(galaxies: Galaxies, x_BX: np.ndarray, y_BY: np.ndarray) -> np.ndarray:
    """Light of smooth galaxies, bulges and disks at points, nJy a pixel in r, [P, B, Y, X]."""
    flux_B = 10 ** (0.4 * (ZERO_POINT - galaxies.magnitude))
    radius_B = galaxies.radius_arcsec / PIXEL_ARCSEC
    radius_B = np.where(galaxies.kind == "ring", 0.3 * radius_B, radius_B)
    disk = np.flatnonzero(galaxies.host == "spiral")
    ratio_B, share_B = galaxies.axis_ratio.copy(), np.ones(len(flux_B))
    ratio_B[disk] = np.maximum(0.6, ratio_B[disk])  # a bulge is rounder than its disk
    share_B[disk] = galaxies.bulge[disk]
    size_B = np.where(galaxies.host == "spiral", 0.28 * radius_B, radius_B)
    major, minor = _along(x_BX, y_BY, galaxies.angle_deg, ratio_B)
    planes_PBYX = np.zeros((2, *major.shape), np.float32)
    planes_PBYX[0] = _sersic(
        major**2 + minor**2, flux_B * share_B, size_B, ratio_B, galaxies.sersic
    )
    major, minor = _along(
        x_BX[disk], y_BY[disk], galaxies.angle_deg[disk], galaxies.axis_ratio[disk]
    )
    squared = major**2 + minor**2
    flux_D = (flux_B * (1 - share_B))[disk]
    disk_DYX = _sersic(
        squared, flux_D, radius_B[disk], galaxies.axis_ratio[disk], np.ones(len(disk))
    )
    young_DYX = disk_DYX * galaxies.young[disk].astype(np.float32)[:, None, None]
    planes_PBYX[0, disk] += disk_DYX - young_DYX
    planes_PBYX[1, disk] = young_DYX * _arms(galaxies, disk, major, minor, squared, radius_B[disk])
    return planes_PBYX


def _add_neighbors(planes_PBYX: np.ndarray, galaxies: Galaxies) -> None:
    """Adds the faint round galaxies that happen to lie nearby, half of old stars, half of young."""
    has = np.flatnonzero(np.isfinite(galaxies.neighbor_px[:, 0]))
    x_BX, y_BY = _pixels(galaxies.neighbor_px[has], planes_PBYX.shape[-1])
    squared = (x_BX**2)[:, None, :] + (y_BY**2)[:, :, None]
    flux_B = 10 ** (0.4 * (ZERO_POINT - galaxies.neighbor_magnitude[has]))
    radius_B = galaxies.neighbor_radius_arcsec[has] / PIXEL_ARCSEC
    one_B = np.ones(len(has))
    planes_PBYX[:, has] += _sersic(squared, 0.5 * flux_B, radius_B, one_B, one_B)


def _along(
    x_BX: np.ndarray, y_BY: np.ndarray, angle_deg_B: np.ndarray, axis_ratio_B: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates along the major and, stretched to a circle, the minor axis, [B, Y, X]."""
    sin, cos = (f(np.radians(angle_deg_B)).astype(np.float32)[:, None] for f in (np.sin, np.cos))
    stretch = axis_ratio_B.astype(np.float32)[:, None]
    major = (-sin * x_BX)[:, None, :] + (cos * y_BY)[:, :, None]
    minor = (cos / stretch * x_BX)[:, None, :] + (sin / stretch * y_BY)[:, :, None]
    return major, minor


def _sersic(
    squared_BYX: np.ndarray,
    flux_B: np.ndarray,
    radius_px_B: np.ndarray,
    axis_ratio_B: np.ndarray,
    index_B: np.ndarray,
) -> np.ndarray:
    """Sersic profile at squared elliptical radii; Ciotti and Bertin 1999, A&A 352, 447, eq. 18."""
    # exp of log: numpy's power rounds otherwise where an array holds few objects, and an image
    # must not depend on its slice.
    n = index_B
    b = 2 * n - 1 / 3 + 4 / (405 * n) + 46 / (25515 * n**2)
    area = 2 * np.pi * n * radius_px_B**2 * axis_ratio_B
    area *= np.exp(scipy.special.gammaln(2 * n) - 2 * n * np.log(b))
    half, scale, peak = (
        v.astype(np.float32)[:, None, None]
        for v in (1 / (2 * n), -b * np.exp(-np.log(radius_px_B) / n), flux_B / area)
    )
    work_BYX: np.ndarray = np.log(squared_BYX + np.float32(1e-9))
    work_BYX *= half
    np.exp(work_BYX, out=work_BYX)
    work_BYX *= scale
    np.exp(work_BYX, out=work_BYX)
    work_BYX *= peak
    return work_BYX


def _arms(
    galaxies: Galaxies,
    disk: np.ndarray,
    major: np.ndarray,
    minor: np.ndarray,
    squared: np.ndarray,
    radius_px: np.ndarray,
) -> np.ndarray:
    """Factor of mean 1 on any circle that gathers a disk's light into logarithmic spirals."""
    num, wind, phase, inner = (
        v.astype(np.float32)[:, None, None]
        for v in (
            galaxies.num_arms[disk],
            0.5 / np.tan(np.radians(galaxies.pitch_deg[disk])),
            galaxies.phase[disk],
            (0.35 * radius_px) ** 2,
        )
    )
    safe = squared + np.float32(1e-3)
    wave = 0.5 + 0.5 * np.cos(num * (np.arctan2(minor, major) - wind * np.log(safe)) + phase)
    knots = wave**3 * np.float32(16 / 5) - 1  # the mean of cos^6 over a turn is 5/16
    factor: np.ndarray = 1 + knots * squared / (squared + inner)
    return factor


def _blur(galaxies: Galaxies, planes_PBYX: np.ndarray, bands: str) -> np.ndarray:
    """The planes seen through each band's seeing, cut to the image, [B, C, Y, X]."""
    num, side = planes_PBYX.shape[1], planes_PBYX.shape[-1]
    wave_PBYK = scipy.fft.rfft2(planes_PBYX, workers=1)
    cycles_YK = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
    power_YK = (cycles_YK ** (5 / 3)).astype(np.float32)
    inside = slice(_MARGIN_PX, side - _MARGIN_PX)
    image_BCYX = np.empty(
        (num, len(bands), side - 2 * _MARGIN_PX, side - 2 * _MARGIN_PX), np.float32
    )
    for c, band in enumerate(bands):
        fwhm_B = galaxies.seeing * _SEEING_ARCSEC[band] / PIXEL_ARCSEC
        # Kolmogorov turbulence: FWHM 0.976 wavelength/r0; Fried 1966, JOSA 56, 1372.
        steep = (-3.442 * (fwhm_B / 0.976) ** (5 / 3)).astype(np.float32)[:, None, None]
        mixed_BYK = np.zeros(wave_PBYK.shape[1:], np.complex64)
        for plane_BYK, (color, slope) in zip(wave_PBYK, (_OLD[band], _YOUNG[band]), strict=True):
            weight_B = 10 ** (-0.4 * (color + slope * galaxies.redshift))
            mixed_BYK += plane_BYK * weight_B.astype(np.float32)[:, None, None]
        mixed_BYK *= np.exp(steep * power_YK)
        blurred = scipy.fft.irfft2(mixed_BYK, s=(side, side), workers=1, overwrite_x=True)
        image_BCYX[:, c] = blurred[:, inside, inside]
    return image_BCYX


def _share(planes_PYX: np.ndarray, plane: int, shape_YX: np.ndarray, share: float) -> None:
    """Gives `share` of an object's light to a new shape in one plane; the total stays."""
    flux = planes_PYX.sum()
    planes_PYX *= np.float32(1 - share)
    planes_PYX[plane] += shape_YX * np.float32(share * flux / max(shape_YX.sum(), 1e-6))


def _ring(
    planes_PYX: np.ndarray, galaxies: Galaxies, b: int, x: np.ndarray, y: np.ndarray,
    stream: np.random.Generator,
) -> None:  # fmt: skip
    """A blue ring around a red core, as Hoag's Object has it."""
    radius, angle = galaxies.radius_arcsec[b], np.radians(galaxies.angle_deg[b])
    major = -np.sin(angle) * x + np.cos(angle) * y
    minor = (np.cos(angle) * x + np.sin(angle) * y) / galaxies.axis_ratio[b]
    width = radius * stream.uniform(0.08, 0.16)
    clumps = 1 + 0.35 * np.cos(5 * np.arctan2(minor, major) + stream.uniform(0, 6.28))
    shape = np.exp(-0.5 * ((np.hypot(major, minor) - radius) / width) ** 2) * clumps
    _share(planes_PYX, 1, shape, stream.uniform(0.5, 0.7))


def _merger(
    planes_PYX: np.ndarray, galaxies: Galaxies, b: int, x: np.ndarray, y: np.ndarray,
    stream: np.random.Generator,
) -> None:  # fmt: skip
    """A second galaxy that overlaps, and a tidal tail from each of the two."""
    apart, toward = stream.uniform(1.4, 2.8), stream.uniform(0, 2 * np.pi)
    there = apart * np.cos(toward), apart * np.sin(toward)
    squared = ((x - there[0]) ** 2 + (y - there[1]) ** 2)[None] / PIXEL_ARCSEC**2
    one = np.ones(1)
    second = _sersic(squared + 0.1, one, one * stream.uniform(2.5, 5), one, 2 * one)[0]
    _share(planes_PYX, 0, second, stream.uniform(0.25, 0.45))
    length, turn = stream.uniform(3.0, 4.5), stream.choice([-1, 1]) * stream.uniform(1.0, 2.0)
    tails = np.zeros(planes_PYX.shape[1:])
    for (x0, y0), away in (((0.0, 0.0), toward + np.pi), (there, toward)):
        for step in np.linspace(0, 1, 40):
            reach, where = 0.4 + length * step, away - 0.9 * turn + turn * step
            dx, dy = x - x0 - reach * np.cos(where), y - y0 - reach * np.sin(where)
            width = 0.2 + 0.25 * step
            tails += np.exp(-1.6 * step - 0.5 * (dx**2 + dy**2) / width**2) / width
    share = stream.uniform(0.15, 0.3)
    _share(planes_PYX, 0, tails, 0.5 * share)
    _share(planes_PYX, 1, tails, 0.5 * share)


def _lensed_arc(
    planes_PYX: np.ndarray, galaxies: Galaxies, b: int, x: np.ndarray, y: np.ndarray,
    stream: np.random.Generator,
) -> None:  # fmt: skip
    """A blue source behind a red galaxy, traced through an isothermal sphere with shear."""
    einstein = 0.5 + 1.3 * galaxies.radius_arcsec[b]
    pull = 1 - einstein / np.maximum(np.hypot(x, y), 1e-3)
    shear, axis = stream.uniform(0.02, 0.1), stream.uniform(0, 2 * np.pi)
    source_x = x * pull - shear * (np.cos(axis) * x + np.sin(axis) * y)
    source_y = y * pull - shear * (np.sin(axis) * x - np.cos(axis) * y)
    off, where = einstein * stream.uniform(0.08, 0.4), stream.uniform(0, 2 * np.pi)
    squared = (source_x - off * np.cos(where)) ** 2 + (source_y - off * np.sin(where)) ** 2
    shape = np.exp(-0.5 * squared / stream.uniform(0.14, 0.22) ** 2)
    _share(planes_PYX, 1, shape, stream.uniform(0.15, 0.3))


def _satellite_trail(image_CYX: np.ndarray, bands: str, stream: np.random.Generator) -> None:
    """A straight, out-of-focus line across the exposures of one band."""
    sky_C, gain_C, read_C = _camera(bands)
    c, size = stream.integers(len(bands)), image_CYX.shape[-1]
    angle, miss = stream.uniform(0, np.pi), stream.uniform(-0.3, 0.3) * size
    line = np.arange(size) - (size - 1) / 2
    across = np.cos(angle) * line[None, :] + np.sin(angle) * line[:, None] - miss
    peak = float(np.hypot(read_C[c], np.sqrt(sky_C[c] / gain_C[c])).item())
    peak *= 10 ** stream.uniform(0.9, 1.6)
    trail = peak * np.exp(-0.5 * (across / stream.uniform(1.4, 2.4)) ** 2)
    grain = stream.standard_normal(trail.shape) * np.sqrt(trail / gain_C[c])
    image_CYX[c] += (trail + grain).astype(np.float32)


def _cosmic_ray(image_CYX: np.ndarray, bands: str, stream: np.random.Generator) -> None:
    """Several sharp tracks: particles cross the detector, so no seeing blurs them."""
    sky_C, gain_C, read_C = _camera(bands)
    size = image_CYX.shape[-1]
    for _ in range(stream.integers(3, 8)):
        c, angle = stream.integers(len(bands)), stream.uniform(0, 2 * np.pi)
        steps = np.arange(0, 2 + stream.exponential(6.0), 0.25)
        x0, y0 = stream.uniform(0.05, 0.95, 2) * size
        column = np.floor(x0 + steps * np.cos(angle)).astype(int)
        row = np.floor(y0 + steps * np.sin(angle)).astype(int)
        inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
        hit = np.unique(row[inside] * size + column[inside])
        noise = float(np.hypot(read_C[c], np.sqrt(sky_C[c] / gain_C[c])).item())
        charge = noise * 10 ** stream.uniform(1.6, 2.6) * stream.uniform(0.5, 1.5, len(hit))
        image_CYX[c].reshape(-1)[hit] += charge.astype(np.float32)


def _dead_column(image_CYX: np.ndarray, bands: str, stream: np.random.Generator) -> None:
    """Columns without charge, which the sky subtraction made negative, or replaced by zero."""
    sky_C, _, _ = _camera(bands)
    size, width = image_CYX.shape[-1], stream.integers(1, 4)
    first = int(stream.uniform(0.35, 0.65) * size)
    num = stream.choice([1, len(bands)])
    start = stream.integers(len(bands) - num + 1)
    value_C = -sky_C if stream.random() < 0.75 else np.zeros_like(sky_C)
    image_CYX[start : start + num, :, first : first + width] = value_C[start : start + num]


_LIGHT: dict[str, Callable[..., None]] = {
    "ring": _ring,
    "merger": _merger,
    "lensed_arc": _lensed_arc,
}
_ARTIFACTS: dict[str, Callable[..., None]] = {
    "satellite_trail": _satellite_trail,
    "cosmic_ray": _cosmic_ray,
    "dead_column": _dead_column,
}
