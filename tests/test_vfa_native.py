"""The native attention against float64: accuracy, layouts, masks, NaN, its guard and its skips."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from astroray_kernels import BackendError, dispatch, vfa_attention
from astroray_kernels.vfa import _native
from astroray_kernels.vfa.result import empty_result
from tests.attention_inputs import INPUTS, ORDINARY, exact, make_inputs, relative_error, torch_error

WHY_NOT = _native.why_not(torch.device("cpu"))
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=f"backend native: {WHY_NOT}")

ESTIMATES = ("auto", *_native.ESTIMATES, _native.ONLINE)
VALUES = ("float32", "bfloat16", "float16")
ROUNDING = {torch.float32: 2.0**-21, torch.bfloat16: 2.0**-9, torch.float16: 2.0**-12}
"""Relative errors that are asked of no one: 4, 1/4 and 1/4 units in the last place."""
BARS = {"fp32": 4e-6, "bf16": 0.006, "int8_qk": 0.015, "int8": 0.03}
"""Errors of float32 results, on inputs whose scores 8 bits can resolve."""


@pytest.fixture(autouse=True)
def one_thread_and_nan_where_nothing_was_written():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)  # torch.empty is then filled with NaN
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


def attend(q, k, v, **options):
    """Output and facts of the native code; the scale is 1 / sqrt(D)."""
    if reason := _native.refuses(options.get("precision", "bf16")):
        pytest.skip(reason)
    return _native.vfa_attention(q, k, v, scale=q.shape[-1] ** -0.5, **options)


@pytest.mark.parametrize("dtype", _native.DTYPES, ids=str)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", INPUTS)
def test_errors_are_at_most_twice_those_of_torch(name, precision, dtype):
    rounded = torch.bfloat16 if precision == "bf16" and dtype == torch.float32 else dtype
    for length, dim in [(320, 64), (65, 128), (130, 32), (40, 96)]:
        q, k, v = make_inputs(name, batch=1, length=length, dim=dim, dtype=dtype)
        expected = exact(q, k, v)
        bar = max(2 * torch_error(q, k, v, rounded), ROUNDING[dtype])
        for estimate in ESTIMATES if dim == 64 else ["auto"]:
            got, _ = attend(q, k, v, precision=precision, estimate=estimate)
            assert relative_error(got, expected) <= bar, (length, dim, estimate)


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("precision", ["bf16", "int8_qk"])
def test_every_value_format_that_the_cpu_has_keeps_the_bars(precision, values):
    for name, dtype in itertools.product(ORDINARY, [torch.float32, torch.bfloat16]):
        q, k, v = make_inputs(name, batch=1, dtype=dtype)
        expected = exact(q, k, v)
        bar = BARS["int8_qk"]
        if precision == "bf16":
            bar = max(2 * torch_error(q, k, v, torch.bfloat16), ROUNDING[dtype])
        for estimate in ESTIMATES:
            try:
                got, _ = attend(q, k, v, precision=precision, estimate=estimate, values=values)
            except BackendError as error:
                pytest.skip(str(error))
            assert relative_error(got, expected) <= bar, (name, dtype, estimate)


@pytest.mark.parametrize("length", [66, 128])
@pytest.mark.parametrize("far", [0.0, 3e6])
@pytest.mark.parametrize("estimate", ESTIMATES)
def test_every_key_has_its_own_weight(estimate, far, length):
    # Values are one-hot, so that the result is the weights themselves, over 16 powers of two in
    # steps that no two rows share. Two keys of no weight make the bound of scores large or not:
    # where it is, weights of bfloat16 are not looked up but computed. Where blocks are full, they
    # are looked up among the products of the next one.
    q, k, v = torch.zeros(3, 1, 1, length, 64)
    q[..., 0] = torch.linspace(1, 1.1, length)
    k[..., :64, 0] = torch.linspace(0, -16, 64)[torch.randperm(64)] * math.log(2)
    k[..., 64:, 0], k[..., 64, 1], k[..., 65, 1] = -100, far, -far
    v[..., :64, :] = torch.eye(64)
    for dtype in (torch.float32, torch.bfloat16):
        q, k, v = (x.to(dtype) for x in (q, k, v))
        got, _ = _native.vfa_attention(q, k, v, scale=1.0, estimate=estimate)
        weights = torch.softmax(q.double() @ k.double().mT, dim=-1)[..., :64]
        assert ((got.double() - weights).abs() / weights).max() < 0.01, dtype


@pytest.mark.parametrize("precision", ["int8_qk", "int8"])
@pytest.mark.parametrize("name", ORDINARY)
def test_8_bits_keep_their_bars(name, precision):
    for dtype, length in itertools.product(_native.DTYPES, [100, 320]):
        q, k, v = make_inputs(name, batch=1, length=length, dtype=dtype)
        expected = exact(q, k, v)
        finer, _ = attend(q, k, v, precision="bf16")
        for estimate in ESTIMATES if length == 320 else ["auto"]:
            got, _ = attend(q, k, v, precision=precision, estimate=estimate)
            assert relative_error(got, expected) <= BARS[precision], (dtype, estimate)
            assert not torch.equal(got, finer)  # 8 bits it is


@pytest.mark.parametrize("precision", ["int8_qk", "int8"])
@pytest.mark.parametrize("name", ["extreme", "heavy"])
def test_heads_that_8_bits_cannot_resolve_are_done_with_16(name, precision):
    coarse = make_inputs(name, batch=1)
    for estimate in ESTIMATES:
        got, facts = attend(*coarse, precision=precision, estimate=estimate)
        assert relative_error(got, exact(*coarse)) < 0.003
        finer, finer_facts = attend(*coarse, precision="bf16", estimate=estimate)
        assert torch.equal(got, finer)
        assert facts == finer_facts
    fine = make_inputs("peaked", batch=1)
    both = [torch.cat(heads, dim=1) for heads in zip(fine, coarse, fine, strict=True)]
    got, _ = attend(*both, precision=precision)
    alone, _ = attend(*fine, precision=precision)
    assert torch.equal(got, torch.cat([alone, attend(*coarse, precision="bf16")[0], alone], dim=1))


@pytest.mark.parametrize("precision", _native.PRECISIONS)
@pytest.mark.parametrize("dim", _native.DIMS)
@pytest.mark.parametrize("length", [1, 7, 63, 64, 65, 197, 1000, 4096])
def test_every_element_of_a_ragged_result_is_written_and_none_beside(length, dim, precision):
    for dtype in [torch.float32, torch.bfloat16] if length < 1000 else [torch.float32]:
        q, k, v = make_inputs("random", batch=1, heads=1, length=length, dim=dim, dtype=dtype)
        buffer = torch.full((length * dim + 512,), torch.nan, dtype=dtype)
        out = buffer[256:-256].view(q.shape)
        got, _ = attend(q, k, v, precision=precision, out_BHND=out)
        assert got is out
        rows = torch.arange(length) if length < 1000 else torch.arange(3, length, length // 60)
        expected = exact(q[:, :, rows], k, v)
        rounding = relative_error(expected.to(dtype), expected)
        assert relative_error(out[:, :, rows], expected) <= BARS[precision] + rounding
        assert torch.isfinite(out).all()
        assert torch.isnan(buffer[:256]).all()
        assert torch.isnan(buffer[-256:]).all()


def strided(x, layout):
    """The numbers of x [B, H, N, D] in another layout; where heads are shared, the first's."""
    if layout == "token by token":
        return x.transpose(1, 2).contiguous().transpose(1, 2)
    if layout == "beside others":  # as a layer that gives q, k and v at once leaves them
        both = torch.stack([torch.full_like(x, torch.nan), x], dim=2)  # [B, H, 2, N, D]
        return both.permute(0, 3, 2, 1, 4).contiguous()[:, :, 1].transpose(1, 2)
    if layout == "sliced":
        batch, heads, length, dim = x.shape
        larger = torch.full((batch, heads + 1, length + 5, dim + 9), torch.nan, dtype=x.dtype)
        larger[:, 1:, 2:-3, 3:-6] = x
        return larger[:, 1:, 2:-3, 3:-6]
    if layout == "shared heads":
        return x[:, :1].expand_as(x)
    if layout == "every other number":
        return torch.stack([x, torch.full_like(x, torch.nan)], dim=-1)[..., 0]
    return x


