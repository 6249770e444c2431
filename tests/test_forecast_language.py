"""A language model as backbone: what it is told, what is tuned, what is saved, what is refused."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from astroray.errors import BackendError, ConfigError
from astroray.flares.history import HISTORY, NUM_FLARES, STATISTICS
from astroray.flares.windows import Windows
from astroray.forecast import backbone, language_model
from astroray.forecast.backbone import check_backbone, fingerprint_of
from astroray.forecast.calibration import Calibration
from astroray.forecast.fit import FitPlan, ForecasterState, fit_forecaster, forecast_logits, restore
from astroray.forecast.language_model import LanguageConfig, LanguageForecaster
from astroray.forecast.lora import adapter_state, attach
from astroray.forecast.loss import forecast_loss
from astroray.forecast.model_file import load_forecaster, save_forecaster
from astroray.forecast.prompt import write_prompts
from astroray.forecast.simulated_stars import SimulatedStars
from tests.forecasters_made import disturbed, split_windows
from tests.language_made import write_language_model

KINDS = ("llama", "qwen", "gpt2")


@pytest.fixture(scope="module")
def made():
    return split_windows(
        SimulatedStars(has_precursor=True, num_stars=6, days=24.0, precursor_sigma=8.0)
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny model of each kind, not to be changed."""
    return {kind: write_language_model(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


@pytest.fixture
def own(folders, tmp_path):
    """A Llama that a test may break."""
    return str(shutil.copytree(folders["llama"], tmp_path / "tiny-llama"))


def build(folder, seed=0):
    torch.manual_seed(seed)
    return LanguageForecaster(LanguageConfig.of(folder)).eval()


def window(**statistics):
    """One window whose star has had two flares, but for the statistics that are given."""
    known = {
        "log flares so far": np.log(3),
        "log days observed so far": np.log(161),
        "log rate so far": np.log(0.0132),
        "log days since the last": np.log(1.25),
        "flares in the last 10.46 d": 1,
        "log rate of this season in former years": np.log(0.015),
        "mean size": 1.234,
        "largest size": 2.5,
        "mean log10 duration": -1.0,
        "log mean waiting time": np.log(80.0),
        "alignment with the rotation": -0.4567,
    }
    known |= {f"log rate, decaying over {d} d": np.log(0.01 * d) for d in (3, 10, 30, 100, 300)}
    history_MC = np.full((NUM_FLARES, len(HISTORY)), np.nan)
    history_MC[:2] = [[np.log10(1.25), -1.0, 2.5], [np.log10(81.3), -1.2, -0.0321]]
    known |= statistics
    if known["log flares so far"] == 0:
        history_MC[:] = np.nan
    one = np.ones(1)
    return Windows(
        star_ids=["made"],
        star_W=np.zeros(1, np.int64),
        end_W=one,
        label_W=one > 0,
        answered_W=one > 0,
        history_WMC=history_MC[None].astype(np.float32),
        statistics_WN=np.array([[known[name] for name in STATISTICS]], np.float32),
        property_WP=np.array([[3300, 4.833, np.nan, 0.35, 12.5]], np.float32),
        flux_WTC=np.zeros((1, 512, 3), np.float32),
        dropped={},
    )


def test_a_star_is_told_of_in_these_words():
    assert write_prompts(window()) == [
        "Star: temperature 3300 K, log g 4.83, metallicity unknown, radius 0.35 solar, rotation "
        "12.5 d. Flares so far: 2 in 160 d, 0.0132 a day; lately 0.03 over 3 d, 0.1 over 10 d, 0.3 "
        "over 30 d, 1 over 100 d, 3 over 300 d; 0.015 in this season; 1 in 10.46 d; the last 1.25 "
        "d ago; mean wait 80 d, mean duration 0.1 d, mean size 1.23, largest 2.5, alignment with "
        "rotation -0.457. Last flares (days ago, days long, size): 1.25 0.1 2.5; 81.3 0.0631 "
        "-0.0321. Flux:"
    ]


def test_a_star_that_never_flared_is_told_of_without_numbers_that_mean_nothing():
    names = ("mean size", "largest size", "mean log10 duration", "log mean waiting time")
    unknown = dict.fromkeys(names, np.nan)
    (text,) = write_prompts(window(**unknown, **{"log flares so far": 0.0}))
    assert "Flares so far: 0 in 160 d" in text
    assert "the last never; mean wait unknown d, mean duration unknown d, mean size unknown" in text
    assert text.endswith("(days ago, days long, size): none. Flux:")


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_no_forecast(made, folders, kind):
    train, _ = made
    model = build(folders[kind])
    inputs = model.read(train)
    lengths_B = inputs.said_BL.sum(dim=1)
    order = torch.argsort(lengths_B)[[0, -1]]
    assert lengths_B[order[0]] < lengths_B[order[1]]
    with torch.inference_mode():
        together = model(inputs.take(order))
        alone = torch.cat([model(inputs.take(order[i : i + 1])) for i in range(2)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_words_flux_and_their_order_each_count(made, folders, kind):
    train, _ = made
    train = train.take(np.arange(8))
    model = build(folders[kind])
    known = forecast_logits(model, train)
    for name, changed in (
        ("statistics_WN", train.statistics_WN + 1),
        ("history_WMC", train.history_WMC + 1),
        ("property_WP", np.full_like(train.property_WP, 3.0)),
        ("flux_WTC", train.flux_WTC[:, ::-1].copy()),
    ):
        other = forecast_logits(model, dataclasses.replace(train, **{name: changed}))
        assert not np.isclose(other, known, atol=1e-4).all(), name


@pytest.mark.parametrize(
    ("kind", "per_layer", "num_norms"), [("llama", 7, 5), ("qwen", 7, 9), ("gpt2", 4, 10)]
)
def test_only_lora_norms_and_what_is_not_pretrained_get_gradients(
    made, folders, kind, per_layer, num_norms
):
    train, _ = made
    model = build(folders[kind])
    before = forecast_logits(model, train)
    attach(model, "lora").eval()
    assert np.array_equal(forecast_logits(model, train), before)
    inputs = model.read(train).take(torch.arange(8))
    forecast_loss(model(inputs), torch.ones(8), inputs.flux_BTC, None).backward()
    tuned = {name for name, value in model.named_parameters() if value.grad is not None}
    assert {name for name in tuned if not model.is_pretrained(name)} == {
        *("flux_projection.weight", "flux_projection.bias", "flux_norm.weight", "flux_norm.bias"),
        *("record_readout", "head.weight", "head.bias"),
    }
    inside = {name for name in tuned if model.is_pretrained(name)}
    assert sum("lora_A" in name for name in inside) == 2 * per_layer
    assert all("lora_" in name or "norm" in name or "ln_" in name for name in inside)
    assert sum("norm" in name or "ln_" in name for name in inside) == num_norms


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_forecaster_forecasts_the_same_and_its_file_holds_no_backbone(
    made, folders, tmp_path, kind
):
    train, _ = made
    model = disturbed(attach(build(folders[kind]), "lora")).eval()
    before = forecast_logits(model, train)
    path = tmp_path / "flares.model"
    curve = Calibration(slope=1.0, intercept=0.0)
    model_id = save_forecaster(
        str(path), model, method="lora", calibration=curve, alarm=0.5, facts={"reliability": []}
    )
    assert safetensors.torch.load_file(path).keys() == adapter_state(model).keys()
    again = load_forecaster(str(path))
    assert again.model_id == model_id
    assert not any("lora" in name for name, _ in again.model.named_parameters())
    np.testing.assert_allclose(forecast_logits(again.model, train), before, rtol=1e-4, atol=1e-5)


def test_a_short_fit_lowers_the_loss_and_one_that_was_killed_ends_in_the_same_bits(made, folders):
    train, validation = made
    plan = FitPlan(
        network=LanguageConfig.of(folders["llama"]),
        pretrain_passes=0,
        num_passes=4,
        batch_size=16,
        tuning_rate=5e-3,
    )
    states = []
    whole = fit_forecaster(
        train, validation, plan, keep=lambda state: states.append(dataclasses.replace(state))
    )
    assert states[0].base == {}
    assert not any("base_layer" in name for name in states[0].model)
    label_W = torch.from_numpy(train.label_W.astype(np.float32))

    def loss(model):
        logit_W = torch.from_numpy(forecast_logits(model, train))
        return float(forecast_loss(logit_W, label_W, torch.from_numpy(train.flux_WTC), None))

    assert loss(whole) < loss(build(folders["llama"])) - 0.05
    known = states[1]
    known.auprcs = known.auprcs[:2]
    again = fit_forecaster(train, validation, plan, state=known)
    expected, found = whole.state_dict(), again.state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    back = restore(known, plan)
    assert np.array_equal(forecast_logits(back, validation), forecast_logits(whole, validation))


def test_what_is_pretrained_is_tuned_more_slowly_unless_a_rate_is_given(made, folders):
    train, validation = (windows.take(np.arange(16)) for windows in made)
    plan = FitPlan(network=LanguageConfig.of(folders["gpt2"]), pretrain_passes=0, num_passes=1)
    for rate, expected in ((None, {2e-3, 2e-4}), (1e-3, {1e-3})):
        states: list[ForecasterState] = []
        fit_forecaster(
            train,
            validation,
            dataclasses.replace(plan, tuning_rate=rate),
            keep=states.append,
        )
        groups = states[0].optimizer["param_groups"]
        assert {group["rate"] for group in groups} == expected


def test_a_language_model_is_tuned_by_lora_alone(folders):
    with pytest.raises(ConfigError, match="tuned by full after 3 passes of pre-training"):
        FitPlan(network=LanguageConfig.of(folders["llama"]), method="full", pretrain_passes=3)


def test_the_fingerprint_changes_with_weights_settings_and_tokenizer_and_with_nothing_else(own):
    known = fingerprint_of(own)
    (Path(own) / "README.md").write_text("a fine model")
    assert fingerprint_of(own) == known
    seen = {known}
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        with (Path(own) / name).open("ab") as file:
            file.write(b" ")
        seen.add(fingerprint_of(own))
    assert len(seen) == 4


def rewrite(folder, **changes):
    path = Path(folder) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def no_tokenizer(folder):
    (Path(folder) / "tokenizer.json").unlink()


def pickled(folder):
    (Path(folder) / "model.safetensors").rename(Path(folder) / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "which is no folder"),
        (lambda folder: (Path(folder) / "config.json").unlink(), r"has no config\.json"),
        (lambda folder: (Path(folder) / "config.json").write_text("{"), "is no JSON object"),
        (lambda folder: rewrite(folder, architectures=["ViTModel"]), "is a ViTModel, expected a"),
        (lambda folder: rewrite(folder, architectures=None), "is a model of no named architecture"),
        (pickled, r"has no \*\.safetensors, and other weights are not read"),
        (no_tokenizer, "has no tokenizer, expected"),
    ],
)
def test_a_folder_that_is_no_language_model_is_refused_before_anything_is_loaded(
    own, monkeypatch, spoil, message
):
    monkeypatch.setattr(backbone, "load_backbone", None)
    spoil(own)
    with pytest.raises(ConfigError, match=message):
        check_backbone(own)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: rewrite(folder, model_type="magic"), "could not be loaded as a language"),
        (lambda folder: rewrite(folder, num_hidden_layers=3), "lack model.layers.2.*copy the"),
        (
            lambda folder: (Path(folder) / "model.safetensors").write_bytes(b"torn"),
            "could not be loaded as a language",
        ),
    ],
)
def test_what_transformers_cannot_build_is_said_in_one_line(own, spoil, message):
    spoil(own)
    with pytest.raises(ConfigError, match=message):
        build(own)


