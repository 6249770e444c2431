"""What each precision multiplies: queries, keys, values and weights in their number format.

Letters: B batch, H heads, N positions (queries or keys), D channels of a head, M query rows of one
block, K keys of one block. Scores are in powers of two, q . k * scale * log2(e), so that a weight
is exp2(score - maximum). That factor multiplies the finished sum: queries are rounded as they came.
Rounding q * scale * log2(e) to bfloat16 would round bfloat16 inputs a second time, which costs up
to 40 times the error of ordinary attention where scores are large.

| precision  | queries, keys                            | weights          | values           |
| ---------- | ---------------------------------------- | ---------------- | ---------------- |
| fp32       | float32 (float64 if the inputs are)      | the same         | the same         |
| bf16       | bfloat16 (float16 if the inputs are)     | the same         | the same         |
| int8_qk    | int8, a scale per query row and 64 keys  | bfloat16         | bfloat16         |
| int8       | the same                                 | uint8, 255 = 1   | int8 per channel |
| mxfp4      | E2M1, a scale per 32 channels            | E2M1 per 32 keys | E2M1 per 32 keys |
| mxfp4_v16  | the same                                 | the same, exp2 in float16 | the same |

Sums are exact for integers, in float32 else (float64 if the inputs are). The keys lose their mean
over all valid keys before they become int8 or E2M1: that adds one number to all scores of a row,
which the softmax does not see, and takes away what a channel with an offset would cost.
"""

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor

from astroray_kernels.vfa.formats import (
    int8_codes,
    int8_key_groups,
    round_to,
    round_to_mxfp4,
    uint8_weights,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Operands:
    """The factors of both products, in working precision or as whole numbers held in float64."""

    precision: str
    weight_format: str
    """A key of `WEIGHTS`."""
    q_BHND: Tensor
    q_scale_BHN1: Tensor
    """With scale * log2(e) in it."""
    k_BHND: Tensor
    """Zero at masked keys, whatever they held."""
    k_scale_BHN1: Tensor
    v_BHND: Tensor
    """Zero at masked keys."""
    v_scale_BH1D: Tensor
    valid_BN: Tensor
    """True = the key takes part."""

    def query_numbers_BHND(self) -> Tensor:
        """The queries that the score product really multiplies, as numbers."""
        return self.q_BHND.to(self.q_scale_BHN1.dtype) * self.q_scale_BHN1

    def key_numbers_BHND(self) -> Tensor:
        """The keys that the score product really multiplies, as numbers."""
        return self.k_BHND.to(self.k_scale_BHN1.dtype) * self.k_scale_BHN1

    def scores_BHMK(self, rows: slice, keys: slice) -> Tensor:
        """Scores of a tile in powers of two; minus infinity at masked keys."""
        product_BHMK = self.q_BHND[:, :, rows] @ self.k_BHND[:, :, keys].mT
        scale_BHMK = self.q_scale_BHN1[:, :, rows] * self.k_scale_BHN1[:, :, keys].mT
        score_BHMK = product_BHMK.to(scale_BHMK.dtype) * scale_BHMK
        return score_BHMK.masked_fill(~self.valid_BN[:, None, None, keys], -torch.inf)

    def weights_BHMK(self, exponent_BHMK: Tensor) -> Tensor:
        """exp2 in the format that is multiplied with the values; saturates upward to infinity."""
        return WEIGHTS[self.weight_format](exponent_BHMK).to(self.v_BHND.dtype)


WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "working": torch.exp2,
    "bf16": lambda t: round_to(torch.exp2(t), torch.bfloat16),
    "fp16": lambda t: round_to(torch.exp2(t), torch.float16),
    "uint8": uint8_weights,
    "mxfp4": lambda t: round_to_mxfp4(torch.exp2(t), dim=-1),
    "mxfp4_v16": lambda t: round_to_mxfp4(
        round_to(torch.exp2(round_to(t, torch.float16)), torch.float16), dim=-1
    ),
}
"""The number format of weights, and how exp2 of an exponent gets there."""

_WEIGHT_FORMAT = {
    "fp32": "working",
    "bf16": "bf16",
    "int8_qk": "bf16",
    "int8": "uint8",
    "mxfp4": "mxfp4",
    "mxfp4_v16": "mxfp4_v16",
}
PRECISIONS = tuple(_WEIGHT_FORMAT)


def prepare(
    q_BHND: Tensor,
    k_BHND: Tensor,
    v_BHND: Tensor,
    *,
    scale: float,
    mask_BN: Tensor | None,
    precision: str,
) -> Operands:
    """The operands of one attention call, in the format that `precision` names.

    q, k, v  [B, H, N, D]  floating point
    mask_BN  [B, N]        bool, True = the key takes part; None = all
    """
    working = torch.float64 if q_BHND.dtype == torch.float64 else torch.float32
    batch, _, length, _ = q_BHND.shape
    if mask_BN is None:
        valid_BN = torch.ones(batch, length, dtype=torch.bool, device=q_BHND.device)
    else:
        valid_BN = mask_BN
    masked_B1N1 = ~valid_BN[:, None, :, None]
    q = q_BHND.to(working)
    k = k_BHND.to(working).masked_fill(masked_B1N1, 0.0)
    v = v_BHND.to(working).masked_fill(masked_B1N1, 0.0)
    if precision not in ("fp32", "bf16"):
        num_valid_B111 = (~masked_B1N1).sum(dim=2, keepdim=True).clamp(min=1)
        k = (k - k.sum(dim=2, keepdim=True) / num_valid_B111).masked_fill(masked_B1N1, 0.0)
    q_scale_BHN1 = k_scale_BHN1 = torch.ones_like(q[..., :1])
    factor = scale * math.log2(math.e)
    v_scale_BH1D = torch.ones_like(v[:, :, :1])
    weight_format = _WEIGHT_FORMAT[precision]
    if precision == "bf16" and q_BHND.dtype == torch.float16:
        weight_format = "fp16"  # the inputs are in it already, and bf16 has fewer bits
    elif precision in ("bf16", "int8_qk"):
        v = round_to(v, torch.bfloat16)
    if precision == "bf16" and weight_format == "bf16":
        q, k = round_to(q, torch.bfloat16), round_to(k, torch.bfloat16)
    if precision in ("int8_qk", "int8"):
        q, q_scale_BHN1 = int8_codes(q, dim=-1)
        k, k_scale_BHN1 = int8_key_groups(k)
        q, k = q.double(), k.double()
    if precision == "int8":
        v, v_scale_BH1D = int8_codes(v, dim=2)
        v = v.double()
    if precision in ("mxfp4", "mxfp4_v16"):
        q, k = round_to_mxfp4(q, dim=-1), round_to_mxfp4(k, dim=-1)
        v = round_to_mxfp4(v, dim=2)
    return Operands(
        precision=precision,
        weight_format=weight_format,
        q_BHND=q,
        q_scale_BHN1=q_scale_BHN1 * factor,
        k_BHND=k,
        k_scale_BHN1=k_scale_BHN1,
        v_BHND=v,
        v_scale_BH1D=v_scale_BH1D,
        valid_BN=valid_BN,
    )
