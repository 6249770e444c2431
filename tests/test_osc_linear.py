"""Quantized linear layers: what every backend must do, held against the reference."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from astroray_kernels import dispatch, osc_linear, pack_weights, quantize_activations
from astroray_kernels.osc import _excess
from astroray_kernels.osc.formats import FORMATS, TINY
from tests.instructions import SETS, limited_to

BACKENDS = [name for name in dispatch.BACKENDS["osc_linear"] if name != "triton"]


@pytest.fixture(scope="module", params=SETS, autouse=True)
def instructions(request):
    """Native code by the widest vectors of this CPU, then by AVX2's."""
    with limited_to(request.param):
        yield


@pytest.fixture(params=BACKENDS)
def backend(request):
    """Each backend that runs on this CPU."""
    if reason := dispatch.why_not("osc_linear", request.param, "cpu"):
        pytest.skip(f"backend {request.param}: {reason}")
    return request.param


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def layer(num_in, num_out, *, outliers=(), format="int8", seed=1, bias=True):
    weight_NK = numbers(num_out, num_in, seed=seed) / num_in**0.5
    bias_N = numbers(num_out, seed=seed + 1) if bias else None
    table = torch.tensor(outliers, dtype=torch.int64)
    return weight_NK, pack_weights(weight_NK, bias_N, format=format, outlier_channels=table)


def with_outliers(num_tokens, num_in, every=32, size=30.0):
    x_MK = numbers(num_tokens, num_in, seed=5)
    channels = list(range(7, num_in, every))
    x_MK[:, channels] *= size
    return x_MK, channels


def relative_error(got, expected):
    return float((got.double() - expected).norm() / expected.norm())


def same_bits(got, expected):
    for name in ("codes", "scale_MG", "outlier_MO"):
        torch.testing.assert_close(
            getattr(got, name), getattr(expected, name), rtol=0, atol=0, equal_nan=True
        )


def test_a_product_worked_out_by_hand(backend):
    x = torch.tensor([[127.0, 64.0, 1000.0], [-127.0, 0.0, 0.5]])
    weight = torch.tensor([[127.0, -2.0, 3.0], [1.0, 127.0, -0.5]])
    packed = pack_weights(
        weight, torch.tensor([10.0, -10.0]), format="int8", outlier_channels=torch.tensor([2])
    )
    got = osc_linear(x, packed, backend=backend)
    expected = [
        [127 * 127 - 128 + 3000 + 10, 127 + 64 * 127 - 500 - 10],
        [-127 * 127 + 1.5 + 10, -127 - 0.25 - 10],
    ]
    assert got.tolist() == expected


@pytest.mark.parametrize("format", ["int4_g32", "int4_g64", "int4_g128", "mxfp4", "nvfp4"])
def test_whole_numbers_of_four_bits_are_multiplied_exactly(backend, format):
    generator = torch.Generator().manual_seed(2)
    levels = torch.tensor([-6.0, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6])
    x, weight = (
        levels[torch.randint(len(levels), (size, 256), generator=generator)] for size in (37, 70)
    )
    top = 6.0 if FORMATS[format].is_float else 7.0  # so that every scale is 1
    x[:, ::16], weight[:, 1::16] = top, -top
    size = 448.0 if FORMATS[format].has_levels else 1.0  # so that the upper one is
    x, weight = x * size, weight * size
    packed = pack_weights(weight, format=format)
    assert packed.scale_NG.eq(size).all()
    assert torch.equal(osc_linear(x, packed, backend=backend), x @ weight.T)


@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 2, 65), (37, 131, 70), (16, 512, 64)])
@pytest.mark.parametrize(("mean", "spread"), [(0, 40), (0, 15), (0, 90), (110, 20)])
def test_whole_numbers_of_eight_bits_are_multiplied_exactly(backend, shape, mean, spread):
    num_tokens, num_in, num_out = shape
    x = (90 * numbers(num_tokens, num_in)).round().clamp(-127, 127)
    weight = (mean + spread * numbers(num_out, num_in)).round().clamp(-127, 127)
    x[:, 0], weight[:, -1] = -127.0, 127.0  # so that every scale is 1
    packed = pack_weights(weight, format="int8")
    assert torch.equal(osc_linear(x, packed, backend=backend), x @ weight.T)


def sums_of_one_sign(x, dim):
    """Of the positive numbers and of the magnitudes of the negative ones."""
    return torch.stack((x.clamp(min=0).sum(dim), (-x).clamp(min=0).sum(dim)))


@given(st.lists(st.integers(-127, 127), min_size=1, max_size=17))
def test_no_four_weights_leave_16_bits_and_none_is_lost(codes):
    codes_NK = torch.tensor([codes, codes[::-1], [0] * len(codes)], dtype=torch.int8)
    kept_NK = _excess.kept(codes_NK)
    excess_NK = codes_NK - kept_NK
    assert ((excess_NK.sign() == codes_NK.sign()) | (excess_NK == 0)).all()
    assert (kept_NK.abs() <= codes_NK.abs()).all()
    four = F.pad(kept_NK, (0, -len(codes) % 8)).int().unflatten(1, (-1, 2, 2, 2))
    assert sums_of_one_sign(four, (2, 4)).max() * 255 < 2**15
    is_safe = codes_NK.abs() <= 32
    assert not excess_NK[is_safe].any()


