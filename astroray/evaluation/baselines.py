"""Embeddings of one to three numbers: what size and brightness, or amplitude, alone find."""

from collections.abc import Callable, Mapping

import numpy as np

__all__ = ["BASELINES", "measure_baseline"]

NOISE_CUT = 3.0
"""Light below so many deviations of the border counts as sky."""


def measure_baseline(name: str, image_NCYX: np.ndarray, sample_M: np.ndarray) -> np.ndarray:
    """One of BASELINES for every object, centered and scaled by the sample; float32 [N, D].

    image_NCYX  [N, C, Y, X]  prepared pictures in 0..1, or light curves
    sample_M    [M]           rows that encoders are fitted on
    """
    parts = np.array_split(image_NCYX, -(-len(image_NCYX) // 256))
    value_ND = np.concatenate([BASELINES[name](part.astype(np.float64)) for part in parts])
    center_D, spread_D = value_ND[sample_M].mean(axis=0), value_ND[sample_M].std(axis=0)
    scaled_ND = (value_ND - center_D) / np.where(spread_D > 0, spread_D, 1.0)
    return scaled_ND.astype(np.float32)


def _size(image_BCYX: np.ndarray) -> np.ndarray:
    """Root of the second moment of the light above the sky, in pixels, [B, 1]."""
    light_BYX = image_BCYX.mean(axis=1)
    edges = [light_BYX[:, 0], light_BYX[:, -1], light_BYX[:, :, 0], light_BYX[:, :, -1]]
    border_BM = np.concatenate(edges, axis=1)
    sky_B = np.median(border_BM, axis=1)[:, None, None]
    light_BYX = light_BYX - sky_B
    noise_B = 1.4826 * np.median(np.abs(border_BM - sky_B[:, 0]), axis=1)[:, None, None]
    light_BYX = np.where(light_BYX > NOISE_CUT * noise_B, light_BYX, 0.0)
    total_B = np.maximum(light_BYX.sum(axis=(1, 2)), 1e-12)
    y_Y, x_X = np.arange(light_BYX.shape[1]), np.arange(light_BYX.shape[2])
    by_row_BY, by_column_BX = light_BYX.sum(axis=2), light_BYX.sum(axis=1)
    variance_B = _variance(by_row_BY, y_Y, total_B) + _variance(by_column_BX, x_X, total_B)
    return np.sqrt(variance_B)[:, None]


def _variance(light_BX: np.ndarray, x_X: np.ndarray, total_B: np.ndarray) -> np.ndarray:
    mean_B = light_BX @ x_X / total_B
    return np.maximum(light_BX @ x_X**2 / total_B - mean_B**2, 0.0)


def _brightness(image_BCYX: np.ndarray) -> np.ndarray:
    """Mean level of each band, [B, C]; mean, deviation and peak where there is one, [B, 3]."""
    if image_BCYX.shape[1] > 1:
        return image_BCYX.mean(axis=(2, 3))
    pixel_BP = image_BCYX.reshape(len(image_BCYX), -1)
    return np.stack([pixel_BP.mean(axis=1), pixel_BP.std(axis=1), pixel_BP.max(axis=1)], axis=1)


def _amplitude(input_B2WX: np.ndarray) -> np.ndarray:
    """Highest flux above the median, and the median above the lowest, [B, 2]."""
    flux_BT = _observed(input_B2WX)
    median_B = np.nanmedian(flux_BT, axis=1)
    high_B, low_B = np.nanmax(flux_BT, axis=1), np.nanmin(flux_BT, axis=1)
    return np.stack([high_B - median_B, median_B - low_B], axis=1)


def _scatter(input_B2WX: np.ndarray) -> np.ndarray:
    """Standard deviation of the flux, [B, 1]."""
    return np.nanstd(_observed(input_B2WX), axis=1)[:, None]


def _observed(input_B2WX: np.ndarray) -> np.ndarray:
    flux_BT, seen_BT = input_B2WX.reshape(len(input_B2WX), 2, -1).transpose(1, 0, 2)
    return np.where(seen_BT > 0, flux_BT, np.nan)


BASELINES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "size": _size,
    "brightness": _brightness,
    "amplitude": _amplitude,
    "scatter": _scatter,
}
"""By name: prepared pictures or light curves, float64 [B, C, Y, X], to numbers [B, D]."""
