"""How wide a flare is, and how well the star beside it is known: the template that fits it best.

Shape letters: P cadences in and around the flare.
"""

import math
from typing import NamedTuple

import numpy as np

from astroray.flares.detrend import Detrended
from astroray.flares.events import Event
from astroray.flares.template import mean_flare_shape

__all__ = ["FlareFit", "fit_flare"]

NARROWEST = 0.5
"""Width in cadences below which height and width cannot be told apart."""
WIDEST = 4.0
"""Largest width over the length of the flare."""
NUM_STARTS = 8
"""Widths of which the best is where the fit begins: elsewhere it may end in another minimum."""


class FlareFit(NamedTuple):
    """What the fit says beyond the flare's own cadences."""

    fwhm_d: float
    """t_1/2 of the Davenport et al. (2014) template, d, as Guenther et al. (2020) list it; NaN
    where it is below half a cadence, or no larger than its error."""
    fwhm_err_d: float
    """One sigma, from the noise and from how far the flare is from the template."""
    equivalent_duration_err_s: float
    """One sigma, s: that of the noise, and that of the level of the star under the flare."""


def fit_flare(time_d: np.ndarray, curve: Detrended, event: Event) -> FlareFit:
    """Least squares over height, place and width of the template, and a level beside it.

    time_d  [T]  d, ascending; `curve` is that light curve detrended, `event` a flare of it

    The template is smeared over an exposure, as the camera does. Residuals are in units of the
    local noise; where they scatter more than it, the errors grow with them. The level would be 0 if
    the trend were right: how far it is from that, and how sure, is the error of the level.
    """
    import scipy.optimize  # most of a second, and many light curves have no flare

    length = event.last - event.first
    around = max(3, length // 2)
    inside = np.arange(max(0, event.first - around), min(len(time_d), event.last + around + 1))
    inside = inside[curve.segment_T[inside] == curve.segment_T[event.peak]]
    time_P = (time_d[inside] - event.peak_d) / curve.cadence_d
    value_P, noise_P = curve.relative_T[inside], curve.noise_T[inside]

    def residuals(fit: np.ndarray) -> np.ndarray:
        height, shift, log_width, level = fit
        width = math.exp(log_width)
        shape_P = mean_flare_shape((time_P - shift) / width, 1 / width)
        left_P: np.ndarray = (event.amplitude * (height * shape_P + level) - value_P) / noise_P
        return left_P

    widest = WIDEST * (length + 1)
    starts = [
        np.array([1.0, 0.0, log_width, 0.0])
        for log_width in np.linspace(math.log(NARROWEST), math.log(widest), NUM_STARTS)
    ]
    lows = [0.0, -1.5, math.log(NARROWEST / 5), -1.0]
    fit = scipy.optimize.least_squares(
        residuals,
        min(starts, key=lambda start: float(np.sum(residuals(start) ** 2))),
        bounds=(lows, [50.0, 1.5, math.log(widest) + 0.1, 1.0]),
    )
    spread = max(1.0, 2 * float(fit.cost) / max(1, len(time_P) - len(lows)))
    err_M = np.sqrt(np.diag(np.linalg.pinv(fit.jac.T @ fit.jac)) * spread)
    width = math.exp(fit.x[2])
    is_known = width >= NARROWEST and err_M[2] < 1
    level_err = event.amplitude * math.hypot(fit.x[3], err_M[3])
    duration_s = 86400 * (event.stop_d - event.start_d + curve.cadence_d)
    return FlareFit(
        fwhm_d=width * curve.cadence_d if is_known else math.nan,
        fwhm_err_d=width * float(err_M[2]) * curve.cadence_d if is_known else math.nan,
        equivalent_duration_err_s=math.hypot(
            event.equivalent_duration_err_s, level_err * duration_s
        ),
    )
