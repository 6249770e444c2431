"""Passes over a sample: the training loop of one worker, whose bytes repeat. Knows no Ray.

Every pass draws its order and its turns from the seed and its own number, so the weights and
the optimizer after a pass are all that a killed fit needs to end in the same bytes.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from astroray import faults, storage
from astroray.encoders.store import build_network
from astroray.errors import ConfigError
from astroray.fit_state import FitConfig, FitProgress, FitResult, FitState

__all__ = ["Place", "Plan", "run_passes", "run_worker"]

REPORT_EVERY_S = 1.0
NUM_TURNS = 8
"""Flips and turns of a square: a picture of the sky has no upper edge."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What is fitted, where the bytes are and go; the same in all workers."""

    sample_path: str
    encoder: str
    network: Mapping[str, int]
    config: FitConfig
    folder: str
    fault_plan: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """The training worker that this process is."""

    rank: int
    num_workers: int
    device: torch.device
    threads: int
    wrap: Callable[[nn.Module], nn.Module]
    """Makes workers average their gradients."""
    report: Callable[[FitProgress], None]


def run_passes(
    sample_path: str,
    encoder: str,
    network: Mapping[str, int],
    config: FitConfig,
    folder: str,
    *,
    threads: int = 1,
    report: Callable[[FitProgress], None] = lambda progress: None,
) -> FitResult:
    """The same fit in this process, on the CPU, without Ray; its state is kept in `folder`.

    Raises ConfigError where the sample does not suit, or where the loss is no longer finite.
    """
    plan = Plan(
        sample_path=sample_path, encoder=encoder, network=network, config=config, folder=folder
    )
    cpu = torch.device("cpu")
    place = Place(
        rank=0, num_workers=1, device=cpu, threads=threads, wrap=lambda m: m, report=report
    )
    return run_worker(plan, place).result(config)


def run_worker(plan: Plan, place: Place) -> FitState:
    """One training worker's share of the fit, from the newest state on."""
    state = FitState.load(plan.folder)
    threads = state.threads if state else place.threads
    with storage.local_copy(plan.sample_path) as local, _repeatable(threads, place.device):
        sample_NCYX = torch.from_numpy(np.load(local, mmap_mode="c"))
        _check_sample(sample_NCYX, plan)
        if place.device.type == "cuda":
            sample_NCYX = sample_NCYX.to(place.device)
        fit = _Fit(sample_NCYX, plan, place, state)
        while not fit.is_finished:
            fit.run_pass()
        return fit.state()


