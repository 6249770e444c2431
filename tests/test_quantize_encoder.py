"""`astroray quantize`: the file, the page, and what is refused."""

from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from astroray.cli import cli
from astroray.commands import quantize as cli_quantize
from astroray.encoders import PLAIN_NUMBERS, QuantizeName, read_model_file
from astroray.encoders.selecting import choose_numbers
from astroray.encoders.store import load_model
from astroray.errors import ConfigError
from astroray.evaluation import models as evaluation_models
from astroray.quantization import encoder
from astroray.quantization.modules import SCHEMES
from astroray.quantization.page import SCHEME_WORDS
from tests import scans

SURVEY = "sim:galaxies?count=40&seed=3&size=32"


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "vit.safetensors"
    return scans.fit_model(SURVEY, path, encoder="vit-tiny", size_px=16)


def quantize(model, out, *arguments, survey=SURVEY):
    command = ["quantize", str(model), "--observe", survey, "--out", str(out), *arguments]
    return CliRunner().invoke(cli, command)


@pytest.fixture(scope="module")
def quantized(model_path, tmp_path_factory):
    """A model file with 4-bit layers, and what the command said."""
    out = tmp_path_factory.mktemp("quantized") / "osc.safetensors"
    return out, quantize(model_path, out, "--scheme", "osc-w4a4", "--rows", "32")


def test_the_file_holds_the_packed_layers_beside_the_reference(quantized, model_path):
    out, ended = quantized
    assert ended.exit_code == 0, ended.output
    file, before = read_model_file(str(out)), read_model_file(model_path)
    assert f"model_id {file.model_id}" in ended.output
    assert file.model_id != before.model_id
    assert file.quantized["reference_id"] == before.model_id
    assert file.quantized["choice"] == "osc-w4a4"
    formats = file.quantized["schemes"]["osc-w4a4"]
    assert set(formats.values()) <= {"int4_g32", "int8"}
    assert len(formats) == 25  # what the sample reaches, not the layers that only train
    assert len(file.fit["quantized"]["layers"]["osc-w4a4"]) == 25


def test_the_reference_in_the_file_is_bit_for_bit_the_model_that_was_given(quantized, model_path):
    image_BCYX = torch.rand(4, 3, 16, 16)
    with torch.inference_mode():
        same = load_model(str(quantized[0])).embed(image_BCYX)
        assert torch.equal(same, load_model(model_path).embed(image_BCYX))


def test_the_quantized_layers_repeat_and_give_nearly_the_reference_s_embedding(quantized):
    image_BCYX = torch.rand(4, 3, 16, 16)
    with torch.inference_mode():
        one, name = choose_numbers(load_model(str(quantized[0])), "auto", "cpu")
        other, _ = choose_numbers(load_model(str(quantized[0])), "osc-w4a4", "cpu")
        exact, none = choose_numbers(load_model(str(quantized[0])), "none", "cpu")
        assert torch.equal(one.embed(image_BCYX), other.embed(image_BCYX))
        similar = torch.cosine_similarity(one.embed(image_BCYX), exact.embed(image_BCYX))
    assert 0.9 < similar.min() < 0.99999
    assert name.split()[0] == "osc-w4a4"
    assert name.split()[1] in ("native", "reference", "native+reference")
    assert none == "none"


@pytest.mark.parametrize("numbers", ["bf16", "torch-int8"])
def test_what_needs_no_file_runs_on_any_model(model_path, numbers):
    image_BCYX = torch.rand(4, 3, 16, 16)
    with torch.inference_mode():
        fast, name = choose_numbers(load_model(model_path), numbers, "cpu")
        exact = load_model(model_path).embed(image_BCYX)
        assert name == numbers
        assert not torch.equal(fast.embed(image_BCYX), exact)
        assert torch.cosine_similarity(fast.embed(image_BCYX), exact).min() > 0.98


def test_a_scheme_that_the_file_lacks_is_refused_with_how_to_make_it(quantized, model_path):
    for path, held in ((str(quantized[0]), "osc-w4a4"), (model_path, "no quantized layers")):
        with pytest.raises(ConfigError, match=rf"holds {held}; .*--scheme w8a8 --out"):
            choose_numbers(load_model(path), "w8a8", "cpu")


def test_the_page_shows_every_layer_and_needs_no_network(quantized):
    text = (quantized[0].parent / "osc.safetensors.html").read_text()
    for name in read_model_file(str(quantized[0])).quantized["schemes"]["osc-w4a4"]:
        assert f"<td>{name}</td>" in text
        assert f"<h3>{name}</h3>" in text
    assert text.count("<svg") == 25
    assert "http" not in text.replace("http-equiv", "")


