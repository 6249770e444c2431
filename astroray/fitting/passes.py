"""Passes over a sample: the training loop of one worker, whose bytes repeat. Knows no Ray.

Every pass draws its order and its turns from the seed and its own number, so the weights, their
average and the optimizer after a pass are all that a killed fit needs to end in the same bytes.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from astroray import faults, storage
from astroray.encoders import kind_of
from astroray.encoders.own_errors import ran_by
from astroray.encoders.recipe import Recipe
from astroray.encoders.store import build_network
from astroray.errors import ConfigError
from astroray.fitting.batches import VALIDATION, Batches
from astroray.fitting.curves import Curves
from astroray.fitting.descent import Descent
from astroray.fitting.fit_state import FitConfig, FitProgress, FitResult, FitState, find_best
from astroray.preparation.modalities import MODALITIES

__all__ = ["Place", "Plan", "find_recipe", "run_passes", "run_worker"]

REPORT_EVERY_S = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What is fitted, where the bytes are and go; the same in all workers."""

    sample_path: str
    encoder: str
    network: Mapping[str, Any]
    config: FitConfig
    recipe: Recipe
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
    network: Mapping[str, Any],
    config: FitConfig,
    folder: str,
    *,
    threads: int,
    report: Callable[[FitProgress], None] = lambda progress: None,
) -> FitResult:
    """Fits a network in this process, on the CPU, without Ray; its state is kept in `folder`.

    Raises ConfigError where the sample does not suit, or where the loss is no longer finite.
    """
    plan = Plan(
        sample_path=sample_path,
        encoder=encoder,
        network=network,
        config=config,
        recipe=find_recipe(encoder, config),
        folder=folder,
    )
    cpu = torch.device("cpu")
    place = Place(
        rank=0, num_workers=1, device=cpu, threads=threads, wrap=lambda m: m, report=report
    )
    return run_worker(plan, place).result(config)