LAYOUTS = [
    "plain",
    "token by token",
    "beside others",
    "sliced",
    "shared heads",
    "every other number",
]


@st.composite
def calls(draw):
    """Inputs [B, H, N, D] of any layout, masked keys that hold anything, options, threads."""
    some = st.sampled_from([1, 2, 3, 1, 2, 3, 0])
    batch, heads, length = draw(some), draw(some), draw(st.integers(1, 300))
    q, k, v = make_inputs(
        draw(st.sampled_from(["random", "peaked"])),
        batch=batch,
        heads=heads,
        length=length,
        dim=draw(st.sampled_from(_native.DIMS)),
        seed=draw(st.integers(0, 999)),
        dtype=draw(st.sampled_from(_native.DTYPES)),
    )
    mask = None
    share = draw(st.sampled_from([None, 0.0, 0.02, 0.5, 0.98]))
    if share is not None:
        mask = torch.rand(batch, length, generator=torch.Generator().manual_seed(1)) < share
        mask[1:2] = False
        hidden = ~mask[:, None, :, None]
        anything = st.sampled_from([torch.nan, torch.inf, -torch.inf, 3e4])
        k, v = k.masked_fill(hidden, draw(anything)), v.masked_fill(hidden, draw(anything))
    q, k, v = (strided(x, draw(st.sampled_from(LAYOUTS))) for x in (q, k, v))
    options = {
        "precision": draw(
            st.sampled_from([p for p in _native.PRECISIONS if not _native.refuses(p)])
        ),
        "estimate": draw(st.sampled_from(ESTIMATES)),
        "mask_BN": mask,
    }
    return q, k, v, options, draw(st.integers(1, 3))


