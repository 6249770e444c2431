"""A fit repeats to the last bit, also when it is killed and goes on, in Ray and out of it."""

import dataclasses
import functools
import itertools
import os
import re
import struct
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from ray.exceptions import ActorDiedError
from ray.train.v2.api.exceptions import WorkerGroupError
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from astroray.encoders.recipe import Recipe
from astroray.errors import BackendError, ConfigError
from astroray.fitting import curves, passes, training
from astroray.fitting.fit_state import FitConfig, FitState
from astroray.fitting.passes import run_passes
from astroray.fitting.training import fit_network, train_in_workers
from tests import scans

NETWORK = {"num_bands": 2, "size_px": 16, "latent": 8}
SMALL = FitConfig(num_passes=3, batch_size=16, checkpoint_every_s=0.0)
HOLDING = dataclasses.replace(SMALL, validation_share=0.25)
AVERAGED = Recipe(
    learning_rate=2e-3, betas=(0.9, 0.95), weight_decay=0.05, warmup_steps=4, clip_norm=0.05,
    average=0.8,
)  # fmt: skip


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


@pytest.fixture
def averaged(monkeypatch) -> None:
    """Every encoder is fitted by a recipe with all there is."""
    for module in (passes, training):
        monkeypatch.setattr(module, "find_recipe", lambda encoder, config: AVERAGED)


def _fit(sample_path: str, folder: Path, config: FitConfig = SMALL, *, threads: int = 1, **options):
    return run_passes(
        sample_path, "attcae", NETWORK, config, str(folder), threads=threads, **options
    )


def _assert_same_bytes(result, expected) -> None:
    assert result.loss_per_pass == expected.loss_per_pass
    assert result.validation_loss_per_pass == expected.validation_loss_per_pass
    assert list(result.state_dict) == list(expected.state_dict)
    for name, tensor in expected.state_dict.items():
        assert torch.equal(result.state_dict[name], tensor), name


def _plan(config: FitConfig, encoder: str = "attcae") -> passes.Plan:
    return passes.Plan(
        sample_path="", encoder=encoder, network=NETWORK, config=config, recipe=AVERAGED, folder=""
    )


def _place(rank: int = 0, num_workers: int = 1) -> passes.Place:
    return passes.Place(
        rank=rank, num_workers=num_workers, device=torch.device("cpu"), threads=1,
        wrap=lambda module: module, report=lambda progress: None,
    )  # fmt: skip


def test_the_same_fit_gives_the_same_bytes_and_another_seed_others(sample_path, tmp_path):
    first = _fit(sample_path, tmp_path / "a")
    _assert_same_bytes(_fit(sample_path, tmp_path / "b"), first)
    other = _fit(sample_path, tmp_path / "c", dataclasses.replace(SMALL, seed=1))
    assert other.loss_per_pass != first.loss_per_pass


def _fit_and_die(sample_path, folder: Path, config: FitConfig, monkeypatch, *, num_steps) -> None:
    """A fit that is killed in the step after `num_steps`."""
    with monkeypatch.context() as patch:
        step, count = passes._Fit._step, itertools.count()

        def step_or_die(fit, image_BCYX):
            if next(count) == num_steps:
                raise MemoryError
            return step(fit, image_BCYX)

        patch.setattr(passes._Fit, "_step", step_or_die)
        with pytest.raises(MemoryError):
            _fit(sample_path, folder, config)


@pytest.mark.parametrize("checkpoint_every_s", [0.0, 1e9])
def test_a_fit_killed_in_its_third_pass_ends_in_the_same_bytes(
    checkpoint_every_s, sample_path, tmp_path, monkeypatch
):
    config = dataclasses.replace(SMALL, checkpoint_every_s=checkpoint_every_s)
    undisturbed = _fit(sample_path, tmp_path / "undisturbed", config)
    _fit_and_die(sample_path, tmp_path / "killed", config, monkeypatch, num_steps=10)  # 4 a pass
    saved = FitState.load(str(tmp_path / "killed"))
    assert (len(saved.losses) if saved else 0) == (2 if checkpoint_every_s == 0 else 0)
    _assert_same_bytes(_fit(sample_path, tmp_path / "killed", config), undisturbed)


@pytest.mark.parametrize("config", [HOLDING, SMALL], ids=["validation", "no validation"])
def test_average_warm_up_and_best_weights_survive_a_kill_to_the_last_bit(
    config, averaged, sample_path, tmp_path, monkeypatch
):
    undisturbed = _fit(sample_path, tmp_path / "undisturbed", config)
    num_steps = 7 if config is HOLDING else 9  # 3 or 4 a pass
    _fit_and_die(sample_path, tmp_path / "killed", config, monkeypatch, num_steps=num_steps)
    assert len(FitState.load(str(tmp_path / "killed")).losses) == 2
    _assert_same_bytes(_fit(sample_path, tmp_path / "killed", config), undisturbed)
    state = FitState.load(str(tmp_path / "killed"))
    name = "encoder_convs.0.weight"
    assert torch.equal(undisturbed.state_dict[name], (state.best or state.published)[name])
    assert not torch.equal(undisturbed.state_dict[name], state.network[name])


