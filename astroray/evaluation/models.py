"""Encoders under evaluation: fitted on a protocol's own objects or given, and what they embed."""

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from astroray import allowance, storage
from astroray.actors.fit import finish_model
from astroray.actors.sample import Sample, load_sample, network_config, publish_sample
from astroray.encoders import (
    AttentionName,
    ModelFile,
    QuantizeName,
    kind_of,
    read_model_file,
)
from astroray.encoders.pretrained import load_pretrained, object_hash
from astroray.encoders.selecting import choose_backends
from astroray.encoders.store import build_network, load_model
from astroray.errors import ConfigError
from astroray.evaluation.baselines import measure_baseline
from astroray.evaluation.pictures import Pictures
from astroray.evaluation.quantized import embedding_id
from astroray.fitting.fit_state import FitConfig, FitProgress, FitState
from astroray.fitting.passes import find_recipe, run_passes
from astroray.storage.arrays import publish_arrays, read_arrays

__all__ = [
    "NUM_PASSES",
    "Encoded",
    "embed",
    "embed_baseline",
    "fit_model",
    "take_sample",
    "was_trained_on",
]

NUM_PASSES = 60
"""Passes of a fit where the budget allows them."""
FIT_BATCH = 32
"""Images a step: the published 128 would leave a sample of 600 objects five steps a pass."""
SHORTEST_S = 1e-3
ENCODE_BATCH = 32
NUM_THREADS = allowance.num_cores()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoded:
    """All objects of a protocol as one encoder sees them."""

    model_id: str
    embedding_ND: np.ndarray
    """[N, D] float32, in the model's frozen frame."""
    reconstruction_N: np.ndarray | None = None
    """[N] error of the autoencoder; None where the network is none, or it was not asked for."""
    fit_s: float = 0.0
    encode_s: float = 0.0
    """Seconds for all N objects."""
    num_passes: int = 0
    is_whole: bool = True
    """Whether the fit made all its passes."""
    trained_share: float = 0.0
    """Share of the objects that a given model says it was trained on."""


def was_trained_on(model: ModelFile, protocol: str, object_ids: Iterable[str]) -> float:
    """Share of the objects whose hash is among those that the model says it was trained on.

    The fit record's `trained_on` maps the name of a set to a list of `object_hash`; weights that
    came with astroray bring their own list. Without either: 0.
    """
    record = model.fit.get("trained_on") or {}
    known = set(record.get(protocol, ()))
    if "pretrained" in model.fit and (shipped := load_pretrained(model.encoder)):
        known |= shipped.trained_on
    hashes = [object_hash(protocol, object_id) for object_id in object_ids]
    return sum(value in known for value in hashes) / max(1, len(hashes))


def take_sample(pictures: Pictures, row_M: np.ndarray, folder: str) -> Sample:
    """The sample of a fit, float16 as `actors.sample.draw_sample` writes it; kept in `folder`.

    row_M  rows of the protocol, in any order: they are sorted, so that no label shows

    The folder gets a subfolder named by a hash of the objects and their files.
    """
    row_M = np.sort(row_M)
    digest = hashlib.sha256(pictures.content_id.encode() + row_M.astype("<i8").tobytes())
    folder = storage.join(folder, digest.hexdigest()[:12])
    if (known := load_sample(folder)) is not None:
        return known
    preparation = pictures.measure(row_M)
    return publish_sample(
        folder,
        preparation,
        pictures.prepared(preparation)[row_M],
        modality=pictures.modality,
    )


def fit_model(
    encoder: str,
    sample: Sample,
    *,
    seed: int,
    budget_s: float,
    latent: int | None = None,
    keywords: Mapping[str, Any] | None = None,
    report: Callable[[FitProgress], None] = lambda progress: None,
) -> str:
    """Fits an encoder beside its sample and returns the path of its model file.

    A fit that was killed, or whose budget ended before NUM_PASSES, goes on where it was. The
    first pass is made whatever the budget.
    keywords  of a class of the user's own

    Raises ConfigError on an unknown encoder, a `latent` for one whose length is fixed, or a loss
    that is not finite.
    """
    numbers = network_config(encoder, sample, latent=latent, keywords=keywords)
    name = f"{encoder}-seed{seed}-{_recipe_id(encoder, numbers)}"
    stem = storage.join(os.path.dirname(sample.path), name)
    path = f"{stem}.safetensors"
    if storage.exists(path) and _is_whole(read_model_file(path)):
        return path
    weights, facts = None, dict[str, Any]()
    if kind_of(encoder).is_descended():
        config = FitConfig(
            num_passes=NUM_PASSES,
            budget_s=_reopen(f"{stem}.fit") + max(budget_s, SHORTEST_S),
            batch_size=FIT_BATCH,
            seed=seed,
        )
        result = run_passes(
            sample.path, encoder, numbers, config, f"{stem}.fit",
            threads=NUM_THREADS, report=report,
        )  # fmt: skip
        weights, facts = result.state_dict, result.facts()
    began_s = time.monotonic()
    finish_model(
        sample,
        path=path,
        encoder=encoder,
        config=numbers,
        weights=weights,
        fit=facts,
        seed=seed,
        num_threads=NUM_THREADS,
    )
    seconds = facts.get("seconds", 0.0) + time.monotonic() - began_s
    storage.publish(f"{path}.seconds", json.dumps(seconds).encode())
    return path


