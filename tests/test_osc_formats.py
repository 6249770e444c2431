"""Number formats and packed layers of OSC, against numbers worked out by hand."""

import dataclasses

import pytest
import torch

from astroray_kernels import pack_weights
from astroray_kernels.osc import formats

INT4 = ["int4_g32", "int4_g64", "int4_g128"]


def test_int8_codes_round_half_to_even_and_the_largest_gets_127():
    codes, scale = formats.encode(torch.tensor([[127.0, 0.5, 1.5, -2.5, -127.0, 126.6]]), "int8")
    assert codes.tolist() == [[127, 0, 2, -2, -127, 127]]
    assert codes.dtype == torch.int8
    assert scale.tolist() == [[1.0]]


def test_int8_has_one_scale_a_row():
    codes, scale = formats.encode(torch.tensor([[-254.0, 3.0, 5.0], [0.5, 0.25, 0.0]]), "int8")
    assert codes.tolist() == [[-127, 2, 2], [127, 64, 0]]  # 1.5, 2.5 and 63.5 go to the even one
    assert scale.tolist() == [[2.0], [pytest.approx(0.5 / 127)]]


@pytest.mark.parametrize("name", INT4)
def test_int4_has_these_fifteen_codes_and_a_nibble_of_two_s_complement_each(name):
    group = formats.FORMATS[name].group
    x = torch.zeros(1, 2 * group)
    x[0, :15] = torch.arange(-7.0, 8.0)
    x[0, group : group + 4] = torch.tensor([14.0, 1.0, 3.0, -5.0])  # halves of the step 2
    packed, scale = formats.encode(x, name)
    assert packed.shape == (1, group)
    assert packed.dtype == torch.uint8
    assert packed[0, :8].tolist() == [0xA9, 0xCB, 0xED, 0x0F, 0x21, 0x43, 0x65, 0x07]
    assert scale.tolist() == [[1.0, 2.0]]
    whole = formats.integers(packed, name)
    assert whole[0, :15].tolist() == list(range(-7, 8))
    assert whole[0, group : group + 4].tolist() == [7, 0, 2, -2]  # 0.5, 1.5, -2.5 to the even one


def test_int4_ties_go_to_the_even_code():
    x = torch.zeros(1, 32)
    x[0, :7] = torch.tensor([7.0, 0.5, 1.5, 2.5, -0.5, -1.5, 6.5])
    whole = formats.integers(formats.encode(x, "int4_g32")[0], "int4_g32")
    assert whole[0, :7].tolist() == [7, 0, 2, 2, 0, -2, 6]


def test_mxfp4_has_these_fifteen_codes_a_power_of_two_and_the_even_channel_in_the_low_bits():
    values = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    x = torch.tensor([values + [-value for value in values] + 16 * [0.0]])
    packed, scale = formats.encode(x, "mxfp4")
    assert packed[0, :8].tolist() == [0x10, 0x32, 0x54, 0x76, 0x90, 0xBA, 0xDC, 0xFE]  # -0 is 0
    assert packed[0, 8:].eq(0).all()
    assert scale.tolist() == [[1.0]]
    twice = formats.integers(packed, "mxfp4")
    assert twice[0, :16].tolist() == [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12]
    assert formats.unit("mxfp4") == 0.5


