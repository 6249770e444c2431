"""The forecaster: tokens, masked pre-training, LoRA and adapters, the prior, fits that resume."""

import dataclasses

import numpy as np
import pytest
import torch

from astroray.errors import ConfigError, SchemaError
from astroray.forecast import fit
from astroray.forecast.fit import (
    TUNING_RATES,
    FitPlan,
    ForecasterState,
    fit_forecaster,
    forecast_logits,
)
from astroray.forecast.lora import adapter_state, attach, load_adapter, merge
from astroray.forecast.loss import RisingRate, forecast_loss, rising_rate
from astroray.forecast.model import Forecaster, ForecasterConfig, ForecastInputs, patches
from astroray.forecast.simulated_stars import SimulatedStars
from tests.forecasters_made import disturbed, split_windows

SMALL = ForecasterConfig(width=16, num_layers=1, num_heads=2, dropout=0.0)
PLAN = FitPlan(network=SMALL, pretrain_passes=2, num_passes=2, batch_size=32)


@pytest.fixture(scope="module")
def made():
    return split_windows(SimulatedStars(has_precursor=True, num_stars=9, days=40.0))


def build(seed=0, config=SMALL):
    torch.manual_seed(seed)
    return Forecaster(config).eval()


def logits(model, windows):
    return torch.from_numpy(forecast_logits(model, windows))


def test_patches_are_16_cadences_every_8_and_repeat_the_last_at_the_end():
    flux_BTC = torch.arange(2 * 512 * 3, dtype=torch.float32).reshape(2, 512, 3)
    patch_BKEC = patches(flux_BTC).unflatten(-1, (16, 3))
    assert patch_BKEC.shape == (2, 64, 16, 3)
    assert torch.equal(patch_BKEC[1, 5], flux_BTC[1, 40:56])
    assert torch.equal(patch_BKEC[0, 63, :8], flux_BTC[0, 504:])
    assert (patch_BKEC[0, 63, 8:] == flux_BTC[0, -1]).all()


@pytest.mark.parametrize(
    ("left_out", "part"),
    [
        ("use_history", "history_WMC"),
        ("use_statistics", "statistics_WN"),
        ("use_flux", "flux_WTC"),
    ],
)
def test_an_input_that_is_left_out_is_not_read(made, left_out, part):
    train, _ = made
    changed = dataclasses.replace(train, **{part: getattr(train, part) + 1})
    whole, without = build(), build(config=dataclasses.replace(SMALL, **{left_out: False}))
    assert torch.equal(logits(without, train), logits(without, changed))
    assert not torch.equal(logits(whole, train), logits(whole, changed))


def test_without_the_first_difference_only_flux_and_mask_are_read(made):
    train, _ = made
    flux_WTC = train.flux_WTC.copy()
    flux_WTC[..., 1] += 1
    changed = dataclasses.replace(train, flux_WTC=flux_WTC)
    without = build(config=dataclasses.replace(SMALL, use_difference=False))
    assert torch.equal(logits(without, train), logits(without, changed))


@pytest.mark.parametrize("method", ["lora", "adapter"])
def test_attaching_changes_nothing_and_freezes_the_backbone(made, method):
    train, _ = made
    model = build()
    before = logits(model, train)
    attach(model, method).eval()
    assert torch.equal(logits(model, train), before)
    tuned = {name for name, value in model.named_parameters() if value.requires_grad}
    assert not any("patch_embedding" in name or "base_layer" in name for name in tuned)
    assert any("norm" in name for name in tuned)
    assert any("head" in name for name in tuned)
    projections = {name for name in tuned if "lora_A" in name}
    assert len(projections) == (6 if method == "lora" else 0)


@pytest.mark.parametrize("method", ["lora", "adapter"])
def test_an_adapter_alone_brings_a_base_model_to_the_tuned_one(made, method):
    train, _ = made
    tuned = disturbed(attach(build(), method)).eval()
    state = adapter_state(tuned)
    other = attach(build(), method).eval()
    assert not torch.equal(logits(other, train), logits(tuned, train))
    load_adapter(other, state)
    assert torch.equal(logits(other, train), logits(tuned, train))
    assert sum(value.numel() for value in state.values()) < 0.9 * sum(
        value.numel() for value in tuned.state_dict().values()
    )
    with pytest.raises(SchemaError, match="the adapter does not fit the model"):
        load_adapter(attach(build(config=ForecasterConfig(width=32)), method), state)


