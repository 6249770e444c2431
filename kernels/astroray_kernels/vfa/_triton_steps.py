"""The steps of attention that its Triton kernels share.

Legend of the shapes: M query rows of one program, N keys of one block, D channels padded to a
power of two. Scores are in log2 units once multiplied by their factor, so that exp2 suffices.
A `state` is what the blocks so far have given: m, the maximum of each row [M, 1]; acc [M, D], the
weighted sum of values; total, their weights [M, 1, 8 or 16]; dropped, the number of
blocks left out.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

KEY_GROUP: tl.constexpr = tl.constexpr(64)
"""Keys that share an int8 scale, and a representative; BLOCK_N divides it where they are used."""


class KeysValues(NamedTuple):
    """Where the keys and values of one head lie, with their steps from row to row."""

    k_ptr: Any
    """Of the keys, for INT8 of their codes."""
    k_stride: Any
    k_scale_ptr: Any
    v_ptr: Any
    v_stride: Any
    mask_ptr: Any
    length: Any


class Build(NamedTuple):
    """What all steps of a kernel are compiled with."""

    BLOCK_M: Any
    BLOCK_N: Any
    DIM: Any
    D: Any
    HAS_MASK: Any
    ROW_SUM: Any
    INTERPRET: Any


@triton.jit
def _program(heads, length, BLOCK_M: tl.constexpr):
    """The head among all and its batch and place there, and the first query row of a program."""
    num_q_blocks = tl.cdiv(length, BLOCK_M)
    bh = tl.program_id(0) // num_q_blocks
    q_start = (tl.program_id(0) % num_q_blocks) * BLOCK_M
    return bh, (bh // heads).to(tl.int64), (bh % heads).to(tl.int64), q_start


@triton.jit
def _valid_keys(mask_ptr, start, length, BLOCK_N: tl.constexpr, HAS_MASK: tl.constexpr):
    """Which keys of a block exist and take part: [N], bool."""
    n = start + tl.arange(0, BLOCK_N)
    valid = n < length
    if HAS_MASK:
        valid = tl.load(mask_ptr + n, mask=valid, other=0) != 0
    return valid


@triton.jit
def _load_rows(
    ptr, start, stride, valid, BLOCK: tl.constexpr, DIM: tl.constexpr, D: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    """Rows start .. as [BLOCK, D]; rows that are not valid and channels from DIM on are 0."""
    d = tl.arange(0, D)
    tile = tl.arange(0, BLOCK)[:, None] * stride + d[None, :]  # int32: the host checks
    ptrs = ptr + tl.cast(start, tl.int64) * stride + tile
    if MASKED:
        return tl.load(ptrs, mask=valid[:, None] & (d < DIM)[None, :], other=0.0)
    if D != DIM:
        return tl.load(ptrs, mask=(d < DIM)[None, :], other=0.0)
    return tl.load(ptrs)


@triton.jit
def _dot(a, b, acc, INTERPRET: tl.constexpr):
    """a @ b + acc in fp32. The interpreter multiplies bf16 bit patterns, so it gets fp32 copies."""
    if INTERPRET:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision="ieee")


@triton.jit
def _scores(q, q_factor, kv, start, valid, BUILD, INT8: tl.constexpr, MASKED: tl.constexpr):
    """Scores [M, N] before scaling, -inf where masked, and the factor that makes them log2 units.

    INT8: q and k are codes; the codes of K are padded to whole blocks, so no load needs a mask.
    """
    if INT8:
        k = _load_rows(kv.k_ptr, start, kv.k_stride, valid, BUILD.BLOCK_N, BUILD.D, BUILD.D, False)
        raw = tl.dot(q, tl.trans(k), out_dtype=tl.int32).to(tl.float32)
        factor = q_factor * tl.load(kv.k_scale_ptr + start // KEY_GROUP)
    else:
        k = _load_rows(
            kv.k_ptr, start, kv.k_stride, valid, BUILD.BLOCK_N, BUILD.DIM, BUILD.D, MASKED
        )
        raw = _dot(q, tl.trans(k), None, BUILD.INTERPRET)
        factor = q_factor
    if MASKED:
        raw = tl.where(valid[None, :], raw, float("-inf"))
    return raw, factor


@triton.jit
def _add_block(
    raw, factor, v, m, acc, total, BUILD, UPDATE: tl.constexpr, MASKED: tl.constexpr
):  # fmt: skip
    """Adds exp2(raw * factor - m) @ v to acc [M, D], and its row sums to total [M, 1, 8 or 16].

    UPDATE first raises m [M, 1] to the true maximum and rescales, else m stays as it is. The
    ones column sums the weights as they are multiplied, that is after rounding.
    """
    if UPDATE:
        m_new = tl.maximum(m, tl.max(raw, axis=1, keep_dims=True) * factor)
        # A row whose keys so far are all masked has no maximum: its weights are exp2(-inf) = 0.
        m_safe = tl.where(m_new == float("-inf"), 0.0, m_new) if MASKED else m_new
        alpha = tl.exp2(m - m_safe)
        p = tl.exp2(raw * factor - m_safe)
        acc = acc * alpha
        total = total * alpha
        m = m_new
    else:
        p = tl.exp2(raw * factor - m)
    p = _rounded(p, v.dtype, BUILD.INTERPRET)
    acc = _dot(p, v, acc, BUILD.INTERPRET)
    if BUILD.ROW_SUM == "ones":
        ones = tl.full((BUILD.BLOCK_N, 16), 1.0, tl.float32).to(v.dtype)
        total = _dot(p, ones, total, BUILD.INTERPRET)
    elif BUILD.ROW_SUM == "partial":
        # Eight columns of the tile lie in one thread: no lanes talk inside the loop.
        pieces = tl.reshape(p.to(tl.float32), (p.shape[0], BUILD.BLOCK_N // 8, 8))
        total = total + tl.sum(pieces, axis=1)
    else:
        total = total + tl.sum(p.to(tl.float32), axis=1, keep_dims=True)
    return m, acc, total


@triton.jit
def _attend(
    q, q_factor, state, kv, first, last, BUILD, UPDATE: tl.constexpr, MASKED: tl.constexpr,
    INT8: tl.constexpr = False, SKIP: tl.constexpr = False, STAGES: tl.constexpr = 1,
    skip_log2=0.0, gap_at=0, gap_len=0,
):  # fmt: skip
    """Adds key blocks to the state; UPDATE keeps m the true maximum, else m is frozen.

    Block numbers are first .. last, those from gap_at on moved up by gap_len. With SKIP a block
    that every row places more than skip_log2 below its maximum is dropped and counted.
    """
    m, acc, total, dropped = state
    for step in tl.range(first, last, num_stages=STAGES):
        start = (step + tl.where(step >= gap_at, gap_len, 0)) * BUILD.BLOCK_N
        valid = _valid_keys(kv.mask_ptr, start, kv.length, BUILD.BLOCK_N, BUILD.HAS_MASK)
        raw, factor = _scores(q, q_factor, kv, start, valid, BUILD, INT8, MASKED)
        if SKIP:
            gap = tl.max(raw, axis=1, keep_dims=True) * factor - m
            keep = tl.max(tl.where(gap >= -skip_log2, 1, 0))
            if keep > 0:
                v = _values(kv, start, valid, BUILD, MASKED)
                m, acc, total = _add_block(raw, factor, v, m, acc, total, BUILD, UPDATE, MASKED)
            else:
                dropped += 1
        else:
            v = _values(kv, start, valid, BUILD, MASKED)
            m, acc, total = _add_block(raw, factor, v, m, acc, total, BUILD, UPDATE, MASKED)
    return m, acc, total, dropped


@triton.jit
def _values(kv, start, valid, BUILD, MASKED: tl.constexpr):
    """The values of a block of keys: [N, D]."""
    return _load_rows(
        kv.v_ptr, start, kv.v_stride, valid, BUILD.BLOCK_N, BUILD.DIM, BUILD.D, MASKED
    )


@triton.jit
def _no_weights(BUILD):
    """acc, total and dropped before the first block."""
    acc = tl.zeros((BUILD.BLOCK_M, BUILD.D), tl.float32)
    SUMS: tl.constexpr = 16 if BUILD.ROW_SUM == "ones" else 8
    return acc, tl.zeros((BUILD.BLOCK_M, SUMS), tl.float32), tl.full((), 0, tl.int32)


@triton.jit
def _rounded(x, dtype: tl.constexpr, INTERPRET: tl.constexpr):
    """fp32 x in dtype, to nearest, ties to even: the interpreter would cut bf16 off."""
    if INTERPRET and dtype == tl.bfloat16:
        bits = x.to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        x = tl.where(tl.abs(x) < float("inf"), bits.to(tl.float32, bitcast=True), x)
    return x.to(dtype)


@triton.jit
def _row_total(total, ROW_SUM: tl.constexpr):
    """The row sums [M, 1] of what the loop kept: every ones column holds the whole sum."""
    if ROW_SUM == "ones":
        return tl.max(total, axis=1, keep_dims=True)
    return tl.sum(total, axis=1, keep_dims=True)


@triton.jit
def _store_rows(
    out_ptr, start, acc, row_sum, is_row, BLOCK: tl.constexpr, DIM: tl.constexpr, D: tl.constexpr,
    INTERPRET: tl.constexpr,
):  # fmt: skip
    """acc / row_sum [BLOCK, D] to rows start .. of [N, DIM]; zeros where all keys are masked."""
    d = tl.arange(0, D)
    n = (start + tl.arange(0, BLOCK)).to(tl.int64)
    out = acc / tl.where(row_sum == 0.0, 1.0, row_sum)
    ptrs = out_ptr + n[:, None] * DIM + d[None, :]
    out = _rounded(out, out_ptr.dtype.element_ty, INTERPRET)
    tl.store(ptrs, out, mask=is_row[:, None] & (d < DIM)[None, :])


@triton.jit
def _int8_codes(x, amax):
    """Codes -127 .. 127 of x and their step, amax / 127; ties to even, only zeros: step 1."""
    step = tl.where(amax > 0, tl.div_rn(amax, 127.0), 1.0)
    rounder = 12582912.0  # 1.5 * 2**23: what is added to it loses its fraction, ties to even
    return (tl.div_rn(x, step) + rounder - rounder).to(tl.int8), step


@triton.jit
def _certified(acc, row_sum, l_lo, l_hi):
    """Did neither the weights [M, 1] nor the output [M, D] overflow or vanish? False with a NaN."""
    size = tl.sum(tl.abs(acc), axis=1, keep_dims=True)  # a maximum would not see a NaN
    return (row_sum > l_lo) & (row_sum < l_hi) & (size > 1e-28) & (size < 1e30)


@triton.jit
def _attend_online(q_ptr, q_start, q_stride_n, is_row, scale_log2, kv, BUILD):
    """The tile by the ordinary online softmax, on the type of k and v: acc [M, D], sums [M, 1]."""
    q = _load_rows(q_ptr, q_start, q_stride_n, is_row, BUILD.BLOCK_M, BUILD.DIM, BUILD.D, True)
    q = _rounded(q.to(tl.float32), kv.v_ptr.dtype.element_ty, BUILD.INTERPRET)
    m = tl.full((BUILD.BLOCK_M, 1), float("-inf"), tl.float32)
    acc, total, dropped = _no_weights(BUILD)
    num_blocks = tl.cdiv(kv.length, BUILD.BLOCK_N)
    m, acc, total, dropped = _attend(
        q, scale_log2, (m, acc, total, dropped), kv, 0, num_blocks, BUILD, True, True
    )
    return acc, _row_total(total, BUILD.ROW_SUM)