def test_mxfp4_ties_go_to_the_even_code_and_nothing_saturates():
    x = torch.zeros(2, 32)
    x[0, :8] = torch.tensor([6.0, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
    x[1, :3] = torch.tensor([6.1, -3.0, 0.5])  # 6.1 needs a scale of 2
    codes, scale = formats.encode(x, "mxfp4")
    assert formats.unpack_nibbles(codes)[0, :8].tolist() == [7, 0, 2, 2, 4, 4, 6, 6]
    assert scale.tolist() == [[1.0], [2.0]]
    assert formats.integers(codes, "mxfp4")[1, :3].tolist() == [6, -3, 0]


def row(*groups):
    """One row [1, 16 G] of groups that begin with these numbers."""
    return torch.tensor([[*group, *(16 - len(group)) * [0.0]] for group in groups]).reshape(1, -1)


def test_nvfp4_has_the_codes_of_mxfp4_ties_to_even_and_a_scale_for_16():
    values = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    ties = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0]
    x = row([*values, *(-value for value in values)], [*ties, *(-tie for tie in ties), 6.0])
    packed, scale = formats.encode(x, "nvfp4")
    assert packed[0, :8].tolist() == [0x10, 0x32, 0x54, 0x76, 0x90, 0xBA, 0xDC, 0xFE]  # -0 is 0
    ties_codes = [0, 2, 2, 4, 4, 6, 6, 0, 10, 10, 12, 12, 14, 14, 7, 0]
    assert formats.unpack_nibbles(packed)[0, 16:].tolist() == ties_codes
    assert scale.tolist() == [[1.0, 1.0]]
    twice = formats.integers(packed, "nvfp4")
    assert twice[0, :16].tolist() == [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12]
    assert formats.unit("nvfp4") == 0.5


def test_nvfp4_scales_are_e4m3_numbers_of_three_bits_times_the_one_that_gives_the_largest_448():
    largest = 6 * 448.0  # over the largest E4M3 number: the upper scale is 1
    x = row(
        [largest], [6.0], [6 * 1.0625], [6 * 1.1875], [6 * 1.19], [6 * 432.0], [6 * 1.5 * 2.0**-9]
    )
    scale = formats.encode(x, "nvfp4")[1]
    # 1.0625 and 1.1875 lie between two numbers of three bits, so do 1.5 of the smallest ones
    assert scale.tolist() == [[448.0, 1.0, 1.0, 1.25, 1.25, 448.0, 2.0**-8]]
    assert formats.encode(4 * x, "nvfp4")[1].tolist() == [[4 * one for one in scale[0].tolist()]]


def test_nvfp4_saturates_where_a_scale_was_rounded_down_and_small_groups_have_the_smallest_scale():
    smallest = 2.0**-9
    rounded_down = [15 * smallest, -15 * smallest, 12 * smallest]  # 2.5 smallest become 2
    x = row([6 * 448.0], rounded_down, [2.0 * smallest, 0.2 * smallest], [])
    codes, scale = formats.encode(x, "nvfp4")
    assert scale.tolist() == [[448.0, 2 * smallest, smallest, 1.0]]  # of zeros: 1
    twice = formats.integers(codes, "nvfp4")[0]
    assert twice[16:19].tolist() == [12, -12, 12]
    assert twice[32:34].tolist() == [4, 0]
    assert twice[48:].eq(0).all()


def test_nvfp4_weights_share_the_upper_scale_and_tokens_have_their_own():
    x = torch.cat([row([6 * 448.0], [6.0]), row([6.0], [6 * 0.03])])
    own, shared = (formats.encode(x, "nvfp4", is_whole=whole)[1] for whole in (False, True))
    assert shared.tolist() == [[448.0, 1.0], [1.0, 0.03125 - 2.0**-9]]
    assert own[0].tolist() == [448.0, 1.0]
    assert own[1].tolist() == pytest.approx([1.0, 13 / 448])  # 13.44 of them, rounded to 13
    for scale, is_whole, upper in ((own, False, [1.0, 1 / 448]), (shared, True, [1.0, 1.0])):
        lower_NG, upper_N = formats.levels(scale, is_whole=is_whole)
        assert upper_N.tolist() == pytest.approx(upper)
        assert lower_NG.dtype == torch.float8_e4m3fn
        torch.testing.assert_close(lower_NG.float() * upper_N[:, None], scale, rtol=1e-6, atol=0)
    packed = pack_weights(x, format="nvfp4")
    assert torch.equal(packed.scale_NG, shared)


@pytest.mark.parametrize("name", formats.FORMATS)
def test_zeros_have_scale_1_and_a_nan_or_an_infinity_has_scale_nan(name):
    x = torch.zeros(3, 128)
    x[1, 5], x[2, 5] = torch.nan, -torch.inf
    codes, scale = formats.encode(x, name)
    assert codes.eq(0).all()
    assert scale[0].eq(1).all()
    assert scale[1:, 0].isnan().all()
    spread = scale[1:, 1:].isnan()  # over all that share a scale
    assert spread.all() if name == "nvfp4" else not spread.any()
    assert not scale[0].isnan().any()


@pytest.mark.parametrize("name", formats.FORMATS)
@pytest.mark.parametrize("size", [1e-38, 1e-31, 1e-29, 3e38])
def test_the_smallest_and_the_largest_numbers_keep_their_codes_in_range(name, size):
    x = torch.full((1, 128), size)
    x[0, ::2] *= -1
    codes, scale = formats.encode(x, name)
    whole = formats.integers(codes, name)
    assert whole.abs().max() <= formats.FORMATS[name].largest
    assert scale.isfinite().all()
    assert (scale > 0).all()
    if size > formats.TINY:
        numbers = whole.double() * scale[0, 0].double() * formats.unit(name)
        torch.testing.assert_close(numbers, x.double(), rtol=0.26, atol=0)


def test_nibbles_are_packed_low_first_and_come_back():
    codes = torch.arange(16, dtype=torch.uint8)
    packed = formats.pack_nibbles(codes)
    assert packed.tolist() == [0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE]
    assert torch.equal(formats.unpack_nibbles(packed), codes)


def test_outlier_channels_leave_the_codes_before_the_scale_is_measured():
    weight = torch.tensor([[100.0, 7.0, -3.0] + 29 * [0.0]])
    packed = pack_weights(weight, format="int4_g32", outlier_channels=torch.tensor([0]))
    assert formats.integers(packed.codes, "int4_g32")[0, :3].tolist() == [0, 7, -3]
    assert packed.scale_NG.tolist() == [[1.0]]
    assert packed.outlier_ON.tolist() == [[100.0]]
    assert packed.outlier_ON.dtype == torch.bfloat16
    assert torch.equal(packed.numbers_NK(), weight)


@pytest.mark.parametrize(
    ("name", "num_bytes"),
    [
        ("int8", 64 * 256 + 64 * 4),
        ("int4_g32", 64 * 128 + 64 * 8 * 4),
        ("int4_g128", 64 * 128 + 64 * 2 * 4),
        ("mxfp4", 64 * 128 + 64 * 8),
        ("nvfp4", 64 * 128 + 64 * 16 + 4),
    ],
)
def test_bytes_are_those_of_codes_scales_outlier_rows_and_table(name, num_bytes):
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(1))
    assert pack_weights(weight, format=name).num_bytes == num_bytes
    three = pack_weights(weight, format=name, outlier_channels=torch.tensor([3, 77, 255]))
    assert three.num_bytes == num_bytes + 3 * 64 * 2 + 3 * 4
    assert (three.num_out, three.num_in) == (64, 256)


