"""A class of the user's own as the encoder: the one in the documentation, and wrong ones."""

import importlib
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from astropy.io import fits

from astroray import explain, ledger, similar
from astroray.actors.answer import Answerer
from astroray.actors.embed import Embedder, EmbedPlan
from astroray.actors.fit import finish_model
from astroray.actors.run_model import RunModel
from astroray.actors.sample import SamplePlan, draw_sample, network_config
from astroray.config import EncoderConfig, FitConfig, ScanConfig, load_config
from astroray.encoders import (
    can_choose_attention,
    choose_encoder,
    is_own,
    kind_of,
    read_model_file,
)
from astroray.encoders.own import build_own
from astroray.encoders.store import build_network, load_model
from astroray.errors import ConfigError
from astroray.evaluation.compared import compared_encoders
from astroray.evaluation.models import fit_model
from astroray.fitting.passes import run_passes
from astroray.preparation import Wishes
from astroray.runs import check_encoder
from astroray.settings import from_dict, to_dict
from astroray.surveys import list_shards, read_shard

PAGE = (Path(__file__).parents[1] / "docs" / "own_networks.md").read_text()
(SHOWN,) = re.findall(
    r"^```python\n(\"\"\"A plain autoencoder.*?)^```", PAGE, re.DOTALL | re.MULTILINE
)
NAME = "shown_nets.small:Small"
NUMBERS = {"num_bands": 3, "size_px": 4}
SURVEY = "sim:galaxies?count=40&size=16"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The module of the documentation, on the path."""
    folder = tmp_path / "shown_nets"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "small.py").write_text(SHOWN)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "shown_nets"]:
        monkeypatch.delitem(sys.modules, name)
    return folder / "small.py"


@pytest.fixture
def sample(tmp_path):
    shards = list_shards(SURVEY).shards
    plan = SamplePlan(folder=str(tmp_path / "fit"), max_rows=40, wishes=Wishes(), seed=0)
    return draw_sample(shards, plan)


def fitted(sample, path) -> str:
    network = network_config(NAME, sample, latent=None)
    config = FitConfig(num_passes=2, batch_size=8)
    result = run_passes(sample.path, NAME, network, config, f"{path}.fit", threads=1)
    return finish_model(
        sample,
        path=path,
        encoder=NAME,
        config=network,
        weights=result.state_dict,
        fit=result.facts(),
    )


def test_the_documented_class_is_trained_kept_and_loaded(module, sample, tmp_path):
    assert choose_encoder(NAME, "images") == NAME
    assert kind_of(NAME).is_descended()
    path = str(tmp_path / "model.safetensors")
    model_id = fitted(sample, path)
    model = load_model(path)
    assert (model.model_id, model.encoder, model.dim) == (model_id, NAME, 16)
    images = torch.rand(3, 3, 16, 16)
    torch.testing.assert_close(model.embed(images), load_model(path).embed(images))
    losses = read_model_file(path).fit["loss"]
    assert losses[1] < losses[0]


def test_a_model_file_is_read_without_its_class_and_loaded_with_the_same_code_only(
    module, sample, tmp_path, monkeypatch
):
    path = str(tmp_path / "model.safetensors")
    fitted(sample, path)
    module.write_text(SHOWN.replace("GELU", "ReLU"))
    with pytest.raises(ConfigError, match=r"as its module was then .* embeddings would differ"):
        load_model(path)
    module.unlink()
    for name in ("shown_nets.small", "shown_nets"):
        monkeypatch.delitem(sys.modules, name)
    file = read_model_file(path)
    assert file.describe().modality == "images"
    shards = list_shards("sim:galaxies?count=1").shards
    check_encoder(path, shards, given=file)
    assert not can_choose_attention(file.encoder)
    with pytest.raises(ConfigError, match="takes images, the survey has spectra"):
        check_encoder(path, list_shards("sim:spectra?count=1").shards, given=file)
    assert "shown_nets.small" not in sys.modules
    with pytest.raises(ConfigError, match=r"cannot be imported: .*PYTHONPATH"):
        load_model(path)


def test_other_code_is_another_run(module):
    def science():
        config = ScanConfig(survey="hdf", out="run", encoder=EncoderConfig(name=NAME))
        return config.science(model_id="", device="cpu")

    before = science()
    assert before["encoder"]["name"].startswith(f"{NAME} ")
    module.write_text(SHOWN + "\n")
    assert science() != before


def test_settings_of_the_class_reach_its_constructor_and_are_part_of_model_and_run(
    module, sample, tmp_path
):
    def asked(**keywords):
        flags = {f"encoder.network.{key}": value for key, value in keywords.items()}
        return load_config("hdf", "run", None, {"encoder.name": NAME, **flags})

    keywords = asked(width=24).encoder.network
    network = network_config(NAME, sample, latent=5, keywords=keywords)
    path = str(tmp_path / "model.safetensors")
    finish_model(sample, path=path, encoder=NAME, config=network)
    assert load_model(path).network.encode[1].out_features == 24
    assert from_dict(ScanConfig, to_dict(asked(width=24)), where="run.json") == asked(width=24)
    fingerprints = [
        asked(**one).science(model_id="", device="cpu") for one in ({}, {"width": 24}, {"width": 8})
    ]
    assert fingerprints[0] != fingerprints[1] != fingerprints[2]
    assert "network" not in fingerprints[0]["encoder"], "a run of before it was a setting goes on"


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        (NAME, {"depth": 2}, r"network.depth is no keyword of .*Small, expected one of width; wha"),
        (NAME, {"latent": 2}, r"network.latent is no keyword .* latent is encoder.latent"),
        (NAME, {"width": [1, 2]}, r"network.width in the flags is \[1, 2\], expected int or float"),
        (NAME, {"width": "nan"}, r"encoder.network.width is nan, expected a finite number"),
        ("rings", {"width": 2}, r"network has width for encoder rings, expected nothing: only a c"),
    ],
)
def test_a_setting_that_the_class_does_not_take_is_refused_by_its_name(
    module, name, flags, message
):
    shards = list_shards("sim:galaxies?count=4&size=16").shards
    keywords = {f"encoder.network.{key}": value for key, value in flags.items()}

    def begin():
        config = load_config("hdf", "run", None, {"encoder.name": name, **keywords})
        check_encoder(config.encoder.name, shards, config.encoder.network)

    with pytest.raises(ConfigError, match=message):
        begin()


def test_an_evaluation_fits_the_class_with_the_settings_that_stand_behind_its_name(module, sample):
    asked = f"{NAME}?latent=5&network.width=24"
    *_, plain, wide = compared_encoders([NAME, asked], "images")
    assert (plain.label, wide.label) == (NAME, asked)
    assert wide.describe()["settings"] == {"latent": 5, "network": {"width": 24}}
    latent, keywords = wide.settings.latent, wide.settings.network
    path = fit_model(NAME, sample, seed=0, budget_s=0.0, latent=latent, keywords=keywords)
    assert load_model(path).network.encode[1].out_features == 24
    for one, message in (
        (f"{NAME}?network.depth=2", "network.depth is no keyword of .*Small, expected one of wid"),
        ("rings?network.width=2", "network has width for encoder rings, expected nothing: only a"),
    ):
        with pytest.raises(ConfigError, match=message):
            compared_encoders([one], "images")


def test_a_module_that_is_edited_is_run_anew(module):
    importlib.import_module("shown_nets.small")  # by the notebook, before any scan
    module.write_text(SHOWN.replace("latent=16", "latent=8, deep=3"))
    assert build_own(NAME, NUMBERS).encode[-1].out_features == 8
    (module.parent / "__init__.py").write_text("from shown_nets.small import Small")
    for latent in (9, 7):  # of one length within one second, by which Python would not tell them
        module.write_text(SHOWN.replace("latent=16", f"latent={latent}"))
        assert build_own(NAME, NUMBERS).encode[-1].out_features == latent
        assert build_own("shown_nets:Small", NUMBERS).encode[-1].out_features == latent
    kept = build_own(NAME, NUMBERS)
    assert isinstance(build_own(NAME, NUMBERS), type(kept)), "it is not run without need"
    module.write_text("class Small(:")
    with pytest.raises(ConfigError, match=r"cannot be imported: invalid syntax \(small.py, line 1"):
        build_own(NAME, NUMBERS)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("__main__:Net", r"stands in the notebook .* no worker can import it; write .* nets:Net"),
        ("nowhere_at_all:Net", r"cannot be imported: No module named .*PYTHONPATH"),
        ("shown_nets.small:Large", "has nothing of that name, expected a torch.nn.Module"),
        ("os:system", r"has builtin_function_or_method system .* expected a torch.nn.Module"),
        ("pathlib:Path", "has type Path of that name, expected a torch.nn.Module"),
    ],
)
def test_what_is_no_network_is_refused_before_it_is_called(module, name, message):
    with pytest.raises(ConfigError, match=message):
        choose_encoder(name, "images")


def test_a_constructor_of_other_numbers_and_an_output_of_other_shape_are_refused(
    module, sample, tmp_path
):
    module.write_text(SHOWN.replace("return self.encode(image)", "return image"))
    network = network_config(NAME, sample, latent=None)
    with pytest.raises(ConfigError, match=r"makes \(32, 3, 16, 16\) of 32 .*, expected \[B, D\]"):
        finish_model(sample, path=str(tmp_path / "m.safetensors"), encoder=NAME, config=network)
    with pytest.raises(ConfigError, match=r"is built with num_bands, depth: missing .*size_px"):
        build_network(NAME, {"num_bands": 3, "depth": 2})
    module.write_text("import torch\n\n\nclass Small(torch.nn.Module):\n    pass\n")
    with pytest.raises(ConfigError, match=r"built with num_bands, size_px: it has no constructor"):
        build_network(NAME, NUMBERS)


@pytest.mark.parametrize("keywords", ["bands, size_px", "num_bands, size_px, depth"])
def test_a_constructor_of_other_keywords_is_refused_before_ray_starts(module, keywords):
    module.write_text(SHOWN.replace("num_bands, size_px, latent=16", f"{keywords}, latent"))
    shards = list_shards("sim:galaxies?count=4&size=16").shards
    with pytest.raises(ConfigError, match=r"Small is built with num_bands, size_px, latent: "):
        check_encoder(NAME, shards)
    module.write_text(SHOWN.replace("latent=16", "depth, latent=16"))
    with pytest.raises(ConfigError, match=r"'depth'; .*give it as --set encoder.network.depth="):
        check_encoder(NAME, shards)
    module.write_text(SHOWN.replace("latent=16", "latent"))
    check_encoder(NAME, shards)


def test_an_encoder_that_makes_no_numbers_is_named(module, sample, tmp_path):
    module.write_text(SHOWN.replace("return self.encode(image)", "return self.encode(image).log()"))
    network = network_config(NAME, sample, latent=None)
    with pytest.raises(ConfigError, match=r"Small makes NaN or infinite numbers of 40 of 40 obj"):
        finish_model(sample, path=str(tmp_path / "m.safetensors"), encoder=NAME, config=network)


def embedder_of(model_path, tmp_path) -> Embedder:
    run = str(tmp_path / "run")
    return Embedder(EmbedPlan(run_dir=run, model_path=model_path, session="S1", batch_size=16))


def test_an_object_that_it_makes_nan_of_is_not_fitted_on_and_is_a_reject(module, sample, tmp_path):
    mean_N = np.sort(np.load(sample.path).astype(np.float32).mean((1, 2, 3)))
    brightest = float(mean_N[-6] + mean_N[-5]) / 2  # of those that are kept: five are brighter
    kept = f"(image.mean((1, 2, 3)) < {brightest})[:, None]"
    code = f"return self.encode(image).where({kept}, float('nan'))"
    module.write_text(SHOWN.replace("return self.encode(image)", code))
    path = str(tmp_path / "model.safetensors")
    finish_model(sample, path=path, encoder=NAME, config=network_config(NAME, sample, latent=None))
    embedder = embedder_of(path, tmp_path)
    receipts = [embedder.embed(shard) for shard in list_shards(SURVEY).shards]
    assert sum(receipt.rows_embedded for receipt in receipts) == 35
    rejects = ledger.read_rejects(embedder.plan.run_dir)["class"].to_pylist()
    assert rejects == ["nonfinite"] * 5


FAILING = """for one in image:
            if self.bad is not None and torch.equal(one, self.bad):
                raise ValueError("no\\ncontrast")
        if len(image) == self.size:
            raise ValueError(f"{len(image)} are many")
        return self.encode(image)"""


def test_what_it_raises_of_an_object_is_one_message_with_line_shard_and_object(
    module, sample, tmp_path, caplog
):
    code = SHOWN.replace("from torch", "import torch\nfrom torch")
    code = code.replace("    def __init__", "    bad = size = None\n\n    def __init__")
    module.write_text(code.replace("return self.encode(image)", FAILING))
    path = str(tmp_path / "model.safetensors")
    finish_model(sample, path=path, encoder=NAME, config=network_config(NAME, sample, latent=None))
    (shard,) = list_shards(SURVEY).shards
    embedder = embedder_of(path, tmp_path)
    network, (*_, rows) = embedder.encoder.model.network, read_shard(shard)
    assert rows.row_B[-1] == 39
    network.bad = torch.from_numpy(embedder.encoder.model.prepare(rows).input_BCYX[-3])
    line = r"\(\S+small.py, line \d+, in forward\); mend"
    with pytest.raises(
        ConfigError,
        match=rf"^shard {shard.name}, row 37 \(object {rows.object_id_B[-3]}\): {NAME} raised "
        rf"ValueError: no contrast {line}",
    ):
        embedder.embed(shard)
    assert "Traceback" in caplog.text
    network.bad, network.size = None, 16
    with pytest.raises(
        ConfigError, match=rf"row 0 .* to row 15 .*, each of which .* alone.*: 16 are many {line}"
    ):
        embedder.embed(shard)


def test_what_it_raises_of_a_query_names_the_query_and_costs_no_other_its_answer(
    module, sample, tmp_path
):
    code = SHOWN.replace("from torch", "import torch\nfrom torch")
    code = code.replace("    def __init__", "    bad = size = None\n\n    def __init__")
    module.write_text(code.replace("return self.encode(image)", FAILING))
    path, stamp = str(tmp_path / "model.safetensors"), tmp_path / "o.fits"
    finish_model(sample, path=path, encoder=NAME, config=network_config(NAME, sample, latent=None))
    model = RunModel(path=path, model_id=read_model_file(path).model_id)
    (shard,) = list_shards(SURVEY).shards
    prepared = load_model(path).prepare(next(read_shard(shard))).input_BCYX
    answerer = Answerer(device="cpu", num_threads=1)
    network = type(answerer.load(model).model.network)
    network.bad = torch.from_numpy(prepared[1])
    embedding_BD = np.stack(answerer.embed_each([(model, one) for one in prepared[:3]]))
    assert np.isnan(embedding_BD).all(axis=1).tolist() == [False, True, False]
    network.bad, network.size = None, 1
    fits.writeto(stamp, next(read_shard(shard)).image_BCYX[0])
    run = SimpleNamespace(run_dir=str(tmp_path / "run"))
    with pytest.raises(ConfigError, match=rf"^{stamp}: {NAME} raised ValueError: 1 are many"):
        similar._embed(run, model, str(stamp), "g,r,i", None)
    _, encoded = explain._encode(model, 1, shard, 3, embedding_BD[0])
    assert encoded.startswith(f"not encoded again: {NAME} raised ValueError: 1 are many")


@pytest.mark.parametrize(
    ("before", "raised", "message"),
    [
        ("super().__init__()", "[][1]", r"IndexError: list index out of range .*, in __init__\)"),
        ("return nn.f", "{}['mask']", r"KeyError: 'mask' .*line 19, in loss\)"),
        ("return self.e", "image.log(1)", r"TypeError: .* in forward\)"),
        ('"""A plain', "1 / 0", r"be imported: ZeroDivisionError: division by zero .*<module>\)"),
    ],
)
def test_what_it_raises_is_said_with_its_line(module, sample, tmp_path, before, raised, message):
    indent = " " * 8 * (before[0] != '"')
    module.write_text(SHOWN.replace(before, f"{raised}\n{indent}{before}"))
    with pytest.raises(ConfigError, match=rf"{NAME} (raised|cannot) {message}.*; mend"):
        fitted(sample, str(tmp_path / "model.safetensors"))