@pytest.mark.parametrize("spread", [0, 60, 127, 1000])
def test_entries_hold_the_whole_excess_and_their_sums_16_bits(spread):
    codes_NK = (spread * numbers(37, 131)).clamp(-127, 127).round().to(torch.int8)
    excess_NK = codes_NK - _excess.kept(codes_NK)
    entry_E9, begin = _excess.entries(excess_NK, 16)
    assert len(begin) == 4
    assert begin[-1] == len(entry_E9) >= _excess.fewest_entries(excess_NK)
    found_NK = torch.zeros(48, 132, dtype=torch.int32)
    for block in range(3):
        for column, *rest in entry_E9[begin[block] : begin[block + 1]].tolist():
            pairs = torch.tensor(rest[4:], dtype=torch.int32).view(torch.int8).reshape(4, 4).int()
            assert torch.equal(pairs[:, :2], pairs[:, 2:])
            assert sums_of_one_sign(pairs[:, :2], (0, 1)).max() * 255 < 2**15
            for place, pair in zip(rest[:4], pairs[:, :2], strict=True):
                found_NK[16 * block + column, 2 * place : 2 * place + 2] += pair
    assert torch.equal(found_NK[:37, :131], excess_NK.int())
    assert not found_NK[37:].any()


@pytest.mark.parametrize("format", FORMATS)
def test_sums_of_the_largest_numbers_do_not_saturate(backend, format):
    signs = torch.tensor([[1.0], [-1.0]])
    x = (7.0 if format.startswith("int4") else 6.0) * signs.expand(2, 256)
    packed = pack_weights(x, format=format)
    weight_NK = packed.numbers_NK().double()
    got = osc_linear(x, packed, backend=backend)
    torch.testing.assert_close(got.double(), weight_NK @ weight_NK.T, rtol=1e-6, atol=0)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("shape", [(1, 128, 1), (7, 128, 63), (64, 384, 65), (333, 256, 200)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_codes_scales_and_outliers_are_the_same_bits_in_all_backends(backend, format, shape, dtype):
    num_tokens, num_in, num_out = shape
    x, channels = with_outliers(num_tokens, num_in)
    x = x.to(dtype)  # of 16 bits: many ties
    x[0] = 0.0
    _, packed = layer(num_in, num_out, outliers=channels, format=format)
    got = quantize_activations(x, packed, backend=backend)
    same_bits(got, quantize_activations(x, packed, backend="reference"))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("activation", ["none", "gelu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_results_stay_as_close_to_float64_as_their_type_allows(backend, format, activation, dtype):
    x, channels = with_outliers(50, 256)
    _, packed = layer(256, 150, outliers=channels, format=format)
    x = x.to(dtype)
    got = osc_linear(x, packed, activation=activation, backend=backend)
    exact = osc_linear(x.double(), packed, activation=activation, backend="reference")
    assert got.dtype == dtype
    assert got.shape == (50, 150)
    assert relative_error(got, exact) < {
        torch.float32: 1e-6, torch.bfloat16: 2.5e-3, torch.float16: 4e-4,
    }[dtype]  # fmt: skip


@settings(max_examples=40)
@given(data=st.data())
def test_any_shape_stride_and_table_gives_what_the_reference_gives(data):
    backends = [one for one in BACKENDS if not dispatch.why_not("osc_linear", one, "cpu")]
    format = data.draw(st.sampled_from(list(FORMATS)))
    group = FORMATS[format].group
    num_in = (
        data.draw(st.integers(1, 140)) if group is None else group * data.draw(st.integers(1, 3))
    )
    num_out = data.draw(st.integers(1, 140))
    lead = data.draw(st.lists(st.integers(0, 5), max_size=3))
    table = sorted(data.draw(st.sets(st.integers(0, num_in - 1), max_size=12)))
    step, shift = data.draw(st.sampled_from([1, 2])), data.draw(st.integers(0, 3))
    x = numbers(*lead, step * num_in + shift)[..., shift::step][..., :num_in]
    _, packed = layer(num_in, num_out, outliers=table, format=format, bias=data.draw(st.booleans()))
    expected = osc_linear(x.double(), packed, backend="reference")
    assert expected.shape == (*lead, num_out)
    for backend in backends:
        same_bits(
            quantize_activations(x, packed, backend=backend),
            quantize_activations(x, packed, backend="reference"),
        )
        got = osc_linear(x, packed, backend=backend)
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("format", [one for one in FORMATS if FORMATS[one].bits == 4])
@pytest.mark.parametrize(("size", "size_of_weights"), [(1e30, 1.0), (1e-28, 1.0), (1.0, 1e-25)])
def test_large_and_small_numbers_lose_nothing(backend, format, size, size_of_weights):
    x, weight = numbers(9, 256) * size, numbers(20, 256, seed=1) * size_of_weights
    x[3, :128] *= 1e-8  # groups that are small beside others of their token
    packed = pack_weights(weight, format=format)
    expected = osc_linear(x.double(), packed, backend="reference")
    assert relative_error(osc_linear(x, packed, backend=backend), expected) < 1e-6


@pytest.mark.parametrize("format", FORMATS)
def test_an_empty_table_is_the_plain_format(backend, format):
    x = numbers(20, 128)
    weight, packed = layer(128, 64, format=format, bias=False)
    dense = quantize_activations(x, packed, backend=backend)
    assert dense.outlier_MO.shape == (20, 0)
    _, all_of_it = layer(128, 64, format=format, outliers=range(128), bias=False)
    bf16 = x.bfloat16().double() @ weight.bfloat16().double().T
    assert relative_error(osc_linear(x, all_of_it, backend=backend), bf16) < 1e-6
    plain = osc_linear(x, packed, backend=backend)
    expected = x.double() @ packed.numbers_NK().double().T
    assert 1e-4 < relative_error(plain, expected) < (0.02 if format == "int8" else 0.2)


@pytest.mark.parametrize("format", FORMATS)
def test_outlier_channels_earn_their_cost(backend, format):
    x, channels = with_outliers(200, 384, every=64)
    weight, plain = layer(384, 96, format=format, bias=False)
    _, kept_apart = layer(384, 96, format=format, outliers=channels, bias=False)
    exact = x.double() @ weight.double().T
    error = relative_error(osc_linear(x, kept_apart, backend=backend), exact)
    bf16 = relative_error(F.linear(x.bfloat16(), weight.bfloat16()), exact)
    assert relative_error(osc_linear(x, plain, backend=backend), exact) > 3 * error
    assert error < (2 * bf16 if format == "int8" else 0.06)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("bad", "channel"),
    [
        (torch.nan, 3),
        (torch.inf, 3),
        (torch.nan, 130),
        (-torch.inf, 130),
        (3.4e38, 130),  # infinite in bfloat16
    ],
)
def test_a_token_that_is_not_finite_is_nan_and_the_others_do_not_see_it(
    backend, format, bad, channel
):
    x = numbers(9, 256)
    _, packed = layer(256, 70, format=format, outliers=[2, 130])
    expected = osc_linear(x, packed, backend=backend)
    x[4, channel] = bad
    got = osc_linear(x, packed, backend=backend)
    assert got[4].isnan().all()
    others = [row for row in range(9) if row != 4]
    assert torch.equal(got[others], expected[others])
    same_bits(
        quantize_activations(x, packed, backend=backend),
        quantize_activations(x, packed, backend="reference"),
    )


@pytest.mark.parametrize("format", FORMATS)
def test_numbers_too_small_for_a_scale_count_as_zeros(backend, format):
    x = torch.full((2, 128), TINY / 4)
    x[1] = TINY * 4
    _, packed = layer(128, 5, format=format, bias=False)
    same_bits(
        quantize_activations(x, packed, backend=backend),
        quantize_activations(x, packed, backend="reference"),
    )
    assert osc_linear(x, packed, backend=backend).isfinite().all()


@pytest.mark.parametrize("format", FORMATS)
def test_tokens_and_threads_do_not_change_a_bit(backend, format):
    x, channels = with_outliers(301, 256)
    _, packed = layer(256, 130, format=format, outliers=channels)
    whole = osc_linear(x, packed, backend=backend)
    if backend != "reference":
        parts = [osc_linear(part, packed, backend=backend) for part in x.split([1, 5, 95, 200])]
        assert torch.equal(torch.cat(parts), whole)
    quantized = quantize_activations(x, packed, backend="reference")
    threads = torch.get_num_threads()
    try:
        for num in (1, 2, 3):
            torch.set_num_threads(num)
            assert torch.equal(osc_linear(x, packed, backend=backend), whole)
            same_bits(quantize_activations(x, packed, backend=backend), quantized)
    finally:
        torch.set_num_threads(threads)


def test_arguments_that_cannot_work_are_refused():
    _, packed = layer(64, 8)
    with pytest.raises(ValueError, match=r"x has shape \[3, 65\], expected \[\.\.\., 64\]"):
        osc_linear(numbers(3, 65), packed)
    with pytest.raises(TypeError, match=r"x has dtype torch.int64"):
        quantize_activations(torch.zeros(3, 64, dtype=torch.int64), packed)
    with pytest.raises(TypeError, match="packed is Tensor, expected what pack_weights gives"):
        osc_linear(numbers(3, 64), packed.codes)
    with pytest.raises(ValueError, match="activation is 'relu', expected one of none, gelu"):
        osc_linear(numbers(3, 64), packed, activation="relu")
    with pytest.raises(ValueError, match="x is on cpu and the layer on meta"):
        osc_linear(numbers(3, 64), packed.to("meta"))
