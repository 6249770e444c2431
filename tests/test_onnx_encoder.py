"""Encoders that come as ONNX files: what is taken, what is refused, and that the laws hold."""

import dataclasses

import numpy as np
import pytest
import torch
from onnx import TensorProto

from astroray.actors.fit import finish_model
from astroray.actors.sample import publish_sample
from astroray.catalog import read_catalog
from astroray.config import EncoderConfig, load_config
from astroray.encoders import PROGRAMS, choose_encoder, read_model_file
from astroray.encoders.onnx_file import read_onnx, start_session
from astroray.encoders.selecting import choose_numbers
from astroray.encoders.store import build_network, load_model
from astroray.errors import BackendError, ConfigError
from astroray.explain import explain_object
from astroray.preparation import Wishes, measure
from tests import scans
from tests.onnx_made import DIM, NUM_BANDS, SIZE_PX, expected, weights, write_program
from tests.surveys_made import cutouts


@pytest.fixture
def image_BCYX():
    return np.random.default_rng(1).random((7, NUM_BANDS, SIZE_PX, SIZE_PX)).astype(np.float32)


def network_of(path, *, output=None):
    program = read_onnx(path, output=output)
    numbers = program.numbers((NUM_BANDS, SIZE_PX, SIZE_PX))
    network = build_network(
        PROGRAMS["images"], {"num_bands": NUM_BANDS, "size_px": SIZE_PX, **numbers}
    )
    network.load_state_dict({"program": program.to_tensor()})
    return network


@pytest.mark.parametrize("batch", ["batch", 1, 4])
def test_a_program_gives_what_its_operators_say_whatever_batch_it_takes(
    tmp_path, image_BCYX, batch
):
    path = write_program(tmp_path / "net.onnx", weights(), batch=batch)
    with torch.inference_mode():
        found_BD = network_of(path)(torch.from_numpy(image_BCYX))
    assert found_BD.shape == (7, DIM)
    np.testing.assert_allclose(found_BD.numpy(), expected(image_BCYX, weights()), rtol=1e-5)


def test_its_rows_do_not_depend_on_each_other(tmp_path, image_BCYX):
    network = network_of(write_program(tmp_path / "net.onnx", weights()))
    with torch.inference_mode():
        together_BD = network(torch.from_numpy(image_BCYX))
        order_B = torch.tensor([3, 0, 6, 1, 5, 2, 4])
        assert torch.equal(network(torch.from_numpy(image_BCYX)[order_B]), together_BD[order_B])
        assert network(torch.zeros(0, NUM_BANDS, SIZE_PX, SIZE_PX)).shape == (0, DIM)


def test_weights_in_a_file_beside_it_are_taken_along_and_change_nothing(tmp_path):
    one = read_onnx(write_program(tmp_path / "one.onnx", weights()))
    path = write_program(tmp_path / "two.onnx", weights(), beside=True)
    assert read_onnx(path).content_id == one.content_id
    (tmp_path / "net.data").unlink()
    with pytest.raises(ConfigError, match=r"has weights in another file .* external_data=False"):
        read_onnx(path)


def test_another_weight_or_another_output_is_another_program(tmp_path):
    first = read_onnx(write_program(tmp_path / "a.onnx", weights()))
    other = read_onnx(write_program(tmp_path / "b.onnx", weights(seed=1)))
    assert first.content_id != other.content_id
    assert dataclasses.replace(first, output=0).content_id != first.content_id


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"is_flat": False}, r"outputs features \['batch', 6, 16, 16\], expected one of shape"),
        ({"dtype": TensorProto.FLOAT16}, r"tensor\(float16\).*expected one input of float32"),
    ],
)
def test_a_program_that_cannot_encode_is_refused_with_what_it_has(tmp_path, wrong, message):
    with pytest.raises(ConfigError, match=message):
        read_onnx(write_program(tmp_path / "net.onnx", weights(), **wrong))


