"""A small vision transformer of survey stamps that takes any bands, trained without labels.

Shape letters: B images, C bands, Y X rows and columns, P patches of a band, N = C P tokens, K of
them seen, D width, V pixels of a patch.
"""

import math

import torch
from torch import Tensor, nn

from astroray.encoders.layers import Block, Dense
from astroray.encoders.views import contrast, draw_bands, draw_view
from astroray.errors import ConfigError

PATCH_PX = 8
KEPT_SHARE = 0.5
"""Share of the patches that a training view shows."""
CONTRAST_WEIGHT = 0.3
TEMPERATURE = 0.1
DECODER_WIDTH, DECODER_DEPTH, DECODER_HEADS = 64, 2, 4
PROJECTION = (512, 128)
"""Widths of the layers between an embedding and the contrast; used in training only."""


class Vit(nn.Module):
    """Channel vision transformer (Bao et al. 2024, arXiv 2309.16108): one token a patch and band.

    All bands share the patch embedding, and each adds its own vector, so that one network takes
    surveys with other or missing bands; patches know their place by sines. The embedding is the
    mean of the normalized tokens.

    It learns without labels as a contrastive masked autoencoder (CAN: Mishra et al. 2022,
    arXiv 2210.16870). Of two turned, shifted and noisier views half of the patches and some of
    the bands are shown; from the first the missing patches are drawn again (He et al. 2022,
    arXiv 2111.06377; whole bands too, as in ChA-MAEViT), and both must be told from those of
    all other images of the step.

    image_BCYX    [B, num_bands, size_px, size_px]  pixels in 0..1, no NaN
    embedding_BD  [B, width]

    Raises ConfigError on a size that is no multiple of 8 px.
    """

    position_PD: Tensor
    decoder_position_PD: Tensor

    def __init__(
        self, *, num_bands: int, size_px: int, width: int, depth: int, num_heads: int
    ) -> None:
        super().__init__()
        if size_px < PATCH_PX or size_px % PATCH_PX:
            raise ConfigError(
                f"size_px is {size_px} for a vision transformer, expected a multiple of {PATCH_PX} "
                f"such as {max(1, round(size_px / PATCH_PX)) * PATCH_PX}; choose another size"
            )
        self.embedding_dim = width
        num_side = size_px // PATCH_PX
        self.embed_patch = Dense(PATCH_PX**2, width)
        self.band_CD = nn.Parameter(torch.empty(num_bands, width).normal_(std=0.02))
        self.register_buffer("position_PD", _positions(num_side, width), persistent=False)
        self.blocks = nn.ModuleList(Block(width, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.to_decoder = Dense(width, DECODER_WIDTH)
        self.missing_D = nn.Parameter(torch.zeros(DECODER_WIDTH))
        self.decoder_band_CD = nn.Parameter(torch.empty(num_bands, DECODER_WIDTH).normal_(std=0.02))
        decoder_position_PD = _positions(num_side, DECODER_WIDTH)
        self.register_buffer("decoder_position_PD", decoder_position_PD, persistent=False)
        self.decoder_blocks = nn.ModuleList(
            Block(DECODER_WIDTH, DECODER_HEADS) for _ in range(DECODER_DEPTH)
        )
        self.decoder_norm = nn.LayerNorm(DECODER_WIDTH)
        self.to_patch = Dense(DECODER_WIDTH, PATCH_PX**2)
        self.project = nn.Sequential(
            Dense(width, PROJECTION[0]),
            nn.LayerNorm(PROJECTION[0]),
            nn.GELU(),
            Dense(*PROJECTION),
        )

    def forward(self, image_BCYX: Tensor) -> Tensor:
        """The embeddings, [B, width]."""
        patches_BNV = _patches(image_BCYX)
        tokens_BND = self.embed_patch(_centered(patches_BNV)) + self._places()
        return self._encode(tokens_BND).mean(1)

    def loss(self, image_BCYX: Tensor) -> Tensor:
        """Error of the missing patches plus the contrast of two views, a scalar.

        Draws from PyTorch's random numbers. Patches are compared after each is brought to mean 0
        and variance 1.
        """
        one_BNV, other_BNV = (_patches(draw_view(image_BCYX)) for _ in range(2))
        seen_BKD, index_BK = self._see(one_BNV)
        again_BKD, _ = self._see(other_BNV)
        one_BD, other_BD = (self.project(tokens.mean(1)) for tokens in (seen_BKD, again_BKD))
        told_apart = contrast(one_BD, other_BD, temperature=TEMPERATURE)
        return self._miss(one_BNV, seen_BKD, index_BK) + CONTRAST_WEIGHT * told_apart

    def _see(self, patches_BNV: Tensor) -> tuple[Tensor, Tensor]:
        """Encoded tokens [B, K, D] of some bands and some patches, the same patches in each band.

        Also returns which of the patches they are, [B, K].
        """
        num_images, num_patches = len(patches_BNV), len(self.position_PD)
        band_C = draw_bands(len(self.band_CD)).to(patches_BNV.device)
        order_BP = torch.rand(num_images, num_patches, device=patches_BNV.device).argsort(1)
        kept_BP = order_BP[:, : math.ceil(num_patches * KEPT_SHARE)]
        index_BK = (band_C[None, :, None] * num_patches + kept_BP[:, None]).flatten(1)
        shown_BKV = patches_BNV.gather(1, _as_wide(index_BK, patches_BNV))
        tokens_BKD = self.embed_patch(_centered(shown_BKV)) + self._places()[index_BK]
        return self._encode(tokens_BKD), index_BK

    def _miss(self, patches_BNV: Tensor, seen_BKD: Tensor, index_BK: Tensor) -> Tensor:
        """Mean squared error of the patches that were not seen, a scalar."""
        given_BKD = self.to_decoder(seen_BKD)
        blank_BND = self.missing_D.to(given_BKD.dtype).expand(*patches_BNV.shape[:2], -1)
        x_BND = blank_BND.scatter(1, _as_wide(index_BK, blank_BND), given_BKD)
        x_BND = x_BND + _places(self.decoder_band_CD, self.decoder_position_PD)
        for block in self.decoder_blocks:
            x_BND = block(x_BND)
        drawn_BNV = self.to_patch(self.decoder_norm(x_BND)).float()
        error_BN = (drawn_BNV - _leveled(patches_BNV)).square().mean(2)
        is_missing_BN = torch.ones_like(error_BN).scatter(1, index_BK, 0.0)
        return (error_BN * is_missing_BN).sum() / is_missing_BN.sum()

    def _places(self) -> Tensor:
        """What a token knows of its band and place, [N, D]."""
        return _places(self.band_CD, self.position_PD)

    def _encode(self, tokens_BND: Tensor) -> Tensor:
        for block in self.blocks:
            tokens_BND = block(tokens_BND)
        encoded_BND: Tensor = self.norm(tokens_BND)
        return encoded_BND


class VitTiny(Vit):
    """`Vit` of 1.2 million parameters that encode, 1.4 with those that only train."""

    def __init__(self, *, num_bands: int, size_px: int) -> None:
        super().__init__(num_bands=num_bands, size_px=size_px, width=128, depth=6, num_heads=4)


class VitSmall(Vit):
    """`Vit` of 10.7 million parameters."""

    def __init__(self, *, num_bands: int, size_px: int) -> None:
        super().__init__(num_bands=num_bands, size_px=size_px, width=384, depth=6, num_heads=6)


def _patches(image_BCYX: Tensor) -> Tensor:
    """Square patches, band after band and row after row, [B, N, V]."""
    num_images, num_bands, size_px, _ = image_BCYX.shape
    side = size_px // PATCH_PX
    cut = image_BCYX.reshape(num_images, num_bands, side, PATCH_PX, side, PATCH_PX)
    return cut.transpose(3, 4).reshape(num_images, num_bands * side**2, PATCH_PX**2)


def _centered(patches_BNV: Tensor) -> Tensor:
    """Pixels from 0..1 to -1..3: in stretched images the sky is near 0.25, and comes to about 0."""
    return 4 * patches_BNV - 1


def _places(band_CD: Tensor, position_PD: Tensor) -> Tensor:
    return (band_CD[:, None] + position_PD).flatten(0, 1)


def _as_wide(index_BK: Tensor, values_BND: Tensor) -> Tensor:
    """The index for `gather` and `scatter` along the tokens."""
    return index_BK[..., None].expand(-1, -1, values_BND.shape[2])


def _leveled(patches_BNV: Tensor) -> Tensor:
    """Patches of mean 0 and variance 1; those of empty sky stay small."""
    centered_BNV = patches_BNV - patches_BNV.mean(2, keepdim=True)
    return centered_BNV / (centered_BNV.square().mean(2, keepdim=True) + 1e-3).sqrt()


def _positions(num_side: int, width: int) -> Tensor:
    """Sines and cosines of row and column, [P, D] (Vaswani et al. 2017, in two dimensions)."""
    rate = 100.0 ** -(torch.arange(width // 4) / (width // 4))
    angle = torch.arange(num_side)[:, None] * rate
    wave = torch.cat([angle.sin(), angle.cos()], 1)
    rows = wave[:, None].expand(num_side, num_side, -1)
    columns = wave[None].expand(num_side, num_side, -1)
    return torch.cat([rows, columns], 2).flatten(0, 1)
