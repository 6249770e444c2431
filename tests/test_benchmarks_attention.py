"""The benchmark of attention: its rows from known times, and its turns on small inputs."""

import dataclasses

import pytest
import torch

from astroray_kernels import why_not
from astroray_kernels.vfa import _native
from benchmarks import attention, attention_turns, instruction_peak, processes
from benchmarks.attention_turns import Case, Turns
from benchmarks.rows import MeasurementError

NATIVE = why_not("vfa_attention", "native", "cpu")
needs_native = pytest.mark.skipif(bool(NATIVE), reason=NATIVE or "native kernels run")
NO_INT8 = NATIVE or _native.refuses("int8_qk")


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    yield 1
    torch.set_num_threads(before)


def claim(ours, peers, goal=2.0):
    return attention.Claim(
        what="a claim", goal=goal, inputs="random", length=64, dim=64, ours=ours, peers=peers
    )


def turns(seconds, error=0.001, largest_error=0.01, **values):
    case = Case(heads=1, length=64, dim=64, contenders=tuple(seconds))
    fields = {
        "error": dict.fromkeys(seconds, error),
        "largest_error": dict.fromkeys(seconds, largest_error),
        "peak_gflops": {"bf16": 3 * case.flops / 1e9},
        "facts": {},
        **values,
    }
    return Turns(case=case, seconds=seconds, **fields)


def test_every_claim_says_something_of_its_own_and_has_its_case():
    for quick in (False, True):
        cases = attention.cases(quick)
        for found in attention.claims():
            names = {found.ours, *found.peers}
            key = (found.inputs, found.length, found.dim)
            assert any(
                (case.inputs, case.length, case.dim) == key and names <= set(case.contenders)
                for case in cases
            )
    said = [
        found.row(threads)(value=1.0).what for found in attention.claims() for threads in (1, 2)
    ]
    assert len(set(said)) == len(said)


def test_torch_is_the_faster_of_its_two_in_each_round():
    seconds = {"torch float32": [4.0, 9.0], "torch bfloat16": [8.0, 3.0], "bf16": [1.0, 1.0]}
    fields = claim("bf16", attention.TORCH).fields(turns(seconds))
    assert (fields["low"], fields["high"], fields["runs"]) == (3.0, 4.0, 2)
    assert fields["limit"] == pytest.approx(3 / (1 / 3))  # the peak over torch's best round
    assert fields["facts"]["share_of_peak"] == pytest.approx(1 / 3)


def test_no_time_is_shown_of_wrong_results():
    seconds = {"bf16 online": [2.0], "bf16": [1.0]}
    with pytest.raises(MeasurementError, match=r"error of bf16 is 0\.02, expected at most 0\.01"):
        claim("bf16", ("bf16 online",)).fields(turns(seconds, error=0.02))
    with pytest.raises(MeasurementError, match="error of bf16 is nan"):
        claim("bf16", ("bf16 online",)).fields(turns(seconds, error=float("nan")))


def test_a_process_that_fails_gives_its_reason_to_every_row(monkeypatch):
    monkeypatch.setattr(attention, "_why_not", lambda threads: "there is no native code")
    found = list(attention.measure(True, None))
    num_blocks = len(attention.STAMP_LENGTHS) * len(attention.STAMP_DIMS)
    assert len(found) == 2 * len(attention.claims()) + num_blocks + 2
    assert {row.reason for row in found} == {"there is no native code"}


def test_growth_is_the_power_of_the_length():
    seconds = {length: [1e-9 * length**2] * 2 for length in attention_turns.GROWTH_LENGTHS}
    fields = attention.growth_fields(seconds)
    assert fields["value"] == pytest.approx(2.0)
    assert fields["facts"]["ms_at_1024"] == pytest.approx(1.048576)


def test_memory_is_compared_by_position():
    assert attention.memory_fields([5 * 4096, 5 * 16384])["value"] == 1.0
    with pytest.raises(MeasurementError, match="expected more than nothing"):
        attention.memory_fields([0, 100])


