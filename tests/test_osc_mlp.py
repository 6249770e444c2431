"""Norms before quantized layers and two layers in one call, against the steps one by one."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from astroray_kernels import Norm, dispatch, osc_linear, osc_mlp, quantize_activations
from astroray_kernels.osc.formats import FORMATS
from tests.instructions import SETS, limited_to
from tests.test_osc_linear import BACKENDS, layer, numbers, relative_error, same_bits, with_outliers

RUNNING = [name for name in BACKENDS if not dispatch.why_not("osc_mlp", name, "cpu")]
"""Backends that run on this CPU."""
FAST = [name for name in RUNNING if name != "reference"]


@pytest.fixture(scope="module", params=SETS, autouse=True)
def instructions(request):
    """Native code by the widest vectors of this CPU, then by AVX2's."""
    with limited_to(request.param):
        yield


def norm_of(num_in, *, takes_mean=True):
    return Norm(
        weight_K=1 + numbers(num_in, seed=8), bias_K=numbers(num_in, seed=9), takes_mean=takes_mean
    )


def two_layers(num_in, width, num_out, *, format="int8"):
    channels = list(range(7, num_in, 32)), list(range(3, width, 32))
    return (
        layer(num_in, width, outliers=channels[0], format=format)[1],
        layer(width, num_out, outliers=channels[1], format=format, seed=3)[1],
    )


def step_by_step(x, first, second, *, norm=None, activation="gelu", backend="auto"):
    hidden = osc_linear(x.float(), first, activation=activation, norm=norm, backend=backend)
    return osc_linear(hidden, second, backend=backend).to(x.dtype)


@pytest.mark.parametrize("takes_mean", [True, False])
@pytest.mark.parametrize("num_in", [1, 17, 64, 200, 384])
def test_a_norm_is_torch_s_own_up_to_the_last_digits(takes_mean, num_in):
    x, norm = 3 + numbers(20, num_in), norm_of(num_in, takes_mean=takes_mean)
    exact = x.double(), norm.weight_K.double()
    if takes_mean:
        expected = F.layer_norm(exact[0], (num_in,), exact[1], norm.bias_K.double(), norm.epsilon)
    else:
        expected = F.rms_norm(exact[0], (num_in,), exact[1], norm.epsilon) + norm.bias_K
    torch.testing.assert_close(norm(x).double(), expected, rtol=1e-5, atol=2e-6)


def test_sums_of_a_norm_have_one_order():
    x = torch.zeros(1, 192)
    x[0, 0], x[0, 64], x[0, 128] = 2.0**24, 1.0, -(2.0**24)  # in one of the 64 sums: 1 is lost
    assert Norm()(x)[0, 1] == 0
    x[0, 64], x[0, 96] = 0.0, 1.0  # in another, which is added when the large ones are gone
    assert Norm()(x)[0, 1] < 0


@pytest.mark.parametrize("backend", RUNNING)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_normalized_tokens_have_the_same_codes_in_all_backends(backend, format, dtype):
    x, channels = with_outliers(31, 384)
    x = (5 + x).to(dtype)
    x[0] = 0.0
    _, packed = layer(384, 8, outliers=channels, format=format)
    for norm in (norm_of(384), norm_of(384, takes_mean=False), Norm()):
        got = quantize_activations(x, packed, norm=norm, backend=backend)
        same_bits(got, quantize_activations(x, packed, norm=norm, backend="reference"))
        same_bits(got, quantize_activations(norm(x), packed, backend=backend))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("format", FORMATS)
def test_two_layers_in_one_call_are_the_two_calls_to_the_bit(backend, format):
    x, _ = with_outliers(101, 256)  # more than one block of tokens
    first, second = two_layers(256, 1536, 130, format=format)
    for norm, activation in ((None, "none"), (norm_of(256), "gelu")):
        options = {"norm": norm, "activation": activation, "backend": backend}
        assert torch.equal(
            osc_mlp(x, first, second, **options), step_by_step(x, first, second, **options)
        )


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_between_two_layers_is_float32_in_the_reference(format):
    x = numbers(9, 128).double()
    first, second = two_layers(128, 128, 20, format=format)
    got = osc_mlp(x, first, second, norm=norm_of(128), backend="reference")
    hidden = osc_linear(x, first, activation="gelu", norm=norm_of(128), backend="reference")
    assert torch.equal(got, osc_linear(hidden, second, backend="reference"))


