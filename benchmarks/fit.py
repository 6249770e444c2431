"""What a fit by Ray Train costs over a bare training loop: seconds a pass.

The peer is `train_plainly` below: one process, the same network, images, order, turns, optimizer,
precision, batch and threads, and nothing else: no state saved, no progress, no Ray. Its losses
must equal those of Ray Train's fit before a ratio is taken. The training workers keep their
activations in the heap (GLIBC_TUNABLES); the loop runs both with that setting and without.
Seconds are those of training; the start of Ray and of its workers is left out.
"""

import dataclasses
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from astroray import surveys
from astroray.actors.sample import SamplePlan, draw_sample
from astroray.execution import workers
from astroray.fitting.fit_state import FitConfig
from astroray.preparation import Wishes
from benchmarks.bare_loop import WORKER_NICE
from benchmarks.claims import at_most
from benchmarks.processes import run_fresh
from benchmarks.rows import BenchRow, MeasurementError, measured, run_benchmark, spread

ENCODER = "attcae"
NETWORK = {"num_bands": 3, "size_px": 64}
NUM_PASSES = 2
BATCH_SIZE = 128
LEARNING_RATE = 1e-3
LARGEST_ERROR = 1e-6

CLAIMS = (
    at_most(
        "seconds a pass of Ray Train over a bare loop with the same heap setting",
        1.05,
        peer="a bare PyTorch loop, GLIBC_TUNABLES as the training workers have it",
    ),
    at_most(
        "seconds a pass of Ray Train over a bare loop as PyTorch comes",
        1.05,
        peer="a bare PyTorch loop, GLIBC_TUNABLES unset",
    ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """What a fit came to."""

    losses: tuple[float, ...]
    """One a pass, the mean over all images."""
    pass_s: float
    cpu_s: float
    """CPU seconds a pass; 0 of Ray Train, whose family is watched from outside."""
    ended_s: float
    """Unix time."""
    threads: int
    precision: str


def train_with_ray(sample_path: str, folder: str) -> Trained:
    """The fit as a scan does it, by one training worker."""
    from astroray.fitting.training import fit_network

    config = FitConfig(
        num_passes=NUM_PASSES, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE, seed=0
    )
    reported_s: list[float] = []
    with workers.cluster():
        result = fit_network(
            sample_path,
            ENCODER,
            NETWORK,
            config,
            folder,
            report=lambda progress: reported_s.append(time.time()),
        )
    return Trained(
        losses=result.loss_per_pass,
        pass_s=result.seconds / result.num_passes,
        cpu_s=0.0,
        ended_s=reported_s[-1],
        threads=result.threads,
        precision=result.precision,
    )


def train_plainly(sample_path: str, threads: int, precision: str) -> Trained:
    """The peer: the same steps in a loop, at the priority that Ray gives its workers."""
    import torch

    from astroray.encoders.store import build_network

    os.setpriority(os.PRIO_PROCESS, 0, WORKER_NICE)
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    images_NCYX = torch.from_numpy(np.load(sample_path, mmap_mode="c"))
    network: Any = build_network(ENCODER, NETWORK)
    network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE, fused=True)
    num_rows, losses, seconds = len(images_NCYX), [], 0.0
    cpu_s = time.process_time()
    for number in range(NUM_PASSES):
        began_s = time.perf_counter()
        draw, total = np.random.default_rng([0, number]), 0.0
        order_N, turn_N = draw.permutation(num_rows), draw.integers(0, 8, num_rows)
        for row_B in np.array_split(order_N, math.ceil(num_rows / BATCH_SIZE)):
            image_BCYX = turn(images_NCYX[torch.from_numpy(row_B)].float(), turn_N[row_B])
            image_BCYX = image_BCYX.contiguous(memory_format=torch.channels_last)
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                loss = network.loss(image_BCYX)
            loss.backward()
            optimizer.step()
            total += float(loss.detach().double()) * len(row_B)
        losses.append(total / num_rows)
        seconds += time.perf_counter() - began_s
    return Trained(
        losses=tuple(losses),
        pass_s=seconds / NUM_PASSES,
        cpu_s=(time.process_time() - cpu_s) / NUM_PASSES,
        ended_s=time.time(),
        threads=threads,
        precision=precision,
    )


def turn(image_BCYX: Any, turn_B: np.ndarray) -> Any:
    """Each image transposed and flipped as the three bits of its number say."""
    for i, number in enumerate(turn_B):
        image_CYX = image_BCYX[i]
        image_CYX = image_CYX.transpose(1, 2) if number & 1 else image_CYX
        dims = [dim for bit, dim in ((2, 1), (4, 2)) if number & bit]
        image_BCYX[i] = image_CYX.flip(dims) if dims else image_CYX.clone()
    return image_BCYX


def draw_images(num_images: int, folder: str) -> str:
    """A fit's sample of simulated galaxies, drawn and prepared as a scan does it."""
    survey = f"sim:galaxies?count={num_images}&shard_rows={num_images}"
    plan = SamplePlan(folder=folder, max_rows=num_images, wishes=Wishes(size_px=64), seed=0)
    return draw_sample(surveys.list_shards(survey).shards, plan).path


def measure_passes(num_images: int, rounds: int, scratch: Path) -> list[dict[str, Any]]:
    """Both rows; raises MeasurementError where the losses differ."""
    sample = run_fresh(draw_images, num_images, str(scratch / "sample")).value()
    environments = (workers.ENVIRONMENT, dict.fromkeys(workers.ENVIRONMENT, ""))
    ratios: list[list[float]] = [[] for _ in environments]
    facts: list[dict[str, float]] = [{} for _ in environments]
    error = 0.0
    for number in range(rounds):
        fresh = run_fresh(train_with_ray, sample, str(scratch / f"fit-{number}"))
        ours = fresh.value()
        began_s = ours.ended_s - ours.pass_s * NUM_PASSES
        cpu_s = fresh.cpu_s(began_s, ours.ended_s) / NUM_PASSES
        for which, environment in enumerate(environments):
            peer = run_fresh(
                train_plainly, sample, ours.threads, ours.precision, environment=environment
            ).value()
            error = max(error, loss_difference(ours.losses, peer.losses))
            ratios[which].append(ours.pass_s / peer.pass_s)
            facts[which] = {
                "ray_pass_s": ours.pass_s,
                "loop_pass_s": peer.pass_s,
                "cpu_ratio": cpu_s / peer.cpu_s,
                "images": float(num_images),
                "threads": float(ours.threads),
            }
    return [
        {**spread(ratios[which]), "error": error, "facts": facts[which]}
        for which in range(len(environments))
    ]


def measure(quick: bool, scratch: Path) -> list[BenchRow]:
    """All rows; the folder is left full."""
    num_images, rounds = (256, 2) if quick else (1024, 5)
    return measured(CLAIMS, lambda: measure_passes(num_images, rounds, scratch))


def loss_difference(ours: Sequence[float], peer: Sequence[float]) -> float:
    """Largest relative difference of losses. Raises MeasurementError where it is large."""
    error = max(abs(a - b) / abs(b) for a, b in zip(ours, peer, strict=True))
    if not error <= LARGEST_ERROR:
        raise MeasurementError(
            f"losses are {tuple(ours)} by the fit and {tuple(peer)} by the loop, relative "
            f"difference {error:.2g}, expected at most {LARGEST_ERROR:g}"
        )
    return error


def main() -> None:
    """`python -m benchmarks.fit`."""
    run_benchmark("fit", "Ray Train's fit against a bare training loop.", measure)


if __name__ == "__main__":
    from benchmarks import fit as module  # so that fresh processes find its functions by name

    module.main()
