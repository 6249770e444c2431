"""What a fit is told, what it says on its way, and the state it leaves to go on from."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from astroray.errors import ConfigError
from astroray.fitting.state_file import load_state, save_state

if TYPE_CHECKING:  # the command line reads FitConfig, and torch takes a second to load
    from torch import Tensor

__all__ = ["FitConfig", "FitProgress", "FitResult", "FitState", "find_best"]

MAX_VALIDATION_SHARE = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How a network is fitted; raises ConfigError on values that cannot work."""

    num_passes: int | None = None
    """Passes over the sample; None: as many as fit into `budget_s`."""
    budget_s: float | None = None
    """Seconds of training, all attempts together, without the start of the workers. No pass is
    begun that would end later, but the first always is."""
    batch_size: int = 128
    """Images a step, all workers together."""
    learning_rate: float | None = None
    """None: what the encoder's recipe says."""
    seed: int = 0
    """Of the weights that a fit begins with, the order of its batches and what it draws."""
    train_workers: int = 1
    """Training workers; another number gives other weights."""
    augment: bool = True
    """Whether each image is flipped and turned at random, anew in every pass."""
    precision: str = "auto"
    """fp32, bf16, or auto: bf16 where the device multiplies matrices in it, else fp32."""
    checkpoint_every_s: float = 20.0
    """The state is saved after the first pass that ends so long after the last save."""
    validation_share: float = 0.0
    """Share of the sample's objects that no gradient sees. Their loss is taken after each pass,
    and the weights of the pass where it was lowest are the result. 0: the last weights are."""
    patience: int = 10
    """The fit ends after so many passes in which the validation loss has not fallen."""

    def __post_init__(self) -> None:
        if self.num_passes is None and self.budget_s is None:
            raise ConfigError("a fit has no end: set num_passes, budget_s or both")
        if self.precision not in ("auto", "fp32", "bf16"):
            raise ConfigError(f"precision is {self.precision!r}, expected auto, fp32 or bf16")
        if self.batch_size < 2 * self.train_workers:
            raise ConfigError(
                f"batch_size is {self.batch_size} for {self.train_workers} training workers, "
                f"expected at least {2 * self.train_workers}; enlarge it or use fewer workers"
            )
        if not 0 <= self.validation_share <= MAX_VALIDATION_SHARE:
            raise ConfigError(
                f"validation_share is {self.validation_share}, expected 0..{MAX_VALIDATION_SHARE}"
            )
        for name in ("num_passes", "budget_s", "learning_rate", "train_workers", "patience"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name} of a fit is {value}, expected more than 0, finite")
        if self.seed < 0:
            raise ConfigError(f"seed of a fit is {self.seed}, expected at least 0")

    def num_held_out(self, num_rows: int) -> int:
        """Objects of a sample of `num_rows` that are the validation part.

        Raises ConfigError where they are fewer than two for each training worker.
        """
        num_held, num_needed = round(num_rows * self.validation_share), 2 * self.train_workers
        if self.validation_share and num_held < num_needed:
            raise ConfigError(
                f"the validation part is {num_held} of {num_rows} objects (validation_share "
                f"{self.validation_share:g}), expected at least {num_needed}; sample more rows, or "
                "set validation_share to 0"
            )
        return num_held


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitProgress:
    """Where a fit stands; the last report of a fit has `seconds_left` 0."""

    pass_number: int
    """The pass under way, from 1; after a pass, that pass."""
    num_passes: int | None
    """Passes asked for; None where a budget decides."""
    loss: float
    """Mean loss of the pass so far."""
    validation_loss: float | None
    """Of the newest whole pass; None without a validation part, and in the first pass."""
    images_per_s: float
    seconds: float
    """Seconds of training, those before an interruption included."""
    seconds_left: float
    """Estimate."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitResult:
    """A fitted network and how it was fitted."""

    state_dict: Mapping[str, "Tensor"]
    """Weights on the CPU, float32."""
    loss_per_pass: tuple[float, ...]
    validation_loss_per_pass: tuple[float, ...]
    """Empty without a validation part."""
    learning_rate: float
    """Rate after the warm-up."""
    seconds: float
    """Seconds of training in all attempts; passes that a kill undid are not counted."""
    precision: str
    """What `auto` became: fp32 or bf16."""
    device: str
    """cpu or cuda."""
    threads: int
    """Threads of each training worker."""
    train_workers: int
    num_rows: int
    """Images of the sample."""

    @property
    def num_passes(self) -> int:
        """Passes that were made."""
        return len(self.loss_per_pass)

    @property
    def best_pass(self) -> int:
        """The pass, from 1, whose weights these are."""
        return find_best(self.validation_loss_per_pass) or self.num_passes

    def facts(self) -> dict[str, Any]:
        """What a model file says of its fit, as JSON values."""
        facts: dict[str, Any] = {
            "num_passes": self.num_passes,
            "loss": list(self.loss_per_pass),
            "learning_rate": self.learning_rate,
            "seconds": round(self.seconds, 1),
            "precision": self.precision,
            "device": self.device,
            "threads": self.threads,
            "train_workers": self.train_workers,
        }
        if self.validation_loss_per_pass:
            facts["validation_loss"] = list(self.validation_loss_per_pass)
            facts["best_pass"] = self.best_pass
        return facts


def find_best(loss_P: Sequence[float]) -> int:
    """The first pass, from 1, with the lowest loss; 0 where there is none."""
    return loss_P.index(min(loss_P)) + 1 if loss_P else 0


@dataclasses.dataclass(kw_only=True)
class FitState:
    """A fit after a pass: all that it needs to go on as if nothing had happened."""

    network: dict[str, "Tensor"]
    """The trained weights."""
    published: dict[str, "Tensor"] | None
    """Their running average; None where the recipe has none."""
    best: dict[str, "Tensor"] | None
    """What was to be published after the best pass; None without a validation part."""
    optimizer: dict[str, Any]
    losses: list[float]
    validation_losses: list[float]
    learning_rate: float
    seconds: float
    precision: str
    device: str
    threads: int
    num_rows: int
    is_finished: bool

    def save(self, folder: str) -> None:
        """Publishes the state in `folder`, whole or absent, in place of the one before."""
        save_state(folder, vars(self))

    @classmethod
    def load(cls, folder: str) -> "FitState | None":
        """The newest state in `folder`; None where a fit begins."""
        known = load_state(folder)
        return cls(**known) if known else None

    def result(self, config: FitConfig) -> FitResult:
        """What the fit has come to."""
        return FitResult(
            state_dict=self.best or self.published or self.network,
            loss_per_pass=tuple(self.losses),
            validation_loss_per_pass=tuple(self.validation_losses),
            learning_rate=self.learning_rate,
            seconds=self.seconds,
            precision=self.precision,
            device=self.device,
            threads=self.threads,
            train_workers=config.train_workers,
            num_rows=self.num_rows,
        )
