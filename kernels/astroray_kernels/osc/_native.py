"""Quantized linear layers on a CPU with AVX2, or AVX-512 and VNNI, by the compiled library.

With VNNI whole numbers are multiplied by `vpdpbusd`, of 4 bits too: no CPU multiplies 4-bit
numbers, so they are unpacked on the way, and what 4 bits save is memory. Outlier channels are
multiplied as bfloat16 on AMD, else as float32 (of the same bfloat16 numbers): Intel's vdpbf16ps is
no faster.

AVX2 has `vpmaddubsw`, whose sums of two products have 16 bits and saturate. They hold those of 4
bits, of a whole group. Of 8 bits 16 hold four products whose weights are not all large, and weights
are made so: what is taken off them (`_excess`) is multiplied apart. Where it is much, 8 bits are
widened to 16 and multiplied by `vpmaddwd`.

Where the CPU has AMX, it multiplies 8 bits by `tdpbusd`, outliers by `tdpbf16ps`, and 4 bits by
`tdpbf16ps` too: as bfloat16 they are exact, E2M1 with the scales of its groups in them, and their
sums come as float32.
"""

import ctypes
import dataclasses
import functools
import weakref

import torch
from torch import Tensor
from torch.nn.functional import pad

from astroray_kernels import library
from astroray_kernels.dispatch import BackendError
from astroray_kernels.osc import _excess, formats
from astroray_kernels.osc.formats import FORMATS, Format
from astroray_kernels.osc.norms import Norm
from astroray_kernels.osc.packed import PackedWeights
from astroray_kernels.osc.reference import QuantizedActivations

PRECISIONS = tuple(FORMATS)
DTYPES = tuple(library.DTYPE_CODES)
LARGEST_IN = 2**16
"""Input channels; beyond it sums could leave 32 bits."""
GELU_PIECES, GELU_END = 32, 5.5
"""A cubic for each piece of 0 to the end: off by at most 6e-7, as much as float32's erf."""

# Codes of native/osc.h and native/vfa.h.
_FLOAT32, _BFLOAT16, _TILES, _AVX2 = range(4)  # LinearPath
_INT8, _INT4, _E2M1, _TWO_LEVELS, _WIDE = range(5)  # CodeKind
_COLUMNS = 64
"""What output channels are filled up to."""
_BLOCK_COLUMNS = {_FLOAT32: 64, _BFLOAT16: 64, _TILES: 32, _AVX2: 16}
"""Output channels of a packed block of weights, by path."""

_LARGEST_EXCESS = 0.03
"""Entries of `_excess` for each weight beyond which products of 16 bits are faster. Measured on
Zen 3 by layers of normal weights cut at 4 to 1.7 deviations, both ways in turns, with this at 9
and at 0: by 8 bits a layer is 1.1 times as fast at .02, as fast at .0305, .88 times at .046,
whether it has 384 inputs, 768 or 1,536."""


class _Call(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "y", "weight", "excess", "excess_begin")),
        *((name, ctypes.c_void_p) for name in ("start", "scale", "lower", "bias", "kept")),
        *((name, ctypes.c_void_p) for name in ("outlier", "outlier_weight")),
        *((name, ctypes.c_void_p) for name in ("norm", "next", "gelu")),
        *((name, ctypes.c_void_p) for name in ("codes", "token_scale", "token_outlier")),
        *((name, ctypes.c_int64) for name in ("num_tokens", "num_in", "num_out", "num_groups")),
        *((name, ctypes.c_int64) for name in ("num_outliers", "stride")),
        *((name, ctypes.c_float) for name in ("gelu_end", "norm_epsilon")),
        *((name, ctypes.c_int32) for name in ("norm_centers", "dtype")),
        *((name, ctypes.c_int32) for name in ("kind", "threads")),
    ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Layout:
    """A layer's tensors in the order in which native/osc.h reads them."""

    kind: int
    weight: Tensor
    excess: tuple[Tensor, Tensor] | None
    start: Tensor
    scale: Tensor
    lower: Tensor | None
    bias: Tensor
    kept: Tensor
    outlier: Tensor
    outlier_weight: Tensor


_layouts: "weakref.WeakKeyDictionary[PackedWeights, dict[int, _Layout]]" = (
    weakref.WeakKeyDictionary()
)
"""By path, made when a layer first runs and gone with it."""
_norms: "weakref.WeakKeyDictionary[Norm, Tensor]" = weakref.WeakKeyDictionary()
"""The same of norms."""


