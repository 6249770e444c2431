"""Quantized layers on Triton without a GPU: interpreted for numbers, compiled for machine code."""

import pytest
import torch

from astroray_kernels import (
    BackendError,
    Norm,
    osc_linear,
    osc_mlp,
    pack_weights,
    quantize_activations,
)
from astroray_kernels.osc import _triton, _triton_compile
from astroray_kernels.osc.formats import FORMATS
from tests.triton_interpreter import compiled_only, interpreter, needs_triton

pytestmark = needs_triton
EXPECTED_MMA = {
    ("int8", 80): "IMMA", ("int8", 90): "IGMMA", ("int8", 100): "UTCIMMA|IMMA",
    ("int4_g32", 80): "IMMA", ("mxfp4", 100): "UTCOMMA", ("nvfp4", 100): "UTCOMMA",
    ("nvfp4", 80): "HMMA", ("nvfp4", 90): "HGMMA",
}  # fmt: skip
"""The matrix instruction of whole numbers, and on sm_100 of 4-bit floats with their scales.

Before 3.8, Triton multiplies whole numbers on sm_100 by the instruction of sm_80."""


def _differences(name, dtype, num_in, num_out, num_outliers):
    """What interpreter and reference disagree in, on inputs of every kind; "" is nothing."""
    generator = torch.Generator().manual_seed(3)
    x_MK = torch.randn(37, num_in, generator=generator)
    table = torch.arange(num_outliers) * (num_in // max(num_outliers, 1))
    x_MK[:, table] *= 30.0
    x_MK[0], x_MK[1] = 0.0, 2.0**-110
    x_MK[2] = torch.linspace(-1, 1, num_in) * 3e38  # beyond 1e38 nothing of 16 bits is finite
    x_MK[5, num_in // 2], x_MK[6, 0], x_MK[7, num_in - 1] = torch.nan, torch.inf, -torch.inf
    x_MK = x_MK.to(dtype)
    weight_NK = torch.randn(num_out, num_in, generator=generator) / num_in**0.5
    packed = pack_weights(weight_NK, torch.ones(num_out), format=name, outlier_channels=table)
    got = quantize_activations(x_MK, packed, backend="triton")
    expected = quantize_activations(x_MK, packed, backend="reference")
    for field in ("codes", "scale_MG", "outlier_MO"):
        ours, theirs = getattr(got, field), getattr(expected, field)
        if not ((ours == theirs) | (ours.isnan() & theirs.isnan())).all():
            return f"{field} differs"
    usual = [row for row in range(37) if row != 2]
    for activation in ("none", "gelu"):
        y = osc_linear(x_MK, packed, activation=activation, backend="triton")
        exact = osc_linear(x_MK.double(), packed, activation=activation, backend="reference")
        if not torch.equal(y[usual].isnan(), exact[usual].isnan()):
            return f"{activation}: NaN differ"
        good = [row for row in usual if exact[row].isfinite().all()]
        error = float((y[good].double() - exact[good]).norm() / exact[good].norm())
        if not error < (1e-6 if dtype == torch.float32 else 4e-4):
            return f"{activation}: error {error}"
    return ""


def _mlp_error(name):
    """Of two layers behind a norm, relative to the reference."""
    generator = torch.Generator().manual_seed(5)
    x_MK, weight_NK = (torch.randn(*shape, generator=generator) for shape in ((9, 128), (256, 128)))
    table = torch.tensor([3, 40])
    first = pack_weights(weight_NK, format=name, outlier_channels=table)
    second = pack_weights(weight_NK[:40].repeat(1, 2), format=name)
    norm = Norm(weight_K=weight_NK[0], bias_K=weight_NK[1])
    y, exact = (
        osc_mlp(x_MK, first, second, norm=norm, backend=backend)
        for backend in ("triton", "reference")
    )
    return float((y - exact).norm() / exact.norm())


@pytest.fixture(scope="module")
def child():
    with interpreter() as call:
        yield call


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("dtype", "shape"),
    [(torch.float32, (256, 40, 8)), (torch.float16, (384, 5, 33)), (torch.float32, (128, 33, 0))],
    ids=str,
)
def test_the_interpreter_gives_the_bits_and_numbers_of_the_reference(child, name, dtype, shape):
    assert child(_differences, name, dtype, *shape) == ""


@pytest.mark.parametrize("num_in", [1, 3, 100])
def test_any_number_of_channels_will_do_for_int8(child, num_in):
    assert child(_differences, "int8", torch.float32, num_in, 9, 1) == ""


@pytest.mark.parametrize("name", ["int8", "mxfp4", "nvfp4"])
def test_norms_and_second_layers_are_near_the_reference(child, name):
    # sums of torch's norm have another order, so that a code next to a tie may be its neighbor's
    assert child(_mlp_error, name) < (0.002 if name == "int8" else 0.02)


@compiled_only
@pytest.mark.parametrize(("name", "arch"), EXPECTED_MMA, ids=str)
def test_products_use_the_matrix_unit_and_nothing_spills(name, arch):
    machine = _triton_compile.compile_multiply(name, arch)
    assert machine.stack_bytes == 0
    assert machine.opcodes & set(EXPECTED_MMA[name, arch].split("|"))
    assert machine.opcodes & {"HMMA", "HGMMA", "UTCHMMA"}  # the outliers, in the same tile
    assert machine.products
    for loop in machine.products:
        assert loop.counts["STL"] == loop.counts["LDL"] == 0
    main = machine.products[0]
    if name == "nvfp4" and arch != 100:
        return  # its numbers are widened before they are multiplied
    is_whole = name == "int8" or arch == 100
    assert (main.counts["I2F"] == 0) == is_whole  # sums of a group become numbers, others wait


@compiled_only
@pytest.mark.parametrize(
    ("name", "arch"), [("int8", 80), ("int4_g32", 90), ("mxfp4", 100), ("nvfp4", 100)]
)
def test_tokens_are_quantized_without_the_stack(name, arch):
    assert _triton_compile.compile_quantize(name, arch).stack_bytes == 0


@compiled_only
def test_without_a_gpu_it_says_so():
    packed = pack_weights(torch.ones(4, 32), format="int8")
    with pytest.raises(BackendError, match="Triton's kernels need an NVIDIA GPU, this is cpu"):
        osc_linear(torch.ones(2, 32), packed, backend="triton")
    assert "NVIDIA GPU" in _triton.why_not(torch.device("cpu"))
