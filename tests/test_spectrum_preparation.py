"""How spectra become arrays of one size: the grid, gaps, level, noise and what is rejected."""

import dataclasses

import numpy as np
import pytest
import torch

from astroray.encoders.lines import Lines
from astroray.errors import ConfigError
from astroray.preparation import Wishes
from astroray.preparation.light_curves import WINDOW
from astroray.preparation.spectra import (
    DAMPING,
    SpectrumPreparation,
    measure_spectra,
    prepare_spectra,
)
from tests.spectra_made import LOGLAM, NUM, fluxes, slice_of, spectrum

PREPARATION = SpectrumPreparation(
    first=10 ** LOGLAM[0], step=5e-4, num_bins=NUM, num_windows=2, scale=0.1
)


def planes(found, preparation=PREPARATION):
    """Value and mask of the bins of one spectrum."""
    (input_2WX,) = prepare_spectra(slice_of(found), preparation).input_BCYX
    return input_2WX.reshape(2, -1)[:, : preparation.num_bins]


def expected(flux, *, ivar=25.0, scale=0.1):
    noise = ivar**-0.5
    level = np.hypot(np.median(flux), noise)
    damped = (flux / level - 1) / (1 + (noise / level / DAMPING / scale) ** 2)
    return np.arcsinh(damped / scale)


def test_pixels_on_the_grid_are_its_bins():
    flux = fluxes()
    value_K, seen_K = planes(spectrum(flux))
    np.testing.assert_allclose(value_K, expected(flux), rtol=1e-4, atol=1e-4)
    assert seen_K.all()


def test_what_is_missing_is_zero_in_both_planes_and_changes_no_other_bin():
    flux, mask = fluxes(), np.zeros(NUM)
    mask[100:140] = 1
    spoilt = np.where(mask > 0, 1e6, flux)
    value_K, seen_K = planes(spectrum(spoilt, mask=mask))
    assert np.flatnonzero(seen_K == 0).tolist() == list(range(100, 140))
    assert not value_K[100:140].any()
    left = np.r_[0:100, 140:NUM]
    np.testing.assert_allclose(value_K[left], expected(flux)[left], atol=0.1)  # another median


def test_a_range_without_pixels_is_a_gap_and_not_a_line_across_it():
    kept = np.r_[0:200, 320:NUM]
    _, seen_K = planes(spectrum(fluxes()[kept], wavelength=10 ** LOGLAM[kept]))
    assert np.flatnonzero(seen_K == 0)[[0, -1]].tolist() == pytest.approx([200, 319], abs=2)


