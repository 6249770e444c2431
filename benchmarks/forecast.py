"""What tuning a forecaster costs: a step by each method, and a pass by two workers of Ray Train.

LoRA and adapters are compared with full fine-tuning in CPU seconds; forecast_workers has the rest.
All tune copies of one network on the same batches in turns, one thread each, with the loss and the
optimizer of a fit. Before any time is taken they must give the same logits. The limit is the step
with frozen projections and nothing beside them: what is left of a step when the gradients of those
weights are not computed.
"""

import copy
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.claims import at_most
from benchmarks.clock import timed
from benchmarks.forecast_workers import CLAIM, measure_workers
from benchmarks.rows import BenchRow, MeasurementError, measured, run_benchmark, spread

METHODS = ("lora", "adapter")
FULL, FROZEN = "full", "frozen"
STEPS = 4
"""Steps a turn."""
NUM_STARS, DAYS = 12, 60.0
LARGEST_ERROR = 1e-5
PEER = "full fine-tuning of the same network, same batches"

CLAIMS = tuple(
    at_most(f"CPU seconds of a step with {name} over one of full fine-tuning", 1.0, peer=PEER)
    for name in ("LoRA", "adapters")
)


class Tuned:
    """A forecaster that is being tuned by a method; FROZEN: norms, record tokens and heads only."""

    def __init__(self, network: Any, method: str, plan: Any) -> None:
        import torch

        from astroray.forecast import lora

        self.model = copy.deepcopy(network)
        if method == FROZEN:
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(network.is_always_tuned(name))
        else:
            lora.attach(self.model, method)  # type: ignore[arg-type]
        self.weights = [part for part in self.model.parameters() if part.requires_grad]
        self.num_weights = sum(part.numel() for part in self.weights)
        self.optimizer = torch.optim.AdamW(
            self.weights, lr=plan.pretrain_rate, weight_decay=plan.weight_decay
        )

    def step(self, inputs: Any, label_B: Any, prior: Any) -> None:
        """As a fit takes it."""
        from astroray.forecast.loss import forecast_loss

        loss = forecast_loss(self.model(inputs), label_B, inputs.flux_BTC, prior)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()


def measure_steps(rounds: int) -> list[dict[str, Any]]:
    """Both rows; raises MeasurementError where the networks differ before they are tuned."""
    import torch

    from astroray.forecast.fit import FitPlan
    from astroray.forecast.loss import RisingRate
    from astroray.forecast.model import Forecaster, ForecasterConfig, ForecastInputs
    from astroray.forecast.simulated_stars import SimulatedStars, simulate_windows

    torch.set_num_threads(1)
    torch.manual_seed(0)
    plan = FitPlan()
    windows = simulate_windows(SimulatedStars(has_precursor=True, num_stars=NUM_STARS, days=DAYS))
    inputs, label_W = ForecastInputs.of(windows), torch.from_numpy(windows.label_W).float()
    prior = RisingRate.measure(inputs.flux_BTC, label_W)
    network = Forecaster(ForecasterConfig())
    network.measure(inputs)
    tuned = {name: Tuned(network, name, plan) for name in (FULL, FROZEN, *METHODS)}
    batches = torch.randperm(len(windows))[: STEPS * plan.batch_size].chunk(STEPS)
    error = logit_difference(tuned, inputs.take(batches[0]))

    def turn(method: str) -> None:
        for index_B in batches:
            tuned[method].step(inputs.take(index_B), label_W[index_B], prior)

    for method in tuned:
        turn(method)  # the first steps make the optimizers' memory
    taken = [{name: timed(partial(turn, name)) for name in tuned} for _ in range(rounds)]
    limit = spread([turns[FROZEN].cpu_s / turns[FULL].cpu_s for turns in taken])["value"]
    return [
        {
            **spread([turns[name].cpu_s / turns[FULL].cpu_s for turns in taken]),
            "limit": limit,
            "error": error,
            "facts": {
                "wall_ratio": spread([turns[name].wall_s / turns[FULL].wall_s for turns in taken])[
                    "value"
                ],
                "step_cpu_s": spread([turns[name].cpu_s / STEPS for turns in taken])["value"],
                "full_cpu_s": spread([turns[FULL].cpu_s / STEPS for turns in taken])["value"],
                "tuned_weights": float(tuned[name].num_weights),
                "full_weights": float(tuned[FULL].num_weights),
                "windows_a_step": float(len(batches[0])),
            },
        }
        for name in METHODS
    ]


def logit_difference(tuned: dict[str, Tuned], inputs: Any) -> float:
    """Largest difference of logits from those of FULL, in the mode without dropout.

    Raises MeasurementError where it is large.
    """
    import torch

    with torch.inference_mode():
        logit_B = {name: one.model.eval()(inputs) for name, one in tuned.items()}
    for one in tuned.values():
        one.model.train()
    error = max(float((value - logit_B[FULL]).abs().max()) for value in logit_B.values())
    if not error <= LARGEST_ERROR:
        raise MeasurementError(
            f"logits of networks that are not tuned yet differ by {error:.2g}, expected at most "
            f"{LARGEST_ERROR:g}"
        )
    return error


def measure(quick: bool, scratch: Path) -> list[BenchRow]:
    """All rows; the folder is left full."""
    return [
        *measured(CLAIMS, lambda: measure_steps(3 if quick else 15)),
        *measured([CLAIM], lambda: [measure_workers(1 if quick else 3, scratch)]),
    ]


def main() -> None:
    """`python -m benchmarks.forecast`."""
    run_benchmark(
        "forecast", "Steps of tuning a forecaster by each method, and by two workers.", measure
    )


if __name__ == "__main__":
    main()