def find_recipe(encoder: str, config: FitConfig) -> Recipe:
    """The encoder's recipe, at the learning rate of the configuration where that names one.

    Raises ConfigError on an unknown encoder.
    """
    recipe = kind_of(encoder).recipe
    if config.learning_rate is None:
        return recipe
    return dataclasses.replace(recipe, learning_rate=config.learning_rate)


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
        can_turn = MODALITIES[kind_of(plan.encoder).modality].can_turn
        self.threads = torch.get_num_threads()
        self.precision = _resolve_precision(self.config.precision, place.device)
        self.losses: list[float] = []
        self.validation_losses: list[float] = []
        self.best: dict[str, Tensor] | None = None
        self.curves = Curves(plan.folder)
        self.seconds = self.saved_s = 0.0
        self.is_finished = False
        torch.manual_seed(self.config.seed)
        self.network = build_network(plan.encoder, plan.network)
        self.network.to(place.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.descent = Descent(self.network, plan.recipe)
        self.objective = place.wrap(_Objective(self.network, plan.encoder))
        self.batches = Batches(
            sample_NCYX,
            dataclasses.replace(self.config, augment=self.config.augment and can_turn),
            rank=place.rank,
            num_workers=place.num_workers,
        )
        if state:
            self._restore(state)

    def run_pass(self) -> None:
        """One pass over the sample; then the state is saved if that is due."""
        began_s = reported_s = time.monotonic()
        number = len(self.losses)
        self._seed(number)
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.place.device)
        num_images = 0
        for image_BCYX in self.batches.train(number):
            loss_sum += self._step(image_BCYX).double() * len(image_BCYX)
            num_images += len(image_BCYX)
            if (now_s := time.monotonic()) - reported_s > REPORT_EVERY_S:
                pass_s, loss = now_s - began_s, float(loss_sum) / num_images
                self._report(loss, num_images, pass_s, is_under_way=True)
                reported_s = now_s
        self._end_pass(float(loss_sum), num_images, began_s)

    def state(self) -> FitState:
        """The fit as it is now, on the CPU."""
        published = self.descent.published
        return FitState(
            network=_on_cpu(self.network),
            published=_on_cpu(published) if published is not self.network else None,
            best=self.best,
            optimizer=self.descent.optimizer.state_dict(),
            losses=self.losses,
            validation_losses=self.validation_losses,
            learning_rate=self.plan.recipe.learning_rate,
            seconds=self.seconds,
            precision=self.precision,
            device=self.place.device.type,
            threads=self.threads,
            num_rows=len(self.sample_NCYX),
            is_finished=self.is_finished,
        )

    def _restore(self, state: FitState) -> None:
        self.network.load_state_dict(state.network)
        if state.published is not None:
            self.descent.published.load_state_dict(state.published)
        self.descent.optimizer.load_state_dict(state.optimizer)
        self.descent.num_steps = len(state.losses) * self.batches.num_steps
        self.losses, self.validation_losses = list(state.losses), list(state.validation_losses)
        self.best, self.precision = state.best, state.precision
        self.seconds = self.saved_s = state.seconds
        self.is_finished = state.is_finished

    def _seed(self, number: int) -> None:
        """The random numbers of a network in pass `number` are this worker's own."""
        seed = np.random.SeedSequence([self.config.seed, number, self.place.rank])
        torch.manual_seed(int(seed.generate_state(1)[0]))

    def _step(self, image_BCYX: Tensor) -> Tensor:
        self.descent.optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            loss = self._number(self.objective(image_BCYX))
        loss.backward()  # type: ignore[no-untyped-call]
        self.descent.step()
        return loss.detach()

    def _number(self, loss: Any) -> Tensor:
        """The loss itself. Raises ConfigError where no weight can be trained by it."""
        if isinstance(loss, Tensor) and not loss.ndim and loss.requires_grad:
            return loss
        found = f"a {type(loss).__name__}"
        if isinstance(loss, Tensor):
            found = "a constant" if not loss.ndim else f"numbers of shape {tuple(loss.shape)}"
        raise ConfigError(
            f"the loss of {self.plan.encoder} is {found}, expected one number, a tensor without "
            "dimensions, that depends on the weights; take its mean, and do not detach it"
        )

    @torch.no_grad()
    def _validate(self) -> tuple[float, int]:
        """Sum of the published network's loss over this worker's validation images, their number.

        The same images and random numbers in every pass, so that passes can be compared.
        """
        self._seed(VALIDATION)
        loss_sum, num_images = 0.0, 0
        for image_BCYX in self.batches.validation():
            with self._autocast():
                loss: Tensor = self.descent.published.loss(image_BCYX)  # type: ignore[operator]
            loss_sum += float(loss) * len(image_BCYX)
            num_images += len(image_BCYX)
        return loss_sum, num_images

    def _autocast(self) -> torch.autocast:
        is_bf16 = self.precision == "bf16"
        return torch.autocast(self.place.device.type, torch.bfloat16, enabled=is_bf16)

    def _end_pass(self, loss_sum: float, num_images: int, began_s: float) -> None:
        """Books the pass; the first worker's clock decides for all what comes next."""
        validation = self._validate()
        pass_s = time.monotonic() - began_s
        seconds = self.seconds + pass_s
        is_late = self._is_last(seconds, pass_s)
        is_save_due = seconds - self.saved_s >= self.config.checkpoint_every_s
        sums = [loss_sum, num_images, *validation]
        numbers = torch.tensor([*sums, is_late, is_save_due], dtype=torch.float64)
        if self.place.num_workers > 1:
            numbers[len(sums) :] *= self.place.rank == 0
            numbers = numbers.to(self.place.device)
            torch.distributed.all_reduce(numbers)
        *sums, is_late, is_save_due = numbers.tolist()
        self._book(*sums)
        self.seconds, self.is_finished = seconds, bool(is_late) or self._is_stalled()
        if self.place.rank == 0:
            self._draw(sums[1] / pass_s)
            if is_save_due or self.is_finished:
                self._save()
        self._report(self.losses[-1], num_images, pass_s, is_under_way=False)

    def _draw(self, images_per_s: float) -> None:
        """Notes the newest pass for TensorBoard."""
        values = {
            "loss/train": self.losses[-1],
            "learning_rate": self.descent.optimizer.param_groups[0]["lr"],
            "images_per_s": images_per_s,
        }
        if self.validation_losses:
            values["loss/validation"] = self.validation_losses[-1]
        self.curves.add(len(self.losses), values)

    def _save(self) -> None:
        self.curves.publish()
        self.state().save(self.plan.folder)
        self.saved_s = self.seconds
        faults.reach("fit.saved", f"pass {len(self.losses)}")

    def _book(
        self, loss_sum: float, num_images: float, validation_sum: float, num_validation: float
    ) -> None:
        """Notes the losses of all workers, and the weights where they are the best so far."""
        loss = self._finite(loss_sum / num_images, "loss")
        if num_validation:
            validation_loss = self._finite(validation_sum / num_validation, "validation loss")
            self.validation_losses.append(validation_loss)
            if find_best(self.validation_losses) == len(self.validation_losses):
                self.best = _on_cpu(self.descent.published, copy=True)
        self.losses.append(loss)

    def _finite(self, loss: float, what: str) -> float:
        if math.isfinite(loss):
            return loss
        raise ConfigError(
            f"the {what} of {self.plan.encoder} is {loss} in pass {len(self.losses) + 1}, expected "
            f"a finite number; lower learning_rate (it is {self.plan.recipe.learning_rate})"
        )

    def _is_stalled(self) -> bool:
        """Whether the validation loss has not fallen for `patience` passes."""
        num_passes = len(self.validation_losses)
        return num_passes - find_best(self.validation_losses) >= self.config.patience

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
            validation_loss=self.validation_losses[-1] if self.validation_losses else None,
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
            left.append(max(0.0, num_todo * self.batches.num_images / images_per_s - pass_s))
        if self.config.budget_s is not None:
            left.append(max(0.0, self.config.budget_s - seconds))
        return min(left)


