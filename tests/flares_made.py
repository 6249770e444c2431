"""Made light curves of a rotating star, with flares where a test wants them."""

import numpy as np

from astroray.flares.template import mean_flare_shape

MINUTE_D = 1 / 1440


def star(
    *,
    days=12.0,
    cadence_d=2 * MINUTE_D,
    noise=0.001,
    period_d=3.0,
    spots=0.02,
    flares=(),
    seed=0,
    level=1000.0,
):
    """Time in d and flux: `flares` are (peak in d, full width in minutes, amplitude)."""
    random = np.random.default_rng(seed)
    time_d = 1500 + np.arange(0, days, cadence_d)
    flux = 1 + spots * np.sin(2 * np.pi * time_d / period_d)
    flux += spots / 3 * np.cos(4 * np.pi * time_d / period_d)
    flux += random.normal(0, noise, len(time_d))
    for peak_d, width_min, amplitude in flares:
        width_d = width_min * MINUTE_D
        phase = (time_d - 1500 - peak_d) / width_d
        flux += amplitude * mean_flare_shape(phase, cadence_d / width_d)
    return time_d, level * flux


def light_curve(time_d, flux, **changes):
    """A LightCurve of these numbers."""
    from astroray.surveys.light_curves import LightCurve

    facts = {
        "object_id": "TIC 7",
        "row": 0,
        "ra_deg": 10.0,
        "dec_deg": -20.0,
        "time_zero": "BTJD",
        "flux_err": np.full(len(flux), np.nan),
        "quality": np.zeros(len(flux), np.int32),
        "flux_kind": "pdcsap",
        "mission": "tess",
        "cadence_s": 120.0,
        "meta": {"teff_k": 3300.0, "radius_sun": 0.4},
    }
    return LightCurve(time_d=time_d, flux=flux, **(facts | changes))
