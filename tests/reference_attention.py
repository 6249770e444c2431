"""The reference with every option at its plainest, for tests that set one or two of them."""

from torch import Tensor

from astroray_kernels.vfa import reference


def attend(q: Tensor, k: Tensor, v: Tensor, **options: object) -> tuple[Tensor, reference.Facts]:
    """Output and facts; float64 inputs are not rounded anywhere."""
    defaults = {
        "scale": q.shape[-1] ** -0.5,
        "mask_BN": None,
        "precision": "fp32",
        "skip": None,
        "estimate": "sabsmax",
    }
    return reference.vfa_attention(q, k, v, **(defaults | options))
