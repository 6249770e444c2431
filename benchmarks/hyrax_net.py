"""The network that both sides of `benchmarks.hyrax` run: five convolutions and a linear layer.

It imports neither astroray nor Hyrax, since each imports it by its own Python.
"""

import torch
from torch import Tensor, nn

WIDTH = 32
LATENT = 64


class Net(nn.Module):
    """Images [B, C, S, S] in 0..1 to [B, 64]; its weights are drawn from one seed."""

    def __init__(self, *, num_bands: int, size_px: int, latent: int = LATENT) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.Sequential(
                *_convolution(num_bands, WIDTH, stride=2),
                *_convolution(WIDTH, WIDTH, stride=1),
                *_convolution(WIDTH, 2 * WIDTH, stride=2),
                *_convolution(2 * WIDTH, 2 * WIDTH, stride=1),
                *_convolution(2 * WIDTH, 2 * WIDTH, stride=2),
                nn.Flatten(),
                nn.Linear(2 * WIDTH * (size_px // 8) ** 2, latent),
            )

    def forward(self, image: Tensor) -> Tensor:
        embedding: Tensor = self.layers(image)
        return embedding


def _convolution(num_in: int, num_out: int, *, stride: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(num_in, num_out, 3, padding=1, stride=stride), nn.GELU()
