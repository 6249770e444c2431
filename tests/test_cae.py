"""The autoencoders against their publication and against the plain formulas they speed up."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from astroray.encoders.attcae import AttCae, Cbam
from astroray.encoders.cae import Cae, SameConv2d, UpsampledConv2d
from astroray.errors import ConfigError


def _images(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(shape, dtype=dtype, generator=torch.Generator().manual_seed(3))


def _num_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _plain_cbam(cbam: Cbam, x_BCYX: Tensor) -> Tensor:
    peak_BC, mean_BC = x_BCYX.amax((2, 3)), x_BCYX.mean((2, 3))
    weight_BC = torch.sigmoid(cbam.channel_mlp(mean_BC) + cbam.channel_mlp(peak_BC))
    x_BCYX = x_BCYX * weight_BC[:, :, None, None]
    pooled_B2YX = torch.stack([x_BCYX.mean(1), x_BCYX.amax(1)], 1)
    return x_BCYX * torch.sigmoid(cbam.pixel_conv(pooled_B2YX))


@pytest.mark.parametrize("latent", [28, 24, 20, 16])
def test_attcae_has_the_published_number_of_parameters(latent):
    published = {28: 231_717, 24: 231_457, 20: 231_197, 16: 230_937}[latent]
    assert _num_parameters(AttCae(num_bands=3, size_px=64, latent=latent)) == published


def test_attention_is_all_that_tells_the_two_networks_apart():
    plain, attentive = Cae(num_bands=3, size_px=64), AttCae(num_bands=3, size_px=64)
    num_attention = _num_parameters(attentive.attention)
    assert num_attention > 0
    assert _num_parameters(attentive) - num_attention == _num_parameters(plain)


@pytest.mark.parametrize("encoder", [Cae, AttCae])
@pytest.mark.parametrize(("num_bands", "size_px", "latent"), [(1, 16, 4), (5, 48, 20)])
def test_shapes_hold_for_any_multiple_of_16_px(encoder, num_bands, size_px, latent):
    network = encoder(num_bands=num_bands, size_px=size_px, latent=latent)
    image_BCYX = _images(3, num_bands, size_px, size_px, dtype=torch.float32)
    assert network.embedding_dim == latent
    assert network(image_BCYX).shape == (3, latent)
    assert network.reconstruct(image_BCYX).shape == image_BCYX.shape
    assert network.loss(image_BCYX).shape == ()


@pytest.mark.parametrize("encoder", [Cae, AttCae])
def test_the_loss_is_the_mean_of_what_each_object_is_off_by(encoder):
    network = encoder(num_bands=2, size_px=16, latent=4)
    image_BCYX = _images(5, 2, 16, 16, dtype=torch.float32)
    image_BCYX[3] = (image_BCYX[3] > 0.5).float()
    error_B = network.reconstruction_error(image_BCYX)
    assert error_B.shape == (5,)
    torch.testing.assert_close(error_B.mean(), network.loss(image_BCYX))
    torch.testing.assert_close(network.reconstruction_error(image_BCYX[3:4]), error_B[3:4])
    logits_CYX = network.reconstruct(image_BCYX)[3]
    likelihood_CYX = torch.where(image_BCYX[3] > 0.5, logits_CYX, -logits_CYX).sigmoid()
    torch.testing.assert_close(-likelihood_CYX.log().mean(), error_B[3])


@pytest.mark.parametrize("size_px", [0, 8, 40])
def test_a_size_that_pooling_cannot_halve_four_times_is_refused(size_px):
    with pytest.raises(ConfigError, match=f"size_px is {size_px}.*multiple of 16"):
        Cae(num_bands=3, size_px=size_px)


def test_an_even_kernel_reaches_one_pixel_further_down_and_right():
    conv = SameConv2d(1, 1, 4)
    nn.init.ones_(conv.weight)
    nn.init.zeros_(conv.bias)
    image_BCYX = torch.zeros(1, 1, 6, 6)
    image_BCYX[0, 0, 3, 3] = 1.0
    seen = conv(image_BCYX)[0, 0].nonzero()
    assert seen.amin(0).tolist() == [1, 1]  # the pixel is the last tap, two after
    assert seen.amax(0).tolist() == [4, 4]  # the pixel is the first tap, one before


@pytest.mark.parametrize("kernel_px", [2, 3, 4])
def test_convolution_at_low_size_equals_upsampling_first(kernel_px):
    fast = UpsampledConv2d(3, 5, kernel_px).double()
    plain = SameConv2d(3, 5, kernel_px).double()
    plain.load_state_dict(fast.state_dict())
    x_BCYX = _images(2, 3, 6, 8)
    expected = plain(F.interpolate(x_BCYX, scale_factor=2))
    torch.testing.assert_close(fast(x_BCYX), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_cbam_and_its_gradients_equal_the_plain_formulas(memory_format):
    torch.manual_seed(1)
    cbam = Cbam(16).double()
    x_BCYX = F.relu(_images(2, 16, 6, 8) - 0.4).contiguous(memory_format=memory_format)
    weight_BCYX = _images(2, 16, 6, 8)
    results = []
    for forward in (cbam, lambda x: _plain_cbam(cbam, x)):
        x = x_BCYX.clone().requires_grad_()
        y = forward(x)
        gradients = torch.autograd.grad((y * weight_BCYX).sum(), [x, *cbam.parameters()])
        results.append([y, *gradients])
    # Where x is 0 a tie of maxima may split its gradient differently; ReLU ends it there.
    for result in results:
        result[1] = result[1] * (x_BCYX > 0)
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-12)


def test_embeddings_do_not_depend_on_the_other_images_of_a_batch():
    torch.manual_seed(2)
    network = AttCae(num_bands=2, size_px=16).double().eval()
    image_BCYX = _images(5, 2, 16, 16)
    together = network(image_BCYX)
    alone = torch.cat([network(image_BCYX[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-14)


def test_the_loss_falls_when_its_gradient_is_followed():
    torch.manual_seed(4)
    network = AttCae(num_bands=1, size_px=16, latent=6)
    image_BCYX = 0.2 * _images(8, 1, 16, 16, dtype=torch.float32)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = network.loss(image_BCYX)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.01
