"""The classical encoder of light curves: how much, how fast and how lopsidedly they vary.

Shape letters: B light curves, W windows, T bins of all windows, J octaves, F features.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from astroray.encoders.pca import Components
from astroray.preparation.light_curves import WINDOW

__all__ = ["Waves", "means_over", "of_steps"]

LEVELS = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
"""Quantiles of the flux, and their distances from the median."""
NUM_STEP_FEATURES = 4
NUM_SHAPE_FEATURES = 3
FAR = 3.0
"""Deviations beyond which a bin counts as far from the median."""


class Waves(Components):
    """Principal components of numbers that know neither where a curve begins nor what is missing.

    Levels: the quantiles of the flux, its scatter and its skewness. Steps: over each octave of
    time the difference between the mean of so many bins and the mean of as many before them (Haar
    wavelets at every place), as its root mean square, largest rise, largest fall and lopsidedness.
    Memory: the autocorrelation at each octave. Rhythm: the share of the variance in each octave of
    frequency, all of it and in the strongest single one (periodogram of the observed bins).
    Only observed bins count. Features have different units, so each counts by its spread over
    the sample; nothing but that and the components is learned.

    input_B2WX    [B, 2, num_windows, 512]  flux, 0 where missing; 1 where observed
    embedding_BD  [B, latent]
    """

    has_units = True

    def __init__(self, *, num_windows: int, latent: int = 24) -> None:
        num_octaves = int(math.log2(num_windows * WINDOW)) - 1
        num_levels = len(LEVELS) + 2 + NUM_SHAPE_FEATURES
        num_features = num_levels + num_octaves * (NUM_STEP_FEATURES + 1 + 2)
        super().__init__(num_features=num_features, latent=latent)
        self.num_octaves = num_octaves

    def measure(self, input_BCYX: Tensor) -> Tensor:
        """The features, [B, F]."""
        flux_BT, seen_BT = (plane.flatten(1) for plane in input_BCYX.float().unbind(1))
        count_B = seen_BT.sum(1).clamp(min=1)
        mean_B = (flux_BT * seen_BT).sum(1) / count_B
        above_BT = (flux_BT - mean_B[:, None]) * seen_BT
        deviation_B = (above_BT.square().sum(1) / count_B).sqrt().clamp(min=1e-6)
        unit_BT = above_BT / deviation_B[:, None]
        return torch.cat(
            [
                self._levels(flux_BT, seen_BT, count_B),
                deviation_B[:, None],
                _shape(unit_BT, seen_BT, count_B),
                self._steps(above_BT, seen_BT),
                self._memory(unit_BT, seen_BT),
                self._rhythm(unit_BT, count_B),
            ],
            1,
        )

    def _levels(self, flux_BT: Tensor, seen_BT: Tensor, count_B: Tensor) -> Tensor:
        """Quantiles of the observed flux, and the median distance from its median, [B, 10]."""
        median_B1 = _quantiles(flux_BT, seen_BT, count_B, (0.5,))
        distance_BT = (flux_BT - median_B1).abs()
        spread_B1 = _quantiles(distance_BT, seen_BT, count_B, (0.5,))
        return torch.cat([_quantiles(flux_BT, seen_BT, count_B, LEVELS), spread_B1], 1)

    def _steps(self, above_BT: Tensor, seen_BT: Tensor) -> Tensor:
        """What the steps over each octave are like, [B, J * 4]."""
        sums_2BT = torch.stack([above_BT.double().cumsum(1), seen_BT.double().cumsum(1)])
        features = []
        for octave in range(self.num_octaves):
            length = 2**octave
            mean_BT, number_BT = means_over(sums_2BT, length)
            step_BT = mean_BT[:, length:] - mean_BT[:, :-length]
            is_known_BT = (number_BT[:, length:] > 0) & (number_BT[:, :-length] > 0)
            features.append(of_steps(step_BT, is_known_BT))
        return torch.cat(features, 1)

    def _memory(self, unit_BT: Tensor, seen_BT: Tensor) -> Tensor:
        """Autocorrelation at the lag of each octave, 0 where no pair was observed, [B, J]."""
        found = []
        for octave in range(self.num_octaves):
            lag = 2**octave
            product_B = (unit_BT[:, lag:] * unit_BT[:, :-lag]).sum(1)
            pairs_B = (seen_BT[:, lag:] * seen_BT[:, :-lag]).sum(1)
            found.append(product_B / pairs_B.clamp(min=1))
        return torch.stack(found, 1)

    def _rhythm(self, unit_BT: Tensor, count_B: Tensor) -> Tensor:
        """Roots of the variance in each octave of frequency, all and the strongest, [B, J * 2]."""
        power_BK = torch.fft.rfft(unit_BT).abs().square()
        power_BK = power_BK / (count_B * unit_BT.shape[1] / 2)[:, None]
        octaves = [power_BK[:, 2**j : 2 ** (j + 1)] for j in range(self.num_octaves)]
        shares = [part.sum(1) for part in octaves] + [part.amax(1) for part in octaves]
        return torch.stack(shares, 1).sqrt()


def _quantiles(
    value_BT: Tensor, seen_BT: Tensor, count_B: Tensor, levels: tuple[float, ...]
) -> Tensor:
    """Quantiles of the observed values, the observed one at or below, [B, Q]."""
    ordered_BT = value_BT.masked_fill(seen_BT == 0, torch.inf).sort(1).values
    place_BQ = (count_B[:, None] - 1) * torch.tensor(levels, device=value_BT.device)
    found_BQ = ordered_BT.gather(1, place_BQ.long())
    return torch.where(found_BQ.isinf(), torch.zeros_like(found_BQ), found_BQ)


def _shape(unit_BT: Tensor, seen_BT: Tensor, count_B: Tensor) -> Tensor:
    """Root of skewness, and the roots of the shares far above and far below, [B, 3]."""
    far = [((unit_BT * sign > FAR) * seen_BT).sum(1) for sign in (1, -1)]
    shares = [(number_B / count_B).sqrt() for number_B in far]
    return torch.stack([_cube_root(unit_BT.pow(3).sum(1) / count_B), *shares], 1)


def means_over(sums_2BT: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Means of the observed among `length` bins up to each place, and how many those are.

    sums_2BT  cumulative sums of the values, 0 where missing, and of where they were observed;
              float64, so that their differences are those of the values
    """
    padded_2BT = F.pad(F.pad(sums_2BT, (length, 0)), (0, length - 1), mode="replicate")
    total_BT, number_BT = padded_2BT[:, :, length:] - padded_2BT[:, :, :-length]
    return (total_BT / number_BT.clamp(min=1)).float(), number_BT


def of_steps(step_BT: Tensor, is_known_BT: Tensor) -> Tensor:
    """Root mean square, largest rise, largest fall, cube root of the mean cube, [B, 4]."""
    step_BT = torch.where(is_known_BT, step_BT, torch.zeros_like(step_BT))
    number_B = is_known_BT.sum(1).clamp(min=1)
    rms_B = (step_BT.square().sum(1) / number_B).sqrt()
    rise_B, fall_B = step_BT.amax(1), -step_BT.amin(1)
    return torch.stack([rms_B, rise_B, fall_B, _cube_root(step_BT.pow(3).sum(1) / number_B)], 1)


def _cube_root(value_B: Tensor) -> Tensor:
    return value_B.sign() * value_B.abs().pow(1 / 3)
