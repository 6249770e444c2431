"""How the flare finder stands beside AltaiPony's, on the same light curves and by the same rules.

    python -m benchmarks.flare_finders DATA --altaipony PYTHON [--stars dev|held-out] [--curves N]
                                        [--limits]

PYTHON is that of an environment where AltaiPony is installed (`python -m venv DIR; DIR/bin/pip
install altaipony 'numpy<2' 'astropy<7' 'scipy<1.14'`: one of its needs does not import with
newer ones); without it the others are judged alone, and the reason is printed. DATA is laid out
as for `astroray evaluate flares --track light-curves`, whose labels and rule of matching are used.
Beside the labels, made flares of the Davenport (2014) template are put into each light curve,
away from all that is labeled or found by the plainest finder, and looked for. Every second star
by name is held out. A light curve is searched by one thread, the first of a process twice: the
second time is taken. The peer has a process for each core. What it found is kept in the folder
`--keep`, and is taken from there when the same light curves are asked for again.
"""

import argparse
import dataclasses
import hashlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from astroray.evaluation.text_columns import aligned
from astroray.flares.agreement import find_plainly
from astroray.flares.events import Event
from astroray.flares.found_flares import candidates_of
from astroray.flares.inject import Injection, inject_flares
from astroray.forecast.finders import FINDER, FLOOR, finder_table, judge_finders
from astroray.forecast.labeled_curves import FoundCurve, find_in_curves, read_labels
from benchmarks.clock import timed

