"""Quantized linear layers in Triton: one kernel that quantizes tokens, one that multiplies them.

Letters: M tokens, K input channels, N output channels, G groups.
"""

import triton
import triton.language as tl

INFINITY = tl.constexpr(0x7F800000)
TINY = tl.constexpr(2.0**-100)
MX_GROUP, NV_GROUP = tl.constexpr(32), tl.constexpr(16)
E2M1 = tl.constexpr("e2m1")  # the format of codes, as `tl.dot_scaled` calls it
ROUND = tl.constexpr(12582912.0)  # adding and taking away 1.5 * 2**23 rounds half to even


@triton.jit
def quantize_tokens(
    x_ptr, kept_ptr, outlier_ptr, codes_ptr, scale_ptr, token_outlier_ptr,
    stride, K, G, num_outliers,
    BLOCK_K: tl.constexpr, GROUP: tl.constexpr, BLOCK_O: tl.constexpr,
    BITS: tl.constexpr, IS_FLOAT: tl.constexpr, HAS_LEVELS: tl.constexpr, LARGEST: tl.constexpr,
):  # fmt: skip
    """One token: outliers gathered and left out, the rest scaled, rounded and packed.

    Compiled without fused multiply-adds: `x * inverse + ROUND` must round twice.
    """
    token = tl.program_id(0).to(tl.int64)
    row_ptr = x_ptr + token * stride
    o = tl.arange(0, BLOCK_O)
    place = tl.load(outlier_ptr + o, mask=o < num_outliers, other=0)
    outlier = tl.load(row_ptr + place, mask=o < num_outliers, other=0.0).to(tl.float32)
    half = _bfloat16_bits(outlier)
    tl.store(
        token_outlier_ptr + token * num_outliers + o, half.to(tl.uint16), mask=o < num_outliers
    )
    k = tl.arange(0, BLOCK_K)
    kept = tl.load(kept_ptr + k, mask=k < K, other=0)
    x = tl.load(row_ptr + k, mask=kept > 0, other=0.0).to(tl.float32)
    size = x.to(tl.int32, bitcast=True) & 0x7FFFFFFF  # NaN above infinity above all numbers
    is_good = (tl.max(size, axis=0) < INFINITY) & (tl.max(half & 0x7F80, axis=0) < 0x7F80)
    top_G = tl.max(tl.reshape(size, (BLOCK_K // GROUP, GROUP)), axis=1)
    if HAS_LEVELS:
        scale_G, inverse_G = _two_level_step(top_G)
    elif IS_FLOAT:
        scale_G, inverse_G = _power_step(top_G)
    else:
        scale_G, inverse_G = _integer_step(top_G, LARGEST)
    inverse_G = tl.where(is_good, inverse_G, 0.0)
    x_GK = tl.reshape(tl.where(is_good, x, 0.0), (BLOCK_K // GROUP, GROUP))
    scaled = tl.reshape(x_GK * inverse_G[:, None], (BLOCK_K,))
    codes = _e2m1_codes(scaled) if IS_FLOAT else ((scaled + ROUND) - ROUND).to(tl.int32)
    if BITS == 8:
        tl.store(codes_ptr + token * K + k, codes.to(tl.int8), mask=k < K)
    else:
        low, high = tl.split(tl.reshape(codes & 15, (BLOCK_K // 2, 2)))
        pair = tl.arange(0, BLOCK_K // 2)
        packed = (low | (high << 4)).to(tl.uint8)
        tl.store(codes_ptr + token * (K // 2) + pair, packed, mask=pair < K // 2)
    g = tl.arange(0, BLOCK_K // GROUP)
    scale_G = tl.where(is_good, scale_G, float("nan"))
    tl.store(scale_ptr + token * G + g, scale_G, mask=g < G)


@triton.jit
def multiply(
    a_ptr, b_ptr, a_scale_ptr, b_scale_ptr, a_outlier_ptr, b_outlier_ptr, bias_ptr, y_ptr,
    a_power_ptr, b_power_ptr, a_upper_ptr, b_upper_ptr,
    M, N, K, G, num_outliers,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
    BITS: tl.constexpr, IS_FLOAT: tl.constexpr, GROUPED: tl.constexpr, SCALED: tl.constexpr,
    HAS_LEVELS: tl.constexpr, HAS_OUTLIERS: tl.constexpr, HAS_BIAS: tl.constexpr,
    GELU: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """A tile of act(x W^T + bias): whole numbers, then the outliers, then the rest, then stored.

    SCALED      E2M1 and E8M0 or E4M3 go to the matrix unit as they are (sm_100)
    GROUPED     BLOCK_K is a group, whose sums are scaled before the next
    HAS_LEVELS  scales are E4M3, and one of all the token; where not SCALED, E2M1 times E4M3 goes to
                the matrix unit as bfloat16, which has it exactly
    """
    m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    row_bytes = K * BITS // 8
    BYTES: tl.constexpr = BLOCK_K * BITS // 8
    k = tl.arange(0, BYTES)
    a_ptrs = a_ptr + m[:, None] * row_bytes + k[None, :]
    b_ptrs = b_ptr + n[None, :] * row_bytes + k[:, None]
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    whole = tl.zeros((BLOCK_M, BLOCK_N), tl.int32)
    for step in tl.range(0, tl.cdiv(K, BLOCK_K), num_stages=STAGES):
        left = row_bytes - step * BYTES
        a = tl.load(a_ptrs, mask=(m[:, None] < M) & (k[None, :] < left), other=0)
        b = tl.load(b_ptrs, mask=(n[None, :] < N) & (k[:, None] < left), other=0)
        a_ptrs += BYTES
        b_ptrs += BYTES
        if SCALED:
            total = _add_scaled(
                total, a, b, a_power_ptr, b_power_ptr, m, n, step, M, N, G, BLOCK_K, HAS_LEVELS
            )
        elif HAS_LEVELS:
            total = _add_widened(
                total, a, b, a_scale_ptr, b_scale_ptr, m, n, step, M, N, G,
                BLOCK_M, BLOCK_N, BLOCK_K, INTERPRET,
            )  # fmt: skip
        else:
            if BITS == 4:
                a = _unpack_rows(a, BLOCK_M, BLOCK_K, IS_FLOAT)
                b = tl.trans(_unpack_rows(tl.trans(b), BLOCK_N, BLOCK_K, IS_FLOAT))
            if GROUPED:
                total = _add_group(total, a, b, a_scale_ptr, b_scale_ptr, m, n, step, M, N, G)
            else:
                whole = tl.dot(a, b, whole, out_dtype=tl.int32)
    a_scale = tl.load(a_scale_ptr + m * G, mask=m < M, other=0.0)
    if HAS_LEVELS:
        total = _with_upper_scales(total, a_upper_ptr, b_upper_ptr, m, n, M, N)
    elif not GROUPED and not SCALED:
        b_scale = tl.load(b_scale_ptr + n * G, mask=n < N, other=0.0)
        total = whole.to(tl.float32) * a_scale[:, None] * b_scale[None, :]
    if HAS_OUTLIERS:
        total = _add_outliers(
            total, a_outlier_ptr, b_outlier_ptr, m, n, M, N, num_outliers, INTERPRET
        )
    total = tl.where((a_scale == a_scale)[:, None], total, float("nan"))
    _finish(total, bias_ptr, y_ptr, m, n, M, N, HAS_BIAS, GELU)


@triton.jit
def _finish(
    total, bias_ptr, y_ptr, m, n, M, N, HAS_BIAS: tl.constexpr, GELU: tl.constexpr
):  # fmt: skip
    """Bias, activation and type of a tile, which is stored."""
    if HAS_BIAS:
        total += tl.load(bias_ptr + n, mask=n < N, other=0.0)[None, :]
    if GELU:
        total = 0.5 * total * (1.0 + tl.erf(total * 0.7071067811865476))
    y = total.to(y_ptr.dtype.element_ty)
    is_in = (m[:, None] < M) & (n[None, :] < N)
    tl.store(y_ptr + m[:, None] * N + n[None, :], y, mask=is_in)


@triton.jit
def _with_upper_scales(total, a_upper_ptr, b_upper_ptr, m, n, M, N):
    """The products times the upper scales, one of a token and one of all weights."""
    a_upper = tl.load(a_upper_ptr + m, mask=m < M, other=0.0)
    b_upper = tl.load(b_upper_ptr + n, mask=n < N, other=0.0)
    return total * a_upper[:, None] * b_upper[None, :]


@triton.jit
def _add_group(total, a, b, a_scale_ptr, b_scale_ptr, m, n, step, M, N, G):
    """The products of a group of whole numbers, times its scales."""
    part = tl.dot(a, b, out_dtype=tl.int32)
    a_scale = tl.load(a_scale_ptr + m * G + step, mask=m < M, other=0.0)
    b_scale = tl.load(b_scale_ptr + n * G + step, mask=n < N, other=0.0)
    return total + part.to(tl.float32) * b_scale[None, :] * a_scale[:, None]


@triton.jit
def _add_scaled(
    total, a, b, a_power_ptr, b_power_ptr, m, n, step, M, N, G,
    BLOCK_K: tl.constexpr, HAS_LEVELS: tl.constexpr,
):  # fmt: skip
    """A step of products by the matrix unit that takes E2M1 and its scales."""
    PER_SCALE: tl.constexpr = NV_GROUP if HAS_LEVELS else MX_GROUP
    g = step * (BLOCK_K // PER_SCALE) + tl.arange(0, BLOCK_K // PER_SCALE)
    a_power = _load_scales(a_power_ptr, m, g, M, G)
    b_power = _load_scales(b_power_ptr, n, g, N, G)
    if HAS_LEVELS:
        a_power = a_power.to(tl.float8e4nv, bitcast=True)
        b_power = b_power.to(tl.float8e4nv, bitcast=True)
    return tl.dot_scaled(a, a_power, E2M1, b, b_power, E2M1, total)


@triton.jit
def _add_widened(
    total, a, b, a_scale_ptr, b_scale_ptr, m, n, step, M, N, G,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """A step of products of E2M1 times E4M3, which bfloat16 has exactly."""
    g = step * (BLOCK_K // NV_GROUP) + tl.arange(0, BLOCK_K // NV_GROUP)
    a_scale = _load_scales(a_scale_ptr, m, g, M, G)
    b_scale = _load_scales(b_scale_ptr, n, g, N, G)
    a = _widen_rows(a, a_scale, BLOCK_M, BLOCK_K, INTERPRET)
    b = tl.trans(_widen_rows(tl.trans(b), b_scale, BLOCK_N, BLOCK_K, INTERPRET))
    if INTERPRET:
        return total + tl.dot(a, b, input_precision="ieee")
    return tl.dot(a, b, total)


@triton.jit
def _load_scales(scales_ptr, row, group, num_rows, num_groups):
    """Scales, or their codes, of some rows and groups."""
    is_in = (row[:, None] < num_rows) & (group[None, :] < num_groups)
    return tl.load(scales_ptr + row[:, None] * num_groups + group[None, :], mask=is_in, other=0)


@triton.jit
def _add_outliers(
    total, a_outlier_ptr, b_outlier_ptr, m, n, M, N, num_outliers, INTERPRET: tl.constexpr
):
    """The products of the outlier channels, 32 at a time, on top of a tile."""
    for first in tl.range(0, num_outliers, 32):
        o = first + tl.arange(0, 32)
        a = tl.load(
            a_outlier_ptr + m[:, None] * num_outliers + o[None, :],
            mask=(m[:, None] < M) & (o[None, :] < num_outliers), other=0.0,
        )  # fmt: skip
        b = tl.load(
            b_outlier_ptr + o[:, None].to(tl.int64) * N + n[None, :],
            mask=(n[None, :] < N) & (o[:, None] < num_outliers), other=0.0,
        )  # fmt: skip
        if INTERPRET:  # its product of bfloat16 multiplies bit patterns
            total += tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
        else:
            total = tl.dot(a, b, total)
    return total


@triton.jit
def _bfloat16_bits(x):
    """The bits of numbers in bfloat16, half to even; NaN stays one."""
    bits = x.to(tl.uint32, bitcast=True)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return tl.where(x == x, rounded, 0x7FC0).to(tl.int32)


@triton.jit
def _integer_step(top, LARGEST: tl.constexpr):
    """Scales, and what numbers are multiplied with, by the bits of the largest magnitudes."""
    amax = top.to(tl.float32, bitcast=True)
    is_zero = amax < TINY
    some = tl.where(is_zero, 1.0, amax)
    most = tl.full(top.shape, LARGEST, tl.float32)
    scale = tl.where(is_zero, 1.0, tl.div_rn(some, most))
    return scale, tl.where(is_zero, 0.0, tl.div_rn(most, some))


@triton.jit
def _power_step(top):
    """The smallest powers of two, 2^-127 to 2^127, with amax <= 6 of them, and their inverses."""
    exponent = (top >> 23) - 129 + ((top & 0x7FFFFF) > 0x400000).to(tl.int32)
    exponent = tl.where(top == 0, 0, tl.maximum(exponent, -127))
    bits = tl.where(exponent == -127, 0x400000, (exponent + 127) << 23)
    scale = bits.to(tl.float32, bitcast=True)
    inverse = ((127 - exponent) << 23).to(tl.float32, bitcast=True)
    return scale, inverse


@triton.jit
def _two_level_step(top):
    """E4M3 numbers times the upper scale of the token, and inverses; see osc/formats.py."""
    amax = top.to(tl.float32, bitcast=True)
    most = tl.max(amax, axis=0)
    upper = tl.where(most < TINY, 1.0, tl.div_rn(most, tl.full((), 2688.0, tl.float32)))
    six = tl.full(top.shape, 6.0, tl.float32)
    wanted = tl.div_rn(tl.div_rn(amax, six), tl.zeros_like(amax) + upper)
    wanted = tl.minimum(tl.maximum(wanted, 0.001953125), 448.0)
    exponent = tl.maximum((wanted.to(tl.int32, bitcast=True) >> 23) - 127, -6)
    step = ((exponent + 124) << 23).to(tl.float32, bitcast=True)  # an eighth of the power of two
    per_step = ((130 - exponent) << 23).to(tl.float32, bitcast=True)
    lower = ((wanted * per_step + ROUND) - ROUND) * step
    is_zero = amax < TINY
    scale = tl.where(is_zero, 1.0, lower) * upper
    return scale, tl.where(is_zero, 0.0, tl.div_rn(tl.full(top.shape, 1.0, tl.float32), scale))


@triton.jit
def _e2m1_codes(scaled):
    """Codes 0 to 15 of numbers, ties to the even code, 6 beyond it; zero has one."""
    twice = tl.abs(scaled) * 2.0
    by_one = (twice + ROUND) - ROUND  # halves up to 2: as codes 0 to 4
    by_two = (twice * 0.5 + ROUND) - ROUND  # 2, 3, 4: codes 4, 5, 6
    by_four = tl.minimum((twice * 0.25 + ROUND) - ROUND, 3.0)  # 4, 6: codes 6, 7
    code = tl.where(twice < 4.0, by_one, tl.where(twice < 8.0, by_two + 2.0, by_four + 4.0))
    code = code.to(tl.int32)
    return tl.where((scaled < 0) & (code > 0), code + 8, code)


@triton.jit
def _unpack_rows(packed, ROWS: tl.constexpr, BLOCK_K: tl.constexpr, IS_FLOAT: tl.constexpr):
    """The whole numbers int8 [ROWS, BLOCK_K] of nibbles [ROWS, BLOCK_K / 2], low ones first."""
    both = tl.join(packed & 15, packed >> 4)
    codes = tl.reshape(both, (ROWS, BLOCK_K)).to(tl.int8)
    if IS_FLOAT:
        size = codes & 7
        twice = tl.where(size < 5, size, tl.where(size == 7, 12, size * 2 - 4))
        return tl.where(codes > 7, -twice, twice).to(tl.int8)
    return ((codes ^ 8) - 8).to(tl.int8)


@triton.jit
def _widen_rows(packed, scale, ROWS: tl.constexpr, BLOCK_K: tl.constexpr, INTERPRET: tl.constexpr):
    """E2M1 times the E4M3 scale of 16, [ROWS, BLOCK_K], of nibbles [ROWS, BLOCK_K / 2]."""
    twice = _unpack_rows(packed, ROWS, BLOCK_K, True).to(tl.float32)
    x = tl.reshape(twice, (ROWS, BLOCK_K // NV_GROUP, NV_GROUP)) * (0.5 * scale[:, :, None])
    x = tl.reshape(x, (ROWS, BLOCK_K))
    return x if INTERPRET else x.to(tl.bfloat16)