@settings(max_examples=100)
@given(calls())
def test_any_call_is_right(call):
    q, k, v, options, threads = call
    torch.set_num_threads(threads)
    got, facts = attend(q, k, v, **options)
    assert got.shape == q.shape
    assert got.dtype == q.dtype
    assert got.stride() == empty_result(q).stride()
    expected = exact(q, k, v, mask=options["mask_BN"])
    rounding = relative_error(expected.to(q.dtype), expected)
    assert relative_error(got, expected) <= BARS[options["precision"]] + rounding
    assert (got[~expected.any(dim=-1)] == 0).all()  # objects without keys
    rows = _native.rows_of_tile(options["precision"], q.dtype)
    assert facts.num_tiles == q.shape[0] * q.shape[1] * math.ceil(q.shape[2] / rows)


@pytest.mark.parametrize("skip", [None, 8.0])
@pytest.mark.parametrize("precision", _native.PRECISIONS)
def test_masked_keys_change_nothing_whatever_they_hold(precision, skip):
    q, k, v = make_inputs("sink", batch=5, heads=1, length=150, dim=32)
    mask = torch.rand(5, 150, generator=torch.Generator().manual_seed(1)) < 0.6
    mask[1] = False
    mask[2, :100] = False  # the sink and most of the local blocks
    mask[3, 1:] = False
    mask[4, 0] = False
    hidden = ~mask[:, None, :, None]
    for estimate in ESTIMATES:
        options = {"precision": precision, "estimate": estimate, "skip": skip, "mask_BN": mask}
        clean, facts = attend(q, k, v, **options)
        assert relative_error(clean, exact(q, k, v, mask=mask)) < 0.03
        assert (clean[1] == 0).all()
        for poison in (torch.nan, torch.inf, 1e30):
            bad = k.masked_fill(hidden, poison), v.masked_fill(hidden, -poison)
            got, got_facts = attend(q, *bad, **options)
            assert torch.equal(got, clean), (estimate, poison)
            assert got_facts == facts


