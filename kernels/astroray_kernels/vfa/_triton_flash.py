"""An ordinary FlashAttention of the same layout, to hold the machine code of VFA against.

Nothing runs it but tests: it says what a frozen maximum leaves out of the loop.
"""

import triton
import triton.language as tl

from astroray_kernels.vfa._triton_steps import (
    KEY_GROUP,
    Build,
    KeysValues,
    _attend,
    _int8_codes,
    _load_rows,
    _program,
    _store_rows,
)


@triton.jit
def flash_forward(
    q_ptr, k_ptr, v_ptr, out_ptr, codes_ptr, k_scale_ptr, heads, length, q_stride_b, q_stride_h,
    q_stride_n, k_stride_b, k_stride_h, k_stride_n, v_stride_b, v_stride_h, v_stride_n,
    scale_log2, DIM: tl.constexpr, D: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, INT8: tl.constexpr, STAGES: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """BLOCK_M query rows by online softmax; arguments as in `vfa_forward`."""
    BUILD: tl.constexpr = Build(BLOCK_M, BLOCK_N, DIM, D, False, "reduce", INTERPRET)
    bh, b, h, q_start = _program(heads, length, BLOCK_M)
    q_ptr += b * q_stride_b + h * q_stride_h
    k_ptr += b * k_stride_b + h * k_stride_h
    v_ptr += b * v_stride_b + h * v_stride_h
    num_blocks = tl.cdiv(length, BLOCK_N)
    num_groups = tl.cdiv(length, KEY_GROUP)
    is_row = q_start + tl.arange(0, BLOCK_M) < length
    q = _load_rows(q_ptr, q_start, q_stride_n, is_row, BLOCK_M, DIM, D, True)
    q_factor = scale_log2
    keys_ptr = k_ptr
    keys_stride = k_stride_n
    if INT8:
        keys_ptr = codes_ptr + bh.to(tl.int64) * num_groups * KEY_GROUP * D
        k_scale_ptr += bh.to(tl.int64) * num_groups
        keys_stride = D
        q32 = q.to(tl.float32)
        q, q_scale = _int8_codes(q32, tl.max(tl.abs(q32), axis=1, keep_dims=True))
        q_factor = q_scale * scale_log2
    m = tl.full((BLOCK_M, 1), float("-inf"), tl.float32)
    acc = tl.zeros((BLOCK_M, D), tl.float32)
    row_sum = tl.zeros((BLOCK_M, 1), tl.float32)
    dropped = tl.full((), 0, tl.int32)
    num_full = length // BLOCK_N
    kv = KeysValues(keys_ptr, keys_stride, k_scale_ptr, v_ptr, v_stride_n, q_ptr, length)
    state = _attend(
        q, q_factor, (m, acc, row_sum, dropped), kv, 0, num_full, BUILD, True, False, INT8, False,
        STAGES,
    )  # fmt: skip
    m, acc, row_sum, dropped = _attend(
        q, q_factor, state, kv, num_full, num_blocks, BUILD, True, True, INT8
    )  # fmt: skip
    out_ptr += bh.to(tl.int64) * length * DIM
    _store_rows(out_ptr, q_start, acc, row_sum, is_row, BLOCK_M, DIM, D, INTERPRET)
