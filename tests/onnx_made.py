"""Small ONNX programs, written operator by operator, and what each computes in plain numpy."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

NUM_BANDS, SIZE_PX, DIM = 2, 16, 6


def weights(*, seed: int = 0, num_bands: int = NUM_BANDS, dim: int = DIM) -> np.ndarray:
    """[D, C] float32: what a mean over the sky of each band is multiplied with."""
    return np.random.default_rng(seed).normal(size=(dim, num_bands)).astype(np.float32)


def expected(image_BCYX: np.ndarray, weight_DC: np.ndarray) -> np.ndarray:
    """What `write_program` computes, in float64."""
    mixed_BDYX = np.einsum("dc,bcyx->bdyx", weight_DC.astype(float), image_BCYX.astype(float))
    return np.maximum(mixed_BDYX, 0).mean(axis=(2, 3))


def write_program(
    path: Path,
    weight_DC: np.ndarray,
    *,
    batch: int | str = "batch",
    size_px: int | str = SIZE_PX,
    width_px: int | str | None = None,
    dtype: int = TensorProto.FLOAT,
    is_flat: bool = True,
    beside: bool = False,
) -> str:
    """A 1 x 1 convolution, ReLU, and the mean over the image; `features` stays a map.

    is_flat  whether the output `embedding` [B, D] is there beside `features` [B, D, S, S]
    beside   whether the weights go to a file of their own, as large exports have it
    """
    dim, num_bands = weight_DC.shape
    kind = numpy_helper.from_array(weight_DC[:, :, None, None], "weight")
    nodes = [
        helper.make_node("Conv", ["image", "weight"], ["mixed"], kernel_shape=[1, 1]),
        helper.make_node("Relu", ["mixed"], ["features"]),
        helper.make_node("GlobalAveragePool", ["features"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["embedding"]),
    ]
    edges = [size_px, size_px if width_px is None else width_px]
    image = helper.make_tensor_value_info("image", dtype, [batch, num_bands, *edges])
    outputs = [helper.make_tensor_value_info("features", dtype, [batch, dim, *edges])]
    if is_flat:
        outputs.append(helper.make_tensor_value_info("embedding", dtype, [batch, dim]))
    if dtype != TensorProto.FLOAT:
        kind = numpy_helper.from_array(weight_DC[:, :, None, None].astype(np.float16), "weight")
    graph = helper.make_graph(nodes if is_flat else nodes[:2], "net", [image], outputs, [kind])
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    if beside:
        onnx.save(model, path, save_as_external_data=True, location="net.data", size_threshold=0)
    else:
        onnx.save(model, path)
    return str(path)
