"""Attention on a CPU with AVX2 or AVX-512, by the native library that the installation compiled.

Which products the CPU is fast in decides how probabilities weigh the values: bfloat16 on AMD and
by AMX, float16 on other Intel CPUs since Sapphire Rapids (where vdpbf16ps runs at half the speed of
float32), else float32. Scores are float32 or integers: 16 bits of them are more exact than bfloat16
and, unlike it, fast on every CPU; AMX, which has none of 16 bits, forms scores of bfloat16. AVX2
has no product of 8-bit integers that cannot saturate, so there is none.
"""

import ctypes
from collections.abc import Iterator

import torch
from torch import Tensor

from astroray_kernels import library
from astroray_kernels.dispatch import BackendError
from astroray_kernels.vfa.facts import TileFacts
from astroray_kernels.vfa.result import empty_result

PRECISIONS: tuple[str, ...] = ("fp32", "bf16", "int8_qk", "int8")
DIMS = (32, 64, 96, 128)
DTYPES = tuple(library.DTYPE_CODES)
ESTIMATES: tuple[str, ...] = ("sabsmax", "sink_local", "cauchy_schwarz", "exact")
ESTIMATE = "cauchy_schwarz"
"""What "auto" means: keys are centered, so the true maximum lies between 0 and this bound."""

ONLINE = "online"
"""Not an estimate: the ordinary online softmax of the same kernel, FlashAttention's twin."""

# Codes of native/vfa.h.
_SCORES = {"fp32": 0, "bf16": 1, "int8_qk": 2, "int8": 2}
_BFLOAT16_SCORES = 3
_VALUES = {"float32": 0, "bfloat16": 1, "float16": 2, "int8": 3}
_ESTIMATES = {ONLINE: 0, "cauchy_schwarz": 1, "sabsmax": 2, "sink_local": 3, "exact": 4}


class _Call(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("q", "k", "v", "out", "mask", "todo")),
        *((name, ctypes.c_int64) for name in ("batch", "heads", "length", "dim")),
        *((f"{name}_strides", ctypes.c_int64 * 3) for name in ("q", "k", "v", "out")),
        *((name, ctypes.c_float) for name in ("scale", "skip")),
        *((name, ctypes.c_int32) for name in ("dtype", "score", "value", "estimate", "threads")),
        ("facts", ctypes.c_int64 * 4),
    ]


def why_not(device: torch.device) -> str:
    """Why the native code cannot run on that device, in words; "" where it can."""
    return library.why_not(device)


def refuses(precision: str) -> str:
    """Why this machine lacks one of `PRECISIONS`, in words; "" where it has it."""
    if precision not in ("int8_qk", "int8") or library.features() & library.HAS_AVX512:
        return ""
    return f"precision {precision} needs AVX-512 with VNNI: products of 8 bits saturate in AVX2"


