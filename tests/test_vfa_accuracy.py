"""How near the reference of VFA attention comes to exact numbers, in every precision."""

import pytest
import torch
import torch.nn.functional as F

from astroray_kernels.vfa.estimates import ESTIMATES
from tests.attention_inputs import INPUTS, ORDINARY, exact, make_inputs, relative_error
from tests.reference_attention import attend


@pytest.mark.parametrize(
    ("precision", "dtype", "floor"),
    [
        ("fp32", torch.float32, 3e-7),
        ("bf16", torch.bfloat16, 2.0**-9),
        ("bf16", torch.float16, 2.0**-12),
        ("fp32", torch.float16, 0),
    ],
)
@pytest.mark.parametrize("name", INPUTS)
def test_errors_are_at_most_twice_those_of_torch(name, precision, dtype, floor):
    for length, dim in [(65, 64), (320, 32), (320, 128)]:
        q, k, v = make_inputs(name, batch=1, length=length, dim=dim, dtype=dtype)
        expected = exact(q, k, v)
        peer = relative_error(F.scaled_dot_product_attention(q, k, v), expected)
        for estimate in ESTIMATES:
            got, _ = attend(q, k, v, precision=precision, estimate=estimate)
            assert relative_error(got, expected) <= max(2 * peer, floor), (estimate, dim)


@pytest.mark.parametrize(("precision", "bar"), [("int8_qk", 0.015), ("int8", 0.03)])
@pytest.mark.parametrize("name", INPUTS)
def test_int8_keeps_its_bars_and_redoes_what_it_cannot_resolve(name, precision, bar):
    q, k, v = make_inputs(name, batch=1, length=512)
    got, facts = attend(q, k, v, precision=precision, estimate="auto")
    error = relative_error(got, exact(q, k, v))
    if name in ORDINARY:
        assert facts.num_redone == 0
        assert error < bar
    bf16, _ = attend(q, k, v, precision="bf16")
    assert error < max(bar, 1.1 * relative_error(bf16, exact(q, k, v)))


@pytest.mark.parametrize("precision", ["mxfp4", "mxfp4_v16"])
@pytest.mark.parametrize("name", ORDINARY)
def test_four_bits_keep_most_of_the_answer(name, precision):
    q, k, v = make_inputs(name, batch=1, length=320)
    got, _ = attend(q, k, v, precision=precision)
    assert relative_error(got, exact(q, k, v)) < 0.3


@pytest.mark.parametrize("precision", ["int8_qk", "int8", "mxfp4", "mxfp4_v16"])
def test_an_offset_of_all_keys_changes_nothing_in_low_bits(precision):
    q, k, v = make_inputs("random", batch=1, length=128)
    k = torch.round(k * 64) / 64  # so that adding 32 and its mean are exact
    options = {"precision": precision, "estimate": "auto"}
    moved, _ = attend(q, k + 32.0, v, **options)
    assert relative_error(moved, attend(q, k, v, **options)[0]) < 1e-6