def why_not(device: torch.device) -> str:
    """Why the native code cannot run on that device, in words; "" where it can."""
    return library.why_not(device)


def quantize_activations(
    x_MK: Tensor, packed: PackedWeights, *, norm: Norm | None
) -> QuantizedActivations:
    """Codes, scales and outlier channels, to the bit as `reference.quantize_activations` has."""
    num_tokens = len(x_MK)
    quantized = QuantizedActivations(
        codes=packed.codes.new_empty((num_tokens, packed.codes.shape[1])),
        scale_MG=torch.empty((num_tokens, packed.scale_NG.shape[1])),
        outlier_MO=torch.empty((num_tokens, len(packed.outlier_O)), dtype=torch.bfloat16),
    )
    _check(x_MK, packed)
    path = _path(has_tiles=False)  # which are for products alone
    call = _layer(packed, path, norm=norm)
    call.codes, call.token_scale = quantized.codes.data_ptr(), quantized.scale_MG.data_ptr()
    call.token_outlier = quantized.outlier_MO.data_ptr()
    _run(call, path, x_MK)
    return quantized


def osc_linear(
    x_MK: Tensor,
    packed: PackedWeights,
    *,
    activation: str,
    norm: Norm | None,
) -> Tensor:
    """act(norm(x) W^T + bias) [M, N]: whole numbers exact, all else in float32.

    Results do not depend on the number of threads (torch's) nor on the other tokens.
    Raises BackendError on a machine that cannot run it and on a layer that is too wide.
    """
    _check(x_MK, packed)
    y_MN = x_MK.new_empty((len(x_MK), packed.num_out))
    path = _path()
    _run(_layer(packed, path, activation=activation, norm=norm), path, x_MK, y_MN)
    return y_MN


def osc_mlp(
    x_MK: Tensor,
    first: PackedWeights,
    second: PackedWeights,
    *,
    activation: str,
    norm: Norm | None,
) -> Tensor:
    """Two layers, a block of tokens at a time, so that what is between them never leaves the L2.

    Of float32 tokens to the bit what `osc_linear` gives twice.
    """
    _check(x_MK, first)
    _check(x_MK, second)
    y_MN = x_MK.new_empty((len(x_MK), second.num_out))
    path = _path()
    call = _layer(first, path, activation=activation, norm=norm)
    following = _layer(second, path)
    call.next = ctypes.addressof(following)
    _run(call, path, x_MK, y_MN)
    return y_MN


def _check(x_MK: Tensor, packed: PackedWeights) -> None:
    if reason := why_not(x_MK.device) or _lacks(x_MK, packed):
        raise BackendError(f"backend 'native' cannot run: {reason}; ask for backend='reference'")


def _lacks(x_MK: Tensor, packed: PackedWeights) -> str:
    if x_MK.dtype not in DTYPES:
        return f"dtype is {x_MK.dtype}, expected one of {', '.join(map(str, DTYPES))}"
    if packed.num_in > LARGEST_IN:
        return f"the layer has {packed.num_in} input channels, expected at most {LARGEST_IN}"
    return ""


def _layer(
    packed: PackedWeights, path: int, *, activation: str = "none", norm: Norm | None = None
) -> _Call:
    """A call without its tokens."""
    layout = _layout(packed, path)
    call = _Call(
        weight=layout.weight.data_ptr(), start=layout.start.data_ptr(),
        scale=layout.scale.data_ptr(), bias=layout.bias.data_ptr(), kept=layout.kept.data_ptr(),
        outlier=layout.outlier.data_ptr(), outlier_weight=layout.outlier_weight.data_ptr(),
        num_in=packed.num_in, num_out=packed.num_out, num_groups=packed.scale_NG.shape[1],
        num_outliers=len(packed.outlier_O), gelu_end=GELU_END,
        kind=layout.kind,
        threads=library.num_threads(),
    )  # fmt: skip
    if activation == "gelu":
        call.gelu = _gelu_pieces(path).data_ptr()
    if layout.excess is not None:
        call.excess, call.excess_begin = (part.data_ptr() for part in layout.excess)
    if layout.lower is not None:
        call.lower = layout.lower.data_ptr()
    if norm is not None:
        call.norm = _norm_rows(norm, packed.num_in).data_ptr()
        call.norm_epsilon, call.norm_centers = norm.epsilon, norm.takes_mean
    return call