def _validate_as(losses: list[float], monkeypatch) -> None:
    monkeypatch.setattr(passes._Fit, "_validate", lambda fit: (losses[len(fit.losses)], 1))


def test_a_fit_stops_when_its_validation_loss_does_not_fall_and_keeps_the_best_weights(
    sample_path, tmp_path, monkeypatch
):
    config = dataclasses.replace(HOLDING, num_passes=9, patience=2)
    with monkeypatch.context() as patch:
        _validate_as([3.0, 2.0, 2.5, 1.0, 1.0, 1.5, 0.1, 0.1, 0.1], patch)
        seen = []
        stopped = _fit(sample_path, tmp_path / "stopped", config, report=seen.append)
    assert stopped.validation_loss_per_pass == (3.0, 2.0, 2.5, 1.0, 1.0, 1.5)
    assert stopped.best_pass == 4
    assert stopped.num_passes == 6
    assert seen[-1].seconds_left == 0
    assert seen[-1].validation_loss == 1.5
    assert seen[0].validation_loss == 3.0
    four = dataclasses.replace(config, num_passes=4)
    _validate_as([3.0, 2.0, 2.5, 1.0], monkeypatch)
    expected = _fit(sample_path, tmp_path / "four", four)
    assert stopped.loss_per_pass[:4] == expected.loss_per_pass
    for name, tensor in expected.state_dict.items():
        assert torch.equal(stopped.state_dict[name], tensor), name


def test_validation_measures_the_published_weights_and_draws_the_same_numbers_in_every_pass(
    sample_path, averaged
):
    sample_NCYX = torch.from_numpy(np.load(sample_path))
    with passes._repeatable(1, torch.device("cpu")):
        fit = passes._Fit(sample_NCYX, _plan(HOLDING), _place(), None)
        before = fit._validate()
        torch.manual_seed(99)
        assert fit._validate() == before
        for image_BCYX in fit.batches.train(0):
            fit._step(image_BCYX)
        held_BCYX = torch.cat(list(fit.batches.validation()))
        with torch.no_grad(), fit._autocast():  # bf16 on some CPUs
            published, trained = (
                float(network.loss(held_BCYX)) for network in (fit.descent.published, fit.network)
            )
        loss_sum, num_images = fit._validate()
    assert num_images == before[1] == 16
    assert loss_sum / 16 == pytest.approx(published, rel=1e-6)
    assert loss_sum / 16 != pytest.approx(trained, rel=1e-6)
    assert loss_sum != before[0]


def test_a_learning_rate_of_the_configuration_goes_before_the_recipe_s():
    recipe = passes.find_recipe("cae", SMALL)
    named = passes.find_recipe("cae", dataclasses.replace(SMALL, learning_rate=0.5))
    assert recipe.learning_rate != 0.5
    assert named == dataclasses.replace(recipe, learning_rate=0.5)


def test_without_a_validation_part_the_last_weights_are_the_result(sample_path, tmp_path):
    result = _fit(sample_path, tmp_path / "fit")
    assert result.validation_loss_per_pass == ()
    assert result.best_pass == 3
    assert "validation_loss" not in result.facts()
    state = FitState.load(str(tmp_path / "fit"))
    assert state.best is None
    assert torch.equal(
        result.state_dict["encoder_convs.0.weight"], state.network["encoder_convs.0.weight"]
    )


def test_tensorboard_finds_each_pass_once_though_the_fit_was_killed(
    sample_path, averaged, tmp_path, monkeypatch
):
    _fit_and_die(sample_path, tmp_path, HOLDING, monkeypatch, num_steps=7)
    result = _fit(sample_path, tmp_path, HOLDING)
    scalars = read_scalars(tmp_path / curves.FOLDER_NAME)
    numbers = [1, 2, 3]
    assert list(scalars["loss/train"]) == numbers
    assert list(scalars["loss/train"].values()) == pytest.approx(result.loss_per_pass)
    assert list(scalars["loss/validation"].values()) == pytest.approx(
        result.validation_loss_per_pass
    )
    # three steps a pass, warm-up over four
    assert list(scalars["learning_rate"].values()) == pytest.approx([1.5e-3, 2e-3, 2e-3])
    assert list(scalars["images_per_s"]) == numbers
    assert min(scalars["images_per_s"].values()) > 0