def vfa_attention(
    q_BHND: Tensor,
    k_BHND: Tensor,
    v_BHND: Tensor,
    *,
    scale: float,
    mask_BN: Tensor | None = None,
    precision: str = "bf16",
    skip: float | None = None,
    estimate: str = "auto",
    values: str = "",
    out_BHND: Tensor | None = None,
) -> tuple[Tensor, TileFacts]:
    """softmax(scale q k^T) v [B, H, N, D], as `empty_result` lies, and what its tiles of rows met.

    precision  fp32; bf16: int16 scores, by AMX bfloat16 ones, and values as `value_format` says,
               but fp32 for float16 inputs; int8_qk: int8 scores; int8: int8 values too, their
               weights under the true maximum of each 256 keys
    skip       in nats: blocks of 64 keys that all rows of a tile vote out are left out; the maximum
               is the running one, which begins with the sink and the local block
    estimate   of `ESTIMATES`, or "online" for the ordinary online softmax
    values     a format that is not this CPU's own choice: float32, bfloat16, float16
    out_BHND   where the result goes, its last stride 1; None: a new tensor

    Results do not depend on the number of threads (torch's) to the last bit. Heads whose scores of
    8 bits, or of bfloat16, would be too coarse are done with 16 bits.
    Raises BackendError on a precision, dtype or head dimension that the native code lacks.
    """
    if reason := why_not(q_BHND.device) or _lacks(q_BHND, precision):
        raise BackendError(f"backend 'native' cannot run: {reason}; ask for backend='auto'")
    if precision == "bf16" and q_BHND.dtype == torch.float16:
        precision = "fp32"  # float16 inputs are more exact than bfloat16, and than 16-bit scores
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q_BHND, k_BHND, v_BHND))
    batch, heads, length, dim = q.shape
    out = empty_result(q_BHND) if out_BHND is None else out_BHND
    mask = None if mask_BN is None else mask_BN.contiguous().view(torch.uint8)
    todo = torch.ones(batch * heads, dtype=torch.uint8)
    call = _Call(
        q=q.data_ptr(), k=k.data_ptr(), v=v.data_ptr(), out=out.data_ptr(),
        mask=None if mask is None else mask.data_ptr(), todo=todo.data_ptr(),
        batch=batch, heads=heads, length=length, dim=dim,
        q_strides=q.stride()[:3], k_strides=k.stride()[:3], v_strides=v.stride()[:3],
        out_strides=out.stride()[:3], scale=scale, skip=skip or 0.0,
        dtype=library.DTYPE_CODES[q.dtype], threads=library.num_threads(),
        estimate=_ESTIMATES[ESTIMATE if estimate == "auto" else estimate],
    )  # fmt: skip
    kinds = _kinds(precision, values)
    counts = [_run(call, *next(kinds))]
    while todo.any() and (finer := next(kinds, None)):
        counts.append(_run(call, *finer))
    tiles, redone, blocks, skipped = (sum(column) for column in zip(*counts, strict=True))
    return out, TileFacts(
        num_tiles=tiles, num_redone=redone, num_key_blocks=blocks, num_skipped=skipped
    )


def value_format() -> str:
    """How probabilities and values are multiplied here, but for precisions fp32 and int8."""
    return "bfloat16" if library.features() & library.HAS_AMX else library.value_format()


def rows_of_tile(precision: str, dtype: torch.dtype = torch.float32) -> int:
    """Rows that are attended at once, and redone or voted on together; of heads of 16 bits 6."""
    is_float32 = precision == "fp32" or (precision == "bf16" and dtype == torch.float16)
    return 6 if is_float32 or not library.features() & library.HAS_AMX else 16


def _kinds(precision: str, values: str) -> Iterator[tuple[int, int]]:
    """ScoreKind and ValueKind, and then those of heads for which the former are too coarse."""
    if precision != "bf16":
        own = {"fp32": "float32", "int8": "int8"}.get(precision, value_format())
        yield _SCORES[precision], _VALUES[values or own]
    if precision == "fp32":
        return
    if library.features() & library.HAS_AMX and values in ("", "bfloat16"):
        yield _BFLOAT16_SCORES, _VALUES["bfloat16"]
    yield _SCORES["bf16"], _VALUES[values or library.value_format()]


def _lacks(q_BHND: Tensor, precision: str) -> str:
    for what, got, has in (
        ("precision", precision, PRECISIONS),
        ("head dimension", q_BHND.shape[-1], DIMS),
        ("dtype", q_BHND.dtype, DTYPES),
    ):
        if got not in has:
            return f"{what} is {got}, expected one of {', '.join(map(str, has))}"
    return refuses(precision)


def _run(call: _Call, score: int, value: int) -> list[int]:
    call.score, call.value = score, value
    run = library.function("astroray_attention", ctypes.POINTER(_Call), ctypes.c_int32)
    code = run(ctypes.byref(call), library.features())
    if code == library.NO_MEMORY:
        raise MemoryError(
            f"attention on {call.batch} x {call.heads} heads of {call.length} rows needs more "
            "memory than there is; use a smaller batch"
        )
    if code:
        raise BackendError(
            f"the native library has no kernel of score {call.score} and value {call.value} for "
            f"this CPU (features {library.features()}); ask for backend='auto'"
        )
    return list(call.facts)