@pytest.mark.parametrize("precision", _native.PRECISIONS)
@pytest.mark.parametrize("name", ["peaked", "needle", "heavy"])
def test_the_bytes_are_the_same_for_any_number_of_threads_and_any_batch(name, precision):
    q, k, v = make_inputs(name, batch=4, heads=4, length=130, dim=32, dtype=torch.bfloat16)
    mask = torch.rand(4, 130, generator=torch.Generator().manual_seed(1)) < 0.8
    options = {"precision": precision, "mask_BN": mask}
    first, facts = attend(q, k, v, **options)
    for count in (1, 2, 3, 3):
        torch.set_num_threads(count)
        assert torch.equal(attend(q, k, v, **options)[0], first), count
        assert attend(q, k, v, **options)[1] == facts
        for b, h in [(0, 0), (3, 2)]:
            one = (x[b : b + 1, h : h + 1] for x in (q, k, v))
            alone, _ = attend(*one, precision=precision, mask_BN=mask[b : b + 1])
            assert torch.equal(alone[0, 0], first[b, h]), (count, b, h)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("precision", _native.PRECISIONS)
def test_a_bad_number_spoils_what_it_takes_part_in_and_nothing_else(precision, bad):
    q, k, v = make_inputs("random", batch=1, length=150)
    expected = exact(q, k, v)
    place, channel = (0, 0, 77), 5

    def spoiled(x):
        x = x.clone()
        x[place][channel] = bad
        return x

    for estimate, skip in itertools.product(ESTIMATES, [None, 8.0]):
        options = {"precision": precision, "estimate": estimate, "skip": skip}
        clean, _ = attend(q, k, v, **options)
        assert relative_error(clean, expected) <= 0.03

        of_query, _ = attend(spoiled(q), k, v, **options)
        assert torch.isnan(of_query[place]).all(), options
        of_query[place] = clean[place]
        assert relative_error(of_query, clean) <= 0.03, options  # other heads may get 16 bits

        of_key, _ = attend(q, spoiled(k), v, **options)
        lost = torch.isnan(of_key[0, 0]).all(dim=-1)
        right = exact(q, spoiled(k), v)[0, 0]  # a score of -infinity is no weight
        assert lost.all() or not math.isnan(bad), options
        assert relative_error(of_key[0, 0][~lost], right[~lost]) <= 0.03, options
        assert torch.equal(of_key[0, 1], clean[0, 1])

        of_value, _ = attend(q, k, spoiled(v), **options)
        assert not torch.isfinite(of_value[0, 0, :, channel]).any(), options
        of_value[0, 0, :, channel] = clean[0, 0, :, channel]
        assert torch.equal(of_value, clean), options


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_guard_redoes_rows_whose_maximum_was_missed_and_no_others(precision):
    for name in ["needle", "heavy", "extreme"]:
        q, k, v = make_inputs(name, batch=1)
        got, facts = attend(q, k, v, precision=precision, estimate="sink_local")
        assert 0 < facts.num_redone <= facts.num_tiles
        assert relative_error(got, exact(q, k, v)) <= BARS[precision] + 5e-6
    for name, dim in itertools.product(["random", "peaked"], _native.DIMS):
        for length in (1, 65, 1000):
            made = make_inputs(name, batch=1, length=length, dim=dim)
            _, facts = attend(*made, precision=precision)
            assert facts.num_redone == 0
            assert facts.num_tiles == 2 * math.ceil(length / _native.rows_of_tile(precision))


@pytest.mark.parametrize("precision", _native.PRECISIONS)
def test_large_numbers_are_no_reason_for_nan(precision):
    q, k, v = make_inputs("random", batch=1)
    v *= 1e38 / v.abs().max()
    for estimate in ESTIMATES:
        got, _ = attend(q, k, v, precision=precision, estimate=estimate)
        assert relative_error(got / 1e38, exact(q, k, v) / 1e38) <= BARS[precision], estimate
        longer = q * 1e4
        got, _ = attend(longer, k, v, precision=precision, estimate=estimate)
        assert relative_error(got / 1e38, exact(longer, k, v) / 1e38) <= 0.01, estimate


@pytest.mark.parametrize("precision", _native.PRECISIONS)
def test_queries_and_keys_whose_squares_overflow_are_no_reason_for_nan(precision):
    for factor in (1e20, 1e-20):
        q, k, v = make_inputs("random", batch=1)
        q, k = q * factor, k / factor
        for estimate in ESTIMATES:
            got, _ = attend(q, k, v, precision=precision, estimate=estimate)
            assert relative_error(got, exact(q, k, v)) <= BARS[precision], (factor, estimate)


