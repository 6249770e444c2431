"""What transformers are built of: attention and dense layers, one seam each.

`Attention.core` computes softmax(q k^T / sqrt(d)) v and may be another kernel; every dense layer is
a `Dense`, which quantization replaces. A network is written once and knows neither.
Shape letters: B images, N tokens, H heads, D width, E = D / H.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Attention", "Block", "Dense"]

AttentionCore = Callable[[Tensor, Tensor, Tensor], Tensor]


class Dense(nn.Linear):
    """The dense layer of all transformers: Glorot weights, zero bias."""

    def reset_parameters(self) -> None:
        """Draws the weights."""
        nn.init.xavier_uniform_(self.weight)
        nn.init.zeros_(self.bias)


class Attention(nn.Module):
    """Multi-head self-attention [B, N, D] to [B, N, D].

    `core` takes queries, keys and values [B, H, N, E] and returns [B, H, N, E]; it is PyTorch's
    unless set, on this module or on the class.
    """

    core: AttentionCore = staticmethod(F.scaled_dot_product_attention)

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_qkv = Dense(width, 3 * width)
        self.to_out = Dense(width, width)

    def forward(self, x_BND: Tensor) -> Tensor:
        qkv = self.to_qkv(x_BND).unflatten(2, (3, self.num_heads, -1))
        q_BHNE, k_BHNE, v_BHNE = qkv.permute(2, 0, 3, 1, 4)
        heads_BHNE = self.core(q_BHNE, k_BHNE, v_BHNE)
        mixed_BND: Tensor = self.to_out(heads_BHNE.transpose(1, 2).flatten(2))
        return mixed_BND


class Block(nn.Module):
    """A transformer block that normalizes first: attention, then two dense layers."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, num_heads)
        self.norm_dense = nn.LayerNorm(width)
        self.dense = nn.Sequential(Dense(width, 4 * width), nn.GELU(), Dense(4 * width, width))

    def forward(self, x_BND: Tensor) -> Tensor:
        x_BND = x_BND + self.attention(self.norm_attention(x_BND))
        mixed_BND: Tensor = x_BND + self.dense(self.norm_dense(x_BND))
        return mixed_BND
