"""Attention by torch's scaled_dot_product_attention, with the meaning of masks that VFA has."""

import torch
import torch.nn.functional as F
from torch import Tensor

from astroray_kernels.dispatch import BackendError

PRECISIONS: tuple[str, ...] = ("fp32", "bf16")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ESTIMATES: tuple[str, ...] = ()  # torch takes the true maximum
SKIPS = False

_PRODUCT = {"fp32": torch.float32, "bf16": torch.bfloat16}


def why_not(device: torch.device) -> str:
    """torch runs on every device that it has tensors on: always ""."""
    return ""


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
) -> tuple[Tensor, None]:
    """Ordinary attention with the products in `precision`, and no facts: there are no tiles here.

    Arguments as in `vfa.reference`.

    Raises BackendError on another precision, on skip and on an estimate other than "auto":
    torch's function has none of them.
    """
    if precision not in PRECISIONS or skip is not None or estimate != "auto":
        raise BackendError(
            f"backend 'sdpa' has precision {', '.join(PRECISIONS)}, no skip and no estimate, got "
            f"precision={precision!r}, skip={skip}, estimate={estimate!r}; ask for backend='auto'"
        )
    q, k, v = (x.to(_PRODUCT[precision]) for x in (q_BHND, k_BHND, v_BHND))
    return masked_sdpa(q, k, v, scale=scale, mask_BN=mask_BN).to(q_BHND.dtype), None


def masked_sdpa(
    q_BHND: Tensor, k_BHND: Tensor, v_BHND: Tensor, *, scale: float | None, mask_BN: Tensor | None
) -> Tensor:
    """torch's attention in q's dtype, differentiable: [B, H, N, D].

    mask_BN  [B, N]  bool, True where the key takes part. Masked keys and values may hold NaN and
                     get zero gradients; an object whose keys are all masked gives zeros.
    """
    mask_B11N = None
    if mask_BN is not None:
        # torch adds -inf to masked scores and multiplies masked values by 0, so a NaN there would
        # spread. An object without keys attends to its zeroed values instead of to nothing:
        # that gives zeros, forward and backward, on every device.
        seen_B1 = mask_BN.any(dim=1, keepdim=True)
        mask_B1N1 = mask_BN[:, None, :, None]
        q_BHND = q_BHND.where(seen_B1[:, :, None, None], 0.0)
        k_BHND = k_BHND.where(mask_B1N1, 0.0)
        v_BHND = v_BHND.where(mask_B1N1, 0.0)
        mask_B11N = (mask_BN | ~seen_B1)[:, None, None, :]
    return F.scaled_dot_product_attention(q_BHND, k_BHND, v_BHND, attn_mask=mask_B11N, scale=scale)
