"""A fit repeats to the last bit, also when it is killed and goes on, in Ray and out of it."""

import dataclasses
import functools
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from astroray import passes, training
from astroray.errors import ConfigError
from astroray.fit_state import FitConfig, FitState
from astroray.passes import run_passes
from astroray.training import fit_network

NETWORK = {"num_bands": 2, "size_px": 16, "latent": 8}
SMALL = FitConfig(num_passes=3, batch_size=16, checkpoint_every_s=0.0)


@pytest.fixture
def sample_path(tmp_path: Path) -> str:
    """64 blobs of two bands, brighter to the left, each at its own place."""
    rng = np.random.default_rng(11)
    y, x = np.mgrid[:16, :16]
    place_N2 = rng.uniform(4, 12, (64, 2))
    distance = (y - place_N2[:, :1, None]) ** 2 + (x - place_N2[:, 1:, None]) ** 2
    image_NYX = np.exp(-distance / 8) * np.linspace(1, 0.5, 16)
    image_NCYX = np.stack([image_NYX, 0.3 * image_NYX], 1).astype(np.float16)
    path = str(tmp_path / "sample.npy")
    np.save(path, image_NCYX)
    return path


def _fit(sample_path: str, folder: Path, config: FitConfig = SMALL, **options):
    return run_passes(sample_path, "attcae", NETWORK, config, str(folder), **options)


def _assert_same_bytes(result, expected) -> None:
    assert result.loss_per_pass == expected.loss_per_pass
    assert list(result.state_dict) == list(expected.state_dict)
    for name, tensor in expected.state_dict.items():
        assert torch.equal(result.state_dict[name], tensor), name


def _as_worker(rank: int, num_workers: int, config: FitConfig, sample_NCYX: torch.Tensor):
    plan = passes.Plan(sample_path="", encoder="cae", network=NETWORK, config=config, folder="")
    place = passes.Place(
        rank=rank, num_workers=num_workers, device=torch.device("cpu"), threads=1,
        wrap=lambda module: module, report=lambda progress: None,
    )  # fmt: skip
    return passes._Fit(sample_NCYX, plan, place, None)


def test_the_same_fit_gives_the_same_bytes_and_another_seed_others(sample_path, tmp_path):
    first = _fit(sample_path, tmp_path / "a")
    _assert_same_bytes(_fit(sample_path, tmp_path / "b"), first)
    other = _fit(sample_path, tmp_path / "c", dataclasses.replace(SMALL, seed=1))
    assert other.loss_per_pass != first.loss_per_pass


@pytest.mark.parametrize("checkpoint_every_s", [0.0, 1e9])
def test_a_fit_killed_in_its_third_pass_ends_in_the_same_bytes(
    checkpoint_every_s, sample_path, tmp_path, monkeypatch
):
    config = dataclasses.replace(SMALL, checkpoint_every_s=checkpoint_every_s)
    undisturbed = _fit(sample_path, tmp_path / "undisturbed", config)
    with monkeypatch.context() as patch:
        step, count = passes._Fit._step, itertools.count()

        def step_or_die(fit, image_BCYX):
            if next(count) == 10:  # four steps a pass
                raise MemoryError
            return step(fit, image_BCYX)

        patch.setattr(passes._Fit, "_step", step_or_die)
        with pytest.raises(MemoryError):
            _fit(sample_path, tmp_path / "killed", config)
    saved = FitState.load(str(tmp_path / "killed"))
    assert (len(saved.losses) if saved else 0) == (2 if checkpoint_every_s == 0 else 0)
    _assert_same_bytes(_fit(sample_path, tmp_path / "killed", config), undisturbed)


def test_a_finished_fit_is_not_trained_again(sample_path, tmp_path, monkeypatch):
    first = _fit(sample_path, tmp_path / "fit")
    monkeypatch.setattr(passes._Fit, "_step", None)
    _assert_same_bytes(_fit(sample_path, tmp_path / "fit"), first)


