"""VFA and VSA attention in plain PyTorch: the meaning that every backend is compared with.

Sun et al., arXiv 2604.12798: Algorithm 1 (VFA) estimates each row's largest score, corrects it on
the sink block and the local block, then freezes it: the other blocks need neither a row maximum nor
a rescaling of the output. Algorithm 2 (VSA) also drops tiles that cannot matter. In exact numbers
any maximum gives the same output; `guard` proves for each row that it did in finite ones.

What the paper leaves open is settled so:
- Scale: the estimate carries the same factor scale * log2(e) as the scores; see `operands`.
- Causal attention is not offered: every query sees every valid key.
- Block sizes may differ: local are all key blocks that overlap the positions of the query block.
- Where sink and local block coincide the block is visited once.
- Masked and padded keys never win the signed abs-max, and a block of only masked keys has none.
- A tie of the signed abs-max goes to the positive number.
- A row whose keys are all masked gives zeros.
- A tile is dropped only when all its rows vote for it, each by its own maximum so far.
- The row sum adds the weights as they are multiplied with the values, that is after rounding: the
  rounding error of a weight that rules its row then cancels in the division.

Letters: B batch, H heads, N positions, D channels of a head, M query rows of one block, K keys of
one block.
"""

import dataclasses
import functools
import math

import torch
from torch import Tensor

from astroray_kernels.vfa import guard
from astroray_kernels.vfa.estimates import (
    blocks,
    initial_maximum_BHN1,
    visiting_order,
)
from astroray_kernels.vfa.operands import PRECISIONS, Operands, prepare

__all__ = ["ESTIMATE", "PRECISIONS", "online_softmax_attention", "vfa_attention"]

BLOCK_Q = 64
BLOCK_K = 64
ESTIMATE = "sabsmax"
"""What "auto" means here: the paper's own; for int8 weights, which need the true maximum, exact."""
REDONE_IN = {"int8": "bf16", "int8_qk": "bf16"}
"""Precision of the rows that fail their certificate; any other precision redoes them in its own."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """What an attention call met on its way."""

    num_rows: int
    num_redone: int
    """Rows that failed their certificate and were redone by online softmax."""
    num_tiles: int
    num_skipped: int
    """Tiles that VSA dropped."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Rows:
    """One block of query rows after its last tile."""

    maximum_BHM1: Tensor
    total_BHM1: Tensor
    output_BHMD: Tensor
    num_skipped_BH11: Tensor

    def normalized_BHMD(self, operands: Operands) -> Tensor:
        """O / l in real numbers; zeros where no key is valid."""
        attended_B111 = operands.valid_BN.any(dim=1)[:, None, None, None]
        output_BHMD = self.output_BHMD / self.total_BHM1 * operands.v_scale_BH1D
        return torch.where(attended_B111, output_BHMD, 0.0)


def vfa_attention(
    q_BHND: Tensor,
    k_BHND: Tensor,
    v_BHND: Tensor,
    *,
    scale: float,
    mask_BN: Tensor | None,
    precision: str,
    skip: float | None,
    estimate: str,
    block_q: int = BLOCK_Q,
    block_k: int = BLOCK_K,
) -> tuple[Tensor, Facts]:
    """Attention by Algorithm 1, or by Algorithm 2 where `skip` is set.

    q, k, v   [B, H, N, D]  float16, bfloat16, float32 or float64, any strides
    mask_BN   [B, N]        bool, True = the key takes part; None = all
    skip      nats a tile's scores must lie below the row maximum to be dropped; None = keep all
    estimate  "auto" or one of `estimates.ESTIMATES`

    Returns [B, H, N, D], contiguous, in the type of q; zeros where a row has no valid key; and what
    the call met. Tiles may have any size.
    """
    operands_in = functools.partial(prepare, q_BHND, k_BHND, v_BHND, scale=scale, mask_BN=mask_BN)
    operands = operands_in(precision=precision)
    spare: Operands | None = None
    if estimate == "auto":
        estimate = "exact" if precision == "int8" else ESTIMATE
    length = q_BHND.shape[2]
    row_blocks, key_blocks = blocks(length, block_q), blocks(length, block_k)
    start_BHN1 = initial_maximum_BHN1(operands, estimate, key_blocks)
    output_BHND = torch.empty(q_BHND.shape, dtype=q_BHND.dtype, device=q_BHND.device)
    num_redone = num_skipped = 0
    for rows in row_blocks:
        visits = visiting_order(rows, key_blocks, estimate)
        done = _frozen_softmax(operands, rows, key_blocks, visits, start_BHN1[:, :, rows], skip)
        num_skipped += int(done.num_skipped_BH11.sum())
        output_BHMD = done.normalized_BHMD(operands)
        good_BHM1 = guard.certified_BHM1(
            operands,
            rows,
            key_blocks,
            maximum_BHM1=done.maximum_BHM1,
            total_BHM1=done.total_BHM1,
            is_sparse_BH11=done.num_skipped_BH11 > 0,
        )
        if not good_BHM1.all():
            num_redone += int((~good_BHM1).sum())
            if spare is None:
                spare = operands_in(precision=REDONE_IN.get(precision, precision))
            again = _online_softmax(spare, rows, key_blocks)
            output_BHMD = torch.where(good_BHM1, output_BHMD, again.normalized_BHMD(spare))
        output_BHND[:, :, rows] = output_BHMD.to(output_BHND.dtype)
    num_heads = q_BHND.shape[0] * q_BHND.shape[1]
    return output_BHND, Facts(
        num_rows=num_heads * length,
        num_redone=num_redone,
        num_tiles=num_heads * len(row_blocks) * len(key_blocks),
        num_skipped=num_skipped,
    )


def why_not(device: torch.device) -> str:
    """The reference runs wherever torch does."""
    return ""


