"""The classical encoder of spectra: their shape, and what stands out of it at every width.

Shape letters: B spectra, W windows, T bins of all windows, P parts of the spectrum, J octaves.
"""

import torch
from torch import Tensor

from astroray.encoders.pca import Components
from astroray.encoders.waves import means_over, of_steps
from astroray.preparation.light_curves import WINDOW

__all__ = ["Lines"]

PARTS = 4
"""Of a window, whose mean flux is the shape of the spectrum."""
OCTAVES = (2, 3, 4, 5, 6)
"""A line is as wide as 4 to 64 bins."""
PER_OCTAVE = 4


class Lines(Components):
    """Principal components of the shape of a spectrum and of its lines, narrow and broad.

    Shape: the mean flux of each fourth of a window. Lines: over each octave of width the mean of so
    many bins less that of as many on either side (second differences at every place), and in each
    window its root mean square, strongest emission, strongest absorption and lopsidedness. So a
    line is found where it falls, but need not fall on the bin of another. Only observed bins count.
    Features have different units, so each counts by its spread over the sample.

    input_B2WX    [B, 2, num_windows, 512]  flux, 0 where missing; 1 where observed
    embedding_BD  [B, latent]
    """

    has_units = True

    def __init__(self, *, num_windows: int, latent: int = 16) -> None:
        num_features = num_windows * (PARTS + len(OCTAVES) * PER_OCTAVE)
        super().__init__(num_features=num_features, latent=latent)

    def measure(self, input_BCYX: Tensor) -> Tensor:
        """The features, [B, F]."""
        flux_BT, seen_BT = (plane.flatten(1) for plane in input_BCYX.float().unbind(1))
        sums_2BT = torch.stack([(flux_BT * seen_BT).double().cumsum(1), seen_BT.double().cumsum(1)])
        length = WINDOW // PARTS
        means_BT, _ = means_over(sums_2BT, length)
        shape_BP = means_BT[:, length - 1 : flux_BT.shape[1] : length]
        lines = [_lines(sums_2BT, 2**octave, input_BCYX.shape[2]) for octave in OCTAVES]
        return torch.cat([shape_BP, *lines], 1)


def _lines(sums_2BT: Tensor, length: int, num_windows: int) -> Tensor:
    """What stands out over so many bins in each window, [B, W * 4]."""
    mean_BT, number_BT = means_over(sums_2BT, length)
    place_B = slice(length, mean_BT.shape[1] - length)
    before, after = mean_BT[:, : -2 * length], mean_BT[:, 2 * length :]
    above_BT = mean_BT[:, place_B] - (before + after) / 2
    is_known_BT = (number_BT[:, place_B] > 0) & (number_BT[:, : -2 * length] > 0)
    is_known_BT &= number_BT[:, 2 * length :] > 0
    parts = zip(above_BT.chunk(num_windows, 1), is_known_BT.chunk(num_windows, 1), strict=True)
    return torch.cat([of_steps(above, is_known) for above, is_known in parts], 1)
