"""What the attCAE paper timed, at its size: encode, index and query; and beside it the fit.

17,778 simulated galaxies of 64 x 64 px in three bands, one in ten planted, 20 dimensions (Han et
al. 2022). They are drawn and prepared before time is taken. Images are encoded as a scan does:
`BatchEncoder`, batches of 32, one process with one thread for each core, the start of these
processes included. A flat search indexes and queries in one call, with a thread for each core;
raw pixels go the same way. Distances of some objects are compared with float64 products first.

The fit is timed in two ways. Blocks of two passes over few images run in turns with the bare
loop of `benchmarks.fit`, in one process with the same heap, threads and priority, without Ray,
whose part `benchmarks.fit` measures; losses must be equal. And passes over 12,444 images are made
until a stated number, each judged by the AUC of planted galaxies among the 5,334 held out.
"""

import dataclasses
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from astroray import surveys
from astroray.actors.sample import Sample, SamplePlan, draw_sample, network_config
from astroray.config import BATCH_SIZES
from astroray.execution import workers
from astroray.fitting.fit_state import FitConfig, FitState
from astroray.neighbors.search import SearchConfig, search
from astroray.preparation import Preparation, Wishes, prepare
from astroray.surveys.shards import Cutouts
from benchmarks import fit
from benchmarks.claims import at_least, at_most
from benchmarks.clock import timed
from benchmarks.models import make_model
from benchmarks.processes import run_fresh
from benchmarks.rows import BenchRow, MeasurementError, measured, run_benchmark, spread

if TYPE_CHECKING:  # the process that measures loads no torch
    from astroray.actors.sample import Sample

SURVEY = "sim:galaxies?count={}&outliers=0.1"
LATENT = 20
FIT_SHARE = 0.7
PASS_IMAGES = 12_444
SHARE_OF_FINAL_AUC = 0.95
K = 10
CHECKED_ROWS = 64
LARGEST_ERROR = 1e-7
SLICE_ROWS = 512
CORES = os.cpu_count() or 1

