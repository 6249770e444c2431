"""What is known of a star's flares at a moment: its history and its statistics, never later.

A flare is known from its stop on, or while it is on record where a record says so. W counts
moments, F the flares of the star, M the flares of the history, N statistics, U spans of the
decaying rates, S stretches of observation.

After the modules FHR and FSI of StarF (Su et al., arXiv 2507.10986), in numbers instead of text.
"""

import dataclasses
import math

import numpy as np

from astroray.flares.records import StarRecord

__all__ = ["HISTORY", "STATISTICS", "Past", "observed_days", "recall_past"]

NUM_FLARES = 8
HISTORY = ("log10 days ago", "log10 duration", "size")
"""Numbers of each of the last NUM_FLARES flares."""
SPANS_D = (3.0, 10.0, 30.0, 100.0, 300.0)
WINDOW_D = 10.46
YEAR_D = 372.5
"""Kepler's orbit: a star falls on the same detector, with the same noise, once in so many days."""
SEASON_D = 46.0
NEVER_D = 2000.0
"""Time since the last flare of a star that has had none."""
STATISTICS = (
    "log flares so far",
    "log days observed so far",
    "log rate so far",
    *(f"log rate, decaying over {span:g} d" for span in SPANS_D),
    "log days since the last",
    "flares in the last 10.46 d",
    "log rate of this season in former years",
    "mean size",
    "largest size",
    "mean log10 duration",
    "log mean waiting time",
    "alignment with the rotation",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Past:
    """What was known of one star at each moment."""

    history_WMC: np.ndarray
    """[W, M, C] float32, the newest flare first, C as HISTORY; NaN where there is none."""
    statistics_WN: np.ndarray
    """[W, N] float32, as STATISTICS; NaN where no flare defines them."""


def observed_days(observed_S2: np.ndarray, time_W: np.ndarray) -> np.ndarray:
    """[W] days observed before each time."""
    begin_S, length_S = observed_S2[:, 0], np.diff(observed_S2, axis=1)[:, 0]
    return _sum_in_order(np.clip(np.asarray(time_W)[:, None] - begin_S, 0, length_S))


def recall_past(star: StarRecord, moment_W: np.ndarray) -> Past:
    """History and statistics of a star at moments in d; later flares change nothing of them.

    Rates are flares over days observed, each with a pseudo-count so small that a star without
    flares has a finite logarithm; what the network makes of few flares is its own affair.
    """
    known_WF = star.on_record(moment_W)
    age_WF = np.where(known_WF, moment_W[:, None] - star.start_F, np.inf)
    return Past(
        history_WMC=_history(star, known_WF, age_WF).astype(np.float32),
        statistics_WN=_statistics(star, moment_W, known_WF, age_WF).astype(np.float32),
    )


def _history(star: StarRecord, known_WF: np.ndarray, age_WF: np.ndarray) -> np.ndarray:
    num_W = len(known_WF)
    history_WMC = np.full((num_W, NUM_FLARES, len(HISTORY)), np.nan)
    if not star.start_F.size:
        return history_WMC
    newest_WM = np.argsort(age_WF, axis=1, kind="stable")[:, :NUM_FLARES]
    age_WM = np.take_along_axis(age_WF, newest_WM, axis=1)
    duration_F = np.log10(np.maximum(star.stop_F - star.start_F, 0.01))
    numbers = (np.log10(np.maximum(age_WM, 0.01)), duration_F[newest_WM], star.size_F[newest_WM])
    for column, number_WM in enumerate(numbers):
        history_WMC[:, : newest_WM.shape[1], column] = np.where(
            np.isfinite(age_WM), number_WM, np.nan
        )
    return history_WMC


def _statistics(
    star: StarRecord, moment_W: np.ndarray, known_WF: np.ndarray, age_WF: np.ndarray
) -> np.ndarray:
    count_W = known_WF.sum(axis=1)
    days_W = observed_days(star.observed_S2, moment_W)
    since_W = age_WF.min(axis=1, initial=NEVER_D)
    elapsed_W = np.where(known_WF, age_WF, 0.0).max(axis=1, initial=0.0) - since_W
    duration_F = np.log10(np.maximum(star.stop_F - star.start_F, 0.01))
    size_WF = np.where(known_WF, star.size_F, np.nan)
    num_sized_W = np.isfinite(size_WF).sum(axis=1)
    known = {
        "log flares so far": np.log1p(count_W),
        "log days observed so far": np.log1p(days_W),
        "log rate so far": _log_rate(count_W, days_W, 0.5, 30.0),
        "log days since the last": np.log(np.maximum(since_W, 0.01)),
        "flares in the last 10.46 d": (age_WF < WINDOW_D).sum(axis=1),
        "log rate of this season in former years": _season_rate(star, moment_W, age_WF),
        "mean size": _sum_in_order(np.nan_to_num(size_WF))
        / np.where(num_sized_W, num_sized_W, np.nan),
        "largest size": np.fmax.reduce(size_WF, axis=1, initial=np.nan),
        "mean log10 duration": _sum_in_order(known_WF * duration_F)
        / np.where(count_W, count_W, np.nan),
        "log mean waiting time": np.log(
            np.maximum(elapsed_W, 0.01) / np.where(count_W > 1, count_W - 1, np.nan)
        ),
        "alignment with the rotation": _alignment(star, age_WF),
    }
    for span_d in SPANS_D:
        seen_W = _sum_in_order(np.exp(-age_WF / span_d))
        decayed_W = _decayed_days(star.observed_S2, moment_W, span_d)
        known[f"log rate, decaying over {span_d:g} d"] = _log_rate(seen_W, decayed_W, 0.2, 10.0)
    return np.stack([known[name] for name in STATISTICS], axis=1)


def _log_rate(count_W: np.ndarray, days_W: np.ndarray, count: float, days: float) -> np.ndarray:
    return np.log((count_W + count) / (days_W + days))


def _decayed_days(observed_S2: np.ndarray, moment_W: np.ndarray, span_d: float) -> np.ndarray:
    """[W] days observed before each moment, weighted by exp(-age / span)."""
    age_WS2 = np.maximum(moment_W[:, None, None] - observed_S2, 0.0)
    weight_WS2 = np.exp(-age_WS2 / span_d)
    return span_d * _sum_in_order(weight_WS2[..., 1] - weight_WS2[..., 0])


def _season_rate(star: StarRecord, moment_W: np.ndarray, age_WF: np.ndarray) -> np.ndarray:
    """[W] log rate within SEASON_D of the same place on the orbit, in all former years."""
    finite_WF = np.where(np.isfinite(age_WF), age_WF, 0.0)
    years_WF = np.rint(finite_WF / YEAR_D)
    is_season_WF = (years_WF >= 1) & (np.abs(finite_WF - years_WF * YEAR_D) < SEASON_D)
    days_W = np.zeros(len(moment_W))
    first_d = star.observed_S2[0, 0] if len(star.observed_S2) else moment_W.min(initial=0.0)
    for year in range(1, 1 + math.ceil(max(0.0, moment_W.max(initial=first_d) - first_d) / YEAR_D)):
        edges = (moment_W - year * YEAR_D + SEASON_D, moment_W - year * YEAR_D - SEASON_D)
        later_W, earlier_W = (observed_days(star.observed_S2, edge) for edge in edges)
        days_W += later_W - earlier_W
    return _log_rate(is_season_WF.sum(axis=1), days_W, 0.3, 20.0)


def _alignment(star: StarRecord, age_WF: np.ndarray) -> np.ndarray:
    """[W] mean cosine of the rotation since each flare of the last 100 d or so; 0 if unknown."""
    period_d = star.property_P[-1]
    if not period_d > 1.5:  # faster stars turn more than half within the horizon
        return np.zeros(len(age_WF))
    weight_WF = np.exp(-age_WF / 100.0)
    finite_WF = np.where(np.isfinite(age_WF), age_WF, 0.0)
    cosine_WF = np.cos(2 * np.pi * (finite_WF + 0.49) / period_d)
    return _sum_in_order(weight_WF * cosine_WF) / (_sum_in_order(weight_WF) + 1)


def _sum_in_order(value_WN: np.ndarray) -> np.ndarray:
    """[W] sums from left to right, so that the zeros of what comes later change no bit.

    numpy's own sum adds in an order that depends on how many columns there are.
    """
    if not value_WN.shape[1]:
        return np.zeros(len(value_WN))
    return np.cumsum(value_WN, axis=1)[:, -1]
