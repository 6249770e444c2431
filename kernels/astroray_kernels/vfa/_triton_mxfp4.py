"""The Triton kernels of MXFP4 attention: both products on 4-bit floats, made for sm_100.

Numbers are E2M1 in groups of 32 that share an E8M0 scale, the smallest power of two with which
none of them is beyond 6; codes round to nearest, ties to even (see `formats`). Queries and keys
are grouped along channels, weights and values along keys.

A group of weights has its own power of two, which replaces the range that fp32 weights would have:
exp2 gives them already divided by their scale. That takes the largest score of each group, so this
loop keeps maxima, but neither lanes nor the accumulator know of them.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from astroray_kernels.vfa import guard
from astroray_kernels.vfa._triton_steps import (
    Build,
    KeysValues,
    _attend_online,
    _certified,
    _load_rows,
    _program,
    _row_total,
    _store_rows,
    _valid_keys,
)

GROUP: tl.constexpr = tl.constexpr(32)
"""Numbers that share a scale."""
E2M1: tl.constexpr = tl.constexpr("e2m1")
"""The format of codes, as `tl.dot_scaled` calls it."""
ZERO_MAY_BE_CONSTANT: tl.constexpr = tl.constexpr(
    tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 9)
)
"""Before, Triton fails to compile a block-scaled product of a loop that starts from such a zero."""
LOG2_OF_ONE_AND_A_HALF: tl.constexpr = tl.constexpr(0.5849625)
LEAST_EXPONENT: tl.constexpr = tl.constexpr(-124)
MOST_EXPONENT: tl.constexpr = tl.constexpr(120)
"""Of a weight group. Above, codes saturate at 6: then the row sum is beyond its window."""


@triton.jit
def _e2m1_codes(x):
    """Codes 0 .. 15 of numbers divided by their scale; beyond 6 they saturate."""
    rounder = 12582912.0  # 1.5 * 2**23: what is added to it loses its fraction, ties to even
    size = tl.minimum(tl.abs(x), 6.0)
    # Steps of 1/2 below 2, of 1 below 4, of 2 above: the even number is the even code in each.
    fine = size * 2.0 + rounder - rounder
    middle = size + rounder - rounder + 2.0
    coarse = size * 0.5 + rounder - rounder + 4.0
    code = tl.where(size < 2.0, fine, tl.where(size < 4.0, middle, coarse))
    return code.to(tl.uint8) + tl.where(x < 0, 8, 0).to(tl.uint8)


@triton.jit
def _packed(codes):
    """Two codes a byte along the last axis [M, N] -> [M, N / 2], the first one in the low bits."""
    low, high = tl.split(tl.reshape(codes, (codes.shape[0], codes.shape[1] // 2, 2)))
    return low | (high << 4)


@triton.jit
def _packed_weights(p, INTERPRET: tl.constexpr):
    """Numbers 0 .. 6 as packed codes; on a GPU by the instruction for it, eight at a time."""
    if INTERPRET:
        return _packed(_e2m1_codes(p))
    low, high = tl.split(tl.reshape(p, (p.shape[0], p.shape[1] // 2, 2)))
    return tl.inline_asm_elementwise(
        """{
        .reg .b8 b0, b1, b2, b3;
        cvt.rn.satfinite.e2m1x2.f32 b0, $5, $1;
        cvt.rn.satfinite.e2m1x2.f32 b1, $6, $2;
        cvt.rn.satfinite.e2m1x2.f32 b2, $7, $3;
        cvt.rn.satfinite.e2m1x2.f32 b3, $8, $4;
        mov.b32 $0, {b0, b1, b2, b3};
        }""",
        "=r,r,r,r,r,r,r,r,r",
        [low, high],
        dtype=tl.uint8,
        is_pure=True,
        pack=4,
    )


@triton.jit
def _mxfp4(x):
    """Packed codes [M, N / 2] and scale codes [M, N / 32] of numbers [M, N], groups along N."""
    groups: tl.constexpr = x.shape[1] // GROUP
    x3 = tl.reshape(x, (x.shape[0], groups, GROUP))
    amax = tl.max(tl.abs(x3), axis=2)
    # A maximum does not see a NaN; the sum does, and is worth nothing otherwise.
    amax += 0.0 * tl.sum(x3, axis=2)
    bits = amax.to(tl.int32, bitcast=True)
    is_finite = amax < float("inf")
    # A mantissa above 1.5 carries into the exponent: the next power of two, over 4.
    scale = tl.where(amax == 0.0, 127, tl.maximum(((bits + 0x3FFFFF) >> 23) - 2, 0))
    power = ((254 - tl.where(is_finite, scale, 127)) << 23).to(tl.float32, bitcast=True)
    x3 = tl.where(is_finite[:, :, None], x3 * power[:, :, None], 0.0)
    codes = _e2m1_codes(tl.reshape(x3, (x.shape[0], x.shape[1])))
    return _packed(codes), tl.where(is_finite, scale, 255).to(tl.uint8)


@triton.jit
def quantize_keys_values(
    k_ptr, v_ptr, mean_ptr, mask_ptr, k_codes_ptr, k_scale_ptr, v_codes_ptr, v_scale_ptr,
    norm_ptr, heads, length, num_padded, k_stride_b, k_stride_h, k_stride_n, v_stride_b,
    v_stride_h, v_stride_n, DIM: tl.constexpr, D: tl.constexpr, BLOCK_N: tl.constexpr,
    HAS_MASK: tl.constexpr,
):  # fmt: skip
    """MXFP4 of one block of keys, less their mean, and of its values; zeros at masked keys.

    k_codes  [B H, padded, D / 2]   k_scale  [B H, padded, D / 32]
    v_codes  [B H, D, padded / 2]   v_scale  [B H, D, padded / 32]: values lie along keys
    norm     [B H, padded / BLOCK_N]  the largest norm of a key, NaN if there is a NaN
    """
    num_blocks = num_padded // BLOCK_N
    bh = tl.program_id(0) // num_blocks
    block = tl.program_id(0) % num_blocks
    b = (bh // heads).to(tl.int64)
    h = (bh % heads).to(tl.int64)
    wide = bh.to(tl.int64)
    d = tl.arange(0, D)
    n = (block * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    valid = _valid_keys(mask_ptr + b * length, block * BLOCK_N, length, BLOCK_N, HAS_MASK)
    k_ptr += b * k_stride_b + h * k_stride_h
    k = _load_rows(k_ptr, block * BLOCK_N, k_stride_n, valid, BLOCK_N, DIM, D, True)
    mean = tl.load(mean_ptr + wide * D + d)
    k = tl.where(valid[:, None], k.to(tl.float32) - mean[None, :], 0.0)
    norm = tl.sqrt(tl.sum(k * k, axis=1))
    tl.store(norm_ptr + tl.program_id(0), tl.max(norm, axis=0) + 0.0 * tl.sum(norm, axis=0))
    codes, scale = _mxfp4(k)
    half = tl.arange(0, D // 2)
    tl.store(k_codes_ptr + (wide * num_padded + n[:, None]) * (D // 2) + half[None, :], codes)
    group = tl.arange(0, D // GROUP)
    tl.store(k_scale_ptr + (wide * num_padded + n[:, None]) * (D // GROUP) + group[None, :], scale)

    v_ptr += b * v_stride_b + h * v_stride_h
    v = _load_rows(v_ptr, block * BLOCK_N, v_stride_n, valid, BLOCK_N, DIM, D, True)
    codes, scale = _mxfp4(tl.trans(v.to(tl.float32)))
    row = wide * D + d[:, None]
    half = block * (BLOCK_N // 2) + tl.arange(0, BLOCK_N // 2)
    tl.store(v_codes_ptr + row * (num_padded // 2) + half[None, :], codes)
    group = block * (BLOCK_N // GROUP) + tl.arange(0, BLOCK_N // GROUP)
    tl.store(v_scale_ptr + row * (num_padded // GROUP) + group[None, :], scale)


@triton.jit
def _attend_mxfp4(
    q, q_scale, m, acc, total, k_codes_ptr, k_scale_ptr, v_codes_ptr, v_scale_ptr,
    mask_ptr, length, num_padded, first, last, BLOCK_N: tl.constexpr, D: tl.constexpr,
    MASKED: tl.constexpr, HAS_MASK: tl.constexpr, STAGES: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """Adds key blocks first .. last to (acc, total), m [M, 1] being frozen."""
    M: tl.constexpr = acc.shape[0]
    d = tl.arange(0, D)
    n = tl.arange(0, BLOCK_N)
    group = tl.arange(0, BLOCK_N // GROUP)
    ones = tl.full((BLOCK_N // 2, 16), 0x22, tl.uint8)  # two codes of 1
    ones_scale = tl.full((16, BLOCK_N // GROUP), 127, tl.uint8)
    k_half = n[:, None] * (D // 2) + tl.arange(0, D // 2)[None, :]
    k_group = n[:, None] * (D // GROUP) + tl.arange(0, D // GROUP)[None, :]
    v_half = d[:, None].to(tl.int64) * (num_padded // 2) + tl.arange(0, BLOCK_N // 2)[None, :]
    v_group = d[:, None].to(tl.int64) * (num_padded // GROUP) + group[None, :]
    for block in tl.range(first, last, num_stages=STAGES):
        start = tl.cast(block, tl.int64) * BLOCK_N
        k = tl.load(k_codes_ptr + start * (D // 2) + k_half)
        k_scale = tl.load(k_scale_ptr + start * (D // GROUP) + k_group)
        if ZERO_MAY_BE_CONSTANT:
            raw = tl.dot_scaled(q, q_scale, E2M1, tl.trans(k), k_scale, E2M1)
        else:
            zero = tl.broadcast_to(0.0 * m, (M, BLOCK_N))
            raw = tl.dot_scaled(q, q_scale, E2M1, tl.trans(k), k_scale, E2M1, zero)
        if MASKED:
            valid = _valid_keys(mask_ptr, block * BLOCK_N, length, BLOCK_N, HAS_MASK)
            raw = tl.where(valid[None, :], raw, float("-inf"))
        raw = tl.reshape(raw, (M, BLOCK_N // GROUP, GROUP))
        # The largest weight of a group becomes 3 .. 6 of its scale, as the rule has it.
        exponent = tl.ceil(tl.max(raw, axis=2) - m - LOG2_OF_ONE_AND_A_HALF)
        exponent = tl.minimum(tl.maximum(exponent, LEAST_EXPONENT), MOST_EXPONENT)
        p = tl.exp2(raw - (m + exponent - 2.0)[:, :, None])
        codes = _packed_weights(tl.reshape(p, (M, BLOCK_N)), INTERPRET)
        p_scale = (exponent + 125.0).to(tl.uint8)
        v = tl.load(v_codes_ptr + start // 2 + v_half)
        v_scale = tl.load(v_scale_ptr + start // GROUP + v_group)
        acc = tl.dot_scaled(codes, p_scale, E2M1, tl.trans(v), v_scale, E2M1, acc)
        total = tl.dot_scaled(codes, p_scale, E2M1, ones, ones_scale, E2M1, total)
    return acc, total


@triton.jit
def mxfp4_forward(
    q_ptr, k_ptr, v_ptr, out_ptr, mask_ptr, k_codes_ptr, k_scale_ptr, v_codes_ptr, v_scale_ptr,
    bound_ptr, facts_ptr, heads, length, num_padded, q_stride_b, q_stride_h, q_stride_n,
    k_stride_b, k_stride_h, k_stride_n, v_stride_b, v_stride_h, v_stride_n, scale_log2, l_lo,
    l_hi, DIM: tl.constexpr, D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    HAS_MASK: tl.constexpr, STAGES: tl.constexpr, RECORD: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """Attention of BLOCK_M query rows with m = |q| max |k - mean|; failed tiles in the type of k.

    Arguments as in `vfa_forward` and `quantize_keys_values`; bound [B H]: the longest key.
    """
    bh, b, h, q_start = _program(heads, length, BLOCK_M)
    wide = bh.to(tl.int64)
    q_ptr += b * q_stride_b + h * q_stride_h
    k_ptr += b * k_stride_b + h * k_stride_h
    v_ptr += b * v_stride_b + h * v_stride_h
    mask_ptr += b * length
    k_codes_ptr += wide * num_padded * (D // 2)
    k_scale_ptr += wide * num_padded * (D // GROUP)
    v_codes_ptr += wide * num_padded * (D // 2)
    v_scale_ptr += wide * num_padded * (D // GROUP)
    is_row = q_start + tl.arange(0, BLOCK_M) < length
    q_raw = _load_rows(q_ptr, q_start, q_stride_n, is_row, BLOCK_M, DIM, D, True).to(tl.float32)
    q_raw *= scale_log2
    m = tl.sqrt(tl.sum(q_raw * q_raw, axis=1, keep_dims=True)) * tl.load(bound_ptr + bh)
    is_finite = m < 1e30
    q, q_scale = _mxfp4(q_raw)
    acc = tl.zeros((BLOCK_M, D), tl.float32)
    total = tl.zeros((BLOCK_M, 16), tl.float32)
    num_blocks = tl.cdiv(length, BLOCK_N)
    num_full = num_blocks if HAS_MASK else length // BLOCK_N
    acc, total = _attend_mxfp4(
        q, q_scale, m, acc, total, k_codes_ptr, k_scale_ptr, v_codes_ptr, v_scale_ptr,
        mask_ptr, length, num_padded, 0, num_full, BLOCK_N, D, HAS_MASK, HAS_MASK, STAGES,
        INTERPRET,
    )  # fmt: skip
    acc, total = _attend_mxfp4(
        q, q_scale, m, acc, total, k_codes_ptr, k_scale_ptr, v_codes_ptr, v_scale_ptr,
        mask_ptr, length, num_padded, num_full, num_blocks, BLOCK_N, D, True, HAS_MASK, 1,
        INTERPRET,
    )  # fmt: skip
    row_sum = _row_total(total, "ones")
    is_good = _certified(acc, row_sum, l_lo, l_hi) & is_finite
    is_bad = tl.max(tl.where(is_good | ~is_row[:, None], 0, 1))
    if is_bad > 0:
        plain = KeysValues(k_ptr, k_stride_n, k_ptr, v_ptr, v_stride_n, mask_ptr, length)
        BUILD: tl.constexpr = Build(BLOCK_M, 64, DIM, D, HAS_MASK, "ones", INTERPRET)
        acc, row_sum = _attend_online(
            q_ptr, q_start, q_stride_n, is_row, scale_log2, plain, BUILD
        )  # fmt: skip
    out_ptr += wide * length * DIM
    _store_rows(out_ptr, q_start, acc, row_sum, is_row, BLOCK_M, DIM, D, INTERPRET)
    if RECORD:
        tl.store(facts_ptr + tl.program_id(0) * 2, is_bad)
        tl.store(facts_ptr + tl.program_id(0) * 2 + 1, 0)


def launch(
    q_BHND: Tensor,
    k_BHND: Tensor,
    v_BHND: Tensor,
    out_BHND: Tensor,
    facts: Tensor,
    *,
    scale_log2: float,
    mask_bytes_BN: Tensor | None,
    mean: Tensor,
    is_recorded: bool,
    product_dtype: torch.dtype,
    constants: dict[str, int | bool],
    warps: int,
) -> None:
    """Fills out [B, H, N, D]: quantizes keys and values once, then runs the attention kernel.

    q, k, v    [B, H, N, D]  last stride 1; mask_bytes [B, N] or None; mean [B H, D padded]
    facts      [programs, 2]  filled if is_recorded
    constants  DIM, D, BLOCK_M, BLOCK_N, STAGES, INTERPRET of the kernels
    """
    batch, heads, length, _ = q_BHND.shape
    wide, block, dim = batch * heads, constants["BLOCK_N"], constants["D"]
    num_padded = -(-length // block) * block

    def codes(*shape: int) -> Tensor:
        return torch.empty(wide, *shape, dtype=torch.uint8, device=q_BHND.device)

    k_codes, k_scale = codes(num_padded, dim // 2), codes(num_padded, dim // 32)
    v_codes, v_scale = codes(dim, num_padded // 2), codes(dim, num_padded // 32)
    norm = torch.empty(wide, num_padded // block, dtype=torch.float32, device=q_BHND.device)
    has_mask = mask_bytes_BN is not None
    mask = mask_bytes_BN if has_mask else q_BHND
    quantize_keys_values[(norm.numel(),)](
        k_BHND, v_BHND, mean, mask, k_codes, k_scale, v_codes, v_scale, norm, heads, length,
        num_padded, *k_BHND.stride()[:3], *v_BHND.stride()[:3], DIM=constants["DIM"], D=dim,
        BLOCK_N=block, HAS_MASK=has_mask, enable_fp_fusion=True,
    )  # fmt: skip
    k_BHND, v_BHND = k_BHND.to(product_dtype), v_BHND.to(product_dtype)
    mxfp4_forward[(wide * -(-length // constants["BLOCK_M"]),)](
        q_BHND, k_BHND, v_BHND, out_BHND, mask, k_codes, k_scale, v_codes, v_scale,
        norm.amax(dim=1), facts, heads, length, num_padded, *q_BHND.stride()[:3],
        *k_BHND.stride()[:3], *v_BHND.stride()[:3], scale_log2, *guard.WINDOWS["mxfp4"],
        HAS_MASK=has_mask, RECORD=is_recorded, num_warps=warps, enable_fp_fusion=True, **constants,
    )  # fmt: skip
