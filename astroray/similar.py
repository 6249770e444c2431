"""What is nearest to an object of a finished run, or to a file that it has never seen."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from astroray import storage
from astroray.errors import ConfigError, DataError
from astroray.web.archive import Archive
from astroray.web.rows import Rows

__all__ = ["Similar", "find_similar"]

MAX_PIXELS = 2**26
"""Of a picture, over all bands: what does not look like a cutout is not decoded."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Similar:
    """The nearest objects of a run, exactly."""

    run_id: str
    model_id: str
    query: Mapping[str, Any]
    """`object_id`, `ra`, `dec`, `rank`, `outlier_score` of an object; `path` of a file."""
    neighbors: Sequence[Mapping[str, Any]]
    """As `/v1/similar` gives them, nearest first."""


def find_similar(
    run_dir: str, query: str, n: int = 20, *, bands: str = "", row: int | None = None
) -> Similar:
    """The `n` objects of a scan or night nearest to one of its objects, or to a file.

    query  object_id of the catalog; else a file of one cutout (FITS, PNG, JPEG) or light curve
           (FITS, Parquet), local or s3://
    bands  names of the planes of a FITS image, `g,r,i`, where its header does not say them
    row    which of several light curves of a file, from 0

    An object does not find itself. Raises ConfigError where the run is not done, and where there
    is neither such an object nor such a file; DataError where the file cannot be used.
    """
    archive = Archive(run_dir)
    place = archive.find(query)
    if place is not None:
        found = archive.nearest(archive.embedding_ND[place], n, exclude=place)
        (about,) = _neighbors(archive, np.array([place]), np.zeros(1))
        del about["distance"]
    else:
        found = archive.nearest(_embed(archive, query, bands, row), n)
        about = {"path": query}
    return Similar(
        run_id=archive.run_id,
        model_id=archive.model_id,
        query=about,
        neighbors=_neighbors(archive, found.row_K, found.distance_K),
    )


def _neighbors(archive: Archive, row_K: np.ndarray, distance_K: np.ndarray) -> list[dict[str, Any]]:
    return Rows(archive.table.take(row_K)).neighbors(distance_K.tolist())


def _embed(archive: Archive, path: str, bands: str, row: int | None) -> np.ndarray:
    """Embedding [D] of the cutout or light curve in a file, by the run's model on the CPU."""
    from astroray.actors.answer import Answerer  # loads torch
    from astroray.config import ScanConfig, from_dict
    from astroray.encoders import read_model_file
    from astroray.web.uploads import Beside, read_upload  # loads astropy

    if not (storage.is_remote(path) or os.path.isfile(path)):
        raise ConfigError(_unknown(archive, path))
    prepared = read_upload(
        storage.read_bytes(path),
        read_model_file(archive.model_path).preparation,
        beside=Beside(bands=bands, row=row),
        params=archive.params,
        max_pixels=MAX_PIXELS,
        name=path,
    )
    config: ScanConfig = from_dict(ScanConfig, archive.record.config, where="run.json")
    answerer = Answerer(device="cpu", num_threads=1, attention=config.encoder.attention)
    request = (archive.model_path, archive.model_id, prepared.input_BCYX[0])
    (embedding_D,) = answerer.embed([request])
    if not np.isfinite(embedding_D).all():
        raise DataError(f"the model gives numbers that are not finite for {path}")
    return embedding_D


def _unknown(archive: Archive, query: str) -> str:
    some = ", ".join(archive.table["object_id"].slice(0, 3).to_pylist())
    file = (
        "a FITS or Parquet file of a light curve"
        if archive.modality == "light_curves"
        else "a FITS, PNG or JPEG file of a cutout"
    )
    return (
        f"{query!r} is neither an object of {archive.run_dir} nor a file, expected one of its "
        f"{len(archive.table)} objects, such as {some}, or {file}"
    )
