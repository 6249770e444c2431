"""vfa_attention as a user and a compiler see it: arguments, masks, gradients, one operator."""

import sys
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F

from astroray_kernels import BackendError, dispatch, vfa_attention

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def make_qkv(batch=2, heads=3, length=7, dim=32, dtype=torch.float32, seed=7):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, batch, heads, length, dim, generator=generator).to(dtype).unbind()


def token_by_token(x):
    """The same [B, H, N, D] with the heads of a token side by side."""
    return x.transpose(1, 2).contiguous().transpose(1, 2)


def exact(q, k, v, scale=None, mask=None):
    """Attention in float64 over the keys that take part; zeros where there are none."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    out = torch.zeros(q.shape, dtype=torch.float64)
    for b in range(q.shape[0]):
        keys = slice(None) if mask is None else mask[b]
        kb, vb = k[b][:, keys].double(), v[b][:, keys].double()
        if kb.shape[1]:
            out[b] = (scale * q[b].double() @ kb.mT).softmax(-1) @ vb
    return out


@pytest.fixture
def native(monkeypatch):
    """A backend that stands in for the native one, keeps what it was called with, gives 1."""
    module = ModuleType("astroray_kernels.vfa._native")
    module.PRECISIONS, module.calls = ("bf16",), []
    module.why_not = lambda device: ""

    def attention(q_BHND, k_BHND, v_BHND, **options):
        module.calls.append(options)
        return torch.ones(q_BHND.shape, dtype=q_BHND.dtype), None

    module.vfa_attention = attention
    monkeypatch.setitem(sys.modules, module.__name__, module)
    dispatch._auto.cache_clear()
    yield module
    dispatch._auto.cache_clear()


@pytest.mark.parametrize("backend", ["native", "sdpa", "reference"])
def test_heads_that_lie_side_by_side_do_so_in_the_result_and_are_joined_without_a_copy(backend):
    if reason := dispatch.why_not("vfa_attention", backend, "cpu"):
        pytest.skip(reason)
    q, k, v = make_qkv(length=70)
    plain = vfa_attention(q, k, v, precision="fp32", backend=backend)
    assert plain.is_contiguous()
    of_one_layer = torch.stack([q, k, v]).permute(1, 3, 0, 2, 4).contiguous()  # [B, N, 3, H, D]
    views = of_one_layer.permute(2, 0, 3, 1, 4)
    got = vfa_attention(*views, precision="fp32", backend=backend)
    assert torch.equal(got, plain)
    assert got.transpose(1, 2).flatten(2).data_ptr() == got.data_ptr()


@pytest.mark.parametrize("backend", ["native", "sdpa", "reference"])
def test_autocast_changes_neither_precision_nor_dtype(backend):
    if reason := dispatch.why_not("vfa_attention", backend, "cpu"):
        pytest.skip(reason)
    q, k, v = make_qkv()
    expected = vfa_attention(q, k, v, precision="fp32", backend=backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = vfa_attention(q, k, v, precision="fp32", backend=backend)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_torch_s_own_attention_keeps_the_dtype_at_any_strides(dtype, precision):
    q, k, v = make_qkv(length=7, dtype=dtype)
    strided = [token_by_token(q), token_by_token(k), torch.stack([v, v], dim=-1)[..., 0]]
    got = vfa_attention(*strided, precision=precision, backend="sdpa")
    assert got.dtype == dtype
    assert got.shape == q.shape
    tight = precision == "fp32" and dtype == torch.float32
    torch.testing.assert_close(got.double(), exact(q, k, v), rtol=0, atol=1e-6 if tight else 0.03)


def test_the_scale_is_one_over_the_root_of_d_unless_given():
    q, k, v = make_qkv(dim=64)
    for scale in (None, 0.125, 1.0, 2):
        got = vfa_attention(q, k, v, scale=scale, precision="fp32", backend="sdpa")
        torch.testing.assert_close(got.double(), exact(q, k, v, scale), rtol=0, atol=1e-5)


def test_masked_keys_never_leak_and_an_object_without_keys_gives_zeros():
    q, k, v = make_qkv(batch=3)
    mask = torch.ones(3, 7, dtype=torch.bool)
    mask[0, 2:4] = False
    mask[1] = False
    k[0, :, 2], v[0, :, 3] = torch.nan, torch.inf
    for x in (q, k, v):
        x[1] = torch.nan
    got = vfa_attention(q, k, v, mask=mask, precision="fp32", backend="sdpa")
    assert (got[1] == 0).all()
    torch.testing.assert_close(got.double(), exact(q, k, v, None, mask), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)], ids=str)
def test_no_objects_and_no_heads_give_an_empty_tensor_without_a_backend(native, shape):
    q, k, v = make_qkv(*shape)
    got = vfa_attention(q, k, v, mask=torch.ones(shape[0], 7, dtype=torch.bool), backend="native")
    assert got.shape == (*shape, 7, 32)
    assert not native.calls


def test_a_backend_gets_every_argument_explicitly(native):
    q, k, v = make_qkv(dim=64)
    mask = torch.ones(2, 7, dtype=torch.bool)
    vfa_attention(q, k, v)
    vfa_attention(q, k, v, scale=2, mask=mask, skip=3, estimate="exact", backend="native")
    first, second = native.calls
    assert first == {
        "scale": 0.125,
        "mask_BN": None,
        "precision": "bf16",
        "skip": None,
        "estimate": "auto",
    }
    assert second.pop("mask_BN") is mask
    assert second == {"scale": 2.0, "precision": "bf16", "skip": 3.0, "estimate": "exact"}


def test_what_a_backend_lacks_is_refused_before_it_is_called(native):
    with pytest.raises(BackendError, match=r"precision int8 is not among what it has \(bf16\)"):
        vfa_attention(*make_qkv(), precision="int8", backend="native")
    assert not native.calls
    for lacking in ({"skip": 2.0}, {"estimate": "exact"}, {"precision": "int8"}):
        with pytest.raises(BackendError, match="cannot run with backend 'sdpa' on cpu"):
            vfa_attention(*make_qkv(), **lacking, backend="sdpa")


def test_where_a_gradient_is_needed_it_is_that_of_torch_s_attention(native):
    q, k, v = (x.requires_grad_() for x in make_qkv())
    got = vfa_attention(q, k, v, precision="bf16", skip=2.0, backend="native")
    expected = F.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    weight = torch.linspace(-1, 1, got.numel()).view_as(got)
    for mine, theirs in zip(
        torch.autograd.grad((got * weight).sum(), (q, k, v)),
        torch.autograd.grad((expected * weight).sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)
    assert not native.calls


def test_without_gradients_the_kernel_runs_though_inputs_require_them(native):
    q, k, v = (x.requires_grad_() for x in make_qkv())
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert (vfa_attention(q, k, v) == 1).all()
    assert len(native.calls) == 2
    assert (vfa_attention(q.detach(), k.detach(), v.detach()) == 1).all()


def test_gradients_pass_a_mask_and_masked_keys_get_none():
    q, k, v = make_qkv(batch=3, heads=1, length=4, dim=2, dtype=torch.float64)
    mask = torch.tensor([[True, False, True, True], [False] * 4, [True] * 4])
    k[0, :, 1] = torch.nan
    inputs = [x.requires_grad_() for x in (q, k, v)]
    grads = torch.autograd.grad(vfa_attention(*inputs, mask=mask).square().sum(), inputs)
    for grad in grads:
        assert grad.isfinite().all()
        assert (grad[1] == 0).all()
    assert (grads[1][0, :, 1] == 0).all()
    clean = [x.detach().nan_to_num().requires_grad_() for x in (q, k, v)]
    assert torch.autograd.gradcheck(lambda *qkv: vfa_attention(*qkv, mask=mask), clean)


@pytest.mark.parametrize("masked", [False, True])
def test_the_operator_keeps_torch_s_rules_for_operators(masked):
    mask = torch.ones(2, 7, dtype=torch.bool) if masked else None
    q, k, v = make_qkv()
    q = token_by_token(q)
    torch.library.opcheck(
        torch.ops.astroray.vfa_attention,
        (q, k, v, mask, 0.5 if masked else None, "bf16", None, "auto", "sdpa"),
    )


def test_the_operator_refuses_a_backward_pass_instead_of_giving_a_wrong_one():
    q, k, v = (x.requires_grad_() for x in make_qkv())
    options = (None, None, "bf16", None, "auto", "sdpa")
    out = torch.ops.astroray.vfa_attention(q, k, v, *options)
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):
        out.sum().backward()


class Attend(torch.nn.Module):
    """A small model: attention over three projections of its tokens."""

    def forward(self, tokens_BHND, mask_BN):
        q, k, v = tokens_BHND, 2 * tokens_BHND, tokens_BHND.roll(1, dims=2)
        scale = tokens_BHND.shape[-1] ** -0.5  # of a compiler for any shape it is a symbol
        options = {"scale": scale, "mask": mask_BN, "precision": "fp32", "backend": "sdpa"}
        return vfa_attention(q, k, v, **options) + 1


@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
def test_torch_compile_sees_one_whole_graph(compiler):
    model, mask = Attend(), torch.ones(2, 7, dtype=torch.bool)
    compiled = torch.compile(model, fullgraph=True, backend=compiler, dynamic=True)
    for length in (7, 9):
        tokens = make_qkv(length=length)[0]
        mask = torch.arange(length).expand(2, length) < torch.tensor([[3], [length]])
        torch.testing.assert_close(compiled(tokens, mask), model(tokens, mask), rtol=0, atol=0)


def test_a_compiled_model_with_gradients_trains_through_torch_s_attention():
    tokens = make_qkv()[0].requires_grad_()
    mask = torch.ones(2, 7, dtype=torch.bool)
    compiled = torch.compile(Attend(), fullgraph=True, backend="aot_eager")
    (grad,) = torch.autograd.grad(compiled(tokens, mask).square().sum(), tokens)
    (expected,) = torch.autograd.grad(Attend()(tokens, mask).square().sum(), tokens)
    torch.testing.assert_close(grad, expected, rtol=0, atol=1e-5)


def test_torch_export_keeps_the_operator_for_any_batch_and_length():
    tokens, mask = make_qkv()[0], torch.ones(2, 7, dtype=torch.bool)
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    program = torch.export.export(
        Attend(),
        (tokens, mask),
        dynamic_shapes=({0: batch, 2: length}, {0: batch, 1: length}),
    )
    targets = [str(node.target) for node in program.graph.nodes]
    assert targets.count("astroray.vfa_attention.default") == 1
    tokens, mask = make_qkv(batch=3, length=11)[0], torch.ones(3, 11, dtype=torch.bool)
    mask[1, 4:] = False
    torch.testing.assert_close(program.module()(tokens, mask), Attend()(tokens, mask))


Q = torch.zeros(2, 3, 7, 32)
BAD = {
    "a list": ({"q": [1.0]}, TypeError, "q is a list, expected a torch.Tensor"),
    "integers": ({"q": Q.long()}, TypeError, r"q has dtype torch.int64, .*; convert it, as with"),
    "complex": ({"k": Q + 0j}, TypeError, "k has dtype torch.complex64, expected one of"),
    "sparse": ({"v": Q.to_sparse()}, TypeError, r"v has layout torch.sparse_coo, .*to_dense"),
    "mixed dtypes": ({"k": Q.half()}, TypeError, "k has dtype torch.float16, expected q's"),
    "three axes": ({"q": Q[0]}, ValueError, r"q has shape \[3, 7, 32\], expected \[B, H, N, D\]"),
    "no keys": ({"q": Q[:, :, :0]}, ValueError, r"q has shape \[2, 3, 0, 32\], .*N, D >= 1"),
    "no channels": ({"q": Q[..., :0]}, ValueError, r"q has shape \[2, 3, 7, 0\]"),
    "fewer keys": ({"k": Q[:, :, :5]}, ValueError, r"k has shape \[2, 3, 5, 32\], expected q's"),
    "fewer heads": ({"v": Q[:, :1]}, ValueError, r"v has shape \[2, 1, 7, 32\], .*repeat grouped"),
    "two devices": ({"k": Q.to("meta")}, ValueError, "k is on meta, expected q's device cpu"),
    "float mask": ({"mask": torch.ones(2, 7)}, TypeError, r"expected torch.bool, .*mask.bool\(\)"),
    "mask as list": ({"mask": [True] * 7}, TypeError, "mask is a list"),
    "mask of scores": (
        {"mask": torch.ones(2, 1, 1, 7, dtype=torch.bool)},
        ValueError,
        r"mask has shape \[2, 1, 1, 7\], expected \[B, N\] = \[2, 7\]",
    ),
    "mask elsewhere": (
        {"mask": torch.ones(2, 7, dtype=torch.bool, device="meta")},
        ValueError,
        "mask is on meta",
    ),
    "negative scale": ({"scale": -1.0}, ValueError, "scale is -1.0, .*negate q"),
    "zero scale": ({"scale": 0.0}, ValueError, "scale is 0.0, expected a finite number > 0"),
    "infinite scale": ({"scale": float("inf")}, ValueError, "scale is inf"),
    "scale as tensor": ({"scale": torch.tensor(1.0)}, TypeError, "scale is a Tensor"),
    "scale as bool": ({"scale": True}, TypeError, "scale is a bool"),
    "zero skip": ({"skip": 0}, ValueError, "skip is 0, .*in nats"),
    "skip is NaN": ({"skip": float("nan")}, ValueError, "skip is nan"),
    "precision": ({"precision": "fp8"}, ValueError, "precision is 'fp8', expected one of fp32, "),
    "estimate": ({"estimate": "box"}, ValueError, "estimate is 'box', expected one of auto, sabs"),
    "backend": ({"backend": "cuda"}, ValueError, "backend is 'cuda', expected one of auto, trit"),
}


@pytest.mark.parametrize("name", BAD)
def test_an_argument_that_cannot_work_is_refused_with_what_to_do(name):
    change, error, message = BAD[name]
    arguments = {"q": Q, "k": Q, "v": Q} | change
    with pytest.raises(error, match=f"^vfa_attention: .*{message}"):
        vfa_attention(**arguments)
