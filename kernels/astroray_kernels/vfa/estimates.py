"""How the row maximum is estimated before the scores are known, and which blocks correct it.

Letters: B batch, H heads, N positions, D channels of a head, J blocks of keys. Estimates are in
powers of two, as scores are; minus infinity means that nothing is known yet.
"""

import torch
from torch import Tensor

from astroray_kernels.vfa.operands import Operands

ESTIMATES = ("sabsmax", "sink_local", "cauchy_schwarz", "exact")
CORRECTED = ("sabsmax", "sink_local")
"""Estimates that the sink block and the local blocks correct by their true row maximum."""


def blocks(length: int, size: int) -> list[slice]:
    """Consecutive slices of `size` positions; the last one is as short as it has to be."""
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def visiting_order(rows: slice, key_blocks: list[slice], estimate: str) -> list[tuple[int, bool]]:
    """Numbers of the key blocks in the order of visit, each with: is the maximum updated there?

    <1, i, 2, 3, ...> in the paper, counted from 0 here: the sink block, then every key block that
    overlaps the query block (more than one where query blocks are longer), then the rest. Where
    sink and local block coincide (i = 1) the block is visited once.
    """
    if estimate not in CORRECTED:
        return [(number, False) for number in range(len(key_blocks))]
    local = [
        number
        for number, keys in enumerate(key_blocks)
        if keys.start < rows.stop and rows.start < keys.stop
    ]
    first = list(dict.fromkeys([0, *local]))
    rest = [number for number in range(len(key_blocks)) if number not in first]
    return [(number, True) for number in first] + [(number, False) for number in rest]


def initial_maximum_BHN1(operands: Operands, estimate: str, key_blocks: list[slice]) -> Tensor:
    """The estimate of every row's largest score, [B, H, N, 1], before any block is visited."""
    if estimate == "sabsmax":
        return _sabsmax_BHN1(operands, key_blocks)
    if estimate == "cauchy_schwarz":
        return _cauchy_schwarz_BHN1(operands)
    if estimate == "exact":
        everything = slice(0, operands.q_BHND.shape[2])
        return exact_maximum_BHM1(operands, everything, key_blocks)
    return torch.full_like(operands.q_scale_BHN1, -torch.inf)


def signed_absmax_BHJD(k_BHND: Tensor, key_blocks: list[slice]) -> Tensor:
    """Of each block and channel the key with the largest magnitude, with its sign.

    A tie between x and -x goes to the positive one. Masked keys must be zero: a zero never wins.
    """
    top = torch.stack([k_BHND[:, :, keys].amax(dim=2) for keys in key_blocks], dim=2)
    bottom = torch.stack([k_BHND[:, :, keys].amin(dim=2) for keys in key_blocks], dim=2)
    return torch.where(top >= -bottom, top, bottom)


def _sabsmax_BHN1(operands: Operands, key_blocks: list[slice]) -> Tensor:
    """Largest product of a row with the signed abs-max of each block (Algorithm 1, lines 7-12).

    Neither a margin nor a clamp. A block without a valid key takes no part.
    """
    representation_BHJD = signed_absmax_BHJD(operands.key_numbers_BHND(), key_blocks)
    score_BHNJ = operands.query_numbers_BHND() @ representation_BHJD.mT
    alive = [operands.valid_BN[:, keys].any(dim=1) for keys in key_blocks]
    alive_B11J = torch.stack(alive, dim=1)[:, None, None]
    return score_BHNJ.masked_fill(~alive_B11J, -torch.inf).amax(dim=-1, keepdim=True)


def _cauchy_schwarz_BHN1(operands: Operands) -> Tensor:
    """|q| max |k|: never below the true maximum, up to rounding; may lie far above it."""
    return norm_BHN1(operands.query_numbers_BHND()) * longest_key_BH11(operands)


def norm_BHN1(x_BHND: Tensor) -> Tensor:
    """The Euclidean norm of every row."""
    length_BHN1: Tensor = torch.linalg.vector_norm(x_BHND, dim=-1, keepdim=True)
    return length_BHN1


def longest_key_BH11(operands: Operands) -> Tensor:
    """max |k| over the valid keys, as they are multiplied; 0 where there is none."""
    return norm_BHN1(operands.key_numbers_BHND()).amax(dim=2, keepdim=True)


def exact_maximum_BHM1(operands: Operands, rows: slice, key_blocks: list[slice]) -> Tensor:
    """The true row maximum over all valid keys: a first pass over all scores of the rows."""
    maxima = [operands.scores_BHMK(rows, keys).amax(dim=-1, keepdim=True) for keys in key_blocks]
    return torch.cat(maxima, dim=-1).amax(dim=-1, keepdim=True)
