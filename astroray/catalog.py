"""The CATALOG of a run as one table: written as HATS, read, and handed out in other formats.

`pixels` says how it lies on storage.
"""

import contextlib
import dataclasses
import functools
import io
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv

from astroray import pixels, schema, storage
from astroray.errors import ConfigError, FileError, LedgerError
from astroray.parquet import read_parquet
from astroray.pixels import CatalogFile

FORMATS = ("votable", "fits", "csv")

_ID_SEPARATOR = "|"
_NULL_INTEGER = -1  # every integer column of CATALOG is 0 or larger where it is known


def write_catalog(
    table: pa.Table,
    run_dir: str,
    *,
    name: str,
    created: str,
    properties: Mapping[str, str] | None = None,
    rows_per_pixel: int = pixels.ROWS_PER_PIXEL,
) -> list[str]:
    """Writes `table` as the run's catalog and returns the paths written, the completing one last.

    table           schema.CATALOG, any order of rows
    name            name of the catalog in HATS
    created         date of creation, UTC, ISO 8601; it is written to hats.properties alone
    properties      more lines for hats.properties, such as obs_description
    rows_per_pixel  a pixel with more rows is split in four

    An earlier catalog of the run is taken down first: its completing file, then every file that
    the new one does not have. A write that was killed leaves no completing file and is repaired
    by writing again. Without any position (or any row) there is objects.parquet only.

    Raises SchemaError on other columns, ConfigError on rows_per_pixel below 1.
    """
    table = schema.conform(table, schema.CATALOG, "catalog")
    placed = _sorted(table.filter(pc.is_valid(table["_healpix_29"])), "_healpix_29")
    unplaced = _sorted(table.filter(pc.is_null(table["_healpix_29"])), "rank")
    healpix_29_P = placed["_healpix_29"].to_numpy()
    files = pixels.divide_sky(healpix_29_P, len(table), rows_per_pixel=rows_per_pixel)
    rows = pa.concat_tables([placed, unplaced])
    pixels.take_down(run_dir, files)
    footers = [pixels.write_rows(run_dir, file, _pieces(rows, file)) for file in files]
    joined = pixels.join_files(
        run_dir, files, footers, healpix_29_P, name=name, created=created,
        properties=properties, rows_per_pixel=rows_per_pixel,
    )  # fmt: skip
    return [*(storage.join(run_dir, pixels.FOLDER, file.name) for file in files), *joined]


def read_catalog(run_dir: str) -> pa.Table:
    """All rows of the run's catalog, schema.CATALOG, sorted by rank.

    Raises LedgerError where there is no complete catalog or a file of it is damaged.
    """
    parts = [_read_parquet(storage.join(run_dir, file)) for file in catalog_files(run_dir)]
    return _sorted(pa.concat_tables(parts), "rank")


@dataclasses.dataclass(frozen=True)
class Piece:
    """Some rows of a catalog that are read when they are asked for."""

    read: Callable[[Sequence[str]], pa.Table]
    """Some columns of them, in the order given."""


def read_pieces(run_dir: str) -> Iterator[Piece]:
    """The rows of the run's complete catalog, a row group at a time, in the order of its files.

    Raises LedgerError where there is no complete catalog or a file of it is damaged.
    """
    for name in catalog_files(run_dir):
        path = storage.join(run_dir, name)
        with _damage(path), storage.local_copy(path) as local:
            file = pq.ParquetFile(local, memory_map=True, page_checksum_verification=True)
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
            "there; let the run finish, or start it again to write what is left"
        )
    return [f"{pixels.FOLDER}/{file}" for file in files]


def export_catalog(
    run_dir: str, *, format: str, out: str, overwrite: bool = False, rows: pa.Table | None = None
) -> int:
    """Writes the run's catalog as one file for other tools; returns the number of rows.

    rows    other rows than those of `read_catalog`, of CATALOG or another table of `schema`
    format  votable  units, UCDs and descriptions in the fields; astropy writes it row by row, so
                     for millions of rows one of the others is the better choice
            fits     units, comments and UCDs in TUNITn, TCOMMn, TUCDn
            csv      plain, one header line; units are in the other two

    neighbor_id is one string, ids joined by '|'; neighbor_distance is an array of fixed length,
    NaN beyond the neighbors of an object (csv: columns neighbor_distance_1, _2, ..., empty
    beyond). Unknown positions and scores are NaN, unknown integers masked (csv: empty).

    Raises ConfigError on another format, on a file that is there and may not be overwritten, and
    on FITS text that is not ASCII; LedgerError where there is no catalog.
    """
    if format not in FORMATS:
        raise ConfigError(f"export format is {format!r}, expected one of {', '.join(FORMATS)}")
    if not overwrite and storage.exists(out):
        raise ConfigError(f"{out} is already there; choose another name or overwrite it")
    table = read_catalog(run_dir) if rows is None else rows
    if format == "csv":
        data = _csv(table)
    else:
        data = _votable(table) if format == "votable" else _fits(table)
    storage.publish(out, data)
    return table.num_rows