def test_a_bin_is_the_mean_by_overlap_and_inverse_variance():
    flux = np.tile([10.0, 20.0], NUM // 2)
    ivar = np.tile([3.0, 1.0], NUM // 2)
    wide = dataclasses.replace(
        PREPARATION, first=10 ** (LOGLAM[0] + 2.5e-4), step=1e-3, num_bins=NUM // 2
    )
    flat = spectrum(flux + np.linspace(0, 1e-6, NUM), ivar=ivar)
    value_K, _ = planes(flat, wide)
    assert np.ptp(value_K) < 1e-4  # of 12.5 throughout, as its own level
    odd = dataclasses.replace(wide, first=wide.first * 10**2.5e-4)  # half a pixel further
    assert np.ptp(planes(flat, odd)[0][1:-1]) < 1e-4


def test_narrower_bins_than_pixels_have_no_holes():
    fine = dataclasses.replace(PREPARATION, step=2e-4, num_bins=900)
    _, seen_K = planes(spectrum(fluxes()), fine)
    assert seen_K.all()


def test_the_unit_of_flux_does_not_matter_and_noise_is_damped():
    flux = fluxes()
    a, b = planes(spectrum(flux)), planes(spectrum(flux * 1e-17, ivar=25e34))
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    noisy, _ = planes(spectrum(flux, ivar=0.01))
    assert np.abs(noisy).max() < 0.1 * np.abs(a[0]).max()
    unknown, _ = planes(spectrum(flux, ivar=None))
    np.testing.assert_allclose(unknown, a[0], atol=0.2)


def test_a_spectrum_without_signal_is_seen_in_units_of_its_noise():
    nothing = np.random.default_rng(0).normal(size=NUM)
    value_K, seen_K = planes(spectrum(nothing - 0.2, ivar=1.0))
    assert seen_K.all()
    assert np.abs(value_K).max() < 1.5


@pytest.mark.parametrize(
    ("found", "kind", "reason"),
    [
        (spectrum(np.full(NUM, 7.0)), "constant", "every flux is 7"),
        (spectrum(fluxes()[:200]), "overlap", "67% of the bins from 3802 to 7577"),
        (spectrum(fluxes(), wavelength=3 * 10**LOGLAM), "overlap", "within 11406 to 22731"),
    ],
)
def test_what_cannot_be_prepared_is_a_reject_that_says_why(found, kind, reason):
    good = spectrum(fluxes())
    done = prepare_spectra(slice_of(good, found, good), PREPARATION)
    assert [(reject.row, reject.stage, reject.kind) for reject in done.rejects] == [
        (1, "prepare", kind)
    ]
    assert reason in done.rejects[0].reason
    assert (done.index_B.tolist(), len(done.input_BCYX)) == ([0, 2], 2)


@pytest.mark.parametrize("bad", [1e300, -1e300])
def test_numbers_beyond_reason_stay_finite(bad):
    flux = fluxes()
    flux[50] = bad
    done = prepare_spectra(slice_of(spectrum(flux), spectrum(flux, ivar=1e300)), PREPARATION)
    assert np.isfinite(done.input_BCYX).all()
    assert len(done.index_B) + len(done.rejects) == 2


def test_a_spectrum_is_prepared_alone_as_among_others():
    found = [spectrum(fluxes(seed)) for seed in range(3)]
    together = prepare_spectra(slice_of(*found), PREPARATION).input_BCYX
    for one, expected_2WX in zip(found, together, strict=True):
        alone = prepare_spectra(slice_of(one), PREPARATION).input_BCYX
        np.testing.assert_array_equal(alone[0], expected_2WX)


def test_the_grid_is_the_survey_s_own_pixels_where_most_spectra_are():
    most = [spectrum(fluxes(seed)) for seed in range(19)]
    short = spectrum(fluxes()[100:], wavelength=10 ** LOGLAM[100:])
    found = measure_spectra(iter([slice_of(*most, short)]), Wishes())
    assert (found.num_bins, found.num_windows) == (NUM, 2)
    assert found.first == pytest.approx(10 ** LOGLAM[0])
    assert found.last == pytest.approx(10 ** LOGLAM[-1])
    assert found.step == pytest.approx(5e-4)
    few = measure_spectra(iter([slice_of(*most)]), Wishes(num_windows=1))
    assert (few.num_windows, few.num_bins) == (1, WINDOW)
    assert few.last == pytest.approx(found.last)


def test_spectra_that_share_no_wavelengths_are_refused():
    blue = [spectrum(fluxes()) for _ in range(5)]
    red = [spectrum(fluxes(), wavelength=5 * 10**LOGLAM) for _ in range(5)]
    with pytest.raises(ConfigError, match="no wavelengths in common"):
        measure_spectra(iter([slice_of(*blue, *red)]), Wishes())
    with pytest.raises(ConfigError, match=r"encoder\.size_px is for images, .* has spectra"):
        measure_spectra(iter([slice_of(*blue)]), Wishes(size_px=32))


def test_a_preparation_goes_through_json():
    assert SpectrumPreparation.from_json(dataclasses.asdict(PREPARATION)) == PREPARATION


@pytest.mark.parametrize(
    "change",
    [
        {"num_windows": 0},
        {"num_windows": 5},
        {"num_bins": 1},
        {"num_bins": 2 * WINDOW + 1},
        {"first": 0.0},
        {"step": 0.0},
        {"scale": 0.0},
        {"max_missing": 1.0},
    ],
    ids=str,
)
def test_a_preparation_that_makes_no_sense_is_refused(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        dataclasses.replace(PREPARATION, **change)


def test_a_preparation_says_what_an_encoder_gets():
    words = PREPARATION.describe()
    assert words["input"] == f"relative flux, {NUM} bins of 345 km/s, 3802 to 7577 Å"
    assert dataclasses.replace(PREPARATION, num_windows=4, num_bins=4 * WINDOW).num_windows == 4


def test_the_scale_is_the_scatter_of_spectra_in_units_of_their_level():
    draw = np.random.default_rng(0)
    scattered = [spectrum(50 * (1 + 0.1 * draw.normal(size=NUM)), ivar=100.0) for _ in range(9)]
    found = measure_spectra(iter([slice_of(*scattered)]), Wishes())
    assert found.scale == pytest.approx(0.1, rel=0.05)


def test_lines_are_found_at_their_width_and_not_where_nothing_was_observed():
    network = Lines(num_windows=1)
    plain = torch.zeros(3, 2, 1, WINDOW)
    plain[:, 1] = 1
    plain[1, 0, 0, 100:116] = 1.0  # 16 bins wide
    plain[2, 0, 0, 100:116] = 1.0
    plain[2, 1, 0, 90:130] = 0  # not observed, whatever stands there
    shape_and_lines = network.measure(plain)
    assert shape_and_lines[1].abs().max() > 0.5
    rms = shape_and_lines[1].view(-1, 4)[1:, 0]  # after four parts, per octave
    assert int(rms.argmax()) == 2  # of octaves 4, 8, 16, 32, 64 the third
    np.testing.assert_allclose(shape_and_lines[2], shape_and_lines[0], atol=1e-6)
