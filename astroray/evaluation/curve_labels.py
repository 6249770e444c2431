"""How the labels of light curves become pools of usual and rare ones."""

import csv
import gzip
import io
from collections.abc import Iterator, Mapping

import numpy as np

from astroray import data_sets, storage, surveys
from astroray.surveys.light_curve_rows import LightCurve, LightCurves

__all__ = ["crts_pools", "csv_rows", "tess_pools"]

WINDOW = 512
FLARE_AMPLITUDE = 0.05
"""Relative height of the events that make a window a rare one."""
MIN_OBSERVED_SHARE = 0.75
"""Of the cadences of a window: in a half empty one the flare may be in the gap."""
MIN_INTERVALS, INTERVAL_D = 8, 10.0
"""Observed intervals of ten days that a transient needs to be told from others."""

_Pools = tuple[str, Mapping[str, list[str]]]


def tess_pools(folder: str) -> _Pools:
    """Survey of windows of 512 cadences, and those that are quiet or have a flare.

    Events are those of `stella_events.csv` (Feinstein et al. 2020, AJ 160, 219): a window with
    the peak of one above a relative amplitude of 0.05 is `flare`, one without any event `quiet`,
    the others are unused. Raises ConfigError where the files are missing.
    """
    survey = f"{folder}/*.npz?format=light_curves&time=BTJD&mission=tess&window={WINDOW}"
    events: dict[str, list[tuple[float, float, float, float]]] = {}
    for row in csv_rows(storage.join(folder, "stella_events.csv")):
        times = (float(row[f"t_{name}_btjd"]) for name in ("start", "peak", "end"))
        start_d, peak_d, stop_d = times
        events.setdefault(row["tic"], []).append((start_d, peak_d, stop_d, float(row["amp_rel"])))
    pools: dict[str, list[str]] = {"quiet": [], "flare": []}
    for object_id, curve in _curves(survey):
        first_d, last_d = curve.time_d[[0, -1]]
        if np.count_nonzero(np.isfinite(curve.flux)) < MIN_OBSERVED_SHARE * WINDOW:
            continue
        known = events.get(object_id.split()[1], [])
        inside = [event for event in known if event[2] >= first_d and event[0] <= last_d]
        if any(e[3] > FLARE_AMPLITUDE and first_d <= e[1] <= last_d for e in inside):
            pools["flare"].append(object_id)
        elif not inside:
            pools["quiet"].append(object_id)
    return survey, pools


def crts_pools(folder: str) -> _Pools:
    """Survey of the transients, and those of each class that were observed often enough.

    A transient counts with measurements in at least eight intervals of ten days. Raises
    ConfigError where the files are missing.
    """
    survey = f"{folder}/crts_subset_500.csv.gz?format=light_curves&id=ID&mag=true"
    class_of = {
        f"TranID{row['TransientID']}": row["Classification"]
        for row in csv_rows(storage.join(folder, "crts_transient_labels.csv.gz"))
    }
    pools: dict[str, list[str]] = {"CV": [], "SN": []}
    for object_id, curve in _curves(survey):
        seen_d = curve.time_d[np.isfinite(curve.flux)]
        name = class_of.get(object_id)
        if name in pools and len(np.unique(seen_d // INTERVAL_D)) >= MIN_INTERVALS:
            pools[name].append(object_id)
    return survey, pools


def _curves(survey: str) -> Iterator[tuple[str, LightCurve]]:
    for shard in surveys.list_shards(survey).shards:
        for rows in surveys.read_shard(shard):
            if isinstance(rows, LightCurves):
                yield from zip(rows.object_id_B, rows.curve_B, strict=True)


def csv_rows(path: str) -> Iterator[dict[str, str]]:
    """Rows of a CSV file of a labelled set, gzipped or not; raises ConfigError where it is not."""
    data_sets.expect(path)
    data = storage.read_bytes(path)
    text = gzip.decompress(data) if path.endswith(".gz") else data
    yield from csv.DictReader(io.StringIO(text.decode("utf-8-sig")))
