"""The certificate of a finished row: what its sum proves about the maximum that was frozen.

The paper has no guard: a frozen maximum far below the true one overflows, one far above it
underflows, and both give wrong numbers that look like numbers. Every weight is at most the row sum
l, so l itself shows afterwards whether the range was kept. Rows that fail are redone by online
softmax. Letters: B batch, H heads, M query rows of one block.
"""

import math

import torch
from torch import Tensor

from astroray_kernels.vfa.estimates import exact_maximum_BHM1, longest_key_BH11, norm_BHN1
from astroray_kernels.vfa.formats import UINT8_MAX
from astroray_kernels.vfa.operands import Operands

WINDOWS = {
    "working": (1e-20, 1e30),
    "bf16": (1e-20, 1e30),
    "fp16": (0.25, 1e30),
    "uint8": (1e-20, 1e30),
    "mxfp4": (1e-20, 1e30),
    "mxfp4_v16": (2.0**-8, 1e30),
}
"""l of a good row lies strictly between, by the format of its weights. With 8 bits of exponent a
weight is lost below 2**-126, so even a million lost ones are nothing beside 1e-20. float16 loses
bits below 2**-14, which its own 11 bits show and E2M1 hides for longer. Above, any overflow has
made l infinite."""

SUM_WINDOW = (1e-28, 1e30)
"""l * max |v| of a good row: its output before the division neither overflows nor vanishes."""

SPARSE_LEAST = 0.5
"""Least l of a row that lost tiles. With the true maximum l is at least 1. A dropped weight is
below exp(-skip), so it is below 2 exp(-skip) of the row's sum: an estimate far above the true
maximum, which would drop tiles that matter, fails here."""

EXCESS_WINDOW = (-1.0, math.log2(255.5 / 255))
"""int8 weights: true minus frozen maximum. Above, code 255 saturates; one below costs a bit."""

SCORE_ERROR_LIMIT = 0.25
"""int8 scores: root mean square error, in powers of two, beyond which a row is redone in bf16."""


def certified_BHM1(
    operands: Operands,
    rows: slice,
    key_blocks: list[slice],
    *,
    maximum_BHM1: Tensor,
    total_BHM1: Tensor,
    is_sparse_BH11: Tensor,
) -> Tensor:
    """True for the rows whose frozen maximum did no harm, and for rows without any valid key.

    maximum_BHM1    the maximum that the rows ended with, in powers of two
    total_BHM1      l, the sum of a row's weights; 255 is 1 where weights are int8
    is_sparse_BH11  True where a tile of the rows was dropped
    """
    unit = UINT8_MAX if operands.weight_format == "uint8" else 1
    l_BHM1 = total_BHM1 / unit
    low, high = WINDOWS[operands.weight_format]
    good = (l_BHM1 > low) & (l_BHM1 < high) & (~is_sparse_BH11 | (l_BHM1 >= SPARSE_LEAST))
    largest_BH11 = (operands.v_BHND.abs() * operands.v_scale_BH1D).amax(dim=(2, 3), keepdim=True)
    low, high = SUM_WINDOW
    sum_BHM1 = l_BHM1 * largest_BH11
    good &= (largest_BH11 == 0) | ((sum_BHM1 > low) & (sum_BHM1 < high))
    if operands.weight_format == "uint8":
        low, high = EXCESS_WINDOW
        excess_BHM1 = exact_maximum_BHM1(operands, rows, key_blocks) - maximum_BHM1
        good &= (excess_BHM1 >= low) & (excess_BHM1 <= high)
    if operands.precision in ("int8", "int8_qk"):
        good &= score_error_BHM1(operands, rows) <= SCORE_ERROR_LIMIT
    return good | ~operands.valid_BN.any(dim=1)[:, None, None, None]


def score_error_BHM1(operands: Operands, rows: slice) -> Tensor:
    """Root mean square error of the int8 scores of a row with its longest key, in powers of two.

    A rounding is off by up to half a step, evenly: a variance of step**2 / 12 in each channel.
    """
    q_BHMD = operands.query_numbers_BHND()[:, :, rows]
    coarsest_BH11 = operands.k_scale_BHN1.amax(dim=2, keepdim=True)
    of_query = operands.q_scale_BHN1[:, :, rows] * longest_key_BH11(operands)
    of_key = coarsest_BH11 * norm_BHN1(q_BHMD)
    return torch.sqrt((of_query.square() + of_key.square()) / 12)
