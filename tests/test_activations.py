"""What flows into linear layers: sizes, clustering density, outlier channels."""

import math

import pytest
import torch
from torch import nn

from astroray.errors import ConfigError
from astroray.quantization.activations import ALPHA, observe_ranges, outlier_channels
from tests.networks_made import linear, tokens


def observe(x_SK, network=None):
    network = network or linear(x_SK.shape[-1])
    return observe_ranges(network, lambda one: [one(part) for part in x_SK.split(500)])["0"]


def test_persistent_outliers_are_found_in_their_channels_and_are_dense():
    ranges = observe(tokens("persistent"))
    assert outlier_channels(ranges).tolist() == [5, 40]
    assert ranges.density > 0.98


def test_gaussian_tokens_have_no_outlier_channel_though_the_paper_s_rule_finds_some():
    ranges = observe(tokens("gaussian", width=256))
    assert (ranges.hits_GK.amax(1) > 0).float().mean() > 0.9  # what one token is enough for
    assert outlier_channels(ranges).tolist() == []
    assert math.isnan(ranges.density)


def test_diffuse_outliers_are_not_dense():
    assert observe(tokens("diffuse")).density < 0.15


def test_the_numbers_are_those_of_the_paper_s_algorithm():
    x_SK = tokens("persistent", num_tokens=300)
    ranges = observe(x_SK)
    threshold = ALPHA * x_SK.abs().mean()
    for group in range(2):
        size, place = x_SK[:, 32 * group : 32 * group + 32].abs().max(1)
        count = torch.bincount(place[size > threshold], minlength=32)
        assert ranges.hits_GK[group].tolist() == count.tolist()
        assert ranges.density_G[group] == pytest.approx(count.max() / count.sum())
    assert ranges.threshold == pytest.approx(float(threshold))
    assert torch.equal(ranges.amax_K, x_SK.abs().amax(0))


def test_channels_that_fill_no_group_are_looked_at_too():
    x_SK = tokens("persistent", width=45)
    assert outlier_channels(observe(x_SK)).tolist() == [5, 40]


def test_tokens_may_have_any_leading_shape():
    x_SK = tokens("persistent", num_tokens=600)
    flat, deep = observe(x_SK), observe(x_SK.reshape(20, 30, -1))
    assert torch.equal(flat.hits_K, deep.hits_K)
    assert flat.num_tokens == deep.num_tokens == 600


def test_a_single_token_needs_no_leading_axis():
    token_K = tokens("gaussian", num_tokens=1)[0]
    assert observe_ranges(linear(), lambda one: one(token_K))["0"].num_tokens == 1


def test_a_layer_that_the_sample_does_not_reach_is_left_out():
    network = linear()
    network.add_module("unused", nn.Identity())
    network.unused.layer = nn.Linear(4, 4)
    found = observe_ranges(network, lambda one: one(tokens("gaussian", num_tokens=10)))
    assert list(found) == ["0"]


def test_a_layer_that_is_only_given_nothing_is_left_out():
    network = nn.Sequential(linear(), nn.Linear(64, 4))
    x_SK = tokens("gaussian", num_tokens=10)
    found = observe_ranges(network, lambda one: (one[0](x_SK), one[1](x_SK[:0])))
    assert list(found) == ["0.0"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_refused_by_layer_and_count(value):
    x_SK = tokens("gaussian", num_tokens=10)
    x_SK[3, 7] = value
    with pytest.raises(ConfigError, match="layer 0 is given 1 NaN or infinite numbers of 640"):
        observe(x_SK)


@pytest.mark.parametrize("x_SK", [torch.zeros(0, 64), None], ids=["no tokens", "no call"])
def test_a_sample_that_reaches_no_layer_is_refused(x_SK):
    run = (lambda one: one(x_SK)) if x_SK is not None else (lambda one: None)
    with pytest.raises(ConfigError, match="reached none of the 1 linear layers"):
        observe_ranges(linear(), run)