def test_auto_keeps_the_reference_where_the_sample_is_too_small_to_judge(model_path, tmp_path):
    out = tmp_path / "auto.safetensors"
    ended = quantize(model_path, out, "--rows", "32")
    assert ended.exit_code == 0, ended.output
    assert "choice   none, sdpa: undecided: 32 objects are fewer than 10000" in ended.output
    file = read_model_file(str(out))
    assert file.quantized["choice"] == "none"
    assert set(file.quantized["schemes"]) == {"w8a8", "w8a8o", "osc-w4a4"}
    assert file.quantized["attention"] == "sdpa"
    ways = file.fit["quantized"]["decision"]["ways"]
    names = {"none", "bf16", "torch-int8", "w8a8", "w8a8o", "osc-w4a4"}
    assert {way["numbers"].split()[0] for way in ways} == names
    assert {way["attention"].split()[0] for way in ways} >= {"sdpa", "vfa"}
    assert all(way["speed"] > 0 for way in ways if not way["note"])
    for way in ways:
        assert f"{way['numbers']}, {way['attention']}" in ended.output
    assert "How it was decided" in (tmp_path / "auto.safetensors.html").read_text()


def test_the_evaluation_of_encoders_judges_a_quantized_model_by_its_fewer_bits(
    quantized, model_path, tmp_path
):
    image_NCYX = np.random.default_rng(1).random((5, 3, 16, 16), np.float32)

    class Pictures:
        def prepared(self, preparation):
            return image_NCYX

    found = []
    for path in (str(quantized[0]), model_path):
        evaluation_models._encode(
            path, Pictures(), f"{tmp_path}/e.npz", numbers="auto", with_errors=False
        )
        found.append(evaluation_models._load("", f"{tmp_path}/e.npz").embedding_ND)
    model, _ = choose_numbers(load_model(str(quantized[0])), "osc-w4a4", "cpu")
    with torch.inference_mode():
        assert np.array_equal(found[0], model.embed(torch.from_numpy(image_NCYX)).numpy())
    assert not np.allclose(found[0], found[1], rtol=1e-3)


def test_every_scheme_can_be_asked_for_in_a_scan_and_on_the_command_line():
    names = set(get_args(QuantizeName)) - set(PLAIN_NUMBERS)
    assert names == set(SCHEMES) == set(SCHEME_WORDS) == set(cli_quantize.SCHEMES) - {"auto"}


def test_the_name_of_a_scheme_does_not_run_into_the_number_of_its_layers(monkeypatch, tmp_path):
    layer = SimpleNamespace(bytes_before=4, bytes_after=1, num_outliers=0)
    found = SimpleNamespace(decision=None, schemes={"osc-mxfp4": [layer] * 25}, model_id="m0")
    monkeypatch.setattr(encoder, "quantize_encoder", lambda config, show: (found, "page.html"))
    ended = quantize("vit.safetensors", tmp_path / "new.safetensors", "--scheme", "osc-mxfp4")
    assert "osc-mxfp4 25 layers, 0.25 of the bytes" in ended.output


def test_a_model_that_is_quantized_already_is_refused(quantized, tmp_path):
    ended = quantize(quantized[0], tmp_path / "again.safetensors")
    assert ended.exit_code == 2
    assert "is quantized already (osc-w4a4)" in ended.output


def test_a_flipped_byte_is_refused_with_both_ids(quantized, tmp_path):
    data = bytearray(quantized[0].read_bytes())
    place = data.index(b"quantized.osc-w4a4")  # in the header: the tensors begin behind it
    length = int.from_bytes(data[:8], "little")
    assert place < length
    data[-1000] ^= 1
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(data)
    with pytest.raises(ConfigError, match=r"is damaged: its content has id \w+, expected \w+"):
        load_model(str(damaged))


def test_an_empty_sample_is_refused(model_path, tmp_path):
    np.save(tmp_path / "flat.npy", np.full((4, 32, 32, 3), np.nan, np.float32))
    ended = quantize(model_path, tmp_path / "m", survey=f"{tmp_path}/flat.npy")
    assert ended.exit_code == 2, ended.output
    assert "the sample is empty" in ended.output


def test_a_network_without_linear_layers_is_refused(tmp_path):
    model = scans.fit_model(SURVEY, tmp_path / "pca.safetensors")
    ended = quantize(model, tmp_path / "m", "--scheme", "w8a8")
    assert ended.exit_code == 2, ended.output
    assert "the model has no linear layers" in ended.output
    assert "drawing the sample" not in ended.output


def test_a_file_that_exists_is_not_written_over(model_path):
    ended = quantize(model_path, model_path)
    assert ended.exit_code == 2
    assert "exists; remove it or give another --out" in ended.output
