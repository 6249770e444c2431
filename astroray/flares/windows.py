"""Which stretches of a star's past are a window of the forecast, and which flare answers it.

A window is 512 cadences of history and the 24 h after it, one every 50 cadences (FLARE, Zhu et
al., IJCAI-25). Its answer is whether a flare starts in those 24 h. W counts windows, T the
cadences of one, C its channels, P properties; other letters as in history.py.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from astroray.errors import DataError
from astroray.flares.history import observed_days, recall_past
from astroray.flares.records import StarRecord

__all__ = ["WindowRule", "Windows", "join_windows", "record_windows"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class WindowRule:
    """How windows are laid, and when one is dropped."""

    cadence_d: float = 29.4244 / 1440
    """Spacing: Kepler's long cadence; TESS is binned to 10 min. Binned to half an hour, a window
    would be 10.5 d long and hardly one of TESS's would be free of a gap."""
    num_cadences: int = 512
    """Of the history."""
    horizon_d: float = 1.0
    """The forecast looks so far ahead, rounded down to whole cadences: 0.98 d for Kepler."""
    stride: int = 50
    """Cadences from one window to the next."""
    max_missing: float = 0.3
    """Share of the history that may lack observation."""
    max_gap_d: float = 1.0
    """Longest pause within the history of a light curve; records of flares have no such rule."""
    min_horizon: float = 0.8
    """Share of the horizon that must be observed: a flare that nobody could see is no answer."""

    @property
    def history_d(self) -> float:
        """Length of the history."""
        return self.num_cadences * self.cadence_d

    @property
    def num_ahead(self) -> int:
        """Cadences of the horizon."""
        return int(self.horizon_d / self.cadence_d + 1e-9)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Windows:
    """Windows of several stars, ordered by star and time, and how many were dropped and why."""

    star_ids: Sequence[str]
    star_W: np.ndarray
    """[W] int64, index into `star_ids`."""
    end_W: np.ndarray
    """[W] float64, d: the moment of the forecast; all inputs are older."""
    label_W: np.ndarray
    """[W] bool: a flare starts within the horizon."""
    answered_W: np.ndarray
    """[W] bool: whether the horizon was observed; where not, the label means nothing."""
    history_WMC: np.ndarray
    """[W, M, 3] float32; see history.HISTORY."""
    statistics_WN: np.ndarray
    """[W, N] float32; see history.STATISTICS."""
    property_WP: np.ndarray
    """[W, P] float32; see records.PROPERTIES; NaN where unknown."""
    flux_WTC: np.ndarray
    """[W, 512, 3] float32: scaled flux, scaled first difference, 1 where observed; T is 0 where
    only records of flares are at hand."""
    dropped: Mapping[str, int]
    """Windows, or whole stars, that were left out, by reason."""
    missions: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Stars whose light curves are at hand, by mission."""

    def __len__(self) -> int:
        return len(self.end_W)

    def take(self, index_V: np.ndarray) -> "Windows":
        """Those at the indices, in their order; what is counted stays what it was."""
        chosen = {name: getattr(self, name)[index_V] for name in _COLUMNS}
        return dataclasses.replace(self, **chosen)


_COLUMNS = tuple(field.name for field in dataclasses.fields(Windows) if field.type is np.ndarray)


def record_windows(stars: Iterable[StarRecord], rule: WindowRule | None = None) -> Windows:
    """The windows of stars of which nothing but recorded flares is known."""
    rule = rule or WindowRule()
    return join_windows([_of_record(star, rule) for star in stars])


def join_windows(parts: Sequence[Windows]) -> Windows:
    """Windows of several parts as one, a star in two of them as one star.

    Raises DataError where there is no part.
    """
    if not parts:
        raise DataError("no star is at hand, expected at least one; nothing can be windowed")
    ids = sorted({name for part in parts for name in part.star_ids})
    place = {name: number for number, name in enumerate(ids)}
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS}
    joined["star_W"] = np.concatenate(
        [np.array([place[name] for name in part.star_ids])[part.star_W] for part in parts]
    )
    dropped, missions = Counter[str](), Counter[str]()
    for part in parts:
        dropped.update(part.dropped)
        missions.update(part.missions)
    windows = Windows(star_ids=ids, dropped=dict(dropped), missions=dict(missions), **joined)
    return windows.take(np.lexsort((windows.end_W, windows.star_W)))


def describe_windows(
    star: StarRecord,
    end_W: np.ndarray,
    rule: WindowRule,
    dropped: Mapping[str, int],
    *,
    known: StarRecord | None = None,
) -> Windows:
    """Windows of one star that end at the given moments, with their answers, without flux.

    known  what was on record of the star, where that was less than the answers are told by
    """
    known = known or star
    past = recall_past(known, end_W)
    ahead_W = end_W + rule.num_ahead * rule.cadence_d
    num_known_W, num_ahead_W = (
        np.searchsorted(star.start_F, time_W, "right") for time_W in (end_W, ahead_W)
    )
    return Windows(
        star_ids=[star.object_id],
        star_W=np.zeros(len(end_W), np.int64),
        end_W=end_W,
        label_W=num_ahead_W > num_known_W,
        answered_W=np.ones(len(end_W), bool),
        history_WMC=past.history_WMC,
        statistics_WN=past.statistics_WN,
        property_WP=np.tile(known.property_P.astype(np.float32), (len(end_W), 1)),
        flux_WTC=np.zeros((len(end_W), 0, 3), np.float32),
        dropped=dropped,
    )


def _of_record(star: StarRecord, rule: WindowRule) -> Windows:
    first_d, last_d = star.observed_S2[0, 0], star.observed_S2[-1, 1]
    ahead_d = rule.num_ahead * rule.cadence_d
    end_W = np.arange(first_d + rule.history_d, last_d - ahead_d, rule.stride * rule.cadence_d)
    edges = (end_W - rule.history_d, end_W, end_W + ahead_d)
    before_W, until_W, after_W = (observed_days(star.observed_S2, edge) for edge in edges)
    is_dark_W = until_W - before_W < (1 - rule.max_missing) * rule.history_d
    is_blind_W = ~is_dark_W & (after_W - until_W < rule.min_horizon * ahead_d)
    dropped = {
        f"less than {1 - rule.max_missing:.0%} of the history observed": int(is_dark_W.sum()),
        f"less than {rule.min_horizon:.0%} of the horizon observed": int(is_blind_W.sum()),
    }
    return describe_windows(star, end_W[~is_dark_W & ~is_blind_W], rule, dropped)