def test_memory_that_does_not_suffice_is_no_mistake_of_the_class(module, sample, tmp_path):
    raised = 'raise RuntimeError("DefaultCPUAllocator: can\'t allocate memory")'
    module.write_text(SHOWN.replace("return nn.f", f"{raised}\n        return nn.f"))
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        fitted(sample, str(tmp_path / "model.safetensors"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (".flatten(1), reduction='none')", r"is numbers of shape \(8, 768\), expected one number"),
        (".flatten(1)).detach()", "is a constant, expected one number"),
        (".flatten(1)).item()", "is a float, expected one number"),
    ],
)
def test_a_loss_that_trains_nothing_is_refused(module, sample, tmp_path, change, message):
    module.write_text(SHOWN.replace(".flatten(1))\n", f"{change}\n"))
    with pytest.raises(ConfigError, match=f"the loss of {NAME} {message}"):
        fitted(sample, str(tmp_path / "model.safetensors"))


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("self.encode(image), 1", r"makes a tuple of 32 objects, expected \[B, D\]"),
        ("self.encode(image).numpy()", "makes a ndarray of 32 objects"),
        ("self.encode(image)[:1]", r"makes \(1, 16\) of 32 objects"),
        ("self.encode(image)[:, :0]", r"makes \(32, 0\) of 32 objects"),
        ("self.encode(image) * 1j", r"makes \(32, 16\) torch.complex64 of 32 objects"),
        ("self.encode(image) - self.encode(image).mean(0)", "makes other numbers of an object"),
        ("self.encode(image) + image.new_empty(16).normal_()", "makes .* or when asked again"),
    ],
)
def test_an_encoder_whose_output_is_no_vector_of_each_object_is_refused(
    module, sample, tmp_path, returned, message
):
    module.write_text(SHOWN.replace("return self.encode(image)", f"return {returned}"))
    network = network_config(NAME, sample, latent=None)
    with pytest.raises(ConfigError, match=f"^{NAME} {message}"):
        finish_model(sample, path=str(tmp_path / "m.safetensors"), encoder=NAME, config=network)


def test_a_class_that_is_written_with_a_dot_is_meant():
    with pytest.raises(
        ConfigError, match=r"module:Class\); did you mean shown_nets.small:Small\?$"
    ):
        read_model_file("shown_nets.small.Small")
    with pytest.raises(ConfigError, match=r"module:Class\)$"):
        read_model_file("rings.fine")


@pytest.mark.parametrize(
    "name", ["rings", "rings:w8a8o", "s3://bucket/model", "mine.onnx", "runs/a:b", "auto"]
)
def test_names_and_paths_are_no_classes(name):
    assert not is_own(name)