def _kind(form: Format) -> int:
    if form.bits == 8:
        return _INT8
    return (_TWO_LEVELS if form.has_levels else _E2M1) if form.is_float else _INT4


def _run(call: _Call, path: int, x_MK: Tensor, y_MN: Tensor | None = None) -> None:
    if not len(x_MK):
        return
    x_MK = x_MK if x_MK.stride(1) == 1 else x_MK.contiguous()
    call.x, call.num_tokens, call.stride = x_MK.data_ptr(), len(x_MK), x_MK.stride(0)
    call.dtype = library.DTYPE_CODES[x_MK.dtype]
    if y_MN is not None:
        call.y = y_MN.data_ptr()
    run = library.function("astroray_linear", ctypes.POINTER(_Call), ctypes.c_int32)
    code = run(ctypes.byref(call), path)
    if code == library.NO_MEMORY:
        raise MemoryError(f"a layer of {call.num_in} input channels has no memory to work in")
    if code:
        raise BackendError(
            "the native library has no quantized linear layer for this CPU (features "
            f"{library.features()}); ask for backend='reference'"
        )


def _path(*, has_tiles: bool = True) -> int:
    """How a call is computed."""
    if has_tiles and library.features() & library.HAS_AMX:
        return _TILES
    if not library.features() & library.HAS_AVX512:
        return _AVX2
    return _BFLOAT16 if library.value_format() == "bfloat16" else _FLOAT32


def _layout(packed: PackedWeights, path: int) -> _Layout:
    made = _layouts.setdefault(packed, {})
    if path not in made:
        made[path] = _make_layout(packed, path)
    return made[path]


def _make_layout(packed: PackedWeights, path: int) -> _Layout:
    form = FORMATS[packed.format]
    whole_NK = formats.integers(packed.codes, packed.format)
    num_groups = packed.scale_NG.shape[1]
    sum_NG = whole_NK.reshape(packed.num_out, num_groups, -1).sum(dim=2, dtype=torch.int32)
    scale_NG, lower_NG = _levels(packed, path)
    columns = 16 if path == _AVX2 else 64  # of what is not multiplied
    bias_N = torch.zeros(packed.num_out) if packed.bias_N is None else packed.bias_N
    kept_K = pad(torch.ones(packed.num_in, dtype=torch.int32), (0, -packed.num_in % 16))
    kept_K[packed.outlier_O] = 0
    bits = 2 ** torch.arange(16, dtype=torch.int32)
    per_step = 1 if path in (_FLOAT32, _AVX2) else 2
    outlier_NO = packed.outlier_ON.T.float() if per_step == 1 else packed.outlier_ON.T
    kind, codes = _kind(form), packed.codes
    excess: tuple[Tensor, Tensor] | None = None
    if kind == _INT8 and path == _AVX2:
        kind, codes, excess = _split(codes)
    return _Layout(
        kind=kind,
        weight=_weights(codes, kind, path).contiguous(),
        excess=excess,
        start=_blocks(_start(sum_NG, kind, path), 1, columns).contiguous(),
        scale=_blocks(scale_NG * formats.unit(packed.format) ** 2, 1, columns).contiguous(),
        lower=None if lower_NG is None else _blocks(lower_NG, 1, columns).contiguous(),
        bias=pad(bias_N, (0, -packed.num_out % _COLUMNS)),
        kept=(kept_K.reshape(-1, 16) * bits).sum(dim=1).to(torch.uint16),
        outlier=packed.outlier_O.to(torch.int32),
        outlier_weight=_blocks(outlier_NO, per_step, *_block(path)).contiguous(),
    )


def _start(sum_NG: Tensor, kind: int, path: int) -> Tensor:
    """What sums begin with, so that the offset of the tokens' codes falls out of them."""
    if kind in (_INT8, _WIDE):
        return -128 * sum_NG if kind == _INT8 else torch.zeros_like(sum_NG)
    return -16 * sum_NG & 0xFFFF if path == _AVX2 else -16 * sum_NG  # there sums have 16 bits


