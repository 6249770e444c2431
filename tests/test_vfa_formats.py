"""Number formats of low-bit attention, against numbers worked out by hand."""

import math

import pytest
import torch

from astroray_kernels.vfa import formats
from astroray_kernels.vfa.operands import prepare


def test_int8_codes_round_half_to_even_and_the_largest_gets_127():
    codes, scale = formats.int8_codes(torch.tensor([[127.0, 0.5, 1.5, -2.5, -127.0, 126.6]]), -1)
    assert codes.tolist() == [[127, 0, 2, -2, -127, 127]]
    assert scale.tolist() == [[1.0]]
    codes, scale = formats.int8_codes(torch.tensor([[-254.0, 3.0], [0.25, 0.125]]), -1)
    assert codes.tolist() == [[-127, 2], [127, 64]]  # 1.5 and 63.5 go to the even neighbor
    assert scale.tolist() == [[2.0], [pytest.approx(0.25 / 127)]]


def test_a_row_of_zeros_has_scale_1_and_a_nan_stays_one():
    codes, scale = formats.int8_codes(torch.tensor([[0.0, 0.0], [1.0, torch.nan]]), -1)
    assert codes[0].tolist() == [0, 0]
    assert scale[0].item() == 1.0
    assert torch.isnan(codes[1] * scale[1]).all()


def test_the_smallest_numbers_do_not_overflow_their_codes():
    codes, _ = formats.int8_codes(torch.tensor([[1e-45, -1e-45]]), -1)
    assert codes.abs().max() <= 127


def test_64_keys_share_a_scale_and_the_last_group_may_be_short():
    k = torch.zeros(1, 1, 70, 2)
    k[..., 3, 1] = -127.0
    k[..., 3, 0] = 1.4
    k[..., 69, 0] = 254.0
    codes, scale = formats.int8_key_groups(k)
    assert codes.shape == k.shape
    assert scale.shape == (1, 1, 70, 1)
    assert scale[0, 0, :64].eq(1).all()
    assert scale[0, 0, 64:].eq(2).all()
    assert codes[0, 0, 3].tolist() == [1, -127]
    assert codes[0, 0, 69].tolist() == [127, 0]


def test_scores_of_int8_are_exact_integer_sums():
    generator = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(2, 2, 100, 128, generator=generator) for _ in range(3))
    operands = prepare(q, k, v, scale=1 / math.log2(math.e), mask_BN=None, precision="int8_qk")
    q_codes, q_scale = formats.int8_codes(q, dim=-1)
    k_codes, k_scale = formats.int8_key_groups(k - k.mean(dim=2, keepdim=True))
    sums = torch.einsum("bhnd,bhmd->bhnm", q_codes.int(), k_codes.int())  # int32
    got = operands.scores_BHMK(slice(0, 100), slice(0, 100))
    torch.testing.assert_close(got, sums.float() * (q_scale * k_scale.mT), rtol=1e-6, atol=0)
    assert torch.equal(operands.q_BHND @ operands.k_BHND.mT, sums.double())


def test_uint8_weights_end_at_255_and_then_overflow_visibly():
    exponent = torch.tensor([0.0, -1.0, -9.0, -torch.inf, 0.0028, 0.01, 300.0])
    expected = [255, 128, 0, 0, 255, math.inf, math.inf]  # 127.5 goes to the even neighbor
    assert formats.uint8_weights(exponent).tolist() == expected


def test_e2m1_has_these_sixteen_numbers():
    values = formats.e2m1_values(torch.arange(16, dtype=torch.uint8), torch.float32)
    assert values[:8].tolist() == [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    assert values[8:].tolist() == [0, -0.5, -1, -1.5, -2, -3, -4, -6]
    assert torch.equal(formats.e2m1_codes(values)[:8], torch.arange(8, dtype=torch.uint8))
    assert torch.equal(formats.e2m1_codes(values)[8:], torch.arange(8, 16, dtype=torch.uint8))


def test_e2m1_ties_go_to_the_even_code_and_the_rest_to_the_nearest():
    ties = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
    assert formats.e2m1_codes(ties).tolist() == [0, 2, 2, 4, 4, 6, 6]
    assert formats.e2m1_codes(-ties).tolist() == [8, 10, 10, 12, 12, 14, 14]
    assert formats.e2m1_codes(torch.nextafter(ties, ties + 1)).tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert formats.e2m1_codes(torch.nextafter(ties, ties - 1)).tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert formats.e2m1_codes(torch.tensor([7.9, 1e30, -100.0])).tolist() == [7, 7, 15]


def test_e8m0_is_the_smallest_power_of_two_that_saturates_nothing():
    amax = torch.tensor([6.0, 6.001, 3.0, 3.001, 1.0, 12.0, 0.0, 2.0**-140, 3e38])
    codes = formats.e8m0_codes(amax)
    assert codes.tolist() == [127, 128, 126, 127, 125, 128, 127, 0, 253]
    values = formats.e8m0_values(codes, torch.float32)
    assert values[:7].tolist() == [1, 2, 0.5, 1, 0.25, 2, 1]
    assert values[7].item() == 2.0**-127
    assert (amax <= 6 * values).all()


def test_e8m0_has_a_nan_and_spreads_it_over_its_group():
    codes = formats.e8m0_codes(torch.tensor([torch.nan, torch.inf]))
    assert codes.tolist() == [255, 255]
    x = torch.ones(64)
    x[3] = torch.inf
    rounded = formats.round_to_mxfp4(x, dim=0)
    assert rounded[:32].isnan().all()
    assert rounded[32:].eq(1).all()


def test_mxfp4_groups_32_numbers_along_the_asked_axis():
    x = torch.zeros(40, 2)
    x[0, 0], x[1, 0], x[31, 0] = 6.0, 0.3, -2.6
    x[32, 0], x[39, 0] = 96.0, 9.0
    x[0, 1] = 0.75
    rounded = formats.round_to_mxfp4(x, dim=0)
    assert rounded.shape == x.shape
    assert rounded[[0, 1, 31, 32, 39], 0].tolist() == [6.0, 0.5, -3.0, 96.0, 8.0]
    assert rounded[0, 1].item() == 0.75
    codes, scales = formats.mxfp4_codes(x.T.contiguous())
    assert codes.shape == (2, 2, 32)
    assert scales[..., 0].tolist() == [[127, 131], [124, 127]]
    assert codes[0, 0, 31].item() == 13
    assert torch.equal(formats.round_to_mxfp4(rounded, dim=0), rounded)
