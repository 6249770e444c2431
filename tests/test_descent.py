"""Weights follow gradients as the recipe says: rate, clipping, decay, running average."""

import dataclasses

import pytest
import torch
from torch import nn

from astroray.encoders.recipe import Recipe
from astroray.errors import ConfigError
from astroray.fitting.descent import Descent


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Linear(4, 3)


def _step(descent: Descent, gradient: float = 1.0) -> None:
    for weight in descent.network.parameters():
        weight.grad = torch.full_like(weight, gradient)
    descent.step()


def test_the_rate_rises_in_a_line_and_then_stays(network):
    descent = Descent(network, Recipe(learning_rate=0.1, warmup_steps=4))
    rates = []
    for _ in range(6):
        _step(descent)
        rates.append(descent.optimizer.param_groups[1]["lr"])
    assert rates == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])


def test_without_warm_up_the_first_step_has_the_whole_rate(network):
    assert Descent(network, Recipe(learning_rate=0.1)).learning_rate == 0.1


def test_a_plain_recipe_takes_the_steps_of_adam_to_the_last_bit(network):
    other = nn.Linear(4, 3)
    other.load_state_dict(network.state_dict())
    adam = torch.optim.Adam(other.parameters(), lr=1e-3, fused=True)
    descent = Descent(network, Recipe())
    for number in range(5):
        for pair in zip(network.parameters(), other.parameters(), strict=True):
            for weight in pair:
                weight.grad = (weight.detach() + number).sin()
        descent.step()
        adam.step()
    assert torch.equal(network.weight, other.weight)
    assert torch.equal(network.bias, other.bias)
    assert descent.published is network


def test_the_average_is_that_of_the_formula_and_training_does_not_feel_it(network):
    twin = nn.Linear(4, 3)
    twin.load_state_dict(network.state_dict())
    averaged, plain = Descent(network, Recipe(average=0.3)), Descent(twin, Recipe())
    expected = network.weight.detach().clone()
    for number in range(6):
        _step(averaged, number - 2.5)
        _step(plain, number - 2.5)
        kept = min(0.3, (1 + number) / (10 + number))  # 0.1, 0.18, 0.25, 0.3, 0.3, 0.3
        expected = kept * expected + (1 - kept) * network.weight.detach()
    torch.testing.assert_close(averaged.published.weight, expected)
    assert torch.equal(network.weight, twin.weight)
    assert not torch.equal(averaged.published.weight, network.weight)


def test_buffers_of_the_average_are_the_newest():
    network = nn.BatchNorm1d(2)
    descent = Descent(network, Recipe(average=0.9))
    network(torch.randn(8, 2, generator=torch.Generator().manual_seed(0)))
    _step(descent)
    assert torch.equal(descent.published.running_mean, network.running_mean)
    assert int(descent.published.num_batches_tracked) == 1


def test_a_long_gradient_is_shortened_and_a_short_one_is_not(network):
    descent = Descent(network, Recipe(clip_norm=2.0))
    lengths = []
    for gradient in (10.0, 0.1):
        _step(descent, gradient)
        square = sum(float(weight.grad.square().sum()) for weight in network.parameters())
        lengths.append(square**0.5)
    assert lengths == pytest.approx([2.0, 0.1 * 15**0.5], rel=1e-5)


def test_decay_acts_on_matrices_and_not_on_biases(network):
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    _step(Descent(network, Recipe(learning_rate=0.1, weight_decay=0.5)), 0.0)
    torch.testing.assert_close(network.weight, before["weight"] * (1 - 0.1 * 0.5))
    assert torch.equal(network.bias, before["bias"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate of a recipe is 0.0, expected more than 0"),
        ({"clip_norm": -1.0}, "clip_norm of a recipe is -1.0"),
        ({"weight_decay": -0.1}, "weight_decay of a recipe is -0.1, expected at least 0"),
        ({"warmup_steps": -1}, "warmup_steps of a recipe is -1"),
        ({"average": 1.0}, "average of a recipe is 1.0, expected a share"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(Recipe(), **changes)
