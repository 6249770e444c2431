"""What a star does besides flaring: its trend, and the noise around it.

The trend is a local quadratic fit with tricube weights (LOESS, Cleveland 1979, JASA 74, 829), so
that it follows rotation without flattening its maxima, fitted again and again without the points
that stick out. Several windows are tried, the longest first, and the first is kept whose
residuals scatter hardly more than the flux does from one cadence to the next.
"""

import dataclasses

import numpy as np
import scipy.fft
import scipy.ndimage

from astroray.errors import DataError
from astroray.flares.point_runs import find_runs
from astroray.flares.thrusters import thruster_pattern

__all__ = ["DetrendConfig", "Detrended", "detrend"]

SIGMA_OF_MAD = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""
NUM_PASSES = 6
CLIP_HIGH, CLIP_GROW, CLIP_LOW = 3.0, 1.0, -4.0
"""Points above CLIP_HIGH sigma leave the fit, and with them their neighbors as long as the mean of
five points is above CLIP_GROW sigma, so that a flare's tail goes with its peak; so do points below
CLIP_LOW sigma."""
MIN_WEIGHT = 0.1
"""Share of a full window's weight below which a fit is not trusted."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetrendConfig:
    """How far a trend looks."""

    windows_d: tuple[float, ...] = (2.4, 1.2, 0.8, 0.5, 0.3, 0.2)
    """Full widths of the windows that are tried, falling. Where the first can be kept, a dip of 12
    to 20 h leaves fewer shoulders that look like flares than where the second has to be."""
    max_excess: float = 1.1
    """Scatter of the residuals over point-to-point noise up to which a window is kept."""
    max_gap_d: float = 0.125
    """A longer pause, of more than six cadences, splits the light curve."""
    min_points: int = 30
    """Pieces between gaps with fewer points are left out."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detrended:
    """A light curve relative to its trend."""

    relative_T: np.ndarray
    """[T] float64, flux over trend, minus 1; NaN where the flux is, or where no trend is known."""
    trend_T: np.ndarray
    """[T] float64, in the unit of the flux."""
    noise_T: np.ndarray
    """[T] float64, one sigma of relative_T: the larger of the local scatter of the residuals and
    that of the differences of neighbors over sqrt(2), both from medians."""
    segment_T: np.ndarray
    """[T] int64, piece between gaps, from 0; -1 where the point is not used."""
    window_d: float
    """Full width of the window that was kept."""
    cadence_d: float
    """Median spacing."""


def detrend(
    time_d: np.ndarray,
    flux: np.ndarray,
    config: DetrendConfig | None = None,
    *,
    fired_T: np.ndarray | None = None,
) -> Detrended:
    """The light curve relative to its trend, with its local noise.

    time_d   [T]  float64, d, strictly ascending
    flux     [T]  any unit; NaN where missing
    fired_T  [T]  bool, cadences in which thrusters fired: what is alike at all firings around is
                  of the trend, what differs there is noise

    Raises DataError where time does not ascend, no piece is long enough, the flux is constant, or
    its median is not above 0, so that relative flux has no meaning.
    """
    config = config or DetrendConfig()
    _check_time(time_d)
    use_P, segment_P = _pieces(time_d, np.isfinite(flux), config)
    if not use_P.size:
        raise DataError(
            f"no {config.min_points} points stand together among {len(flux)} cadences, "
            f"{int(np.isfinite(flux).sum())} of them with a flux; nothing can be detrended"
        )
    level = float(np.median(flux[use_P]))
    if not level > 0:
        raise DataError(f"the median flux is {level:.4g}, expected above 0; relative flux is void")
    if np.ptp(flux[use_P]) == 0:
        raise DataError(f"every flux is {level:.6g}, so that it has no noise to be compared with")
    cadence_d = float(np.median(np.diff(time_d)))
    scaled_P = flux[use_P].astype(np.float64) / level
    best: tuple[float, float, np.ndarray, np.ndarray] | None = None
    for window_d in config.windows_d:
        grid = _Grid(time_d[use_P], segment_P, cadence_d, window_d)
        trend_P, noise_P, excess = _fit(grid, scaled_P)
        if best is None or excess < best[0]:
            best = excess, window_d, trend_P, noise_P
        if excess <= config.max_excess:
            break
    assert best is not None
    _, window_d, trend_P, noise_P = best
    relative_P = _over(scaled_P, trend_P)
    if fired_T is not None:
        fired_d_H = time_d[fired_T]
        center_P, spread_P = thruster_pattern(time_d[use_P], relative_P, fired_d_H, cadence_d)
        trend_P, noise_P = trend_P * (1 + center_P), np.fmax(noise_P, SIGMA_OF_MAD * spread_P)
        relative_P = _over(scaled_P, trend_P)
    known_P = np.isfinite(relative_P)
    return Detrended(
        relative_T=_spread(relative_P, use_P, len(flux), np.nan),
        trend_T=_spread(trend_P * level, use_P, len(flux), np.nan),
        noise_T=_spread(noise_P, use_P, len(flux), np.nan),
        segment_T=_spread(np.where(known_P, segment_P, -1), use_P, len(flux), -1),
        window_d=window_d,
        cadence_d=cadence_d,
    )


