"""What vfa_attention accepts: every argument is looked at once, before a backend is chosen."""

import math

import torch
from torch import Tensor

from astroray_kernels.dispatch import BACKENDS

PRECISIONS = ("fp32", "bf16", "int8_qk", "int8", "mxfp4", "mxfp4_v16")
ESTIMATES = ("sabsmax", "sink_local", "cauchy_schwarz", "exact")
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

_OP = "vfa_attention"


def check_tensors(q_BHND: Tensor, k_BHND: Tensor, v_BHND: Tensor, mask_BN: Tensor | None) -> None:
    """q, k, v: equal [B, H, N, D] with N, D >= 1 and B, H >= 0; mask: bool [B, N] or None.

    Raises TypeError on what is no tensor or has another dtype, ValueError on other shapes or on
    tensors of several devices.
    """
    for name, x in (("q", q_BHND), ("k", k_BHND), ("v", v_BHND)):
        _check_tensor(name, x)
        if x.dtype not in DTYPES:
            raise TypeError(
                f"{_OP}: {name} has dtype {x.dtype}, expected one of {_list(DTYPES)}; "
                f"convert it, as with {name}.float()"
            )
    if q_BHND.ndim != 4 or q_BHND.shape[2] < 1 or q_BHND.shape[3] < 1:
        raise ValueError(
            f"{_OP}: q has shape {list(q_BHND.shape)}, expected [B, H, N, D] with N, D >= 1 "
            f"(batch, heads, length, head dimension); reshape q, k and v"
        )
    for name, x in (("k", k_BHND), ("v", v_BHND)):
        if x.shape != q_BHND.shape:
            raise ValueError(
                f"{_OP}: {name} has shape {list(x.shape)}, expected q's {list(q_BHND.shape)}; "
                f"self-attention alone is built: repeat grouped heads, pad with mask"
            )
        if x.dtype != q_BHND.dtype:
            raise TypeError(
                f"{_OP}: {name} has dtype {x.dtype}, expected q's {q_BHND.dtype}; "
                f"convert q, k and v to one dtype"
            )
        _check_device(name, x, q_BHND)
    if mask_BN is not None:
        _check_mask(mask_BN, q_BHND)


def check_options(
    *, scale: float | None, precision: str, skip: float | None, estimate: str, backend: str
) -> None:
    """scale and skip: finite and > 0, or None; the others: one of the known names.

    A negative scale is refused, since the bounds of the row maximum hold for positive ones.
    Raises TypeError on what is no number, ValueError on other values and unknown names.
    """
    _check_positive("scale", scale, "None means D ** -0.5; for a negative scale negate q")
    _check_positive("skip", skip, "it is in nats, -ln of the paper's lambda; None skips nothing")
    _check_name("precision", precision, PRECISIONS)
    _check_name("estimate", estimate, ("auto", *ESTIMATES))
    _check_name("backend", backend, ("auto", *BACKENDS[_OP]))


def _check_mask(mask_BN: Tensor, q_BHND: Tensor) -> None:
    _check_tensor("mask", mask_BN)
    if mask_BN.dtype != torch.bool:
        raise TypeError(
            f"{_OP}: mask has dtype {mask_BN.dtype}, expected torch.bool, True where the key "
            f"takes part; write mask.bool() if nonzero means that"
        )
    expected = (q_BHND.shape[0], q_BHND.shape[2])
    if mask_BN.shape != expected:
        raise ValueError(
            f"{_OP}: mask has shape {list(mask_BN.shape)}, expected [B, N] = {list(expected)}: "
            f"one mask of the keys for all heads and queries"
        )
    _check_device("mask", mask_BN, q_BHND)


def _check_tensor(name: str, x: object) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{_OP}: {name} is a {type(x).__name__}, expected a torch.Tensor")
    if x.layout != torch.strided:
        raise TypeError(
            f"{_OP}: {name} has layout {x.layout}, expected torch.strided; write {name}.to_dense()"
        )


def _check_device(name: str, x: Tensor, q_BHND: Tensor) -> None:
    if x.device != q_BHND.device:
        raise ValueError(
            f"{_OP}: {name} is on {x.device}, expected q's device {q_BHND.device}; "
            f"move them to one device"
        )


def _check_positive(name: str, value: object, advice: str) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(
            f"{_OP}: {name} is a {type(value).__name__}, expected a float > 0 or None; {advice}"
        )
    if not 0 < value < math.inf:  # a compiler can follow this, unlike math.isfinite
        raise ValueError(f"{_OP}: {name} is {value}, expected a finite number > 0; {advice}")


def _check_name(what: str, name: object, names: tuple[str, ...]) -> None:
    if name not in names:
        raise ValueError(f"{_OP}: {what} is {name!r}, expected one of {', '.join(names)}")


def _list(dtypes: tuple[torch.dtype, ...]) -> str:
    return ", ".join(str(dtype) for dtype in dtypes)
