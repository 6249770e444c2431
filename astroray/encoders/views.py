"""What an encoder shall not notice: turned, shifted and noisier views, and how they are told apart.

Shape letters: B images, C bands, Y X rows and columns, D dimensions.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["contrast", "draw_bands", "draw_view"]

UPRIGHT_SHARE = 0.8
"""Share of views turned by quarters and shifted by whole pixels: no pixel is smoothed."""
MAX_SHIFT_PX = 3
MAX_ZOOM = 0.1
MAX_NOISE = 0.02
SKY_SPREAD = 0.015
"""In units of the stretched pixels, 0..1."""
ALL_BANDS_SHARE = 0.5


def draw_view(image_BCYX: Tensor) -> Tensor:
    """Each image turned, mirrored, shifted, zoomed by up to 10 %, with noise and another sky.

    Draws from PyTorch's random numbers. Pixels from beyond the edge are mirrored.
    """
    moved_BCYX = F.grid_sample(
        image_BCYX,
        F.affine_grid(_draw_moves(image_BCYX), list(image_BCYX.shape), align_corners=False),
        padding_mode="reflection",
        align_corners=False,
    )
    num_images, num_bands = image_BCYX.shape[:2]
    noise_B = torch.rand(num_images, 1, 1, 1, device=image_BCYX.device) * MAX_NOISE
    sky_BC = torch.randn(num_images, num_bands, 1, 1, device=image_BCYX.device) * SKY_SPREAD
    return moved_BCYX + torch.randn_like(moved_BCYX) * noise_B + sky_BC


def draw_bands(num_bands: int) -> Tensor:
    """All bands, or fewer at random, at least one; ascending (Bao et al. 2024)."""
    if num_bands == 1 or torch.rand(()) < ALL_BANDS_SHARE:
        return torch.arange(num_bands)
    num_kept = int(torch.randint(1, num_bands, ()))
    return torch.randperm(num_bands)[:num_kept].sort().values


def contrast(one_BD: Tensor, other_BD: Tensor, *, temperature: float) -> Tensor:
    """How badly a view's partner is told from all other views of the step, a scalar.

    NT-Xent of SimCLR (Chen et al. 2020, arXiv 2002.05709): row b of both is the same image.
    """
    views_2BD = F.normalize(torch.cat([one_BD, other_BD]).float(), dim=1)
    alike = views_2BD @ views_2BD.T / temperature
    itself = torch.eye(len(alike), dtype=torch.bool, device=alike.device)
    num_images = len(one_BD)
    partner = torch.arange(2 * num_images, device=alike.device).roll(num_images)
    return F.cross_entropy(alike.masked_fill(itself, -math.inf), partner)


def _draw_moves(image_BCYX: Tensor) -> Tensor:
    """Affine maps [B, 2, 3] for `affine_grid`, in units of half an image."""
    num_images, device = len(image_BCYX), image_BCYX.device
    is_upright_B = torch.rand(num_images, device=device) < UPRIGHT_SHARE
    angle_B = 2 * math.pi * torch.rand(num_images, device=device)
    angle_B = torch.where(is_upright_B, (angle_B * 2 / math.pi).floor() * math.pi / 2, angle_B)
    zoom_B = torch.exp((2 * torch.rand(num_images, device=device) - 1) * MAX_ZOOM)
    zoom_B = torch.where(is_upright_B, 1.0, zoom_B)
    mirror_B = torch.where(torch.rand(num_images, device=device) < 0.5, -1.0, 1.0)
    shift_B2 = (2 * torch.rand(num_images, 2, device=device) - 1) * MAX_SHIFT_PX
    shift_B2 = torch.where(is_upright_B[:, None], shift_B2.round(), shift_B2)
    cos_B, sin_B = zoom_B * angle_B.cos(), zoom_B * angle_B.sin()
    half_px = image_BCYX.shape[-1] / 2
    rows = [
        torch.stack([cos_B * mirror_B, -sin_B, shift_B2[:, 0] / half_px], 1),
        torch.stack([sin_B * mirror_B, cos_B, shift_B2[:, 1] / half_px], 1),
    ]
    return torch.stack(rows, 1)
