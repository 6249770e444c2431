"""How `auto` decides: the fastest numbers and attention that keep the list, else the reference."""

import dataclasses

import numpy as np
import pytest

from astroray.actors import decide as module
from astroray.actors.decide import Way, decide
from astroray_kernels.dispatch import why_not
from astroray_kernels.vfa import _native

RANKED = -np.arange(1000.0)
"""Scores of a thousand objects, the most unusual first."""


def choose(num_rows=10_000, **ways):
    """Each way, numbers and attention joined by `__`, with its speed and what it keeps."""
    asked = {"none__sdpa": (1.0, None), **ways}
    pairs = {tuple(name.replace("_q", "-q").split("__")): values for name, values in asked.items()}
    found = {
        pair: Way(numbers=pair[0], attention=pair[1], speed=speed, kept=kept)
        for pair, (speed, kept) in pairs.items()
    }
    return module._chosen(found, num_rows)


def test_the_fastest_pair_of_numbers_and_attention_that_keeps_the_list_is_taken():
    decision = choose(
        bf16__sdpa=(1.7, 1.0), w8a8o__sdpa=(1.9, 1.0), w8a8o__vfa=(2.1, 0.99), none__vfa=(1.5, 1.0)
    )
    assert (decision.choice, decision.attention) == ("w8a8o", "vfa")
    assert decision.chosen == "w8a8o, vfa"
    assert decision.reason == "2.10 times as fast as float32, keeps 99.0% of the list"


def test_a_faster_way_that_loses_objects_is_not():
    decision = choose(w8a8__vfa=(2.1, 0.98), bf16__sdpa=(1.7, 0.995))
    assert (decision.choice, decision.attention) == ("bf16", "sdpa")


def test_nothing_that_is_slower_is_taken_and_nothing_that_was_not_compared():
    assert choose(bf16__sdpa=(0.9, 1.0)).choice == "none"
    assert choose(w8a8__vfa=(2.1, None)).attention == "sdpa"
    assert "no way is faster" in choose(bf16__sdpa=(0.9, 1.0)).reason


def test_too_few_objects_leave_the_reference_whatever_was_measured():
    decision = choose(num_rows=9_999, w8a8__vfa=(2.1, 1.0))
    assert (decision.choice, decision.attention) == ("none", "sdpa")
    assert decision.reason.startswith("undecided: 9999 objects are fewer than 10000")


def test_lists_are_compared_from_the_fastest_way_on_until_one_is_kept(monkeypatch):
    speeds = {
        ("none", "sdpa"): 1.0, ("bf16", "sdpa"): 1.5, ("w8a8", "sdpa"): 1.8, ("w8a8", "vfa"): 2.4,
        ("w8a8o", "vfa"): 2.3, ("torch-int8", "sdpa"): 0.9,
    }  # fmt: skip
    ways = {
        pair: Way(numbers=pair[0], attention=pair[1], speed=speed) for pair, speed in speeds.items()
    }
    fast = {pair: RANKED.copy() for pair in ways}
    fast["w8a8", "vfa"][:5] = -900.0  # half of the list sinks
    asked = []

    class Network:
        numbers = attention = ""

    class Model:
        def __init__(self, numbers):
            self.network = Network()
            self.network.numbers = numbers

    def score(model, _):
        asked.append((model.network.numbers, model.network.attention))
        return fast[asked[-1]]

    def choose_attention(network, attention, _):
        network.attention = attention

    monkeypatch.setattr(module, "_scores", score)
    monkeypatch.setattr(module, "choose_attention", choose_attention)
    models = {numbers: Model(numbers) for numbers, _ in ways}
    found = module._compared(models, ways, None, lambda _: None)
    assert asked == [("none", "sdpa"), ("w8a8", "vfa"), ("w8a8o", "vfa"), ("bf16", "sdpa")]
    assert found["w8a8", "vfa"].kept == 0.5
    assert found["w8a8o", "vfa"].kept == found["bf16", "sdpa"].kept == 1.0
    assert found["w8a8", "sdpa"].note == "slower than one that keeps the list"
    assert found["torch-int8", "sdpa"].note == "not faster than float32"


