"""A small transformer of light curves that learns by drawing again what is hidden from it.

Shape letters: B light curves, W windows, X bins of a window, N tokens, D width, V numbers of a
patch.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from astroray.encoders.layers import Block, Dense
from astroray.preparation.light_curves import WINDOW

__all__ = ["PATCH", "STRIDE", "CurveTransformer", "LightCurveTiny", "patches"]

PATCH, STRIDE = 16, 8
"""Bins of a patch, and bins from one to the next."""
HIDDEN_SHARE = 0.4
HIDDEN_BINS = 32
"""Bins are hidden in runs of so many: single ones could be read off their neighbors."""
TRAIN_WINDOWS = 2
"""Windows of a light curve that a training step looks at."""


class CurveTransformer(nn.Module):
    """Windows of 512 bins as tokens of overlapping patches, [M, 64, D] of [M, 2, 512].

    A token is a patch of 16 bins: flux, its change from bin to bin where both are observed, and
    which bins are observed. Tokens know their place in the window by sines.
    """

    position_ND: Tensor

    def __init__(self, *, width: int, depth: int, num_heads: int) -> None:
        super().__init__()
        self.embed_patch = Dense(3 * PATCH, width)
        position_ND = _positions(WINDOW // STRIDE, width)
        self.register_buffer("position_ND", position_ND, persistent=False)
        self.blocks = nn.ModuleList(Block(width, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, window_M2X: Tensor) -> Tensor:
        tokens_MND = self.embed_patch(patches(window_M2X)) + self.position_ND
        for block in self.blocks:
            tokens_MND = block(tokens_MND)
        encoded_MND: Tensor = self.norm(tokens_MND)
        return encoded_MND


class LightCurveTiny(nn.Module):
    """`CurveTransformer` of 0.2 million parameters; the embedding is the mean of seen tokens.

    Each window is encoded alone, and the mean goes over the tokens of all windows that have an
    observed bin. It learns without labels by masked prediction (He et al. 2022,
    arXiv 2111.06377; of time series: Nie et al. 2023, arXiv 2211.14730): of two windows of each
    curve runs of bins are hidden, and drawn again from the others.

    input_B2WX    [B, 2, num_windows, 512]  flux, 0 where missing; 1 where observed
    embedding_BD  [B, width]
    """

    def __init__(self, *, num_windows: int) -> None:
        super().__init__()
        width = 64
        self.num_windows = num_windows
        self.embedding_dim = width
        self.trunk = CurveTransformer(width=width, depth=4, num_heads=4)
        self.to_flux = Dense(width, STRIDE)

    def forward(self, input_B2WX: Tensor) -> Tensor:
        """The embeddings, [B, width]."""
        window_M2X = input_B2WX.transpose(1, 2).flatten(0, 1).contiguous()
        tokens_MND = self.trunk(window_M2X)
        tokens_BND = tokens_MND.reshape(input_B2WX.shape[0], -1, self.embedding_dim)
        seen_BNV = window_M2X[:, 1].reshape(*tokens_BND.shape[:2], STRIDE)
        is_seen_BN = seen_BNV.amax(2)
        weight_BN = is_seen_BN / is_seen_BN.sum(1, keepdim=True).clamp(min=1)
        return torch.einsum("bnd,bn->bd", tokens_BND, weight_BN)

    def loss(self, input_B2WX: Tensor) -> Tensor:
        """Mean error of the hidden bins that were observed, smooth L1, a scalar.

        Draws from PyTorch's random numbers.
        """
        window_M2X = self._draw_windows(input_B2WX)
        flux_MX, seen_MX = window_M2X.unbind(1)
        runs_MR = torch.rand(len(flux_MX), WINDOW // HIDDEN_BINS, device=flux_MX.device)
        is_shown_MX = (runs_MR >= HIDDEN_SHARE).repeat_interleave(HIDDEN_BINS, 1).to(flux_MX.dtype)
        tokens_MND = self.trunk(window_M2X * is_shown_MX[:, None])
        drawn_MX = self.to_flux(tokens_MND).flatten(1).float()
        asked_MX = seen_MX * (1 - is_shown_MX)
        error_MX = F.smooth_l1_loss(drawn_MX, flux_MX, reduction="none")
        return (error_MX * asked_MX).sum() / asked_MX.sum().clamp(min=1)

    def _draw_windows(self, input_B2WX: Tensor) -> Tensor:
        """Some windows of each light curve, [M, 2, X], rather those that were observed."""
        seen_BW = input_B2WX[:, 1].sum(2) + 1e-3
        number = min(TRAIN_WINDOWS, self.num_windows)
        chosen_BR = torch.multinomial(seen_BW, number)
        index = chosen_BR[:, None, :, None].expand(-1, 2, -1, WINDOW)
        return input_B2WX.gather(2, index).transpose(1, 2).flatten(0, 1).contiguous()


def patches(window_M2X: Tensor) -> Tensor:
    """Flux, its change and the mask of each patch, [M, N, 3 * 16]; patch n begins at bin 8 n - 4.

    window_M2X  [M, 2, X]  flux, 0 where missing; 1 where observed
    """
    flux_MX, seen_MX = window_M2X.unbind(1)
    both_MX = seen_MX[:, 1:] * seen_MX[:, :-1]
    change_MX = F.pad((flux_MX[:, 1:] - flux_MX[:, :-1]) * both_MX, (1, 0))
    margin = (PATCH - STRIDE) // 2
    planes_M3X = F.pad(torch.stack([flux_MX, change_MX, seen_MX], 1), (margin, margin))
    return planes_M3X.unfold(2, PATCH, STRIDE).transpose(1, 2).flatten(2)


def _positions(num_tokens: int, width: int) -> Tensor:
    """Sines and cosines of the place in the window, [N, D] (Vaswani et al. 2017)."""
    rate = torch.exp(-math.log(1000.0) * torch.arange(width // 2) / (width // 2))
    angle = torch.arange(num_tokens)[:, None] * rate
    return torch.cat([angle.sin(), angle.cos()], 1)
