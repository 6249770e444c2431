"""Which part of a survey a model is fitted on: drawn, prepared, published."""

import dataclasses
import hashlib
import io
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from astroray import storage, surveys
from astroray.encoders import kind_of
from astroray.errors import ConfigError, DataError
from astroray.preparation import Wishes
from astroray.preparation.modalities import MODALITIES, AnyPreparation, Modality
from astroray.surveys.shards import ModalityName, Reject, Rows, Shard

MEASURE_ROWS = 512
MEASURE_VALUES = 64_000_000
"""Pixels are measured on so many rows or numbers at most, whichever comes first."""
SAMPLE_SHARDS = 16
"""A sample is drawn from at least so many shards where a survey has them."""
SAMPLE_NAME, DESCRIPTION_NAME = "sample.npy", "sample.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplePlan:
    """Which part of a survey a model is fitted on."""

    folder: str
    max_rows: int
    wishes: Wishes
    seed: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """A drawn sample: float16 [N, C, Y, X] under `path`, and how it was prepared."""

    path: str
    preparation: AnyPreparation
    num_rows: int
    modality: ModalityName = "images"


def draw_sample(shards: Sequence[Shard], plan: SamplePlan) -> Sample:
    """Prepares up to `max_rows` objects, evenly spaced rows of many shards in a seeded order.

    Publishes `sample.npy` and then `sample.json` in the plan's folder; where both stand they are
    taken as they are. Raises ConfigError where no object of the survey can be used.
    """
    if (known := load_sample(plan.folder)) is not None:
        return known
    ordered = _seeded(shards, plan.seed)
    name = surveys.modality_of(ordered[0])
    modality = MODALITIES[name]
    slices = _to_measure(ordered)
    if (first := next(slices, None)) is None:
        raise ConfigError(_nothing_usable(ordered, modality))
    preparation = modality.measure(itertools.chain([first], slices), plan.wishes)
    parts = list(_prepared(ordered, modality, preparation, plan.max_rows))
    if not parts:
        raise ConfigError(_nothing_usable(ordered, modality, preparation))
    sample_NCYX = np.concatenate(parts)[: plan.max_rows]
    return publish_sample(plan.folder, preparation, sample_NCYX, modality=name)


def draw_prepared(
    shards: Sequence[Shard], preparation: AnyPreparation, *, max_rows: int, seed: int
) -> np.ndarray:
    """Objects drawn as `draw_sample` draws them, prepared as a model wants: float16 [N, C, Y, X].

    Empty where no object of the shards can be used.
    """
    ordered = _seeded(shards, seed)
    modality = MODALITIES[surveys.modality_of(ordered[0])]
    parts = list(_prepared(ordered, modality, preparation, max_rows))
    nothing = np.zeros((0, *modality.shape(preparation.network)), np.float16)
    return np.concatenate([nothing, *parts])[:max_rows]


def load_sample(folder: str) -> Sample | None:
    """The sample that was published in a folder; None where there is none, or but a part."""
    description = storage.join(folder, DESCRIPTION_NAME)
    if not storage.exists(description):
        return None
    known = json.loads(storage.read_bytes(description))
    modality: ModalityName = known.get("modality", "images")
    return Sample(
        path=storage.join(folder, SAMPLE_NAME),
        modality=modality,
        preparation=MODALITIES[modality].preparation.from_json(known["preparation"]),
        num_rows=known["num_rows"],
    )


def publish_sample(
    folder: str,
    preparation: AnyPreparation,
    sample_NCYX: np.ndarray,
    *,
    modality: ModalityName = "images",
) -> Sample:
    """Publishes prepared objects, float16 [N, C, Y, X], and then how they were prepared."""
    path = storage.join(folder, SAMPLE_NAME)
    storage.publish(path, _npy(sample_NCYX))
    text = {
        "modality": modality,
        "preparation": dataclasses.asdict(preparation),
        "num_rows": len(sample_NCYX),
    }
    storage.publish(storage.join(folder, DESCRIPTION_NAME), json.dumps(text).encode())
    return Sample(path=path, modality=modality, preparation=preparation, num_rows=len(sample_NCYX))


