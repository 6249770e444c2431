"""Which images a training worker sees in which step of a pass, and which are held out."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from astroray.fitting.fit_state import FitConfig

__all__ = ["VALIDATION", "Batches"]

NUM_TURNS = 8
"""Flips and turns of a square: a picture of the sky has no upper edge."""
VALIDATION = 2**32 - 1
"""Stands for the number of a pass where random numbers belong to the validation part."""


class Batches:
    """One worker's share of a sample, float32 [B, C, Y, X], channels last, a batch at a time.

    sample_NCYX  [N, C, Y, X]  float16 or float32, on the device that trains

    The objects held out are drawn from the seed, the same ones in all workers and passes. Raises
    ConfigError where they are too few for the workers.
    """

    def __init__(
        self, sample_NCYX: Tensor, config: FitConfig, *, rank: int = 0, num_workers: int = 1
    ) -> None:
        self.sample_NCYX, self.config = sample_NCYX, config
        self.rank, self.num_workers = rank, num_workers
        self.train_row_M, self.validation_row_V = _split_rows(len(sample_NCYX), config)

    @property
    def num_images(self) -> int:
        """Images that all workers train on."""
        return len(self.train_row_M)

    @property
    def num_steps(self) -> int:
        """Steps of a pass."""
        return math.ceil(self.num_images / self.config.batch_size)

    def train(self, number: int) -> Iterator[Tensor]:
        """This worker's images of each step of pass `number`; every image is in one step.

        Steps differ by at most one image, and so do the workers' shares of a step.
        """
        draw = np.random.default_rng([self.config.seed, number])
        order_M = draw.permutation(self.num_images)
        turn_M = draw.integers(0, NUM_TURNS, self.num_images)
        for step_B in np.array_split(order_M, self.num_steps):
            mine_B = step_B[self.rank :: self.num_workers]
            image_BCYX = self._read(self.train_row_M[mine_B])
            if self.config.augment:
                turn_B = torch.from_numpy(turn_M[mine_B]).to(image_BCYX.device)
                image_BCYX = _turn(image_BCYX, turn_B)
            yield image_BCYX.contiguous(memory_format=torch.channels_last)

    def validation(self) -> Iterator[Tensor]:
        """This worker's images of the validation part as they are, in the order of the sample."""
        mine_V = self.validation_row_V[self.rank :: self.num_workers]
        size = self.config.batch_size // self.num_workers
        for row_B in np.array_split(mine_V, math.ceil(len(mine_V) / size)) if len(mine_V) else ():
            yield self._read(row_B).contiguous(memory_format=torch.channels_last)

    def _read(self, row_B: np.ndarray) -> Tensor:
        return self.sample_NCYX[torch.from_numpy(row_B).to(self.sample_NCYX.device)].float()


def _split_rows(num_rows: int, config: FitConfig) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the sample to train on, and those held out, both ascending."""
    num_held = config.num_held_out(num_rows)
    order_N = np.random.default_rng([config.seed, VALIDATION]).permutation(num_rows)
    return np.sort(order_N[num_held:]), np.sort(order_N[:num_held])


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