def _check_time(time_d: np.ndarray) -> None:
    is_later_T = np.append(True, time_d[1:] > time_d[:-1]) & np.isfinite(time_d)
    if not is_later_T.all():
        row = int(np.argmin(is_later_T))
        raise DataError(
            f"time does not ascend: it is {time_d[row]:.6f} d in cadence {row}, expected a number "
            "above the one before; sort it, or mend the reader"
        )


def _over(scaled_P: np.ndarray, trend_P: np.ndarray) -> np.ndarray:
    """[P] flux over trend, minus 1; NaN where the trend is not above 0."""
    return np.where(trend_P > 0, scaled_P / np.where(trend_P > 0, trend_P, 1.0) - 1, np.nan)


def _pieces(
    time_d: np.ndarray, finite_T: np.ndarray, config: DetrendConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Indices [P] of the points in pieces that are long enough, and the piece of each."""
    use_P = np.flatnonzero(finite_T)
    if use_P.size < config.min_points:
        return use_P[:0], use_P[:0]
    cadence_d = float(np.median(np.diff(time_d)))
    max_gap_d = max(config.max_gap_d, 6.5 * cadence_d)
    segment_P = np.concatenate([[0], np.cumsum(np.diff(time_d[use_P]) > max_gap_d)])
    is_long_P = np.bincount(segment_P)[segment_P] >= config.min_points
    use_P = use_P[is_long_P]
    return use_P, np.unique(segment_P[is_long_P], return_inverse=True)[1].astype(np.int64)


def _spread(value_P: np.ndarray, use_P: np.ndarray, size: int, missing: float) -> np.ndarray:
    spread_T = np.full(size, missing, value_P.dtype)
    spread_T[use_P] = value_P
    return spread_T


class _Grid:
    """The points on evenly spaced cells, pieces so far apart that no window sees two of them."""

    def __init__(
        self, time_P: np.ndarray, segment_P: np.ndarray, cadence_d: float, window_d: float
    ) -> None:
        self.half = max(6, round(0.5 * window_d / cadence_d))
        # Steps are rounded one by one: barycentric time drifts by more than a short cadence.
        step_P = np.maximum(1, np.rint(np.diff(time_P) / cadence_d)).astype(np.int64)
        step_P[np.diff(segment_P) > 0] = 2 * self.half + 1
        self.cell_P = np.concatenate([[0], np.cumsum(step_P)])
        self.num_cells = int(self.cell_P[-1]) + 1
        self.is_next_P = np.concatenate([[False], step_P == 1])
        x_K = np.arange(-self.half, self.half + 1) / (self.half + 1)
        weight_K = (1 - np.abs(x_K) ** 3) ** 3
        self.full_weight = float(weight_K.sum())
        self.fft_size = scipy.fft.next_fast_len(self.num_cells + 2 * self.half, real=True)
        moments_5K = weight_K * x_K ** np.arange(5)[:, None]
        # Reversed, since a convolution turns its kernel round.
        self.kernel_5F = scipy.fft.rfft(moments_5K[:, ::-1], self.fft_size)

    def median(self, value_P: np.ndarray, width: int) -> np.ndarray:
        """[P] running median of the values, NaN left out, `width` cells wide."""
        half = width // 2
        cells = np.full(self.num_cells + 2 * half, np.nan)
        cells[self.cell_P + half] = value_P
        center_W = self.cell_P[:: max(1, half // 4)]
        sorted_WK = cells[center_W[:, None] + np.arange(2 * half + 1)]
        sorted_WK.sort(axis=1)
        count_W = np.isfinite(sorted_WK).sum(axis=1)
        has_W = count_W > 0
        rows, count_W = sorted_WK[has_W], count_W[has_W]
        at_W = np.arange(len(rows))
        middle_W = (rows[at_W, (count_W - 1) // 2] + rows[at_W, count_W // 2]) / 2
        if not middle_W.size:
            return np.full(len(value_P), np.nan)
        return np.interp(self.cell_P, center_W[has_W], middle_W)

    def quadratic(self, value_P: np.ndarray, good_P: np.ndarray) -> np.ndarray:
        """[P] local quadratic fit to the good points; NaN where too few are near."""
        cells = np.zeros((2, self.num_cells))
        cells[0, self.cell_P[good_P]] = 1.0
        cells[1, self.cell_P[good_P]] = value_P[good_P]
        cells_F = scipy.fft.rfft(cells, self.fft_size)
        product = np.concatenate([cells_F[0] * self.kernel_5F, cells_F[1] * self.kernel_5F[:3]])
        sums_8P = scipy.fft.irfft(product, self.fft_size)[:, self.cell_P + self.half]
        m0, m1, m2, m3, m4, b0, b1, b2 = sums_8P
        c0, c1, c2 = m2 * m4 - m3 * m3, m1 * m4 - m2 * m3, m1 * m3 - m2 * m2
        determinant = m0 * c0 - m1 * c1 + m2 * c2
        is_fit = (m0 > MIN_WEIGHT * self.full_weight) & (determinant > 1e-6 * m0**3)
        fitted_P = (b0 * c0 - b1 * c1 + b2 * c2) / np.where(is_fit, determinant, 1.0)
        return np.where(is_fit, fitted_P, np.nan)


def _fit(grid: _Grid, scaled_P: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Trend and relative noise at the points, and the excess scatter over point-to-point noise."""
    trend_P, kept_P, is_high_P = _settle(grid, scaled_P, grid.median(scaled_P, grid.half + 1))
    begin_R, end_R = find_runs(is_high_P)
    if (end_R - begin_R).max(initial=0) >= grid.half // 2:
        # So long are large flares; the shoulders of a dip whose floor the median took for the
        # trend, and the maxima of a fast rotation that it cut off. A median of twice the width
        # stays above dips of up to half a window, and a fit to all points follows maxima; the
        # trend that more points follow is kept.
        wide_P = grid.median(scaled_P, 2 * grid.half)
        for start_P in (wide_P, _followed(grid, scaled_P, np.ones(len(scaled_P), bool))):
            other_P, also_kept_P, _ = _settle(grid, scaled_P, start_P)
            if also_kept_P.sum() > kept_P.sum():
                trend_P, kept_P = other_P, also_kept_P
    scatters = _scatters(grid, scaled_P - trend_P, kept_P)
    return trend_P, _noise(grid, *scatters) / np.maximum(trend_P, 1e-3), _excess(*scatters)


def _settle(
    grid: _Grid, scaled_P: np.ndarray, start_P: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The trend on from a first guess of it, and which points follow it, or are above it."""
    trend_P = start_P
    good_P = np.ones(len(scaled_P), bool)
    for _ in range(NUM_PASSES):
        residual_P = scaled_P - trend_P
        ratio_P = residual_P / _noise(grid, *_scatters(grid, residual_P, good_P))
        # A mean of five, so that a faint tail is followed through its noise.
        near_P = scipy.ndimage.uniform_filter1d(ratio_P, 5) > CLIP_GROW
        high_P = ratio_P > CLIP_HIGH
        grown_P = _runs_with(high_P, near_P | high_P)
        kept_P = ~grown_P & (ratio_P > CLIP_LOW)
        trend_P = _followed(grid, scaled_P, kept_P)
        if (kept_P == good_P).all():
            break
        good_P = kept_P
    return trend_P, good_P, grown_P


def _followed(grid: _Grid, scaled_P: np.ndarray, good_P: np.ndarray) -> np.ndarray:
    """[P] local fit to the good points; a running median of all where too few are near."""
    fitted_P = grid.quadratic(scaled_P, good_P)
    is_fit_P = np.isfinite(fitted_P)
    if is_fit_P.all():
        return fitted_P
    return np.where(is_fit_P, fitted_P, grid.median(scaled_P, 2 * grid.half))


def _runs_with(is_seed_P: np.ndarray, is_in_P: np.ndarray) -> np.ndarray:
    """[P] bool, the runs of points that are in which hold a seed."""
    begin_R, end_R = find_runs(is_in_P)
    num_seeds_P1 = np.concatenate([[0], np.cumsum(is_seed_P)])
    has_seed_R = num_seeds_P1[end_R] > num_seeds_P1[begin_R]
    step_P1 = np.zeros(len(is_in_P) + 1, np.int8)
    step_P1[begin_R[has_seed_R]] = 1
    step_P1[end_R[has_seed_R]] = -1
    return np.cumsum(step_P1[:-1], dtype=np.int8) > 0


def _noise(grid: _Grid, size_P: np.ndarray, difference_P: np.ndarray) -> np.ndarray:
    """[P] local noise, from `_scatters`."""
    width = 4 * grid.half
    white_P = SIGMA_OF_MAD / np.sqrt(2) * grid.median(difference_P, width)
    scatter_P = SIGMA_OF_MAD * grid.median(size_P, width)
    noise_P = np.fmax(white_P, scatter_P)
    is_known_P = np.isfinite(noise_P)
    if not is_known_P.all():
        noise_P[~is_known_P] = np.median(noise_P[is_known_P]) if is_known_P.any() else np.nan
    # A constant flux has no noise: a hundred-millionth keeps ratios finite, and finds nothing.
    return np.maximum(noise_P, 1e-8)


def _excess(size_P: np.ndarray, difference_P: np.ndarray) -> float:
    """Scatter of the residuals over that of neighbors' differences; infinite without neighbors."""
    if not np.isfinite(difference_P).any():
        return np.inf
    return float(np.nanmedian(size_P) * np.sqrt(2) / max(np.nanmedian(difference_P), 1e-12))


def _scatters(
    grid: _Grid, residual_P: np.ndarray, good_P: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """[P] sizes of the good residuals, and of the steps between good neighbors; else NaN."""
    difference_P = np.abs(np.diff(residual_P, prepend=np.nan))
    is_pair_P = grid.is_next_P & good_P
    is_pair_P[1:] &= good_P[:-1]
    difference_P[~is_pair_P] = np.nan
    return np.where(good_P, np.abs(residual_P), np.nan), difference_P
