"""Widths and errors of flares, against injected ones whose widths and fluxes are known."""

import functools

import numpy as np
import pytest

from astroray.flares.flare_fit import fit_flare
from astroray.flares.inject import inject_flares
from astroray.flares.long_flares import search_flares
from tests.flares_made import MINUTE_D, star


def fitted(cadence_min, days, num_flares):
    """Found minus true over its error, [J] each: widths, and durations with the whole error and
    with that of the noise alone."""
    pulls = []
    for seed in range(2):
        made = functools.partial(star, days=days, cadence_d=cadence_min * MINUTE_D, seed=seed)
        (time_d, flux), (_, quiet) = made(), made(noise=0.0)
        injected = inject_flares(
            time_d,
            flux,
            num_flares=num_flares,
            seed=seed,
            ed_range_s=(10, 300),
            fwhm_range_d=(max(3.0, cadence_min / 2) * MINUTE_D, 60 * MINUTE_D),
        )
        curve, events = search_flares(time_d, injected.flux_T)
        for event in events:
            of_it = (injected.peak_d_J >= event.start_d - curve.cadence_d) & (
                injected.peak_d_J <= event.stop_d + curve.cadence_d
            )
            if event.refused or of_it.sum() != 1:
                continue
            inside = slice(event.first, event.last + 1)
            added = ((injected.flux_T - flux) / quiet)[inside]
            off_s = event.equivalent_duration_s - added.sum() * curve.cadence_d * 86400
            fit = fit_flare(time_d, curve, event)
            pulls.append(
                (
                    (fit.fwhm_d - injected.fwhm_d_J[of_it][0]) / fit.fwhm_err_d,
                    off_s / fit.equivalent_duration_err_s,
                    off_s / event.equivalent_duration_err_s,
                )
            )
    return np.array(pulls).T


@pytest.mark.parametrize(("cadence_min", "days", "num_flares"), [(2.0, 14.0, 10), (29.4, 90.0, 20)])
def test_errors_are_as_large_as_what_is_off(cadence_min, days, num_flares):
    width_J, duration_J, noise_J = fitted(cadence_min, days, num_flares)
    width_J = width_J[np.isfinite(width_J)]
    assert len(width_J) > 10
    assert abs(np.median(width_J)) < 0.5
    assert 0.7 < spread(width_J) < 1.5
    assert 0.6 < spread(duration_J) < 1.7
    assert spread(noise_J) > 1.7


def test_a_flare_narrower_than_a_cadence_has_no_width_and_a_refused_one_no_fit():
    time_d, flux = star(days=6.0, cadence_d=29.4 * MINUTE_D, flares=[(3.0, 4, 0.6)])
    curve, events = search_flares(time_d, flux)
    (flare,) = [event for event in events if not event.refused]
    fit = fit_flare(time_d, curve, flare)
    assert np.isnan(fit.fwhm_d)
    assert np.isnan(fit.fwhm_err_d)
    assert fit.equivalent_duration_err_s > flare.equivalent_duration_err_s


def spread(pull_J):
    """One sigma, by the median of how far they are from 0."""
    return float(1.4826 * np.median(np.abs(pull_J)))
