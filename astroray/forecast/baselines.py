"""What a forecast has to beat: a star's own rate, its last flare, regression and boosting.

None of them sees a light curve. W counts windows, X columns.
"""

import warnings
from collections.abc import Callable, Mapping

import numpy as np

from astroray.errors import BackendError
from astroray.flares.history import STATISTICS
from astroray.flares.windows import Windows
from astroray.forecast.splits import Split

__all__ = ["BASELINES", "tabulate"]

RECORD = (
    "log flares so far",
    "log days observed so far",
    "log rate so far",
    "log days since the last",
    "flares in the last 10.46 d",
)
"""What a record says at a glance; the boosting of `boosting (record)` knows these and the star."""
NUM_TREES = 200
MAX_QUIET = 300_000
"""Windows without a flare that are drawn for a fit, with the weight of all."""


def tabulate(windows: Windows, names: tuple[str, ...] | None = None) -> np.ndarray:
    """[W, X] statistics (all, or the named) and properties; without names history as well."""
    chosen = STATISTICS if names is None else names
    statistics_WX = windows.statistics_WN[:, [STATISTICS.index(name) for name in chosen]]
    parts = [statistics_WX, windows.property_WP]
    if names is None:
        parts.append(windows.history_WMC.reshape(len(windows), -1))
    return np.concatenate(parts, axis=1)


def draw_windows(windows: Windows, part_V: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of all windows with a flare and of at most MAX_QUIET without, and their weights."""
    label_V = windows.label_W[part_V]
    quiet_V = part_V[~label_V]
    random = np.random.default_rng(seed)
    drawn_V = random.choice(quiet_V, min(MAX_QUIET, len(quiet_V)), replace=False)
    index_V = np.concatenate([part_V[label_V], np.sort(drawn_V)])
    weight_V = np.ones(len(index_V))
    weight_V[int(label_V.sum()) :] = len(quiet_V) / max(1, len(drawn_V))
    return index_V, weight_V / weight_V.mean()


def _rate(windows: Windows, split: Split, seed: int) -> np.ndarray:
    return windows.statistics_WN[:, STATISTICS.index("log rate so far")]


def _since(windows: Windows, split: Split, seed: int) -> np.ndarray:
    return -windows.statistics_WN[:, STATISTICS.index("log days since the last")]


def _logistic(windows: Windows, split: Split, seed: int) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression

    index_V, weight_V = draw_windows(windows, split.train_V, seed)
    table_WX = tabulate(windows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a column may be unknown for all stars
        mean_X = np.nanmean(table_WX[index_V], axis=0)
        spread_X = np.nanstd(table_WX[index_V], axis=0) + 1e-6
    scaled_WX = np.clip(np.nan_to_num((table_WX - mean_X) / spread_X), -5, 5)
    model = LogisticRegression(C=0.01, max_iter=300)
    model.fit(scaled_WX[index_V], windows.label_W[index_V], sample_weight=weight_V)
    return model.decision_function(scaled_WX)


def _boosting(names: tuple[str, ...] | None) -> Callable[[Windows, Split, int], np.ndarray]:
    def fit(windows: Windows, split: Split, seed: int) -> np.ndarray:
        from sklearn.ensemble import HistGradientBoostingClassifier

        index_V, _ = draw_windows(windows, split.train_V, seed)
        table_WX = tabulate(windows, names)
        table_WX = table_WX[:, np.isfinite(table_WX[index_V]).any(axis=0)]
        # Without weights, which the binning of scikit-learn 1.9 is slow with; calibration brings
        # the probabilities back to the natural rate.
        model = HistGradientBoostingClassifier(
            max_iter=NUM_TREES,
            learning_rate=0.05,
            max_leaf_nodes=15,
            l2_regularization=1.0,
            early_stopping=False,
            random_state=seed,
        )
        model.fit(table_WX[index_V], windows.label_W[index_V])
        return model.decision_function(table_WX)

    return fit


BASELINES: Mapping[str, Callable[[Windows, Split, int], np.ndarray]] = {
    "rate of the star": _rate,
    "time since the last flare": _since,
    "logistic regression": _logistic,
    "boosting (record)": _boosting(RECORD),
    "boosting (all numbers)": _boosting(None),
}
"""Name to what fits on the training part and scores all windows, larger for a likelier flare."""


def check_sklearn() -> None:
    """Raises BackendError where scikit-learn is missing."""
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise BackendError(
            "scikit-learn is not installed, expected for the baselines of the forecast; "
            "pip install 'astroray[evaluate]'"
        ) from None
