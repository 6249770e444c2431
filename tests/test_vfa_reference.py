"""The reference of VFA and VSA attention: its algorithms step by step, and its laws."""

import math

import pytest
import torch

from astroray_kernels.vfa import guard, reference
from astroray_kernels.vfa.estimates import (
    ESTIMATES,
    blocks,
    exact_maximum_BHM1,
    initial_maximum_BHN1,
    signed_absmax_BHJD,
    visiting_order,
)
from astroray_kernels.vfa.operands import PRECISIONS, prepare
from tests.attention_inputs import INPUTS, exact, make_inputs, relative_error
from tests.reference_attention import attend

LENGTHS = (1, 7, 63, 64, 65, 197)
FLOAT64_ERROR = 1e-12
LN2 = math.log(2)


@pytest.fixture(autouse=True)
def unwritten_elements_are_nan():
    torch.use_deterministic_algorithms(True)  # torch.empty is then filled with NaN
    yield
    torch.use_deterministic_algorithms(False)


def column(*numbers):
    """Numbers as a tensor [1, 1, N, 1] of float64."""
    return torch.tensor(numbers, dtype=torch.float64)[None, None, :, None]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", INPUTS)
def test_every_estimate_gives_exact_attention_in_float64(name, length):
    q, k, v = make_inputs(name, batch=1, length=length, dim=32, dtype=torch.float64)
    expected = exact(q, k, v)
    for estimate in ESTIMATES:
        got, facts = attend(q, k, v, estimate=estimate)
        assert relative_error(got, expected) < FLOAT64_ERROR, estimate
        assert facts.num_rows == 2 * length
        assert facts.num_tiles == 2 * math.ceil(length / 64) ** 2
        assert facts.num_skipped == 0
    got = reference.online_softmax_attention(
        q, k, v, scale=32**-0.5, mask_BN=None, precision="fp32"
    )
    assert relative_error(got, expected) < FLOAT64_ERROR


@pytest.mark.parametrize("name", INPUTS)
def test_a_thousand_ragged_positions_are_exact(name):
    q, k, v = make_inputs(name, batch=1, heads=1, length=1000, dtype=torch.float64)
    got, _ = attend(q, k, v)
    assert relative_error(got, exact(q, k, v)) < FLOAT64_ERROR


@pytest.mark.parametrize("dim", [1, 32, 40, 64, 96, 128])
def test_any_head_dimension_is_exact(dim):
    q, k, v = make_inputs("random", length=70, dim=dim, dtype=torch.float64)
    got, _ = attend(q, k, v)
    assert relative_error(got, exact(q, k, v)) < FLOAT64_ERROR


@pytest.mark.parametrize("estimate", ESTIMATES)
@pytest.mark.parametrize(("block_q", "block_k"), [(128, 64), (64, 128), (6, 64), (48, 32), (1, 1)])
def test_the_size_of_tiles_changes_nothing(block_q, block_k, estimate):
    length = 197 if block_q > 1 else 20
    q, k, v = make_inputs("sink", batch=1, length=length, dim=32, dtype=torch.float64)
    got, facts = attend(q, k, v, estimate=estimate, block_q=block_q, block_k=block_k)
    assert relative_error(got, exact(q, k, v)) < FLOAT64_ERROR
    assert facts.num_tiles == 2 * math.ceil(length / block_q) * math.ceil(length / block_k)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_masked_keys_do_not_leak_whatever_they_hold(precision):
    q, k, v = make_inputs("sink", batch=5, heads=1, length=150, dim=32)
    mask = torch.rand(5, 150, generator=torch.Generator().manual_seed(1)) < 0.6
    mask[1] = False
    mask[2, :100] = False  # sink and most of the local blocks
    mask[3, 1:] = False
    mask[4, 0] = False
    options = {"precision": precision, "mask_BN": mask}
    for estimate in ESTIMATES:
        clean, _ = attend(q, k, v, estimate=estimate, **options)
        for poison in (torch.nan, torch.inf, 1e30):
            hidden = ~mask[:, None, :, None]
            k_bad, v_bad = k.masked_fill(hidden, poison), v.masked_fill(hidden, -poison)
            got, facts = attend(q, k_bad, v_bad, estimate=estimate, **options)
            assert torch.equal(got, clean), (estimate, poison)
            assert facts.num_rows == 5 * 150
        assert torch.equal(clean[1], torch.zeros_like(clean[1]))
        bar = 0.5 if "mxfp4" in precision else 0.03
        assert relative_error(clean, exact(q, k, v, mask=mask)) < bar, estimate


