"""What two workers of Ray Train take to tune a forecaster, over a plain loop: wall seconds a pass.

The peer is `tune_plainly` below: one process on as many threads as the workers have together, the
same windows, network, order, loss and optimizer, and nothing else: no state saved, no progress, no
Ray. After each pass it must be as good on validation as the workers are. The first pass of both is
left out, and with it the start of Ray and of its workers.
"""

import dataclasses
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from astroray.execution import workers
from benchmarks.bare_loop import WORKER_NICE
from benchmarks.claims import at_most
from benchmarks.processes import run_fresh
from benchmarks.rows import MeasurementError, spread

NUM_WORKERS = 2
NUM_STARS, NUM_VALIDATION, DAYS = 32, 8, 160.0
NUM_PASSES = 4
LARGEST_ERROR = 0.01
"""Of the AUPRC: gradients are summed in another order, and passes carry that on."""
WINDOWS, RESULT = "windows.npz", "result.json"

CLAIM = at_most(
    "seconds a pass of LoRA by two workers of Ray Train over a plain loop on as many threads",
    1.15,
    peer="one process, the same windows in the same order, nothing saved",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuned:
    """How a side fared."""

    auprcs: list[float]
    """On validation after each pass."""
    ended_s: list[float]
    """Unix time of the end of each pass."""
    threads: int
    """Of all workers together."""

    @property
    def pass_s(self) -> float:
        """Wall seconds of a pass but the first."""
        return (self.ended_s[-1] - self.ended_s[0]) / (len(self.ended_s) - 1)


def make_windows(folder: str) -> str:
    """Writes the windows of simulated stars, of which the first few validate; returns the file."""
    from astroray.forecast.kept_windows import write_windows
    from astroray.forecast.simulated_stars import SimulatedStars, simulate_windows

    stars = SimulatedStars(has_precursor=True, num_stars=NUM_STARS, days=DAYS)
    path = f"{folder}/{WINDOWS}"
    write_windows(path, simulate_windows(stars))
    return path


def read_parts(folder: str) -> tuple[Any, Any]:
    """Windows to tune on and to validate on."""
    from astroray.forecast.kept_windows import read_windows

    windows = read_windows(f"{folder}/{WINDOWS}")
    is_tuned_W = windows.star_W >= NUM_VALIDATION
    return windows.take(np.flatnonzero(is_tuned_W)), windows.take(np.flatnonzero(~is_tuned_W))


def plan() -> Any:
    """LoRA as `astroray train flares` tunes by it, without dropout, which workers draw apart."""
    from astroray.forecast.fit import FitPlan
    from astroray.forecast.model import ForecasterConfig

    return FitPlan(network=ForecasterConfig(dropout=0), pretrain_passes=0, num_passes=NUM_PASSES)


def tune_in_worker(told: dict[str, str]) -> None:
    """What Ray Train runs in each worker: the fit as it is, its state saved after each pass."""
    import torch

    from astroray.fitting.training import find_place
    from astroray.forecast.fit import Crew, ForecasterState, fit_forecaster

    folder = told["plan"]
    rank, num_workers, threads = find_place()
    torch.set_num_threads(threads)
    state, ended_s = ForecasterState(), list[float]()
    fit_forecaster(
        *read_parts(folder),
        plan(),
        state=state,
        crew=Crew(rank=rank, num_workers=num_workers),
        keep=lambda state: state.save(folder),
        show=lambda text: ended_s.append(time.time()),
    )
    if rank == 0:
        told_back = Tuned(auprcs=state.auprcs, ended_s=ended_s, threads=threads * num_workers)
        Path(folder, RESULT).write_text(json.dumps(dataclasses.asdict(told_back)))


def tune_with_ray(folder: str) -> Tuned:
    """The fit by Ray Train, whose files stay in the folder."""
    from astroray.fitting.training import check_placement, train_in_workers

    with workers.cluster():
        check_placement(NUM_WORKERS)
        train_in_workers(
            tune_in_worker,
            folder,
            num_workers=NUM_WORKERS,
            use_gpu=False,
            folder=folder,
            what="tuning a forecaster",
            look=lambda: None,
        )
    return Tuned(**json.loads(Path(folder, RESULT).read_text()))


def tune_plainly(folder: str, threads: int) -> Tuned:
    """The peer, at the priority that Ray gives its workers."""
    import torch

    from astroray.forecast.fit import TUNE, TUNING_RATES, WARM_UP
    from astroray.forecast.lora import attach
    from astroray.forecast.loss import RisingRate, forecast_loss
    from astroray.forecast.model import Forecaster, ForecastInputs
    from astroray.forecast.skill import average_precision

    os.setpriority(os.PRIO_PROCESS, 0, WORKER_NICE)
    torch.set_num_threads(threads)
    asked = plan()
    train, validation = read_parts(folder)
    inputs, label_W = ForecastInputs.of(train), torch.from_numpy(train.label_W).float()
    torch.manual_seed(seeded(asked.seed, 0, 0))
    model = Forecaster(asked.network)
    model.measure(inputs)
    prior = RisingRate.measure(inputs.flux_BTC, label_W)
    torch.manual_seed(seeded(asked.seed, TUNE))
    attach(model, asked.method)
    optimizer = torch.optim.AdamW(
        [weights for weights in model.parameters() if weights.requires_grad],
        weight_decay=asked.weight_decay,
    )
    rate, known = TUNING_RATES[asked.method], ForecastInputs.of(validation)
    auprcs, ended_s = list[float](), list[float]()
    for number in range(asked.num_passes):
        generator = torch.Generator().manual_seed(seeded(asked.seed, TUNE, number))
        order_W = torch.randperm(len(label_W), generator=generator)
        batches = torch.split(order_W, asked.batch_size)
        model.train()
        for step, batch_B in enumerate(batches, number * len(batches)):
            done = step / (asked.num_passes * len(batches))
            share = min(1.0, (done + 1e-3) / WARM_UP) * (1 + math.cos(math.pi * done)) / 2
            optimizer.param_groups[0]["lr"] = rate * share
            part = inputs.take(batch_B)
            loss = forecast_loss(model(part), label_W[batch_B], part.flux_BTC, prior)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        model.eval()
        with torch.inference_mode():
            every_V = torch.arange(len(known))
            logits = [model(known.take(at_B)) for at_B in torch.split(every_V, 512)]
        auprcs.append(average_precision(torch.cat(logits).numpy(), validation.label_W))
        ended_s.append(time.time())
    return Tuned(auprcs=auprcs, ended_s=ended_s, threads=threads)


def seeded(*numbers: int) -> int:
    """The seed that a fit draws from its own, a phase and a pass."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def measure_workers(rounds: int, scratch: Path) -> dict[str, Any]:
    """The row; raises MeasurementError where the two do not learn the same."""
    ratios, error, facts = list[float](), 0.0, dict[str, float]()
    for number in range(rounds):
        folder = scratch / f"workers-{number}"
        folder.mkdir()
        run_fresh(make_windows, str(folder)).value()
        ours = run_fresh(tune_with_ray, str(folder)).value()
        peer = run_fresh(
            tune_plainly, str(folder), ours.threads, environment=workers.ENVIRONMENT
        ).value()
        error = max(error, skill_difference(ours, peer))
        ratios.append(ours.pass_s / peer.pass_s)
        facts = {
            "ray_pass_s": ours.pass_s,
            "loop_pass_s": peer.pass_s,
            "threads": float(ours.threads),
            "auprc": ours.auprcs[-1],
        }
    return {**spread(ratios), "error": error, "facts": facts}


def skill_difference(ours: Tuned, peer: Tuned) -> float:
    """Largest difference of AUPRC after a pass. Raises MeasurementError where it is large."""
    error = max(abs(a - b) for a, b in zip(ours.auprcs, peer.auprcs, strict=True))
    if not error <= LARGEST_ERROR:
        raise MeasurementError(
            f"AUPRC by pass is {ours.auprcs} by the workers and {peer.auprcs} by the loop, "
            f"expected a difference of at most {LARGEST_ERROR:g}"
        )
    return error
