"""The model store: ids, round trips, damaged files; the plain encoders."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch

from astroray.actors.fit import freeze_frame
from astroray.encoders import ENCODERS, read_model_file
from astroray.encoders.pca import Pca, fit_pca
from astroray.encoders.store import Model, build_network, load_model, save_model
from astroray.errors import ConfigError
from astroray.preparation import measure
from astroray.preparation.light_curves import CurvePreparation
from astroray.preparation.modalities import MODALITIES
from astroray.preparation.spectra import SpectrumPreparation
from tests.surveys_made import cutouts

OTHERS = {
    "light_curves": CurvePreparation(cadence_s=60.0, num_windows=1, is_relative=True, scale=1.0),
    "spectra": SpectrumPreparation(first=4000.0, step=1e-4, num_bins=512, num_windows=1, scale=1.0),
}


@pytest.fixture(autouse=True)
def one_thread():
    """As a worker has: how a batch is cut among threads may change the last bits of a row."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def preparation():
    image_BCYX = np.random.default_rng(0).normal(0, 1, (8, 1, 16, 16))
    return measure(iter([cutouts(image_BCYX)]), size_px=16)


def save(path, preparation, *, encoder="pixels", center=0.0, fit=None, seed=0, changed=None):
    config = {"num_bands": 1, "size_px": 16}
    if ENCODERS[encoder].modality != "images":
        config, preparation = {"num_windows": 1}, OTHERS[ENCODERS[encoder].modality]
    torch.manual_seed(seed)
    network = build_network(encoder, config)
    if changed is not None:
        numbers = network.state_dict()[changed]
        last = tuple(length - 1 for length in numbers.shape)
        numbers[last] = torch.nextafter(numbers[last], torch.tensor(torch.inf))
    dim = network.embedding_dim
    model = Model(
        encoder=encoder,
        preparation=preparation,
        network=network,
        network_config=config,
        center_D=torch.full((dim,), center),
        scale_D=torch.ones(dim),
        live_D=torch.arange(dim),
        fit=fit or {},
    )
    return save_model(str(path), model)


def test_a_model_is_shown_in_one_line_without_its_numbers(tmp_path, preparation):
    save(tmp_path / "m.safetensors", preparation)
    shown = repr(load_model(str(tmp_path / "m.safetensors")))
    assert shown.startswith("Model(pixels, 16 × 16 px")
    assert "tensor" not in shown


def build(encoder, num_rows, *, num_bands=2):
    """A network, and inputs that suit it."""
    modality = MODALITIES[ENCODERS[encoder].modality]
    config = {"num_bands": num_bands, "size_px": 32}
    if ENCODERS[encoder].modality != "images":
        config = {"num_windows": 2}
    torch.manual_seed(0)
    return build_network(encoder, config), draw_input(modality, config, num_rows)


def draw_input(modality, config, num_rows):
    input_BCYX = torch.rand(num_rows, *modality.shape(config))
    if modality.noun != "image":
        input_BCYX[:, 1] = (input_BCYX[:, 1] > 0.2).float()
        input_BCYX[:, 0] *= input_BCYX[:, 1]
    return input_BCYX


@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_encoder_makes_one_finite_row_an_object(encoder):
    network, input_BCYX = build(encoder, 3)
    with torch.inference_mode():
        output_BD = network(input_BCYX)
    assert output_BD.shape == (3, network.embedding_dim)
    assert torch.isfinite(output_BD).all()


@pytest.mark.parametrize("encoder", ENCODERS)
def test_rows_do_not_depend_on_each_other(encoder):
    network, image_BCYX = build(encoder, 8, num_bands=1)
    other_BCYX = image_BCYX.flip(0).clone()
    other_BCYX[3] = image_BCYX[3]
    with torch.inference_mode():
        assert torch.equal(network(image_BCYX)[3], network(other_BCYX)[3])


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_size_of_a_batch_and_the_order_of_its_rows_do_not_matter(encoder):
    (network, image_BCYX), order_B = build(encoder, 6), torch.tensor([4, 2, 0, 5, 1, 3])
    with torch.inference_mode():
        together_BD = network(image_BCYX)
        alone_BD = torch.cat([network(image_BCYX[b : b + 1]) for b in range(6)])
        shuffled_BD = network(image_BCYX[order_B])
    torch.testing.assert_close(alone_BD, together_BD, rtol=1e-4, atol=1e-5)
    assert torch.equal(shuffled_BD, together_BD[order_B])


@pytest.mark.parametrize("encoder", sorted(ENCODERS.keys() - {"vit-small"}))  # vit-tiny, larger
def test_the_id_changes_with_any_number_of_a_network(tmp_path, preparation, encoder):
    known = {save(tmp_path / "first", preparation, encoder=encoder, seed=1)}
    names = list(load_model(str(tmp_path / "first")).network.state_dict())[::7]
    for name in names:
        known.add(save(tmp_path / "other", preparation, encoder=encoder, seed=1, changed=name))
    assert len(known) == 1 + len(names)


