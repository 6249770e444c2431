"""How good forecasts are: at the natural base rate, within stars, with intervals over stars.

W counts windows, S stars, R resamples of stars, K bins of the score.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from astroray.evaluation.metrics import resampled

__all__ = [
    "Skill", "Threshold", "average_precision", "brier_of_base_rate", "measure_skill", "rank_skill",
]  # fmt: skip

NUM_BINS = 2048
"""Bins of the score in resamples; they move AUC and AUPRC by less than 0.0005."""
MIN_FLARES = 10
"""Windows with a flare, and without, that a star needs for an AUC of its own."""
NUM_RELIABILITY = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Threshold:
    """Probabilities above which a flare is forecast; chosen on validation windows only."""

    of_tss: float | np.ndarray
    """One, or one for each window where folds have their own."""
    of_f1: float | np.ndarray

    @classmethod
    def choose(cls, probability_W: np.ndarray, label_W: np.ndarray) -> "Threshold":
        """Those of the largest true skill statistic and of the largest F1."""
        order_W = np.argsort(-probability_W, kind="stable")
        hits_W = np.cumsum(label_W[order_W])
        alarms_W = np.arange(1, len(order_W) + 1) - hits_W
        num_flares = max(int(label_W.sum()), 1)
        num_quiet = max(int((~label_W).sum()), 1)
        is_last_W = np.append(np.diff(probability_W[order_W]) != 0, True)  # ties stay together
        tss_W = np.where(is_last_W, hits_W / num_flares - alarms_W / num_quiet, -np.inf)
        f1_W = np.where(is_last_W, 2 * hits_W / (hits_W + alarms_W + num_flares), -np.inf)
        sorted_W = probability_W[order_W]
        return cls(of_tss=float(sorted_W[np.argmax(tss_W)]), of_f1=float(sorted_W[np.argmax(f1_W)]))


def brier_of_base_rate(base_rate: float) -> float:
    """Brier score of one probability for all windows, their share with a flare."""
    return base_rate * (1 - base_rate)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Skill:
    """What one set of forecasts is worth; NaN where a part of it is not defined."""

    auc: float
    auprc: float
    tss: float
    """True skill statistic, recall minus false alarm rate, at the threshold of its own maximum on
    validation. (tss + 1) / 2 is the accuracy on a test balanced 1:1."""
    hss: float
    """Heidke skill score, at the threshold of the largest F1 on validation."""
    f1: float
    brier: float
    within_star_auc: float
    """Median over stars with at least MIN_FLARES windows of both kinds. Its chance level is below
    .5 for forecasts that follow a star's past; see forward_skill.py."""
    num_stars_within: int
    base_rate: float
    balanced_accuracy: float
    reliability: tuple[tuple[float, float, int], ...]
    """Mean probability, share of windows with a flare, and number, in bins of equal number."""

    def numbers(self) -> dict[str, float]:
        """All but the reliability curve."""
        names = (field.name for field in dataclasses.fields(self) if field.name != "reliability")
        return {name: getattr(self, name) for name in names}


def measure_skill(
    probability_W: np.ndarray, label_W: np.ndarray, star_W: np.ndarray, threshold: Threshold
) -> Skill:
    """The skill of calibrated forecasts of test windows.

    probability_W  [W]  0..1
    label_W        [W]  bool
    star_W         [W]  int, star of each window

    TSS and HSS as in Bloomfield et al. (2012, ApJ 747, L41).
    """
    auc, auprc = (
        float(value_R[0])
        for value_R in rank_skill(
            probability_W, label_W, np.zeros(len(label_W), np.int64), np.ones((1, 1)), bins=None
        )
    )
    is_tss_W, is_f1_W = probability_W >= threshold.of_tss, probability_W >= threshold.of_f1
    recall, alarm_rate = _share(is_tss_W[label_W]), _share(is_tss_W[~label_W])
    within = within_star_aucs(probability_W, label_W, star_W)
    return Skill(
        auc=auc,
        auprc=auprc,
        tss=recall - alarm_rate,
        hss=_heidke(is_f1_W, label_W),
        f1=_f1(is_f1_W, label_W),
        brier=float(((probability_W - label_W) ** 2).mean()),
        within_star_auc=float(np.median(list(within.values()))) if within else float("nan"),
        num_stars_within=len(within),
        base_rate=_share(label_W),
        balanced_accuracy=(1 + recall - alarm_rate) / 2,
        reliability=_reliability(probability_W, label_W),
    )


