"""The classical encoder: what it must not see, and what it must."""

import numpy as np
import pytest
import torch

from astroray.encoders.pca import NARROWEST, fit_pca
from astroray.encoders.rings import FineRings, Rings


@pytest.fixture
def image_BCYX():
    """Smooth lopsided ellipses in two bands."""
    line = torch.arange(32) - 15.5
    y, x = line[:, None], line[None]
    images = [
        torch.exp(-((x - a) ** 2) / (20 + 9 * a) - y**2 / 60)
        + 0.1 * torch.exp(-((x - 8) ** 2 + y**2) / 9)
        for a in range(5)
    ]
    return torch.stack(images)[:, None].repeat(1, 2, 1, 1) * torch.tensor([1.0, 0.5])[:, None, None]


def changes(network, image_BCYX, other_BCYX):
    before_BF = network.measure(image_BCYX)
    return ((network.measure(other_BCYX) - before_BF).norm(dim=1) / before_BF.norm(dim=1)).max()


@pytest.mark.parametrize(
    "turn",
    [lambda x: x.rot90(1, (2, 3)), lambda x: x.flip(3), lambda x: x.flip(2).rot90(1, (2, 3))],
)
def test_turns_and_mirrors_are_not_seen(image_BCYX, turn):
    network = Rings(num_bands=2, size_px=32)
    assert changes(network, image_BCYX, turn(image_BCYX)) < 1e-3


def test_a_hit_pixel_and_an_off_center_clump_are_seen(image_BCYX):
    network = Rings(num_bands=2, size_px=32)
    hit_BCYX = image_BCYX.clone()
    hit_BCYX[:, :, 5, 9] += 0.5
    assert changes(network, image_BCYX, hit_BCYX) > 0.1


@pytest.mark.parametrize("size_px", [8, 17, 64])
def test_any_size_gives_as_many_numbers(size_px):
    network = Rings(num_bands=3, size_px=size_px)
    measured_BF = network.measure(torch.rand(2, 3, size_px, size_px))
    assert measured_BF.shape == (2, network.count_features(3, size_px))
    assert torch.isfinite(measured_BF).all()


def test_its_components_are_those_of_what_it_measures(image_BCYX):
    network = Rings(num_bands=2, size_px=32, latent=4)
    facts = fit_pca(network, image_BCYX.half(), seed=0)
    assert facts["explained_variance"] > 0.999
    measured_BF = network.measure(image_BCYX.half().float())
    torch.testing.assert_close(
        torch.pdist(network(image_BCYX)), torch.pdist(measured_BF), rtol=1e-2, atol=1e-3
    )


def noisy(num_rows):
    """Images of noise whose strength differs from one to the next, so that spreads do too."""
    random = torch.Generator().manual_seed(0)
    strength = torch.rand(num_rows, 1, 1, 1, generator=random)
    return torch.rand(num_rows, 2, 24, 24, generator=random) * strength


def test_fine_rings_divide_all_components_by_the_root_of_their_spread():
    image_BCYX = noisy(400)
    network = FineRings(num_bands=2, size_px=24)
    fit_pca(network, image_BCYX, seed=0)
    measured_BF = network.measure(image_BCYX).double().numpy()
    _, sigma_F, v_FF = np.linalg.svd(measured_BF - measured_BF.mean(0), full_matrices=False)
    gain_F = np.maximum(sigma_F / sigma_F[0], NARROWEST) ** -0.5
    expected_BF = (measured_BF - measured_BF.mean(0)) @ v_FF.T * gain_F
    assert network.embedding_dim == measured_BF.shape[1]
    torch.testing.assert_close(
        torch.pdist(network(image_BCYX)).double(),
        torch.pdist(torch.from_numpy(expected_BF)),
        rtol=1e-3,
        atol=1e-4,
    )


def test_what_hardly_varies_in_a_small_sample_is_not_blown_up():
    network = FineRings(num_bands=2, size_px=24)
    fit_pca(network, noisy(6)[[0, 1, 2, 3, 4, 5, 5]], seed=0)
    gain_K = network.get_buffer("components").norm(dim=1)
    assert gain_K.max() <= NARROWEST**-0.5 * 1.001
    assert torch.isfinite(network(noisy(9))).all()


def test_the_default_leaves_its_components_as_long_as_they_are():
    network = Rings(num_bands=2, size_px=24, latent=10)
    fit_pca(network, noisy(100), seed=0)
    length_K = network.get_buffer("components").norm(dim=1)
    torch.testing.assert_close(length_K, torch.ones(10))
