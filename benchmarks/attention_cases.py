"""Inputs of the attention benchmark and those who attend to them: torch, ours, and our own twins.

Loaded by the fresh processes of `attention_turns` alone, since it loads torch.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from astroray_kernels import library, vfa_attention
from astroray_kernels.vfa import _native
from benchmarks.rows import MeasurementError

SKIPS = tuple(0.5 * step for step in range(8, 41))
"""Thresholds of VSA in nats that are tried, the least first: it skips most."""
LARGEST_ADDED_ERROR = 5e-3
"""What VSA may add to VFA, relative to its result."""
PRECISIONS = tuple(name for name in _native.PRECISIONS if not _native.refuses(name))
"""Those of this CPU: products of 8 bits need AVX-512."""
TWINS = ("bf16", "int8_qk")
CHECKED_ROWS = 256
"""Of each head that is checked, at most twice as many."""

Inputs = tuple[Tensor, Tensor, Tensor]


def make_inputs(name: str, heads: int, length: int, dim: int) -> Inputs:
    """Float32 queries, keys and values [1, heads, length, dim].

    random  independent normal numbers, so that no key stands out
    peaked  random Fourier features of the position: 14 nats at one's own place, about 5 keys matter
    """
    generator = torch.Generator().manual_seed(length + dim)
    normal = partial(torch.randn, generator=generator)
    q, k, v = (normal(1, heads, length, dim) for _ in range(3))
    if name == "peaked":
        frequency = normal(dim // 2) / 7.5
        phase = torch.arange(length)[:, None] * frequency
        features = torch.cat([phase.cos(), phase.sin()], dim=1)
        features *= (14 * dim**0.5 / (dim // 2)) ** 0.5
        q, k = features + 0.05 * q, features + 0.05 * k
    return q, k, v


def contenders(inputs: Inputs, skip: float | None) -> dict[str, Callable[[], Tensor]]:
    """All who can take part on this CPU, by name; `skip` is the threshold of VSA in nats.

    Inputs and results are float32, but for those who are named so: theirs are rounded before time
    is taken.
    """
    q, k, v = inputs
    q16, k16, v16 = (x.bfloat16() for x in inputs)
    ours = partial(vfa_attention, backend="native")
    twin = partial(_twin, q, k, v)
    return {
        "torch float32": partial(F.scaled_dot_product_attention, q, k, v),
        "torch bfloat16": partial(F.scaled_dot_product_attention, q16, k16, v16),
        **{precision: partial(ours, q, k, v, precision=precision) for precision in PRECISIONS},
        "bf16 in and out": partial(ours, q16, k16, v16, precision="bf16"),
        **{
            f"{precision} online": partial(twin, precision=precision)
            for precision in TWINS
            if precision in PRECISIONS
        },
        "bf16 skip": partial(ours, q, k, v, precision="bf16", skip=skip),
    }


def relative_error(got: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what was expected, in float64."""
    return float((got.double() - expected).norm() / expected.double().norm())


def part_of(x_BHND: Tensor) -> Tensor:
    """The rows that are checked: of the first and the last head, spread over all positions."""
    return x_BHND[:, :: max(1, x_BHND.shape[1] - 1), :: max(1, x_BHND.shape[2] // CHECKED_ROWS)]


def exact_part(inputs: Inputs) -> Tensor:
    """What `part_of` the result should be, in float64."""
    q, k, v = inputs
    heads = slice(None, None, max(1, q.shape[1] - 1))
    k, v = k[:, heads].double(), v[:, heads].double()
    return (part_of(q).double() @ k.mT * q.shape[-1] ** -0.5).softmax(dim=-1) @ v


def find_skip(heads: int, length: int, dim: int) -> float:
    """The least threshold of VSA that adds little error on peaked inputs, in nats.

    Raises MeasurementError where none of `SKIPS` does.
    """
    inputs = make_inputs("peaked", heads, length, dim)
    dense = contenders(inputs, None)["bf16"]().double()
    for skip in SKIPS:
        added = relative_error(contenders(inputs, skip)["bf16 skip"](), dense)
        if added < LARGEST_ADDED_ERROR:
            return skip
    raise MeasurementError(f"VSA adds {added:.2g} at {skip:g} nats, expected below 0.005")


def tile_facts(inputs: Inputs, name: str, skip: float | None) -> dict[str, float]:
    """Share of row tiles done by online softmax, or of the tiles voted on that VSA left out."""
    q, k, v = inputs
    skips = name.endswith("skip")
    _, met = _native.vfa_attention(
        q, k, v, scale=q.shape[-1] ** -0.5, precision=name.split()[0], skip=skip if skips else None
    )
    if skips and skip is not None:
        return {"skip_nats": skip, "skipped_share": met.num_skipped / max(1, met.num_key_blocks)}
    return {"online_share": met.num_redone / met.num_tiles}


def products_of(precision: str) -> tuple[str, str]:
    """The instructions that form the scores and weigh the values, on this CPU."""
    if precision != "fp32" and library.features() & library.HAS_AMX:
        by_tiles = {"bf16": "tdpbf16ps", "int8_qk": "tdpbf16ps", "int8": "tdpbusd"}
        return "tdpbf16ps" if precision == "bf16" else "tdpbusd", by_tiles[precision]
    int16 = "vpdpwssd" if library.features() & library.HAS_AVX512 else "vpmaddwd"
    scores = {"fp32": "vfmadd231ps", "bf16": int16}.get(precision, "vpdpbusd")
    values = {"fp32": "float32", "int8": "int8"}.get(precision) or library.value_format()
    return scores, {
        "float32": "vfmadd231ps",
        "bfloat16": "vdpbf16ps",
        "float16": "vfmadd231ph",
        "int8": "vpdpbusd",
    }[values]


def _twin(q: Tensor, k: Tensor, v: Tensor, *, precision: str) -> Tensor:
    """FlashAttention by the same kernel: its maximum runs along instead of being frozen."""
    return _native.vfa_attention(
        q, k, v, scale=q.shape[-1] ** -0.5, precision=precision, estimate=_native.ONLINE
    )[0]
