"""The guard of VFA attention: what breaks a frozen maximum is seen in every row, and repaired."""

import math

import pytest
import torch

from astroray_kernels.vfa import guard, reference
from astroray_kernels.vfa.estimates import ESTIMATES, exact_maximum_BHM1
from tests.attention_inputs import INPUTS, exact, make_inputs, relative_error
from tests.reference_attention import attend


def certify_everything(monkeypatch):
    monkeypatch.setattr(
        guard, "certified_BHM1", lambda *args, **facts: torch.ones_like(facts["total_BHM1"]) > 0
    )


def is_wrong(got, expected):
    return not relative_error(got, expected) < 0.05  # NaN and infinity too


@pytest.mark.parametrize("precision", ["fp32", "bf16", "mxfp4"])
@pytest.mark.parametrize(
    ("name", "estimate"),
    [
        ("needle", "sabsmax"),
        ("needle", "sink_local"),
        ("heavy", "sabsmax"),
        ("heavy", "sink_local"),
        ("extreme", "sabsmax"),
        ("extreme", "sink_local"),
        ("extreme", "cauchy_schwarz"),
        ("needle", "cauchy_schwarz"),
    ],
)
def test_rows_that_break_the_frozen_maximum_are_redone(name, estimate, precision, monkeypatch):
    q, k, v = make_inputs(name, batch=1, length=300)
    options = {"estimate": estimate, "precision": precision}
    online = reference.online_softmax_attention(
        q, k, v, scale=0.125, mask_BN=None, precision=precision
    )
    got, facts = attend(q, k, v, **options)
    assert 0 < facts.num_redone <= facts.num_rows
    close = 0.1 if precision == "mxfp4" else 3e-3
    assert relative_error(got, online) < close
    if precision == "fp32":
        assert relative_error(got, exact(q, k, v)) < 1e-5
    certify_everything(monkeypatch)
    got, facts = attend(q, k, v, **options)
    assert facts.num_redone == 0
    assert is_wrong(got, online)


@pytest.mark.parametrize(
    ("precision", "dtype", "low"),
    [
        ("fp32", torch.float32, 1e-20),
        ("bf16", torch.bfloat16, 1e-20),
        ("bf16", torch.float16, 0.25),
        ("int8_qk", torch.float32, 1e-20),
        ("int8", torch.float32, 1e-20),
        ("mxfp4", torch.float32, 1e-20),
        ("mxfp4_v16", torch.float32, 2.0**-8),
    ],
)
def test_a_sum_outside_its_window_is_no_proof(precision, dtype, low):
    x = torch.ones(1, 1, 8, 1, dtype=dtype)
    v = 2.0**-10 * x  # else the sum times the largest value is what is too large
    operands = reference.prepare(x, x, v, scale=1e-3, mask_BN=None, precision=precision)
    sums = [0.0, low * 0.99, low * 1.01, 1.0, 0.99e30, 1.01e30, math.inf, math.nan]
    good = certify(operands, sums)
    assert good == [False, False, True, True, True, False, False, False]
    if precision != "int8":  # whose sums are divided by 255
        assert certify(operands, [low, 1e30]) == [False, False]


def certify(operands, sums, *, excess=0.0):
    """Whether rows with these sums of weights are good; the true maximum is beyond by `excess`."""
    rows = slice(0, len(sums))
    batch, heads = operands.v_BHND.shape[:2]
    total = torch.tensor(sums, dtype=torch.float64)[None, None, :, None]
    total = total.repeat(batch, heads, 1, 1)
    unit = 255 if operands.weight_format == "uint8" else 1
    good = guard.certified_BHM1(
        operands,
        rows,
        [rows],
        maximum_BHM1=exact_maximum_BHM1(operands, rows, [rows]) - excess,
        total_BHM1=total * unit,
        is_sparse_BH11=torch.zeros(batch, heads, 1, 1, dtype=torch.bool),
    )
    return good.flatten().tolist()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_sum_times_the_largest_value_has_a_window_of_its_own(precision):
    """Values of both signs: the largest is that without its sign."""
    x = torch.ones(1, 1, 4, 1)
    sums = [1e-12, 1.0, 1.0, 1e12]
    for largest, expected in (
        (0.9e-16, [False, True, True, True]),
        (1.1e-16, [True, True, True, True]),
        (0.9e18, [True, True, True, True]),
        (1.1e18, [True, True, True, False]),
        (0.0, [True, True, True, True]),
    ):
        v = x * torch.tensor([-largest, largest / 4, 0.0, 0.0])[:, None]
        operands = reference.prepare(x, x, v, scale=1e-3, mask_BN=None, precision=precision)
        assert certify(operands, sums) == expected


