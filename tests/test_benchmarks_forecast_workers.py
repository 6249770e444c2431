"""The benchmark of two training workers: its plain loop takes the very steps of a fit."""

import os

import pytest
import torch

from astroray.forecast.fit import ForecasterState, fit_forecaster
from benchmarks import forecast_workers as bench
from benchmarks.rows import MeasurementError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.setattr(bench, "NUM_STARS", 4)
    monkeypatch.setattr(bench, "NUM_VALIDATION", 1)
    monkeypatch.setattr(bench, "NUM_PASSES", 2)
    monkeypatch.setattr(os, "setpriority", lambda *given: None)
    bench.make_windows(str(tmp_path))
    yield str(tmp_path)
    torch.set_num_threads(threads)


def test_the_plain_loop_is_as_good_after_each_pass_as_the_fit(folder):
    state = ForecasterState()
    fit_forecaster(*bench.read_parts(folder), bench.plan(), state=state)
    ours = bench.Tuned(auprcs=state.auprcs, ended_s=[1.0, 3.0], threads=1)
    peer = bench.tune_plainly(folder, torch.get_num_threads())
    assert len(peer.auprcs) == 2
    assert bench.skill_difference(ours, peer) < 1e-6
    assert (ours.pass_s, peer.pass_s > 0) == (2.0, True)


def test_sides_that_learn_differently_are_no_measurement():
    ours = bench.Tuned(auprcs=[0.3, 0.5], ended_s=[1.0, 2.0], threads=2)
    peer = bench.Tuned(auprcs=[0.3, 0.6], ended_s=[1.0, 2.0], threads=2)
    with pytest.raises(MeasurementError, match="expected a difference of at most"):
        bench.skill_difference(ours, peer)
