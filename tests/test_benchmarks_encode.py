"""The benchmark of the encode stage: its rows from known times, and its turns on a few objects."""

import importlib.util

import pytest
import torch

from astroray_kernels import why_not
from benchmarks import encode, encode_turns
from benchmarks.encode import AUTO, BEST_TORCH, ONNX, TORCH, WAYS, Claim
from benchmarks.rows import MeasurementError

NATIVE = why_not("osc_linear", "native", "cpu")
needs_native = pytest.mark.skipif(bool(NATIVE), reason=NATIVE or "native kernels run")


def turns(error=0.01, **wall_s):
    times = {"torch float32": [4.0, 4.0], "torch bfloat16": [2.0, 5.0], "torch int8": [3.0, 3.0]}
    times |= {name.replace("_", ", "): values for name, values in wall_s.items()}
    return encode_turns.EncodeTurns(
        paths={},
        num_objects=8,
        wall_s=times,
        cpu_s=times,
        error={name: error if name in encode.OURS else 0.02 for name in times},
    )


def test_the_peer_is_pytorch_s_fastest_way_of_each_round():
    claim = Claim(ours="w8a8o", peer=BEST_TORCH, clock="wall_s")
    fields = claim.fields(turns(w8a8o=[1.0, 2.0]))
    assert (fields["low"], fields["high"], fields["runs"]) == (1.5, 2.0, 2)
    assert fields["facts"]["torch_bfloat16_per_s"] == pytest.approx(8 / 3.5)
    assert fields["facts"]["w8a8o_per_s"] == pytest.approx(8 / 1.5)


def test_a_way_that_is_further_off_than_pytorch_s_int8_is_not_timed():
    claim = Claim(ours="w8a8o", peer=BEST_TORCH, clock="cpu_s")
    with pytest.raises(MeasurementError, match=r"w8a8o have error 0.021, expected at most 0.02"):
        claim.fields(turns(error=0.021, w8a8o=[1.0, 1.0]))
    four = Claim(ours="osc-w4a4", peer=BEST_TORCH, clock="cpu_s")
    four_bits = turns()
    four_bits.cpu_s["osc-w4a4"], four_bits.error["osc-w4a4"] = [1.0, 1.0], 0.3
    assert four.fields(four_bits)["error"] == 0.3


def test_a_peer_that_is_not_installed_is_a_reason():
    claim = Claim(ours="w8a8o", peer=ONNX, clock="cpu_s")
    with pytest.raises(MeasurementError, match="onnxruntime int8 is not installed"):
        claim.fields(turns(w8a8o=[1.0, 1.0]))


def test_scans_are_compared_turn_by_turn_and_a_peer_that_is_missing_is_a_reason():
    found = {AUTO: [(300.0, 0.004), (280.0, 0.006)], BEST_TORCH: [(200.0, 0.008), (140.0, 0.01)]}
    row = encode._against(found, BEST_TORCH, {"list_kept": 0.99})
    assert (row["low"], row["high"], row["runs"]) == (1.5, 2.0, 2)
    assert row["facts"]["cpu_ratio"] == pytest.approx(1.8)
    assert row["facts"]["list_kept"] == 0.99
    assert "onnxruntime int8 is not installed" in encode._against(found, ONNX, {})["reason"]


def test_a_model_that_decided_nothing_or_for_the_reference_has_no_row():
    way = {"numbers": "w8a8o native", "attention": "vfa native bf16", "kept": 0.99, "speed": 2.5}
    decision = {"chosen": "w8a8o native, vfa native bf16", "reason": "", "ways": [way]}
    fit = {"quantized": {"decision": decision}}
    assert encode._facts(fit) == {"list_kept": 0.99, "speed_of_network": 2.5}
    way["kept"] = None
    with pytest.raises(MeasurementError, match="auto is w8a8o native, vfa native bf16"):
        encode._facts(fit)
    with pytest.raises(MeasurementError, match="the model has no decision"):
        encode._facts({"quantized": {"decision": None}})


def test_claims_differ_in_words():
    said = [claim.row()(value=1.0).what for claim in encode.claims()]
    assert len(set(said)) == len(said)
    assert set(TORCH) < set(WAYS)


@needs_native
def test_all_ways_take_turns_on_the_same_objects(tmp_path, monkeypatch):
    monkeypatch.setattr(encode_turns, "SIZE_PX", 16)
    monkeypatch.setattr(encode_turns, "NUM_OBSERVED", 32)
    survey = "sim:galaxies?count=32&seed=3&size=16"
    ways = {name: WAYS[name] for name in (*TORCH, "w8a8o", "w8a8o, VFA")}
    threads = torch.get_num_threads()
    try:
        found = encode_turns.encode_turns("vit-tiny", survey, str(tmp_path), ways, 1, 1)
    finally:
        torch.set_num_threads(threads)
    assert found.num_objects == 32
    assert found.error.pop("torch float32") == 0
    onnx = {"onnxruntime float32", ONNX} if importlib.util.find_spec("onnxruntime") else set()
    assert set(found.error) == set(ways) - {"torch float32"} | onnx
    assert found.error.pop("onnxruntime float32", 0) < 1e-5  # on some CPUs none at all
    assert found.error.pop(ONNX, 0) < 0.5  # by AVX2 its products saturate
    assert all(0 < error < 0.2 for error in found.error.values())
    assert all(len(times) == 1 and times[0] > 0 for times in found.cpu_s.values())