def online_softmax_attention(
    q_BHND: Tensor,
    k_BHND: Tensor,
    v_BHND: Tensor,
    *,
    scale: float,
    mask_BN: Tensor | None,
    precision: str,
) -> Tensor:
    """Attention by the recurrence of FlashAttention (arXiv 2205.14135): no estimate, no guard.

    Shapes and meaning as in `vfa_attention`. This is what a row that fails its certificate gets.
    """
    operands = prepare(q_BHND, k_BHND, v_BHND, scale=scale, mask_BN=mask_BN, precision=precision)
    length = q_BHND.shape[2]
    key_blocks = blocks(length, BLOCK_K)
    output_BHND = torch.empty(q_BHND.shape, dtype=q_BHND.dtype, device=q_BHND.device)
    for rows in blocks(length, BLOCK_Q):
        done = _online_softmax(operands, rows, key_blocks)
        output_BHND[:, :, rows] = done.normalized_BHMD(operands).to(output_BHND.dtype)
    return output_BHND


def row_maximum_BHM1(S_BHMK: Tensor) -> Tensor:
    """The largest score of each row of a tile."""
    return S_BHMK.amax(dim=-1, keepdim=True)


def _frozen_softmax(
    operands: Operands,
    rows: slice,
    key_blocks: list[slice],
    visits: list[tuple[int, bool]],
    start_BHM1: Tensor,
    skip: float | None,
) -> _Rows:
    """Algorithm 1 from line 13 on; with `skip` Algorithm 2, which takes the maximum of every tile.

    m, l, O, S and P are the paper's: maximum, row sum, output, scores and weights.
    """
    m_BHM1, l_BHM1, O_BHMD = start_BHM1, *_empty_sums(operands, rows)
    num_skipped_BH11 = _none_skipped_BH11(operands)
    for number, is_updated in visits:
        keys = key_blocks[number]
        S_BHMK = operands.scores_BHMK(rows, keys)
        m_new_BHM1 = m_BHM1
        if is_updated:
            m_new_BHM1 = torch.maximum(m_BHM1, row_maximum_BHM1(S_BHMK))
        P_BHMK = operands.weights_BHMK(S_BHMK - _finite(m_new_BHM1))
        if skip is not None:
            dropped_BH11 = _dropped_BH11(S_BHMK, m_BHM1, skip)
            num_skipped_BH11 = num_skipped_BH11 + dropped_BH11
            P_BHMK = P_BHMK.masked_fill(dropped_BH11, 0.0)
        if is_updated:
            rescale_BHM1 = torch.exp2(m_BHM1 - _finite(m_new_BHM1))
            l_BHM1 = rescale_BHM1 * l_BHM1
            O_BHMD = rescale_BHM1 * O_BHMD
        l_BHM1 = l_BHM1 + P_BHMK.sum(dim=-1, keepdim=True)
        O_BHMD = O_BHMD + P_BHMK @ operands.v_BHND[:, :, keys]
        m_BHM1 = m_new_BHM1
    return _Rows(
        maximum_BHM1=m_BHM1,
        total_BHM1=l_BHM1,
        output_BHMD=O_BHMD,
        num_skipped_BH11=num_skipped_BH11,
    )


def _dropped_BH11(S_BHMK: Tensor, m_BHM1: Tensor, skip: float) -> Tensor:
    """True where every row of the tile lies more than `skip` nats below its candidate maximum."""
    top_BHM1 = row_maximum_BHM1(S_BHMK)
    candidate_BHM1 = torch.maximum(m_BHM1, top_BHM1)
    return (top_BHM1 - candidate_BHM1 < -skip * math.log2(math.e)).all(dim=2, keepdim=True)


def _online_softmax(operands: Operands, rows: slice, key_blocks: list[slice]) -> _Rows:
    """The ordinary recurrence: the true running maximum, and a rescaling at every block."""
    l_BHM1, O_BHMD = _empty_sums(operands, rows)
    m_BHM1 = torch.full_like(operands.q_scale_BHN1[:, :, rows], -torch.inf)
    for keys in key_blocks:
        S_BHMK = operands.scores_BHMK(rows, keys)
        m_new_BHM1 = torch.maximum(m_BHM1, row_maximum_BHM1(S_BHMK))
        P_BHMK = operands.weights_BHMK(S_BHMK - _finite(m_new_BHM1))
        rescale_BHM1 = torch.exp2(m_BHM1 - _finite(m_new_BHM1))
        l_BHM1 = rescale_BHM1 * l_BHM1 + P_BHMK.sum(dim=-1, keepdim=True)
        O_BHMD = rescale_BHM1 * O_BHMD + P_BHMK @ operands.v_BHND[:, :, keys]
        m_BHM1 = m_new_BHM1
    return _Rows(
        maximum_BHM1=m_BHM1,
        total_BHM1=l_BHM1,
        output_BHMD=O_BHMD,
        num_skipped_BH11=_none_skipped_BH11(operands),
    )


def _empty_sums(operands: Operands, rows: slice) -> tuple[Tensor, Tensor]:
    """l and O before the first block."""
    shape = operands.q_BHND[:, :, rows].shape
    l_BHM1 = operands.v_BHND.new_zeros(*shape[:3], 1)
    return l_BHM1, operands.v_BHND.new_zeros(shape)


def _none_skipped_BH11(operands: Operands) -> Tensor:
    """Zero dropped tiles for every head."""
    return torch.zeros_like(operands.q_BHND[:, :, :1, :1], dtype=torch.int64)


def _finite(m_BHM1: Tensor) -> Tensor:
    """The maximum to subtract: 0 where no valid key was seen, since -inf - -inf is no number."""
    return torch.where(m_BHM1 == -torch.inf, 0.0, m_BHM1)
