"""VFA inside a transformer: what a model sees of the kernels, whichever backend runs them."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from astroray_kernels import resolved, vfa_attention, why_not

BACKENDS = ("native", "reference", "sdpa")


class Block(nn.Module):
    """A pre-norm transformer block whose attention is a backend by name."""

    def __init__(self, dim: int, num_heads: int, backend: str) -> None:
        super().__init__()
        self.num_heads, self.backend = num_heads, backend
        self.before, self.after = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x_BNC: Tensor, observed_BN: Tensor) -> Tensor:
        batch, length, dim = x_BNC.shape
        qkv = self.qkv(self.before(x_BNC)).view(batch, length, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # strided views, as models hand them over
        out = vfa_attention(q, k, v, mask=observed_BN, backend=self.backend)
        x_BNC = x_BNC + self.out(out.transpose(1, 2).reshape(batch, length, dim))
        return x_BNC + self.mlp(self.after(x_BNC))


class Encoder(nn.Module):
    """Two blocks, then the mean of the tokens that are there."""

    def __init__(self, backend: str) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.blocks = nn.ModuleList([Block(128, 4, backend) for _ in range(2)])

    def forward(self, x_BNC: Tensor, observed_BN: Tensor) -> Tensor:
        for block in self.blocks:
            x_BNC = block(x_BNC, observed_BN)
        weight_BN1 = observed_BN[..., None].float()
        return (x_BNC * weight_BN1).sum(1) / weight_BN1.sum(1)


@pytest.fixture
def tokens() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    x_BNC = torch.randn(4, 197, 128, generator=generator)
    observed_BN = torch.rand(4, 197, generator=generator) > 0.2
    return x_BNC, observed_BN


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_encoder_keeps_its_embedding_whichever_backend_attends(backend, tokens):
    if reason := why_not("vfa_attention", backend, "cpu"):
        pytest.skip(reason)
    with torch.no_grad():
        got_BC = Encoder(backend)(*tokens)
    # With gradients on, attention is torch's own in float32.
    expected_BC = Encoder(backend)(*tokens).detach()
    assert not torch.equal(got_BC, expected_BC)
    assert F.cosine_similarity(got_BC, expected_BC).min() > 0.99999
    assert (got_BC - expected_BC).abs().max() < 0.01


def test_an_encoder_is_one_graph_to_the_compiler(tokens):
    model = Encoder(resolved("vfa_attention", "cpu")).eval()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.inference_mode():
        assert torch.equal(compiled(*tokens), model(*tokens))


def test_an_encoder_trains_with_torch_s_attention(tokens):
    model = Encoder("auto")
    model(*tokens).square().mean().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(g is not None and g.isfinite().all() for g in gradients)
    assert model.blocks[0].qkv.weight.grad.abs().max() > 0
