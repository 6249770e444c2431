"""What an answer looks like in JSON: fields, units and meanings, as OpenAPI tells them."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, Field, create_model

from astroray import schema
from astroray.web.rows import COLUMNS

__all__ = ["Embedding", "Forecasts", "Neighborhood", "Page", "Score"]

_TYPES: Mapping[pa.DataType, Any] = {
    pa.string(): str,
    pa.int32(): int,
    pa.int64(): int,
    pa.float64(): float,
    pa.bool_(): bool,
    pa.list_(pa.string()): list[str],
    pa.list_(pa.float64()): list[float],
}


def _field(field: pa.Field) -> tuple[Any, Any]:
    facts = {key.decode(): value.decode() for key, value in field.metadata.items()}
    unit = f" ({facts['unit']})" if facts["unit"] else ""
    return _TYPES[field.type] | None, Field(description=facts["doc"] + unit)


_FIELDS: dict[str, Any] = {field.name: _field(field) for field in COLUMNS}
CatalogObject: Any = create_model(
    "CatalogObject",
    __doc__="One row of the catalog; a number that is unknown or not finite is null.",
    **_FIELDS,
)


class Answer(BaseModel):
    """What every answer says of where it comes from."""

    run_id: str = Field(description="the run; another catalog has another id")
    model_id: str = Field(description="content hash of the model")


class OfRun(Answer):
    """What every answer from the run's model says of it."""

    numbers: str = Field(
        description="what model_id computed the embeddings in, and computes uploads in: float32, "
        "or as encoder.quantize has it; then the first of the list are ranked in float32 (proof)"
    )


class Run(OfRun):
    """What the run record says."""

    survey: str
    encoder: str
    finished: str = Field(description="UTC, ISO 8601")
    num_objects: int
    k: int = Field(description="neighbors that the score looks at")
    score: str = Field(description="kth: distance to the k-th neighbor; mean: mean of the k")
    proof: str = Field(description="what is proven of the top of the list")
    modality: str = Field(description="images, light_curves or spectra: what an upload is")
    input: str = Field(description="what the model makes of an upload")
    bands: list[str] = Field(description="of images: what an upload needs to have")
    pixels: str | None = Field(description="of images: flux, upload FITS; display, pictures")
    versions: dict[str, str]


class Single(OfRun):
    """One object."""

    object: CatalogObject


class Page(OfRun):
    """Objects in order of rank."""

    total: int = Field(description="objects that match, on all pages")
    objects: list[CatalogObject]
    next: str | None = Field(description="path and query of the next page; null on the last one")


class Neighbor(BaseModel):
    """An object of the catalog near the one that was asked for."""

    object_id: str
    distance: float = Field(description="Euclidean, in the model's embedding space")
    ra: float | None = Field(description="deg, ICRS")
    dec: float | None = Field(description="deg, ICRS")
    rank: int
    outlier_score: float | None


class Neighborhood(OfRun):
    """The nearest objects of the catalog, exactly, nearest first."""

    neighbors: list[Neighbor]


class Embedding(OfRun):
    """Where the model puts an upload."""

    embedding: list[float]
    processing_flags: int = Field(description=schema.FLAGS.metadata[b"doc"].decode())


class Score(Neighborhood):
    """How unusual an upload is among the objects of the catalog."""

    outlier_score: float | None = Field(description="the run's score; null without any neighbor")
    rank: int | None = Field(
        description="1 + objects of the catalog with a larger score (or bound of it), all scores "
        "by `numbers`; the first objects of a run on fewer bits have their own ranks in float32"
    )
    num_objects: int
    processing_flags: int = Field(description=schema.FLAGS.metadata[b"doc"].decode())


_WINDOW: dict[str, Any] = {
    name: _field(schema.FORECASTS.field(name))
    for name in ("object_id", "end", "time_zero", "probability", "alarm", "newest", "flared")
}
Window: Any = create_model(
    "Window",
    __doc__="One window of a star's light curves and what it forecasts.",
    **_WINDOW,
)


class Rejected(BaseModel):
    """A light curve that gives no forecast."""

    row: int = Field(description="of the file")
    reason: str


class Forecasts(Answer):
    """Forecasts of flares; model_id is that of the forecaster."""

    alarm: float = Field(description="probability from which a flare is forecast")
    warning: str = Field(
        description="that stars are of a mission that the forecaster was not trained on, so that "
        "their probabilities say little; else empty"
    )
    windows: list[Window] = Field(description="by star and time")
    dropped: dict[str, int] = Field(description="windows left out, by reason")
    num_rejected: int = Field(description="light curves that give no forecast")
    rejects: list[Rejected] = Field(description="the first of them")


class Problem(BaseModel):
    """Why there is no answer."""

    detail: str
