"""What is nearest to an object of a finished run, or to a file that it has never seen."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from astroray import ledger, storage
from astroray.actors.run_model import RunModel, model_of_run
from astroray.archive import Archive
from astroray.catalog.asked import names_like
from astroray.encoders import read_model_file
from astroray.errors import ConfigError, DataError
from astroray.preparation.modalities import MODALITIES
from astroray.run_folders import finished_run, version_of
from astroray.run_record import RunRecord
from astroray.search.nearby import open_indexed
from astroray.web.rows import Rows

__all__ = ["Similar", "find_similar"]

MAX_PIXELS = 2**26
"""Of a picture, over all bands: what does not look like a cutout is not decoded."""
MAX_CURVES, MAX_CADENCES = 100_000, 50_000_000
"""Of a file of light curves or spectra, which may be one of a survey's own: all of it is read
for one row."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Similar:
    """The nearest objects of a run, exactly."""

    run_id: str
    model_id: str
    numbers: str
    """What that model computed the embeddings in: float32, or as `encoder.quantize` has it."""
    query: Mapping[str, Any]
    """`object_id`, `ra`, `dec`, `rank`, `outlier_score` of an object; `path` of a file; `dim` of an
    embedding."""
    neighbors: Sequence[Mapping[str, Any]]
    """As `/v1/similar` gives them, nearest first."""


def find_similar(
    run_dir: str, query: str | np.ndarray, n: int, *, bands: str = "", row: int | None = None
) -> Similar:
    """The `n` objects of a scan or night nearest to one of its objects, a file or an embedding.

    query  object_id of the catalog; else a file of one cutout (FITS, PNG, JPEG), light curve or
           spectrum (FITS, Parquet), local or s3://; or numbers [D], as embeddings of the run are
    bands  names of the planes of a FITS image, `g,r,i`, where its header does not say them
    row    which of several light curves or spectra of a file, from 0

    An object does not find itself. Raises ConfigError where the run is not done, where there
    is neither such an object nor such a file or row, and where the numbers are no embedding;
    DataError where the file cannot be used.
    """
    searched = _open(run_dir)
    model = model_of_run(searched.run_dir, searched.record)
    about: Mapping[str, Any]
    if isinstance(query, np.ndarray):
        embedding_D = _checked(query, searched.record.fitted.dim)
        near_K, distance_K = searched.nearest(embedding_D, n)
        about = {"dim": len(embedding_D)}
    elif (place := searched.find(query)) is not None:
        near_K, distance_K = searched.nearest(searched.embedding(place), n, exclude=place)
        (row_of_it,) = Rows(searched.rows(np.array([place]))).neighbors([0.0])
        about = {key: value for key, value in row_of_it.items() if key != "distance"}
    else:
        near_K, distance_K = searched.nearest(_embed(searched, model, query, bands, row), n)
        about = {"path": query}
    return Similar(
        run_id=searched.record.run_id,
        model_id=model.model_id,
        numbers=model.numbers,
        query=about,
        neighbors=Rows(searched.rows(near_K)).neighbors(distance_K.tolist()),
    )


class _Searched(Protocol):
    """A finished run in which what is nearest is looked for; its objects go by a number."""

    run_dir: str
    record: RunRecord
    num_objects: int

    def find(self, object_id: str) -> int | None: ...
    def embedding(self, number: int) -> np.ndarray: ...
    def rows(self, number_K: np.ndarray) -> pa.Table: ...
    def nearest(
        self, embedding_D: np.ndarray, k: int, *, exclude: int = -1
    ) -> tuple[np.ndarray, np.ndarray]: ...


class _Whole:
    """A run that is read into memory: one without an index."""

    def __init__(self, run_dir: str) -> None:
        self.archive = Archive(run_dir)
        self.run_dir, self.record = self.archive.run_dir, self.archive.record
        self.num_objects = len(self.archive.table)
        self.find = self.archive.find

    def embedding(self, number: int) -> np.ndarray:
        return np.asarray(self.archive.embedding_ND[number])

    def rows(self, number_K: np.ndarray) -> pa.Table:
        return self.archive.table.take(pa.array(number_K))

    def nearest(
        self, embedding_D: np.ndarray, k: int, *, exclude: int = -1
    ) -> tuple[np.ndarray, np.ndarray]:
        found = self.archive.nearest(embedding_D, k, exclude=exclude)
        return found.row_K, found.distance_K


def _open(run_dir: str) -> _Searched:
    run_dir = version_of(run_dir)
    return open_indexed(run_dir, finished_run(run_dir)) or _Whole(run_dir)


def _checked(embedding_D: np.ndarray, dim: int) -> np.ndarray:
    """An embedding that somebody made, float32. Raises ConfigError where it is none of the run."""
    if embedding_D.shape != (dim,) or embedding_D.dtype.kind not in "iuf":
        raise ConfigError(
            f"the embedding is {embedding_D.dtype} {embedding_D.shape}, expected the numbers "
            f"({dim},) of one, such as a mean of rows of run.embeddings()"
        )
    if not np.isfinite(embedding_D).all():
        raise ConfigError(
            "the embedding has numbers that are not finite, expected only finite ones"
        )
    return embedding_D.astype(np.float32)


def _embed(run: _Searched, model: RunModel, path: str, bands: str, row: int | None) -> np.ndarray:
    """Embedding [D] of what is in a file, by the run's model on the CPU."""
    from astroray.actors.answer import Answerer  # loads torch
    from astroray.web.curve_uploads import CurveLimits
    from astroray.web.uploads import AskedError, Beside, read_upload  # loads astropy

    if not (storage.is_remote(path) or os.path.isfile(path)):
        raise ConfigError(_unknown(run, path))
    shards = ledger.read_listing(run.run_dir)
    try:
        prepared = read_upload(
            storage.read_bytes(path),
            read_model_file(model.path).preparation,
            beside=Beside(bands=bands, row=row),
            params=shards[0].params if shards else {},
            max_pixels=MAX_PIXELS,
            curves=CurveLimits(curves=MAX_CURVES, cadences=MAX_CADENCES),
            name=path,
        )
    except AskedError as error:
        raise ConfigError(str(error)) from None
    answerer = Answerer(device="cpu", num_threads=1)
    try:
        (embedding_D,) = answerer.embed([(model, prepared.input_BCYX[0])])
    except ConfigError as error:  # of a network of the user's own
        raise ConfigError(f"{path}: {error}") from error
    if not np.isfinite(embedding_D).all():
        raise DataError(f"the model gives numbers that are not finite for {path}")
    return embedding_D


def _unknown(run: _Searched, query: str) -> str:
    count = run.num_objects if isinstance(run, _Whole) else 3  # of others a name costs a look-up
    names = run.rows(np.arange(min(count, run.num_objects)))["object_id"]
    some = names_like(names, query)
    modality = run.record.fitted.modality
    file = (
        "a FITS, PNG or JPEG file of a cutout"
        if modality == "images"
        else f"a FITS or Parquet file of a {MODALITIES[modality].noun}"
    )
    return (
        f"{query!r} is neither an object of {run.run_dir} nor a file, expected one of its "
        f"{run.num_objects} objects, such as {some}, or {file}"
    )