def test_merged_weights_forecast_the_same_and_hold_no_lora(made):
    train, _ = made
    tuned = disturbed(attach(build(), "lora")).eval()
    before = logits(tuned, train)
    merged = merge(tuned)
    torch.testing.assert_close(logits(merged, train), before, rtol=1e-4, atol=1e-5)
    assert merged.state_dict().keys() == build().state_dict().keys()
    plain = build(seed=1)
    plain.load_state_dict(merged.state_dict())
    assert torch.equal(logits(plain, train), logits(merged, train))


def test_lora_in_weights_has_the_forecasts_and_gradients_of_lora_beside_them(made, monkeypatch):
    train, _ = made
    inside = disturbed(attach(build(), "lora")).eval()
    monkeypatch.setattr(Forecaster, "has_lora_in_weights", False)
    beside = attach(build(), "lora").eval()  # where there is no dropout
    assert type(inside.blocks[0].query) is not type(beside.blocks[0].query)
    load_adapter(beside, adapter_state(inside))
    torch.testing.assert_close(logits(inside, train), logits(beside, train), rtol=1e-4, atol=1e-5)
    for model in (inside, beside):
        model(ForecastInputs.of(train)).square().mean().backward()
    expected = {name: value.grad for name, value in beside.named_parameters()}
    for name, value in inside.named_parameters():
        torch.testing.assert_close(value.grad, expected[name], rtol=1e-3, atol=1e-6)
    assert expected["blocks.0.query.base_layer.weight"] is None
    assert expected["blocks.0.query.lora_A.default.weight"].abs().max() > 0


def test_masked_patches_are_not_seen_and_unobserved_cadences_not_asked_for(made):
    train, _ = made
    flux_BTC = torch.from_numpy(train.flux_WTC[:4])
    hidden_BK = torch.zeros(4, 64, dtype=torch.bool)
    hidden_BK[:, 10:14] = True
    model = build()
    loss = model.masked_loss(flux_BTC, hidden_BK)
    outside_BTC = flux_BTC.clone()
    outside_BTC[:, 300:310] += 1
    assert model.masked_loss(outside_BTC, hidden_BK) != loss
    dark_BTC = flux_BTC.clone()
    dark_BTC[:, 80:120, 2] = 0
    assert model.masked_loss(dark_BTC, hidden_BK) == 0


def test_the_prior_is_that_of_the_formula_and_trims_only_forecasts_from_flat_curves():
    flux_BTC = torch.zeros(3, 512, 3)
    flux_BTC[:, -5, 1] = torch.asinh(torch.tensor([4.0, 1.0, 0.0]))
    flux_BTC[:, 100, 1] = 9.0  # too long ago to count
    torch.testing.assert_close(rising_rate(flux_BTC), torch.tensor([4.0, 1.0, 0.0]))
    prior = RisingRate(2.0)
    probability_B = torch.tensor([0.9, 0.8, 0.5], requires_grad=True)
    penalty = prior.penalty(probability_B, flux_BTC)
    torch.testing.assert_close(penalty, torch.tensor((0.8 * 0.5 + 0.5 * 1.0) / 3))
    penalty.backward()
    assert probability_B.grad[0] == 0
    assert RisingRate.measure(flux_BTC, torch.tensor([1.0, 0.0, 0.0])).rate_min == pytest.approx(4)
    assert RisingRate.measure(flux_BTC, torch.zeros(3)).rate_min == 0


def test_the_loss_is_cross_entropy_of_smoothed_labels():
    logit_B, label_B = torch.tensor([2.0, -1.0]), torch.tensor([1.0, 0.0])
    p_B = torch.sigmoid(logit_B)
    target_B = torch.tensor([0.95, 0.05])
    expected = -(target_B * p_B.log() + (1 - target_B) * (1 - p_B).log()).mean()
    found = forecast_loss(logit_B, label_B, torch.zeros(2, 512, 3), None)
    torch.testing.assert_close(found, expected)


def test_a_fit_that_was_killed_ends_in_the_same_bits(made):
    train, validation = made
    states = []
    whole = fit_forecaster(
        train, validation, PLAN, keep=lambda state: states.append(dataclasses.replace(state))
    )
    assert len(states) == 4
    for stop in (0, 1, 2):
        known = states[stop]
        known.losses, known.auprcs = known.losses[: stop + 1], known.auprcs[: max(0, stop - 1)]
        again = fit_forecaster(train, validation, PLAN, state=known)
        expected, found = whole.state_dict(), again.state_dict()
        assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_the_prior_changes_what_is_learnt_unless_it_is_left_out(made):
    plan = dataclasses.replace(PLAN, pretrain_passes=0, num_passes=1)
    with_it, without = (
        forecast_logits(fit_forecaster(*made, dataclasses.replace(plan, use_prior=used)), made[1])
        for used in (True, False)
    )
    assert not np.array_equal(with_it, without)


