"""Weights that come with astroray: what they say of themselves and how they meet other bands."""

import numpy as np
import pytest
import torch

from astroray.actors.fit import finish_model
from astroray.actors.sample import Sample
from astroray.encoders import ENCODERS, read_model_file
from astroray.encoders.pretrained import (
    Pretrained,
    load_pretrained,
    object_hash,
    pack_pretrained,
)
from astroray.encoders.store import build_network
from astroray.errors import ConfigError
from astroray.preparation import measure
from tests.surveys_made import cutouts

SHIPPED = [name for name, kind in ENCODERS.items() if kind.weights]
BYTES = 5_000_000


@pytest.mark.parametrize("encoder", SHIPPED)
def test_shipped_weights_are_small_and_tell_where_they_come_from(encoder):
    pretrained = load_pretrained(encoder)
    assert len(pack_pretrained(pretrained)) < BYTES
    assert {"sets", "seed", "num_passes", "num_rows", "model_id"} <= pretrained.story.keys()
    assert len(pretrained.trained_on) == sum(pretrained.story["sets"].values())


@pytest.mark.parametrize("encoder", SHIPPED)
@pytest.mark.parametrize("bands", [("R", "G", "B"), ("g", "r", "i", "z"), ("L",)])
def test_shipped_weights_fit_any_bands(encoder, bands):
    network = build_network(encoder, {"num_bands": len(bands), "size_px": 32})
    network.load_state_dict(load_pretrained(encoder).weights(bands))
    assert torch.isfinite(network(torch.rand(2, len(bands), 32, 32))).all()


def test_flux_bands_are_seen_as_the_colors_that_show_them():
    pretrained = load_pretrained("vit-tiny")
    pictures, flux = pretrained.weights(("R", "G", "B")), pretrained.weights(("g", "r", "i"))
    assert torch.equal(flux["band_CD"], pictures["band_CD"].flip(0))
    gray = pretrained.weights(("L",))["band_CD"][0]
    torch.testing.assert_close(gray, pictures["band_CD"].mean(0))


def test_a_fit_takes_them_as_they_are_and_says_so(tmp_path):
    image_BCYX = np.random.default_rng(0).random((12, 3, 16, 16))
    np.save(tmp_path / "sample.npy", image_BCYX.astype(np.float16))
    preparation = measure(iter([cutouts(image_BCYX)]), size_px=16)
    sample = Sample(path=str(tmp_path / "sample.npy"), preparation=preparation, num_rows=12)
    path = str(tmp_path / "model.safetensors")
    finish_model(sample, path=path, encoder="vit-tiny", config={"num_bands": 3, "size_px": 16})
    said = read_model_file(path).fit["pretrained"]
    assert said == load_pretrained("vit-tiny").story


def made(**changes):
    values = {
        "encoder": "vit-tiny",
        "bands": ("R",),
        "story": {"seed": 4},
        "trained_on": frozenset({object_hash("efigi", "a"), "f" * 16, "0" * 16}),
        "tensors": {"band_CD": torch.ones(1, 4), "decoder_band_CD": torch.zeros(1, 4)},
    }
    return Pretrained(**values | changes)


def test_a_file_holds_what_was_packed(tmp_path, monkeypatch):
    path = tmp_path / "made.safetensors"
    path.write_bytes(pack_pretrained(made()))
    kind = ENCODERS["vit-tiny"].__class__(
        network="vit:VitTiny", fit="network", standardize=False, weights=str(path)
    )
    monkeypatch.setattr("astroray.encoders.pretrained.ENCODERS", {"made": kind})
    read = load_pretrained("made")
    assert (read.encoder, read.bands, read.story) == ("vit-tiny", ("R",), {"seed": 4})
    assert read.trained_on == made().trained_on


def test_numbers_beyond_half_precision_are_refused():
    tensors = {"band_CD": torch.full((1, 4), 1e6)}
    with pytest.raises(ConfigError, match="band_CD has numbers beyond float16"):
        pack_pretrained(made(tensors=tensors))


def test_an_encoder_without_weights_has_none():
    assert load_pretrained("attcae") is None
    assert load_pretrained("no such") is None
