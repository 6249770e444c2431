"""Which attention a loaded network computes with."""

import pytest
import torch

from astroray.encoders import ENCODERS
from astroray.encoders.attention import choose_attention
from astroray.encoders.store import build_network
from astroray.errors import BackendError
from astroray_kernels.dispatch import resolved

SIZES = {"num_bands": 2, "size_px": 32}
SIZES_OF = {"images": SIZES, "light_curves": {"num_windows": 2}}


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build_network("vit-tiny", SIZES)


def test_only_transformers_have_a_choice():
    for name, kind in ENCODERS.items():
        found = choose_attention(build_network(name, SIZES_OF[kind.modality]), "auto", "cpu")
        assert found == ("sdpa" if kind.has_attention else "")


@pytest.mark.parametrize("asked", ["vfa", "vsa"])
def test_vfa_gives_the_embeddings_of_plain_attention_and_is_named(network, asked):
    image_BCYX = torch.rand(2, 2, 32, 32)
    with torch.inference_mode():
        assert choose_attention(network, "sdpa", "cpu") == "sdpa"
        plain_BD = network(image_BCYX)
        name = choose_attention(network, asked, "cpu")
        fast_BD = network(image_BCYX)
    assert name == f"{asked} {name.split()[1]} bf16"
    assert not torch.equal(fast_BD, plain_BD)
    assert torch.cosine_similarity(fast_BD, plain_BD).min() > 0.9999


def test_vfa_backend_is_what_the_kernels_resolve(network):
    assert choose_attention(network, "vfa", "cpu").split()[1] == resolved("vfa_attention", "cpu")


def test_what_this_machine_cannot_run_is_an_error_that_names_the_setting(network):
    with pytest.raises(BackendError, match=r"encoder.attention is vfa: .*encoder.attention=sdpa"):
        choose_attention(network, "vfa", "meta")
