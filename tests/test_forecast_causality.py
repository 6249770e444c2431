"""No later cadence, file or fact changes what an earlier window is told, to the bit."""

import dataclasses

import numpy as np
import pytest

from astroray.flares.curve_windows import curve_windows, rule_for
from astroray.flares.windows import WindowRule
from tests.flares_made import light_curve, star

KEPLER, TESS = WindowRule(), rule_for("tess")
INPUTS = ("end_W", "flux_WTC", "history_WMC", "statistics_WN", "property_WP")


def curve(first_d, days, rule, *, seed=0, mission="tess", **changes):
    """A file that begins so late, with a flare on every other day."""
    random = np.random.default_rng([seed, 1])
    flares = [(day + random.random(), 90.0, 0.05) for day in range(1, int(days) - 1, 2)]
    time_d, flux = star(days=days, cadence_d=rule.cadence_d, noise=0.001, flares=flares, seed=seed)
    facts = {"cadence_s": 86400 * rule.cadence_d, "mission": mission}
    return light_curve(time_d + first_d, flux, **(facts | changes))


def cut(one, moment_d):
    """The light curve without what comes at or after a moment, with the facts that it then has."""
    is_past_T = one.time_d < moment_d
    return dataclasses.replace(
        one,
        time_d=one.time_d[is_past_T],
        flux=one.flux[is_past_T],
        flux_err=one.flux_err[is_past_T],
        quality=one.quality[is_past_T],
        cadence_s=86400 * float(np.median(np.diff(one.time_d[is_past_T]))),
    )


def changed(curves, moment_d, random):
    """The light curves with another future: other flux, gaps, cadence, level, or none at all."""
    kind = random.integers(4)
    kept = []
    for one in curves:
        if one.time_d[0] >= moment_d and kind == 0:
            continue
        is_later_T = one.time_d >= moment_d
        if kind == 0 and is_later_T.any():
            kept.append(cut(one, moment_d))
            continue
        flux = one.flux.copy()
        flux[is_later_T] = random.normal(2, 0.5, is_later_T.sum()) * 10 ** random.uniform(2, 5)
        flux[is_later_T & (random.random(len(flux)) < 0.3)] = np.nan
        meta = dict(one.meta)
        if one.time_d[0] >= moment_d:
            meta = {"teff_k": 9999.0, "logg": 1.0, "radius_sun": 77.0}
        stays_T = ~is_later_T | (random.random(len(flux)) < (0.4 if kind == 1 else 1.0))
        kept.append(
            dataclasses.replace(
                one,
                time_d=one.time_d[stays_T],
                flux=flux[stays_T],
                flux_err=one.flux_err[stays_T],
                quality=one.quality[stays_T],
                cadence_s=one.cadence_s * (0.3 if kind == 2 else 1.0),
                meta=meta,
            )
        )
    return kept


def stars():
    """Kepler and TESS: files that follow each other, with levels of their own, and overlap."""
    return {
        "one file of Kepler": ([curve(0, 30, KEPLER, mission="kepler")], KEPLER),
        "files that follow each other": (
            [
                curve(0, 9.3, TESS, meta={}),
                curve_of(9.4, 5.2, TESS, seed=1, level=3.0, meta={"teff_k": 3300.0}),
            ],
            TESS,
        ),
        "files that overlap": (
            [curve(0, 12, TESS), curve(4.013, 6, TESS, seed=2, cadence_s=600.0)],
            TESS,
        ),
    }


def curve_of(first_d, days, rule, **changes):
    level = changes.pop("level", 1.0)
    made = curve(first_d, days, rule, **changes)
    return dataclasses.replace(made, flux=made.flux * level)


@pytest.mark.parametrize("name", stars())
def test_no_later_cadence_changes_what_an_earlier_window_is_told(name):
    curves, rule = stars()[name]
    whole = curve_windows(curves, rule, unanswered=True)
    assert np.isfinite(whole.history_WMC).any(), "no flare is on record: nothing is tested"
    random = np.random.default_rng(4)
    for at in np.linspace(1, len(whole) - 2, 8).astype(int):
        moment_d = whole.end_W[at]
        other = curve_windows(changed(curves, moment_d, random), rule, unanswered=True)
        is_past_W, is_other_W = whole.end_W <= moment_d, other.end_W <= moment_d
        for column in INPUTS:
            np.testing.assert_array_equal(
                getattr(other, column)[is_other_W], getattr(whole, column)[is_past_W], column
            )
