"""How much a flare radiates: its equivalent duration becomes a bolometric energy.

Shibayama et al. (2013, ApJS 209, 5), equations 1 to 6: the flare is a black body of temperature
T_f on a part of the star, so that its luminosity follows from its flux relative to the star's in
the band R of the mission,

    E = sigma_SB T_f^4 pi R_star^2 ED  Int R B(T_star) dlambda / Int R B(T_f) dlambda

with the equivalent duration ED = Int (F / F_star) dt. T_f is 9,000 to 10,000 K; between the two
energies differ by a tenth. The star is a black body too, which costs more for cool ones: molecular
bands make M dwarfs differ by some ten per cent.
"""

import math

import numpy as np

__all__ = ["FLARE_TEMPERATURE_K", "flare_energy_erg", "has_band"]

FLARE_TEMPERATURE_K = 9000.0
STEFAN_BOLTZMANN = 5.670374e-5  # erg cm^-2 s^-1 K^-4
SOLAR_RADIUS_CM = 6.957e10
SECOND_RADIATION_NM_K = 1.438777e7  # h c / k

BANDS = {
    "kepler": (
        (420.0, 435.0, 500.0, 600.0, 700.0, 800.0, 850.0, 895.0, 905.0),
        (0.00, 0.40, 0.56, 0.66, 0.62, 0.50, 0.40, 0.30, 0.00),
    ),
    "tess": (
        (590.0, 620.0, 650.0, 700.0, 800.0, 900.0, 950.0, 1000.0, 1050.0, 1110.0),
        (0.00, 0.55, 0.85, 0.90, 0.95, 0.95, 0.85, 0.60, 0.25, 0.00),
    ),
}
"""Wavelength in nm and response, coarse: straight lines between points read off the curves of the
instrument handbooks (Van Cleve & Caldwell 2016; Ricker et al. 2015). Only ratios enter."""
BANDS["k2"] = BANDS["kepler"]

TEFF_RANGE_K, RADIUS_RANGE_SUN = (2000.0, 12000.0), (0.05, 100.0)
"""Stars outside of them get no energy: such numbers are codes, or the star is no black body."""


def has_band(mission: str) -> bool:
    """Whether the band of a mission is known."""
    return mission in BANDS


def flare_energy_erg(
    equivalent_duration_s: float,
    *,
    mission: str,
    teff_k: float,
    radius_sun: float,
    flare_k: float = FLARE_TEMPERATURE_K,
) -> float:
    """Bolometric energy of a flare in erg; NaN where it cannot be known.

    equivalent_duration_s  s, in the band of the mission: kepler, k2 or tess
    teff_k, radius_sun     of the star; NaN where unknown
    """
    if not has_band(mission):
        return math.nan
    for value, (low, high) in ((teff_k, TEFF_RANGE_K), (radius_sun, RADIUS_RANGE_SUN)):
        if not low <= value <= high:  # NaN too
            return math.nan
    area_cm2 = math.pi * (radius_sun * SOLAR_RADIUS_CM) ** 2
    ratio = _in_band(mission, teff_k) / _in_band(mission, flare_k)
    return STEFAN_BOLTZMANN * flare_k**4 * area_cm2 * equivalent_duration_s * ratio


def _in_band(mission: str, temperature_k: float) -> float:
    """Int R B dlambda of a black body, up to a factor that is the same for all temperatures."""
    nm, response = BANDS[mission]
    nm_L = np.arange(nm[0], nm[-1] + 0.5, 1.0)
    planck_L = nm_L**-5.0 / np.expm1(SECOND_RADIATION_NM_K / (nm_L * temperature_k))
    return float(np.sum(np.interp(nm_L, nm, response) * planck_L))
