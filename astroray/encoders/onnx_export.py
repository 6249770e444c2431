"""A model written as an ONNX program, and the proof that it gives the model's embeddings."""

import contextlib
import dataclasses
import io
import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from astroray import storage
from astroray.encoders import PROGRAMS
from astroray.encoders.onnx_file import INSTALL, start_session
from astroray.encoders.store import Model, load_model
from astroray.errors import BackendError, ConfigError
from astroray.preparation.modalities import MODALITIES

__all__ = ["Exported", "export_onnx"]

MOST_ERROR = 1e-4
"""Largest difference of the program's embeddings, as a share of the largest number in them."""
BATCHES = (1, 5)
"""Sizes at which they are compared; the program is traced at another one."""
TRACED_BATCH = 3
MOST_ROWS = 2**20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exported:
    """An ONNX program that was written."""

    model_id: str
    """Of what is written: where the model has layers on fewer bits, of its reference."""
    input_name: str
    shape: tuple[int, int, int]
    """[C, Y, X] of what it takes."""
    dim: int
    """Length of an embedding."""
    error: float
    """Largest difference from the model's embeddings, as a share of their largest number."""
    has_fewer_bits: bool
    """Whether the model also has layers on fewer bits, which stay behind."""


def export_onnx(source: str, *, out: str, overwrite: bool = False) -> Exported:
    """Writes the model of a run, or a model file, as one ONNX program in float32.

    It takes prepared objects [B, C, Y, X] float32 for any B and gives `embedding` [B, dim]
    float32, center, scale and live dimensions applied, so that distances are those of a run in
    float32, and of the first objects of one on fewer bits.
    How objects are prepared stands in its metadata beside model id, encoder and modality.
    Before it is written, ONNX Runtime computes it, and the embeddings are compared.

    Raises ConfigError where `out` is there and may not be overwritten, the model is an ONNX
    program already, or a package is missing; BackendError where the embeddings differ.
    """
    if not overwrite and storage.exists(out):
        raise ConfigError(f"{out} is already there; choose another name, or --overwrite it")
    model = load_model(source)
    if model.encoder in PROGRAMS.values():
        raise ConfigError(
            f"the model of {source} came as an ONNX program; use the file that it came from"
        )
    shape = MODALITIES[model.modality].shape(model.network_config)
    name = MODALITIES[model.modality].noun.replace(" ", "_")
    with torch.inference_mode():
        data = _with_facts(_trace(model, _objects(model, TRACED_BATCH), name), model)
        error = _compare(data, model, name)
    if not error <= MOST_ERROR:
        raise BackendError(
            f"the ONNX program of {source} differs from its model by {error:.1e} of the largest "
            f"embedding, expected at most {MOST_ERROR:.0e}; it was not written: report it with "
            "the versions of torch, onnxscript and onnxruntime"
        )
    storage.publish(out, data)
    return Exported(
        model_id=_id_in_float32(model),
        input_name=name,
        shape=shape,
        dim=model.dim,
        error=error,
        has_fewer_bits=model.quantized is not None,
    )


def _id_in_float32(model: Model) -> str:
    return model.quantized.reference_id if model.quantized else model.model_id


class _Embedding(nn.Module):
    """All that a model does to prepared objects."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.network = model.network
        self.embed = model.embed

    def forward(self, input_BCYX: Tensor) -> Tensor:
        return self.embed(input_BCYX)


def _trace(model: Model, input_BCYX: Tensor, name: str) -> bytes:
    """The program of a model for any number of objects."""
    try:
        import onnxscript  # noqa: F401 (torch's exporter needs it)
    except ImportError:
        raise ConfigError(f"export needs the package onnxscript; {INSTALL}") from None
    batch = torch.export.Dim("batch", min=1, max=MOST_ROWS)
    with _quiet():
        program: Any = torch.onnx.export(
            _Embedding(model).eval(),
            (input_BCYX,),
            dynamo=True,
            verbose=False,
            input_names=[name],
            output_names=["embedding"],
            dynamic_shapes=({0: batch},),
        )
        whole = io.BytesIO()
        program.save(whole)
    return whole.getvalue()


def _with_facts(data: bytes, model: Model) -> bytes:
    """The program with what it is and how its objects are prepared."""
    import onnx

    program = onnx.load_from_string(data)
    program.producer_name = "astroray"
    facts = {
        "model_id": _id_in_float32(model),
        "encoder": model.encoder,
        "modality": model.modality,
        "preparation": json.dumps(dataclasses.asdict(model.preparation), sort_keys=True),
    }
    named = {f"astroray.{name}": text for name, text in facts.items()}
    onnx.helper.set_model_props(program, named)
    written: bytes = program.SerializeToString(deterministic=True)
    return written


def _compare(data: bytes, model: Model, name: str) -> float:
    """Largest difference of the program's embeddings, as a share of their largest number."""
    session = start_session(data, device="cpu", num_threads=1, name="the program")
    worst = 0.0
    for batch in BATCHES:
        input_BCYX = _objects(model, batch)
        expected_BD = model.embed(input_BCYX)
        (found,) = session.run(["embedding"], {name: input_BCYX.numpy()})
        difference = (torch.from_numpy(found) - expected_BD).abs().max()
        worst = max(worst, float(difference / expected_BD.abs().max().clamp(min=1e-12)))
    return worst


def _objects(model: Model, batch: int) -> Tensor:
    """Made-up prepared objects, [B, C, Y, X]: noise in 0..1, curves with a tenth missing."""
    shape = MODALITIES[model.modality].shape(model.network_config)
    generator = torch.Generator().manual_seed(batch)
    input_BCYX = torch.rand(batch, *shape, generator=generator)
    if model.modality != "images":
        input_BCYX[:, 1] = (input_BCYX[:, 1] > 0.1).float()
        input_BCYX[:, 0] *= input_BCYX[:, 1]
    return input_BCYX


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps to itself what torch's exporter says of packages that nothing here needs."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
