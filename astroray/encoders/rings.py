"""The classical encoder: light in rings, how it varies around them, and what is finer than a blur.

Shape letters: B images, C bands, Y X rows and columns, R rings, A angles, M orders.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from astroray.encoders.pca import Pca

NUM_RINGS = 12
NUM_ANGLES = 64
NUM_ORDERS = 5
"""Mean of a ring, and one to four waves around it."""
BLUR_PX = 1.0
BRIGHTEST_SHARE = 1 / 64
"""Share of the pixels that count as the finest detail."""
NUM_GRAINS = 5


class Rings(Pca):
    """Principal components of numbers that do not change when an image is turned or mirrored.

    Of each band: the amplitude of 0 to 4 waves around 12 rings (the modes that light profiles,
    ellipses, bars, arms and lopsidedness show in: Rix & Zaritsky 1995, ApJ 447, 82), and how
    strong, rough and peaked the image is beyond a blur of one pixel. Square roots of all, so
    that faint structure counts beside the bright center. Nothing but the components is learned.

    image_BCYX    [B, num_bands, size_px, size_px]  pixels in 0..1, no NaN
    embedding_BD  [B, latent]
    """

    def __init__(self, *, num_bands: int, size_px: int, latent: int | None = 30) -> None:
        latent = latent or self.count_features(num_bands, size_px)
        super().__init__(num_bands=num_bands, size_px=size_px, latent=latent)
        self.register_buffer("place_RA2", _places(size_px), persistent=False)
        self.register_buffer("blur_K", _gaussian(BLUR_PX), persistent=False)

    def count_features(self, num_bands: int, size_px: int) -> int:
        """Numbers that `measure` gives of an image."""
        return num_bands * (NUM_RINGS * NUM_ORDERS + NUM_GRAINS)

    def measure(self, image_BCYX: Tensor) -> Tensor:
        """Square roots of wave amplitudes, then of grain, [B, F]."""
        waves_BF = self._waves(image_BCYX).flatten(1)
        grains_BF = self._grains(image_BCYX).flatten(1)
        return torch.cat([waves_BF, grains_BF], 1).sqrt()

    def _waves(self, image_BCYX: Tensor) -> Tensor:
        """Amplitudes of the first orders around each ring, [B, C, R, M]."""
        place_RA2 = self.get_buffer("place_RA2")
        place_BRA2 = place_RA2.expand(image_BCYX.shape[0], *place_RA2.shape)
        light_BCRA = F.grid_sample(
            image_BCYX.contiguous(), place_BRA2, padding_mode="border", align_corners=False
        )
        return torch.fft.rfft(light_BCRA).abs()[..., :NUM_ORDERS] / NUM_ANGLES

    def _grains(self, image_BCYX: Tensor) -> Tensor:
        """Mean, root mean square, highest, lowest and strongest of what a blur takes away."""
        fine_BCP = (image_BCYX - self._blurred(image_BCYX)).flatten(2)
        strength_BCP = fine_BCP.abs()
        num_strongest = math.ceil(fine_BCP.shape[2] * BRIGHTEST_SHARE)
        grains = [
            strength_BCP.mean(2),
            fine_BCP.square().mean(2).sqrt(),
            fine_BCP.amax(2).clamp(min=0),
            (-fine_BCP.amin(2)).clamp(min=0),
            strength_BCP.topk(num_strongest, dim=2).values.mean(2),
        ]
        return torch.stack(grains, 2)

    def _blurred(self, image_BCYX: Tensor) -> Tensor:
        blur_K, num_bands = self.get_buffer("blur_K"), image_BCYX.shape[1]
        margin = len(blur_K) // 2
        x_BCYX = F.pad(image_BCYX, [margin] * 4, mode="reflect")
        for shape in ((1, 1, 1, -1), (1, 1, -1, 1)):
            kernel = blur_K.view(shape).expand(num_bands, -1, -1, -1)
            x_BCYX = F.conv2d(x_BCYX, kernel, groups=num_bands)
        return x_BCYX


class FineRings(Rings):
    """All components of the same numbers, each divided by the root of its spread.

    What is fine and faint varies little from image to image; here it counts for more beside how
    bright and how large an object is.

    embedding_BD  [B, latent]; None: as many as there are numbers
    """

    evenness = 0.5

    def __init__(self, *, num_bands: int, size_px: int, latent: int | None = None) -> None:
        super().__init__(num_bands=num_bands, size_px=size_px, latent=latent)


def _places(size_px: int) -> Tensor:
    """Where the rings are sampled, x and y in units of half an image, [R, A, 2]."""
    half_px = size_px / 2
    radius_R = torch.linspace(0.75, half_px - 1, NUM_RINGS) / half_px
    angle_A = torch.arange(NUM_ANGLES) * (2 * math.pi / NUM_ANGLES)
    circle_A2 = torch.stack([angle_A.cos(), angle_A.sin()], 1)
    return radius_R[:, None, None] * circle_A2


def _gaussian(sigma_px: float) -> Tensor:
    reach = math.ceil(3 * sigma_px)
    weight_K = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma_px) ** 2)
    return weight_K / weight_K.sum()