def test_other_files_and_names_are_refused(tmp_path):
    (tmp_path / "notes.onnx").write_text("no program at all")
    with pytest.raises(ConfigError, match="is no ONNX file"):
        read_onnx(str(tmp_path / "notes.onnx"))
    with pytest.raises(ConfigError, match=r"missing.onnx is missing.*give the path of an ONNX"):
        read_onnx(str(tmp_path / "missing.onnx"))
    path = write_program(tmp_path / "net.onnx", weights())
    with pytest.raises(ConfigError, match=r"expected one named 'clas'.*encoder.output"):
        read_onnx(path, output="clas")
    with pytest.raises(ConfigError, match=r"is \(7, 6, 16, 16\) for 7 objects.*mean over"):
        network_of(path, output="features")(torch.zeros(7, NUM_BANDS, SIZE_PX, SIZE_PX))


def test_bands_and_size_that_it_does_not_take_are_refused(tmp_path):
    program = read_onnx(write_program(tmp_path / "net.onnx", weights()))
    with pytest.raises(ConfigError, match=r"takes 2 bands, the survey gives 3.*encoder.bands"):
        program.numbers((3, SIZE_PX, SIZE_PX))
    with pytest.raises(ConfigError, match=r"size_px is 64, but .* takes images of 16 px"):
        program.wishes("images", Wishes(size_px=64))
    assert program.wishes("images", Wishes()).size_px == SIZE_PX
    free = read_onnx(write_program(tmp_path / "free.onnx", weights(), size_px="size"))
    assert free.wishes("images", Wishes(size_px=32)).size_px == 32
    assert free.wishes("images", Wishes()).size_px is None
    oblong = read_onnx(write_program(tmp_path / "oblong.onnx", weights(), width_px=32))
    with pytest.raises(ConfigError, match=r"images of 2, 16, 32, expected bands.*square.*nchw"):
        oblong.wishes("images", Wishes())


def test_a_program_of_light_curves_says_how_many_windows_it_takes(tmp_path):
    def program(**size):
        return read_onnx(write_program(tmp_path / "net.onnx", weights(), **size))

    assert choose_encoder("net.onnx", "light_curves") == PROGRAMS["light_curves"]
    assert program(size_px=3, width_px=512).wishes("light_curves", Wishes()).num_windows == 3
    free = program(size_px="windows", width_px=512)
    assert free.wishes("light_curves", Wishes()).num_windows is None
    assert free.numbers((2, 5, 512))["batch"] == 0
    with pytest.raises(ConfigError, match=r"objects of 2, 16, 16, expected light curves: 2 .* 512"):
        program().wishes("light_curves", Wishes())


@pytest.fixture
def model(tmp_path, image_BCYX):
    """A model file of a program, and its network's plain meaning."""
    program = read_onnx(write_program(tmp_path / "net.onnx", weights()))
    preparation = measure(iter([cutouts(image_BCYX)]), size_px=SIZE_PX)
    sample = publish_sample(str(tmp_path / "fit"), preparation, image_BCYX.astype(np.float16))
    path = tmp_path / "model.safetensors"
    finish_model(
        sample,
        path=str(path),
        encoder=PROGRAMS["images"],
        config=preparation.network | program.numbers((NUM_BANDS, SIZE_PX, SIZE_PX)),
        weights={"program": program.to_tensor()},
    )
    return path


def test_a_model_file_holds_the_program_and_its_id_all_of_it(model, tmp_path, image_BCYX):
    (tmp_path / "net.onnx").unlink()
    loaded = load_model(str(model))
    assert loaded.encoder == read_model_file(str(model)).encoder == PROGRAMS["images"]
    center_D = loaded.center_D.numpy()
    with torch.inference_mode():
        found_BD = loaded.embed(torch.from_numpy(image_BCYX)).numpy()
    wanted_BD = (expected(image_BCYX, weights()) - center_D)[:, loaded.live_D.numpy()]
    np.testing.assert_allclose(found_BD, wanted_BD, rtol=1e-4, atol=1e-5)
    data = bytearray(model.read_bytes())
    data[-5] ^= 1
    model.write_bytes(data)
    with pytest.raises(ConfigError, match="is damaged"):
        load_model(str(model))


