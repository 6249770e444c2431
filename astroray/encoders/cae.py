"""The convolutional autoencoder of Han et al. (2022), whose encoder may carry attention.

Shape letters: B images, C bands or channels, Y X rows and columns, D embedding dimensions.
"""

import itertools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from astroray.errors import ConfigError

FILTERS = (128, 64, 32, 16, 8)
KERNELS_PX = (4, 4, 3, 3, 2)
"""Encoder convolutions in order; each but the last is pooled 2x2. The decoder mirrors them."""
REDUCTION = 2 ** (len(FILTERS) - 1)


class SameConv2d(nn.Conv2d):
    """Convolution that keeps the image's size; an even kernel pads more at the end, as in Keras."""

    def __init__(self, num_in: int, num_out: int, kernel_px: int) -> None:
        super().__init__(num_in, num_out, kernel_px)
        self.before_px, self.after_px = (kernel_px - 1) // 2, kernel_px // 2

    def forward(self, x_BCYX: Tensor) -> Tensor:
        return super().forward(F.pad(x_BCYX, [self.before_px, self.after_px] * 2))


class UpsampledConv2d(SameConv2d):
    """`SameConv2d` of the image that 2x2 nearest-neighbor upsampling gives, computed at low size.

    Two neighboring pixels of the upsampled image are one pixel of the small one, so the kernel's
    taps on them can be added first: each of the 2x2 output phases is a 3x3 convolution of the
    small image. Same parameters, same result, about half the arithmetic and a quarter of the
    memory. Kernels of 2 to 4 px.
    """

    taps_PTK: Tensor

    def __init__(self, num_in: int, num_out: int, kernel_px: int) -> None:
        super().__init__(num_in, num_out, kernel_px)
        taps_PTK = torch.zeros(2, 3, kernel_px)  # [phase, pixel of the small image, kernel tap]
        for phase, tap in itertools.product(range(2), range(kernel_px)):
            taps_PTK[phase, 1 + (phase + tap - self.before_px) // 2, tap] = 1.0
        self.register_buffer("taps_PTK", taps_PTK, persistent=False)

    def forward(self, x_BCYX: Tensor) -> Tensor:
        """x_BCYX [B, C, Y, X] to [B, num_out, 2 Y, 2 X]."""
        kernel = torch.einsum("ptk,qul,nckl->npqctu", self.taps_PTK, self.taps_PTK, self.weight)
        assert self.bias is not None
        bias = self.bias.repeat_interleave(4)
        phases_BCYX = F.conv2d(x_BCYX, kernel.reshape(-1, self.in_channels, 3, 3), bias, padding=1)
        return F.pixel_shuffle(phases_BCYX, 2)


class Cae(nn.Module):
    """Autoencoder of cutouts whose bottleneck is the embedding (Han et al. 2022, arXiv 2205.09760).

    Built as the authors' code builds it: convolutions of 128, 64, 32, 16 and 8 filters, 2x2 max
    pooling after the first four, dense layers of 64 and 32, a ReLU embedding, and the mirror
    image of that as decoder; Glorot weights, zero biases. Their size of 64 px becomes any
    multiple of 16 px. `attention` makes the module that follows an encoder convolution of so
    many filters, before its pooling.

    image_BCYX    [B, num_bands, size_px, size_px]  pixels in 0..1, no NaN
    embedding_BD  [B, latent]                       at least 0; a unit may be dead, 0 everywhere

    Raises ConfigError on a size that is no multiple of 16 px.
    """

    def __init__(
        self,
        *,
        num_bands: int,
        size_px: int,
        latent: int = 20,
        attention: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        if size_px < REDUCTION or size_px % REDUCTION:
            raise ConfigError(
                f"size_px is {size_px} for an autoencoder, expected a multiple of {REDUCTION} "
                f"such as {max(1, round(size_px / REDUCTION)) * REDUCTION}; choose another size"
            )
        self.embedding_dim = latent
        self.bottom_CYX = (FILTERS[-1], size_px // REDUCTION, size_px // REDUCTION)
        num_flat = math.prod(self.bottom_CYX)
        widths = zip((num_bands, *FILTERS[:-1]), FILTERS, KERNELS_PX, strict=True)
        self.encoder_convs = nn.ModuleList(SameConv2d(*width) for width in widths)
        self.attention = nn.ModuleList(
            attention(num_filters) if attention else nn.Identity() for num_filters in FILTERS[:-1]
        )
        self.encoder_dense = _dense_layers(num_flat, 64, 32, latent)
        self.decoder_dense = _dense_layers(latent, 32, 64, num_flat)
        self.bottom_conv = SameConv2d(FILTERS[-1], FILTERS[-1], KERNELS_PX[-1])
        num_in = FILTERS[:0:-1]
        widths = zip(num_in, (*num_in[1:], num_bands), KERNELS_PX[-2::-1], strict=True)
        self.decoder_convs = nn.ModuleList(UpsampledConv2d(*width) for width in widths)
        self.apply(_initialize)

    def forward(self, image_BCYX: Tensor) -> Tensor:
        """The embeddings, [B, latent]."""
        x_BCYX = image_BCYX
        for conv, attention in zip(self.encoder_convs, self.attention, strict=False):
            x_BCYX = F.max_pool2d(attention(F.relu(conv(x_BCYX))), 2)
        x_BCYX = F.relu(self.encoder_convs[-1](x_BCYX))
        return self.encoder_dense(x_BCYX.flatten(1))

    def reconstruct(self, image_BCYX: Tensor) -> Tensor:
        """What the decoder makes of the embeddings, as logits of the pixels, shape of the input."""
        x_BCYX = self.decoder_dense(self(image_BCYX)).unflatten(1, self.bottom_CYX)
        x_BCYX = self.bottom_conv(x_BCYX)
        for conv in self.decoder_convs:
            x_BCYX = conv(F.relu(x_BCYX))
        return x_BCYX

    def loss(self, image_BCYX: Tensor) -> Tensor:
        """Mean binary cross-entropy of the reconstructed pixels, a scalar."""
        return F.binary_cross_entropy_with_logits(
            self.reconstruct(image_BCYX).float(), image_BCYX.float()
        )

    def reconstruction_error(self, image_BCYX: Tensor) -> Tensor:
        """Mean binary cross-entropy of each object's reconstructed pixels, [B] float32."""
        error_BCYX = F.binary_cross_entropy_with_logits(
            self.reconstruct(image_BCYX).float(), image_BCYX.float(), reduction="none"
        )
        return error_BCYX.flatten(1).mean(dim=1)


def _dense_layers(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for num_in, num_out in itertools.pairwise(widths):
        layers += [nn.Linear(num_in, num_out), nn.ReLU()]
    return nn.Sequential(*layers)


def _initialize(module: nn.Module) -> None:
    """Keras' default weights: Glorot uniform, biases zero."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