def test_what_a_cpu_lacks_is_a_reason():
    seconds = {"torch float32": [4.0], "torch bfloat16": [8.0]}
    with pytest.raises(MeasurementError, match="this CPU has no int8_qk"):
        claim("int8_qk", attention.TORCH).fields(turns(seconds))


@needs_native
def test_all_that_a_cpu_has_take_part_in_turns_and_are_right(one_thread):
    contenders = (
        *attention.TORCH, "fp32", "bf16", "int8_qk", "int8",
        "bf16 in and out", "bf16 online", "int8_qk online",
    )  # fmt: skip
    case = Case(heads=2, length=100, contenders=contenders)
    (found,) = attention_turns.take_turns([case], 1, 2)
    contenders = [name for name in contenders if not NO_INT8 or "int8" not in name]
    assert found.seconds.keys() == set(contenders)
    assert all(len(times) == 2 and min(times) > 0 for times in found.seconds.values())
    assert all(found.error[name] <= found.largest_error[name] for name in contenders)
    assert all(0 < found.gflops(name) < found.peak_gflops[name] for name in found.peak_gflops)
    assert found.facts["bf16"]["online_share"] == 0


@needs_native
def test_vsa_skips_on_peaked_inputs_and_adds_little(one_thread):
    contenders = ("bf16", "bf16 skip")
    peaked = Case(heads=1, length=1024, inputs="peaked", contenders=contenders)
    (found,) = attention_turns.take_turns([peaked], 1, 1)
    assert found.facts["bf16 skip"]["skipped_share"] > 0.3
    assert 0 < found.error["bf16 skip"] <= 0.005


@needs_native
def test_the_products_of_each_precision_have_a_peak():
    from benchmarks import attention_cases

    peak = instruction_peak.InstructionPeak(2)
    for precision in attention_cases.PRECISIONS:
        for instruction in attention_cases.products_of(precision):
            assert peak.gflops(instruction) > 0


@needs_native
def test_a_call_takes_memory_beside_its_tensors():
    used = processes.run_fresh(attention_turns.memory_of_call, 1, 4096).value()
    packed = 2 * 2 * 4096 * 64  # keys and values at 16 bits
    assert packed / 2 < used < 8 * packed


def test_an_instruction_that_the_cpu_lacks_is_a_row_without_a_value(monkeypatch):
    monkeypatch.setattr(instruction_peak, "_native_peak", _no_library)
    assert instruction_peak._peaks_or_reason("vpdpbusd", 1, 1) == "no library"


def _no_library():
    raise MeasurementError("no library")


@needs_native
def test_a_block_keeps_its_result_with_vfa(one_thread):
    from benchmarks.attention_block import time_blocks

    taken = time_blocks((64,), (32, 64), 2, 128)
    fields = [attention.block_fields(64, dim, lambda: taken)[0] for dim in (32, 64)]
    for found in fields:
        assert 0 < found["error"] <= attention.LARGEST_BLOCK_ERROR
        assert 0 < found["facts"]["share_of_vfa"] < 1
        assert found["runs"] == 2


def test_a_block_with_another_result_is_no_measurement():
    from benchmarks.attention_block import BlockSeconds

    taken = BlockSeconds(
        length=64, dim=32, with_torch=[3.0], with_vfa=[2.0], torch_alone=[1.5], vfa_alone=[0.5],
        error=0.0,
    )  # fmt: skip
    (fields,) = attention.block_fields(64, 32, lambda: [taken])
    assert fields["value"] == 1.5
    assert fields["facts"] == {"share_of_torch": 0.5, "share_of_vfa": 0.25}
    wrong = dataclasses.replace(taken, error=0.1)
    with pytest.raises(MeasurementError, match=r"off by 0.1, expected at most 0.002"):
        attention.block_fields(64, 32, lambda: [wrong])