def test_each_head_has_the_largest_value_of_its_own():
    x = torch.ones(1, 2, 4, 1)
    v = x * torch.tensor([1.0, 1e-20])[:, None, None]
    operands = reference.prepare(x, x, v, scale=1e-3, mask_BN=None, precision="fp32")
    assert certify(operands, [1e-12, 1.0, 1.0, 1.0]) == [True] * 4 + [False] + [True] * 3


def test_only_rows_without_any_valid_key_are_good_whatever_their_sum():
    x = torch.ones(3, 1, 2, 1)
    mask = torch.tensor([[True, True], [True, False], [False, False]])
    operands = reference.prepare(x, x, x, scale=1e-3, mask_BN=mask, precision="fp32")
    assert certify(operands, [math.inf, 1.0]) == [False, True, False, True, True, True]


def test_each_head_has_the_score_error_of_its_own_keys():
    x = torch.tensor([[-1.0], [1.0]])[None, None].repeat(1, 2, 1, 1)
    k = x * torch.tensor([1.0, 100.0])[:, None, None]
    operands = reference.prepare(x, k, x, scale=1.0, mask_BN=None, precision="int8_qk")
    error = guard.score_error_BHM1(operands, slice(0, 2)).flatten()
    assert error[2:] == pytest.approx(100 * error[:2], rel=1e-5)


def test_int8_weights_may_saturate_by_half_a_code_and_lose_one_bit():
    x = torch.ones(1, 1, 1, 1)
    operands = reference.prepare(x, x, x, scale=1e-3, mask_BN=None, precision="int8")
    most = math.log2(255.5 / 255)
    for excess, expected in ((most * 0.99, True), (most * 1.01, False), (-0.99, True)):
        assert certify(operands, [1.0], excess=excess) == [expected]
    assert certify(operands, [1.0], excess=-1.01) == [False]
    floating = reference.prepare(x, x, x, scale=1e-3, mask_BN=None, precision="bf16")
    assert certify(floating, [1.0], excess=-1.01) == [True]


@pytest.mark.parametrize("precision", ["int8", "int8_qk"])
def test_int8_scores_may_be_off_by_a_quarter_of_a_power_of_two(precision):
    """One query and keys of one number, 127 steps of 2 / 127 long, the other twice as long."""
    q, k = torch.tensor([[2.0], [2.0]])[None, None], torch.tensor([[-2.0], [2.0]])[None, None]
    # Each rounding has a variance of step**2 / 12; of a query times a key of 2, and the reverse.
    error = math.log2(math.e) * (2 / 127) * 2 * math.sqrt(2 / 12)
    for scale, expected in ((0.99 * 0.25 / error, True), (1.01 * 0.25 / error, False)):
        operands = reference.prepare(q, k, q, scale=scale, mask_BN=None, precision=precision)
        assert certify(operands, [1.0, 1.0]) == [expected] * 2


@pytest.mark.parametrize(("precision", "unit"), [("fp32", 1), ("int8", 255)])
def test_a_row_that_lost_tiles_needs_a_sum_of_half_a_largest_weight(precision, unit):
    x, rows = torch.ones(1, 1, 4, 1), slice(0, 4)
    operands = reference.prepare(x, x, x, scale=0.1, mask_BN=None, precision=precision)
    total = unit * torch.tensor([0.49, 0.5, 0.51, 1.0])[None, None, :, None]
    for is_sparse, expected in ((True, [False, True, True, True]), (False, [True] * 4)):
        good = guard.certified_BHM1(
            operands,
            rows,
            [rows],
            maximum_BHM1=exact_maximum_BHM1(operands, rows, [rows]),
            total_BHM1=total,
            is_sparse_BH11=torch.full((1, 1, 1, 1), is_sparse),
        )
        assert good.flatten().tolist() == expected


