"""Frozen-maximum attention on NVIDIA GPUs: which Triton kernels run, with which tiles."""

import dataclasses
import importlib.util
import math

import torch
from torch import Tensor

from astroray_kernels.dispatch import BackendError
from astroray_kernels.vfa import guard
from astroray_kernels.vfa._triton_tiles import TILES, Tiles
from astroray_kernels.vfa.facts import TileFacts

__all__ = ["DIMS", "ESTIMATE", "PRECISIONS", "vfa_attention", "why_not"]

PRECISIONS = ("fp32", "bf16", "int8_qk", "mxfp4")
DIMS = (32, 64, 96, 128)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ESTIMATE = "cauchy_schwarz"
"""What "auto" means here: weights with 8 bits of exponent take any maximum that is near enough, so
the bound that costs one multiplication a row does, and every block is a frozen one. float16 weights
(float16 inputs) need a nearer one: for them "auto" is the paper's "sabsmax". With skip it is
"sink_local", which never lies above the true maximum, so that no block that matters is dropped."""
FP16_SHIFT = 6
"""float16 weights are taken 2**6 times as large, as estimates rather lie above the maximum."""
KEY_GROUP = 64


def why_not(device: torch.device) -> str:
    """Why Triton cannot run on that device, in words; "" where it can."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install triton)"
    if _is_interpreting():
        return ""
    if device.type != "cuda":
        return f"Triton's kernels need an NVIDIA GPU, this is {device} (TRITON_INTERPRET=1 is off)"
    if torch.version.hip is not None or not torch.cuda.is_available():
        return "torch sees no NVIDIA GPU"
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        return f"the GPU has compute capability {major}.{minor}, the kernels need 8.0 or newer"
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
    record: bool = False,
) -> tuple[Tensor, TileFacts | None]:
    """Attention [B, H, N, D] by VFA, with `skip` by VSA, and what it met if `record`.

    The other arguments are those of `vfa.reference`. float16 inputs are multiplied in float16,
    others in bfloat16 ("bf16", "int8_qk"). Tiles that fail their certificate are redone by online
    softmax, those of int8_qk with 16-bit scores.

    Raises BackendError on a precision that the backend or the device lacks.
    """
    dtype = _product_dtype(q_BHND, precision)
    if estimate == "auto":
        estimate = _auto_estimate(precision, dtype, skip)
    call = _Call(
        scale_log2=scale * math.log2(math.e),
        skip_log2=None if skip is None else skip * math.log2(math.e),
        precision=precision,
        estimate=estimate,
        is_recorded=record,
        tiles=_tiles(q_BHND, precision, estimate, skip),
        dtype=dtype,
    )
    out_BHND = torch.empty(q_BHND.shape, dtype=q_BHND.dtype, device=q_BHND.device)
    batch, heads, length, _ = q_BHND.shape
    num_programs = batch * heads * -(-length // call.tiles.block_m)
    facts = torch.zeros(max(num_programs, 1), 2, dtype=torch.int32, device=q_BHND.device)
    if out_BHND.numel():
        q_BHND, k_BHND, v_BHND = (_rows_in_memory(x) for x in (q_BHND, k_BHND, v_BHND))
        run = _run_mxfp4 if precision == "mxfp4" else _run
        run(call, q_BHND, k_BHND, v_BHND, mask_BN, out_BHND, facts)
    if not record:
        return out_BHND, None
    num_redone, num_skipped = facts.sum(dim=0).tolist()
    return out_BHND, TileFacts(
        num_tiles=num_programs,
        num_redone=num_redone,
        num_key_blocks=num_programs * -(-length // call.tiles.block_n),
        num_skipped=num_skipped,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Call:
    """What a call settled before it looked at numbers."""

    scale_log2: float
    skip_log2: float | None
    precision: str
    estimate: str
    is_recorded: bool
    tiles: Tiles
    dtype: torch.dtype

    def padded(self, dim: int) -> int:
        """What a head dimension is padded to: sm_100 multiplies 4-bit floats 64 at a time."""
        return max(_padded(dim), 64 if self.precision == "mxfp4" else 1)

    def constants(self, dim: int) -> dict[str, int | bool]:
        """What the kernels for all precisions are compiled with."""
        return {
            "DIM": dim,
            "D": self.padded(dim),
            "BLOCK_M": self.tiles.block_m,
            "BLOCK_N": self.tiles.block_n,
            "STAGES": self.tiles.stages,
            "INTERPRET": _is_interpreting(),
        }


def _run(
    call: _Call,
    q_BHND: Tensor,
    k_raw_BHND: Tensor,
    v_BHND: Tensor,
    mask_BN: Tensor | None,
    out_BHND: Tensor,
    facts: Tensor,
) -> None:
    """Fills out, and facts if recorded, by `vfa_forward`."""
    from astroray_kernels.vfa._triton_kernels import vfa_forward

    _, heads, length, dim = q_BHND.shape
    k_BHND, v_BHND = k_raw_BHND.to(call.dtype), v_BHND.to(call.dtype)
    mask = q_BHND if mask_BN is None else _bytes(mask_BN)
    keys = _scan_keys(call, k_raw_BHND, mask_BN, mask)
    is_fp16 = call.dtype == torch.float16
    l_lo, l_hi = (length * 2.0**-14, 2.0**15) if is_fp16 else guard.WINDOWS["bf16"]
    vfa_forward[(len(facts),)](
        q_BHND,
        k_BHND,
        v_BHND,
        out_BHND,
        mask,
        keys.codes,
        keys.scale,
        keys.representative,
        keys.mean,
        keys.bound,
        facts,
        heads,
        length,
        *q_BHND.stride()[:3],
        *k_BHND.stride()[:3],
        *v_BHND.stride()[:3],
        call.scale_log2,
        call.skip_log2 or 0.0,
        l_lo,
        l_hi,
        INT8=call.precision == "int8_qk",
        ESTIMATE=call.estimate,
        SHIFT=FP16_SHIFT if is_fp16 and call.estimate != "sink_local" else 0,
        SKIP=call.skip_log2 is not None,
        HAS_MASK=mask_BN is not None,
        ROW_SUM=call.tiles.row_sum,
        RECORD=call.is_recorded,
        num_warps=call.tiles.warps,
        enable_fp_fusion=True,
        **call.constants(dim),
    )


def _run_mxfp4(
    call: _Call,
    q_BHND: Tensor,
    k_BHND: Tensor,
    v_BHND: Tensor,
    mask_BN: Tensor | None,
    out_BHND: Tensor,
    facts: Tensor,
) -> None:
    """Fills out, and facts if recorded, by `mxfp4_forward`."""
    from astroray_kernels.vfa import _triton_mxfp4

    _triton_mxfp4.launch(
        q_BHND,
        k_BHND,
        v_BHND,
        out_BHND,
        facts,
        scale_log2=call.scale_log2,
        mask_bytes_BN=None if mask_BN is None else _bytes(mask_BN),
        mean=_mean(k_BHND, mask_BN, call.padded(q_BHND.shape[3])),
        is_recorded=call.is_recorded,
        product_dtype=call.dtype,
        constants=call.constants(q_BHND.shape[3]),
        warps=call.tiles.warps,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Keys:
    """What `scan_keys` found; arrays that a call does without are stand-ins."""

    codes: Tensor
    scale: Tensor
    representative: Tensor
    mean: Tensor
    bound: Tensor


def _scan_keys(call: _Call, k_BHND: Tensor, mask_BN: Tensor | None, mask_bytes_BN: Tensor) -> _Keys:
    """One pass over the keys, for what needs it. Shapes: see `_triton_keys.scan_keys`."""
    from astroray_kernels.vfa._triton_keys import scan_keys

    batch, heads, length, dim = k_BHND.shape
    num_groups, padded = -(-length // KEY_GROUP), call.padded(dim)
    is_int8, is_sabsmax = call.precision == "int8_qk", call.estimate == "sabsmax"
    is_centered = is_int8 or call.estimate == "cauchy_schwarz"

    def array(needed: bool, *shape: int, dtype: torch.dtype) -> Tensor:
        shape = shape if needed else (1,)
        return torch.empty(batch * heads, *shape, dtype=dtype, device=k_BHND.device)

    codes = array(is_int8, num_groups * KEY_GROUP, padded, dtype=torch.int8)
    scale = array(is_int8, num_groups, dtype=torch.float32)
    representative = array(is_sabsmax, num_groups, padded, dtype=call.dtype)
    norm = array(True, num_groups, dtype=torch.float32)
    mean = _mean(k_BHND, mask_BN, padded) if is_centered else norm
    found = _Keys(codes=codes, scale=scale, representative=representative, mean=mean, bound=norm)
    if not (is_centered or is_sabsmax):
        return found
    scan_keys[(batch * heads * num_groups,)](
        k_BHND,
        mean,
        mask_bytes_BN,
        representative,
        codes,
        scale,
        norm,
        heads,
        length,
        *k_BHND.stride()[:3],
        DIM=dim,
        D=padded,
        HAS_MASK=mask_BN is not None,
        CENTER=is_centered,
        SABSMAX=is_sabsmax,
        INT8=is_int8,
        INTERPRET=_is_interpreting(),
        enable_fp_fusion=True,
    )
    longest = norm.amax(dim=1)
    coarsest = scale.amax(dim=1) if is_int8 else longest
    return dataclasses.replace(found, bound=torch.stack((longest, coarsest), dim=1))


def _mean(k_BHND: Tensor, mask_BN: Tensor | None, padded: int) -> Tensor:
    """Mean of the valid keys [B H, padded] in float32; zeros where there is none."""
    if mask_BN is None:
        mean_BHD = k_BHND.mean(dim=2, dtype=torch.float32)
    else:
        valid_B1N1 = mask_BN[:, None, :, None]
        total_BHD = k_BHND.masked_fill(~valid_B1N1, 0.0).sum(dim=2, dtype=torch.float32)
        mean_BHD = total_BHD / valid_B1N1.sum(dim=2).clamp(min=1)
    return torch.nn.functional.pad(mean_BHD, (0, padded - k_BHND.shape[3])).flatten(0, 1)


def _padded(dim: int) -> int:
    return 1 << (dim - 1).bit_length()


def _bytes(mask_BN: Tensor) -> Tensor:
    return mask_BN.contiguous().view(torch.uint8)


def _tiles(q_BHND: Tensor, precision: str, estimate: str, skip: float | None) -> Tiles:
    """The tiles of this device. Raises BackendError on what Triton or the device lacks."""
    if precision not in PRECISIONS:
        raise BackendError(
            f"backend 'triton' has no precision {precision!r}; it has {', '.join(PRECISIONS)}"
        )
    if precision == "mxfp4" and (skip is not None or estimate != "cauchy_schwarz"):
        raise BackendError(
            f"backend 'triton' has mxfp4 with estimate 'cauchy_schwarz' and no skip, got "
            f"estimate={estimate!r}, skip={skip}; the reference has the rest"
        )
    arch, dim = _arch(q_BHND.device), q_BHND.shape[3]
    if (arch, _padded(dim), precision) not in TILES:
        known = sorted({row for row, _, name in TILES if name == precision and row})
        raise BackendError(
            f"backend 'triton' has {precision} with D = {', '.join(map(str, DIMS))} on "
            f"{', '.join(f'sm_{row}' for row in known)}, got D = {dim} on the kernels of sm_{arch}"
        )
    return TILES[arch, _padded(dim), precision]


def _auto_estimate(precision: str, dtype: torch.dtype, skip: float | None) -> str:
    if precision == "mxfp4":
        return ESTIMATE
    if skip is not None:
        return "sink_local"
    return "sabsmax" if dtype == torch.float16 else ESTIMATE


def _product_dtype(q_BHND: Tensor, precision: str) -> torch.dtype:
    if precision == "fp32":
        return torch.float32
    return torch.float16 if q_BHND.dtype == torch.float16 else torch.bfloat16


def _rows_in_memory(x_BHND: Tensor) -> Tensor:
    """The tensor with channels side by side, and rows near enough for 32-bit steps in a tile."""
    near = x_BHND.stride(3) == 1 and abs(x_BHND.stride(2)) < 2**23
    return x_BHND if near else x_BHND.contiguous()


def _arch(device: torch.device) -> int:
    """The row of `TILES`: the newest architecture that the device can run the tiles of."""
    if _is_interpreting():
        return 0
    major, _ = torch.cuda.get_device_capability(device)
    # Consumer Blackwell (12.x) has neither sm_90's nor sm_100's matrix units, nor their memory.
    return {9: 90, 10: 100, 11: 100}.get(major, 80)


def _is_interpreting() -> bool:
    """Were the kernels loaded under TRITON_INTERPRET=1? Triton decides when it decorates them."""
    import triton

    from astroray_kernels.vfa import _triton_kernels

    return not isinstance(_triton_kernels.vfa_forward, triton.JITFunction)