CLAIMS = (
    at_most(
        "attcae, seconds of encode, index and query",
        600.0,
        unit="s",
        peer="the paper's 10 minutes; we aim at 120 s",
    ),
    at_most("raw pixels, seconds of index and query", 120.0, unit="s", peer="the paper's 4 hours"),
)
FIT_CLAIM = at_most(
    "seconds a pass of the fit over bare torch steps of the same network",
    1.05,
    peer="benchmarks.fit.train_plainly, in turns in one process",
)
AUC_CLAIM = at_least("passes until 95 % of the AUC after the last pass", None, unit="passes")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is measured."""

    images: int
    block_images: int
    rounds: int
    passes: int


FULL = Sizes(images=17_778, block_images=256, rounds=12, passes=4)
QUICK = Sizes(images=1_500, block_images=128, rounds=4, passes=2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images:
    """Prepared galaxies in a file, in the order of the survey."""

    sample: "Sample"
    """float16 [N, C, S, S]."""
    planted_path: str
    """bool [N]"""


def prepare_images(num_images: int, folder: str) -> Images:
    """Draws the galaxies, and prepares them by what a scan would measure on the survey."""
    from astroray.surveys.simulated import truth_table

    shards = surveys.list_shards(SURVEY.format(num_images)).shards
    plan = SamplePlan(
        folder=f"{folder}/measured", max_rows=SLICE_ROWS, wishes=Wishes(size_px=64), seed=0
    )
    preparation = cast(Preparation, draw_sample(shards, plan).preparation)
    images: list[np.ndarray] = []
    planted: list[np.ndarray] = []
    for shard in shards:
        is_planted_N = truth_table(shard)["is_outlier"].to_numpy(zero_copy_only=False)
        for cutouts in surveys.read_shard(shard):
            if isinstance(cutouts, Cutouts):
                kept = prepare(cutouts, preparation)
                images.append(kept.input_BCYX.astype(np.float16))
                planted.append(is_planted_N[cutouts.row_B[kept.index_B]])
    path, planted_path = f"{folder}/images.npy", f"{folder}/planted.npy"
    np.save(path, np.concatenate(images))
    np.save(planted_path, np.concatenate(planted))
    num_rows = sum(map(len, planted))
    return Images(
        sample=Sample(path=path, preparation=preparation, num_rows=num_rows),
        planted_path=planted_path,
    )


def encode_images(model_path: str, images_path: str, rows: slice, out: str) -> None:
    """Embeddings of some rows as a worker of the embed stage makes them, to a file."""
    from astroray.actors.encode import BatchEncoder

    images_NCYX = np.load(images_path, mmap_mode="r")[rows]
    encoder = BatchEncoder(
        model_path=model_path, batch_size=BATCH_SIZES["cpu"], device="cpu", num_threads=1
    )
    done = [
        encoder.push(images_NCYX[start : start + SLICE_ROWS].astype(np.float32))
        for start in range(0, len(images_NCYX), SLICE_ROWS)
    ]
    np.save(out, np.concatenate([*done, encoder.flush()]))


def encode_on_all_cores(model_path: str, images: "Sample", folder: str) -> tuple[float, list[str]]:
    """Seconds until one process for each core has encoded its share, and the files, in order."""
    edges = np.linspace(0, images.num_rows, CORES + 1).astype(int)
    outs = [f"{folder}/embedding-{number}.npy" for number in range(CORES)]
    began_s = time.perf_counter()
    with ProcessPoolExecutor(CORES, mp_context=multiprocessing.get_context("spawn")) as pool:
        shares = [
            pool.submit(encode_images, model_path, images.path, slice(start, stop), out)
            for start, stop, out in zip(edges[:-1], edges[1:], outs, strict=True)
        ]
        for share in shares:
            share.result()
    return time.perf_counter() - began_s, outs


def search_all(paths: Sequence[str]) -> dict[str, float]:
    """Seconds of index and query of all embeddings, after the distances of some were compared."""
    embedding_ND = np.concatenate([np.load(path) for path in paths])
    ids = [f"{row:08d}" for row in range(len(embedding_ND))]
    config = SearchConfig(k=K, index="flat", num_threads=CORES)
    found, wall_s, cpu_s = timed(partial(search, embedding_ND, ids, config))
    seconds = {"search_s": wall_s, "search_cpu_s": cpu_s}
    rows = np.linspace(0, len(ids) - 1, CHECKED_ROWS).astype(int)
    true_RK = nearest_distances(embedding_ND, rows)
    error = float(np.max(np.abs(found.distance_NK[rows] / true_RK - 1)))
    if not error <= LARGEST_ERROR:
        raise MeasurementError(
            f"distances differ by {error:.2g} of themselves from float64 products, expected at "
            f"most {LARGEST_ERROR:g}"
        )
    return seconds | {
        "error": error,
        "num_float64": float(found.num_float64),
        "dims": float(embedding_ND.shape[1]),
    }


def nearest_distances(embedding_ND: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Ascending distances [R, K] of rows to their nearest others, by float64 products."""
    center_D = embedding_ND.mean(axis=0, dtype=np.float64)
    query_RD = embedding_ND[rows] - center_D
    square_RN = np.empty((len(rows), len(embedding_ND)))
    for start in range(0, len(embedding_ND), SLICE_ROWS):
        vector_BD = embedding_ND[start : start + SLICE_ROWS] - center_D
        square_RN[:, start : start + SLICE_ROWS] = (
            (query_RD**2).sum(axis=1)[:, None] + (vector_BD**2).sum(axis=1)
            - 2.0 * query_RD @ vector_BD.T
        )  # fmt: skip
    square_RN[np.arange(len(rows)), rows] = np.inf
    return np.sqrt(np.sort(square_RN, axis=1)[:, :K])


