"""The Triton kernel of attention with a frozen row maximum.

Letters as in `_triton_steps`. The arrays of the kernel:

    q, k, v     [B, H, N, DIM], last stride 1; k and v of the type of the products
    out, mask   [B, H, N, DIM] contiguous, [B, N] bytes
    codes       [B H, groups * 64, D] int8 and k_scale [B H, groups] for INT8
    repr        [B H, groups, D] signed abs-max keys, for ESTIMATE "sabsmax"; zeros, which score
                0, where all keys of a group are masked
    mean        [B H, D] of the keys, for ESTIMATE "cauchy_schwarz"
    bound       [B H, 2]: the largest norm of a key without the mean, for that and for INT8, and
                the coarsest step of the codes, for INT8
    facts       [programs, 2]: was the tile redone, how many key blocks were dropped
"""

import triton
import triton.language as tl

from astroray_kernels.vfa import guard
from astroray_kernels.vfa._triton_steps import (
    KEY_GROUP,
    Build,
    KeysValues,
    _attend,
    _attend_online,
    _certified,
    _int8_codes,
    _load_rows,
    _no_weights,
    _program,
    _rounded,
    _row_total,
    _scores,
    _store_rows,
    _valid_keys,
)

SCORE_ERROR_LIMIT: tl.constexpr = tl.constexpr(guard.SCORE_ERROR_LIMIT)
SPARSE_LEAST: tl.constexpr = tl.constexpr(guard.SPARSE_LEAST)


@triton.jit
def _largest_score(q, q_factor, kv, m, BUILD, INT8: tl.constexpr):
    """The largest score of each row [M, 1], and at least m, over all keys."""
    for block in tl.range(0, tl.cdiv(kv.length, BUILD.BLOCK_N), num_stages=1):
        start = block * BUILD.BLOCK_N
        valid = _valid_keys(kv.mask_ptr, start, kv.length, BUILD.BLOCK_N, BUILD.HAS_MASK)
        raw, factor = _scores(q, q_factor, kv, start, valid, BUILD, INT8, True)
        m = tl.maximum(m, tl.max(raw, axis=1, keep_dims=True) * factor)
    return m


@triton.jit
def _bound(q, bound_ptr, mean_ptr, D: tl.constexpr, INT8: tl.constexpr):
    """What no score of a row exceeds [M, 1], before scaling, by Cauchy and Schwarz.

    q k = q mean + q (k - mean): what all keys share is no part of what has to be bounded. The
    scores of INT8 lack it from the start.
    """
    most = tl.sqrt(tl.sum(q * q, axis=1, keep_dims=True)) * tl.load(bound_ptr)
    if not INT8:
        mean = tl.load(mean_ptr + tl.arange(0, D))
        most += tl.sum(q * mean[None, :], axis=1, keep_dims=True)
    return most


@triton.jit
def _score_error(q, q_step, bound_ptr):
    """Root mean square error of the int8 scores of a row with the longest key, before scaling.

    A rounding is off by up to half a step, evenly: a variance of step**2 / 12 in each channel.
    """
    of_query = q_step * tl.load(bound_ptr)
    of_key = tl.sqrt(tl.sum(q * q, axis=1, keep_dims=True)) * tl.load(bound_ptr + 1)
    return tl.sqrt((of_query * of_query + of_key * of_key) / 12.0)


@triton.jit
def _first_maximum(
    q, q_raw, q_keys, q_factor, kv, repr_ptr, mean_ptr, bound_ptr, bh, scale_log2, BUILD,
    INT8: tl.constexpr, ESTIMATE: tl.constexpr,
):  # fmt: skip
    """The maximum of each row [M, 1] as estimated before the first block; -inf without estimate."""
    m = tl.full((q.shape[0], 1), float("-inf"), tl.float32)
    if ESTIMATE == "cauchy_schwarz":
        mean_ptr += bh.to(tl.int64) * BUILD.D
        m = _bound(q_raw.to(tl.float32), bound_ptr + bh * 2, mean_ptr, BUILD.D, INT8) * scale_log2
    elif ESTIMATE == "sabsmax":
        num_groups = tl.cdiv(kv.length, KEY_GROUP)
        repr_ptr += bh.to(tl.int64) * num_groups * BUILD.D
        groups = KeysValues(
            repr_ptr, BUILD.D, kv.k_scale_ptr, kv.v_ptr, kv.v_stride, kv.mask_ptr, num_groups
        )
        ALL: tl.constexpr = Build(
            BUILD.BLOCK_M, BUILD.BLOCK_N, BUILD.D, BUILD.D, False, BUILD.ROW_SUM, BUILD.INTERPRET
        )
        m = _largest_score(q, scale_log2, groups, m, ALL, False)
    elif ESTIMATE == "exact":
        m = _largest_score(q_keys, q_factor, kv, m, BUILD, INT8)
    return m


