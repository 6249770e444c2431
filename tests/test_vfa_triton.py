"""VFA on Triton without a GPU: numbers by Triton's interpreter, machine code by its compiler."""

import functools
import io
import json
import math

import pytest
import torch

from astroray_kernels import inspect, machine_code
from astroray_kernels.dispatch import BackendError
from astroray_kernels.vfa import _triton, _triton_compile
from astroray_kernels.vfa.reference import vfa_attention as reference
from tests.attention_inputs import INPUTS, exact, make_inputs, relative_error, torch_error
from tests.triton_interpreter import compiled_only, interpreter, needs_triton

pytestmark = needs_triton
DEFAULTS = {"mask_BN": None, "precision": "bf16", "skip": None, "estimate": "auto"}


def _packed(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _interpret(packed):
    arguments, options = torch.load(io.BytesIO(packed))
    assert not _triton.why_not(torch.device("cpu"))
    out, facts = _triton.vfa_attention(*arguments, **options, record=True)
    return _packed(out), facts


@pytest.fixture(scope="module")
def child():
    with interpreter() as call:
        yield call


@pytest.fixture(scope="module")
def attend(child):
    """The Triton backend: out [B, H, N, D] and what it met."""

    def run(q, k, v, **options):
        options = DEFAULTS | {"scale": q.shape[-1] ** -0.5} | options
        packed, facts = child(_interpret, _packed(((q, k, v), options)))
        out = torch.load(io.BytesIO(packed))
        assert out.shape == q.shape
        assert out.dtype == q.dtype
        assert out.is_contiguous()
        return out, facts

    return run


def made(name="random", *, batch=1, heads=1, length=130, dim=64, dtype=torch.float32):
    return make_inputs(name, batch=batch, heads=heads, length=length, dim=dim, seed=3, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", INPUTS)
def test_16_bit_error_is_at_most_twice_that_of_torch(attend, name, dtype):
    q, k, v = made(name, dtype=dtype)
    out, _ = attend(q, k, v)
    assert relative_error(out, exact(q, k, v)) <= 2 * torch_error(q, k, v, dtype)


@pytest.mark.parametrize("name", ["random", "needle", "extreme"])
def test_fp32_error_is_at_most_twice_that_of_torch(attend, name):
    q, k, v = made(name)
    out, _ = attend(q, k, v, precision="fp32")
    floor = 4 * torch.finfo(torch.float32).eps
    assert relative_error(out, exact(q, k, v)) <= max(2 * torch_error(q, k, v, q.dtype), floor)


@pytest.mark.parametrize("estimate", ["cauchy_schwarz", "sabsmax", "sink_local", "exact"])
def test_every_estimate_gives_the_same_attention_at_every_length(attend, estimate):
    for length in (1, 7, 63, 65, 197):
        q, k, v = made("sink", length=length)
        out, _ = attend(q, k, v, precision="fp32", estimate=estimate)
        assert relative_error(out, exact(q, k, v)) < 1e-5, length


@pytest.mark.parametrize("dim", [32, 96, 128])
@pytest.mark.parametrize("precision", ["bf16", "int8_qk"])
def test_head_dimensions(attend, dim, precision):
    q, k, v = made("peaked", length=70, dim=dim)
    out, _ = attend(q, k, v, precision=precision, estimate="sabsmax")
    assert relative_error(out, exact(q, k, v)) < 0.015


@pytest.mark.parametrize("precision", ["bf16", "int8_qk", "mxfp4"])
def test_masked_keys_leak_nothing_and_all_masked_rows_are_zeros(attend, precision):
    q, k, v = made("sink", batch=2, length=100)
    mask = torch.rand(2, 100, generator=torch.Generator().manual_seed(1)) < 0.7
    mask[1] = False
    clean, _ = attend(q, k, v, mask_BN=mask, precision=precision)
    for x in (k, v):
        x.masked_fill_(~mask[:, None, :, None], math.nan)
    k[0, :, ~mask[0]] = math.inf
    out, _ = attend(q, k, v, mask_BN=mask, precision=precision)
    assert torch.equal(out, clean)
    assert torch.equal(out[1], torch.zeros_like(out[1]))
    bar = 0.4 if precision == "mxfp4" else 0.015
    assert relative_error(out, exact(q, k, v, mask=mask)) < bar


def test_strides_do_not_matter(attend):
    q, k, v = made(batch=2, heads=2, length=40)
    expected, _ = attend(q, k, v)
    heads_inside = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    channels_outside = [x.mT.contiguous().mT for x in (q, k, v)]
    assert channels_outside[0].stride(3) != 1
    every_other = [x.repeat_interleave(2, dim=2)[:, :, ::2] for x in (q, k, v)]
    for strided in (heads_inside, channels_outside, every_other):
        assert torch.equal(attend(*strided)[0], expected)


def test_no_heads_give_no_output(attend):
    out, _ = attend(*(x[:, :0] for x in made(length=5)))
    assert out.shape == (1, 0, 5, 64)


@pytest.mark.parametrize("name", ["needle", "heavy", "extreme"])
def test_the_guard_redoes_tiles_whose_maximum_was_wrong(attend, name):
    q, k, v = made(name)
    out, facts = attend(q, k, v, estimate="sink_local")
    assert facts.num_redone > 0
    error = torch_error(q, k, v, torch.bfloat16)
    assert relative_error(out, exact(q, k, v)) <= 2 * error


def test_the_guard_lets_ordinary_rows_pass(attend):
    for name in ("random", "peaked", "sink", "large_norm"):
        for precision in ("bf16", "int8_qk"):
            assert attend(*made(name), precision=precision)[1].num_redone == 0, name


def test_a_nan_of_a_valid_key_is_not_hidden(attend):
    for precision in ("bf16", "int8_qk", "mxfp4"):
        q, k, v = made(length=40)
        k[0, 0, 20, 3] = math.nan
        assert attend(q, k, v, precision=precision)[0].isnan().all(), precision


@pytest.mark.parametrize("name", ["random", "peaked", "sink", "large_norm"])
def test_int8_scores_cost_at_most_one_and_a_half_percent(attend, name):
    q, k, v = made(name)
    out, _ = attend(q, k, v, precision="int8_qk")
    assert relative_error(out, exact(q, k, v)) <= 0.015


def test_scores_too_large_for_int8_are_taken_in_16_bits(attend):
    q, k, v = made("extreme")
    out, facts = attend(q, k, v, precision="int8_qk")
    assert facts.num_redone > 0
    error = torch_error(q, k, v, torch.bfloat16)
    assert relative_error(out, exact(q, k, v)) <= 2 * error


@pytest.mark.parametrize("name", ["random", "sink"])
@pytest.mark.parametrize("dim", [32, 64])
def test_mxfp4_is_as_far_from_the_truth_as_the_reference_says(attend, name, dim):
    q, k, v = made(name, dim=dim, length=100)
    out, _ = attend(q, k, v, precision="mxfp4")
    expected, _ = reference(
        q, k, v, **DEFAULTS | {"scale": dim**-0.5, "precision": "mxfp4", "estimate": "exact"}
    )
    error = relative_error(expected, exact(q, k, v))
    assert 0.8 * error < relative_error(out, exact(q, k, v)) < 1.25 * error


def _quantized(packed):
    """Codes and scales that the kernel gives to keys and values [1, 1, N, D]."""
    from astroray_kernels.vfa._triton_mxfp4 import quantize_keys_values

    k, v = torch.load(io.BytesIO(packed))
    _, _, length, dim = k.shape
    padded = -(-length // 64) * 64
    codes = [(padded, dim // 2), (padded, dim // 32), (dim, padded // 2), (dim, padded // 32)]
    arrays = [torch.empty(1, *shape, dtype=torch.uint8) for shape in codes]
    norm, mean = torch.empty(1, padded // 64), torch.zeros(1, dim)
    quantize_keys_values[(padded // 64,)](
        k, v, mean, k, *arrays, norm, 1, length, padded, *k.stride()[:3], *v.stride()[:3],
        DIM=dim, D=dim, BLOCK_N=64, HAS_MASK=False,
    )  # fmt: skip
    return _packed(arrays)


def test_mxfp4_codes_are_those_of_the_format(child):
    from astroray_kernels.vfa.formats import mxfp4_codes

    _, k, v = made("heavy", length=64)
    k[0, 0, 0, :32] = 0.0
    k[0, 0, 1, :4] = torch.tensor([6.0, 0.25, 0.75, -2.5])  # largest and ties, if the scale is 1
    k[0, 0, 1, 4:32] = 0.0
    arrays = torch.load(io.BytesIO(child(_quantized, _packed((k, v)))))
    for numbers, codes, scale in ((k, *arrays[:2]), (v.mT, *arrays[2:])):
        expected, expected_scale = mxfp4_codes(numbers[0])
        low_high = torch.stack((codes & 15, codes >> 4), dim=-1).unflatten(2, (-1, 16)).flatten(3)
        assert torch.equal(scale, expected_scale.squeeze(-1))
        negative_zero = (expected == 8) & (low_high == 0)  # -0.0 may lose its sign
        assert torch.equal(low_high[~negative_zero], expected[~negative_zero])
    assert arrays[0][0, 1, :2].tolist() == [0x07, 0xC2]


def test_skipping_what_cannot_matter_costs_little_and_nothing_at_a_wide_threshold(attend):
    q, k, v = made("peaked", length=450)
    truth = exact(q, k, v)
    wide, wide_facts = attend(q, k, v, skip=60.0)
    full, _ = attend(q, k, v, estimate="sink_local")
    assert wide_facts.num_skipped == 0
    assert torch.equal(wide, full)
    sparse, facts = attend(q, k, v, skip=8.0)
    assert facts.num_redone == 0
    assert facts.num_skipped > 0.3 * facts.num_key_blocks
    assert relative_error(sparse, truth) < relative_error(full, truth) + 0.005


def test_an_estimate_far_too_high_cannot_drop_what_matters(attend):
    q, k, v = made("heavy", length=200)
    out, facts = attend(q, k, v, skip=6.0, estimate="cauchy_schwarz")
    assert facts.num_redone > 0
    error = torch_error(q, k, v, torch.bfloat16)
    assert relative_error(out, exact(q, k, v)) <= 2 * error


@compiled_only
def test_a_cpu_without_the_interpreter_is_refused_in_words():
    assert "need an NVIDIA GPU, this is cpu" in _triton.why_not(torch.device("cpu"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": "int8"}, "no precision 'int8'; it has fp32, bf16, int8_qk, mxfp4"),
        ({"precision": "mxfp4", "skip": 4.0}, "no skip, got estimate='cauchy_schwarz', skip=4.0"),
    ],
    ids=["precision", "skip"],
)
def test_what_triton_lacks_is_refused_in_words(attend, options, words):
    with pytest.raises(BackendError, match=words):
        attend(*made(length=5), **options)


@functools.cache
def machine(kernel, arch, precision):
    return _triton_compile.compile_kernel(kernel, arch, precision=precision)


@compiled_only
@pytest.mark.parametrize("precision", ["bf16", "int8_qk"])
@pytest.mark.parametrize("arch", machine_code.ARCHITECTURES)
def test_the_frozen_loop_has_no_maximum_no_rescaling_and_no_spill(arch, precision):
    counts = machine("vfa", arch, precision).loop.counts
    assert counts["EX2"] >= 32
    assert counts["MMA"] > 0
    assert counts["FFMA"] == counts["EX2"]  # scale and shift, one a score
    for absent in ("FMNMX", "SHFL", "FADD", "STL", "LDL"):
        assert counts[absent] == 0, absent
    # int8 has a step for each row and key block: a few rows a thread, not the accumulator.
    assert counts["FMUL"] <= (4 if precision == "int8_qk" else 0)


@compiled_only
def test_the_ordinary_loop_has_what_the_frozen_one_lacks():
    counts = machine("flash", 90, "bf16").loop.counts
    assert counts["FMNMX"] > counts["EX2"]
    assert counts["FMUL"] >= 32  # the accumulator: 128 x 64 numbers over 256 threads
    assert counts["SHFL"] > 0
    assert machine("flash", 90, "bf16").loop.vector_per_exp() > 4
    assert machine("vfa", 90, "bf16").loop.vector_per_exp() == 1


@compiled_only
def test_what_the_interpreter_ran_compiles_too():
    changed = {"ESTIMATE": "sabsmax", "SKIP": True, "HAS_MASK": True, "SHIFT": 6, "RECORD": True}
    found = _triton_compile.compile_kernel("vfa", 90, precision="int8_qk", changed=changed)
    assert found.registers <= 255


@compiled_only
def test_mxfp4_uses_the_matrix_unit_of_sm_100_without_rescaling_or_spill():
    found = machine("mxfp4", 100, "mxfp4")
    for absent in ("FMUL", "FFMA", "SHFL", "STL", "LDL"):
        assert found.loop.counts[absent] == 0, absent
    assert found.loop.counts["MMA"] > 0
    assert found.loop.vector_per_exp() < 2  # the maximum of each group is left


@compiled_only
def test_inspect_prints_the_machines_as_a_table_and_as_json(monkeypatch, capsys):
    rows = [machine("flash", 90, "bf16"), machine("vfa", 90, "bf16")]
    monkeypatch.setattr(inspect, "machines", lambda architectures, dim: iter(rows))
    inspect.main(["--arch", "90"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].startswith("| 90 | vfa | bf16 | ones |")
    assert lines[3].endswith("| 1.00 |")
    inspect.main(["--json"])
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["kernel"] for record in records] == ["flash", "vfa"]
    assert records[1]["vector_per_exp"] == 1.0
    with pytest.raises(SystemExit):
        inspect.main(["--arch", "75"])


def test_a_loop_is_counted_from_its_label_to_the_branch_back():
    listing = """
        /*0000*/ FMUL R0, R1, R2 ;
.L_x_0:
        /*0010*/ @!P0 MUFU.EX2 R0, R0 ;
        /*0020*/ FMNMX3 R0, R0, R1, R2 ;
        /*0030*/ @P0 BRA `(.L_x_1) ;
        /*0040*/ UTCHMMA.2CTA gdesc[UR4], gdesc[UR6] ;
.L_x_1:
        /*0050*/ @!UP0 BRA `(.L_x_0) ;
        /*0060*/ FADD R0, R1, R2 ;
    """
    loop = _triton_compile.main_loop(machine_code.loops_of(listing))
    assert loop.size == 5
    found = {name: count for name, count in loop.counts.items() if count}
    assert found == {"EX2": 1, "FMNMX": 1, "MMA": 1}
    assert loop.vector_per_exp() == 1
