"""The shape of a classical white-light flare: the template of Davenport et al. (2014).

ApJ 797, 122, equations 1 and 4, from 885 flares of GJ 1243: time in units of the full width at
half maximum t_1/2, flux in units of the peak,

    rise   1 + 1.941 t - 0.175 t^2 - 2.246 t^3 - 1.125 t^4        for -1 <= t <= 0
    decay  0.6890 exp(-1.600 t) + 0.3030 exp(-0.2783 t)           for t > 0

Its own full width at half maximum is 0.913 of the unit, not 1; t_1/2 is kept as the paper has it.
"""

import numpy as np

__all__ = ["TEMPLATE_AREA", "flare_shape", "mean_flare_shape"]

RISE = np.array([1.0, 1.941, -0.175, -2.246, -1.125])
DECAY = ((0.6890, 1.600), (0.3030, 0.2783))


_RISE_AREA = np.polynomial.polynomial.polyint(RISE, lbnd=-1)


def flare_shape(phase: np.ndarray) -> np.ndarray:
    """Flux of the template over its peak.

    phase  any shape, time after the peak over the full width at half maximum
    """
    phase = np.asarray(phase, np.float64)
    rise = np.polynomial.polynomial.polyval(np.clip(phase, -1, 0), RISE)
    after = np.maximum(phase, 0)
    decay = sum(height * np.exp(-speed * after) for height, speed in DECAY)
    return np.where(phase < -1, 0.0, np.where(phase <= 0, rise, decay))


def mean_flare_shape(phase: np.ndarray, exposure: float | np.ndarray) -> np.ndarray:
    """Mean of the template over exposures centered on `phase`: what a camera records.

    phase     any shape, as in `flare_shape`
    exposure  length of an exposure in the same unit, above 0; any shape that phase broadcasts to
    """
    phase = np.asarray(phase, np.float64)
    return (_area_until(phase + exposure / 2) - _area_until(phase - exposure / 2)) / exposure


def _area_until(phase: np.ndarray) -> np.ndarray:
    """Integral of the template from its start, exactly."""
    rise = np.polynomial.polynomial.polyval(np.clip(phase, -1, 0), _RISE_AREA)
    after = np.maximum(phase, 0)
    return rise + sum(height / speed * -np.expm1(-speed * after) for height, speed in DECAY)


TEMPLATE_AREA = float(_area_until(np.array(np.inf)))
"""Equivalent duration of a flare of amplitude 1 over its full width at half maximum: 1.827."""