@triton.jit
def _attend_near(
    q, q_factor, state, kv, q_start, num_full, skip_log2, BUILD, INT8: tl.constexpr,
    SKIP: tl.constexpr,
):  # fmt: skip
    """Adds the sink block and the tile's own, raising m to their true maximum.

    Returns too what is left: blocks from the first on, but for num_local full ones of the tile's
    own, which end before local_end.
    """
    local = q_start // BUILD.BLOCK_N
    local_end = tl.minimum(
        tl.cdiv(q_start + BUILD.BLOCK_M, BUILD.BLOCK_N), tl.cdiv(kv.length, BUILD.BLOCK_N)
    )
    first = tl.minimum(local, 1)
    m, acc, total, dropped = _attend(
        q, q_factor, state, kv, 0, first + local_end - local, BUILD, True, True, INT8, SKIP,
        skip_log2=skip_log2, gap_at=1, gap_len=tl.maximum(local, 1) - 1,
    )  # fmt: skip
    m = tl.where(m == float("-inf"), 0.0, m)
    return m, acc, total, dropped, first, tl.minimum(local_end, num_full) - local, local_end


@triton.jit
def _fails(
    acc, row_sum, dropped, is_row, q_ptr, q_start, q_stride_n, q_step, bound_ptr, scale_log2,
    l_lo, l_hi, BUILD, INT8: tl.constexpr, SHIFT: tl.constexpr, SKIP: tl.constexpr,
):  # fmt: skip
    """1 where a row of the tile has no certificate, else 0."""
    is_good = _certified(acc, row_sum, l_lo, l_hi)
    if SKIP:
        # With the true maximum l is at least 1: less means that blocks that matter were dropped.
        is_good = is_good & ((dropped == 0) | (row_sum >= SPARSE_LEAST * 2**SHIFT))
    if INT8:
        # Loaded anew: q in its own type would cost the main loop its registers.
        q_raw = _load_rows(
            q_ptr, q_start, q_stride_n, is_row, BUILD.BLOCK_M, BUILD.DIM, BUILD.D, True
        )
        error = _score_error(q_raw.to(tl.float32), q_step, bound_ptr) * scale_log2
        is_good = is_good & (error <= SCORE_ERROR_LIMIT)
    is_good = is_good | ~is_row[:, None]
    return tl.max(tl.where(is_good, 0, 1))