def test_channels_that_are_no_multiple_of_the_group_are_refused_with_what_fits():
    fits = r"48 input channels, expected a multiple of 32.*: int8, nvfp4$"
    with pytest.raises(ValueError, match=fits):
        pack_weights(torch.ones(8, 48), format="int4_g32")
    with pytest.raises(
        ValueError, match=r"multiple of 128.*: int8, int4_g32, int4_g64, mxfp4, nvfp4"
    ):
        pack_weights(torch.ones(8, 192), format="int4_g128")


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused_with_their_number(bad):
    weight = torch.ones(4, 32)
    weight[2, 3] = bad
    with pytest.raises(ValueError, match="weight_NK holds 1 NaN or infinite numbers of 128"):
        pack_weights(weight, format="int8")
    with pytest.raises(ValueError, match="bias_N holds 4 NaN or infinite numbers of 4"):
        pack_weights(torch.ones(4, 32), torch.full((4,), bad), format="int8")


@pytest.mark.parametrize(
    ("channels", "said"),
    [
        (torch.tensor([3, 3]), "ascending numbers of 0 to 31, none twice"),
        (torch.tensor([32]), "ascending numbers of 0 to 31"),
        (torch.tensor([-1, 4]), "ascending numbers of 0 to 31"),
        (torch.zeros(32, dtype=torch.bool), "not a mask"),
        (torch.tensor([1.0]), "of whole numbers"),
    ],
)
def test_tables_that_cannot_be_are_refused(channels, said):
    with pytest.raises(ValueError, match=said):
        pack_weights(torch.ones(4, 32), format="int8", outlier_channels=channels)


def test_weights_of_other_shapes_types_and_formats_are_refused():
    with pytest.raises(ValueError, match="format is 'int3', expected one of int8, int4_g32"):
        pack_weights(torch.ones(4, 32), format="int3")
    with pytest.raises(TypeError, match=r"weight_NK has dtype torch.int64"):
        pack_weights(torch.ones(4, 32, dtype=torch.int64), format="int8")
    with pytest.raises(ValueError, match=r"bias_N has shape \[3\]"):
        pack_weights(torch.ones(4, 32), torch.ones(3), format="int8")


def test_stored_tensors_that_do_not_fit_together_are_refused():
    packed = pack_weights(torch.ones(4, 64), torch.ones(4), format="int4_g32")
    with pytest.raises(ValueError, match=r"scale_NG is torch.float32 \[4, 1\], expected.*\[4, 2\]"):
        dataclasses.replace(packed, scale_NG=packed.scale_NG[:, :1])
    with pytest.raises(ValueError, match=r"codes is torch.int8"):
        dataclasses.replace(packed, codes=packed.codes.view(torch.int8))
    with pytest.raises(ValueError, match=r"outlier_ON is torch.bfloat16"):
        dataclasses.replace(packed, outlier_O=torch.tensor([1]))
    with pytest.raises(ValueError, match="format is 'fp4'"):
        dataclasses.replace(packed, format="fp4")
