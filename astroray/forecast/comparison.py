"""Forecasters judged side by side on the same test windows: skills, and differences with intervals.

W counts test windows, V windows of a part, R resamples of stars.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from astroray.evaluation.metrics import Estimate
from astroray.forecast.calibration import Calibration
from astroray.forecast.forward_skill import forward_auc, forward_terms
from astroray.forecast.skill import (
    Skill,
    Threshold,
    measure_skill,
    rank_skill,
    resample_stars,
    within_star_medians,
)

__all__ = ["Comparison", "Judged", "calibrate", "compare"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
    """Calibrated forecasts of test windows, of one fold or of several together."""

    probability_W: np.ndarray
    of_tss_W: np.ndarray
    """Thresholds, chosen on validation windows; see skill.Threshold."""
    of_f1_W: np.ndarray

    @classmethod
    def join(cls, parts: Sequence["Judged"]) -> "Judged":
        """Those of several folds, one after the other."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in names})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """What came of one track and split."""

    track: str
    split: str
    skills: Mapping[str, Skill]
    metrics: Mapping[tuple[str, str], Estimate]
    """(forecaster, auc, auprc, within_star_auc or forward_auc); without the third where no star has
    one, without the last where the rates of the stars are not known."""
    differences: Mapping[tuple[str, str, str], Estimate]
    """(forecaster, peer, auc or auprc): forecaster minus peer, in the same resamples."""
    num_windows: int
    num_flared: int
    """Windows with a flare."""
    num_stars: int


def calibrate(score_V: np.ndarray, label_V: np.ndarray, score_W: np.ndarray) -> Judged:
    """Scores of test windows as probabilities, with thresholds.

    score_V, label_V  validation windows, on which both are chosen
    score_W           test windows, on the same scale
    """
    curve = Calibration.fit(score_V, label_V)
    threshold = Threshold.choose(curve.probability(score_V), label_V)
    return Judged(
        probability_W=curve.probability(score_W),
        of_tss_W=np.full(len(score_W), threshold.of_tss),
        of_f1_W=np.full(len(score_W), threshold.of_f1),
    )


def compare(
    forecasts: Mapping[str, Judged],
    label_W: np.ndarray,
    star_W: np.ndarray,
    *,
    track: str,
    split: str,
    candidates: Sequence[str],
    chance_W: np.ndarray | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Skills of all forecasters, and of each candidate what it has more than each other one.

    star_W    [W]  int, any numbers; whole stars are resampled, since windows of one star are alike
    chance_W  [W]  share of the star's windows that flare in the long run, where that is known:
                   then windows of a star stand in order of time, and there is a forward_auc
    """
    _, column_W = np.unique(star_W, return_inverse=True)
    num_stars = int(column_W.max()) + 1
    weight_RS = resample_stars(num_stars, num_resamples, seed)
    skills, resampled = {}, {}
    for name, judged in forecasts.items():
        threshold = Threshold(of_tss=judged.of_tss_W, of_f1=judged.of_f1_W)
        skills[name] = measure_skill(judged.probability_W, label_W, star_W, threshold)
        auc_R, auprc_R = rank_skill(judged.probability_W, label_W, column_W, weight_RS)
        resampled[name] = {"auc": auc_R, "auprc": auprc_R}
    metrics, differences = {}, {}
    for name, judged in forecasts.items():
        within_R = within_star_medians(judged.probability_W, label_W, column_W, weight_RS)
        if np.isfinite(within_R).any():
            value = skills[name].within_star_auc
            metrics[name, "within_star_auc"] = Estimate.of(value, within_R)
        if chance_W is not None:
            terms = forward_terms(judged.probability_W, label_W, column_W, chance_W)
            whole = forward_auc(*terms, np.ones((1, num_stars)))[0]
            metrics[name, "forward_auc"] = Estimate.of(whole, forward_auc(*terms, weight_RS))
    for name, value_R in resampled.items():
        for metric in ("auc", "auprc"):
            value = getattr(skills[name], metric)
            metrics[name, metric] = Estimate.of(value, value_R[metric])
            for peer in forecasts if name in candidates else ():
                if peer != name:
                    value = getattr(skills[name], metric) - getattr(skills[peer], metric)
                    gain_R = value_R[metric] - resampled[peer][metric]
                    differences[name, peer, metric] = Estimate.of(value, gain_R)
    return Comparison(
        track=track,
        split=split,
        skills=skills,
        metrics=metrics,
        differences=differences,
        num_windows=len(label_W),
        num_flared=int(label_W.sum()),
        num_stars=num_stars,
    )
