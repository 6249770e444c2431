"""What the benchmark of the encode stage runs in fresh processes: one model in all ways, in turns.

In a round each way encodes the same batches as a scan's worker does. Loaded by fresh processes
alone, since it loads torch.
"""

import dataclasses
import importlib.util
import io
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, cast

import numpy as np
import torch

from astroray.actors.embed import Embedder, EmbedPlan
from astroray.actors.encode import BatchEncoder
from astroray.actors.fit import finish_model
from astroray.actors.quantize import QuantizePlan, quantize_model, quantize_prepared
from astroray.actors.sample import SamplePlan, draw_prepared, draw_sample, network_config
from astroray.encoders import AttentionName, QuantizeName
from astroray.encoders.store import Model, load_model
from astroray.preparation import Wishes
from astroray.quantization.modules import SCHEMES
from astroray.surveys import list_shards
from benchmarks.bare_loop import BATCH_SIZE
from benchmarks.clock import timed

__all__ = ["EncodeTurns", "OnnxEmbedder", "decide_auto", "encode_turns"]

SIZE_PX = 64
NUM_OBSERVED = 128
"""Fewer than a scan looks at: time does not depend on them, and errors hardly do."""
Encode = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodeTurns:
    """What the rounds gave; lists have an entry for each."""

    paths: dict[str, str]
    """Model files by scheme; `none` is the reference that the others hold too."""
    num_objects: int
    """Encoded by each way in each round."""
    wall_s: dict[str, list[float]]
    cpu_s: dict[str, list[float]]
    error: dict[str, float]
    """Of the embeddings over their spread, relative to float32."""


def decide_auto(model: str, survey: str, out: str) -> str:
    """The model as `astroray quantize --scheme auto` writes it; returns its path, `out`."""
    plan = QuantizePlan(model_path=model, out=out, scheme="auto", max_rows=2**20)
    quantize_model(list_shards(survey).shards, plan)
    return out


class OnnxEmbedder(Embedder):
    """The worker of a scan with onnxruntime's int8 in place of the network."""

    def __init__(self, plan: EmbedPlan) -> None:
        super().__init__(plan)
        call = _onnxruntime(self.encoder.model)["onnxruntime int8"]
        self.encoder._encode = lambda batch_BCYX: call(batch_BCYX.numpy())  # type: ignore[method-assign]


def _make_models(encoder: str, survey: str, folder: str, schemes: Iterable[str]) -> dict[str, str]:
    """Model files by scheme, each quantized from that of `none`, which has its shipped weights."""
    shards = list_shards(survey).shards
    plan = SamplePlan(
        folder=f"{folder}/fit", max_rows=NUM_OBSERVED, wishes=Wishes(size_px=SIZE_PX), seed=0
    )
    sample = draw_sample(shards, plan)
    paths = {"none": f"{folder}/{encoder}.safetensors"}
    finish_model(
        sample,
        path=paths["none"],
        encoder=encoder,
        config=network_config(encoder, sample, latent=None),
    )
    sample_NCYX = np.load(sample.path)
    for scheme in schemes:
        paths[scheme] = f"{folder}/{encoder}-{scheme}.safetensors"
        observed = QuantizePlan(
            model_path=paths["none"], out=paths[scheme], scheme=scheme, max_rows=NUM_OBSERVED
        )
        quantize_prepared(sample_NCYX, observed)
    return paths


def encode_turns(
    encoder: str,
    survey: str,
    folder: str,
    ways: Mapping[str, tuple[str, str]],
    num_batches: int,
    rounds: int,
) -> EncodeTurns:
    """All ways, and onnxruntime's where it is installed, on one thread.

    ways  by name: `encoder.quantize` and `encoder.attention` of a scan
    """
    torch.set_num_threads(1)
    schemes = {quantize for quantize, _ in ways.values()} & set(SCHEMES)
    paths = _make_models(encoder, survey, folder, sorted(schemes))
    plain = load_model(paths["none"])
    rows = num_batches * BATCH_SIZE
    images = draw_prepared(list_shards(survey).shards, plain.preparation, max_rows=rows, seed=1)
    images = images[: len(images) // BATCH_SIZE * BATCH_SIZE].astype(np.float32)
    calls: dict[str, Encode] = {name: _worker(paths, *way) for name, way in ways.items()}
    if importlib.util.find_spec("onnxruntime"):
        calls |= _onnxruntime(plain)
    return EncodeTurns(paths=paths, **_take_turns(calls, images, rounds))


def _worker(paths: Mapping[str, str], quantize: str, attention: str) -> Encode:
    """The encoder of a scan's worker."""
    encoder = BatchEncoder(
        model_path=paths.get(quantize, paths["none"]),
        batch_size=BATCH_SIZE,
        device="cpu",
        num_threads=1,
        attention=cast(AttentionName, attention),
        quantize=cast(QuantizeName, quantize),
    )
    return encoder.push


def _onnxruntime(plain: Model) -> dict[str, Encode]:
    """The network exported; in float32, and with its dynamic int8, weights a scale a channel."""
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    config = plain.network_config
    shape = (BATCH_SIZE, config["num_bands"], config["size_px"], config["size_px"])
    exported, eight = io.BytesIO(), io.BytesIO()
    export: Any = torch.onnx.export  # which takes a buffer, though its types do not say so
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # the exporter that needs no further package is the old one
        export(
            plain.network, (torch.zeros(shape),), exported, dynamo=False, opset_version=17,
            input_names=["image"],
        )  # fmt: skip
    import onnx

    model = onnx.load_model_from_string(exported.getvalue())
    quantize_dynamic(model, eight, weight_type=QuantType.QInt8, per_channel=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    frame = [tensor.numpy() for tensor in (plain.center_D, plain.scale_D, plain.live_D)]

    def encoder(data: bytes) -> Encode:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

        def encode(image_NCYX: np.ndarray) -> np.ndarray:
            found = [
                session.run(None, {"image": image_NCYX[start : start + BATCH_SIZE]})[0]
                for start in range(0, len(image_NCYX), BATCH_SIZE)
            ]
            center_D, scale_D, live_D = frame
            return ((np.concatenate(found) - center_D) / scale_D)[:, live_D]

        return encode

    return {
        "onnxruntime float32": encoder(exported.getvalue()),
        "onnxruntime int8": encoder(eight.getvalue()),
    }


def _take_turns(calls: Mapping[str, Encode], images: np.ndarray, rounds: int) -> dict[str, Any]:
    with torch.inference_mode():
        exact_ND = calls["torch float32"](images)
        spread = float(np.linalg.norm(exact_ND - exact_ND.mean(0)))
        error = {
            name: float(np.linalg.norm(call(images) - exact_ND)) / spread
            for name, call in calls.items()
        }
        wall_s: dict[str, list[float]] = {name: [] for name in calls}
        cpu_s: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(rounds):
            for name, call in calls.items():
                took = timed(partial(call, images))
                wall_s[name].append(took.wall_s)
                cpu_s[name].append(took.cpu_s)
    return {"num_objects": len(images), "wall_s": wall_s, "cpu_s": cpu_s, "error": error}