def test_the_loss_falls_and_the_embedding_stays_alive(sample_path, tmp_path):
    config = dataclasses.replace(SMALL, num_passes=20, batch_size=8, checkpoint_every_s=1e9)
    result = _fit(sample_path, tmp_path / "fit", config)
    assert result.num_passes == 20
    assert result.loss_per_pass[-1] < 0.7 * result.loss_per_pass[0]
    network = passes.build_network("attcae", NETWORK)
    network.load_state_dict(result.state_dict)
    embedding_BD = network(torch.from_numpy(np.load(sample_path)).float())
    assert int((embedding_BD.std(0) > 0).sum()) >= 2


class _Clock:
    """Each look at it takes a second."""

    def __init__(self) -> None:
        self.monotonic = functools.partial(next, itertools.count())


def test_a_budget_ends_the_fit_before_the_pass_that_would_exceed_it(
    sample_path, tmp_path, monkeypatch
):
    monkeypatch.setattr(passes, "time", _Clock())
    unlimited = _fit(sample_path, tmp_path / "one", dataclasses.replace(SMALL, num_passes=1))
    pass_s = unlimited.seconds
    config = dataclasses.replace(SMALL, num_passes=None, budget_s=3.5 * pass_s)
    result = _fit(sample_path, tmp_path / "budget", config)
    assert result.num_passes == 3
    assert result.seconds == 3 * pass_s
    small = dataclasses.replace(config, budget_s=0.1 * pass_s)
    assert _fit(sample_path, tmp_path / "small", small).num_passes == 1


def test_seconds_before_a_kill_count_against_the_budget(sample_path, tmp_path, monkeypatch):
    monkeypatch.setattr(passes, "time", _Clock())
    config = dataclasses.replace(SMALL, num_passes=None, budget_s=100.0)
    whole = _fit(sample_path, tmp_path / "whole", config)
    state = FitState.load(str(tmp_path / "whole"))
    state.is_finished, state.seconds = False, 90.0
    state.save(str(tmp_path / "resumed"))
    resumed = _fit(sample_path, tmp_path / "resumed", config)
    assert whole.num_passes > 5
    assert 0 < resumed.num_passes - whole.num_passes <= 2


def test_every_image_is_in_one_batch_of_each_pass_and_of_one_worker(tmp_path):
    sample_NCYX = torch.arange(50, dtype=torch.float16).view(50, 1, 1, 1).expand(50, 2, 16, 16)
    config = dataclasses.replace(SMALL, train_workers=3, batch_size=16)
    orders = []
    for number in range(2):
        shares = []
        for rank in range(3):
            fit = _as_worker(rank, 3, config, sample_NCYX)
            shares.append([image[:, 0, 0, 0].tolist() for image in fit._batches(number)])
        assert {len(batches) for batches in shares} == {4}  # ceil(50 / 16) steps for all
        rows = [row for batches in shares for batch in batches for row in batch]
        assert sorted(rows) == list(range(50))
        orders.append(rows)
    assert orders[0] != orders[1]


def test_the_eight_turns_are_the_flips_and_rotations_of_a_square():
    image_YX = torch.arange(9.0).view(3, 3)
    turned = passes._turn(image_YX.expand(8, 1, 3, 3), torch.arange(8))
    expected = {
        tuple(torch.rot90(image, quarter).flatten().tolist())
        for image in (image_YX, image_YX.T)
        for quarter in range(4)
    }
    assert {tuple(image.flatten().tolist()) for image in turned} == expected
    assert len(expected) == 8


