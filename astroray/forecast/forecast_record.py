"""What is said of the forecasts of a whole survey, and how good they were where flares came."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from astroray import ledger, moments, provenance
from astroray.forecast.model_file import TrainedForecaster
from astroray.forecast.skill import Threshold, brier_of_base_rate, measure_skill
from astroray.run_record import RejectCount

__all__ = ["ForecastRecord", "describe_forecasts", "tell_held_out", "tell_strangers"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForecastRecord:
    """What came of it; `forecast.json` holds the same."""

    survey: str
    model: str
    model_id: str
    alarm: float
    """Probability from which a flare is forecast."""
    stars: int
    windows: int
    answered: int
    """Windows whose 24 h were observed, so that the forecast can be judged."""
    flared: int
    dropped: Mapping[str, int]
    missions: Mapping[str, int]
    """Stars by the mission of their light curves."""
    rejected: int
    """Light curves."""
    rejects: Sequence[RejectCount]
    """The same by kind, each with a reason."""
    skill: Mapping[str, float]
    """Of the answered windows; empty where they hold no flare, or nothing else."""
    reliability: tuple[tuple[float, float, int], ...]
    trained: Mapping[str, Any]
    """Facts of the model file."""
    finished: str
    versions: Mapping[str, str]

    @property
    def brier_of_base_rate(self) -> float:
        """Brier score of one probability for all windows; NaN where no forecast can be judged."""
        return brier_of_base_rate(self.skill["base_rate"]) if self.skill else math.nan

    @property
    def strangers(self) -> str:
        """What the model was trained on, where stars are of another mission; else empty."""
        return tell_strangers(self.trained, self.missions)

    @property
    def is_worse_than_base_rate(self) -> bool:
        """Whether one probability for all windows, their share with a flare, scores better."""
        return bool(self.skill) and self.skill["brier"] >= self.brier_of_base_rate


def tell_strangers(trained: Mapping[str, Any], missions: Mapping[str, int]) -> str:
    """What a model was trained on, by the facts of its file, where stars are of another mission.

    missions  stars, by mission

    Empty where all are of missions that it knows.
    """
    known = trained.get("missions") or missions  # model files did not always say
    others = {name: count for name, count in missions.items() if name not in known}
    if not others:
        return ""
    told = ", ".join(f"{name} ({count})" for name, count in others.items())
    return f"trained on {', '.join(known)} alone and says little of the stars of {told}"


def tell_held_out(trained: Mapping[str, Any]) -> str:
    """A model's skill on the stars that its training kept apart, by the facts of its file."""
    skill, floor = trained["skill"], brier_of_base_rate(trained["base_rate"])
    return (
        f"on {trained['test_windows']} windows of {trained['test_stars']} stars that it never saw, "
        f"{trained['base_rate']:.1%} with a flare: AUC {skill['auc']:.3f}, AUPRC "
        f"{skill['auprc']:.3f}, TSS {skill['tss']:.3f}, Brier {skill['brier']:.4f} ({floor:.4f} by "
        "the base rate alone)"
    )


def describe_forecasts(
    forecasts: pa.Table,
    trained: TrainedForecaster,
    *,
    survey: str,
    model: str,
    dropped: Mapping[str, int],
    missions: Mapping[str, int],
    rejects: pa.Table,
) -> ForecastRecord:
    """The record of forecasts by a model.

    forecasts  schema.FORECASTS
    dropped    windows left out, by reason
    missions   stars, by mission
    rejects    schema.REJECTS
    """
    known = forecasts.filter(forecasts["flared"].is_valid())
    label_W = known["flared"].to_numpy(zero_copy_only=False).astype(bool)
    _, star_W = np.unique(np.array(known["object_id"].to_pylist(), np.str_), return_inverse=True)
    skill: dict[str, float] = {}
    reliability: tuple[tuple[float, float, int], ...] = ()
    if 0 < label_W.sum() < len(label_W):
        threshold = Threshold(of_tss=trained.alarm, of_f1=trained.alarm)
        found = measure_skill(known["probability"].to_numpy(), label_W, star_W, threshold)
        skill = {name: value for name, value in found.numbers().items() if np.isfinite(value)}
        reliability = found.reliability
    return ForecastRecord(
        survey=survey,
        model=model,
        model_id=trained.model_id,
        alarm=trained.alarm,
        stars=len(set(forecasts["object_id"].to_pylist())),
        windows=len(forecasts),
        answered=len(label_W),
        flared=int(label_W.sum()),
        dropped=dict(dropped),
        missions=dict(missions),
        rejected=len(rejects),
        rejects=ledger.summarize_rejects(rejects),
        skill=skill,
        reliability=reliability,
        trained=trained.facts,
        finished=moments.now(),
        versions=provenance.versions(),
    )