@pytest.mark.parametrize("backend", RUNNING)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_two_layers_are_as_near_to_the_network_as_their_bits_allow(backend, dtype):
    x, channels = with_outliers(60, 256)
    x = x.to(dtype)
    wide, first = layer(256, 512, outliers=channels, bias=False)
    narrow, second = layer(512, 96, seed=3, bias=False)
    norm = norm_of(256)
    normal = F.layer_norm(x.double(), (256,), norm.weight_K.double(), norm.bias_K.double())
    exact = F.gelu(normal @ wide.double().T) @ narrow.double().T
    got = osc_mlp(x, first, second, norm=norm, backend=backend)
    assert got.dtype == dtype
    assert 1e-4 < relative_error(got, exact) < 0.02


@settings(max_examples=25)
@given(data=st.data())
def test_any_shapes_in_one_call_give_what_the_calls_give(data):
    group = FORMATS[format := data.draw(st.sampled_from(list(FORMATS)))].group
    widths = st.integers(1, 200) if group is None else st.integers(1, 3).map(lambda g: g * group)
    num_in, width = data.draw(widths), data.draw(widths)
    first, second = two_layers(num_in, width, data.draw(st.integers(1, 140)), format=format)
    lead = data.draw(st.lists(st.integers(0, 9), max_size=3))
    step, shift = data.draw(st.sampled_from([1, 2])), data.draw(st.integers(0, 3))
    x = numbers(*lead, step * num_in + shift)[..., shift::step][..., :num_in]
    norm = (
        norm_of(num_in, takes_mean=data.draw(st.booleans())) if data.draw(st.booleans()) else None
    )
    expected = osc_mlp(x, first, second, norm=norm, backend="reference")
    assert expected.shape == (*lead, second.num_out)
    for backend in FAST:
        got = osc_mlp(x, first, second, norm=norm, backend=backend)
        assert torch.equal(got, step_by_step(x, first, second, norm=norm, backend=backend))
        # A code next to a tie may be its neighbor's, since what is between the layers is float32.
        far = 2e-2 if format == "int8" else 0.5
        torch.testing.assert_close(got, expected, rtol=far, atol=far)
    same = [osc_linear(x, first, norm=norm, backend=backend) for backend in RUNNING]
    for other in same[1:]:
        torch.testing.assert_close(other, same[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", RUNNING)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_token_that_is_not_finite_is_nan_behind_both_layers_and_no_other(backend, bad):
    x = numbers(9, 256)
    first, second = two_layers(256, 128, 70)
    for norm in (None, norm_of(256), norm_of(256, takes_mean=False)):
        expected = osc_mlp(x, first, second, norm=norm, backend=backend)
        broken = x.clone()
        broken[4, 3] = bad
        got = osc_mlp(broken, first, second, norm=norm, backend=backend)
        assert got[4].isnan().all()
        others = [row for row in range(9) if row != 4]
        assert torch.equal(got[others], expected[others])


@pytest.mark.parametrize("backend", FAST)
def test_tokens_and_threads_change_no_bit_behind_two_layers(backend):
    x, norm = numbers(301, 256), norm_of(256)
    first, second = two_layers(256, 384, 130)
    whole = osc_mlp(x, first, second, norm=norm, backend=backend)
    parts = [
        osc_mlp(part, first, second, norm=norm, backend=backend)
        for part in x.split([1, 5, 95, 200])
    ]
    assert torch.equal(torch.cat(parts), whole)
    threads = torch.get_num_threads()
    try:
        for num in (1, 2, 3):
            torch.set_num_threads(num)
            assert torch.equal(osc_mlp(x, first, second, norm=norm, backend=backend), whole)
    finally:
        torch.set_num_threads(threads)


def test_layers_and_norms_that_do_not_fit_are_refused():
    first, second = two_layers(64, 32, 8)
    x = numbers(3, 64)
    with pytest.raises(ValueError, match=r"second layer has 64 input channels on cpu, exp.* 32"):
        osc_mlp(x, first, first)
    with pytest.raises(TypeError, match="second is Tensor, expected what pack_weights gives"):
        osc_mlp(x, first, second.codes)
    with pytest.raises(
        ValueError, match=r"weight_K of the norm is torch.float32 \[65\] on cpu, exp"
    ):
        osc_linear(x, first, norm=Norm(weight_K=torch.ones(65)))
    with pytest.raises(ValueError, match=r"bias_K of the norm is torch.float64 \[64\]"):
        quantize_activations(x, first, norm=Norm(bias_K=torch.ones(64, dtype=torch.float64)))
    with pytest.raises(ValueError, match="osc_mlp: activation is 'relu'"):
        osc_mlp(x, first, second, activation="relu")
