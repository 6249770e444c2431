"""Every image of a sample is where it belongs: in one step of a pass, or held out for good."""

import dataclasses

import numpy as np
import pytest
import torch

from astroray.errors import ConfigError
from astroray.fitting import batches
from astroray.fitting.batches import Batches
from astroray.fitting.fit_state import FitConfig

CONFIG = FitConfig(num_passes=1, batch_size=16, train_workers=3)
HOLDING = dataclasses.replace(CONFIG, validation_share=0.2)


@pytest.fixture
def sample_NCYX() -> torch.Tensor:
    """50 images, each of one value, its row."""
    return torch.arange(50, dtype=torch.float16).view(50, 1, 1, 1).expand(50, 2, 16, 16)


def _rows(images) -> list[list[int]]:
    return [image_BCYX[:, 0, 0, 0].int().tolist() for image_BCYX in images]


def _workers(sample_NCYX: torch.Tensor, config: FitConfig) -> list[Batches]:
    return [Batches(sample_NCYX, config, rank=rank, num_workers=3) for rank in range(3)]


def test_every_image_is_in_one_batch_of_each_pass_and_of_one_worker(sample_NCYX):
    orders = []
    for number in range(2):
        shares = [_rows(worker.train(number)) for worker in _workers(sample_NCYX, CONFIG)]
        assert {len(steps) for steps in shares} == {4}  # ceil(50 / 16) steps for all
        rows = [row for steps in shares for step in steps for row in step]
        assert sorted(rows) == list(range(50))
        orders.append(rows)
    assert orders[0] != orders[1]
    assert not _rows(Batches(sample_NCYX, CONFIG).validation())


def test_no_image_of_the_validation_part_is_ever_trained_on(sample_NCYX):
    workers = _workers(sample_NCYX, HOLDING)
    held = [row for worker in workers for step in _rows(worker.validation()) for row in step]
    trained = {
        row
        for number in range(5)
        for worker in workers
        for step in _rows(worker.train(number))
        for row in step
    }
    assert len(held) == len(set(held)) == 10
    assert trained == set(range(50)) - set(held)
    assert workers[0].num_images == 40
    assert workers[0].num_steps == 3


def test_the_validation_part_is_drawn_by_the_seed_and_not_turned():
    image_NCYX = torch.from_numpy(np.random.default_rng(2).random((50, 1, 4, 4), np.float32))
    first, again, other = (
        torch.cat(list(Batches(image_NCYX, dataclasses.replace(HOLDING, seed=seed)).validation()))
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    known = {image_CYX.numpy().tobytes() for image_CYX in image_NCYX}
    assert {image_CYX.contiguous().numpy().tobytes() for image_CYX in first} <= known


def test_a_validation_part_too_small_for_the_workers_is_refused(sample_NCYX):
    config = dataclasses.replace(HOLDING, validation_share=0.1)
    with pytest.raises(ConfigError, match=r"validation part is 5 of 50 objects .* at least 6"):
        Batches(sample_NCYX, config)


def test_the_eight_turns_are_the_flips_and_rotations_of_a_square():
    image_YX = torch.arange(9.0).view(3, 3)
    turned = batches._turn(image_YX.expand(8, 1, 3, 3), torch.arange(8))
    expected = {
        tuple(torch.rot90(image, quarter).flatten().tolist())
        for image in (image_YX, image_YX.T)
        for quarter in range(4)
    }
    assert {tuple(image.flatten().tolist()) for image in turned} == expected
    assert len(expected) == 8
