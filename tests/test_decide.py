"""How `auto` decides: the fastest way that keeps the list, else the reference."""

import numpy as np
import pytest

from astroray.actors import decide as module
from astroray.actors.decide import Way, decide

RANKED = -np.arange(1000.0)
"""Scores of a thousand objects, the most unusual first."""


def choose(**ways):
    found = {"none": Way(name="none", speed=1.0, kept=1.0)}
    found |= {name: Way(name=name, speed=speed, kept=kept) for name, (speed, kept) in ways.items()}
    return module._chosen(found, 10_000)


def test_the_fastest_way_that_keeps_the_list_is_taken():
    decision = choose(bf16=(1.7, 1.0), w8a8=(2.1, 0.99), w8a8o=(1.9, 1.0))
    assert decision.choice == "w8a8"
    assert decision.reason == "2.10 times as fast as float32, keeps 99.0% of the list"


def test_a_faster_way_that_loses_objects_is_not():
    assert choose(w8a8=(2.1, 0.98), bf16=(1.7, 0.995)).choice == "bf16"


def test_nothing_that_is_slower_is_taken_and_nothing_that_was_not_compared():
    assert choose(bf16=(0.9, 1.0)).choice == "none"
    assert choose(w8a8=(2.1, None)).choice == "none"
    assert "no way is faster" in choose(bf16=(0.9, 1.0)).reason


@pytest.mark.parametrize(
    ("moved_to", "kept"), [(5, 1.0), (19, 1.0), (21, 0.9)], ids=["in", "last", "out"]
)
def test_of_the_top_1_percent_counts_what_lies_in_the_top_2(moved_to, kept):
    fast = RANKED.copy()
    fast[0] = fast[moved_to] - 0.5  # the most unusual object sinks behind this one
    assert module._kept_share(RANKED, fast) == pytest.approx(kept)


def test_a_survey_that_is_large_enough_is_compared_and_a_way_that_fails_is_left_out(
    monkeypatch, tmp_path
):
    import torch

    from astroray.actors.fit import draw_prepared
    from astroray.encoders.quantized import Quantized
    from astroray.encoders.store import load_model
    from astroray.quantization.activations import observe_ranges
    from astroray.quantization.modules import pack_layers
    from astroray.surveys import list_shards
    from tests import scans

    survey = "sim:galaxies?count=64&seed=4&size=16"
    model = load_model(
        scans.fit_model(survey, tmp_path / "m.safetensors", encoder="vit-tiny", size_px=16)
    )
    rows = draw_prepared(list_shards(survey).shards, model.preparation, max_rows=64, seed=0)
    image_NCYX = torch.from_numpy(rows)
    ranges = observe_ranges(model.network, lambda one: one(image_NCYX.float()))
    held = {name: pack_layers(model.network, ranges, name) for name in ("w8a8", "w8a8o")}
    quantized = Quantized(choice="auto", reference_id=model.model_id, schemes=held)
    monkeypatch.setattr(module, "LEAST_ROWS", 64)
    monkeypatch.setattr(module, "LEAST_GAIN", 0.0)  # the speed of this machine decides nothing
    decision = decide(model, quantized, image_NCYX)
    ways = {way.name.split()[0]: way for way in decision.ways}
    assert ways["none"].kept is None
    assert ways["w8a8"].kept == ways["bf16"].kept == 1.0
    assert "holds w8a8, w8a8o" in ways["osc-w4a4"].note
    assert ways["osc-w4a4"].speed is None
    keeping = [way for way in decision.ways if way.kept == 1.0]
    assert decision.choice == max(keeping, key=lambda way: way.speed).name.split()[0]