@pytest.mark.parametrize("precision", _native.PRECISIONS)
def test_numbers_may_be_large_where_the_process_flushes_denormals(precision):
    q, k, v = make_inputs("random", batch=1)
    v *= 1e38 / v.abs().max()
    expected = exact(q, k, v)
    torch.set_flush_denormal(True)
    try:
        got, _ = attend(q, k, v, precision=precision)
    finally:
        torch.set_flush_denormal(False)
    assert relative_error(got / 1e38, expected / 1e38) <= BARS[precision]


@pytest.mark.parametrize("precision", _native.PRECISIONS)
@pytest.mark.parametrize("name", ["peaked", "sink"])
def test_a_large_skip_leaves_nothing_out(name, precision):
    q, k, v = make_inputs(name, batch=1, length=320)
    got, facts = attend(q, k, v, precision=precision, skip=1000.0)
    online, _ = attend(q, k, v, precision=precision, estimate="online")
    assert relative_error(got, online) <= (1e-6 if precision == "fp32" else 0.003)
    assert 0 < facts.num_key_blocks <= facts.num_tiles * 5  # the tiles that ask at all
    assert facts.num_skipped == 0


@pytest.mark.parametrize("precision", _native.PRECISIONS)
def test_skips_are_many_where_rows_are_peaked_and_cost_little(precision):
    q, k, v = make_inputs("peaked", batch=1, length=1024)
    expected = exact(q, k, v)
    base, _ = attend(q, k, v, precision=precision)
    shares = []
    for skip, most in [(6.0, 0.02), (8.0, 0.008), (14.0, 0.001)]:
        got, facts = attend(q, k, v, precision=precision, skip=skip)
        assert relative_error(got, expected) - relative_error(base, expected) <= most, skip
        assert facts.num_skipped <= facts.num_key_blocks <= facts.num_tiles * 16
        shares.append(facts.num_skipped / (facts.num_tiles * 16))
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.5
    q, k, v = make_inputs("random", batch=1, length=320)
    _, facts = attend(q, k, v, precision=precision, skip=8.0)
    assert facts.num_skipped == 0
    _, facts = attend(q, k, v, precision=precision)
    assert (facts.num_key_blocks, facts.num_skipped) == (0, 0)


@pytest.mark.parametrize("precision", _native.PRECISIONS)
@pytest.mark.parametrize("row", range(6))
def test_one_row_of_a_tile_keeps_the_block_that_it_needs(row, precision):
    q, k, v = make_inputs("peaked", batch=1, heads=1, length=640)
    direction = torch.randn(64, generator=torch.Generator().manual_seed(1))
    direction /= direction.norm()
    for x in (q, k):
        x -= (x @ direction)[..., None] * direction
    q[..., row::6, :] += 5.0 * direction
    k[..., 300, :] = 64.0 * direction  # 40 nats for these rows and 0 for their neighbors
    got, facts = attend(q, k, v, precision=precision, skip=6.0)
    assert facts.num_skipped > facts.num_key_blocks / 2
    assert relative_error(got, exact(q, k, v)) <= 0.02 + BARS[precision]


@pytest.mark.parametrize("precision", _native.PRECISIONS)
def test_the_public_function_runs_it_by_name_and_by_itself(precision):
    if reason := _native.refuses(precision):
        pytest.skip(reason)
    q, k, v = make_inputs("random", batch=1, length=70)
    mask = torch.rand(1, 70, generator=torch.Generator().manual_seed(1)) < 0.6
    need = dispatch.Need(precision=precision, dim=64, dtype=torch.float32)
    assert dispatch.resolved("vfa_attention", "cpu", need=need) == "native"
    options = {"precision": precision, "mask": mask, "scale": 0.3}
    got = vfa_attention(q, k, v, backend="native", **options)
    assert relative_error(got, exact(q, k, v, scale=0.3, mask=mask)) <= 0.05
    assert torch.equal(got, vfa_attention(q, k, v, **options))