@pytest.mark.parametrize("numbers", ["bf16", "torch-int8", "w8a8o"])
def test_fewer_bits_are_refused_since_a_program_computes_as_it_was_exported(model, numbers):
    with pytest.raises(ConfigError, match="computes as it was exported"):
        choose_numbers(load_model(str(model)), numbers, "cpu")


@pytest.mark.parametrize("numbers", ["bf16", "torch-int8", "w8a8o"])
def test_other_numbers_are_refused_before_anything_is_read(numbers):
    with pytest.raises(ConfigError, match=f"quantize is {numbers}.*computes as it was exported"):
        EncoderConfig(name="nowhere/mine.onnx", quantize=numbers)


def test_a_device_that_onnx_runtime_lacks_is_an_error_and_no_silent_fallback(model):
    with pytest.raises(BackendError, match="onnxruntime-gpu, or set num_gpus to 0"):
        start_session(b"", device="cuda", num_threads=1)


def test_a_program_cannot_read_weights_from_files_of_this_machine(tmp_path, monkeypatch):
    """Whoever makes a model file says what is in it, not what is read beside it."""
    path = write_program(tmp_path / "two.onnx", weights(), beside=True)
    monkeypatch.chdir(tmp_path)  # where the weights lie
    with open(path, "rb") as file, pytest.raises(ConfigError, match="ONNX Runtime refuses"):
        start_session(file.read(), device="cpu", num_threads=1)


def test_a_run_is_known_by_the_program_and_not_by_its_path(tmp_path):
    paths = [write_program(tmp_path / name, weights()) for name in ("a.onnx", "b.onnx")]
    paths.append(write_program(tmp_path / "c.onnx", weights(seed=1)))
    configs = [load_config("hdf", "run", None, {"encoder.name": path}) for path in paths]
    first, second, third = (
        config.science(model_id="", device="cpu")["encoder"]["name"] for config in configs
    )
    assert first == second != third
    assert not EncoderConfig(name="a.onnx").is_fitted
    with pytest.raises(ConfigError, match=r"only an ONNX file .* has outputs to choose from"):
        EncoderConfig(name="rings", output="embedding")


def test_a_scan_says_before_ray_starts_what_the_program_does_not_take(tmp_path, monkeypatch):
    monkeypatch.setattr("astroray.execution.workers.cluster", None)
    survey = "sim:galaxies?count=60&seed=3&size=16&shard_rows=20&bands=2"
    path = write_program(tmp_path / "three.onnx", weights(num_bands=3))
    for size_px, message in ((None, "takes 3 bands, the survey gives 2"), (32, "images of 16 px")):
        with pytest.raises(ConfigError, match=message):
            scans.scan(survey, tmp_path / "run", encoder__name=path, encoder__size_px=size_px)


def test_scans_by_a_program_repeat_and_answer_afterwards(tmp_path):
    survey = "sim:galaxies?count=60&seed=3&size=16&shard_rows=20&bands=2"
    path = write_program(tmp_path / "net.onnx", weights())
    for name in ("1", "2"):
        scans.scan_here(survey, tmp_path / name, encoder__name=path, encoder__size_px=None)
    assert scans.catalog_bytes(tmp_path / "1") == scans.catalog_bytes(tmp_path / "2")
    (tmp_path / "net.onnx").unlink()
    first = read_catalog(str(tmp_path / "1"))["object_id"][0].as_py()
    explained = explain_object(str(tmp_path / "1"), first)
    assert explained.verdict == "equal to the last bit, with the same neighbors"
    assert explained.encoded == "read and encoded again, equal to the last bit"
