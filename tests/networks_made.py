"""Small networks and activations whose outliers are known, made from a seed."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH = 64


def tokens(kind: str, *, num_tokens: int = 1536, width: int = WIDTH, seed: int = 0) -> Tensor:
    """Gaussian tokens [S, K]; `persistent`: channels 5 and 40 are x30, `diffuse`: 2 % anywhere."""
    draw = torch.Generator().manual_seed(seed)
    x_SK = torch.randn(num_tokens, width, generator=draw)
    if kind == "persistent":
        x_SK[:, [5, 40]] *= 30
    if kind == "diffuse":
        x_SK[torch.rand(x_SK.shape, generator=draw) < 0.02] *= 30
    return x_SK


def linear(num_in: int = WIDTH, num_out: int = 32) -> nn.Sequential:
    """One linear layer called `0`."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(num_in, num_out))


class LlamaBlock(nn.Module):
    """A block as Llama has it: RMS norm, attention of plain linear layers, gated dense layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.norm, self.norm_dense = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.gate, self.up = (nn.Linear(WIDTH, 4 * WIDTH, bias=False) for _ in range(2))
        self.down = nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x_BND: Tensor) -> Tensor:
        normed = self.norm(x_BND)
        q, k, v = (
            layer(normed).unflatten(2, (4, -1)).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x_BND = x_BND + self.o(heads.transpose(1, 2).flatten(2))
        normed = self.norm_dense(x_BND)
        return x_BND + self.down(F.silu(self.gate(normed)) * self.up(normed))