def _weights(codes: Tensor, kind: int, path: int) -> Tensor:
    """Codes as native/osc.h has them; of 4 bits two a byte, for tiles four a word."""
    if kind == _INT8:
        return _blocks(codes, 4, *_block(path))
    if kind == _WIDE:
        return _blocks(codes.to(torch.int16), 2, *_block(path))
    codes_NK = formats.unpack_nibbles(codes)
    if path != _TILES:
        blocks = _blocks(codes_NK, 4, *_block(path))
        return blocks[:, 0::2] | (blocks[:, 1::2] << 4)
    pairs = _blocks(codes_NK, 2, *_block(path))  # [N64 / 32, K32 / 2, 32, 2]
    fours = pairs.reshape(len(pairs), -1, 4, 2, 32).to(torch.int32)
    words = (fours << torch.tensor([0, 4, 8, 12]).reshape(4, 1, 1)).sum(dim=2)
    return words.to(torch.int16)


def _split(codes_NK: Tensor) -> tuple[int, Tensor, tuple[Tensor, Tensor] | None]:
    """Weights of 8 bits for AVX2: their kind, what is multiplied, and the entries of the excess and
    where those of a block begin; None where there is none."""
    kept_NK, most = _excess.kept(codes_NK), _LARGEST_EXCESS * codes_NK.numel()
    excess_NK = codes_NK - kept_NK
    if _excess.fewest_entries(excess_NK) > most:
        return _WIDE, codes_NK, None
    entry_E9, begin = _excess.entries(excess_NK, _BLOCK_COLUMNS[_AVX2])
    if len(entry_E9) > most:
        return _WIDE, codes_NK, None
    return _INT8, kept_NK, (entry_E9, begin) if len(entry_E9) else None


def _levels(packed: PackedWeights, path: int) -> tuple[Tensor, Tensor | None]:
    """Scales after the products, and of groups before them: E2M1 times the latter is exact in
    bfloat16. The latter are filled to 32 channels."""
    form, scale_NG = FORMATS[packed.format], packed.scale_NG
    if path != _TILES or not form.is_float:
        return scale_NG, None
    if form.has_levels:
        lower_NG, upper_N = formats.levels(scale_NG, is_whole=True)
    else:
        upper_N = scale_NG.amax(dim=1)
        lower_NG = scale_NG / upper_N[:, None]  # powers of two
    num_fill = -packed.num_in % 32 * scale_NG.shape[1] // packed.num_in
    return upper_N[:, None], pad(lower_NG.float(), (0, num_fill))


def _norm_rows(norm: Norm, num_in: int) -> Tensor:
    """float32 [2, K64]: weight and bias."""
    if norm not in _norms:
        rows_2K = torch.zeros(2, num_in)
        rows_2K[0] = 1.0 if norm.weight_K is None else norm.weight_K
        if norm.bias_K is not None:
            rows_2K[1] = norm.bias_K
        _norms[norm] = pad(rows_2K, (0, -num_in % 64))
    return _norms[norm]


def _block(path: int) -> tuple[int, int]:
    """Columns of a block of weights, and the number that its steps are a multiple of."""
    return _BLOCK_COLUMNS[path], {_TILES: 16, _AVX2: 2}.get(path, 1)


def _blocks(x_NK: Tensor, size: int, columns: int, steps: int = 1) -> Tensor:
    """[N64 / columns, K / size, columns, size]: filled with zeros, K / size up to `steps`."""
    num_out, num_in = x_NK.shape
    x_NK = pad(x_NK, (0, -num_in % (size * steps), 0, -num_out % _COLUMNS))
    blocks = (len(x_NK) // columns, columns, x_NK.shape[1] // size, size)
    return x_NK.reshape(blocks).transpose(1, 2)


@functools.cache
def _gelu_pieces(path: int) -> Tensor:
    """float32 [4, GELU_PIECES], by AVX2 transposed: x Phi(-x) as a cubic for each piece.

    Through four Chebyshev nodes. Coefficients of falling degree in the place 0 to 1 within the
    piece.
    """
    node_4 = 0.5 - 0.5 * torch.cos(torch.pi * (torch.arange(4, dtype=torch.float64) + 0.5) / 4)
    x_P4 = (torch.arange(GELU_PIECES)[:, None] + node_4) * (GELU_END / GELU_PIECES)
    value_P4 = x_P4 * torch.special.ndtr(-x_P4)
    powers_44 = node_4[:, None] ** torch.arange(3, -1, -1)
    pieces_4P = torch.linalg.solve(powers_44, value_P4.T).float()
    return (pieces_4P.T if path == _AVX2 else pieces_4P).contiguous()