def test_tuning_ends_after_passes_without_a_better_one_and_keeps_the_best(made, monkeypatch):
    auprcs, states = iter([0.5, 0.6, 0.6, 0.4, 0.9]), []
    monkeypatch.setattr(fit, "average_precision", lambda *_: next(auprcs))
    plan = dataclasses.replace(PLAN, pretrain_passes=0, num_passes=9, patience=2)
    model = fit_forecaster(*made, plan, keep=lambda state: states.append(state.model))
    assert len(states) == 4
    tuned = adapter_state(model)
    assert all(torch.equal(tuned[name], weight) for name, weight in states[1].items())
    assert not all(torch.equal(tuned[name], weight) for name, weight in states[3].items())


def test_a_state_comes_back_from_its_file(made, tmp_path):
    train, validation = made
    plan = dataclasses.replace(PLAN, pretrain_passes=1, num_passes=1)
    whole = fit_forecaster(train, validation, plan, keep=lambda state: state.save(str(tmp_path)))
    state = ForecasterState.load(str(tmp_path))
    assert len(state.losses) == len(state.auprcs) == 1
    again = fit_forecaster(train, validation, plan, state=state)
    assert np.array_equal(forecast_logits(again, validation), forecast_logits(whole, validation))
    assert ForecasterState.load(str(tmp_path / "nowhere")).model == {}


def test_pretraining_lowers_the_loss_and_lora_leaves_the_backbone_as_it_was(made):
    train, validation = made
    states = []
    plan = dataclasses.replace(PLAN, pretrain_passes=4, pretrain_rate=5e-3)
    tuned = fit_forecaster(
        train, validation, plan, keep=lambda state: states.append(dict(state.model))
    )
    pretrained = states[3]
    found = tuned.state_dict()
    assert torch.equal(found["patch_embedding.weight"], pretrained["patch_embedding.weight"])
    name = "blocks.0.query"
    assert torch.equal(found[f"{name}.base_layer.weight"], pretrained[f"{name}.weight"])
    assert found[f"{name}.lora_B.default.weight"].abs().max() > 0


@pytest.mark.parametrize("method", ["lora", "adapter", "full"])
def test_each_method_is_tuned_at_its_own_rate_unless_one_is_given(made, method):
    train, validation = made
    plan = dataclasses.replace(PLAN, method=method, pretrain_passes=0, num_passes=1)
    logit_W = [
        forecast_logits(fit_forecaster(train, validation, changed), validation)
        for changed in (
            plan,
            dataclasses.replace(plan, tuning_rate=TUNING_RATES[method]),
            dataclasses.replace(plan, tuning_rate=1e-5),
        )
    ]
    assert np.array_equal(logit_W[0], logit_W[1])
    assert not np.allclose(logit_W[0], logit_W[2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tuning_rate": 1e30}, r"tuning by lora, pass 1 of 2, at a learning rate of 1e\+30"),
        ({"pretrain_rate": 1e30}, r"loss is (nan|inf) in pre-training, pass 1 of 2"),
    ],
)
def test_a_fit_whose_loss_is_no_number_ends_and_says_where(made, changes, message):
    with pytest.raises(ConfigError, match=message):
        fit_forecaster(*made, dataclasses.replace(PLAN, **changes))


def test_the_mixer_is_fitted_from_scratch_with_every_choice_of_inputs(made):
    train, validation = made
    for left_out in ({}, {"use_history": False}, {"use_flux": False, "use_statistics": False}):
        network = dataclasses.replace(SMALL, mixing="perceptron", **left_out)
        plan = FitPlan(network=network, method="full", pretrain_passes=0, num_passes=1)
        model = fit_forecaster(train, validation, plan)
        assert np.isfinite(forecast_logits(model, validation)).all()
    with pytest.raises(ConfigError, match="mixes by perceptron is tuned by lora after 10 passes"):
        FitPlan(network=network)


def test_the_mixer_tells_tokens_apart_by_their_place(made):
    model = build(config=dataclasses.replace(SMALL, mixing="perceptron"))
    _, validation = made
    backward = dataclasses.replace(validation, flux_WTC=validation.flux_WTC[:, ::-1].copy())
    assert not torch.allclose(logits(model, validation), logits(model, backward), atol=1e-4)
