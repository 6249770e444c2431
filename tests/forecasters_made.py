"""Forecasters as training would leave them, and windows to train them on."""

import torch

from astroray.forecast.simulated_stars import simulate_windows
from astroray.forecast.splits import split_by_star


def split_windows(stars):
    """Windows of a few simulated stars, for training and for validation, split by star."""
    windows = simulate_windows(stars)
    split = next(split_by_star(windows, num_folds=3, seed=0))
    return windows.take(split.train_V), windows.take(split.validation_V)


def disturbed(model):
    """The model with every tuned weight moved, as training would."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    return model
