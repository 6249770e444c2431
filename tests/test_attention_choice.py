"""Which attention a loaded network computes with."""

import pytest
import torch

from astroray.actors.encode import BatchEncoder, resolve_backends
from astroray.encoders import ENCODERS
from astroray.encoders import selecting as module
from astroray.encoders.attention import choose_attention
from astroray.encoders.store import build_network
from astroray.errors import BackendError
from astroray_kernels.dispatch import resolved, why_not
from tests import scans

SIZES = {"num_bands": 2, "size_px": 32}
SURVEY = "sim:galaxies?count=40&seed=3&size=32"
SIZES_OF = {"images": SIZES, "light_curves": {"num_windows": 2}, "spectra": {"num_windows": 2}}


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build_network("vit-tiny", SIZES)


def test_only_transformers_have_a_choice():
    for name, kind in ENCODERS.items():
        found = choose_attention(build_network(name, SIZES_OF[kind.modality]), "auto", "cpu")
        assert found == ("sdpa" if kind.has_attention else "")


@pytest.mark.parametrize("asked", ["vfa", "vfa-int8-qk", "vsa"])
def test_vfa_gives_the_embeddings_of_plain_attention_and_is_named(network, asked):
    image_BCYX = torch.rand(2, 2, 32, 32)
    with torch.inference_mode():
        assert choose_attention(network, "sdpa", "cpu") == "sdpa"
        plain_BD = network(image_BCYX)
        name = choose_attention(network, asked, "cpu")
        fast_BD = network(image_BCYX)
    precision = "int8_qk" if asked == "vfa-int8-qk" else "bf16"
    assert name == f"{asked.split('-')[0]} {name.split()[1]} {precision}"
    assert not torch.equal(fast_BD, plain_BD)
    assert torch.cosine_similarity(fast_BD, plain_BD).min() > 0.9999


def test_vfa_backend_is_what_the_kernels_resolve(network):
    assert choose_attention(network, "vfa", "cpu").split()[1] == resolved("vfa_attention", "cpu")


def test_what_this_machine_cannot_run_is_an_error_that_names_the_setting(network):
    with pytest.raises(BackendError, match=r"encoder.attention is vfa: .*encoder.attention=sdpa"):
        choose_attention(network, "vfa", "meta")


@pytest.fixture(scope="module")
def decided(tmp_path_factory):
    """A model file whose `auto` is w8a8o with VFA."""
    path = tmp_path_factory.mktemp("decided") / "model.safetensors"
    return scans.decide_model(SURVEY, path, choice="w8a8o", attention="vfa")


@pytest.fixture
def fast_code():
    if reason := why_not("vfa_attention", "native", "cpu"):
        pytest.skip(reason)


def test_auto_is_the_attention_that_was_decided_beside_the_numbers(decided, fast_code):
    found = resolve_backends(decided, "auto", "auto", "cpu")
    assert found == {"quantize": "w8a8o native", "attention": "vfa native bf16"}
    assert resolve_backends(decided, "auto", "w8a8o", "cpu") == found
    encoder = BatchEncoder(
        model_path=decided, batch_size=2, device="cpu", num_threads=1, quantize="auto"
    )
    assert encoder.backends == found


@pytest.mark.parametrize("numbers", ["none", "bf16", "torch-int8"])
def test_beside_other_numbers_than_were_decided_auto_is_plain_attention(decided, numbers):
    found = resolve_backends(decided, "auto", numbers, "cpu")
    assert found == {"quantize": numbers, "attention": "sdpa"}


@pytest.mark.parametrize("asked", ["sdpa", "vfa-int8-qk", "vsa"])
def test_an_attention_that_is_named_wins_over_the_decision(decided, asked):
    found = resolve_backends(decided, asked, "auto", "cpu")
    assert found["quantize"].startswith("w8a8o ")
    assert found["attention"].split()[0] == asked.split("-")[0]


@pytest.mark.parametrize("lacks", ["raises", "stands in"])
def test_a_machine_without_the_decided_kernel_uses_plain_attention_and_says_so(
    decided, caplog, monkeypatch, lacks
):
    def choose(network, asked, device):
        if asked == "vfa" and lacks == "raises":
            raise BackendError("no AVX-512 here")
        return "vfa sdpa bf16" if asked == "vfa" else choose_attention(network, asked, device)

    monkeypatch.setattr(module, "choose_attention", choose)
    found = resolve_backends(decided, "auto", "auto", "cpu")
    assert found["attention"] == "sdpa"
    reason = "no AVX-512 here" if lacks == "raises" else "here it would be vfa sdpa bf16"
    assert f"decided for attention vfa: {reason}; it is sdpa now" in caplog.text
    if lacks == "raises":  # asked for by name it is an error
        with pytest.raises(BackendError, match="no AVX-512 here"):
            resolve_backends(decided, "vfa", "auto", "cpu")
