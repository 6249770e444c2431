"""Parquet surveys that tests make, and what reading them yields."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from astroray import storage
from astroray.surveys import tables
from astroray.surveys.shards import Cutouts, Reject, Shard, SurveyUri

SHAPE = (3, 4, 5)
NUM_ROWS = 10


def images(num_rows: int = NUM_ROWS, *, dtype: str = "float32") -> np.ndarray:
    return (np.random.default_rng(3).random((num_rows, *SHAPE)) * 200).astype(dtype)


def flat(image_BCYX: np.ndarray, kind: pa.DataType) -> pa.Array:
    return pa.array(image_BCYX.reshape(len(image_BCYX), -1).tolist(), kind)


def tensor(image_BCYX: np.ndarray) -> pa.Array:
    kind = pa.fixed_shape_tensor(pa.from_numpy_dtype(image_BCYX.dtype), image_BCYX.shape[1:])
    return pa.ExtensionArray.from_storage(kind, flat(image_BCYX, kind.storage_type))


def survey(
    folder: Path,
    column: pa.Array,
    *,
    facts: dict[str, str] | None = None,
    others: dict[str, pa.Array] | None = None,
    name: str = "image",
    row_group_size: int | None = None,
    file: str = "survey.parquet",
) -> Path:
    """A Parquet file of the image column and others."""
    fields = [pa.field(name, column.type, metadata=facts)]
    fields += [pa.field(key, value.type) for key, value in (others or {}).items()]
    table = pa.table([column, *(others or {}).values()], schema=pa.schema(fields))
    pq.write_table(
        table,
        folder / file,
        row_group_size=row_group_size,
        use_dictionary=False,
        write_page_checksum=True,
    )
    return folder / file


def list_shards(location: Path, query: str = "") -> list[Shard]:
    uri = SurveyUri.parse(f"{location}?{query}" if query else str(location))
    return tables.list_shards(storage.list_files(str(location)), uri)


def read(
    location: Path, query: str = "", *, rows: Sequence[int] | None = None
) -> list[Cutouts | Reject]:
    """Everything that the only shard yields."""
    (shard,) = list_shards(location, query)
    return list(tables.read_shard(shard, rows=rows))


def only(found: list[Cutouts | Reject]) -> Cutouts:
    (cutouts,) = found
    assert isinstance(cutouts, Cutouts)
    return cutouts
