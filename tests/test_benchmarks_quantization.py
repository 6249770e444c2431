"""The peers of the quantization benchmark: each does what its paper says, on inputs made for it."""

import pytest
import torch
import torch.nn.functional as F

from astroray.quantization.activations import observe_ranges
from benchmarks.quantization import _judge
from benchmarks.quantization_peers import FALLBACKS, OSC, PEERS, replace, round_groups
from tests.networks_made import linear, tokens

NAMES = (*PEERS, *FALLBACKS, *OSC)


def relative_error(name, kind):
    network, x_SK = linear(), tokens(kind)
    with torch.inference_mode():
        ranges = observe_ranges(network, lambda one: one(x_SK))
        layer = replace(network, name, ranges, {"0": x_SK})["0"]
        fresh_SK = tokens(kind, seed=5)
        exact = network(fresh_SK)
        return float((layer(fresh_SK) - exact).norm() / exact.norm())


@pytest.fixture(scope="module")
def errors():
    """Error by method and kind of outliers."""
    kinds = ("gaussian", "persistent", "diffuse")
    return {name: {kind: relative_error(name, kind) for kind in kinds} for name in NAMES}


def test_four_bits_round_to_fifteen_numbers_a_group():
    x = torch.tensor([[7.0, -3.4, 0.4, 0.6, *[0.0] * 28]])
    assert round_groups(x)[0, :4].tolist() == [7.0, -3.0, 0.0, 1.0]


def test_where_nothing_stands_out_all_of_four_bits_are_alike_and_eight_are_better(errors):
    eight = ("8 bits", "8 bits, OSC", "QUIK-like")  # the last where a layer narrows, as here
    four = [one["gaussian"] for name, one in errors.items() if name not in eight]
    assert max(four) < 0.2
    assert max(four) / min(four) < 1.6
    assert max(errors["8 bits"]["gaussian"], errors["8 bits, OSC"]["gaussian"]) < 0.02


@pytest.mark.parametrize(
    "name", [name for name in (*PEERS, *OSC) if name not in ("round-to-nearest",)]
)
def test_against_persistent_outliers_every_method_gains_on_rounding(errors, name):
    assert errors[name]["persistent"] < 0.95 * errors["round-to-nearest"]["persistent"]


def test_osc_is_the_dynamic_oracle_where_outliers_persist_and_rounding_where_they_do_not(errors):
    osc, dynamic, plain = (
        errors[name] for name in ("OSC", "dynamic per group", "round-to-nearest")
    )
    assert osc["persistent"] == pytest.approx(dynamic["persistent"], rel=0.25)
    assert osc["persistent"] < 0.5 * plain["persistent"]
    assert osc["diffuse"] == pytest.approx(plain["diffuse"], rel=0.1)
    assert dynamic["diffuse"] < 0.6 * plain["diffuse"]


def test_the_fallback_has_eight_bits_where_outliers_are_diffuse(errors):
    for name in (*FALLBACKS, OSC[1], OSC[2]):
        assert errors[name]["diffuse"] < 0.5 * errors["round-to-nearest"]["diffuse"]


def test_a_bias_is_added_once():
    network, x_SK = linear(), tokens("gaussian", num_tokens=64)
    with torch.inference_mode():
        network[0].bias += 100.0
        ranges = observe_ranges(network, lambda one: one(x_SK))
        for name in NAMES:
            layer = replace(network, name, ranges, {"0": x_SK})["0"]
            assert float((layer(x_SK) - network(x_SK)).abs().max()) < 3.0, name


def test_the_same_embeddings_are_judged_to_be_the_same():
    embedding_ND = F.normalize(tokens("gaussian", num_tokens=200)).numpy()
    judged = _judge(embedding_ND, embedding_ND, {"0": 0.1})
    assert (judged.recall, judged.kept, judged.error) == (1.0, 1.0, 0.0)
    assert judged.cosine == pytest.approx(1.0)