def embed(
    path: str,
    pictures: Pictures,
    folder: str,
    *,
    numbers: QuantizeName = "auto",
    with_errors: bool = False,
) -> Encoded:
    """All objects by the model of a file; kept in `folder` by model_id and content of the pool.

    numbers      what it computes with; auto: a quantized model as its file says
    with_errors  also the reconstruction errors, of networks that reconstruct

    Raises ConfigError where the pictures lack a band that the model wants.
    """
    file = read_model_file(path)
    suffix = "-errors" if with_errors else ""
    known_by = embedding_id(file, numbers)
    cached = storage.join(folder, f"{known_by}-{pictures.content_id}{suffix}.npz")
    if not storage.exists(cached):
        _encode(path, pictures, cached, numbers=numbers, with_errors=with_errors)
    return dataclasses.replace(
        _load(known_by, cached),
        fit_s=_fit_seconds(path, file),
        num_passes=int(file.fit.get("num_passes", 0)),
        is_whole=_is_whole(file),
        trained_share=was_trained_on(file, pictures.protocol.name, pictures.protocol.object_ids),
    )


def embed_baseline(
    name: str, pictures: Pictures, sample: Sample, row_M: np.ndarray, folder: str
) -> Encoded:
    """All objects by one of BASELINES, scaled by the rows of the sample; kept in `folder`."""
    model_id = f"{name}-{os.path.basename(os.path.dirname(sample.path))}"
    cached = storage.join(folder, f"{model_id}-{pictures.content_id}.npz")
    if not storage.exists(cached):
        image_NCYX = pictures.prepared(sample.preparation)
        began_s = time.monotonic()
        embedding_ND = measure_baseline(name, image_NCYX, row_M)
        _save(cached, embedding_ND, [], time.monotonic() - began_s)
    return _load(model_id, cached)


def _encode(
    path: str, pictures: Pictures, cached: str, *, numbers: QuantizeName, with_errors: bool
) -> None:
    torch.set_num_threads(NUM_THREADS)
    # `none` is the reference here, whatever attention the file decided beside it
    attention: AttentionName = "sdpa" if numbers == "none" else "auto"
    model, _ = choose_backends(
        load_model(path), quantize=numbers, attention=attention, device="cpu"
    )
    image_NCYX = torch.from_numpy(pictures.prepared(model.preparation))
    error_of: Any = getattr(model.network, "reconstruction_error", None) if with_errors else None
    embeddings, errors, seconds = [], [], 0.0
    with torch.inference_mode():
        for batch_BCYX in torch.split(image_NCYX, ENCODE_BATCH):
            image_BCYX = batch_BCYX.float()
            began_s = time.monotonic()
            embeddings.append(model.embed(image_BCYX).numpy())
            seconds += time.monotonic() - began_s
            if error_of is not None:
                errors.append(error_of(image_BCYX).numpy())
    embedding_ND = np.concatenate(embeddings)
    if not np.isfinite(embedding_ND).all():
        raise ConfigError(f"model {path} gives embeddings that are not finite; fit it again")
    _save(cached, embedding_ND, errors, seconds)


def _save(
    cached: str, embedding_ND: np.ndarray, errors: Sequence[np.ndarray], seconds: float
) -> None:
    arrays = {
        "embedding": embedding_ND,
        "errors": np.concatenate(errors) if errors else np.zeros(0),
        "seconds": np.array(seconds),
    }
    publish_arrays(cached, arrays)


def _load(model_id: str, cached: str) -> Encoded:
    arrays = read_arrays(cached)
    return Encoded(
        model_id=model_id,
        embedding_ND=arrays["embedding"],
        reconstruction_N=arrays["errors"] if len(arrays["errors"]) else None,
        encode_s=float(arrays["seconds"]),
    )


def _is_whole(file: ModelFile) -> bool:
    return (
        kind_of(file.encoder).fit != "network"
        or "pretrained" in file.fit
        or "trained_on" in file.fit
        or file.fit.get("num_passes", 0) >= NUM_PASSES
    )


def _recipe_id(encoder: str, numbers: Mapping[str, Any]) -> str:
    """Hash of what a fit is made of beside its sample, so that a changed network is fitted anew."""
    recipe = find_recipe(encoder, FitConfig(num_passes=1))
    tensors = build_network(encoder, numbers).state_dict()
    shapes = [(name, tuple(tensor.shape)) for name, tensor in tensors.items()]
    text = repr((recipe, FIT_BATCH, sorted(numbers.items()), shapes))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _fit_seconds(path: str, file: ModelFile) -> float:
    """Of a fit of ours with what has a closed form; of a given model what its record says."""
    ours = f"{path}.seconds"
    if storage.exists(ours):
        return float(json.loads(storage.read_bytes(ours)))
    return float(file.fit.get("seconds", 0.0))


def _reopen(folder: str) -> float:
    """Seconds that a fit has taken so far; one that a budget ended may go on."""
    state = FitState.load(folder)
    if state is None:
        return 0.0
    if state.is_finished and len(state.losses) < NUM_PASSES:
        state.is_finished = False
        state.save(folder)
    return state.seconds
