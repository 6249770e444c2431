"""What AltaiPony finds in light curves; run by the Python it is installed in, not by ours.

    PYTHON benchmarks/altaipony_finder.py CURVES.npz FOUND.json savgol|custom

CURVES.npz holds `time_0`, `flux_0`, `time_1`, ...: d and relative flux, no NaN. FOUND.json gets a
list of {"flares": [[start, stop, equivalent duration in s], ...], "wall_s", "cpu_s", "error"}.

`savgol` is its quick start: `detrend("savgol").find_flares()`, all settings its own. `custom` is
what its tutorials advise for stars that vary much: spline, sines and two Savitzky-Golay filters,
then the noise that it estimates itself. The error of a flux, which it takes from the mission, is
the robust scatter of neighbors here, since not all of the files have one.
"""

import json
import logging
import sys
import time
import warnings

import numpy as np


def find(time_d: np.ndarray, flux: np.ndarray, method: str) -> list[list[float]]:
    """Start and stop in d, and equivalent duration in s, of each flare."""
    from altaipony.customdetrend import custom_detrending, estimate_detrended_noise
    from altaipony.flarelc import FlareLightCurve

    error = 1.4826 * np.median(np.abs(np.diff(flux))) / np.sqrt(2)
    cadence = np.rint((time_d - time_d[0]) / np.median(np.diff(time_d))).astype(int)
    curve = FlareLightCurve(
        time=time_d, flux=flux, flux_err=np.full(len(flux), error), cadenceno=cadence, targetid=0
    )
    curve["cadenceno"] = cadence
    if method == "savgol":
        curve = curve.detrend("savgol")
    else:
        curve = estimate_detrended_noise(curve.detrend("custom", func=custom_detrending))
    table = curve.find_flares().flares
    return table[["tstart", "tstop", "ed_rec"]].to_numpy(float).tolist()


def main(curves: str, found: str, method: str) -> None:
    """Searches all light curves; one that it cannot search gets the error in words."""
    given, rows = np.load(curves), []
    num_curves = len(given.files) // 2
    for at in [0, *range(num_curves)]:  # the first one twice: its first time pays for imports
        flares, error = [], ""
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        try:
            flares = find(given[f"time_{at}"], given[f"flux_{at}"], method)
        except Exception as reason:  # noqa: BLE001  # whatever the peer raises is its answer
            error = f"{type(reason).__name__}: {reason}"
        wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
        rows.append({"flares": flares, "wall_s": wall_s, "cpu_s": cpu_s, "error": error})
    with open(found, "w", encoding="utf-8") as file:
        json.dump(rows[1:], file)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)  # of a process of its own
    main(*sys.argv[1:])