def test_rows_are_redone_alone():
    q, k, v = make_inputs("needle", batch=1, heads=1, length=300)
    _, facts = attend(q, k, v, estimate="sink_local")
    towards_a_needle = torch.arange(3, 300, 17)
    # The last two query blocks have both needles in a block of their own, and see them.
    frozen = towards_a_needle[towards_a_needle // 64 != 250 // 64]
    assert facts.num_redone == len(frozen)


@pytest.mark.parametrize("name", ["random", "peaked", "sink", "massive_sink"])
def test_ordinary_rows_are_not_redone(name):
    q, k, v = make_inputs(name, batch=1, length=320)
    for precision in ("fp32", "bf16"):
        for estimate in ESTIMATES:
            _, facts = attend(q, k, v, precision=precision, estimate=estimate)
            assert facts.num_redone == 0 or (name, estimate) == ("massive_sink", "cauchy_schwarz")


@pytest.mark.parametrize("estimate", ESTIMATES)
@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("skip", [2.0, 8.0])
def test_skipping_is_never_wrong_whatever_the_estimate(name, estimate, skip):
    q, k, v = make_inputs(name, batch=1, length=300, dtype=torch.float64)
    got, facts = attend(q, k, v, estimate=estimate, skip=skip)
    expected = exact(q, k, v)
    row_error = (got - expected).norm(dim=-1).amax() / v.norm(dim=-1).amax()
    assert row_error < 2 * 2 * 300 * math.exp(-skip)
    assert relative_error(got, expected) < 0.05
    assert facts.num_redone <= facts.num_rows


def test_a_tile_dropped_under_an_estimate_far_too_high_is_brought_back(monkeypatch):
    # Cauchy-Schwarz puts row 0 at 30 nats through the third key; its true maximum is 18, of the
    # second. At 10 nats that tile goes, and the first one stays because row 1 needs it.
    q = torch.tensor([[20.0, 0.0], [0.0, 8.0], [0.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    k = torch.tensor([[0.0, 1.0], [0.9, 0.0], [0.0, -1.5], [0.0, 0.0]], dtype=torch.float64)
    v = torch.eye(4, 2, dtype=torch.float64)
    q, k, v = q[None, None], k[None, None], v[None, None]
    options = {"scale": 1.0, "estimate": "cauchy_schwarz", "skip": 10.0}
    tiles = {"block_q": 2, "block_k": 1}
    got, facts = attend(q, k, v, **options, **tiles)
    assert facts.num_skipped > 0
    assert facts.num_redone > 0
    assert torch.allclose(got, exact(q, k, v, scale=1.0), atol=1e-3)
    monkeypatch.setattr(guard, "SPARSE_LEAST", 0.0)
    got, _ = attend(q, k, v, **options, **tiles)
    assert is_wrong(got[:, :, 0], exact(q, k, v, scale=1.0)[:, :, 0])


def test_values_that_overflow_the_output_before_its_division_are_seen(monkeypatch):
    q, k, v = make_inputs("random", batch=1, heads=1, length=200, dim=32)
    k[..., 100, :] = q[..., 5, :] * 60 * 32**0.5 / q[..., 5, :].square().sum()  # 60 nats
    _, facts = attend(q, k, v, estimate="sink_local")
    assert facts.num_redone == 0  # l alone stays below 1e30
    large = v * 1e15
    got, facts = attend(q, k, large, estimate="sink_local")
    assert facts.num_redone > 0
    assert relative_error(got, exact(q, k, large)) < 1e-5
    certify_everything(monkeypatch)
    assert is_wrong(attend(q, k, large, estimate="sink_local")[0], exact(q, k, large))


def test_values_that_vanish_beside_a_small_sum_are_seen(monkeypatch):
    q, k, v = make_inputs("random", batch=1, heads=1, length=200, dim=32)
    k[..., 50, :] *= 5  # puts Cauchy-Schwarz about 30 nats too high
    _, facts = attend(q, k, v, estimate="cauchy_schwarz")
    assert facts.num_redone < facts.num_rows / 2  # l alone mostly stays above 1e-20
    small = v * 1e-36
    got, facts = attend(q, k, small, estimate="cauchy_schwarz")
    assert facts.num_redone > facts.num_rows / 2
    assert relative_error(got, exact(q, k, small)) < 1e-4
    assert not attend(q, k, torch.zeros_like(v), estimate="cauchy_schwarz")[0].any()
    monkeypatch.setattr(guard, "SUM_WINDOW", (0.0, math.inf))
    got, _ = attend(q, k, small, estimate="cauchy_schwarz")
    assert is_wrong(got, exact(q, k, small))


@pytest.mark.parametrize("estimate", ["sabsmax", "sink_local"])
def test_int8_weights_need_the_true_maximum(estimate, monkeypatch):
    q, k, v = make_inputs("random", batch=1, length=320)
    options = {"precision": "int8", "estimate": estimate}
    expected = exact(q, k, v)
    got, facts = attend(q, k, v, **options)
    assert facts.num_redone > 0
    assert relative_error(got, expected) < 0.03
    certify_everything(monkeypatch)
    got, _ = attend(q, k, v, **options)
    assert is_wrong(got, expected)
    auto, facts = attend(q, k, v, precision="int8", estimate="auto")
    assert relative_error(auto, expected) < 0.03
    assert torch.equal(auto, attend(q, k, v, precision="int8", estimate="exact")[0])


@pytest.mark.parametrize("precision", ["int8_qk", "int8"])
def test_scores_too_large_for_int8_are_redone_in_bf16(precision, monkeypatch):
    q, k, v = make_inputs("extreme", batch=1, length=300)
    got, facts = attend(q, k, v, precision=precision, estimate="exact")
    assert facts.num_redone == facts.num_rows
    expected = reference.online_softmax_attention(
        q, k, v, scale=0.125, mask_BN=None, precision="bf16"
    )
    assert torch.equal(got, expected)
    monkeypatch.setattr(guard, "SCORE_ERROR_LIMIT", math.inf)
    unguarded, _ = attend(q, k, v, precision=precision, estimate="exact")
    assert relative_error(unguarded, exact(q, k, v)) > 3 * relative_error(got, exact(q, k, v))


def test_the_stated_error_of_int8_scores_is_the_error_they_have():
    q, k, v = make_inputs("random", batch=1, heads=1, length=256)
    rows = slice(0, 256)
    fine = reference.prepare(q, k, v, scale=0.125, mask_BN=None, precision="fp32")
    coarse = reference.prepare(q, k, v, scale=0.125, mask_BN=None, precision="int8_qk")
    shift = fine.scores_BHMK(rows, rows) - coarse.scores_BHMK(rows, rows)
    error = (shift - shift.mean(dim=-1, keepdim=True)).square().mean().sqrt()
    stated = guard.score_error_BHM1(coarse, rows).mean()
    assert 0.7 * stated < error < stated  # stated for the longest key and the coarsest group


def test_sixteen_bit_weights_have_a_narrow_window(monkeypatch):
    q, k, v = make_inputs("sink", batch=1, length=320)
    options = {"precision": "mxfp4_v16", "estimate": "cauchy_schwarz"}
    q = 2 * q
    expected = reference.online_softmax_attention(
        q, k, v, scale=0.125, mask_BN=None, precision="mxfp4_v16"
    )
    got, facts = attend(q, k, v, **options)
    assert facts.num_redone > 0
    assert relative_error(got, expected) < 0.1
    certify_everything(monkeypatch)
    assert is_wrong(attend(q, k, v, **options)[0], expected)
