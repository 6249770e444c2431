"""Which format a layer gets, and networks with their layers replaced."""

import copy
import math

import pytest
import torch
from torch import nn

from astroray.encoders.layers import Block
from astroray.errors import BackendError, ConfigError
from astroray.quantization.activations import observe_ranges
from astroray.quantization.modules import (
    SCHEMES,
    QuantizedLinear,
    install_layers,
    measure_errors,
    pack_layers,
)
from tests.networks_made import WIDTH, LlamaBlock, linear, tokens


def quantize(network, x, scheme):
    packed = pack_layers(network, observe_ranges(network, lambda one: one(x)), scheme)
    return packed, install_layers(network, packed)


def error_db(kind, scheme):
    network, x_SK = linear(), tokens(kind, num_tokens=512)
    packed, _ = quantize(network, x_SK, scheme)
    return measure_errors(network, packed, lambda one: one(x_SK))["0"]


def test_every_scheme_rounds_to_its_format_and_8_bits_are_better_than_4():
    found = {name: error_db("gaussian", name) for name in SCHEMES}
    assert found["w8a8"] == found["w8a8o"]  # nothing stands out
    assert found["w8a8"] > 36
    assert 14 < found["osc-mxfp4"] < found["osc-w4a4"] < 24


def test_separated_channels_earn_their_cost_where_outliers_persist():
    assert error_db("persistent", "osc-w4a4") > 26
    assert error_db("persistent", "w8a8o") > error_db("persistent", "w8a8") + 12


def test_a_layer_with_diffuse_outliers_keeps_8_bits():
    formats = {
        kind: quantize(linear(), tokens(kind), "osc-w4a4")[0]["0"].format
        for kind in ("gaussian", "persistent", "diffuse")
    }
    assert formats == {"gaussian": "int4_g32", "persistent": "int4_g32", "diffuse": "int8"}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("block", [LlamaBlock, lambda: Block(WIDTH, 4)], ids=["llama", "vit"])
def test_whole_blocks_of_any_make_are_quantized(block, scheme):
    network = block()
    x_BND = tokens("gaussian", num_tokens=96).reshape(2, 48, WIDTH)
    packed, quantized = quantize(network, x_BND, scheme)
    assert not any(isinstance(module, nn.Linear) for module in quantized.modules())
    assert len(packed) == len([m for m in network.modules() if isinstance(m, nn.Linear)])
    with torch.inference_mode():
        got, expected = quantized(x_BND), network(x_BND)
    assert got.dtype == expected.dtype
    similar = torch.cosine_similarity(got, expected, dim=2).min()
    assert similar > (0.9999 if SCHEMES[scheme].format == "int8" else 0.98)


def test_a_gelu_behind_a_layer_is_computed_with_it_and_gives_the_same():
    network = nn.Sequential(nn.Linear(WIDTH, 32), nn.GELU(), nn.Linear(32, 8), nn.GELU("tanh"))
    x_SK = tokens("gaussian", num_tokens=50)
    packed, quantized = quantize(network, x_SK, "w8a8")
    assert quantized[0].activation == "gelu"
    assert isinstance(quantized[1], nn.Identity)
    assert isinstance(quantized[2], nn.Identity)  # the layer behind it is computed as well
    apart = nn.functional.gelu(QuantizedLinear(packed["0"])(x_SK))
    apart = QuantizedLinear(packed["2"])(apart)
    torch.testing.assert_close(quantized[0](x_SK), apart, rtol=1e-2, atol=1e-2)
    alone = install_layers(network, {"0": packed["0"]})
    apart = nn.functional.gelu(QuantizedLinear(packed["0"])(x_SK))
    torch.testing.assert_close(alone[0](x_SK), apart, rtol=1e-5, atol=1e-5)
    assert isinstance(alone[2], nn.Linear)


