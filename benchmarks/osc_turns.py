"""What the benchmark of quantized layers runs in fresh processes: layers and blocks, in turns.

In a round each contender of a shape is called once, then the instruction that the products live on
is run; a ratio is of two times of one round. Loaded by fresh processes alone, since it loads torch.
"""

import dataclasses
import importlib.util
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from astroray_kernels import (
    Need,
    Norm,
    PackedWeights,
    dispatch,
    library,
    osc_linear,
    osc_mlp,
    pack_weights,
    vfa_attention,
)
from benchmarks.instruction_peak import EIGHTS, InstructionPeak

OUTLIER_SIZE = 30.0
OUTLIERS = {384: 16, 768: 16, 1536: 32, 3072: 64}
"""Outlier channels by input channels, evenly spread."""
IDLE_S = 0.01
HEAD_DIM = 64

Calls = Mapping[str, Callable[[], Tensor]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Turns:
    """What one shape or block gave; lists have an entry for each round."""

    name: str
    operations: float
    seconds: dict[str, list[float]]
    """CPU time on one thread, wall time on more."""
    error: dict[str, float]
    """Relative to float64 (layers) or to float32 (blocks)."""
    peak_gops: float
    """The fastest of the rounds of the product of 8 bits: tdpbusd, vpdpbusd or those of AVX2."""
    packed_peak_gops: float = 0.0
    """The same of 4 bits, where theirs is another: vpmaddubsw."""

    def peak_of(self, name: str) -> float:
        """1e9 operations a second that a contender could reach."""
        return self.packed_peak_gops if "4" in name and self.packed_peak_gops else self.peak_gops


def linear_turns(
    shapes: Sequence[tuple[int, int]], num_tokens: int, threads: int, rounds: int
) -> list[Turns]:
    """Layers of each shape [K, N] on inputs with outlier channels."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces the end of quantize_dynamic
        return [_linear(shape, num_tokens, threads, rounds) for shape in shapes]


def block_turns(
    lengths: Sequence[int], num_tokens: int, width: int, threads: int, rounds: int
) -> list[Turns]:
    """Transformer blocks at each length, `num_tokens` tokens of all objects together."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [_block(length, num_tokens, width, threads, rounds) for length in lengths]


def dynamic_int8(model: nn.Module) -> nn.Module:
    """Torch's own int8, by oneDNN."""
    torch.backends.quantized.engine = "onednn"
    quantize: Callable[..., nn.Module] = torch.ao.quantization.quantize_dynamic
    return quantize(model, {nn.Linear}, dtype=torch.qint8)


class Block(nn.Module):
    """A pre-norm block; its four layers and its attention are what differs between contenders."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x_BNC: Tensor) -> Tensor:
        mixed = _attend(self.qkv(self.before(x_BNC)), F.scaled_dot_product_attention)
        x_BNC = x_BNC + self.out(mixed)
        hidden: Tensor = self.wide(self.after(x_BNC))
        return x_BNC + self.narrow(F.gelu(hidden))


class QuantizedBlock(nn.Module):
    """The same of quantized layers and VFA, with the calls that `install_layers` puts there."""

    def __init__(self, block: Block, format: str, outliers: bool, precision: str) -> None:
        super().__init__()
        self.before, self.after = (
            Norm(weight_K=norm.weight, bias_K=norm.bias, epsilon=norm.eps)
            for norm in (block.before, block.after)
        )
        self.layers = {
            name: _packed(getattr(block, name), format, outliers)
            for name in ("qkv", "out", "wide", "narrow")
        }
        self.attend = partial(vfa_attention, precision=precision, backend="native")

    def forward(self, x_BNC: Tensor) -> Tensor:
        qkv = osc_linear(x_BNC, self.layers["qkv"], norm=self.before)
        x_BNC = x_BNC + osc_linear(_attend(qkv, self.attend), self.layers["out"])
        layers = self.layers["wide"], self.layers["narrow"]
        return x_BNC + osc_mlp(x_BNC, *layers, norm=self.after)


def _attend(qkv: Tensor, attention: Callable[..., Tensor]) -> Tensor:
    batch, length, width = qkv.shape
    heads = width // 3 // HEAD_DIM
    q, k, v = qkv.view(batch, length, 3, heads, HEAD_DIM).permute(2, 0, 3, 1, 4)
    return attention(q, k, v).transpose(1, 2).reshape(batch, length, width // 3)


def _packed(layer: nn.Linear, format: str, outliers: bool) -> PackedWeights:
    table = _table(layer.in_features) if outliers else None
    return pack_weights(layer.weight, layer.bias, format=format, outlier_channels=table)


def _table(num_in: int) -> Tensor:
    step = num_in // OUTLIERS[num_in]
    return torch.arange(step // 2, num_in, step)


def _linear(shape: tuple[int, int], num_tokens: int, threads: int, rounds: int) -> Turns:
    num_in, num_out = shape
    layer = nn.Linear(num_in, num_out)
    nn.init.normal_(layer.weight, std=num_in**-0.5)
    x_MK = torch.randn(num_tokens, num_in)
    x_MK[:, _table(num_in)] *= OUTLIER_SIZE
    half, x_half_MK = nn.Linear(num_in, num_out).bfloat16(), x_MK.bfloat16()
    half.load_state_dict(layer.state_dict())
    calls: dict[str, Callable[[], Tensor]] = {
        "torch float32": partial(layer, x_MK),
        "torch bfloat16": partial(half, x_half_MK),
        "torch dynamic int8": partial(dynamic_int8(nn.Sequential(layer)), x_MK),
    }
    for format in ("int8", "int4_g32", "int4_g128", "mxfp4"):
        for outliers in (False, True):
            packed = _packed(layer, format, outliers)
            name = format + " with outliers" * outliers
            calls[name] = partial(osc_linear, x_MK, packed, backend="native")
        if format == "int8":  # the last one, with outliers
            name = f"{name}, tokens of bfloat16"
            calls[name] = partial(osc_linear, x_half_MK, packed, backend="native")
    if importlib.util.find_spec("onnxruntime"):
        calls["onnxruntime int8"] = _onnx(layer, x_MK, threads)
    exact_MN = x_MK.double() @ layer.weight.double().T + layer.bias.double()
    return Turns(
        name=f"{num_in} to {num_out}",
        operations=2.0 * num_tokens * num_in * num_out,
        error={name: _error(call(), exact_MN) for name, call in calls.items()},
        **_time(calls, threads, rounds),
    )


def _block(length: int, num_tokens: int, width: int, threads: int, rounds: int) -> Turns:
    block = Block(width).eval()
    x_BNC = torch.randn(max(1, num_tokens // length), length, width)
    half = Block(width).bfloat16().eval()
    half.load_state_dict(block.state_dict())
    quantized = {
        f"{format} with outliers, {precision} VFA": QuantizedBlock(block, format, True, precision)
        for format in ("int8", "int4_g32")
        for precision in ("bf16", "int8_qk")
        if not dispatch.why_not("vfa_attention", "native", "cpu", Need(precision=precision))
    }
    calls: dict[str, Callable[[], Tensor]] = {
        "torch float32": partial(block, x_BNC),
        "torch bfloat16": partial(half, x_BNC.bfloat16()),
        "torch dynamic int8": partial(dynamic_int8(block), x_BNC),
        **{name: partial(one, x_BNC) for name, one in quantized.items()},
    }
    expected = calls["torch float32"]()
    rows = x_BNC.shape[0] * length
    layers = 2.0 * rows * width * 12 * width
    return Turns(
        name=f"N={length}",
        operations=layers + 4.0 * rows * length * width,
        error={name: _error(call() - x_BNC, expected - x_BNC) for name, call in calls.items()},
        **_time(calls, threads, rounds),
    )


def _error(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected.double()).norm() / expected.double().norm())


def _time(calls: Calls, threads: int, rounds: int) -> dict[str, Any]:
    peak = InstructionPeak(threads)
    product, packed = _products()
    clock = time.process_time if threads == 1 else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    best = best_packed = 0.0
    for _ in range(rounds):
        for name, call in calls.items():
            began_s = clock()
            call()
            seconds[name].append(clock() - began_s)
        time.sleep(IDLE_S)  # threads of OpenMP spin a while after their work
        best = max(best, peak.gflops(product))
        best_packed = max(best_packed, peak.gflops(packed)) if packed else 0.0
    return {"seconds": seconds, "peak_gops": best, "packed_peak_gops": best_packed}


def _products() -> tuple[str, str]:
    """The instructions that 8 bits are multiplied by here, and 4 bits where theirs is another."""
    if library.features() & library.HAS_AMX:
        return "tdpbusd", ""
    return ("vpdpbusd", "") if library.features() & library.HAS_AVX512 else (EIGHTS, "vpmaddubsw")


def _onnx(layer: nn.Linear, x_MK: Tensor, threads: int) -> Callable[[], Tensor]:
    """Its dynamic quantization: tokens of one scale a call, weights of one scale a channel."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    weight_NK = layer.weight.numpy()
    scale_N = np.abs(weight_NK).max(axis=1) / 127
    codes_KN = np.ascontiguousarray(np.rint(weight_NK / scale_N[:, None]).astype(np.int8).T)
    constants = {
        "w": codes_KN, "zero": np.zeros(len(scale_N), np.int8),
        "scale": scale_N.astype(np.float32), "bias": layer.bias.numpy(),
    }  # fmt: skip
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["a", "a_scale", "a_zero"]),
        helper.make_node("MatMulInteger", ["a", "w", "a_zero", "zero"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["whole"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["a_scale", "scale"], ["both"]),
        helper.make_node("Mul", ["whole", "both"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["y"]),
    ]
    sides = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [len(x_MK), width])
        for name, width in (("x", x_MK.shape[1]), ("y", len(scale_N)))
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "layer", sides[:1], sides[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    x = x_MK.numpy()
    return lambda: torch.from_numpy(session.run(None, {"x": x})[0])
