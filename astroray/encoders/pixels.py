"""The plainest encoder: the prepared pixels themselves. Every other one has to beat it."""

from torch import Tensor, nn


class Pixels(nn.Module):
    """Flattens [B, C, S, S] to [B, C * S * S]; nothing to learn."""

    def __init__(self, *, num_bands: int, size_px: int) -> None:
        super().__init__()
        self.embedding_dim = num_bands * size_px * size_px

    def forward(self, image_BCYX: Tensor) -> Tensor:
        return image_BCYX.flatten(1)