def test_code_in_a_folder_is_not_run(own, tmp_path):
    ran = tmp_path / "ran"
    (Path(own) / "mine.py").write_text(f"open({str(ran)!r}, 'w')\nclass Mine: pass\n")
    rewrite(own, model_type="mine", auto_map={"AutoConfig": "mine.Mine"})
    with pytest.raises(ConfigError, match="could not be loaded as a language model"):
        build(own)
    assert not ran.exists()


def test_a_model_without_projections_that_are_known_is_refused_by_their_names(folders, monkeypatch):
    monkeypatch.setattr(language_model, "PROJECTIONS", ("nothing",))
    with pytest.raises(ConfigError, match=r"no projection that LoRA is put beside.*q_proj"):
        attach(build(folders["llama"]), "lora")


def test_a_context_too_short_for_the_prompt_is_refused_with_both_lengths(made, tmp_path):
    train, _ = made
    model = build(write_language_model(tmp_path / "short", context=128))
    with pytest.raises(ConfigError, match=r"reads at most 128 tokens, expected at least \d{3}"):
        model.read(train)


def test_a_tokenizer_of_another_model_is_refused(made, folders):
    train, _ = made
    model = build(folders["llama"])
    model.backbone.resize_token_embeddings(100)
    with pytest.raises(ConfigError, match=r"gives token \d+, the model knows 100"):
        model.read(train)


