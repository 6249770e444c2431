"""The attention autoencoder attCAE of Han et al. (2022): `Cae` with CBAM in its encoder.

Shape letters: B images, P pixels of an image, C channels, Y X rows and columns.
"""

from typing import Any

import torch
from torch import Tensor, nn

from astroray.encoders.cae import Cae

RATIO = 8
"""Channels of CBAM's hidden layer are one in so many."""


class AttCae(Cae):
    """`Cae` with a CBAM after each encoder convolution that is pooled, before the pooling.

    With 64 px, three bands and 20 dimensions it has the 231,197 parameters of the authors' scan
    over latent sizes. (Another of their notebooks has a fifth CBAM, after the last convolution
    of 8 filters, which is not pooled: 123 parameters more.)
    """

    def __init__(self, *, num_bands: int, size_px: int, latent: int = 20) -> None:
        super().__init__(num_bands=num_bands, size_px=size_px, latent=latent, attention=Cbam)


class Cbam(nn.Module):
    """Convolutional block attention (Woo et al. 2018): channels are weighed first, then pixels."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        num_hidden = num_channels // RATIO
        self.channel_mlp = nn.Sequential(
            nn.Linear(num_channels, num_hidden), nn.ReLU(), nn.Linear(num_hidden, num_channels)
        )
        self.pixel_conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x_BCYX: Tensor) -> Tensor:
        x_BYXC = x_BCYX.permute(0, 2, 3, 1)
        x_BPC = x_BYXC.flatten(1, 2)  # a view where the image is stored channels last
        mean_BC, peak_BC = _OverPixels.apply(x_BPC)  # type: ignore[no-untyped-call]
        weight_BC = torch.sigmoid(self.channel_mlp(mean_BC) + self.channel_mlp(peak_BC))
        x_BPC, mean_BP, peak_BP = _OverChannels.apply(  # type: ignore[no-untyped-call]
            x_BPC, weight_BC
        )
        num_images, num_rows, num_columns, _ = x_BYXC.shape
        pooled_B2P = torch.stack([mean_BP, peak_BP], 1)
        pooled_B2YX = pooled_B2P.view(num_images, 2, num_rows, num_columns)
        weight_BP = torch.sigmoid(self.pixel_conv(pooled_B2YX)).flatten(1)
        x_BPC = _TimesPixels.apply(x_BPC, weight_BP)  # type: ignore[no-untyped-call]
        gated_BCYX: Tensor = x_BPC.view(x_BYXC.shape).permute(0, 3, 1, 2)
        return gated_BCYX


# The three steps below are plain products, means and maxima with gradients written by hand.
# PyTorch's own are slow on a CPU: the gradient of `amax` counts ties by way of boolean and
# integer tensors of the input's shape, and made up half of a training step. A tie of maxima
# gets the whole gradient at each place here; with ReLU inputs ties are zeros, where the
# gradient ends anyway.


class _OverPixels(torch.autograd.Function):
    """Mean and maximum over the pixels."""

    @staticmethod
    def forward(ctx: Any, x_BPC: Tensor) -> tuple[Tensor, Tensor]:
        peak_BC = x_BPC.amax(1)
        ctx.save_for_backward(x_BPC, peak_BC)
        return x_BPC.mean(1), peak_BC

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        x_BPC, peak_BC = ctx.saved_tensors
        mean_BC, at_peak_BC = gradients
        gradient_BPC = _where_equal(x_BPC, peak_BC[:, None])
        gradient_BPC.mul_(at_peak_BC[:, None])
        return gradient_BPC.add_(mean_BC[:, None] / x_BPC.shape[1])


class _OverChannels(torch.autograd.Function):
    """Weighted channels, and their mean and maximum in each pixel."""

    @staticmethod
    def forward(ctx: Any, x_BPC: Tensor, weight_BC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weighted_BPC = x_BPC * weight_BC[:, None]
        peak_BP = weighted_BPC.amax(2)
        ctx.save_for_backward(x_BPC, weight_BC, weighted_BPC, peak_BP)
        return weighted_BPC, weighted_BPC.mean(2), peak_BP

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x_BPC, weight_BC, weighted_BPC, peak_BP = ctx.saved_tensors
        weighted, mean_BP, at_peak_BP = gradients
        gradient_BPC = _where_equal(weighted_BPC, peak_BP[..., None])
        gradient_BPC.mul_(at_peak_BP[..., None]).add_(weighted)
        gradient_BPC.add_(mean_BP[..., None] / x_BPC.shape[2])
        gradient_BC = (gradient_BPC * x_BPC).sum(1)
        return gradient_BPC.mul_(weight_BC[:, None]), gradient_BC


class _TimesPixels(torch.autograd.Function):
    """Each pixel times its weight."""

    @staticmethod
    def forward(ctx: Any, x_BPC: Tensor, weight_BP: Tensor) -> Tensor:
        ctx.save_for_backward(x_BPC, weight_BP)
        return x_BPC * weight_BP[..., None]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x_BPC, weight_BP = ctx.saved_tensors
        (gradient_BPC,) = gradients
        return gradient_BPC * weight_BP[..., None], (gradient_BPC * x_BPC).sum(2)


def _where_equal(x_BPC: Tensor, peak: Tensor) -> Tensor:
    """1 where equal, else 0, as numbers: boolean tensors take three times as long on a CPU."""
    return torch.eq(x_BPC, peak, out=torch.empty_like(x_BPC))
