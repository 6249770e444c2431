"""How a forecaster's scores become probabilities."""

import dataclasses
import math

import numpy as np

__all__ = ["Calibration"]

MAX_STEPS = 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
    """Platt's logistic curve (1999, Advances in Large Margin Classifiers).

    It keeps the order of the scores, or turns it round where it is fitted on windows whose flares
    have the lower ones: a negative slope says that the forecaster is worse than chance there.
    """

    slope: float
    intercept: float

    @classmethod
    def fit(cls, score_V: np.ndarray, label_V: np.ndarray) -> "Calibration":
        """The curve of the largest likelihood on validation windows, by Newton's method.

        A step that does not raise the likelihood is halved: from far away a whole one can overshoot
        without end, where scores stand in two heaps.

        As Platt has it, a flare counts as (n + 1) / (n + 2) and none as 1 / (m + 2), so that few
        windows, or perfectly parted ones, give no certainty.
        """
        score_V = np.asarray(score_V, np.float64)
        center, spread = float(score_V.mean()), float(score_V.std()) or 1.0
        design_V2 = np.stack([(score_V - center) / spread, np.ones(len(score_V))], axis=1)
        num_flares = int(label_V.sum())
        num_quiet = len(label_V) - num_flares
        target_V = np.where(label_V, (num_flares + 1) / (num_flares + 2), 1 / (num_quiet + 2))
        beta = np.array([0.0, math.log((num_flares + 1) / (num_quiet + 1))])
        for _ in range(MAX_STEPS):
            p_V = _sigmoid(design_V2 @ beta)
            gradient = design_V2.T @ (p_V - target_V)
            hessian = (design_V2 * (p_V * (1 - p_V))[:, None]).T @ design_V2
            step = np.linalg.solve(hessian + 1e-9 * np.eye(2), gradient)
            loss = _loss(design_V2 @ beta, target_V)
            while _loss(design_V2 @ (beta - step), target_V) > loss and np.abs(step).max() > 1e-10:
                step = step / 2
            beta = beta - step
            if np.abs(step).max() < 1e-10:
                break
        slope = float(beta[0]) / spread
        return cls(slope=slope, intercept=float(beta[1]) - slope * center)

    def probability(self, score_W: np.ndarray) -> np.ndarray:
        """[W] probabilities of scores."""
        return _sigmoid(self.slope * np.asarray(score_W, np.float64) + self.intercept)


def _loss(logit_V: np.ndarray, target_V: np.ndarray) -> float:
    return float((np.logaddexp(0.0, logit_V) - target_V * logit_V).sum())


def _sigmoid(value: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0.0, -value))