def read_scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Value by pass of each name, read as TensorBoard does; no pass may be there twice."""
    scalars: dict[str, dict[int, float]] = {}
    for path in sorted(folder.iterdir()):
        assert "tfevents" in path.name
        data = path.read_bytes()
        events = []
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            body = data[12 : 12 + size]
            checks = struct.unpack("<I", data[8:12]) + struct.unpack("<I", data[12 + size :][:4])
            assert checks == (masked_crc32c(data[:8]), masked_crc32c(body))
            events.append(Event.FromString(body))
            data = data[16 + size :]
        assert events[0].file_version == "brain.Event:2"
        for event in events[1:]:
            for value in event.summary.value:
                numbers = scalars.setdefault(value.tag, {})
                assert event.step not in numbers
                numbers[event.step] = value.simple_value
    return scalars


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
        ({"validation_share": 0.7}, r"validation_share is 0.7, expected 0..0.5"),
        ({"validation_share": -0.1}, "validation_share is -0.1"),
        ({"patience": 0}, "patience of a fit is 0"),
        ({"train_workers": 9}, "batch_size is 16 for 9 training workers"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(SMALL, **changes)


def test_a_sample_of_another_shape_is_refused_and_torch_s_settings_are_as_they_were(
    sample_path, tmp_path
):
    settings = torch.utils.deterministic
    before = settings.fill_uninitialized_memory, torch.get_num_threads()
    with pytest.raises(ConfigError, match=r"shape \(64, 2, 16, 16\), expected \[N, 3, 16, 16\]"):
        run_passes(
            sample_path,
            "cae",
            NETWORK | {"num_bands": 3},
            SMALL,
            str(tmp_path / "fit"),
            threads=1,
        )
    assert before == (settings.fill_uninitialized_memory, torch.get_num_threads())
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_loss_that_is_not_finite_stops_the_fit(sample_path, tmp_path):
    image_NCYX = np.load(sample_path)
    image_NCYX[5, 0, 3, 3] = np.nan
    np.save(tmp_path / "bad.npy", image_NCYX)
    with pytest.raises(ConfigError, match="loss of attcae is nan in pass 1"):
        _fit(str(tmp_path / "bad.npy"), tmp_path / "fit")


def test_the_name_of_a_fit_changes_with_sample_and_configuration(sample_path, tmp_path):
    name = functools.partial(
        training._fingerprint, encoder="cae", network=NETWORK, recipe=Recipe(), use_gpu=False
    )
    first = name(sample_path, config=SMALL)
    assert name(sample_path, config=SMALL, recipe=AVERAGED) != first
    assert name(sample_path, config=dataclasses.replace(SMALL, checkpoint_every_s=5.0)) == first
    assert name(sample_path, config=dataclasses.replace(SMALL, seed=1)) != first
    other = str(tmp_path / "other.npy")
    np.save(other, np.load(sample_path)[:32])
    assert name(other, config=SMALL) != first


def test_a_fit_by_ray_train_in_its_local_mode_equals_one_without_it(
    averaged, sample_path, tmp_path
):
    seen = []
    with scans.fits_here():
        result = fit_network(
            sample_path, "attcae", NETWORK, HOLDING, str(tmp_path / "fits"), report=seen.append
        )
    assert seen[-1].pass_number == 3
    assert seen[-1].seconds_left == 0
    expected = _fit(sample_path, tmp_path / "in_process", HOLDING, threads=result.threads)
    _assert_same_bytes(result, expected)


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (
            ValueError("no\nsuch band"),
            r"ValueError: no such band \(/nets.py, line 7, in loss\); mend",
        ),
        (MemoryError(), "free memory or use fewer train_workers"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "free memory or use fewer"),
        (ActorDiedError(), "free memory or use fewer train_workers"),
    ],
)
def test_only_where_the_machine_is_too_small_is_it_advised_to_use_less(raised, message):
    text = 'File "/passes.py", line 3, in run\n  File "/nets.py", line 7, in loss\nValueError'
    error = training._explain(WorkerGroupError(text, {0: raised}), "fitting nets:Net")
    assert re.search(rf"^fitting nets:Net failed 4 times: .*{message}", str(error), re.DOTALL)
    assert ("free memory" in str(error)) == isinstance(error, BackendError)


def test_one_of_several_training_workers_that_refuses_ends_the_others_too(tmp_path, monkeypatch):
    refusal, begun = str(tmp_path / "refused.txt"), []

    def refuse(config):
        begun.append(config)
        raise ConfigError("nets:Net raised KeyError")

    context = types.SimpleNamespace(get_world_size=lambda: 2)
    monkeypatch.setattr(training.ray.train, "get_context", lambda: context)
    with pytest.raises(ConfigError):  # by which Ray Train ends the one that waits for it
        training._work_or_refuse(refuse, refusal, {})
    training._work_or_refuse(refuse, refusal, {})
    assert len(begun) == 1
    assert Path(refusal).read_text() == "nets:Net raised KeyError"


@pytest.mark.ray
@pytest.mark.faults
@pytest.mark.timeout(180)
def test_two_training_workers_one_of_which_is_killed_take_the_steps_of_their_mean_gradient(
    ray_cluster, averaged, sample_path, tmp_path, monkeypatch
):
    train, scar = training._train_in_worker, tmp_path / "died"

    def train_and_die_once(config):  # in the worker, where only its argument is known
        from astroray.fitting import passes

        step, count = passes._Fit._step, itertools.count()

        def step_or_die(fit, image_BCYX):
            if next(count) == 4 and fit.place.rank == 1 and not scar.exists():  # in the second pass
                scar.touch()
                os._exit(1)
            return step(fit, image_BCYX)

        passes._Fit._step = step_or_die
        train(config)

    monkeypatch.setattr(training, "_train_in_worker", train_and_die_once)
    config = dataclasses.replace(HOLDING, num_passes=2, train_workers=2)
    seen = []
    result = fit_network(
        sample_path, "cae", NETWORK, config, str(tmp_path / "fits"), report=seen.append
    )
    assert scar.exists()
    assert seen[-1].pass_number == 2
    assert seen[-1].seconds_left == 0
    assert result.train_workers == 2
    sample_NCYX, plan = torch.from_numpy(np.load(sample_path)), _plan(config, "cae")
    validation_losses = []
    with passes._repeatable(result.threads, torch.device("cpu")):
        first, second = (passes._Fit(sample_NCYX, plan, _place(i, 2), None) for i in range(2))
        for number in range(2):
            batches = (fit.batches.train(number) for fit in (first, second))
            for images in zip(*batches, strict=True):
                gradients = [_gradients(first, image_BCYX) for image_BCYX in images]
                for parameter, *pair in zip(first.network.parameters(), *gradients, strict=True):
                    # fused Adam wants the parameter's memory layout
                    parameter.grad = torch.empty_like(parameter).copy_(sum(pair) / 2)
                first.descent.step()
            second.descent = first.descent
            sums = [fit._validate() for fit in (first, second)]
            validation_losses.append(sum(loss for loss, _ in sums) / sum(n for _, n in sums))
    assert result.validation_loss_per_pass == tuple(validation_losses)
    assert result.best_pass == 2
    for name, tensor in first.descent.published.state_dict().items():
        assert torch.equal(result.state_dict[name], tensor), name


def _gradients(fit: passes._Fit, image_BCYX: torch.Tensor) -> tuple[torch.Tensor, ...]:
    with fit._autocast():
        loss = fit.objective(image_BCYX)
    return torch.autograd.grad(loss, list(fit.network.parameters()))


class Trainer:
    """Ray Train's, in this process: it tries again after every error."""

    def __init__(self, work, *, train_loop_config, run_config, **options):
        self.work = functools.partial(work, train_loop_config)
        self.tries_left = run_config.failure_config.max_failures

    def fit(self):
        try:
            self.work()
        except Exception:
            self.tries_left -= 1
            if self.tries_left < 0:
                raise
            self.fit()


