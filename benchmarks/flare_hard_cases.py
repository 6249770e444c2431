"""What the flare finder makes of long flares and of dips, in labeled light curves.

    python -m benchmarks.flare_hard_cases DATA [--longest D] [--stars dev|held-out]

Two long flares are put into each light curve, 1 to 4 h wide and 10 to 60 times as high as its
noise, and looked for: how many are found, and how much of their equivalent duration. Then a dip of
10 to 20 h, as deep as 10 to 30 times its noise, with slanting sides; what is found within 0.8 d of
it and was not before is a shoulder that was taken for a flare. `--longest` leaves out the longer
windows of the trend. Every second star by name is held out.
"""

import argparse
import itertools

import numpy as np

from astroray.flares.detrend import SIGMA_OF_MAD, DetrendConfig, detrend
from astroray.flares.events import Event, FlareRule, find_events
from astroray.flares.inject import inject_flares
from astroray.flares.long_flares import search_flares
from astroray.flares.template import TEMPLATE_AREA
from astroray.forecast.labeled_curves import find_in_curves
from astroray.surveys.light_curves import LightCurve
from benchmarks.flare_finders import METHODS, chosen

WIDTHS_D = (1 / 24, 1.5 / 24, 2.5 / 24, 4 / 24)
"""Edges of the bins of full width at half maximum."""
HEIGHTS = (10.0, 60.0)
DEPTHS, LENGTHS_D = (10.0, 30.0), (10 / 24, 20 / 24)
REACH_D = 0.8
CLEARANCE_D = 0.3


def flares_of(curve: LightCurve, flux_T: np.ndarray, config: DetrendConfig) -> list[Event]:
    """The flares in the light curve with another flux."""
    rule = FlareRule().for_mission(curve.mission)
    _, events = search_flares(curve.time_d, flux_T, rule, config, fired_T=curve.fired_T)
    return [event for event in events if not event.refused]


def free_cadences(curve: LightCurve, flares: list[Event]) -> np.ndarray:
    """[T] where nothing was found within CLEARANCE_D, more than a day and a half from the ends."""
    inside_T = np.abs(curve.time_d - curve.time_d[[0, -1]].mean()) < np.ptp(curve.time_d) / 2 - 1.5
    free_T = np.isfinite(curve.flux) & inside_T
    for event in flares:
        free_T &= (curve.time_d < event.start_d - CLEARANCE_D) | (
            curve.time_d > event.stop_d + CLEARANCE_D
        )
    return free_T


def long_flares(
    curve: LightCurve, free_T: np.ndarray, noise: float, seed: int, config: DetrendConfig
) -> list[tuple[float, float]]:
    """Width in d of each made flare, and the share of its duration found; 0 where it is not."""
    unit_s = noise * 86400 * WIDTHS_D[1] * TEMPLATE_AREA
    made = inject_flares(
        curve.time_d,
        curve.flux,
        num_flares=2,
        seed=[11, seed],
        ed_range_s=(HEIGHTS[0] * unit_s, HEIGHTS[1] * unit_s),
        fwhm_range_d=(WIDTHS_D[0], WIDTHS_D[-1]),
        free_T=free_T,
    )
    found = flares_of(curve, made.flux_T, config)
    margin_d = curve.cadence_s / 86400
    return [
        (
            width_d,
            sum(
                event.equivalent_duration_s
                for event in found
                if event.start_d - margin_d <= peak_d <= event.stop_d + margin_d
            )
            / ed_s,
        )
        for peak_d, width_d, ed_s in zip(
            made.peak_d_J, made.fwhm_d_J, made.equivalent_duration_s_J, strict=True
        )
    ]


def shoulders(
    curve: LightCurve, free_T: np.ndarray, depth: float, seed: int, config: DetrendConfig
) -> int:
    """Flares found beside a made dip that are not there without it."""
    random = np.random.default_rng([13, seed])
    middle_d = curve.time_d[random.choice(np.flatnonzero(free_T))]
    half_d = random.uniform(*LENGTHS_D) / 2
    side_d = half_d * random.uniform(0.05, 0.3)
    away_T = np.abs(curve.time_d - middle_d)
    dip_T = depth * random.uniform(*DEPTHS) * np.clip((half_d - away_T) / side_d, 0, 1)
    before = flares_of(curve, curve.flux, config)
    return sum(
        abs(event.peak_d - middle_d) < half_d + REACH_D
        and not any(old.start_d - 0.01 <= event.peak_d <= old.stop_d + 0.01 for old in before)
        for event in flares_of(curve, curve.flux - dip_T, config)
    )


def judge(data: str, name: str, stars: str, config: DetrendConfig) -> list[str]:
    """What becomes of dips and of long flares in a set of light curves, a line each."""
    made: list[tuple[float, float]] = []
    num_dips = num_shoulders = 0
    for seed, one in enumerate(chosen(find_in_curves(data, name), stars, 0)):
        curve, level = one.curve, float(np.nanmedian(one.curve.flux))
        noise = SIGMA_OF_MAD * float(np.nanmedian(np.abs(np.diff(curve.flux)))) / np.sqrt(2)
        first_trend = detrend(curve.time_d, curve.flux, fired_T=curve.fired_T)
        known = [event for event in find_events(curve.time_d, first_trend) if not event.refused]
        free_T = free_cadences(curve, known)  # where things are put does not depend on `config`
        if free_T.any():
            made += long_flares(curve, free_T, noise / level, seed, config)
            num_shoulders += shoulders(curve, free_T, noise, seed, config)
            num_dips += 1
    lines = [f"{name}: {num_shoulders} shoulders of {num_dips} dips"]
    width_J, share_J = np.array(made, np.float64).reshape(-1, 2).T
    for low_d, high_d in itertools.pairwise(WIDTHS_D):
        is_in_J = (width_J >= low_d) & (width_J < high_d)
        found_J = share_J[is_in_J & (share_J > 0)]
        share = f", median share {np.median(found_J):.2f}" if len(found_J) else ""
        lines.append(
            f"{name}: {24 * low_d:.1f} to {24 * high_d:.1f} h wide: "
            f"{len(found_J)} of {is_in_J.sum()} found{share}"
        )
    return lines


def main() -> None:
    """`python -m benchmarks.flare_hard_cases`."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.flare_hard_cases", description="Long flares, and dips."
    )
    parser.add_argument("data", help="folder that holds lightcurves/NAME")
    parser.add_argument("--longest", type=float, default=max(DetrendConfig().windows_d))
    parser.add_argument("--stars", choices=("all", "dev", "held-out"), default="all")
    asked = parser.parse_args()
    windows_d = DetrendConfig().windows_d
    config = DetrendConfig(windows_d=tuple(d for d in windows_d if d <= asked.longest))
    for name in sorted(METHODS):
        print("\n".join(judge(asked.data, name, asked.stars, config)), flush=True)


if __name__ == "__main__":
    main()
