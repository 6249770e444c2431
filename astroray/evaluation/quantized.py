"""Encoders of an evaluation on fewer bits: how one is asked for, and made from its reference."""

import hashlib
from typing import cast, get_args

import numpy as np

from astroray import storage
from astroray.actors.quantize import OBSERVED_ROWS, QuantizePlan, quantize_prepared
from astroray.encoders import ENCODERS, ModelFile, QuantizeName, read_model_file
from astroray.errors import ConfigError
from astroray.evaluation.pictures import Pictures
from astroray.quantization.activations import ALPHA, GROUP, MIN_SHARE
from astroray.quantization.modules import SCHEMES

__all__ = ["NUMBERS", "embedding_id", "quantize_fitted", "split_numbers"]

NUMBERS = tuple(name for name in get_args(QuantizeName) if name not in ("auto", "none"))
"""What may stand behind the colon of an encoder; as `encoder.quantize` in a scan."""


def split_numbers(asked: str) -> tuple[str, QuantizeName]:
    """Name or path of an encoder, and what it computes with: `vit-tiny:w8a8o`; else auto.

    Raises ConfigError on a known encoder with an unknown word behind the colon.
    """
    name, _, numbers = asked.rpartition(":")
    if name and numbers in NUMBERS:
        return name, cast(QuantizeName, numbers)
    if name in ENCODERS:
        raise ConfigError(
            f"encoder is {asked!r}, expected {name}, or {name}: with one of {', '.join(NUMBERS)}"
        )
    return asked, "auto"


def quantize_fitted(
    path: str, scheme: str, pictures: Pictures, row_M: np.ndarray, folder: str, *, num_threads: int
) -> str:
    """The model of a file with its layers in a scheme, observed on rows of a protocol.

    scheme  of `quantization.modules.SCHEMES`
    row_M   the rows that encoders of the protocol are fitted on

    Returns the path of the new file, in `folder`, named by all that it is made of; one that is
    there is taken as it is. Raises ConfigError where layers cannot have the scheme.
    """
    file = read_model_file(path)
    made_of = (file.model_id, SCHEMES[scheme], ALPHA, GROUP, MIN_SHARE, OBSERVED_ROWS)
    digest = hashlib.sha256(repr(made_of).encode() + pictures.content_id.encode())
    digest.update(np.sort(row_M).astype("<i8").tobytes())
    out = storage.join(folder, f"{file.encoder}-{scheme}-{digest.hexdigest()[:12]}.safetensors")
    if not storage.exists(out):
        plan = QuantizePlan(
            model_path=path, out=out, scheme=scheme, max_rows=OBSERVED_ROWS, seed=0,
            num_threads=num_threads,
        )  # fmt: skip
        quantize_prepared(pictures.prepared(file.preparation)[np.sort(row_M)], plan)
    return out


def embedding_id(file: ModelFile, numbers: QuantizeName) -> str:
    """What embeddings of a file are known by, where it computes with `numbers`."""
    if numbers == "none" and file.quantized:
        return str(file.quantized["reference_id"])
    return f"{file.model_id}-{numbers}" if numbers in ("bf16", "torch-int8") else file.model_id
