"""The benchmark of tuning: the same network for every method, each with its own weights."""

import functools

import pytest
import torch

from astroray.forecast import fit
from astroray.forecast.model import ForecasterConfig
from benchmarks import forecast
from benchmarks.rows import MeasurementError


@pytest.fixture(autouse=True)
def small(monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.setattr(forecast, "NUM_STARS", 2)
    monkeypatch.setattr(forecast, "STEPS", 1)
    network = ForecasterConfig(width=16, num_layers=1)
    plan = functools.partial(fit.FitPlan, network=network, batch_size=16)
    monkeypatch.setattr(fit, "FitPlan", plan)
    yield
    torch.set_num_threads(threads)


def test_every_claim_has_a_row_and_methods_tune_fewer_weights_than_full():
    rows = [
        claim(**fields)
        for claim, fields in zip(forecast.CLAIMS, forecast.measure_steps(1), strict=True)
    ]
    for row in rows:
        assert row.error <= forecast.LARGEST_ERROR
        assert (row.runs, row.value > 0, row.limit > 0) == (1, True, True)
    assert rows[0].facts["tuned_weights"] < rows[0].facts["full_weights"]


def test_networks_that_differ_before_tuning_are_no_measurement(monkeypatch):
    made = forecast.Tuned

    def moved(network, method, plan):
        tuned = made(network, method, plan)
        if method == "lora":
            torch.nn.init.ones_(tuned.model.head.bias)
        return tuned

    monkeypatch.setattr(forecast, "Tuned", moved)
    with pytest.raises(MeasurementError, match="not tuned yet differ by"):
        forecast.measure_steps(1)