@triton.jit
def vfa_forward(
    q_ptr, k_ptr, v_ptr, out_ptr, mask_ptr, codes_ptr, k_scale_ptr, repr_ptr, mean_ptr,
    bound_ptr, facts_ptr, heads, length, q_stride_b, q_stride_h, q_stride_n, k_stride_b, k_stride_h,
    k_stride_n, v_stride_b, v_stride_h, v_stride_n, scale_log2, skip_log2, l_lo, l_hi,
    DIM: tl.constexpr, D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    INT8: tl.constexpr, ESTIMATE: tl.constexpr, SHIFT: tl.constexpr, SKIP: tl.constexpr,
    HAS_MASK: tl.constexpr, ROW_SUM: tl.constexpr, STAGES: tl.constexpr, RECORD: tl.constexpr,
    INTERPRET: tl.constexpr,
):  # fmt: skip
    """Attention of BLOCK_M query rows: estimate m, freeze it, certify l, redo the tile if it fails.

    The arrays are those of the head of this file.
    """
    BUILD: tl.constexpr = Build(BLOCK_M, BLOCK_N, DIM, D, HAS_MASK, ROW_SUM, INTERPRET)
    bh, b, h, q_start = _program(heads, length, BLOCK_M)
    q_ptr += b * q_stride_b + h * q_stride_h
    k_ptr += b * k_stride_b + h * k_stride_h
    v_ptr += b * v_stride_b + h * v_stride_h
    mask_ptr += b * length
    num_blocks = tl.cdiv(length, BLOCK_N)
    is_row = q_start + tl.arange(0, BLOCK_M) < length
    q_raw = _load_rows(q_ptr, q_start, q_stride_n, is_row, BLOCK_M, DIM, D, True)
    q = _rounded(q_raw.to(tl.float32), v_ptr.dtype.element_ty, INTERPRET)

    keys_ptr, keys_stride = k_ptr, k_stride_n
    q_keys, q_step, q_factor = q, 1.0, scale_log2
    if INT8:
        num_groups = tl.cdiv(length, KEY_GROUP)
        keys_ptr = codes_ptr + bh.to(tl.int64) * num_groups * KEY_GROUP * D
        k_scale_ptr += bh.to(tl.int64) * num_groups
        keys_stride = D
        q32 = q_raw.to(tl.float32)
        q_keys, q_step = _int8_codes(q32, tl.max(tl.abs(q32), axis=1, keep_dims=True))
        q_factor = q_step * scale_log2
    kv = KeysValues(keys_ptr, keys_stride, k_scale_ptr, v_ptr, v_stride_n, mask_ptr, length)

    m = _first_maximum(
        q, q_raw, q_keys, q_factor, kv, repr_ptr, mean_ptr, bound_ptr, bh, scale_log2, BUILD,
        INT8, ESTIMATE,
    )  # fmt: skip
    # Rows past the end must neither vote for a block nor fail the certificate.
    m = tl.where(is_row[:, None], m, 1e30)
    acc, total, dropped = _no_weights(BUILD)
    num_full = num_blocks if HAS_MASK else length // BLOCK_N
    first, num_local, local_end = 0, 0, 0
    if ESTIMATE == "sabsmax" or ESTIMATE == "sink_local":
        m, acc, total, dropped, first, num_local, local_end = _attend_near(
            q_keys, q_factor, (m, acc, total, dropped), kv, q_start, num_full, skip_log2, BUILD,
            INT8, SKIP,
        )  # fmt: skip
    if SHIFT:  # the fp16 of p holds more above 1 than below it
        m -= SHIFT
        acc *= 2**SHIFT
        total *= 2**SHIFT
    state = _attend(
        q_keys, q_factor, (m, acc, total, dropped), kv, first, num_full - num_local, BUILD, False,
        HAS_MASK, INT8, SKIP, STAGES, skip_log2, gap_at=q_start // BLOCK_N, gap_len=num_local,
    )  # fmt: skip
    m, acc, total, dropped = _attend(
        q_keys, q_factor, state, kv, tl.maximum(num_full, local_end), num_blocks, BUILD, False,
        True, INT8, SKIP, skip_log2=skip_log2,
    )  # fmt: skip

    row_sum = _row_total(total, ROW_SUM)
    is_bad = _fails(
        acc, row_sum, dropped, is_row, q_ptr, q_start, q_stride_n, q_step, bound_ptr + bh * 2,
        scale_log2, l_lo, l_hi, BUILD, INT8, SHIFT, SKIP,
    )  # fmt: skip
    if is_bad > 0:
        plain = KeysValues(k_ptr, k_stride_n, k_ptr, v_ptr, v_stride_n, mask_ptr, length)
        acc, row_sum = _attend_online(
            q_ptr, q_start, q_stride_n, is_row, scale_log2, plain, BUILD
        )  # fmt: skip
    out_ptr += bh.to(tl.int64) * length * DIM
    _store_rows(out_ptr, q_start, acc, row_sum, is_row, BLOCK_M, DIM, D, INTERPRET)
    if RECORD:
        tl.store(facts_ptr + tl.program_id(0) * 2, is_bad)
        tl.store(facts_ptr + tl.program_id(0) * 2 + 1, dropped)
