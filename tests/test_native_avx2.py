"""The native code on AVX2 alone, and without AMX: neighbors to the bit, the rest to its bars."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from astroray import doctor
from astroray.neighbors import candidates
from astroray_kernels import (
    BackendError,
    Need,
    dispatch,
    library,
    osc_linear,
    pack_weights,
    vfa_attention,
)
from astroray_kernels.knn import _native as knn
from astroray_kernels.knn import reference
from astroray_kernels.osc import _excess
from astroray_kernels.osc.formats import FORMATS
from astroray_kernels.vfa import _native
from tests.attention_inputs import INPUTS, exact, make_inputs, relative_error
from tests.instructions import limited_to
from tests.test_knn_cells import cells_of
from tests.test_knn_native import CASES
from tests.test_vfa_native import BARS, calls

CPU = torch.device("cpu")
WHY_NOT = library.why_not(CPU, library.HAS_AVX2)
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=f"native code on AVX2: {WHY_NOT}")
needs_avx512 = pytest.mark.skipif(
    library.instructions() != "avx512", reason="this CPU, or this run, has no AVX-512 to compare"
)
needs_amx = pytest.mark.skipif(
    not library.features() & library.HAS_AMX, reason="this CPU, or this run, has no AMX to compare"
)


@pytest.fixture
def avx2():
    """Native code as on a CPU without AVX-512."""
    with limited_to("avx2"):
        yield


def attend(call, instructions, **options):
    """Results and facts of native attention on some instructions; its scale is 1 / sqrt(D)."""
    with limited_to(instructions):
        return _native.vfa_attention(*call, scale=call[0].shape[-1] ** -0.5, **options)


def test_it_is_what_runs_here(avx2):
    assert library.instructions() == "avx2"
    assert library.value_format() == "float32"
    assert library.path().startswith("AVX2, since AVX-512 with VNNI, VBMI and VBMI2 is needed")
    assert dispatch.resolved("nearest_vectors", "cpu") == "native"
    assert dispatch.resolved("vfa_attention", "cpu", need=Need(precision="bf16")) == "native"


@pytest.mark.parametrize("k", [1, 10, 64])
@pytest.mark.parametrize("name", CASES)
def test_nearest_vectors_are_the_reference_s_to_the_last_bit(avx2, name, k):
    vector_VD = torch.from_numpy(CASES[name])
    itself_V = torch.arange(len(vector_VD))
    expected = reference.nearest_vectors(vector_VD, vector_VD, k, exclude_G=itself_V)
    for cells in (None, cells_of(vector_VD, min(5, len(vector_VD)), np.random.default_rng(0))):
        got = knn.nearest_vectors(vector_VD, vector_VD, k, exclude_G=itself_V, cells=cells)
        torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)


@needs_avx512
def test_no_pair_more_is_measured_than_on_avx512(avx2):
    vector_VD = torch.from_numpy(CASES["clusters"])
    narrow = knn.nearest_vectors_with_counts(vector_VD, vector_VD, 10)[2]
    with limited_to("avx512"):
        assert knn.nearest_vectors_with_counts(vector_VD, vector_VD, 10)[2] == narrow


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", INPUTS)
def test_attention_is_as_exact_as_torch_s(avx2, name, precision):
    for length, dim in [(65, 128), (130, 32), (40, 96), (320, 64)]:
        q, k, v = make_inputs(name, batch=1, length=length, dim=dim)
        expected, rounded = exact(q, k, v), torch.float32 if precision == "fp32" else torch.bfloat16
        plain = torch.nn.functional.scaled_dot_product_attention(
            *(x.to(rounded) for x in (q, k, v))
        )
        got = vfa_attention(q, k, v, precision=precision, backend="native")
        bar = max(2 * relative_error(plain, expected), 2.0**-21)
        assert relative_error(got, expected) <= bar, (length, dim)


@needs_avx512
@settings(max_examples=60)
@given(calls())
def test_attention_agrees_with_avx512(call):
    *tensors, options, _ = call
    options = {**options, "precision": "bf16" if "int8" in options["precision"] else "fp32"}
    wide, _ = attend(tensors, "avx512", values="float32", **options)
    narrow, _ = attend(tensors, "avx2", values="float32", **options)
    expected = exact(*tensors, mask=options["mask_BN"])
    bar = 2 * BARS[options["precision"]] + relative_error(expected.to(wide.dtype), expected)
    assert relative_error(narrow, expected) <= bar
    assert relative_error(narrow, wide.double()) <= bar


@needs_amx
@pytest.mark.parametrize("precision", ["bf16", "int8_qk", "int8"])
@pytest.mark.parametrize("name", ["random", "peaked", "sink"])
def test_attention_by_vectors_keeps_the_bars_of_tiles(name, precision):
    for length, dim in [(65, 128), (130, 32), (40, 96), (320, 64)]:
        made = make_inputs(name, batch=1, length=length, dim=dim)
        expected, plain = exact(*made), (x.bfloat16() for x in made)
        of_torch = torch.nn.functional.scaled_dot_product_attention(*plain)
        bar = BARS[precision]
        if precision == "bf16":
            bar = 2 * relative_error(of_torch, expected)
        for estimate in ("auto", _native.ONLINE):
            by_vectors, _ = attend(made, "avx512", precision=precision, estimate=estimate)
            by_tiles, _ = attend(made, "amx", precision=precision, estimate=estimate)
            assert relative_error(by_vectors, expected) <= bar
            assert relative_error(by_tiles, expected) <= bar
            if precision == "bf16":  # of integers they may be the same
                assert not torch.equal(by_vectors, by_tiles)


@needs_amx
@pytest.mark.parametrize(
    ("num_in", "num_out", "outliers"), [(384, 130, 16), (70, 64, 3), (64, 9, 0)]
)
def test_quantized_layers_by_vectors_and_by_tiles_differ_in_the_last_digits_alone(
    num_in, num_out, outliers
):
    generator = torch.Generator().manual_seed(0)
    table = torch.arange(outliers) * 4
    for num_tokens in (1, 16, 17, 33, 200):
        x_MK = torch.randn(num_tokens, num_in, generator=generator)
        x_MK[:, table] *= 30
        weight_NK = torch.randn(num_out, num_in, generator=generator)
        packed = pack_weights(weight_NK, None, format="int8", outlier_channels=table)
        found = {}
        for instructions in ("avx512", "amx"):
            with limited_to(instructions):
                found[instructions] = osc_linear(x_MK, packed, backend="native")
        expected = osc_linear(x_MK, packed, backend="reference")
        for got in found.values():
            assert relative_error(got, expected.double()) <= 2e-6, num_tokens


@pytest.mark.parametrize("precision", ["int8_qk", "int8"])
def test_8_bits_are_refused_with_the_reason(avx2, precision):
    x = torch.zeros(1, 1, 7, 32)
    with pytest.raises(BackendError, match=f"{precision} needs AVX-512 with VNNI: products of 8"):
        _native.vfa_attention(x, x, x, scale=1.0, precision=precision)
    need = Need(precision=precision, dim=32)
    assert "saturate in AVX2" in dispatch.why_not("vfa_attention", "native", "cpu", need)
    assert dispatch.resolved("vfa_attention", "cpu", need=need) == "reference"


@needs_avx512
@pytest.mark.parametrize("format", FORMATS)
def test_quantized_layers_are_those_of_avx512_to_the_last_bit(format):
    for num_tokens, num_in, num_out in [(1, 128, 16), (7, 384, 65), (200, 256, 130)]:
        x_MK = torch.randn(num_tokens, num_in, generator=torch.Generator().manual_seed(num_in))
        weight_NK = torch.randn(num_out, num_in, generator=torch.Generator().manual_seed(1))
        packed = pack_weights(weight_NK, torch.arange(num_out) / 7.0, format=format)
        for activation in ("none", "gelu"):
            found = []
            for instructions in ("avx512", "avx2"):
                with limited_to(instructions):
                    found.append(osc_linear(x_MK, packed, activation=activation, backend="native"))
            assert torch.equal(*found), (num_tokens, activation)


def test_quantized_layers_run_and_say_what_they_need(avx2):
    for op in ("osc_linear", "osc_mlp", "quantize_activations"):
        assert dispatch.resolved(op, "cpu") == "native"
    with limited_to("none"):
        reason = dispatch.why_not("osc_linear", "native", "cpu")
    assert reason == "AVX2 with FMA and F16C is needed, and ASTRORAY_INSTRUCTIONS=none allows less"


def test_a_run_record_and_the_doctor_say_which_path_and_why(avx2):
    said = "ASTRORAY_INSTRUCTIONS=avx2 allows less"
    assert candidates.why_products("native").startswith("AVX2, since ")
    assert said in candidates.why_products("native")
    found = {finding.what: finding for finding in doctor.examine()}
    assert found["exact neighbors"].ok
    assert found["exact neighbors"].text.startswith("native, on cpu (AVX2, since ")
    with limited_to("none"):
        assert "AVX2 with FMA and F16C is needed" in candidates.why_products("faiss")


def test_no_instructions_are_a_reason_and_a_misspelt_name_is_an_error():
    with limited_to("none"):
        assert "ASTRORAY_INSTRUCTIONS=none allows less" in knn.why_not(CPU)
        assert library.path() == "none"
        assert dispatch.resolved("nearest_vectors", "cpu") == "reference"
    with (
        limited_to("avx3"),
        pytest.raises(ValueError, match="=avx3, expected one of amx, avx512, avx2, none; unset"),
    ):
        knn.why_not(CPU)


def test_no_list_is_made_of_weights_that_are_spread_evenly(avx2, monkeypatch):
    monkeypatch.setattr(_excess, "entries", None)  # which takes longer than all else of the layout
    draw = torch.Generator().manual_seed(3)
    x_MK, weight_NK = torch.rand(13, 200, generator=draw), torch.rand(70, 200, generator=draw) - 0.5
    packed = pack_weights(weight_NK, format="int8")
    got, expected = (osc_linear(x_MK, packed, backend=one) for one in ("native", "reference"))
    torch.testing.assert_close(got, expected)