class _Fit:
    """A fit as one training worker has it."""

    def __init__(
        self, sample_NCYX: Tensor, plan: Plan, place: Place, state: FitState | None
    ) -> None:
        self.sample_NCYX, self.plan, self.place, self.config = sample_NCYX, plan, place, plan.config
        self.threads = torch.get_num_threads()
        self.precision = _resolve_precision(self.config.precision, place.device)
        self.losses: list[float] = []
        self.seconds = self.saved_s = 0.0
        self.is_finished = False
        torch.manual_seed(self.config.seed)
        self.network = build_network(plan.encoder, plan.network)
        self.network.to(place.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.objective = place.wrap(_Objective(self.network))
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=self.config.learning_rate, fused=True
        )
        if state:
            self._restore(state)

    def run_pass(self) -> None:
        """One pass over the sample; then the state is saved if that is due."""
        began_s = reported_s = time.monotonic()
        seed = np.random.SeedSequence([self.config.seed, len(self.losses), self.place.rank])
        torch.manual_seed(int(seed.generate_state(1)[0]))
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.place.device)
        num_images = 0
        for image_BCYX in self._batches(len(self.losses)):
            loss_sum += self._step(image_BCYX).double() * len(image_BCYX)
            num_images += len(image_BCYX)
            if (now_s := time.monotonic()) - reported_s > REPORT_EVERY_S:
                pass_s, loss = now_s - began_s, float(loss_sum) / num_images
                self._report(loss, num_images, pass_s, is_under_way=True)
                reported_s = now_s
        self._end_pass(float(loss_sum), num_images, began_s)

    def state(self) -> FitState:
        """The fit as it is now, on the CPU."""
        weights = self.network.state_dict()
        return FitState(
            network={name: tensor.cpu().contiguous() for name, tensor in weights.items()},
            optimizer=self.optimizer.state_dict(),
            losses=self.losses,
            seconds=self.seconds,
            precision=self.precision,
            device=self.place.device.type,
            threads=self.threads,
            num_rows=len(self.sample_NCYX),
            is_finished=self.is_finished,
        )

    def _restore(self, state: FitState) -> None:
        self.network.load_state_dict(state.network)
        self.optimizer.load_state_dict(state.optimizer)
        self.losses, self.precision = list(state.losses), state.precision
        self.seconds = self.saved_s = state.seconds
        self.is_finished = state.is_finished

    def _batches(self, number: int) -> Iterator[Tensor]:
        """This worker's images of each step of a pass, every image of the sample in one step.

        Steps differ by at most one image, and so do the workers' shares of a step.
        """
        draw = np.random.default_rng([self.config.seed, number])
        num_rows, device = len(self.sample_NCYX), self.place.device
        order_N, turn_N = draw.permutation(num_rows), draw.integers(0, NUM_TURNS, num_rows)
        for step_B in np.array_split(order_N, math.ceil(num_rows / self.config.batch_size)):
            row_B = step_B[self.place.rank :: self.place.num_workers]
            image_BCYX = self.sample_NCYX[torch.from_numpy(row_B).to(device)].float()
            if self.config.augment:
                image_BCYX = _turn(image_BCYX, torch.from_numpy(turn_N[row_B]).to(device))
            yield image_BCYX.contiguous(memory_format=torch.channels_last)

    def _step(self, image_BCYX: Tensor) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        is_bf16 = self.precision == "bf16"
        with torch.autocast(self.place.device.type, torch.bfloat16, enabled=is_bf16):
            loss: Tensor = self.objective(image_BCYX)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.detach()

    def _end_pass(self, loss_sum: float, num_images: int, began_s: float) -> None:
        """Books the pass; the first worker's clock decides for all what comes next."""
        pass_s = time.monotonic() - began_s
        seconds = self.seconds + pass_s
        is_last = self._is_last(seconds, pass_s)
        is_save_due = is_last or seconds - self.saved_s >= self.config.checkpoint_every_s
        numbers = torch.tensor([loss_sum, num_images, is_last, is_save_due], dtype=torch.float64)
        if self.place.num_workers > 1:
            numbers[2:] *= self.place.rank == 0
            numbers = numbers.to(self.place.device)
            torch.distributed.all_reduce(numbers)
        total, num_images_all, is_last, is_save_due = numbers.tolist()
        loss = total / num_images_all
        if not math.isfinite(loss):
            raise ConfigError(
                f"the loss of {self.plan.encoder} is {loss} in pass {len(self.losses) + 1}, "
                f"expected a finite number; lower learning_rate (it is {self.config.learning_rate})"
            )
        self.losses.append(loss)
        self.seconds, self.is_finished = seconds, bool(is_last)
        if is_save_due and self.place.rank == 0:
            self.state().save(self.plan.folder)
            self.saved_s = seconds
            faults.reach("fit.saved", f"pass {len(self.losses)}")
        self._report(loss, num_images, pass_s, is_under_way=False)

    def _is_last(self, seconds: float, pass_s: float) -> bool:
        budget_s, num_passes = self.config.budget_s, self.config.num_passes
        return (num_passes is not None and len(self.losses) + 1 >= num_passes) or (
            budget_s is not None and seconds + pass_s > budget_s
        )

    def _report(self, loss: float, num_images: int, pass_s: float, *, is_under_way: bool) -> None:
        """One line for people: `num_images` of this worker took `pass_s` in the newest pass."""
        if self.place.rank:
            return
        rate = num_images * self.place.num_workers / pass_s
        seconds = self.seconds + (pass_s if is_under_way else 0.0)
        progress = FitProgress(
            pass_number=len(self.losses) + is_under_way,
            num_passes=self.config.num_passes,
            loss=loss,
            images_per_s=rate,
            seconds=seconds,
            seconds_left=0.0
            if self.is_finished
            else self._seconds_left(seconds, rate, pass_s if is_under_way else 0.0),
        )
        self.place.report(progress)

    def _seconds_left(self, seconds: float, images_per_s: float, pass_s: float) -> float:
        left = []
        if self.config.num_passes is not None:
            num_todo = self.config.num_passes - len(self.losses)
            left.append(max(0.0, num_todo * len(self.sample_NCYX) / images_per_s - pass_s))
        if self.config.budget_s is not None:
            left.append(max(0.0, self.config.budget_s - seconds))
        return min(left)


class _Objective(nn.Module):
    """The loss as a module's `forward`, which is what distributed training hooks into."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image_BCYX: Tensor) -> Tensor:
        loss: Tensor = self.network.loss(image_BCYX)  # type: ignore[operator]
        return loss


def _turn(image_BCYX: Tensor, turn_B: Tensor) -> Tensor:
    """Each image transposed and flipped as the three bits of its number in 0..7 say."""
    turns: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda image: image.transpose(2, 3),
        lambda image: image.flip(2),
        lambda image: image.flip(3),
    )
    for bit, turn in enumerate(turns):
        is_turned_B = (turn_B >> bit & 1).bool()
        image_BCYX = torch.where(is_turned_B[:, None, None, None], turn(image_BCYX), image_BCYX)
    return image_BCYX


def _resolve_precision(asked: str, device: torch.device) -> str:
    """bf16 on CPUs with AMX only: those with AVX-512 BF16 alone convolve in half fp32's speed."""
    if asked != "auto":
        return asked
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if torch.cpu._is_amx_tile_supported() else "fp32"


@contextlib.contextmanager
def _repeatable(threads: int, device: torch.device) -> Iterator[None]:
    """Sums in one order: a fixed number of threads, no operation whose result may vary."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(threads)
    filling = torch.utils.deterministic
    filling.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # every output is written
    # PyTorch warns of max pooling on GPU, which repeats where windows do not overlap.
    torch.use_deterministic_algorithms(True, warn_only=device.type == "cuda")
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])


def _check_sample(sample_NCYX: Tensor, plan: Plan) -> None:
    size_px = plan.network["size_px"]
    expected = (plan.network["num_bands"], size_px, size_px)
    too_few = len(sample_NCYX) < plan.config.train_workers
    if sample_NCYX.ndim != 4 or tuple(sample_NCYX.shape[1:]) != expected or too_few:
        raise ConfigError(
            f"the sample {plan.sample_path} has shape {tuple(sample_NCYX.shape)}, expected "
            f"[N, {expected[0]}, {expected[1]}, {expected[2]}] with N at least "
            f"{plan.config.train_workers}; sample more rows, or prepare them for this network"
        )