def within_star_aucs(
    score_W: np.ndarray, label_W: np.ndarray, star_W: np.ndarray
) -> Mapping[int, float]:
    """AUC among the windows of each star that has enough of both kinds: skill in when, not who."""
    order_W = np.argsort(star_W, kind="stable")
    edges = np.flatnonzero(np.diff(star_W[order_W])) + 1
    found = {}
    for part_V in np.split(order_W, edges):
        num_flares = int(label_W[part_V].sum())
        if MIN_FLARES <= num_flares <= len(part_V) - MIN_FLARES:
            star_V = np.zeros(len(part_V), np.int64)
            one = np.ones((1, 1))
            auc_R, _ = rank_skill(score_W[part_V], label_W[part_V], star_V, one, bins=None)
            found[int(star_W[part_V[0]])] = float(auc_R[0])
    return found


def within_star_medians(
    score_W: np.ndarray, label_W: np.ndarray, star_W: np.ndarray, weight_RS: np.ndarray
) -> np.ndarray:
    """[R] median of `within_star_aucs` under weights of the stars; NaN where none has an AUC."""
    found = within_star_aucs(score_W, label_W, star_W)
    star_F, auc_F = np.array(list(found), np.int64), np.array(list(found.values()))
    return np.array(
        [
            np.median(np.repeat(auc_F, weight_F)) if weight_F.any() else np.nan
            for weight_F in weight_RS[:, star_F].astype(np.int64)
        ]
    )


def resample_stars(num_stars: int, num_resamples: int, seed: int) -> np.ndarray:
    """[R, S] how often each star is in each resample, float64."""
    weight_SR = resampled([num_stars], num_resamples, np.random.default_rng(seed))
    return weight_SR.T.astype(np.float64, order="C")


def rank_skill(
    score_W: np.ndarray,
    label_W: np.ndarray,
    star_W: np.ndarray,
    weight_RS: np.ndarray,
    *,
    bins: int | None = NUM_BINS,
) -> tuple[np.ndarray, np.ndarray]:
    """AUC and AUPRC [R] under weights of the stars; ties count half, and are one step of AUPRC.

    star_W  [W]  column of `weight_RS`
    bins    scores are put into so many bins, each with as many flares as the others; None: exact

    AUPRC is the average precision: precision at each flare, averaged (no interpolation).
    """
    if bins is None or len(np.unique(score_W[label_W])) <= bins:
        edges = np.unique(score_W)
    else:
        edges = np.unique(np.quantile(score_W[label_W], np.linspace(0, 1, bins + 1)))
    bin_W = np.searchsorted(edges, score_W, "right")
    num_bins, num_stars = len(edges) + 1, weight_RS.shape[1]
    cell_W = star_W * num_bins + bin_W
    flares_RK, quiet_RK = (
        (
            weight_RS
            @ np.bincount(cell_W[is_W], minlength=num_bins * num_stars).reshape(num_stars, num_bins)
        )[:, ::-1]
        for is_W in (label_W, ~label_W)
    )
    flares_R, quiet_R = flares_RK.sum(axis=1), quiet_RK.sum(axis=1)
    hits_RK, alarms_RK = np.cumsum(flares_RK, axis=1), np.cumsum(quiet_RK, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        beaten_RK = quiet_R[:, None] - alarms_RK + quiet_RK / 2
        auc_R = (flares_RK * beaten_RK).sum(axis=1) / (flares_R * quiet_R)
        precision_RK = hits_RK / np.maximum(hits_RK + alarms_RK, 1e-12)
        auprc_R = (flares_RK * precision_RK).sum(axis=1) / flares_R
    return auc_R, auprc_R


def average_precision(score_W: np.ndarray, label_W: np.ndarray) -> float:
    """AUPRC of scores; NaN where no window has a flare."""
    star_W, one = np.zeros(len(label_W), np.int64), np.ones((1, 1))
    return float(rank_skill(score_W, label_W, star_W, one, bins=None)[1][0])


def _share(is_W: np.ndarray) -> float:
    return float(is_W.mean()) if is_W.size else float("nan")


def _f1(is_W: np.ndarray, label_W: np.ndarray) -> float:
    total = int(is_W.sum() + label_W.sum())
    return float(2 * (is_W & label_W).sum() / total) if total else float("nan")


def _heidke(is_W: np.ndarray, label_W: np.ndarray) -> float:
    """How much better than chance the forecasts agree with what came (Heidke 1926)."""
    chance = _share(is_W) * _share(label_W) + _share(~is_W) * _share(~label_W)
    return (_share(is_W == label_W) - chance) / (1 - chance) if chance < 1 else float("nan")


def _reliability(
    probability_W: np.ndarray, label_W: np.ndarray
) -> tuple[tuple[float, float, int], ...]:
    parts = np.array_split(np.argsort(probability_W, kind="stable"), NUM_RELIABILITY)
    return tuple(
        (float(probability_W[part].mean()), float(label_W[part].mean()), len(part))
        for part in parts
        if len(part)
    )
