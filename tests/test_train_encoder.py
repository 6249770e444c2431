"""`astroray train encoder` from a survey to a model file, and again after a kill."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from astroray.cli import cli
from astroray.encoders import read_model_file
from astroray.encoders.store import load_model
from astroray.fitting import train_encoder, training
from astroray.fitting.beginning import is_fitted, note_settings
from tests import scans

SURVEY = "sim:galaxies?count=80&size=16&shard_rows=40"
NUM_PASSES = 16
OPTIONS = [
    "--model=cae", f"--passes={NUM_PASSES}", "--rows=64", "--set=fit.batch_size=16",
    "--set=fit.checkpoint_every_s=0",
]  # fmt: skip


def _run(out: Path, *options: str):
    return CliRunner().invoke(cli, ["train", "encoder", SURVEY, "--out", str(out), *options])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model file whose fit in this process nobody disturbed, and what the command said."""
    path = tmp_path_factory.mktemp("trained") / "encoder.safetensors"
    with scans.fits_here():
        done = _run(path, *OPTIONS)
    assert done.exit_code == 0, done.output
    return path, done


def test_a_survey_becomes_a_model_file_and_the_same_command_finds_it_there(trained, monkeypatch):
    path, done = trained
    model = load_model(str(path))
    assert f"model_id {model.model_id}" in done.output
    assert str(path) in done.output
    assert model.encoder == "cae"
    assert model.embed(torch.rand(2, 3, 16, 16)).shape == (2, model.dim)
    fit = model.fit
    assert fit["num_rows"] == 64
    assert fit["num_passes"] == len(fit["loss"]) == len(fit["validation_loss"]) == NUM_PASSES
    assert f"in pass {fit['best_pass']}, which is kept" in done.output
    assert list(path.parent.glob("encoder.safetensors.fit/fit-*/tensorboard/*tfevents*"))

    monkeypatch.setattr(train_encoder, "fit_model", None)  # not fitted again
    again = _run(path, *OPTIONS)
    assert again.exit_code == 0, again.output
    assert f"model_id {model.model_id}" in again.output

    other = _run(path, *OPTIONS, "--passes", "4")
    assert other.exit_code == 2
    assert f"fit.num_passes was {NUM_PASSES} and is 4" in other.output
    assert read_model_file(str(path)).model_id == model.model_id


@pytest.mark.ray
@pytest.mark.faults
@pytest.mark.timeout(300)
def test_a_command_killed_on_ray_resumes_and_ends_in_the_same_weights(
    ray_cluster, trained, tmp_path
):
    path = tmp_path / "encoder.safetensors"
    command = [sys.executable, "-c", scans.COMMAND, "train", "encoder", SURVEY]
    process = scans.start([*command, "--out", str(path), *OPTIONS], env=scans.this_cluster())
    while not (states := list(tmp_path.glob("*/fit-*/state.pt"))):
        assert process.child.poll() is None, process.wait().err
        time.sleep(0.01)
    os.killpg(process.child.pid, signal.SIGKILL)
    assert process.wait().is_killed
    assert not path.exists()
    num_saved = len(torch.load(states[0], weights_only=True)["losses"])
    assert 0 < num_saved < NUM_PASSES

    done = _run(path, *OPTIONS)
    assert done.exit_code == 0, done.output
    whole, killed = (read_model_file(str(one)) for one in (trained[0], path))
    assert killed.model_id == whole.model_id
    for name in ("loss", "validation_loss", "best_pass", "num_rows"):
        assert killed.fit[name] == whole.fit[name]


def test_too_few_rows_for_a_validation_part_are_refused_before_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "train_in_workers", None)
    with scans.workers_here():
        done = _run(tmp_path / "m", *OPTIONS, "--rows", "12")
    assert done.exit_code == 2, done.output
    assert "validation part is 1 of 12 objects (validation_share 0.1), expected at least 2" in (
        done.output
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "vit-huge"], "model is 'vit-huge', expected one of ['attcae', 'cae'"),
        (
            ["--model", "pca"],
            "what needs no training (pixels, pca, rings, rings-fine, waves, lc-pca, lines, "
            "spec-pca)",
        ),
        (["--passes", "0"], "num_passes of a fit is 0, expected more than 0"),
        (["--budget", "-1"], "budget_s of a fit is -60.0, expected more than 0"),
        (["--rows", "0"], "max_fit_rows is 0, expected at least 1"),
        (["--set", "search.k=3"], "search.k is no setting of a fit"),
        (["--set", "fit.patients=3"], "fit.patients in the flags is unknown"),
    ],
)
def test_what_the_user_got_wrong_is_said_before_anything_starts(options, message, tmp_path):
    done = _run(tmp_path / "m", "--model", "cae", *options)
    assert done.exit_code == 2, done.output
    assert message in done.output
    assert not list(tmp_path.iterdir())


def test_a_model_file_of_another_origin_is_not_overwritten(tmp_path):
    path = tmp_path / "m"
    path.write_bytes(b"precious")
    done = _run(path, *OPTIONS)
    assert done.exit_code == 2, done.output
    assert "exists and was made by no fit in" in done.output
    assert path.read_bytes() == b"precious"


def test_a_fit_without_an_end_gets_an_hour_and_a_validation_part(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = {"encoder.name": "cae", "fit.num_passes": None, "seed": 3}
    config = train_encoder.load_training("m", "hdf", flags)
    assert config.out == str(tmp_path / "m.fit")
    assert config.fit.budget_s == 3600
    assert config.fit.validation_share == 0.1
    assert config.max_fit_rows == 16_384
    limited = train_encoder.load_training("m", "hdf", flags | {"fit.num_passes": 5})
    assert limited.fit.budget_s is None


def test_settings_that_differ_are_named(tmp_path):
    flags = {"encoder.name": "cae", "fit.seed": 1}
    first, second = (
        train_encoder.load_training(str(tmp_path / "m"), "hdf", flags | {"fit.seed": seed})
        for seed in (1, 2)
    )
    note_settings(first.out, train_encoder._settings(first))
    assert not is_fitted(first.out, str(tmp_path / "m"), train_encoder._settings(first))
    settings = json.loads((tmp_path / "m.fit" / "settings.json").read_text())
    assert settings["fit"]["seed"] == 1
    (tmp_path / "m.fit" / "sample.npy").write_bytes(b"")
    with pytest.raises(train_encoder.ConfigError, match=r"fit\.seed was 1 and is 2"):
        is_fitted(second.out, str(tmp_path / "m"), train_encoder._settings(second))
