"""How a light curve is thinned for a picture so that no flare of it is lost."""

import numpy as np

__all__ = ["NUM_BINS", "sketch_curve"]

NUM_BINS = 400
"""Bins in time, of which each keeps its faintest and its brightest cadence."""


def sketch_curve(time_d: np.ndarray, flux: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least and largest flux of each bin over the median of all, minus 1; both [NUM_BINS] float32.

    time_d  [T]  float64, d, ascending; the bins reach evenly from the first to the last
    flux    [T]  any unit, with a median above 0; NaN where missing

    A bin without a flux is NaN.
    """
    length_d = float(time_d[-1] - time_d[0])
    relative_T = flux / np.nanmedian(flux) - 1
    known_T = np.isfinite(relative_T)
    bin_T = ((time_d - time_d[0]) / (length_d or 1.0) * NUM_BINS).astype(np.int64)
    bin_T = np.minimum(bin_T, NUM_BINS - 1)[known_T]
    low_B, high_B = np.full(NUM_BINS, np.inf), np.full(NUM_BINS, -np.inf)
    np.minimum.at(low_B, bin_T, relative_T[known_T])
    np.maximum.at(high_B, bin_T, relative_T[known_T])
    is_empty_B = low_B > high_B
    return (
        np.where(is_empty_B, np.nan, low_B).astype(np.float32),
        np.where(is_empty_B, np.nan, high_B).astype(np.float32),
    )