def test_what_would_fail_again_is_not_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr(training.ray.train.torch, "TorchTrainer", Trainer)
    tried = []

    def refuse(config):
        tried.append(config["plan"])
        raise ConfigError("the loss is nan in pass 3")

    with pytest.raises(ConfigError, match="the loss is nan in pass 3"):
        train_in_workers(refuse, "this", look=lambda: None, **where(tmp_path))
    assert tried == ["this"]
    # what an earlier fit left in the folder is no refusal of this one
    train_in_workers(lambda config: None, None, look=lambda: None, **where(tmp_path))

    def fail(config):
        tried.append(config["plan"])
        raise OSError("the disk is slow")

    with pytest.raises(OSError, match="the disk is slow"):
        train_in_workers(fail, "other", look=lambda: None, **where(tmp_path))
    assert tried == ["this"] + ["other"] * (1 + training.MAX_FAILURES)


def where(folder: Path) -> dict[str, object]:
    return {"num_workers": 1, "use_gpu": False, "folder": str(folder), "what": "a test"}


@pytest.mark.ray
def test_more_training_workers_than_cpus_are_refused_before_the_start(
    ray_cluster, sample_path, tmp_path
):
    config = dataclasses.replace(SMALL, train_workers=8)
    with pytest.raises(ConfigError, match="8 training workers need a CPU each, the cluster has 6"):
        fit_network(sample_path, "cae", NETWORK, config, str(tmp_path), report=print)