def test_progress_counts_up_to_the_end(sample_path, tmp_path):
    seen = []
    _fit(sample_path, tmp_path / "fit", report=seen.append)
    ends = [progress for progress in seen if progress.seconds == seen[-1].seconds]
    assert [progress.pass_number for progress in seen] == sorted(p.pass_number for p in seen)
    assert ends[-1].pass_number == 3
    assert ends[-1].seconds_left == 0
    assert all(p.seconds_left > 0 for p in seen[:-1])
    assert all(p.images_per_s > 0 and np.isfinite(p.loss) for p in seen)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_passes": None}, "no end"),
        ({"num_passes": 0}, "num_passes of a fit is 0"),
        ({"budget_s": -1.0}, "budget_s of a fit is -1"),
        ({"precision": "fp8"}, "precision is 'fp8'"),
        ({"train_workers": 9}, "batch_size is 16 for 9 training workers"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(SMALL, **changes)


def test_a_sample_of_another_shape_is_refused(sample_path, tmp_path):
    with pytest.raises(ConfigError, match=r"shape \(64, 2, 16, 16\), expected \[N, 3, 16, 16\]"):
        run_passes(sample_path, "cae", NETWORK | {"num_bands": 3}, SMALL, str(tmp_path / "fit"))


def test_a_loss_that_is_not_finite_stops_the_fit(sample_path, tmp_path):
    image_NCYX = np.load(sample_path)
    image_NCYX[5, 0, 3, 3] = np.nan
    np.save(tmp_path / "bad.npy", image_NCYX)
    with pytest.raises(ConfigError, match="loss of attcae is nan in pass 1"):
        _fit(str(tmp_path / "bad.npy"), tmp_path / "fit")


def test_the_name_of_a_fit_changes_with_sample_and_configuration(sample_path, tmp_path):
    name = functools.partial(training._fingerprint, encoder="cae", network=NETWORK, use_gpu=False)
    first = name(sample_path, config=SMALL)
    assert name(sample_path, config=dataclasses.replace(SMALL, checkpoint_every_s=5.0)) == first
    assert name(sample_path, config=dataclasses.replace(SMALL, seed=1)) != first
    other = str(tmp_path / "other.npy")
    np.save(other, np.load(sample_path)[:32])
    assert name(other, config=SMALL) != first


@pytest.mark.ray
@pytest.mark.timeout(180)
def test_a_fit_by_ray_train_equals_one_in_process_and_survives_a_killed_worker(
    ray_cluster, sample_path, tmp_path, monkeypatch
):
    train, scar = training._train_in_worker, tmp_path / "died"

    def train_and_die_once(config):  # in the worker, where only its argument is known
        from astroray import passes

        step, count = passes._Fit._step, itertools.count()

        def step_or_die(fit, image_BCYX):
            if next(count) == 6 and not scar.exists():  # in the second pass
                scar.touch()
                os._exit(1)
            return step(fit, image_BCYX)

        passes._Fit._step = step_or_die
        train(config)

    monkeypatch.setattr(training, "_train_in_worker", train_and_die_once)
    seen = []
    result = fit_network(
        sample_path, "attcae", NETWORK, SMALL, str(tmp_path / "fits"), report=seen.append
    )
    assert scar.exists()
    assert seen[-1].pass_number == 3
    assert seen[-1].seconds_left == 0
    expected = _fit(sample_path, tmp_path / "in_process", threads=result.threads)
    _assert_same_bytes(result, expected)


@pytest.mark.ray
@pytest.mark.timeout(180)
def test_two_training_workers_take_the_steps_of_their_mean_gradient_to_the_last_bit(
    ray_cluster, sample_path, tmp_path
):
    config = dataclasses.replace(SMALL, num_passes=2, train_workers=2)
    result = fit_network(
        sample_path, "cae", NETWORK, config, str(tmp_path), report=lambda progress: None
    )
    assert result.train_workers == 2
    sample_NCYX = torch.from_numpy(np.load(sample_path))
    with passes._repeatable(result.threads, torch.device("cpu")):
        first, second = (_as_worker(rank, 2, config, sample_NCYX) for rank in range(2))
        for number in range(2):
            for images in zip(first._batches(number), second._batches(number), strict=True):
                gradients = [_gradients(first, image_BCYX) for image_BCYX in images]
                for parameter, *pair in zip(first.network.parameters(), *gradients, strict=True):
                    # fused Adam wants the parameter's memory layout
                    parameter.grad = torch.empty_like(parameter).copy_(sum(pair) / 2)
                first.optimizer.step()
    for name, tensor in first.network.state_dict().items():
        assert torch.equal(result.state_dict[name], tensor), name


def _gradients(fit: passes._Fit, image_BCYX: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(fit.objective(image_BCYX), list(fit.network.parameters()))


@pytest.mark.ray
def test_more_training_workers_than_cpus_are_refused_before_the_start(
    ray_cluster, sample_path, tmp_path
):
    config = dataclasses.replace(SMALL, train_workers=8)
    with pytest.raises(ConfigError, match="8 training workers need a CPU each, the cluster has 6"):
        fit_network(sample_path, "cae", NETWORK, config, str(tmp_path), report=print)
