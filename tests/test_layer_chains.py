"""What is found around linear layers: norms that feed nothing else, GELUs, second layers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from astroray.encoders.layers import Block
from astroray.encoders.vit import VitTiny
from astroray.quantization.layer_chains import gelus_behind, norms_before, seconds_behind
from tests.networks_made import WIDTH, LlamaBlock


class Norms(nn.Module):
    """A norm and two layers; `use` says what is done with them."""

    def __init__(self, use):
        super().__init__()
        self.norm, self.use = nn.LayerNorm(8), use
        self.one, self.other = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        return self.use(self, x)


def layers_of(network):
    return [name for name, one in network.named_modules() if isinstance(one, nn.Linear)]


def found(use):
    network = Norms(use)
    return norms_before(network, layers_of(network))


def test_norms_are_found_through_the_modules_that_pass_them_on():
    network = Block(WIDTH, 4)
    assert norms_before(network, layers_of(network)) == {
        "attention.to_qkv": "norm_attention",
        "dense.0": "norm_dense",
    }


def test_a_norm_may_feed_several_layers():
    network = LlamaBlock()
    expected = {**dict.fromkeys("qkv", "norm"), "gate": "norm_dense", "up": "norm_dense"}
    assert norms_before(network, layers_of(network)) == expected
    assert norms_before(network, ["q", "k", "gate", "up"]) == {
        "gate": "norm_dense",
        "up": "norm_dense",
    }  # v is not among them and needs the norm


def test_all_blocks_of_the_default_encoder_are_found():
    network = VitTiny(num_bands=1, size_px=16)
    assert len(norms_before(network, layers_of(network))) == 2 * len(network.blocks) + 4
    assert len(seconds_behind(network)) == len(network.blocks) + 3  # with those that only train


@pytest.mark.parametrize(
    "use",
    [
        lambda m, x: m.one(y := m.norm(x)) + y,  # as in a block that normalizes last
        lambda m, x: m.one(m.norm(x)) + m.one(x),
        lambda m, x: m.one(m.norm(x)) + m.other(m.norm(2 * x)),
        lambda m, x: m.one(m.norm(x) * 2),
        lambda m, x: m.one(m.norm(x)) * m.norm.weight,
        lambda m, x: m.one(m.norm(x)) if x.sum() > 0 else m.norm(x),  # cannot be traced
        lambda m, x: F.linear(m.norm(x), m.one.weight),
        lambda m, x: m.norm(m.one(x)),
    ],
)
def test_a_norm_that_is_needed_elsewhere_stays(use):
    assert found(use) == {}


def test_a_norm_between_is_found():
    assert found(lambda m, x: m.other(m.norm(m.one(x)))) == {"other": "norm"}


def test_a_layer_that_two_modules_share_keeps_its_norm():
    network = nn.Sequential(Norms(lambda m, x: m.one(m.norm(x))), nn.Linear(8, 8))
    assert norms_before(network, layers_of(network)) == {"0.one": "0.norm"}
    network.append(network[0].one)
    assert norms_before(network, layers_of(network)) == {}


def test_a_norm_over_two_axes_or_of_another_class_stays():
    class Odd(nn.LayerNorm):
        def forward(self, x):
            return 2 * super().forward(x)

    for norm in (nn.LayerNorm([2, 8]), Odd(8), nn.GroupNorm(2, 8)):
        network = nn.Sequential(norm, nn.Linear(8, 8))
        assert norms_before(network, ["1"]) == {}
    assert norms_before(nn.Sequential(nn.RMSNorm(8), nn.Linear(8, 8)), ["1"]) == {"1": "0"}


def test_gelus_and_second_layers_are_found_past_dropout_and_others_are_not():
    network = nn.Sequential(
        nn.Linear(8, 8), nn.GELU(), nn.Dropout(), nn.Linear(8, 8), nn.Dropout(), nn.GELU("tanh"),
        nn.Linear(8, 8),
    )  # fmt: skip
    assert gelus_behind(network) == {"0": "1"}
    assert seconds_behind(network) == {"1": "3"}
    assert torch.equal(network.eval()(torch.ones(1, 8)), network(torch.ones(1, 8)))


def test_a_layer_at_two_places_is_behind_itself():
    layer = nn.Linear(8, 8)
    assert gelus_behind(nn.Sequential(layer, layer, nn.GELU())) == {"1": "2"}


class Residual(nn.Sequential):
    """Holds a layer and a GELU, and adds what is between them."""

    def forward(self, x):
        return self[1](self[0](x)) + self[0](x)


def test_a_sequence_with_a_forward_of_its_own_says_nothing_of_what_is_behind_what():
    assert gelus_behind(Residual(nn.Linear(8, 8), nn.GELU())) == {}