def test_a_way_that_is_far_slower_is_timed_twice_and_not_compared(monkeypatch):
    import torch

    seconds = {"none": 1.0, "bf16": 8.0, "w8a8": 0.5}
    clock, calls = [0.0], []

    class Model:
        network = None

        def __init__(self, numbers):
            self.numbers = numbers

        def embed(self, _):
            calls.append(self.numbers)
            clock[0] += seconds[self.numbers]

    monkeypatch.setattr(module, "choose_attention", lambda *_: "sdpa")
    monkeypatch.setattr(module.time, "process_time", lambda: clock[0])
    ways = {(numbers, "sdpa"): Way(numbers=numbers, attention="sdpa") for numbers in seconds}
    models = {numbers: Model(numbers) for numbers in seconds}
    timed = module._timed(models, ways, torch.zeros(1, 1, 1, 1))
    assert [way.speed for way in timed.values()] == [1.0, 0.125, 2.0]
    assert calls.count("bf16") == 2
    assert calls.count("w8a8") == module.ROUNDS + 1
    monkeypatch.setattr(module, "_scores", lambda *_: RANKED)
    found = module._compared(models, timed, None, lambda _: None)
    assert found["bf16", "sdpa"].kept is None
    assert found["bf16", "sdpa"].note == "not faster than float32"
    assert found["w8a8", "sdpa"].kept == 1.0


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

    from astroray.actors.sample import draw_prepared
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
    monkeypatch.setattr(module, "ROUNDS", 1)
    for name in ("LEAST_GAIN", "LEAST_SPEED"):  # the speed of this machine decides nothing
        monkeypatch.setattr(module, name, 0.0)
    decision = decide(model, quantized, image_NCYX)
    ways = {(way.numbers.split()[0], way.attention): way for way in decision.ways}
    assert ways["none", "sdpa"].kept is None
    assert ways["bf16", "sdpa"].kept == 1.0
    failed = [way for way in decision.ways if way.numbers == "osc-w4a4"]
    assert len(failed) == 1
    assert "holds w8a8, w8a8o" in failed[0].note
    assert failed[0].speed is None
    keeping = [way for way in decision.ways if way.kept is not None and way.kept >= 0.99]
    assert decision.chosen == max(keeping, key=lambda way: way.speed).name
    if not why_not("vfa_attention", "native", "cpu"):
        assert ways["none", "vfa native bf16"].speed
        precision = "bf16" if _native.refuses("int8_qk") else "int8_qk"
        assert ways["w8a8o", f"vfa native {precision}"].speed
    cores = {m.core for m in model.network.modules() if hasattr(m, "core")}
    assert cores == {torch.nn.functional.scaled_dot_product_attention}  # as it was given


def test_a_reason_that_many_ways_share_is_told_once():
    slow = "no fast code here: it needs AVX-512"
    notes = {"none": slow, "bf16": slow, "w8a8": "not faster than float32", "w8a8o": ""}
    ways = [Way(numbers=numbers, note=note) for numbers, note in notes.items()]
    assert [way.brief for way in ways] == ["no fast code here"] * 2 + [notes["w8a8"], ""]
    decision = dataclasses.replace(choose(), ways=ways)
    assert decision.details == [slow]


def test_objects_without_numbers_are_left_out_of_the_lists_that_are_compared():
    import torch

    class Model:
        def embed(self, image_BCYX):
            return image_BCYX.flatten(1)

    image_NCYX = torch.arange(48.0).reshape(12, 1, 2, 2)
    expected_N = module._scores(Model(), image_NCYX)
    holed = torch.cat([torch.full((1, 1, 2, 2), torch.nan), image_NCYX])
    np.testing.assert_array_equal(module._scores(Model(), holed), [np.nan, *expected_N])
