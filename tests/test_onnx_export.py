"""Models written as ONNX programs: equal embeddings, and what they say of themselves."""

import functools
import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from torch.onnx._internal.exporter import _registration

from astroray.cli import cli
from astroray.encoders import ENCODERS, onnx_export
from astroray.encoders.onnx_export import export_onnx
from astroray.encoders.onnx_file import read_onnx
from astroray.encoders.store import Model, build_network, load_model, save_model
from astroray.errors import BackendError, ConfigError
from astroray.preparation import Preparation
from astroray.preparation.light_curves import CurvePreparation
from astroray.preparation.spectra import SpectrumPreparation
from tests import scans
from tests.onnx_made import write_program

IMAGES = Preparation(
    size_px=16,
    bands=("g", "r"),
    pixels="linear",
    stretch="asinh",
    sky_C=(0.1, 0.2),
    noise_C=(0.01, 0.02),
    peak_C=(5.0, 7.0),
)
PREPARATIONS = {
    "images": IMAGES,
    "light_curves": CurvePreparation(cadence_s=1800, num_windows=2, is_relative=True, scale=0.01),
    "spectra": SpectrumPreparation(
        first=4000.0, step=1e-4, num_bins=1000, num_windows=2, scale=0.1
    ),
}


@pytest.fixture(scope="module", autouse=True)
def _operators_are_listed_once():
    """Else each export makes the table of what ONNX has for each of torch's operators."""
    table = _registration.ONNXRegistry
    with pytest.MonkeyPatch.context() as patch:
        made_once = staticmethod(functools.cache(table.from_torchlib))
        patch.setattr(table, "from_torchlib", made_once)
        yield


def model_file(path, encoder):
    """A model whose network, center, scale and live dimensions are all drawn."""
    preparation = PREPARATIONS[ENCODERS[encoder].modality]
    torch.manual_seed(1)
    network = build_network(encoder, preparation.network)
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.is_floating_point() and not tensor.any():  # components that are not fitted
            tensor.data.normal_()
    dim = network(torch.rand(2, *shape_of(preparation))).shape[1]
    model = Model(
        encoder=encoder,
        preparation=preparation,
        network=network,
        network_config=preparation.network,
        center_D=torch.rand(dim),
        scale_D=torch.rand(dim) + 0.5,
        live_D=torch.arange(0, dim, 2),
        fit={},
    )
    save_model(str(path), model)
    return str(path)


def shape_of(preparation):
    return (2, 16, 16) if preparation is IMAGES else (2, 2, 512)


def some_objects(model, *, batch):
    """A noisy ramp, or a wave with a gap, [B, C, Y, X]: nothing like what the export compares."""
    random = np.random.default_rng(batch)
    if model.modality == "images":
        ramp_YX = np.linspace(0, 1, 16)[:, None] * np.linspace(0, 1, 16)
        noise_BCYX = random.random((batch, 2, 16, 16)) / 20
        return (random.random((batch, 2, 1, 1)) * ramp_YX + noise_BCYX).astype(np.float32)
    wave_X = np.sin(np.arange(1024) / 9).reshape(2, 512) + random.normal(size=(batch, 2, 512)) / 9
    seen_BWX = np.ones_like(wave_X)
    seen_BWX[:, 0, 100:300] = 0
    return np.stack([wave_X * seen_BWX, seen_BWX], 1).astype(np.float32)


# vit-small is vit-tiny with other numbers, and rings-fine is rings: seconds more to say the same
@pytest.mark.parametrize("encoder", sorted(set(ENCODERS) - {"vit-small", "rings-fine"}))
def test_a_program_gives_the_embeddings_of_its_model_for_any_number_of_objects(tmp_path, encoder):
    path, out = model_file(tmp_path / "model", encoder), str(tmp_path / "model.onnx")
    done = export_onnx(path, out=out)
    assert done.error < 1e-5
    model = load_model(path)
    session = onnxruntime.InferenceSession(out)
    for batch in (1, 2, 9):
        objects = some_objects(model, batch=batch)
        (found_BD,) = session.run(["embedding"], {done.input_name: objects})
        with torch.inference_mode():
            expected_BD = model.embed(torch.from_numpy(objects)).numpy()
        assert found_BD.shape == (batch, done.dim)
        assert np.abs(found_BD - expected_BD).max() < 1e-5 * np.abs(expected_BD).max()

    facts = {one.key: one.value for one in onnx.load(out).metadata_props}
    assert facts["astroray.model_id"] == model.model_id
    assert facts["astroray.encoder"] == encoder
    assert facts["astroray.modality"] == model.modality
    preparation = type(model.preparation).from_json(json.loads(facts["astroray.preparation"]))
    assert preparation == model.preparation


@pytest.mark.parametrize("encoder", ["pca", "lc-pca"])
def test_an_exported_program_is_one_that_a_scan_takes(tmp_path, encoder):
    out = str(tmp_path / "model.onnx")
    done = export_onnx(model_file(tmp_path / "model", encoder), out=out)
    program = read_onnx(out)
    assert program.batch is None
    assert program.shape == done.shape


def test_a_program_that_differs_is_not_written(tmp_path, monkeypatch):
    trace = onnx_export._trace

    def wrong(model, *rest):
        model.center_D.add_(0.01)
        try:
            return trace(model, *rest)
        finally:
            model.center_D.sub_(0.01)

    monkeypatch.setattr(onnx_export, "_trace", wrong)
    out = tmp_path / "model.onnx"
    with pytest.raises(BackendError, match=r"differs from its model by .* not written"):
        export_onnx(model_file(tmp_path / "model", "pca"), out=str(out))
    assert not out.exists()


def test_the_command_says_what_it_wrote_and_overwrites_only_when_told(tmp_path):
    path = scans.fit_model("sim:galaxies?count=64&size=16", tmp_path / "model")
    out = tmp_path / "model.onnx"
    words = ["export", path, "--format", "onnx", "--out", str(out)]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    assert load_model(path).model_id in done.output
    assert "image [batch, 3, 16, 16] float32" in done.output
    again = CliRunner().invoke(cli, words)
    assert again.exit_code == 2
    assert "already there" in again.output
    assert CliRunner().invoke(cli, [*words, "--overwrite"]).exit_code == 0


def test_what_came_as_a_program_is_not_exported_again(tmp_path):
    program = read_onnx(write_program(tmp_path / "net.onnx", np.ones((6, 2), np.float32)))
    numbers = {**IMAGES.network, **program.numbers((2, 16, 16))}
    network = build_network("onnx", numbers)
    network.load_state_dict({"program": program.to_tensor()})
    path = str(tmp_path / "model")
    model = Model(
        encoder="onnx",
        preparation=IMAGES,
        network=network,
        network_config=numbers,
        center_D=torch.zeros(6),
        scale_D=torch.ones(6),
        live_D=torch.arange(6),
        fit={},
    )
    save_model(path, model)
    with pytest.raises(ConfigError, match="came as an ONNX program"):
        export_onnx(path, out=str(tmp_path / "again.onnx"))