def network_config(
    encoder: str, sample: Sample, *, latent: int | None, keywords: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The numbers that the encoder's network is built with.

    keywords  of a class of the user's own, beside those that astroray gives

    Raises ConfigError where `latent` is given for an encoder whose length is fixed.
    """
    config = sample.preparation.network
    if latent is not None:
        if not kind_of(encoder).has_latent:
            raise ConfigError(
                f"encoder.latent is {latent}, but the embedding of {encoder} has one length; "
                "leave it out"
            )
        config["latent"] = latent
    return config | dict(keywords or {})


def _to_measure(shards: Sequence[Shard]) -> Iterator[Rows]:
    """The first slices of the ordered shards."""
    num_rows = num_values = 0
    for rows in _slices(shards, _quota(shards, MEASURE_ROWS)):
        yield rows
        num_rows += len(rows.row_B)
        num_values += rows.num_values
        if num_rows >= MEASURE_ROWS or num_values >= MEASURE_VALUES:
            return


def _prepared(
    shards: Sequence[Shard], modality: Modality, preparation: AnyPreparation, max_rows: int
) -> Iterator[np.ndarray]:
    """Prepared objects as float16 until `max_rows` are there."""
    num_rows = 0
    for rows in _slices(shards, _quota(shards, max_rows)):
        input_BCYX = modality.prepare(rows, preparation).input_BCYX.astype(np.float16)
        if len(input_BCYX):
            yield input_BCYX
        num_rows += len(input_BCYX)
        if num_rows >= max_rows:
            return


def _nothing_usable(
    shards: Sequence[Shard], modality: Modality, preparation: AnyPreparation | None = None
) -> str:
    """What to say where all was rejected: the reason of the first, read once more."""
    reject = next(_rejects(shards, modality, preparation), None)
    why = f"the first because {reject.reason}" if reject else "there are none in its files"
    return f"no {modality.noun} of the survey can be used: {why}"


def _rejects(
    shards: Sequence[Shard], modality: Modality, preparation: AnyPreparation | None
) -> Iterator[Reject]:
    """What readers, and the preparation where there is one, reject of the shards."""
    for shard in shards:
        for item in surveys.read_or_reject(shard):
            if isinstance(item, Reject):
                yield item
            elif preparation is not None:
                yield from modality.prepare(item, preparation).rejects


def _quota(shards: Sequence[Shard], max_rows: int) -> int:
    """Rows taken of one shard, so that several shards have their part in the sample."""
    return -(-max_rows // max(1, min(len(shards), SAMPLE_SHARDS)))


def _slices(shards: Sequence[Shard], quota: int) -> Iterator[Rows]:
    """Readable slices; what cannot be read is counted by the embed stage, not here.

    Of a shard with more than `quota` rows, rows at even distances where their number is known,
    else the first slices.
    """
    for shard in shards:
        rows: Sequence[int] | None = None
        if shard.num_rows is not None and shard.num_rows > quota:
            rows = np.linspace(0, shard.num_rows - 1, quota).astype(int).tolist()
        num_rows = 0
        try:
            for item in surveys.read_shard(shard, rows=rows):
                if isinstance(item, Rows):
                    yield item
                    num_rows += len(item.row_B)
                if num_rows >= quota:
                    break
        except DataError:
            continue


def _seeded(shards: Sequence[Shard], seed: int) -> list[Shard]:
    """The shards in an order that the seed decides, and that is the same for a copy of the survey.

    Hence not by their names, which are made of whole paths: by those from the folder that holds all
    files, and among parts of one file by their place in the listing.
    """
    firsts = [shard.inputs[0].path for shard in shards if shard.inputs]
    folder = os.path.commonprefix(firsts).rpartition("/")[0]  # noqa: RUF071 (s3://)
    parts: Counter[str] = Counter()
    keys = []
    for shard in shards:
        name = shard.name
        if shard.inputs:
            path = shard.inputs[0].path.removeprefix(folder)
            parts[path] += 1
            name = f"{path} {parts[path]}"
        keys.append(hashlib.sha256(f"{seed} {name}".encode()).hexdigest())
    return [shards[i] for i in sorted(range(len(shards)), key=keys.__getitem__)]


def _npy(array: np.ndarray) -> bytes:
    sink = io.BytesIO()
    np.save(sink, array)
    return sink.getvalue()