def _pieces(rows: pa.Table, file: CatalogFile) -> Iterator[pa.Table]:
    """The rows of a file, a row group at a time; one that is empty where there is none."""
    for start in range(file.start, max(file.stop, file.start + 1), pixels.ROW_GROUP_SIZE):
        yield rows.slice(start, min(pixels.ROW_GROUP_SIZE, file.stop - start))


def _sorted(table: pa.Table, by: str) -> pa.Table:
    """Rows in order of `by`, ties by object_id, shard and row: one order for one set of rows."""
    keys = [(key, "ascending") for key in (by, "object_id", "shard", "row")]
    return table.sort_by(keys).combine_chunks()  # chunks would show in the bytes of the file


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


def _distances(table: pa.Table) -> np.ndarray:
    """neighbor_distance as float64 [N, K], NaN beyond the neighbors of an object."""
    lists = table["neighbor_distance"].combine_chunks()
    length_N = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    slots_K = np.arange(length_N.max(initial=1))  # FITS and VOTable know no array of no length
    distance_NK = np.full((len(length_N), len(slots_K)), np.nan)
    distance_NK[slots_K < length_N[:, None]] = pc.list_flatten(lists).to_numpy(zero_copy_only=False)
    return distance_NK


def _csv(table: pa.Table) -> bytes:
    columns = {}
    for name in table.column_names:
        if name == "neighbor_id":
            columns[name] = pc.binary_join(table[name], _ID_SEPARATOR)
        elif name == "neighbor_distance":
            for k, distance_N in enumerate(_distances(table).T, start=1):
                columns[f"{name}_{k}"] = pa.array(distance_N, from_pandas=True)
        else:
            columns[name] = table[name]
    sink = io.BytesIO()
    csv.write_csv(pa.table(columns), sink)
    return sink.getvalue()


def _votable(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    to_astropy(table).write(sink, format="votable", tabledata_format="binary2")
    return sink.getvalue()


def _fits(table: pa.Table) -> bytes:
    from astropy.io import fits

    columns = to_astropy(table)
    try:
        hdu = fits.table_to_hdu(columns)
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"FITS tables hold ASCII text only, got {error.object!r}; export votable or csv"
        ) from None
    hdu.name = "CATALOG"
    for number, name in enumerate(columns.colnames, start=1):
        hdu.header[f"TCOMM{number}"] = columns[name].description
        hdu.header[f"TUCD{number}"] = columns[name].meta["ucd"]
    sink = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(sink)
    return sink.getvalue()


def to_astropy(table: pa.Table):  # type: ignore[no-untyped-def] # astropy has no types
    """A table of `schema` as an astropy Table, with unit, description and UCD of every column."""
    from astropy.table import Column, MaskedColumn, Table

    columns = Table()
    for field in table.schema:
        facts = {key.decode(): value.decode() for key, value in field.metadata.items()}
        values, mask_N = _values(table, field)
        kind = Column if mask_N is None else MaskedColumn
        column = kind(
            values,
            name=field.name,
            unit=facts["unit"] or None,
            description=facts["doc"],
            meta={"ucd": facts["ucd"]},
        )
        if mask_N is not None:
            column.mask, column.fill_value = mask_N, _NULL_INTEGER
        columns[field.name] = column
    return columns


def _values(table: pa.Table, field: pa.Field) -> tuple[np.ndarray, np.ndarray | None]:
    """Values of one column, and which are unknown where NaN and the empty text cannot say it."""
    values = table[field.name]
    if field.name == "neighbor_distance":
        return _distances(table), None
    if field.name == "neighbor_id":
        values = pc.binary_join(values, _ID_SEPARATOR)
    if pa.types.is_string(values.type):
        return np.array(pc.fill_null(values, "").to_pylist(), dtype=np.str_), None
    if pa.types.is_floating(values.type):
        return values.to_numpy(), None
    mask_N = pc.is_null(values).to_numpy()
    filled = pc.fill_null(values, False if pa.types.is_boolean(values.type) else _NULL_INTEGER)
    return filled.to_numpy(), mask_N if mask_N.any() else None
