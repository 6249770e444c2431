"""The public attention of astroray, known to torch.compile and torch.export as one operator."""

import torch
from torch import Tensor

from astroray_kernels import checks
from astroray_kernels.dispatch import Need, select
from astroray_kernels.vfa import _sdpa
from astroray_kernels.vfa.result import empty_result, laid_out


def vfa_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float | None = None,
    mask: Tensor | None = None,
    precision: str = "bf16",
    skip: float | None = None,
    estimate: str = "auto",
    backend: str = "auto",
) -> Tensor:
    """softmax(scale * q k^T) v by VFA (arXiv 2604.12798) or, with `skip`, by VSA: for inference.

    q, k, v    [B, H, N, D]  one shape, dtype and device, any strides; B and H may be 0;
                             float32, bfloat16 or float16, for the reference float64 too.
                             The native and Triton backends take D of 32, 64, 96 and 128
    scale      > 0; None means D ** -0.5
    mask       [B, N]  bool, True where the key takes part; None means all. Masked keys may hold
                       NaN or infinity. An object whose keys are all masked gives zeros
    precision  of the two products: fp32, bf16, int8_qk (q k^T on integers), int8 (both products),
               mxfp4 (q k^T on 4-bit floats) and mxfp4_v16
    skip       > 0, in nats, -ln of the paper's lambda: a tile of scores is left out when each of
               its rows stays that far below its maximum so far; None leaves nothing out
    estimate   of the row maximum: auto, sabsmax (the paper's), sink_local, cauchy_schwarz, exact
    backend    auto, or one that must run: triton, native, sdpa, reference (`dispatch.resolved`)

    Returns [B, H, N, D] of q's dtype; NaN only where q, or a key or value that takes part, holds a
    NaN or an infinity, or where scores pass 1e8. It is contiguous, but where a token's heads lie
    side by side in q, as in a view of [B, N, H, D], they do so here: joining them copies nothing.
    Autocast changes neither precision nor dtype.

    The kernels have no backward pass. Where a gradient is needed (grad mode is on and q, k or v
    requires grad) this is torch's scaled_dot_product_attention in q's own dtype, whatever
    precision, skip, estimate and backend say. Under torch.no_grad and torch.inference_mode the
    kernels run. Code that trains should call torch's function by name.

    Raises TypeError and ValueError on arguments that cannot work, BackendError where this machine
    cannot run what was asked for.
    """
    checks.check_tensors(q, k, v, mask)
    checks.check_options(
        scale=scale, precision=precision, skip=skip, estimate=estimate, backend=backend
    )
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        return _sdpa.masked_sdpa(q, k, v, scale=scale, mask_BN=mask)
    out_BHND: Tensor = _operator(q, k, v, mask, scale, precision, skip, estimate, backend)
    return out_BHND


# The backend is chosen inside the operator, so a compiler sees one node and none of the choice.
@torch.library.custom_op("astroray::vfa_attention", mutates_args=())
def _operator(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    scale: float | None,
    precision: str,
    skip: float | None,
    estimate: str,
    backend: str,
) -> Tensor:
    dim = q.shape[-1]
    need = Need(precision=precision, skip=skip, estimate=estimate, dim=dim, dtype=q.dtype)
    function = select("vfa_attention", q.device, backend, need)
    if q.numel() == 0:
        return empty_result(q)
    with torch.autocast(q.device.type, enabled=False):  # it would make fp32 products bfloat16
        out_BHND, _ = function(
            q,
            k,
            v,
            scale=dim**-0.5 if scale is None else scale,
            mask_BN=mask,
            precision=precision,
            skip=skip,
            estimate=estimate,
        )
    return laid_out(out_BHND, q)


@_operator.register_fake
def _fake(q: Tensor, *_: object) -> Tensor:
    return empty_result(q)
