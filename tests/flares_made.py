"""Made light curves of a rotating star, with flares where a test wants them."""

import csv
import gzip

import numpy as np

from astroray.flares.template import mean_flare_shape

MINUTE_D = 1 / 1440


def star(
    *,
    days=12.0,
    cadence_d=2 * MINUTE_D,
    noise=0.001,
    period_d=3.0,
    spots=0.02,
    flares=(),
    seed=0,
    level=1000.0,
):
    """Time in d and flux: `flares` are (peak in d, full width in minutes, amplitude)."""
    random = np.random.default_rng(seed)
    time_d = 1500 + np.arange(0, days, cadence_d)
    flux = 1 + spots * np.sin(2 * np.pi * time_d / period_d)
    flux += spots / 3 * np.cos(4 * np.pi * time_d / period_d)
    flux += random.normal(0, noise, len(time_d))
    for peak_d, width_min, amplitude in flares:
        width_d = width_min * MINUTE_D
        phase = (time_d - 1500 - peak_d) / width_d
        flux += amplitude * mean_flare_shape(phase, cadence_d / width_d)
    return time_d, level * flux


def light_curve(time_d, flux, **changes):
    """A LightCurve of these numbers."""
    from astroray.surveys.light_curves import LightCurve

    facts = {
        "object_id": "TIC 7",
        "row": 0,
        "ra_deg": 10.0,
        "dec_deg": -20.0,
        "time_zero": "BTJD",
        "flux_err": np.full(len(flux), np.nan),
        "quality": np.zeros(len(flux), np.int32),
        "flux_kind": "pdcsap",
        "mission": "tess",
        "cadence_s": 120.0,
        "meta": {"teff_k": 3300.0, "radius_sun": 0.4},
    }
    return LightCurve(time_d=time_d, flux=flux, **(facts | changes))


def write_labeled(folder):
    """Puts one star of TESS and one of Kepler into a folder of data, each with two flares."""
    tess, kepler = (
        folder / "lightcurves" / name for name in ("tess_young_stars", "kepler_q9_flagged")
    )
    catalogs = folder / "lightcurves" / "catalogues"
    for place in (tess, kepler, catalogs):
        place.mkdir(parents=True)
        (place / "index.csv").write_text("file\n")
    time_d, flux = star(days=12.0, flares=[(3.0, 30, 0.2), (8.0, 30, 0.2)], level=1.0)
    time_d = time_d - 170  # sectors 1 and 2
    error = np.full(len(flux), 0.001)
    np.savez(tess / "tic7_s0001.npz", time=time_d, flux=flux, flux_err=error)
    with (tess / "stella_events.csv").open("w") as file:
        rows = csv.writer(file)
        rows.writerow(["tic", "sector", "t_start_btjd", "t_peak_btjd", "t_end_btjd", "amp_rel"])
        rows.writerow([7, 1, 1333.0, 1333.0, 1333.02, 0.2])
        rows.writerow([7, 1, 1335.0, 1335.0, 1335.02, 0.01])
    with gzip.open(catalogs / "guenther2020_tess_s1s2_flares.txt.gz", "wt") as file:
        file.write("TIC,tpeak,FWHMdt\n7,2458338.005,0.01\n")
    time_d, flux = star(
        days=30.0, cadence_d=29.4244 * MINUTE_D, level=1.0, flares=[(9.0, 120, 0.2)]
    )
    with gzip.open(kepler / "kic8.csv.gz", "wt") as file:
        file.write("time_bkjd,flux\n")
        file.writelines(f"{t - 622:.5f},{f:.6f}\n" for t, f in zip(time_d, flux, strict=True))
    peak = int(np.argmax(flux))
    (kepler / "kic8_flagged.txt").write_text(f"  {peak}\n  {peak + 1}\n  3\n  999999\n")
    return str(folder)