def measure_search(images: Images, scratch: Path) -> list[dict[str, Any]]:
    """Fields of both claims about the search."""
    fields = []
    for encoder in ("attcae", "pixels"):
        folder = scratch / encoder
        folder.mkdir()
        model = run_fresh(make_model, images.sample, encoder, str(folder)).value()
        one_thread = {**workers.ENVIRONMENT, "OMP_NUM_THREADS": "1"}
        encode_s, paths = run_fresh(
            encode_on_all_cores, model, images.sample, str(folder), environment=one_thread
        ).value()
        facts = run_fresh(search_all, paths, environment={"OMP_NUM_THREADS": str(CORES)}).value()
        error = facts.pop("error")
        total_s = facts["search_s"] + (encode_s if encoder == "attcae" else 0.0)
        sizes = {"images": float(images.sample.num_rows), "processes": float(CORES)}
        fields.append(
            {"value": total_s, "runs": 1, "error": error}
            | {"facts": {"encode_s": encode_s} | facts | sizes}
        )
        for path in paths:
            os.remove(path)
    return fields


def fit_in_turns(sample_path: str, rounds: int, folder: str) -> dict[str, Any]:
    """Fields of the claim about a pass. Raises MeasurementError where losses differ."""
    from astroray.fitting.passes import run_passes

    network = fit.NETWORK
    config = FitConfig(
        num_passes=fit.NUM_PASSES,
        batch_size=fit.BATCH_SIZE,
        learning_rate=fit.LEARNING_RATE,
        seed=0,
    )
    num_images = len(np.load(sample_path, mmap_mode="r"))
    ratios: list[float] = []
    cpu_ratios: list[float] = []
    pass_s: list[float] = []
    error, threads, precision = 0.0, CORES, ""
    for number in range(rounds + 1):  # the first round warms up
        cpu_s = time.process_time()
        ours = run_passes(
            sample_path, fit.ENCODER, network, config, f"{folder}/{number}", threads=threads
        )
        cpu_s = time.process_time() - cpu_s
        threads, precision = ours.threads, ours.precision
        peer = fit.train_plainly(sample_path, threads, precision)
        error = max(error, fit.loss_difference(ours.loss_per_pass, peer.losses))
        if number:
            ratios.append(ours.seconds / ours.num_passes / peer.pass_s)
            cpu_ratios.append(cpu_s / ours.num_passes / peer.cpu_s)
            pass_s.append(ours.seconds / ours.num_passes)
    facts = {
        "cpu_ratio": float(np.median(cpu_ratios)),
        "block_images": float(num_images),
        "pass_of_12444_s": float(np.median(pass_s)) * PASS_IMAGES / num_images,
        "threads": float(threads),
        "bf16": float(precision == "bf16"),
    }
    return {**spread(ratios), "error": error, "facts": facts}


def measure_fit(images: Images, sizes: Sizes, scratch: Path) -> dict[str, Any]:
    """Fields of the claim about a pass, of a sample of the first images."""
    block = str(scratch / "block.npy")
    np.save(block, np.load(images.sample.path, mmap_mode="r")[: sizes.block_images])
    return run_fresh(
        fit_in_turns, block, sizes.rounds, str(scratch / "blocks"), environment=workers.ENVIRONMENT
    ).value()


