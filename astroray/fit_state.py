"""What a fit is told, what it says on its way, and the state it leaves to go on from."""

import dataclasses
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from astroray import storage
from astroray.errors import ConfigError

if TYPE_CHECKING:  # the command line reads FitConfig, and torch takes a second to load
    from torch import Tensor

__all__ = ["FitConfig", "FitProgress", "FitResult", "FitState"]

STATE_NAME = "state.pt"


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
    learning_rate: float = 1e-3
    seed: int = 0
    train_workers: int = 1
    augment: bool = True
    """Whether each image is flipped and turned at random, anew in every pass."""
    precision: str = "auto"
    """fp32, bf16, or auto: bf16 where the device multiplies matrices in it, else fp32."""
    checkpoint_every_s: float = 20.0
    """The state is saved after the first pass that ends so long after the last save."""

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
        for name in ("num_passes", "budget_s", "learning_rate", "train_workers"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} of a fit is {value}, expected more than 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitProgress:
    """Where a fit stands; the last report of a fit has `seconds_left` 0."""

    pass_number: int
    """The pass under way, from 1; after a pass, that pass."""
    num_passes: int | None
    """Passes asked for; None where a budget decides."""
    loss: float
    """Mean loss of the pass so far."""
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


@dataclasses.dataclass(kw_only=True)
class FitState:
    """A fit after a pass: all that it needs to go on as if nothing had happened."""

    network: dict[str, "Tensor"]
    optimizer: dict[str, Any]
    losses: list[float]
    seconds: float
    precision: str
    device: str
    threads: int
    num_rows: int
    is_finished: bool

    def save(self, folder: str) -> None:
        """Publishes the state in `folder`, whole or absent, in place of the one before."""
        import torch

        buffer = io.BytesIO()
        torch.save(vars(self), buffer)
        storage.publish(storage.join(folder, STATE_NAME), buffer.getvalue())

    @classmethod
    def load(cls, folder: str) -> "FitState | None":
        """The newest state in `folder`; None where a fit begins."""
        import torch

        path = storage.join(folder, STATE_NAME)
        if not storage.exists(path):
            return None
        buffer = io.BytesIO(storage.read_bytes(path))
        return cls(**torch.load(buffer, map_location="cpu", weights_only=True))

    def result(self, config: FitConfig) -> FitResult:
        """What the fit has come to."""
        return FitResult(
            state_dict=self.network,
            loss_per_pass=tuple(self.losses),
            seconds=self.seconds,
            precision=self.precision,
            device=self.device,
            threads=self.threads,
            train_workers=config.train_workers,
            num_rows=self.num_rows,
        )
