"""An evaluation of flare forecasts from start to end: windows, splits, fits, rows."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from astroray import provenance
from astroray.errors import ConfigError
from astroray.evaluation.measured_rows import publish_rows
from astroray.flares.records import read_kepler_records
from astroray.flares.windows import WindowRule, Windows, join_windows, record_windows
from astroray.forecast.baselines import BASELINES, check_sklearn
from astroray.forecast.comparison import Comparison, Judged, calibrate, compare
from astroray.forecast.evaluation_page import write_evaluation_page
from astroray.forecast.finders import FinderSkill, finder_rows, finder_table, judge_finders
from astroray.forecast.fit import FitPlan, fit_forecaster, forecast_logits
from astroray.forecast.labeled_curves import LABELED_SETS, find_in_curves, windows_of
from astroray.forecast.model import ForecasterConfig
from astroray.forecast.record_model import RecordConfig, fit_record_net, record_logits
from astroray.forecast.rows import json_rows, text_table, undecided
from astroray.forecast.simulated_stars import SimulatedStars, flare_chances, simulate_windows
from astroray.forecast.splits import Split, split_by_star, split_by_time, split_in_order

__all__ = ["FlareEvaluation", "FlareEvaluationConfig", "evaluate_flares"]

KEPLER_VALIDATION_D, KEPLER_TEST_D = 1001.0, 1182.0
"""BKJD where quarters 11 and 13 begin: trained on Q0-10, validated on Q11-12, tested on Q13-17."""
RECORD_MODEL, CURVE_MODEL = "astroray (record)", "astroray (LoRA)"
MODELS = (RECORD_MODEL, CURVE_MODEL)
TRUE_RATE = "true rate of the star"
"""What simulated stars are drawn by: without precursors nothing more can be known."""
SPLITS: Mapping[str, tuple[str, ...]] = {
    "records": ("star-disjoint", "time-forward"),
    "simulated": ("with precursors", "without precursors"),
    "light-curves": ("finder", "tess", "kepler"),
    "methods": ("tuning", "inputs and loss"),
}
"""Parts of a track, which can be run apart."""
WITHIN: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "with precursors": {"within_star_auc": (0.70, 1.0), "forward_auc": (0.70, 1.0)},
    "without precursors": {"forward_auc": (0.47, 0.53)},
}
"""Skill within simulated stars: the model learns when, and does not invent it. The chance level of
the median AUC within stars is not .5, that of the forward AUC is; see forward_skill.py."""
NUM_TRAIN = 40
"""Simulated stars that train, and as many that validate; all others are tested."""
FEW_STARS = 30
"""Below so many stars with a flare, resamples of them are said to be few."""
VARIANTS: Mapping[str, Mapping[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    "tuning": {
        CURVE_MODEL: ({}, {}),
        "adapters": ({}, {"method": "adapter"}),
        "full fine-tuning": ({}, {"method": "full"}),
        "from scratch": ({}, {"method": "full", "pretrain_passes": 0}),
        "PatchTSMixer": ({"mixing": "perceptron"}, {"method": "full", "pretrain_passes": 0}),
    },
    "inputs and loss": {
        CURVE_MODEL: ({}, {}),
        "no first difference": ({"use_difference": False}, {}),
        "no history": ({"use_history": False}, {}),
        "no statistics": ({"use_statistics": False}, {}),
        "no prior": ({}, {"use_prior": False}),
    },
}
"""What the track of methods changes in the network, and in the plan of its fit, by split."""

Show = Callable[[str], None]
Fit = Callable[[Windows, Split, int], np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlareEvaluationConfig:
    """What to evaluate; raises ConfigError on values that cannot work."""

    track: str
    """A name of TRACKS."""
    out: str
    """Folder for rows.json and index.html."""
    data: str | None = None
    """Folder of the layout `lightcurves/catalogues/...`; not needed for simulated stars."""
    split: str | None = None
    """The only part of SPLITS to run; None: all of the track."""
    num_folds: int = 5
    """Folds of stars."""
    num_resamples: int = 1000
    """Resamples of stars behind each interval."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.track not in TRACKS:
            raise ConfigError(f"track is {self.track!r}, expected one of {sorted(TRACKS)}")
        if self.split not in (None, *SPLITS[self.track]):
            raise ConfigError(
                f"split of the track {self.track!r} is {self.split!r}, expected one of "
                f"{list(SPLITS[self.track])}"
            )
        if self.num_folds < 3:
            raise ConfigError(f"num_folds is {self.num_folds}, expected at least 3")
        if self.num_resamples < 10:
            raise ConfigError(f"num_resamples is {self.num_resamples}, expected at least 10")

    @property
    def splits(self) -> tuple[str, ...]:
        """The parts of the track to run."""
        return SPLITS[self.track] if self.split is None else (self.split,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlareEvaluation:
    """What came of it."""

    document: dict[str, Any]
    """As `rows.json` holds it."""
    table: str
    """Plain text."""


def evaluate_flares(
    config: FlareEvaluationConfig, *, show: Show = lambda text: None
) -> FlareEvaluation:
    """Runs a track and writes its rows and a page; `show` gets progress lines.

    Raises ConfigError where data are missing, BackendError without scikit-learn.
    """
    check_sklearn()
    began_s = time.monotonic()
    outcome = TRACKS[config.track](config, show)
    windows = outcome.windows
    rows = json_rows(outcome.comparisons, models=MODELS, bars=BARS, within=WITHIN)
    rows += finder_rows(config.track, outcome.finders)
    remarks = [*outcome.remarks, *undecided(outcome.comparisons, MODELS)]
    document = provenance.document(f"evaluate flares {config.track}", rows) | {
        "seed": config.seed,
        "windows": len(windows),
        "stars": len(windows.star_ids),
        "base_rate": float(windows.label_W.mean()),
        "dropped": dict(windows.dropped),
        "remarks": remarks,
        "seconds": round(time.monotonic() - began_s, 1),
    }
    publish_rows(config.out, document)
    write_evaluation_page(config.out, document, outcome.comparisons, outcome.finders, models=MODELS)
    blocks = [text_table(outcome.comparisons, windows, models=MODELS)]
    blocks += [finder_table(outcome.finders)] if outcome.finders else []
    return FlareEvaluation(document=document, table="\n".join([*blocks, *remarks]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Outcome:
    """What a track gives."""

    comparisons: Sequence[Comparison]
    windows: Windows
    finders: Sequence[FinderSkill] = ()
    remarks: Sequence[str] = ()
    """What a reader of the figures has to know."""


BARS: Mapping[str, Sequence[str]] = {"records": ("boosting (record)", "boosting (all numbers)")}
"""Peers that the model has to beat, by track."""


def _records(config: FlareEvaluationConfig, show: Show) -> _Outcome:
    if config.data is None:
        raise ConfigError(
            "the track of records reads lightcurves/catalogues; give its parent with --data DIR"
        )
    known, rule = read_kepler_records(config.data), WindowRule()
    windows = record_windows(known.stars, rule)
    windows = dataclasses.replace(windows, dropped={**windows.dropped, **known.dropped})
    show(f"{len(windows)} windows of {len(windows.star_ids)} stars")
    ahead_d = rule.num_ahead * rule.cadence_d
    folds: Mapping[str, Callable[[], Iterable[Split]]] = {
        "star-disjoint": lambda: split_by_star(
            windows, num_folds=config.num_folds, seed=config.seed
        ),
        "time-forward": lambda: [
            split_by_time(
                windows, validation_d=KEPLER_VALIDATION_D, test_d=KEPLER_TEST_D, ahead_d=ahead_d
            )
        ],
    }
    fits = {**BASELINES, RECORD_MODEL: _record_model}
    comparisons = [
        _run_split(windows, name, folds[name](), fits, config, show) for name in config.splits
    ]
    return _Outcome(comparisons=comparisons, windows=windows)


def _record_model(windows: Windows, split: Split, seed: int) -> np.ndarray:
    members = fit_record_net(
        windows.take(split.train_V), windows.take(split.validation_V), RecordConfig(seed=seed)
    )
    return record_logits(members, windows)


def _simulated(config: FlareEvaluationConfig, show: Show) -> _Outcome:
    comparisons = []
    for name in config.splits:
        show(f"simulating stars {name}")
        stars = SimulatedStars(has_precursor=name == "with precursors", seed=config.seed)
        windows = simulate_windows(stars)
        num_train = min(NUM_TRAIN, stars.num_stars // 3)
        fold = split_in_order(windows, num_train=num_train, num_validation=num_train)
        chance_W = flare_chances(stars)[windows.star_W]
        fits: dict[str, Fit] = {
            **BASELINES,
            TRUE_RATE: functools.partial(_true_rate, chance_W),
            CURVE_MODEL: functools.partial(_curve_model, show),
        }
        comparisons.append(_run_split(windows, name, [fold], fits, config, show, chance_W=chance_W))
    return _Outcome(comparisons=comparisons, windows=windows)


def _true_rate(chance_W: np.ndarray, windows: Windows, split: Split, seed: int) -> np.ndarray:
    return chance_W


def _light_curves(config: FlareEvaluationConfig, show: Show) -> _Outcome:
    if config.data is None:
        raise ConfigError(
            "the track of light curves reads lightcurves/tess_young_stars and others; give their "
            "parent with --data DIR"
        )
    fits: dict[str, Fit] = {**BASELINES} | {
        name: functools.partial(_curve_model, show, plan=VARIANTS["tuning"][name][1])
        for name in (CURVE_MODEL, "full fine-tuning")
    }
    comparisons, finders, remarks, parts = [], [], [], []
    for name in LABELED_SETS:
        if not {"finder", name} & set(config.splits):
            continue
        show(f"finding the flares of {name}")
        found = find_in_curves(config.data, name)
        windows = windows_of(found)
        parts.append(windows)
        if "finder" in config.splits:
            finders += judge_finders(config.data, name, found, config.num_resamples, config.seed)
        if name not in config.splits:
            continue
        remark, can_be_judged = told_of_size(name, windows, config.num_folds)
        remarks += [remark] if remark else []
        if can_be_judged:
            folds = split_by_star(windows, num_folds=config.num_folds, seed=config.seed)
            comparisons.append(_run_split(windows, name, folds, fits, config, show))
    return _Outcome(
        comparisons=comparisons, windows=join_windows(parts), finders=finders, remarks=remarks
    )


def told_of_size(name: str, windows: Windows, num_folds: int) -> tuple[str, bool]:
    """What is to be said of a set's size, if anything, and whether a forecaster can be judged."""
    flaring = len(set(windows.star_W[windows.label_W].tolist()))
    told = (
        f"{name}: {len(windows)} windows of {len(windows.star_ids)} stars, "
        f"{int(windows.label_W.sum())} with a flare on {flaring} of them"
    )
    if flaring < 2 * num_folds:
        return f"{told}: too few to train and judge a forecaster in {num_folds} folds", False
    if flaring < FEW_STARS:
        return f"{told}: few stars, of which an interval says less than it seems to", True
    return "", True


def _methods(config: FlareEvaluationConfig, show: Show) -> _Outcome:
    few = SimulatedStars(has_precursor=True, num_stars=48, precursor_sigma=6.0, seed=config.seed)
    windows = simulate_windows(few)
    fold = next(split_by_star(windows, num_folds=3, seed=config.seed))
    short = {"batch_size": 64, "pretrain_passes": 3, "num_passes": 10}
    comparisons = []
    for split in config.splits:
        fits: dict[str, Fit] = {"rate of the star": BASELINES["rate of the star"]} | {
            name: functools.partial(_curve_model, show, network=network, plan={**short, **plan})
            for name, (network, plan) in VARIANTS[split].items()
        }
        comparisons.append(_run_split(windows, split, [fold], fits, config, show))
    return _Outcome(comparisons=comparisons, windows=windows)


def _curve_model(
    show: Show,
    windows: Windows,
    split: Split,
    seed: int,
    *,
    network: Mapping[str, Any] = MappingProxyType({}),
    plan: Mapping[str, Any] = MappingProxyType({}),
) -> np.ndarray:
    model = fit_forecaster(
        windows.take(split.train_V),
        windows.take(split.validation_V),
        FitPlan(
            network=ForecasterConfig(width=48, num_layers=2, **network),
            seed=seed,
            **{"pretrain_passes": 5, "num_passes": 14, **plan},
        ),
        show=show,
    )
    return forecast_logits(model, windows)


def _run_split(
    windows: Windows,
    name: str,
    folds: Iterable[Split],
    fits: Mapping[str, Fit],
    config: FlareEvaluationConfig,
    show: Show,
    *,
    chance_W: np.ndarray | None = None,
) -> Comparison:
    """Fits every forecaster on every fold and compares them on all test windows together."""
    judged: dict[str, list[Judged]] = {forecaster: [] for forecaster in fits}
    tested = []
    for number, fold in enumerate(folds, 1):
        tested.append(fold.test_V)
        for forecaster, fit in fits.items():
            show(f"{name}  fold {number}  {forecaster}")
            score_W = fit(windows, fold, config.seed)
            validation_V = fold.validation_V
            judged[forecaster].append(
                calibrate(
                    score_W[validation_V], windows.label_W[validation_V], score_W[fold.test_V]
                )
            )
    test_V = np.concatenate(tested)
    return compare(
        {forecaster: Judged.join(parts) for forecaster, parts in judged.items()},
        windows.label_W[test_V],
        windows.star_W[test_V],
        track=config.track,
        split=name,
        candidates=[name for name in MODELS if name in fits],
        chance_W=None if chance_W is None else chance_W[test_V],
        num_resamples=config.num_resamples,
        seed=config.seed,
    )


TRACKS: Mapping[str, Callable[[FlareEvaluationConfig, Show], _Outcome]] = {
    "records": _records,
    "simulated": _simulated,
    "light-curves": _light_curves,
    "methods": _methods,
}
"""Tracks of the evaluation by name."""