METHODS = {"tess": ("savgol", "custom"), "kepler": ("savgol",)}
"""AltaiPony's own are for two minutes; at half an hour it offers the filter alone."""
ED_EDGES_S = {
    "tess": (3.0, 10.0, 30.0, 100.0, 1000.0),
    "kepler": (10.0, 30.0, 100.0, 300.0, 3000.0),
}
"""Bins of the equivalent durations that are put in, s."""
NUM_MADE = 12
"""Made flares in each light curve."""
CLEARANCE_D = 0.1
"""From what is in a light curve to the peak of a made flare."""
NUM_RESAMPLES = 1000
CONFIDENCES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
SIGMAS = (3.0, 4.0, 5.0, 6.0, 8.0)
"""Limits of ours and of the plainest finder, for their recall at other precisions."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search:
    """What a finder saw in light curves, N in number, and what it took."""

    flares: Sequence[np.ndarray]
    """[F, 3] of each: start and stop in d, equivalent duration in s."""
    wall_s_N: np.ndarray
    cpu_s_N: np.ndarray
    errors: Sequence[str] = ()

    @property
    def spans(self) -> list[np.ndarray]:
        """[F, 2] of each."""
        return [flare_F3[:, :2] for flare_F3 in self.flares]


def search_ours(curves: Sequence[FoundCurve]) -> Search:
    """`astroray flares find`, without what it tells beside the flares."""
    runs = [timed(partial(candidates_of, one.curve)) for one in (curves[0], *curves)][1:]
    rows = [
        [(e.start_d, e.stop_d, e.equivalent_duration_s) for e in run.result if not e.refused]
        for run in runs
    ]
    return Search(
        flares=[np.array(row, np.float64).reshape(-1, 3) for row in rows],
        wall_s_N=np.array([run.wall_s for run in runs]),
        cpu_s_N=np.array([run.cpu_s for run in runs]),
    )


def search_plainly(curves: Sequence[FoundCurve]) -> Search:
    """The plainest finder; it measures no durations."""
    runs = [timed(partial(find_plainly, one.curve.time_d, one.curve.flux)) for one in curves]
    return Search(
        flares=[np.pad(run.result, ((0, 0), (0, 1)), constant_values=np.nan) for run in runs],
        wall_s_N=np.array([run.wall_s for run in runs]),
        cpu_s_N=np.array([run.cpu_s for run in runs]),
    )


def search_theirs(curves: Sequence[FoundCurve], python: str, method: str, keep: Path) -> Search:
    """AltaiPony by one of its methods, from the folder where it has been asked before.

    Raises CalledProcessError where it does not start.
    """
    given: dict[str, np.ndarray] = {}
    for at, one in enumerate(curves):
        is_known_T = np.isfinite(one.curve.flux)
        level = np.median(one.curve.flux[is_known_T])
        given |= {
            f"time_{at}": one.curve.time_d[is_known_T],
            f"flux_{at}": one.curve.flux[is_known_T] / level,
        }
    digest = hashlib.sha256(b"".join(array.tobytes() for array in given.values())).hexdigest()
    found = keep / f"altaipony-{method}-{digest[:16]}.json"
    if not found.exists():
        print(f"AltaiPony, {method}: {len(curves)} light curves", file=sys.stderr, flush=True)
        found.write_text(json.dumps(_ask(given, python, method, keep)), "utf-8")
    rows = json.loads(found.read_text("utf-8"))
    return Search(
        flares=[np.array(row["flares"], np.float64).reshape(-1, 3) for row in rows],
        wall_s_N=np.array([row["wall_s"] for row in rows]),
        cpu_s_N=np.array([row["cpu_s"] for row in rows]),
        errors=[row["error"] for row in rows if row["error"]],
    )


def _ask(
    given: Mapping[str, np.ndarray], python: str, method: str, keep: Path
) -> list[dict[str, Any]]:
    """What the peer writes of each light curve, asked in as many processes as there are cores."""
    parts = np.array_split(np.arange(len(given) // 2), os.cpu_count() or 1)
    parts = [part for part in parts if part.size]
    with tempfile.TemporaryDirectory(dir=keep) as folder:
        running = []
        for place, part in enumerate(parts):
            of_part: dict[str, Any] = {
                f"{kind}_{at}": given[f"{kind}_{row}"]
                for at, row in enumerate(part)
                for kind in ("time", "flux")
            }
            np.savez(f"{folder}/{place}.npz", **of_part)
            script = str(Path(__file__).with_name("altaipony_finder.py"))
            command = [python, "-W", "ignore", script, f"{folder}/{place}.npz"]
            # Its hundreds of warnings are not ours to tell; its errors are in what it writes.
            running.append(
                subprocess.Popen(
                    [*command, f"{folder}/{place}.json", method],
                    env=_plain_environment(),
                    stderr=subprocess.DEVNULL,
                )
            )
        for process in running:
            if process.wait():
                raise subprocess.CalledProcessError(process.returncode, process.args)
        texts = [Path(f"{folder}/{at}.json").read_text("utf-8") for at in range(len(parts))]
    return [row for text in texts for row in json.loads(text)]


def _plain_environment() -> dict[str, str]:
    """One thread, and none of our modules."""
    left = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return left | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def chosen(found: Sequence[FoundCurve], stars: str, most: int) -> list[FoundCurve]:
    """The light curves of the stars that are asked for, at most so many of each, evenly taken."""
    by_star: dict[str, list[FoundCurve]] = {}
    for one in found:
        by_star.setdefault(one.curve.object_id, []).append(one)
    names = sorted(by_star)
    names = {"all": names, "dev": names[::2], "held-out": names[1::2]}[stars]
    return [
        by_star[name][at]
        for name in names
        for at in np.unique(
            np.linspace(0, len(by_star[name]) - 1, most or len(by_star[name])).astype(int)
        )
    ]


def with_made_flares(
    data: str, name: str, curves: Sequence[FoundCurve]
) -> list[tuple[FoundCurve, Injection]]:
    """The light curves with made flares in them; what no finder but the plainest knows decides
    where, so that none is favored."""
    labels = read_labels(data, name, [one.curve for one in curves])
    made = []
    for at, one in enumerate(curves):
        curve = one.curve
        taken = [find_plainly(curve.time_d, curve.flux)]
        taken += [marks.any_L2 for marked in labels.values() if (marks := marked[at])]
        free_T = np.isfinite(curve.flux)
        for first_d, last_d in np.concatenate(taken):
            free_T &= (curve.time_d < first_d - CLEARANCE_D) | (curve.time_d > last_d + CLEARANCE_D)
        edges = ED_EDGES_S[name]
        injection = inject_flares(
            curve.time_d,
            curve.flux,
            num_flares=NUM_MADE,
            seed=[7, at],
            ed_range_s=(edges[0], edges[-1]),
            free_T=free_T,
        )
        changed = dataclasses.replace(curve, flux=injection.flux_T)
        made.append((FoundCurve(curve=changed, events=()), injection))
    return made


def recovery_table(
    name: str, made: Sequence[tuple[FoundCurve, Injection]], searches: Mapping[str, Search]
) -> str:
    """By bin of equivalent duration: share of the made flares found, and their median found over
    made equivalent duration."""
    edges = np.array(ED_EDGES_S[name])
    made_J = np.concatenate([injection.equivalent_duration_s_J for _, injection in made])
    bins = np.digitize(made_J, edges[1:-1])
    counts = np.bincount(bins, minlength=len(edges) - 1)
    lines = [
        [
            "found, duration",
            *(f"{low:g}..{high:g} s" for low, high in itertools.pairwise(edges)),
        ]
    ]
    for finder, search in searches.items():
        got_J = np.concatenate(
            [
                _matched(injection, flare_F3, one.curve.cadence_s / 86400)
                for (one, injection), flare_F3 in zip(made, search.flares, strict=True)
            ]
        )
        cells = []
        for at in range(len(counts)):
            share_M = (got_J / made_J)[(bins == at) & (got_J != -np.inf)]
            found = len(share_M) / max(counts[at], 1)
            cells.append(f"{found:.2f}, {np.median(share_M) if len(share_M) else np.nan:.2f}")
        lines.append([finder, *cells])
    title = f"\n{name}, made flares: {' '.join(map(str, counts.tolist()))} in the bins"
    return f"{title}\n{aligned(lines)}"


def _matched(injection: Injection, flare_F3: np.ndarray, cadence_d: float) -> np.ndarray:
    """[J] duration of the flare found at each peak, NaN where it has none, -inf where none is."""
    matched_J = np.full(len(injection.peak_d_J), -np.inf)
    for start_d, stop_d, duration_s in flare_F3:
        edges_d = [start_d - cadence_d, stop_d + cadence_d]
        first, last = np.searchsorted(injection.peak_d_J, edges_d)
        matched_J[first:last] = duration_s
    return matched_J


def cost_table(searches: Mapping[str, Search]) -> str:
    """Seconds a light curve."""
    lines = [["", "wall s a curve", "slowest", "CPU s a curve", "not searched"]]
    for finder, search in searches.items():
        wall_s, cpu_s = search.wall_s_N, search.cpu_s_N
        cells = [f"{wall_s.mean():.3f}", f"{wall_s.max():.3f}", f"{cpu_s.mean():.3f}"]
        lines.append([finder, *cells, f"{len(search.errors)}"])
    reasons = sorted({error for search in searches.values() for error in search.errors})
    return "\n".join(["", aligned(lines), *(f"not searched: {reason}" for reason in reasons)])


def limit_tables(data: str, name: str, curves: Sequence[FoundCurve]) -> str:
    """Both finders at other limits: against the labels, and on the same light curves upside down,
    where all that is found is false."""
    turned = [
        dataclasses.replace(one.curve, flux=2 * np.nanmedian(one.curve.flux) - one.curve.flux)
        for one in curves
    ]
    false = [candidates_of(curve) for curve in turned]
    others, num_false = {}, {}
    for limit in CONFIDENCES:
        title = f"confidence {limit:g}"
        others[title] = [_surer(one.events, limit) for one in curves]
        num_false[title] = sum(len(_surer(events, limit)) for events in false)
    for sigma in SIGMAS:
        title = f"plainest, {sigma:g} sigma"
        others[title] = [find_plainly(c.curve.time_d, c.curve.flux, sigma=sigma) for c in curves]
        num_false[title] = sum(len(find_plainly(c.time_d, c.flux, sigma=sigma)) for c in turned)
    skills = judge_finders(data, name, curves, NUM_RESAMPLES, 0, others=others)
    lines = [["found upside down", ""], *([title, str(num)] for title, num in num_false.items())]
    return f"{finder_table(skills)}\n\n{name}\n{aligned(lines)}"


def _surer(events: Sequence[Event], limit: float) -> np.ndarray:
    """[F, 2] spans of what would be found at another limit of confidence."""
    spans = [
        (event.start_d, event.stop_d)
        for event in events
        if event.refused in ("", "doubtful") and event.confidence >= limit
    ]
    return np.array(spans, np.float64).reshape(-1, 2)


def compare(data: str, name: str, asked: argparse.Namespace, keep: Path) -> str:
    """All tables of a set of light curves."""
    curves = chosen(find_in_curves(data, name), asked.stars, asked.curves)
    made = with_made_flares(data, name, curves)
    changed = [one for one, _ in made]
    searches = {FINDER: search_ours(curves), FLOOR: search_plainly(curves)}
    again = {FINDER: search_ours(changed), FLOOR: search_plainly(changed)}
    for method in asked.methods if asked.altaipony else ():
        if method not in METHODS[name]:
            continue
        title = f"AltaiPony, {method}"
        searches[title] = search_theirs(curves, asked.altaipony, method, keep)
        again[title] = search_theirs(changed, asked.altaipony, method, keep)
    found = [dataclasses.replace(one, events=candidates_of(one.curve)) for one in curves]
    others = {title: search.spans for title, search in searches.items() if "Altai" in title}
    skills = judge_finders(data, name, found, NUM_RESAMPLES, 0, others=others)
    tables = [finder_table(skills), recovery_table(name, made, again), cost_table(searches)]
    if asked.limits:
        tables.append(limit_tables(data, name, found))
    return "\n".join(tables)


def main() -> None:
    """`python -m benchmarks.flare_finders`."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.flare_finders", description="Flare finders side by side."
    )
    parser.add_argument("data", help="folder that holds lightcurves/NAME")
    parser.add_argument("--altaipony", metavar="PYTHON", help="of the peer's environment")
    parser.add_argument("--stars", choices=("all", "dev", "held-out"), default="all")
    parser.add_argument("--curves", type=int, default=0, help="most of a star; 0: all")
    parser.add_argument("--sets", nargs="+", choices=sorted(METHODS), default=sorted(METHODS))
    parser.add_argument("--methods", nargs="+", choices=METHODS["tess"], default=METHODS["tess"])
    parser.add_argument("--limits", action="store_true", help="both finders at other limits, too")
    parser.add_argument("--keep", metavar="DIR", help="where the peer's answers stay")
    asked = parser.parse_args()
    if asked.altaipony:
        done = subprocess.run(
            [asked.altaipony, "-W", "ignore", "-c", "import altaipony.flarelc"],
            env=_plain_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            print(f"AltaiPony skipped: {done.stderr.strip().splitlines()[-1]}")
            asked.altaipony = None
    else:
        print("AltaiPony skipped: no --altaipony PYTHON of an environment that has it")
    with tempfile.TemporaryDirectory(prefix="astroray-bench-") as scratch:
        keep = Path(asked.keep or scratch)
        keep.mkdir(parents=True, exist_ok=True)
        for name in asked.sets:
            print(compare(asked.data, name, asked, keep), flush=True)


if __name__ == "__main__":
    main()