def test_a_model_comes_back_as_it_was_saved(tmp_path, preparation):
    path = tmp_path / "model.safetensors"
    model_id = save(path, preparation, center=0.25, fit={"num_passes": 3})
    model = load_model(str(path))
    assert model.model_id == model_id
    assert model.preparation == preparation
    assert model.fit == {"num_passes": 3}
    image_BCYX = torch.rand(2, 1, 16, 16)
    assert torch.equal(model.embed(image_BCYX), image_BCYX.flatten(1) - 0.25)


def test_the_id_is_the_content_and_not_the_story_of_the_fit(tmp_path, preparation):
    first = save(tmp_path / "a", preparation, fit={"seconds": 1.0})
    assert save(tmp_path / "b", preparation, fit={"seconds": 2.0}) == first
    assert save(tmp_path / "c", preparation, center=1e-7) != first


def test_a_damaged_model_is_refused(tmp_path, preparation):
    path = tmp_path / "model.safetensors"
    save(path, preparation)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(ConfigError, match="is damaged"):
        load_model(str(path))


def test_other_files_are_no_models(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("no model")
    with pytest.raises(ConfigError, match="is not a model file"):
        load_model(str(path))
    path.write_bytes(safetensors.torch.save({"x": torch.zeros(1)}))
    with pytest.raises(ConfigError, match="no astroray model"):
        load_model(str(path))


def test_a_later_format_is_refused_with_advice(tmp_path, preparation):
    path = tmp_path / "model.safetensors"
    save(path, preparation)
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    meaning = json.loads(metadata["astroray"]) | {"format_version": 99}
    path.write_bytes(safetensors.torch.save(tensors, metadata | {"astroray": json.dumps(meaning)}))
    with pytest.raises(ConfigError, match="model format 99, expected 1; fit it again"):
        load_model(str(path))


@pytest.mark.parametrize("name", ["rings", "nets:Small", "mine.onnx"])
def test_what_a_scan_has_to_fit_first_is_no_model_file_yet(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.onnx").write_bytes(b"a graph of operators")
    with pytest.raises(ConfigError, match=rf"{name} is .*scan SURVEY --encoder {name} --out RUN"):
        read_model_file(name)


def test_an_unknown_encoder_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"'resnet', expected one of .*'pixels'"):
        build_network("resnet", {})


def test_a_path_without_a_model_is_called_a_path():
    for name in ("runs/hdf2", "fast.safetensors"):
        with pytest.raises(ConfigError, match=f"the path {name}, where there is neither a model"):
            read_model_file(name)


def test_pca_finds_the_directions_that_a_survey_varies_in():
    generator = torch.Generator().manual_seed(1)
    basis, _ = torch.linalg.qr(torch.randn(256, 3, generator=generator))
    weights = torch.randn(400, 3, generator=generator) * torch.tensor([5.0, 3.0, 1.0])
    sample = (weights @ basis.T).reshape(400, 1, 16, 16) + 0.5
    network = Pca(num_bands=1, size_px=16, latent=3)
    explained = fit_pca(network, sample, seed=0)["explained_variance"]
    assert explained == pytest.approx(1.0, abs=1e-4)
    flat = sample.flatten(1)
    exact = torch.linalg.svd(flat - flat.mean(0), full_matrices=False).Vh[:3]
    overlap = (network.components @ exact.T).abs()
    torch.testing.assert_close(overlap, torch.eye(3), atol=1e-3, rtol=0)


def test_pca_is_repeatable_and_takes_fewer_rows_than_components():
    sample = torch.rand(5, 1, 16, 16)
    networks = [Pca(num_bands=1, size_px=16, latent=8) for _ in range(2)]
    for network in networks:
        fit_pca(network, sample, seed=3)
    assert torch.equal(networks[0].components, networks[1].components)
    assert torch.isfinite(networks[0](sample)).all()


def test_the_frame_drops_dead_outputs_and_centers_the_others():
    output_ND = torch.randn(100, 4) * torch.tensor([2.0, 0.0, 3.0, 1.0]) + 7.0
    center_D, scale_D, live_D = freeze_frame(output_ND, standardize=True)
    assert live_D.tolist() == [0, 2, 3]
    framed = ((output_ND - center_D) / scale_D)[:, live_D]
    torch.testing.assert_close(framed.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(framed.std(0, unbiased=False), torch.ones(3))


def test_one_object_has_a_frame_too():
    center_D, scale_D, live_D = freeze_frame(torch.ones(1, 3), standardize=True)
    assert live_D.tolist() == [0]
    assert torch.isfinite((torch.ones(1, 3) - center_D) / scale_D).all()
