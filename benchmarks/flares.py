"""What light curves cost: from mission files to the arrays that encoders eat, and to flares.

The peer of the first claim is `prepare_plainly` below: astropy opens each file and hands over its
columns, and numpy masks, scales and bins them as astroray does. Both give the same arrays, which
is checked before any time is taken. Files are simulated TESS light curves of a sector at two
minutes, in the twenty columns of the mission, read from the page cache; one core. Both run in a
fresh process that keeps memory as a worker of a scan does (workers.ENVIRONMENT), with one thread:
without it each array of a light curve is mapped anew, and page faults take a quarter of the time.

The second claim is measured against the disk: what it takes to read the bytes of the files.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from astroray import surveys
from astroray.execution import workers
from astroray.flares.template import flare_shape
from astroray.surveys.quality import mask_bits
from astroray.surveys.shards import Rows
from benchmarks.claims import at_least
from benchmarks.clock import timed
from benchmarks.processes import run_fresh
from benchmarks.rows import BenchRow, MeasurementError, measured, run_benchmark, spread

NUM_CADENCES, CADENCE_D, FIRST_DAY = 19_000, 2 / 1440, 1325.3
FLARES_A_STAR = 12
SEARCHED = "tess-0000*_lc.fits"
"""Ten of the files: finding takes seconds each, reading milliseconds."""
LARGEST_ERROR = 1e-5
BAD_QUALITY = 0.02
SECONDS_PER_DAY = 86400.0
AS_WORKERS = {**workers.ENVIRONMENT, "OMP_NUM_THREADS": "1"}
"""What Ray gives a worker of one CPU, with astroray's own settings."""

CLAIMS = (
    at_least(
        "light curves/s from FITS to prepared arrays over an astropy loop, one core",
        3.0,
        peer="fits.open, the needed columns, numpy",
    ),
    at_least(
        "seconds to read the files' bytes over seconds to find their flares, one core",
        None,
        peer="read() of each file",
    ),
)


def write_stars(folder: Path, num_stars: int) -> list[Path]:
    """TESS files of turning, flaring stars as the mission's pipeline exports them."""
    from astropy.io import fits

    paths = []
    for star in range(num_stars):
        draw = np.random.default_rng(star)
        time_d = FIRST_DAY + CADENCE_D * np.arange(NUM_CADENCES)
        flux = (
            1
            + 0.02 * np.sin(2 * np.pi * time_d / draw.uniform(0.5, 9))
            + draw.normal(0, 0.002, NUM_CADENCES)
        )
        for _ in range(FLARES_A_STAR):
            peak_d, half_d = draw.uniform(time_d[0], time_d[-1]), draw.uniform(0.005, 0.03)
            flux += draw.uniform(0.02, 0.3) * flare_shape((time_d - peak_d) / half_d)
        quality = np.where(draw.random(NUM_CADENCES) < BAD_QUALITY, 128, 0)
        columns = [
            fits.Column("TIME", "D", array=time_d),
            fits.Column("TIMECORR", "E", array=np.zeros(NUM_CADENCES)),
            fits.Column("CADENCENO", "J", array=np.arange(NUM_CADENCES)),
            *(
                fits.Column(f"{name}{error}", "E", array=1000 * flux)
                for name in ("SAP_FLUX", "SAP_BKG", "PDCSAP_FLUX")
                for error in ("", "_ERR")
            ),
            fits.Column("QUALITY", "J", array=quality),
            *(
                fits.Column(f"{kind}_CENTR{axis}{error}", "D", array=np.zeros(NUM_CADENCES))
                for kind in ("PSF", "MOM")
                for axis in "12"
                for error in ("", "_ERR")
            ),
            *(fits.Column(f"POS_CORR{axis}", "E", array=np.zeros(NUM_CADENCES)) for axis in "12"),
        ]
        table = fits.BinTableHDU.from_columns(columns, name="LIGHTCURVE")
        table.header.update(
            TIMESYS="TDB", TIMEREF="SOLARSYSTEM", TIMEUNIT="d", BJDREFI=2457000, BJDREFF=0.0
        )
        first = fits.PrimaryHDU()
        first.header.update(
            TELESCOP="TESS", OBJECT=f"TIC {star}", TICID=star, SECTOR=1, RA_OBJ=51.0, DEC_OBJ=-77.0
        )
        path = folder / f"tess-{star:05d}_lc.fits"
        fits.HDUList([first, table]).writeto(path)
        paths.append(path)
    return paths


def prepare_ours(shard: Any, preparation: Any) -> np.ndarray:
    """All light curves of the shard as a scan prepares them, [N, 2, W, 512]."""
    from astroray.preparation.light_curves import prepare_curves

    parts = [
        prepare_curves(item, preparation).input_BCYX
        for item in surveys.read_shard(shard)
        if isinstance(item, Rows)
    ]
    return np.concatenate(parts)


