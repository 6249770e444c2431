"""The encoders of light curves: what they measure, what they are blind to, what they learn."""

import dataclasses

import numpy as np
import pytest
import torch

from astroray.encoders.light_curve import PATCH, STRIDE, LightCurveTiny, patches
from astroray.encoders.pca import fit_pca
from astroray.encoders.waves import Waves
from astroray.fitting.fit_state import FitConfig
from astroray.fitting.passes import run_passes
from astroray.preparation.light_curves import WINDOW

NUM_WINDOWS = 2
NUM = NUM_WINDOWS * WINDOW


def as_input(*curves, seen=None):
    """[B, 2, W, 512] of curves that are observed everywhere, or where `seen` says."""
    flux_BT = torch.as_tensor(np.stack(curves), dtype=torch.float32)
    seen_BT = torch.ones_like(flux_BT) if seen is None else seen.float().expand_as(flux_BT)
    return torch.stack([flux_BT * seen_BT, seen_BT], 1).unflatten(2, (NUM_WINDOWS, WINDOW))


def noise(seed=0, num=NUM):
    return np.random.default_rng(seed).normal(size=num)


def measure(*curves, seen=None):
    return Waves(num_windows=NUM_WINDOWS).measure(as_input(*curves, seen=seen))


def test_steps_are_the_differences_of_neighboring_means_as_a_plain_loop_finds_them():
    flux = noise()
    seen = np.random.default_rng(1).random(NUM) < 0.7
    input_B2WX = as_input(flux, seen=torch.from_numpy(seen))
    above = np.where(seen, flux - flux[seen].mean(), 0.0)
    network = Waves(num_windows=NUM_WINDOWS)
    found = network._steps(*(torch.from_numpy(values[None]).float() for values in (above, seen)))
    for octave in (0, 3, 6):
        length = 2**octave
        steps = []
        for t in range(1, NUM):
            before, after = slice(max(0, t - length), t), slice(t, t + length)
            if seen[before].any() and seen[after].any():
                means = (above[part][seen[part]].mean() for part in (after, before))
                steps.append(next(means) - next(means))
        steps = np.array(steps)
        expected = [
            np.sqrt((steps**2).mean()),
            steps.max(),
            -steps.min(),
            np.cbrt((steps**3).mean()),
        ]
        got = found[0, 4 * octave : 4 * octave + 4]
        np.testing.assert_allclose(got, expected, rtol=2e-3, atol=2e-4)
    assert torch.isfinite(network.measure(input_B2WX)).all()


def test_the_rhythm_of_a_sine_is_in_its_own_octave():
    sine = np.sin(2 * np.pi * 40 * np.arange(NUM) / NUM)
    network = Waves(num_windows=NUM_WINDOWS)
    shares = network._rhythm(torch.from_numpy(sine[None]).float() * 2**0.5, torch.tensor([NUM]))
    all_J, strongest_J = shares[0].split(network.num_octaves)
    assert all_J.argmax() == strongest_J.argmax() == 5  # 32 <= 40 < 64
    assert all_J[5] == pytest.approx(1.0, abs=1e-3)


def test_what_is_missing_says_nothing_and_where_a_curve_begins_neither():
    flux = np.zeros(NUM)
    flux[200:712] = noise(num=512)
    seen = torch.zeros(NUM)
    seen[200:712] = 1
    moved = measure(np.roll(flux, -150), seen=seen.roll(-150))
    torch.testing.assert_close(measure(flux, seen=seen), moved, rtol=1e-3, atol=1e-3)
    wild = np.where(seen, flux, 1e3)
    torch.testing.assert_close(measure(wild, seen=seen), measure(flux, seen=seen))


def test_a_flare_is_told_from_a_dip_and_both_from_noise():
    shape = np.zeros(NUM)
    shape[300:312] = 8 * np.exp(-np.arange(12) / 4)
    quiet, flare, dip = measure(noise(), noise() + shape, noise() - shape)
    apart = (flare - quiet).norm(), (dip - quiet).norm(), (flare - dip).norm()
    assert min(apart) > 2 * (measure(noise(1))[0] - quiet).norm()


def test_principal_components_count_each_feature_by_its_spread():
    curves = [noise(seed) * (1 + seed % 3) for seed in range(40)]
    network = Waves(num_windows=NUM_WINDOWS, latent=5)
    sample = as_input(*curves)
    facts = fit_pca(network, sample, seed=0)
    features_NF = network.measure(sample).double()
    unit_NF = features_NF - features_NF.mean(0)
    deviation_F = unit_NF.square().mean(0).sqrt()
    unit_NF = (unit_NF / deviation_F)[:, deviation_F > 1e-6]
    variance_K = torch.linalg.svdvals(unit_NF).square()
    best = float(variance_K[:5].sum() / variance_K.sum())
    share = float(network(sample).double().square().sum() / unit_NF.square().sum())
    assert best - 0.01 < share <= best + 1e-6
    assert facts["explained_variance"] == pytest.approx(share, abs=1e-3)


def test_patches_hold_flux_change_and_mask_around_their_place():
    flux = np.arange(NUM, dtype=float)
    seen = torch.ones(NUM)
    seen[20] = 0
    window_M2X = as_input(flux, seen=seen)[:, :, 0]
    found = patches(window_M2X).unflatten(2, (3, PATCH))
    assert found.shape == (1, WINDOW // STRIDE, 3, PATCH)
    flux_V, change_V, seen_V = found[0, 2]  # bins 12 to 27
    assert seen_V.tolist() == [0.0 if t == 20 else 1.0 for t in range(12, 28)]
    assert flux_V.tolist() == [0.0 if t == 20 else t for t in range(12, 28)]
    assert change_V.tolist() == [0.0 if t in (20, 21) else 1.0 for t in range(12, 28)]


def test_the_transformer_does_not_look_at_flux_that_was_not_observed_nor_pool_empty_windows():
    torch.manual_seed(0)
    network = LightCurveTiny(num_windows=NUM_WINDOWS).eval()
    flux, seen = noise(), torch.ones(NUM)
    seen[WINDOW:] = 0
    two = as_input(flux, seen=seen)
    one = LightCurveTiny(num_windows=1).eval()
    one.load_state_dict(network.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(network(two), one(two[:, :, :1]))
        assert torch.isfinite(network(torch.zeros_like(two))).all()


def test_a_trained_transformer_draws_what_is_hidden_better_than_an_untrained_one(tmp_path):
    phase, number = np.random.default_rng(0).random((2, 48))
    place = np.arange(NUM) / NUM
    curves = [
        2 * np.sin(2 * np.pi * ((8 + 8 * n) * place + p))
        for n, p in zip(number, phase, strict=True)
    ]
    sample = as_input(*curves).half().numpy()
    np.save(tmp_path / "sample.npy", sample)
    config = FitConfig(num_passes=12, batch_size=16, learning_rate=3e-3)
    network = {"num_windows": NUM_WINDOWS}
    path = str(tmp_path / "sample.npy")
    result = run_passes(path, "lc-tiny", network, config, str(tmp_path), threads=1)
    assert result.loss_per_pass[-1] < 0.8 * result.loss_per_pass[0]
    two = dataclasses.replace(config, num_passes=2)
    again = run_passes(path, "lc-tiny", network, two, str(tmp_path / "again"), threads=1)
    assert again.loss_per_pass == result.loss_per_pass[:2]
