"""A transformer block of a small encoder in float32, with torch's attention and with VFA.

Loaded by the fresh processes of the attention benchmark alone, since it loads torch.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from astroray_kernels import vfa_attention
from benchmarks.clock import timed

WIDTH = 192
"""Channels of a token: 6 heads of 32 or 3 of 64, as a ViT-tiny has them."""
STAMP_ROWS = 12_288
"""Tokens of all objects together."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockSeconds:
    """CPU seconds on one thread, an entry for each round."""

    length: int
    dim: int
    with_torch: list[float]
    with_vfa: list[float]
    torch_alone: list[float]
    """Its attention outside the block, on the block's own queries, keys and values."""
    vfa_alone: list[float]
    error: float
    """Of the block's result with VFA, relative to that with torch."""


class Block(nn.Module):
    """A pre-norm block: attention, then a hidden layer of four times the width."""

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.before, self.after = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.hidden = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )

    def heads(self, x_BNC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [B, H, N, D] of tokens, as views."""
        batch, length, _ = x_BNC.shape
        qkv = self.qkv(self.before(x_BNC)).view(batch, length, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        return q, k, v

    def forward(self, x_BNC: Tensor, attend: Callable[..., Tensor]) -> Tensor:
        out = attend(*self.heads(x_BNC))
        x_BNC = x_BNC + self.out(out.transpose(1, 2).reshape(x_BNC.shape))
        return x_BNC + self.hidden(self.after(x_BNC))


def time_blocks(
    lengths: Sequence[int], dims: Sequence[int], rounds: int, rows: int = STAMP_ROWS
) -> list[BlockSeconds]:
    """Blocks of each length and head dimension, by turns on one thread."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with torch.inference_mode():
        return [_time_block(n, dim, rounds, rows) for dim in dims for n in lengths]


def _time_block(length: int, dim: int, rounds: int, rows: int) -> BlockSeconds:
    block = Block(WIDTH // dim).eval()
    x_BNC = torch.randn(max(1, rows // length), length, WIDTH)
    q, k, v = block.heads(x_BNC)
    vfa = partial(vfa_attention, precision="bf16", backend="native")
    torch_s = F.scaled_dot_product_attention
    calls: dict[str, Callable[[], Tensor]] = {
        "with_torch": partial(block, x_BNC, torch_s),
        "with_vfa": partial(block, x_BNC, vfa),
        "torch_alone": partial(torch_s, q, k, v),
        "vfa_alone": partial(vfa, q, k, v),
    }
    expected = calls["with_torch"]()
    error = float((calls["with_vfa"]() - expected).norm() / expected.norm())
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            seconds[name].append(timed(call).cpu_s)
    return BlockSeconds(length=length, dim=dim, error=error, **seconds)