class _Objective(nn.Module):
    """The loss as a module's `forward`, which is what distributed training hooks into."""

    def __init__(self, network: nn.Module, encoder: str) -> None:
        super().__init__()
        self.network, self.encoder = network, encoder

    def forward(self, image_BCYX: Tensor) -> Tensor:
        with ran_by(self.encoder):
            loss: Tensor = self.network.loss(image_BCYX)  # type: ignore[operator]
        return loss


def _on_cpu(network: nn.Module, *, copy: bool = False) -> dict[str, Tensor]:
    """The network's weights as a state keeps them; `copy` where training goes on meanwhile."""
    weights = network.state_dict()
    return {name: tensor.to("cpu", copy=copy).contiguous() for name, tensor in weights.items()}


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
    filling: Any = torch.utils.deterministic  # has no types
    num_threads, fills = torch.get_num_threads(), filling.fill_uninitialized_memory
    is_deterministic = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.set_num_threads(threads)
    filling.fill_uninitialized_memory = False  # every output is written
    # PyTorch warns of max pooling on GPU, which repeats where windows do not overlap.
    torch.use_deterministic_algorithms(True, warn_only=device.type == "cuda")
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)
        filling.fill_uninitialized_memory = fills
        torch.use_deterministic_algorithms(is_deterministic, warn_only=only_warns)


def _check_sample(sample_NCYX: Tensor, plan: Plan) -> None:
    expected = MODALITIES[kind_of(plan.encoder).modality].shape(plan.network)
    too_few = len(sample_NCYX) < plan.config.train_workers
    if sample_NCYX.ndim != 4 or tuple(sample_NCYX.shape[1:]) != expected or too_few:
        raise ConfigError(
            f"the sample {plan.sample_path} has shape {tuple(sample_NCYX.shape)}, expected "
            f"[N, {expected[0]}, {expected[1]}, {expected[2]}] with N at least "
            f"{plan.config.train_workers}; sample more rows, or prepare them for this network"
        )
