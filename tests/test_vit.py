"""The vision transformer: any bands, views, what it learns, and its seams."""

import math

import numpy as np
import pytest
import torch

from astroray.encoders.layers import Attention
from astroray.encoders.views import contrast, draw_bands, draw_view
from astroray.encoders.vit import Vit, VitSmall, VitTiny
from astroray.errors import ConfigError
from astroray.fitting.fit_state import FitConfig
from astroray.fitting.passes import run_passes
from astroray.preparation import measure, prepare
from astroray.surveys import list_shards, read_shard
from astroray_kernels import vfa_attention


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(3)


def small(num_bands=3, size_px=32):
    return Vit(num_bands=num_bands, size_px=size_px, width=32, depth=2, num_heads=2)


@pytest.mark.parametrize(("network", "low", "high"), [(VitTiny, 1e6, 2e6), (VitSmall, 1e7, 2e7)])
def test_the_sizes_are_those_that_their_names_promise(network, low, high):
    built = network(num_bands=3, size_px=64)
    assert low < sum(weight.numel() for weight in built.parameters()) < high


@pytest.mark.parametrize("size_px", [4, 30, 0])
def test_a_size_that_patches_do_not_tile_is_refused(size_px):
    with pytest.raises(ConfigError, match=f"size_px is {size_px}.*multiple of 8 such as"):
        small(size_px=size_px)


def test_a_band_is_known_by_its_vector_and_not_by_its_place():
    network, image_BCYX = small().eval(), torch.rand(2, 3, 32, 32)
    expected_BD = network(image_BCYX)
    order = [2, 0, 1]
    with torch.no_grad():
        network.band_CD.copy_(network.band_CD[order])
    torch.testing.assert_close(network(image_BCYX[:, order]), expected_BD, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        network.band_CD.mul_(-40.0)
    assert not torch.allclose(network(image_BCYX[:, order]), expected_BD, atol=1e-2)


@pytest.mark.parametrize("num_bands", [1, 2, 5])
def test_every_weight_gets_a_gradient_whatever_bands_are_dropped(num_bands):
    network = small(num_bands)
    for _ in range(4):
        network.zero_grad(set_to_none=True)
        network.loss(torch.rand(4, num_bands, 32, 32)).backward()
        assert all(weight.grad is not None for weight in network.parameters())


def test_seen_patches_are_not_judged():
    network = small(num_bands=1)
    patches_BNV = torch.rand(3, 16, 64)
    index_BK = torch.arange(15).expand(3, 15)
    seen_BKD = torch.rand(3, 15, 32)
    error = network._miss(patches_BNV, seen_BKD, index_BK)
    changed = patches_BNV.clone()
    changed[:, :15] = 0.0
    assert torch.equal(network._miss(changed, seen_BKD, index_BK), error)
    changed[:, 15] = torch.rand(3, 64)
    assert not torch.equal(network._miss(changed, seen_BKD, index_BK), error)


def test_all_attention_goes_through_one_seam(monkeypatch):
    network, image_BCYX = small().eval(), torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        expected_BD = network(image_BCYX)
        shapes = []

        def core(q, k, v):
            shapes.append(tuple(q.shape))
            return vfa_attention(q, k, v, backend="reference")

        monkeypatch.setattr(Attention, "core", staticmethod(core))
        torch.testing.assert_close(network(image_BCYX), expected_BD, rtol=0, atol=2e-3)
    assert shapes == [(2, 2, 48, 16)] * 2


def test_most_views_only_move_pixels():
    image_BCYX = torch.rand(200, 1, 16, 16)
    view_BCYX = draw_view(image_BCYX)
    assert view_BCYX.shape == image_BCYX.shape
    kept_B = [
        (seen[:, None] - image.flatten()).abs().min(1).values.mean() < 0.05
        for seen, image in zip(view_BCYX.flatten(1), image_BCYX, strict=True)
    ]
    assert np.mean([bool(kept) for kept in kept_B]) > 0.7
    assert (view_BCYX - image_BCYX).abs().mean() > 0.1


def test_a_view_of_one_image_is_another_each_time():
    image_BCYX = torch.rand(1, 2, 16, 16)
    assert not torch.equal(draw_view(image_BCYX), draw_view(image_BCYX))


def test_bands_are_dropped_but_never_all():
    drawn = [draw_bands(4).tolist() for _ in range(200)]
    assert {len(bands) for bands in drawn} == {1, 2, 3, 4}
    assert all(bands == sorted(set(bands)) for bands in drawn)
    assert draw_bands(1).tolist() == [0]


def test_contrast_is_small_where_partners_are_alike_and_large_where_they_are_not():
    one_BD = torch.eye(4)
    # each view has one partner at cosine 1 and six others at 0
    expected = math.log(1 + 6 * math.exp(-1 / 0.1))
    assert contrast(one_BD, one_BD, temperature=0.1).item() == pytest.approx(expected, rel=1e-3)
    assert contrast(one_BD, one_BD.roll(1, 0), temperature=0.1) > 9


def test_it_learns_simulated_galaxies_in_seconds(tmp_path):
    (shard,) = list_shards("sim:galaxies?count=96&size=32&seed=5").shards
    slices = list(read_shard(shard))
    preparation = measure(iter(slices), size_px=32)
    sample = np.concatenate([prepare(part, preparation).input_BCYX for part in slices])
    np.save(tmp_path / "sample.npy", sample.astype(np.float16))
    fit = run_passes(
        str(tmp_path / "sample.npy"),
        "vit-tiny",
        {"num_bands": 3, "size_px": 32},
        FitConfig(num_passes=6, batch_size=32, learning_rate=5e-3),
        str(tmp_path / "fit"),
        threads=1,
    )
    assert fit.loss_per_pass[-1] < 0.9 * fit.loss_per_pass[0]
