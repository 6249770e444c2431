"""Which windows are for training, for validation and for the test: by star, or by time."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from astroray.errors import DataError
from astroray.flares.windows import Windows

__all__ = ["Split", "split_by_star", "split_by_time", "split_in_order"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """Indices of windows; nothing of the test is seen before the model is done."""

    train_V: np.ndarray
    validation_V: np.ndarray
    """Early stop, thresholds and calibration are chosen on these."""
    test_V: np.ndarray

    def __post_init__(self) -> None:
        for name in ("train_V", "validation_V", "test_V"):
            if not len(getattr(self, name)):
                raise DataError(
                    f"the {name.removesuffix('_V')} part of a split is empty, expected windows in "
                    "each; give more stars, or longer light curves"
                )


def split_by_star(windows: Windows, *, num_folds: int, seed: int) -> Iterator[Split]:
    """Folds of whole stars: each star is tested once, by a model that never saw it.

    The fold after the tested one is for validation.
    """
    num_stars = len(windows.star_ids)
    if num_stars < max(3, num_folds):
        raise DataError(
            f"{num_stars} stars are too few for {num_folds} folds of stars, expected at least "
            f"{max(3, num_folds)}"
        )
    fold_S = np.random.default_rng(seed).permutation(np.arange(num_stars) % num_folds)
    fold_W = fold_S[windows.star_W]
    for fold in range(num_folds):
        validation = (fold + 1) % num_folds
        yield Split(
            train_V=np.flatnonzero((fold_W != fold) & (fold_W != validation)),
            validation_V=np.flatnonzero(fold_W == validation),
            test_V=np.flatnonzero(fold_W == fold),
        )


def split_in_order(windows: Windows, *, num_train: int, num_validation: int) -> Split:
    """The first stars for training, the next for validation, all others for the test.

    For stars whose order says nothing of them, such as simulated ones.
    """
    first_test = num_train + num_validation
    return Split(
        train_V=np.flatnonzero(windows.star_W < num_train),
        validation_V=np.flatnonzero((windows.star_W >= num_train) & (windows.star_W < first_test)),
        test_V=np.flatnonzero(windows.star_W >= first_test),
    )


def split_by_time(windows: Windows, *, validation_d: float, test_d: float, ahead_d: float) -> Split:
    """The past for training, what follows for validation, the newest for the test.

    A window whose horizon reaches over a border is in no part: its answer lies beyond. The past
    of a test star is known to the forecast, as it would be on that day.
    """
    until_W = windows.end_W + ahead_d
    return Split(
        train_V=np.flatnonzero(until_W <= validation_d),
        validation_V=np.flatnonzero((windows.end_W >= validation_d) & (until_W <= test_d)),
        test_V=np.flatnonzero(windows.end_W >= test_d),
    )