def test_without_transformers_the_extra_is_named(folders, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(BackendError, match=r"transformers is not installed.*astroray\[flares\]"):
        check_backbone(folders["llama"])


def saved(folder, path):
    model = attach(build(folder), "lora")
    curve = Calibration(slope=1.0, intercept=0.0)
    save_forecaster(str(path), model, method="lora", calibration=curve, alarm=0.5, facts={})
    return model


def test_a_backbone_that_moved_is_found_beside_the_model_file(made, own, tmp_path):
    _, validation = made
    path = tmp_path / "elsewhere" / "flares.model"
    path.parent.mkdir()
    model = saved(own, path)
    shutil.move(own, path.parent)
    found = load_forecaster(str(path)).model
    assert found.config.folder == str(path.parent / "tiny-llama")
    np.testing.assert_allclose(
        forecast_logits(found, validation), forecast_logits(model.eval(), validation), atol=1e-5
    )
    shutil.rmtree(path.parent / "tiny-llama")
    with pytest.raises(ConfigError, match=r"is not there, expected .*tiny-llama or .*tiny-llama"):
        load_forecaster(str(path))


def test_a_backbone_that_changed_is_no_longer_that_of_the_model(own, tmp_path):
    path = tmp_path / "flares.model"
    saved(own, path)
    write_language_model(own, seed=1)
    with pytest.raises(ConfigError, match=r"is not the language model that .* was trained on"):
        load_forecaster(str(path))
