"""The CATALOG of a run as rows: written as HATS in order, read whole or a row group at a time.

`pixels` says how it lies on storage.
"""

import contextlib
import dataclasses
import functools
import io
from collections.abc import Callable, Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from astroray import schema, storage
from astroray.catalog import pixels
from astroray.catalog.ordering import order_rows, sort_rows
from astroray.errors import FileError, LedgerError
from astroray.storage.parquet import read_parquet


def write_catalog(
    rows: pa.Table | Iterable[pa.Table],
    run_dir: str,
    *,
    name: str,
    created: str,
    rows_per_pixel: int = pixels.ROWS_PER_PIXEL,
) -> list[str]:
    """Writes `rows` as the run's catalog and returns the paths written, the completing one last.

    rows            schema.CATALOG, any order of rows; whole or in pieces, which are put in order
                    on disk, so that a piece and a row group are held, and a number of each row
    name            name of the catalog in HATS
    created         date of creation, UTC, ISO 8601; it is written to hats.properties alone
    rows_per_pixel  a pixel with more rows is split in four

    An earlier catalog of the run is taken down first: its completing file, then every file that
    the new one does not have. A write that was killed leaves no completing file and is repaired
    by writing again. Without any position (or any row) there is objects.parquet only.

    Raises SchemaError on other columns, ConfigError on rows_per_pixel below 1.
    """
    pieces = [rows] if isinstance(rows, pa.Table) else rows
    with order_rows(pieces, rows_per_pixel=rows_per_pixel) as ordered:
        pixels.take_down(run_dir, ordered.files)
        footers = [pixels.write_rows(run_dir, file, ordered.groups(file)) for file in ordered.files]
    joined = pixels.join_files(
        run_dir, ordered.files, footers, ordered.healpix_29_P, name=name, created=created,
        rows_per_pixel=rows_per_pixel,
    )  # fmt: skip
    return [*(storage.join(run_dir, pixels.FOLDER, file.name) for file in ordered.files), *joined]


def read_catalog(run_dir: str) -> pa.Table:
    """All rows of the run's catalog, schema.CATALOG, sorted by rank.

    Raises LedgerError where there is no complete catalog or a file of it is damaged.
    """
    parts = [_read_parquet(storage.join(run_dir, file)) for file in catalog_files(run_dir)]
    return sort_rows(pa.concat_tables(parts), "rank")


@dataclasses.dataclass(frozen=True)
class Piece:
    """Some rows of a catalog that are read when they are asked for."""

    read: Callable[[Sequence[str]], pa.Table]
    """Some columns of them, in the order given."""


def read_pieces(run_dir: str, files: Sequence[str] | None = None) -> Iterator[Piece]:
    """The rows of the run's complete catalog, a row group at a time, in the order of its files.

    files  paths in the run directory, of `catalog_files`, where not all are wanted

    A piece is to be read before the next one is asked for. Raises LedgerError where there is no
    complete catalog or a file of it is damaged, SchemaError where one has other columns.
    """
    for name in catalog_files(run_dir) if files is None else files:
        path = storage.join(run_dir, name)
        with (
            _damage(path),
            storage.local_copy(path) as local,
            pq.ParquetFile(local, memory_map=True, page_checksum_verification=True) as file,
        ):
            schema.conform(file.schema_arrow.empty_table(), schema.CATALOG, "catalog")
            for group in range(file.num_row_groups):
                yield Piece(functools.partial(_read_group, path, file, group))


def _read_group(path: str, file: pq.ParquetFile, group: int, columns: Sequence[str]) -> pa.Table:
    with _damage(path):
        return file.read_row_group(group, columns=list(columns)).select(list(columns))


def catalog_files(run_dir: str) -> list[str]:
    """Paths in the run directory of the files that hold the rows of its complete catalog.

    Raises LedgerError where there is none.
    """
    folder = storage.join(run_dir, pixels.FOLDER)
    if storage.exists(storage.join(folder, pixels.PROPERTIES)):
        files = _partitions(storage.join(folder, pixels.PARTITION_INFO))
        if storage.exists(storage.join(folder, pixels.NO_POSITION)):
            files.append(pixels.NO_POSITION)
    elif storage.exists(storage.join(folder, pixels.OBJECTS)):
        files = [pixels.OBJECTS]
    else:
        raise LedgerError(
            f"no complete catalog in {folder}: neither {pixels.PROPERTIES} nor {pixels.OBJECTS} is "
            "there; if the version was pruned, name the one that was kept, else let the run "
            "finish, or start it again to write what is left"
        )
    return [f"{pixels.FOLDER}/{file}" for file in files]


def _partitions(path: str) -> list[str]:
    """Files of the partitions that partition_info.csv names."""
    try:
        info = csv.read_csv(io.BytesIO(storage.read_bytes(path)))
        found = zip(info["Norder"].to_pylist(), info["Npix"].to_pylist(), strict=True)
    except (pa.ArrowInvalid, KeyError, FileError) as error:
        raise LedgerError(
            f"{path} is damaged or missing ({error}), expected columns Norder and Npix; "
            "run the scan again to write the catalog anew"
        ) from error
    return [pixels.leaf_name(order, pixel) for order, pixel in found]


def _read_parquet(path: str) -> pa.Table:
    with _damage(path):
        table = read_parquet(storage.read_bytes(path))
    return schema.conform(table, schema.CATALOG, "catalog")


@contextlib.contextmanager
def _damage(path: str) -> Iterator[None]:
    """Raises LedgerError where a file of the catalog cannot be read."""
    try:
        yield
    except (pa.ArrowInvalid, OSError, FileError) as error:
        raise LedgerError(
            f"{path} is damaged or missing ({error}); run the scan again to write the catalog anew"
        ) from error
