"""The Triton kernel that looks at the keys once before attention starts."""

import triton
import triton.language as tl

from astroray_kernels.vfa._triton_steps import (
    KEY_GROUP,
    _int8_codes,
    _load_rows,
    _rounded,
    _valid_keys,
)


@triton.jit
def scan_keys(
    k_ptr, mean_ptr, mask_ptr, repr_ptr, codes_ptr, k_scale_ptr, norm_ptr, heads, length,
    k_stride_b, k_stride_h, k_stride_n, DIM: tl.constexpr, D: tl.constexpr,
    HAS_MASK: tl.constexpr, CENTER: tl.constexpr, SABSMAX: tl.constexpr, INT8: tl.constexpr,
    INTERPRET: tl.constexpr,
):  # fmt: skip
    """Of one group of keys: its largest norm, and what SABSMAX and INT8 ask for.

    k        [B, H, N, DIM], last stride 1; mask [B, N] bytes; mean [B H, D], taken away with CENTER
    norm     [B H, groups]  the largest norm of a valid key, NaN if there is a NaN
    repr     [B H, groups, D]  SABSMAX: of each channel the number with the largest magnitude, with
             its sign, ties to the positive one; masked keys are zeros, which never win
    codes    [B H, groups * KEY_GROUP, D]  INT8: with the steps k_scale [B H, groups]
    """
    num_groups = tl.cdiv(length, KEY_GROUP)
    bh = tl.program_id(0) // num_groups
    group = tl.program_id(0) % num_groups
    b = (bh // heads).to(tl.int64)
    k_ptr += b * k_stride_b + (bh % heads).to(tl.int64) * k_stride_h
    d = tl.arange(0, D)
    at = tl.program_id(0).to(tl.int64)
    valid = _valid_keys(mask_ptr + b * length, group * KEY_GROUP, length, KEY_GROUP, HAS_MASK)
    k = _load_rows(k_ptr, group * KEY_GROUP, k_stride_n, valid, KEY_GROUP, DIM, D, True)
    k = k.to(tl.float32)
    if CENTER:
        mean = tl.load(mean_ptr + bh.to(tl.int64) * D + d)
        k = tl.where(valid[:, None], k - mean[None, :], 0.0)
    if INT8:
        amax = tl.max(tl.max(tl.abs(k), axis=1), axis=0)
        codes, step = _int8_codes(k, amax)
        n = tl.arange(0, KEY_GROUP)
        tl.store(codes_ptr + (at * KEY_GROUP + n[:, None]) * D + d[None, :], codes)
        tl.store(k_scale_ptr + at, step)
    if SABSMAX:
        top = tl.max(k, axis=0)
        bottom = tl.min(k, axis=0)
        sabsmax = tl.where(top >= -bottom, top, bottom)
        tl.store(repr_ptr + at * D + d, _rounded(sabsmax, repr_ptr.dtype.element_ty, INTERPRET))
    norm = tl.sqrt(tl.sum(k * k, axis=1))
    # A maximum does not see a NaN; the sum does, and is worth nothing otherwise.
    tl.store(norm_ptr + at, tl.max(norm, axis=0) + 0.0 * tl.sum(norm, axis=0))
