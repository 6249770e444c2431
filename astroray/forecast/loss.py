"""What a forecaster is trained on: smoothed cross-entropy, and the prior that a flare rises."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["RisingRate", "forecast_loss"]

SMOOTHING = 0.1
WEIGHT = 0.1
LAST_CADENCES = 24
"""The two last patches of 16 that overlap by 8."""
QUANTILE = 0.05


class RisingRate:
    """The prior of StarF (Su et al., arXiv 2507.10986): flux rises at a least rate before flares.

    r of a window is its largest positive first difference, in robust deviations, in the last two
    patches; r_min is the 5th percentile of r over training windows with a flare.
    """

    def __init__(self, rate_min: float) -> None:
        self.rate_min = rate_min

    @classmethod
    def measure(cls, flux_BTC: Tensor, label_B: Tensor) -> "RisingRate":
        """r_min of training windows; 0, so that the prior says nothing, where none has a flare."""
        rate_B = rising_rate(flux_BTC)[label_B > 0]
        return cls(float(torch.quantile(rate_B, QUANTILE)) if len(rate_B) else 0.0)

    def penalty(self, probability_B: Tensor, flux_BTC: Tensor) -> Tensor:
        """mean of p relu(r_min - r) / r_min: dear where a flare is forecast from a flat curve."""
        if not self.rate_min > 0:
            return probability_B.new_zeros(())
        lack_B = F.relu(self.rate_min - rising_rate(flux_BTC)) / self.rate_min
        return (probability_B * lack_B).mean()


def forecast_loss(
    logit_B: Tensor, label_B: Tensor, flux_BTC: Tensor, prior: RisingRate | None
) -> Tensor:
    """Cross-entropy with labels smoothed by 0.1, plus 0.1 times the prior's penalty."""
    target_B = label_B * (1 - SMOOTHING) + SMOOTHING / 2
    loss = F.binary_cross_entropy_with_logits(logit_B, target_B)
    if prior is None or not flux_BTC.shape[1]:
        return loss
    return loss + WEIGHT * prior.penalty(torch.sigmoid(logit_B), flux_BTC)


def rising_rate(flux_BTC: Tensor) -> Tensor:
    """[B] largest positive first difference of the last cadences, in robust deviations."""
    difference_BT = flux_BTC[:, -LAST_CADENCES:, 1]
    return torch.sinh(difference_BT.amax(dim=1)).clamp(min=0)  # the channel is its asinh