@pytest.mark.parametrize("order", [["0", "2", "4"], ["4", "2", "0"], ["2", "0", "4"]])
def test_of_three_layers_in_a_row_two_are_computed_together_and_none_is_lost(order):
    torch.manual_seed(5)
    network = nn.Sequential(
        nn.Linear(WIDTH, 48), nn.GELU(), nn.Linear(48, 40), nn.GELU(), nn.Linear(40, 8), nn.GELU()
    )
    x_SK = tokens("gaussian", num_tokens=50)
    packed, _ = quantize(network, x_SK, "w8a8")
    quantized = install_layers(network, {name: packed[name] for name in order})
    with torch.inference_mode():
        got, expected = quantized(x_SK), network(x_SK)
    assert float((got - expected).norm() / expected.norm()) < 0.03


def test_norms_and_second_layers_are_computed_with_a_layer_and_give_the_same():
    torch.manual_seed(4)
    network = Block(WIDTH, 4)
    for norm in (network.norm_attention, network.norm_dense):
        nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    x_BND = tokens("gaussian", num_tokens=96).reshape(2, 48, WIDTH)
    packed, quantized = quantize(network, x_BND, "w8a8o")
    assert repr(quantized.dense[0]).startswith("QuantizedLinear(64 to 256 to 64, int8, ")
    assert isinstance(quantized.norm_attention, nn.Identity)
    steps = copy.deepcopy(network)
    for name, weights in packed.items():
        steps.set_submodule(name, QuantizedLinear(weights))
    with torch.inference_mode():
        torch.testing.assert_close(quantized(x_BND), steps(x_BND), rtol=1e-2, atol=1e-2)


def test_layers_with_their_norms_and_seconds_move_together():
    network = Block(WIDTH, 4)
    _, quantized = quantize(network, tokens("gaussian").reshape(1, -1, WIDTH), "w8a8")
    with pytest.raises(BackendError, match="on meta"):
        quantized.dense.to("meta")
    assert quantized.dense[0].second.codes.device.type == "meta"
    assert quantized.dense[0].norm.weight_K.device.type == "meta"


def test_the_network_that_was_given_stays_as_it_was():
    network = linear()
    quantize(network, tokens("gaussian"), "w8a8")
    assert type(network[0]) is nn.Linear


def test_a_change_of_dtype_leaves_packed_numbers_as_they_are():
    _, quantized = quantize(linear(), tokens("persistent"), "w8a8o")
    before = quantized[0].packed
    quantized.bfloat16().float()
    assert quantized[0].packed is before
    assert repr(quantized[0]) == "QuantizedLinear(64 to 32, int8, 2 outlier channels)"


def test_a_machine_that_cannot_run_the_layer_says_so_when_it_is_moved():
    _, quantized = quantize(linear(), tokens("gaussian"), "w8a8")
    with pytest.raises(BackendError, match=r"on meta.*use encoder.quantize=none"):
        quantized.to("meta")


def test_channels_that_are_no_multiple_of_the_group_are_refused_by_layer():
    with pytest.raises(ConfigError, match=r"layer 0 .*45 input channels.*multiple of 32.*int8"):
        quantize(linear(45), tokens("gaussian", width=45), "osc-w4a4")
    assert quantize(linear(45), tokens("gaussian", width=45), "w8a8o")[0]["0"].num_in == 45


def test_weights_that_are_not_finite_are_refused():
    network = linear()
    with torch.no_grad():
        network[0].weight[0, 0] = math.nan
    with pytest.raises(ConfigError, match=r"layer 0 .*weight_NK holds 1 NaN"):
        quantize(network, tokens("gaussian"), "w8a8")


def test_a_network_that_is_quantized_already_is_refused():
    ranges = observe_ranges(linear(), lambda one: one(tokens("gaussian")))
    _, quantized = quantize(linear(), tokens("gaussian"), "w8a8")
    with pytest.raises(ConfigError, match="quantized already"):
        pack_layers(quantized, ranges, "w8a8")


def test_an_unknown_scheme_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match=f"expected one of {', '.join(SCHEMES)}"):
        quantize(linear(), tokens("gaussian"), "w2a2")
