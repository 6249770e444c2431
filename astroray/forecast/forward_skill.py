"""How well forecasts say when a star flares, in a measure whose chance level is .5 exactly.

W counts windows, S stars, R resamples of stars.

An AUC within a star compares each window with a flare with each without. Where a forecast follows
the star's past, that is biased in a finite sequence: the flare of an early window raises the
forecasts of all later ones, so that the quiet ones among them look as if they had been forecast
wrongly. With independent flares the AUC of a star's own causal rate is .39 in light curves of 160
days (`evaluate flares --track simulated`); it nears .5 as the inverse root of the number of flares,
that of a forecast with a short memory as the inverse. It is the bias of "the next after a streak"
(Miller & Sanjurjo 2018, Econometrica 86, 2019), and that of a regression on one's own past
(Stambaugh 1999, J. Financ. Econ. 54, 375).

What a later flare changes must not be part of a comparison. So a forecast is compared with the
earlier ones of its star only:

    u_t = share of the star's earlier forecasts below that of window t, ties counting half
    AUC = .5 + sum_t (u_t - .5) (y_t - p) / sum_t p (1 - p)

with y_t the answer and p the share of such windows that flare in the long run. Where nothing is to
be known, y_t - p has mean 0 whatever came before, and u_t depends on what came before alone: each
term has mean 0, and the sum is a martingale. The mean over forecasts that do know more is that of
the AUC, since a window with a flare is above a share of (1 - p) AUC + p / 2 of others, and one
without above (1 - p) / 2 + p (1 - AUC).

p must not be estimated from the same windows, which would bring the bias back; so the measure is
for stars whose rate is known, simulated ones.
"""

import numpy as np

__all__ = ["forward_auc", "forward_terms"]


def forward_terms(
    score_W: np.ndarray, label_W: np.ndarray, star_W: np.ndarray, chance_W: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Numerator and denominator of each star's share in the AUC, both [S].

    score_W   [W]  any scale; the windows of a star stand in order of time
    label_W   [W]  bool
    star_W    [W]  int, 0..S-1
    chance_W  [W]  0..1, share of the star's windows that flare in the long run
    """
    num_stars = int(star_W.max()) + 1
    gain_S, information_S = np.zeros(num_stars), np.zeros(num_stars)
    for star in range(num_stars):
        is_W = star_W == star
        chance_V = chance_W[is_W]
        gain_S[star] = (_rank_in_past(score_W[is_W]) - 0.5) @ (label_W[is_W] - chance_V)
        information_S[star] = (chance_V * (1 - chance_V)).sum()
    return gain_S, information_S


def forward_auc(gain_S: np.ndarray, information_S: np.ndarray, weight_RS: np.ndarray) -> np.ndarray:
    """[R] AUC of all stars together under weights of the stars; NaN where none has a weight."""
    total_R = weight_RS @ information_S
    with np.errstate(invalid="ignore", divide="ignore"):
        return 0.5 + np.where(total_R > 0, (weight_RS @ gain_S) / total_R, np.nan)


def _rank_in_past(score_V: np.ndarray) -> np.ndarray:
    """[V] share of earlier scores below each, ties counting half; .5 for the first, without any."""
    above_VV = np.sign(score_V[:, None] - score_V[None, :]) / 2 + 0.5
    count_V = np.arange(len(score_V))
    return np.where(count_V > 0, np.tril(above_VV, -1).sum(axis=1) / np.maximum(count_V, 1), 0.5)
