"""Queries, keys and values that attention meets, and those that break a frozen row maximum.

Everything comes from a seed, in float64 first, then rounded to the asked type. Scores below are
q . k / sqrt(D), in nats: the weight of a key is exp(score) over the sum.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Made = tuple[Tensor, Tensor, Tensor]


def make_inputs(
    name: str,
    *,
    batch: int = 2,
    heads: int = 2,
    length: int = 256,
    dim: int = 64,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Made:
    """Queries, keys and values [batch, heads, length, dim] of one kind of `INPUTS`."""
    generator = torch.Generator().manual_seed(seed)
    made = _MAKERS[name]((batch, heads, length, dim), generator)
    q, k, v = (x.to(dtype) for x in made)
    return q, k, v


def exact(
    q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, mask: Tensor | None = None
) -> Tensor:
    """Attention in float64, straight from its definition; zeros where all keys are masked."""
    q, k, v = q.double(), k.double(), v.double()
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    if mask is None:
        return scores.softmax(dim=-1) @ v
    hidden = ~mask[:, None, None, :]
    scores = torch.where(hidden, -torch.inf, scores)
    weights = scores.softmax(dim=-1).masked_fill(hidden, 0.0)  # NaN where all are hidden
    return weights @ torch.where(hidden.mT, 0.0, v)


def relative_error(got: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what was expected, in float64; NaN is never small."""
    difference = (got.double() - expected.double()).norm()
    norm = expected.double().norm()
    return float(difference / norm) if norm > 0 else float(difference)


def torch_error(q: Tensor, k: Tensor, v: Tensor, dtype: torch.dtype) -> float:
    """Error of torch's own attention of the inputs in `dtype`."""
    out = F.scaled_dot_product_attention(*(x.to(dtype) for x in (q, k, v)))
    return relative_error(out, exact(q, k, v))


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _random(shape: tuple[int, ...], generator: torch.Generator) -> Made:
    """Independent normal numbers: flat rows."""
    return _normal(shape, generator), _normal(shape, generator), _normal(shape, generator)


def _peaked(shape: tuple[int, ...], generator: torch.Generator) -> Made:
    """Random Fourier features of the position: 14 nats at one's own place, about 5 keys."""
    *_, length, dim = shape
    frequency = _normal((dim // 2,), generator) / 5.5  # the width of the kernel, in positions
    phase = torch.arange(length, dtype=torch.float64)[:, None] * frequency
    features = torch.cat([phase.cos(), phase.sin()], dim=1) * (14 * dim**0.5 / (dim // 2)) ** 0.5
    if dim % 2:
        features = torch.nn.functional.pad(features, (0, 1))
    q = features + 0.05 * _normal(shape, generator)
    k = features + 0.05 * _normal(shape, generator)
    return q, k, _normal(shape, generator)


def _sink(shape: tuple[int, ...], generator: torch.Generator, nats: float = 12.0) -> Made:
    """Peaked, and the first key at `nats` in every row, along a direction of its own."""
    q, k, v = _peaked(shape, generator)
    dim = shape[-1]
    direction = _normal((dim,), generator)
    direction /= direction.norm()
    length = (nats * dim**0.5) ** 0.5  # shared evenly by the queries and the key
    for x in (q, k):
        x -= (x @ direction)[..., None] * direction
    q += direction * length
    k[..., 0, :] = direction * length
    return q, k, v


def _large_norm(shape: tuple[int, ...], generator: torch.Generator) -> Made:
    """Sink, with 1 % of the keys three times as long and channel 5 of all keys moved by 20."""
    q, k, v = _sink(shape, generator)
    k[..., 50::100, :] *= 3.0
    k[..., 5] += 20.0
    return q, k, v


def _needle(shape: tuple[int, ...], generator: torch.Generator) -> Made:
    """Random, and two opposite keys in the last third, each of which rules a few rows.

    180 nats overflow float32 unless the maximum knows of them. The opposite key is a little longer,
    so that the signed abs-max of their block shows the other one to the rows.
    """
    q, k, v = _random(shape, generator)
    *_, length, dim = shape
    far = length * 5 // 6
    direction = _normal((dim,), generator)
    direction /= direction.norm()
    k[..., far, :] = direction * 12 * dim**0.5
    if far + 1 < length:
        k[..., far + 1, :] = -direction * 12.5 * dim**0.5
    q -= (q @ direction)[..., None] * direction
    q[..., 3::17, :] += direction * 15.0
    return q, k, v


def _heavy(shape: tuple[int, ...], generator: torch.Generator) -> Made:
    """Student's t with 3 degrees of freedom in queries and keys: scores of some hundred nats."""
    made = []
    for _ in range(2):
        chi_square = sum(_normal(shape, generator).square() for _ in range(3))
        made.append(2.0 * _normal(shape, generator) / (chi_square / 3).sqrt())
    return made[0], made[1], _normal(shape, generator)


def _extreme(shape: tuple[int, ...], generator: torch.Generator) -> Made:
    """Random, so long that the largest score of each head is 780 nats one way or the other."""
    q, k, v = _random(shape, generator)
    if not q.numel():
        return q, k, v
    largest = (q @ k.mT).abs().amax(dim=(2, 3), keepdim=True) / shape[-1] ** 0.5
    factor = (780.0 / largest).sqrt()
    return q * factor, k * factor, v


def _massive_sink(shape: tuple[int, ...], generator: torch.Generator) -> Made:
    """Peaked, and the first key at 300 nats in every row: beyond what float32 can take from 0."""
    return _sink(shape, generator, nats=300.0)


_MAKERS: dict[str, Callable[[tuple[int, ...], torch.Generator], Made]] = {
    "random": _random,
    "peaked": _peaked,
    "sink": _sink,
    "large_norm": _large_norm,
    "needle": _needle,
    "heavy": _heavy,
    "extreme": _extreme,
    "massive_sink": _massive_sink,
}
INPUTS = tuple(_MAKERS)
ORDINARY = ("random", "peaked", "sink", "large_norm")
"""Inputs whose scores int8 can resolve."""