@pytest.mark.parametrize("estimate", ESTIMATES)
def test_masks_are_exact_in_float64(estimate):
    q, k, v = make_inputs("large_norm", batch=4, length=197, dim=32, dtype=torch.float64)
    mask = torch.rand(4, 197, generator=torch.Generator().manual_seed(1)) < 0.5
    mask[1] = False
    mask[2, :130] = False
    got, facts = attend(q, k, v, mask_BN=mask, estimate=estimate)
    assert relative_error(got, exact(q, k, v, mask=mask)) < FLOAT64_ERROR
    if estimate != "cauchy_schwarz":
        assert facts.num_redone == 0  # rows without a key are right as they are
    everything = torch.ones_like(mask)
    got, _ = attend(q, k, v, mask_BN=everything, estimate=estimate)
    assert torch.equal(got, attend(q, k, v, estimate=estimate)[0])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_strides_do_not_matter_and_the_result_is_contiguous(precision):
    made = make_inputs("peaked", length=70, dim=40)
    expected, _ = attend(*made, precision=precision)
    token_major = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in made]
    gappy = [torch.stack([x, x + 1], dim=-1)[..., 0] for x in made]
    for strided in (token_major, gappy):
        got, _ = attend(*strided, precision=precision)
        assert got.is_contiguous()
        assert relative_error(got, expected) < 1e-6


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", [(0, 2, 7, 32), (2, 0, 7, 32)])
def test_no_batch_gives_no_result(shape, precision):
    empty = torch.empty(shape)
    mask = torch.ones(shape[0], shape[2], dtype=torch.bool)
    got, facts = attend(empty, empty, empty, precision=precision, mask_BN=mask, skip=8.0)
    assert got.shape == shape
    assert facts == reference.Facts(num_rows=0, num_redone=0, num_tiles=0, num_skipped=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_result_has_the_type_of_the_queries(dtype):
    q, k, v = make_inputs("random", length=20, dtype=dtype)
    options = {"scale": 0.1, "mask_BN": None, "skip": None, "estimate": "auto"}
    for precision in reference.PRECISIONS:
        got, _ = reference.vfa_attention(q, k, v, precision=precision, **options)
        assert got.dtype == dtype
        assert got.shape == q.shape
    assert not reference.why_not(torch.device("cpu"))


def test_the_inputs_are_what_they_are_called():
    scores = {}
    for name in INPUTS:
        q, k, _ = make_inputs(name, length=300, dtype=torch.float64)
        scores[name] = q @ k.mT / 8
    weights = scores["peaked"].softmax(dim=-1)
    assert 4 < (1 / weights.square().sum(dim=-1)).median() < 6
    assert scores["peaked"].amax(dim=-1).median() == pytest.approx(14, abs=0.5)
    assert torch.allclose(scores["sink"][..., 0], torch.tensor(12.0, dtype=torch.float64))
    assert scores["extreme"].abs().amax().item() == pytest.approx(780)
    assert (scores["needle"].amax(dim=-1) > 100).double().mean() < 0.1
    assert scores["massive_sink"][..., 0].amin() > 299


def test_the_rounding_of_a_weight_that_rules_its_row_cancels():
    q, k, v = make_inputs("massive_sink", batch=1, length=130, dtype=torch.bfloat16)
    got, facts = attend(q, k, v, precision="bf16", estimate="cauchy_schwarz")
    assert facts.num_redone == 0  # the largest weight is no power of two
    assert torch.equal(got, v[:, :, :1].expand_as(v))


def test_a_query_that_is_no_number_spoils_its_own_row_alone():
    q, k, v = make_inputs("peaked", batch=1, length=130)
    for precision in PRECISIONS:
        for skip in (None, 8.0):
            clean, _ = attend(q, k, v, precision=precision, skip=skip)
            bad, _ = attend(
                q.index_fill(2, torch.tensor([70]), torch.nan), k, v, precision=precision, skip=skip
            )
            assert bad[:, :, 70].isnan().all()
            others = torch.arange(130) != 70
            assert relative_error(bad[:, :, others], clean[:, :, others]) < 1e-3


def test_queries_see_every_key_on_both_sides():
    q, k, v = make_inputs("random", length=130, dtype=torch.float64)
    flipped, _ = attend(q.flip(2), k.flip(2), v.flip(2))
    assert relative_error(flipped.flip(2), attend(q, k, v)[0]) < FLOAT64_ERROR


def test_the_scale_reaches_estimates_and_scores_alike():
    q, k, v = make_inputs("random", length=100, dtype=torch.float64)
    for estimate in ESTIMATES:
        got, facts = attend(q, k, v, scale=0.3, estimate=estimate)
        assert relative_error(got, exact(q, k, v, scale=0.3)) < FLOAT64_ERROR
        assert facts.num_redone == 0


def test_the_sink_comes_first_then_the_local_blocks_then_the_rest_in_order():
    keys = blocks(320, 64)
    assert visiting_order(slice(192, 256), keys, "sabsmax") == [
        (0, True),
        (3, True),
        (1, False),
        (2, False),
        (4, False),
    ]
    coinciding = visiting_order(slice(0, 64), keys, "sink_local")
    assert coinciding == [(0, True), (1, False), (2, False), (3, False), (4, False)]
    two_local = visiting_order(slice(128, 256), keys, "sabsmax")
    assert two_local == [(0, True), (2, True), (3, True), (1, False), (4, False)]
    unaligned = visiting_order(slice(90, 135), keys, "sabsmax")
    assert [number for number, updated in unaligned if updated] == [0, 1, 2]
    for estimate in ("cauchy_schwarz", "exact"):
        frozen = visiting_order(slice(128, 192), keys, estimate)
        assert frozen == [(number, False) for number in range(5)]


@pytest.mark.parametrize(
    ("estimate", "skip", "maxima"),
    [("sabsmax", None, 7), ("sink_local", None, 7), ("exact", None, 0), ("sabsmax", 30.0, 23)],
)
def test_row_maxima_are_taken_of_sink_and_local_block_alone(estimate, skip, maxima, monkeypatch):
    taken = []
    real = reference.row_maximum_BHM1
    monkeypatch.setattr(
        reference, "row_maximum_BHM1", lambda scores: taken.append(1) or real(scores)
    )
    q, k, v = make_inputs("random", length=250)
    _, facts = attend(q, k, v, estimate=estimate, skip=skip)
    assert facts.num_redone == 0
    assert len(taken) == maxima  # 1 + 2 + 2 + 2 of 16 tiles; VSA adds one for each tile's vote


def test_the_signed_absmax_keeps_signs_and_ties_go_to_the_positive_number():
    k = torch.tensor([[1.0, -2.0, 3.0, 0.0], [-5.0, 2.0, -3.0, 0.0], [4.0, 1.0, 1.0, -0.5]])
    assert signed_absmax_BHJD(k[None, None], [slice(0, 2), slice(2, 3)]).tolist() == [
        [[[-5.0, 2.0, 3.0, 0.0], [4.0, 1.0, 1.0, -0.5]]]
    ]


def test_masked_keys_never_win_the_absmax_and_a_masked_block_has_no_say():
    q, k, v = column(1, 1, 1, 1), column(-3, 9, 7, 8), column(1, 2, 3, 4)
    mask = torch.tensor([[True, False, False, False]])
    operands = prepare(q, k, v, scale=LN2, mask_BN=mask, precision="fp32")
    start = initial_maximum_BHN1(operands, "sabsmax", blocks(4, 2))
    assert torch.allclose(start, torch.full_like(start, -3.0))  # neither 9 nor the 0 of no key


def test_estimates_are_what_they_are_called():
    q, k, v = make_inputs("large_norm", batch=1, length=197, dtype=torch.float64)
    operands = prepare(q, k, v, scale=0.125, mask_BN=None, precision="fp32")
    keys = blocks(197, 64)
    true = (q @ k.mT).amax(dim=-1, keepdim=True) * 0.125 / LN2
    exact_start = initial_maximum_BHN1(operands, "exact", keys)
    assert torch.allclose(exact_start, true)
    some = exact_maximum_BHM1(operands, slice(3, 9), keys)  # a product of fewer rows may round
    torch.testing.assert_close(exact_start[:, :, 3:9], some, rtol=1e-14, atol=0)  # otherwise
    assert (initial_maximum_BHN1(operands, "cauchy_schwarz", keys) >= true).all()
    assert (initial_maximum_BHN1(operands, "sink_local", keys) == -torch.inf).all()


@pytest.fixture
def sums(monkeypatch):
    """Maximum and sum of every row as the certificate sees them, flat, in the order of rows."""
    seen = {"maximum": [], "total": []}
    real = guard.certified_BHM1

    def spy(*args, **facts):
        seen["maximum"] += facts["maximum_BHM1"].flatten().tolist()
        seen["total"] += facts["total_BHM1"].flatten().tolist()
        return real(*args, **facts)

    monkeypatch.setattr(guard, "certified_BHM1", spy)
    return seen


def test_algorithm_1_by_hand(sums):
    # Blocks of two keys; their signed abs-max is -1 and -3. Scores are q * k in powers of two.
    q, k, v = column(1, 2, 1, -1), column(-1, 0, 1, -3), column(1, 2, 4, 8)
    got, facts = attend(q, k, v, scale=LN2, estimate="sabsmax", block_q=2, block_k=2)
    # Row 0 starts at max(-1, -3) = -1, the sink corrects it to 0, and there it stays although
    # the second block holds a 1: its weight is 2. Row 2 has its own block corrected to 1.
    # Row 3 starts at max(1, 3) = 3, its true maximum.
    assert sums["maximum"] == pytest.approx([0, 0, 1, 3], abs=1e-12)
    totals = [
        0.5 + 1 + 2 + 1 / 8,
        0.25 + 1 + 4 + 1 / 64,
        0.5 * (0.5 + 1) + 1 + 1 / 16,
        1 / 4 + 1 / 8 + 1 / 16 + 1,
    ]
    assert sums["total"] == pytest.approx(totals)
    outputs = [
        0.5 * 1 + 1 * 2 + 2 * 4 + 8 / 8,
        0.25 * 1 + 1 * 2 + 4 * 4 + 8 / 64,
        0.5 * (0.5 * 1 + 1 * 2) + 1 * 4 + 8 / 16,
        1 / 4 + 2 / 8 + 4 / 16 + 1 * 8,
    ]
    expected = [output / total for output, total in zip(outputs, totals, strict=True)]
    assert got.flatten().tolist() == pytest.approx(expected)
    assert facts == reference.Facts(num_rows=4, num_redone=0, num_tiles=4, num_skipped=0)


def test_algorithm_2_by_hand(sums):
    # Rows 2 and 3 start at 3 and 6; the sink block's best are 1 and 2 there: 2 and 4 too low.
    q, k, v = column(1, 2, -1, -2), column(-1, 0, 1, -3), column(1, 2, 4, 8)
    options = {"scale": LN2, "estimate": "sabsmax", "block_q": 2, "block_k": 2}
    got, facts = attend(q, k, v, skip=1.5 * LN2, **options)
    assert facts.num_skipped == 1
    assert sums["maximum"] == pytest.approx([0, 0, 3, 6], abs=1e-12)
    assert sums["total"][2:] == pytest.approx([1 / 16 + 1, 1 / 256 + 1])
    expected = [(4 / 16 + 8) / (1 / 16 + 1), (4 / 256 + 8) / (1 / 256 + 1)]
    assert got.flatten().tolist()[2:] == pytest.approx(expected)
    # The first two rows lie at their maximum in the sink and above it in the second block.
    assert torch.allclose(got[:, :, :2], attend(q, k, v, **options)[0][:, :, :2])
    # At 3 powers of two the fourth row votes alone: the tile stays.
    got, facts = attend(q, k, v, skip=3 * LN2, **options)
    assert facts.num_skipped == 0
    assert torch.allclose(got, attend(q, k, v, **options)[0])


@pytest.mark.parametrize("name", ["peaked", "sink"])
def test_a_large_skip_is_vfa_to_the_bit(name):
    q, k, v = make_inputs(name, batch=1, length=320)
    for precision in PRECISIONS:
        got, facts = attend(q, k, v, skip=1000.0, precision=precision)
        dense, dense_facts = attend(q, k, v, precision=precision)
        assert torch.equal(got, dense)
        assert facts == dense_facts


@pytest.mark.parametrize("estimate", ESTIMATES)
def test_skipping_costs_at_most_what_it_drops(estimate):
    q, k, v = make_inputs("peaked", batch=1, length=512, dtype=torch.float64)
    expected = exact(q, k, v)
    shares, errors = [], []
    for skip in (0.01, 6.0, 10.0, 14.0):
        got, facts = attend(q, k, v, skip=skip, estimate=estimate)
        shares.append(facts.num_skipped / facts.num_tiles)
        errors.append(relative_error(got, expected))
        dropped = 2 * 512 * math.exp(-skip) * float(v.abs().amax() / expected.norm(dim=-1).amin())
        assert errors[-1] < max(dropped, FLOAT64_ERROR)
    assert shares == sorted(shares, reverse=True)
    if estimate != "cauchy_schwarz":  # it drops so much that the guard redoes every row
        assert errors == sorted(errors, reverse=True)
    assert shares[0] > 0.5
    assert errors[0] < 0.3  # even so, the tile with a row's maximum stays
    assert errors[1] < 0.005