def prepare_plainly(paths: Sequence[Path], preparation: Any) -> np.ndarray:
    """The peer: the same arrays by astropy's tables and numpy, a file at a time."""
    from astropy.io import fits

    mask, num_bins = mask_bits("default", "tess"), preparation.num_windows * 512
    arrays = []
    for path in paths:
        with fits.open(path) as hdus:
            table = hdus["LIGHTCURVE"].data
            time_d, flux = np.array(table["TIME"]), np.array(table["PDCSAP_FLUX"], np.float64)
            quality = np.array(table["QUALITY"])
        kept = np.isfinite(time_d) & np.isfinite(flux) & ((quality & mask) == 0)
        time_d, flux = time_d[kept], flux[kept]
        bins = (time_d - time_d[0]) * (SECONDS_PER_DAY / preparation.cadence_s)
        bins = np.rint(bins / max(1.0, bins[-1] / (num_bins - 1))).astype(np.int64)
        above = flux / np.median(flux) - 1
        count = np.bincount(bins, minlength=num_bins)
        total = np.bincount(bins, weights=above, minlength=num_bins)
        scaled = np.arcsinh(total / np.maximum(count, 1) / preparation.scale)
        planes = np.stack([scaled, count > 0])
        arrays.append(planes.reshape(2, preparation.num_windows, 512).astype(np.float32))
    return np.stack(arrays)


def measure_reading(paths: Sequence[Path], rounds: int) -> dict[str, Any]:
    """The first row; raises MeasurementError where the arrays differ."""
    from astroray.preparation import Wishes
    from astroray.preparation.light_curves import measure_curves

    (shard,) = surveys.list_shards(f"{paths[0].parent}/*_lc.fits").shards
    sample = [item for item in surveys.read_shard(shard) if isinstance(item, Rows)]
    preparation = measure_curves(iter(sample), Wishes())
    ours, peer = prepare_ours(shard, preparation), prepare_plainly(paths, preparation)
    error = float(np.abs(ours - peer).max()) if ours.shape == peer.shape else np.inf
    if not error <= LARGEST_ERROR:
        raise MeasurementError(
            f"prepared arrays of shapes {ours.shape} and {peer.shape} differ by {error:.2g}, "
            f"expected at most {LARGEST_ERROR:g}"
        )
    pairs = []
    for _ in range(rounds):
        _, ours_s, ours_cpu_s = timed(lambda: prepare_ours(shard, preparation))
        _, peer_s, peer_cpu_s = timed(lambda: prepare_plainly(paths, preparation))
        read_s = timed(lambda: _read(paths)).wall_s
        pairs.append((peer_s / ours_s, peer_s / read_s))
    return {
        **spread([pair[0] for pair in pairs]),
        "limit": float(np.median([pair[1] for pair in pairs])),
        "error": error,
        "facts": {
            "curves_per_s": len(paths) / ours_s,
            "peer_curves_per_s": len(paths) / peer_s,
            "cpu_ratio": peer_cpu_s / ours_cpu_s,
            "cadences": float(NUM_CADENCES),
        },
    }


def measure_finding(paths: Sequence[Path], rounds: int) -> dict[str, Any]:
    """The second row; raises MeasurementError where most made flares are missed."""
    from astroray.flares.events import FlareRule
    from astroray.flares.find import FindPlan, find_in_light_curve
    from astroray.surveys.light_curves import LightCurve, read_light_curves

    (shard,) = surveys.list_shards(f"{paths[0].parent}/{SEARCHED}").shards
    paths = [Path(file.path) for file in shard.inputs]
    plan = FindPlan(run_dir="", session="S1", rule=FlareRule(), num_injections=0, seed=0)

    def find() -> int:
        return sum(
            int(find_in_light_curve(curve, plan, shard=shard.name).facts["num_flares"])
            for curve in read_light_curves(shard)
            if isinstance(curve, LightCurve)
        )

    num_made, num_found = FLARES_A_STAR * len(paths), find()
    if not num_made / 2 < num_found < 2 * num_made:
        raise MeasurementError(f"{num_found} flares found, {num_made} were made")
    ratios = []
    for _ in range(rounds):
        _, find_s, cpu_s = timed(find)
        read_s = timed(lambda: _read(paths)).wall_s
        ratios.append(read_s / find_s)
    return {
        **spread(ratios),
        "limit": 1.0,
        "facts": {
            "flares_per_s": num_found / find_s,
            "curves_per_s": len(paths) / find_s,
            "cpu_s": cpu_s,
            "made": float(num_made),
            "found": float(num_found),
        },
    }


def measure(quick: bool, scratch: Path) -> list[BenchRow]:
    """All rows; the folder is left full."""
    num_stars, rounds = (16, 3) if quick else (48, 9)
    paths = write_stars(scratch, num_stars)
    return [
        *measured(CLAIMS[:1], lambda: [_in_worker(measure_reading, paths, rounds)]),
        *measured(CLAIMS[1:], lambda: [_in_worker(measure_finding, paths, max(1, rounds // 3))]),
    ]


def _in_worker(
    measure: Callable[[Sequence[Path], int], dict[str, Any]], paths: Sequence[Path], rounds: int
) -> dict[str, Any]:
    return run_fresh(measure, paths, rounds, environment=AS_WORKERS).value()


def _read(paths: Sequence[Path]) -> int:
    return sum(len(path.read_bytes()) for path in paths)


def main() -> None:
    """`python -m benchmarks.flares`."""
    run_benchmark("flares", "Light curves read, prepared and searched for flares.", measure)


if __name__ == "__main__":
    main()