def fit_by_passes(images: Images, num_passes: int, folder: str) -> list[tuple[float, float]]:
    """Seconds of training so far and AUC of the held-out images after each pass.

    The first images are fitted, planted ones included, and nothing is told of them. Each pass
    goes on from the state of the one before, whose bytes are those of a fit in one go.
    """
    from astroray.actors.fit import finish_model
    from astroray.fitting.passes import run_passes

    images_NCYX = np.load(images.sample.path, mmap_mode="r")
    is_planted_N = np.load(images.planted_path)
    num_fitted = round(FIT_SHARE * len(images_NCYX))
    fitted, model_path = f"{folder}/fitted.npy", f"{folder}/model.safetensors"
    np.save(fitted, images_NCYX[:num_fitted])
    sample = Sample(path=fitted, preparation=images.sample.preparation, num_rows=num_fitted)
    network = network_config(fit.ENCODER, sample, latent=LATENT)
    course: list[tuple[float, float]] = []
    for number in range(1, num_passes + 1):
        if state := FitState.load(folder):
            state.is_finished = False
            state.save(folder)
        config = FitConfig(num_passes=number, learning_rate=fit.LEARNING_RATE)
        result = run_passes(fitted, fit.ENCODER, network, config, folder, threads=CORES)
        finish_model(
            sample, path=model_path, encoder=fit.ENCODER, config=network,
            weights=result.state_dict, num_threads=CORES,
        )  # fmt: skip
        out = f"{folder}/held-out.npy"
        encode_images(model_path, images.sample.path, slice(num_fitted, None), out)
        course.append((result.seconds, auc_of(np.load(out), is_planted_N[num_fitted:])))
    return course


def auc_of(embedding_ND: np.ndarray, is_planted_N: np.ndarray) -> float:
    """Area under the curve of the k-th distance, every object scored with itself excluded."""
    from astroray.evaluation.metrics import rates  # loads torch

    ids = [f"{row:08d}" for row in range(len(embedding_ND))]
    score_N = search(embedding_ND, ids, SearchConfig(k=K, num_threads=CORES)).score_N
    return float(rates(score_N, is_planted_N, np.ones((len(ids), 1))).auc_R[0])


def pixels_auc(images: Images) -> float:
    """The AUC of the same held-out images by their pixels."""
    first = round(FIT_SHARE * images.sample.num_rows)
    held_out_NCYX = np.load(images.sample.path, mmap_mode="r")[first:].astype(np.float32)
    is_planted_N = np.load(images.planted_path)[first:]
    return auc_of(held_out_NCYX.reshape(len(held_out_NCYX), -1), is_planted_N)


def measure_passes(images: Images, sizes: Sizes, scratch: Path) -> dict[str, Any]:
    """Fields of the claim about the AUC."""
    folder = scratch / "passes"
    folder.mkdir()
    course = run_fresh(
        fit_by_passes, images, sizes.passes, str(folder), environment=workers.ENVIRONMENT
    ).value()
    final_auc = course[-1][1]
    needed = next(i for i, (_, auc) in enumerate(course) if auc >= SHARE_OF_FINAL_AUC * final_auc)
    num_fitted = round(FIT_SHARE * images.sample.num_rows)
    facts = {
        "passes_made": float(sizes.passes),
        "seconds_until": course[needed][0],
        "seconds_total": course[-1][0],
        "seconds_a_pass": course[-1][0] / len(course),
        "fitted": float(num_fitted),
        "held_out": float(images.sample.num_rows - num_fitted),
        "auc_pixels": run_fresh(pixels_auc, images).value(),
    }
    facts |= {f"auc_{number}": auc for number, (_, auc) in enumerate(course, 1)}
    return {"value": float(needed + 1), "runs": 1, "facts": facts}


def measure(quick: bool, scratch: Path) -> Iterator[BenchRow]:
    """All rows, as they come; the folder is left full."""
    sizes = QUICK if quick else FULL
    images = run_fresh(prepare_images, sizes.images, str(scratch)).value()
    yield from measured(CLAIMS, lambda: measure_search(images, scratch))
    yield from measured([FIT_CLAIM], lambda: [measure_fit(images, sizes, scratch)])
    yield from measured([AUC_CLAIM], lambda: [measure_passes(images, sizes, scratch)])


def main() -> None:
    """`python -m benchmarks.attcae`."""
    run_benchmark("attcae", "The attCAE paper's timing, at its size.", measure)


if __name__ == "__main__":
    from benchmarks import attcae as module  # so that fresh processes find its functions by name

    module.main()
