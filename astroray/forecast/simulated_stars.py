"""Simulated stars whose flares are announced by a precursor, or by nothing at all.

They settle whether a forecaster can learn when a star flares, and whether it invents that skill.
"""

import dataclasses

import numpy as np

from astroray.flares.curve_windows import curve_windows
from astroray.flares.records import StarRecord
from astroray.flares.template import mean_flare_shape
from astroray.flares.windows import WindowRule, Windows, join_windows
from astroray.surveys.light_curves import LightCurve

__all__ = ["SimulatedStars", "flare_chances", "simulate_windows"]

NOISE = 0.001
MIN_ROTATION_D, MAX_ROTATION_D = 2.0, 30.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimulatedStars:
    """What is simulated."""

    has_precursor: bool
    """Whether the flux of a star trembles before each flare."""
    num_stars: int = 240
    days: float = 160.0
    """Length of a light curve."""
    recorded_days: float = 1500.0
    """Days before it of which flares are on record, so that the rate of a star is well known."""
    min_rate: float = 0.05
    """Flares a day; each star has its own, and they come independently of each other."""
    max_rate: float = 0.3
    precursor_d: float = 1.5
    """The trembling begins so long before the flare, and ends with it."""
    precursor_sigma: float = 3.0
    """Its amplitude, in the noise of one cadence."""
    seed: int = 0


def simulate_windows(config: SimulatedStars) -> Windows:
    """Windows of simulated stars at Kepler's long cadence; labels and histories are the truth."""
    rule = WindowRule()
    return join_windows([_star(config, number, rule) for number in range(config.num_stars)])


def flare_chances(config: SimulatedStars) -> np.ndarray:
    """[S] share of windows of each star that flare in the long run, by its rate.

    A precursor tells which, and leaves the share as it is.
    """
    rule = WindowRule()
    rate_S = np.array([_draw_rate(config, number)[0] for number in range(config.num_stars)])
    return -np.expm1(-rate_S * rule.num_ahead * rule.cadence_d)


def _draw_rate(config: SimulatedStars, number: int) -> tuple[float, np.random.Generator]:
    """Flares a day of a star, and what draws all else of it."""
    random = np.random.default_rng([config.seed, number])
    return float(np.exp(random.uniform(np.log(config.min_rate), np.log(config.max_rate)))), random


def _star(config: SimulatedStars, number: int, rule: WindowRule) -> Windows:
    rate, random = _draw_rate(config, number)
    time_d = np.arange(0, config.days, rule.cadence_d)
    days = config.recorded_days + config.days
    start_F = np.sort(
        random.uniform(-config.recorded_days, config.days, random.poisson(rate * days))
    )
    period_d = np.exp(random.uniform(np.log(MIN_ROTATION_D), np.log(MAX_ROTATION_D)))
    width_F = random.uniform(0.02, 0.08, len(start_F))
    amplitude_F = 0.01 * random.pareto(1.5, len(start_F)) + 0.01
    flux_T = 1 + random.normal(0, NOISE, len(time_d))
    phase_T = 2 * np.pi * (time_d / period_d + random.random())
    flux_T += random.uniform(0.001, 0.01) * np.sin(phase_T)
    for start_d, width_d, amplitude in zip(start_F, width_F, amplitude_F, strict=True):
        if start_d < -1:
            continue
        since_T = (time_d - start_d - width_d) / width_d
        flux_T += amplitude * mean_flare_shape(since_T, rule.cadence_d / width_d)
        if config.has_precursor:
            before_T = start_d - time_d
            is_T = (before_T > 0) & (before_T < config.precursor_d)
            tremble_T = np.sin(2 * np.pi * before_T / (4 * rule.cadence_d))
            flux_T += np.where(is_T, config.precursor_sigma * NOISE * tremble_T, 0.0)
    name = f"SIM {number:04d}"
    record = StarRecord(
        object_id=name,
        start_F=start_F,
        stop_F=start_F + 3 * width_F,
        size_F=np.log10(amplitude_F * width_F * 86400),
        observed_S2=np.array([[-config.recorded_days, config.days]]),
        property_P=np.array([np.nan, np.nan, np.nan, np.nan, period_d]),
    )
    return curve_windows([_curve(name, time_d, flux_T)], rule, record=record)


def _curve(name: str, time_d: np.ndarray, flux_T: np.ndarray) -> LightCurve:
    return LightCurve(
        object_id=name,
        row=0,
        ra_deg=np.nan,
        dec_deg=np.nan,
        time_d=time_d,
        time_zero="BKJD",
        flux=flux_T,
        flux_err=np.full(len(flux_T), NOISE),
        quality=np.zeros(len(flux_T), np.int32),
        flux_kind="flux",
        mission="kepler",
        cadence_s=86400 * float(np.median(np.diff(time_d))),
        meta={},
    )
