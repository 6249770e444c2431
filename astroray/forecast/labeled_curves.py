"""Which light curves the track of light curves reads, and what others marked in them."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from astroray import data_sets, storage, surveys
from astroray.evaluation.curve_labels import csv_rows
from astroray.flares.agreement import Labels, spans_of_runs
from astroray.flares.curve_windows import curve_windows, rule_for
from astroray.flares.events import Event
from astroray.flares.found_flares import candidates_of
from astroray.flares.windows import Windows, join_windows
from astroray.surveys.light_curves import LightCurve, read_light_curves

__all__ = ["LABELED_SETS", "FoundCurve", "find_in_curves", "read_labels", "windows_of"]

FLARE_AMPLITUDE = 0.05
"""Least relative height of the events of stella's list that a finder should find: the list is
liberal, and many of its small ones are parts of others."""
GUENTHER_D = (1325.0, 1382.0)
"""BTJD of the sectors 1 and 2, of which Günther et al. (2020, AJ 159, 60) list the flares."""
GUENTHER_PATH = "lightcurves/catalogues/guenther2020_tess_s1s2_flares.txt.gz"
STORM_D = (886.5, 888.0)
"""BKJD of the solar particles of 7 June 2011: they lifted single cadences of most stars, and 14 of
the 50 flags of Kepler's are theirs."""
JD_OF_BTJD = 2457000.0

LABELED_SETS: Mapping[str, tuple[str, str]] = {
    "tess": (
        "lightcurves/tess_young_stars",
        "*.npz?format=light_curves&time=BTJD&mission=tess",
    ),
    "kepler": (
        "lightcurves/kepler_q9_flagged",
        "kic*.csv.gz?format=light_curves&time=BKJD&mission=kepler",
    ),
}
"""Folder and survey of each set, below the folder of data."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoundCurve:
    """A light curve and what `astroray flares find` sees in it."""

    curve: LightCurve
    events: Sequence[Event]

    @property
    def found_F2(self) -> np.ndarray:
        """[F, 2] first and last moment of its flares, d."""
        spans = [(event.start_d, event.stop_d) for event in self.events if not event.refused]
        return np.array(spans, np.float64).reshape(-1, 2)


def find_in_curves(data: str, name: str) -> list[FoundCurve]:
    """All light curves of a set, by star and time, with their flares.

    Raises ConfigError where the set is not there.
    """
    folder, survey = LABELED_SETS[name]
    where = storage.join(data, folder)
    data_sets.expect(storage.join(where, "index.csv"))
    found = [
        FoundCurve(curve=item, events=candidates_of(item))
        for shard in surveys.list_shards(storage.join(where, survey)).shards
        for item in read_light_curves(shard)
        if isinstance(item, LightCurve)
    ]
    return sorted(found, key=lambda one: (one.curve.object_id, one.curve.time_d[0]))


def windows_of(found: Sequence[FoundCurve]) -> Windows:
    """The windows of all stars, answered by the flares that were found."""
    by_star: dict[str, list[FoundCurve]] = {}
    for one in found:
        by_star.setdefault(one.curve.object_id, []).append(one)
    return join_windows(
        [
            curve_windows(
                [one.curve for one in those],
                rule_for(those[0].curve.mission),
                events=[event for one in those for event in one.events],
            )
            for those in by_star.values()
        ]
    )


def read_labels(
    data: str, name: str, curves: Sequence[LightCurve]
) -> Mapping[str, Sequence[Labels | None]]:
    """What each list of labels marks in each light curve; None where a list does not cover it."""
    where = storage.join(data, LABELED_SETS[name][0])
    if name == "kepler":
        flags = [_flags(where, curve) for curve in curves]
        return {
            "flags of another finder, not vetted": flags,
            "the same, outside a storm of particles": [_calm(flag) for flag in flags],
        }
    stella: dict[str, list[tuple[float, float, float]]] = {}
    for row in csv_rows(storage.join(where, "stella_events.csv")):
        start_d, stop_d = float(row["t_start_btjd"]), float(row["t_end_btjd"])
        stella.setdefault(row["tic"], []).append((start_d, stop_d, float(row["amp_rel"])))
    guenther: dict[str, list[tuple[float, float, float]]] = {}
    for row in csv_rows(storage.join(data, GUENTHER_PATH)):
        peak_d, width_d = float(row["tpeak"]) - JD_OF_BTJD, float(row["FWHMdt"])
        guenther.setdefault(row["TIC"], []).append((peak_d - width_d, peak_d + width_d, np.inf))
    return {
        f"stella's network, above {FLARE_AMPLITUDE:g}": [
            _marked(curve, stella) for curve in curves
        ],
        "Günther et al. (2020), sectors 1 and 2": [
            _marked(curve, guenther)
            if _tic(curve) in guenther and curve.time_d[-1] <= GUENTHER_D[1]
            else None
            for curve in curves
        ],
    }


def _tic(curve: LightCurve) -> str:
    return curve.object_id.split()[1]


def _marked(curve: LightCurve, known: Mapping[str, list[tuple[float, float, float]]]) -> Labels:
    """Events of the light curve's star while it was observed."""
    first_d, last_d = curve.time_d[[0, -1]]
    inside = [one for one in known.get(_tic(curve), []) if one[1] >= first_d and one[0] <= last_d]
    label_L3 = np.array(inside, np.float64).reshape(-1, 3)
    return Labels(asked_L2=label_L3[label_L3[:, 2] > FLARE_AMPLITUDE, :2], any_L2=label_L3[:, :2])


def _calm(flag: Labels) -> Labels:
    """None of the flags that begin in the storm is asked for."""
    is_calm_L = (flag.asked_L2[:, 0] < STORM_D[0]) | (flag.asked_L2[:, 0] > STORM_D[1])
    return dataclasses.replace(flag, asked_L2=flag.asked_L2[is_calm_L])


def _flags(where: str, curve: LightCurve) -> Labels:
    """Runs of flagged cadences; a star without a file has none."""
    path = storage.join(where, f"kic{_tic(curve)}_flagged.txt")
    text = storage.read_bytes(path).decode() if storage.exists(path) else ""
    index_H = np.unique(np.array(text.split(), np.int64))
    flag_L2 = spans_of_runs(curve.time_d, index_H[index_H < len(curve.time_d)])
    return Labels(asked_L2=flag_L2, any_L2=flag_L2)
