"""How the CATALOG of a run is laid out on storage, as HATS, and how it is handed out.

    catalog/dataset/Norder=k/Dir=m/Npix=n.parquet   rows with a position, by HEALPix pixel
    catalog/dataset/_metadata, _common_metadata     Parquet footers of all partitions, the schema
    catalog/partition_info.csv, skymap.fits         pixels of the partitions; objects per pixel
    catalog/no_position.parquet                     rows without a position, where there are some
    catalog/hats.properties                         written last: the catalog is complete
    catalog/objects.parquet                         alone, where no row has a position

The same rows always make the same bytes; only hats.properties holds a date.
"""

import io
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv

from astroray import faults, schema, sky, storage
from astroray.errors import ConfigError, FileError, LedgerError

ROWS_PER_PIXEL = 1_000_000
FORMATS = ("votable", "fits", "csv")

_FOLDER = "catalog"
_PROPERTIES = "hats.properties"
_OBJECTS = "objects.parquet"
_NO_POSITION = "no_position.parquet"
_PARTITION_INFO = "partition_info.csv"
_SKYMAP = "skymap.fits"
_METADATA = "dataset/_metadata"
_COMMON_METADATA = "dataset/_common_metadata"
_SKYMAP_ORDER = 8  # 14 arcmin: finer than the field of most cameras, and 6 MB for the whole sky
_ROW_GROUP_SIZE = 100_000  # as hats writes it
_ID_SEPARATOR = "|"
_NULL_INTEGER = -1  # every integer column of CATALOG is 0 or larger where it is known


def write_catalog(
    table: pa.Table,
    run_dir: str,
    *,
    name: str,
    created: str,
    properties: Mapping[str, str] | None = None,
    rows_per_pixel: int = ROWS_PER_PIXEL,
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
    if rows_per_pixel < 1:
        raise ConfigError(f"rows_per_pixel is {rows_per_pixel}, expected at least 1")
    table = schema.conform(table, schema.CATALOG, "catalog")
    placed = table.filter(pc.is_valid(table["_healpix_29"]))
    unplaced = table.filter(pc.is_null(table["_healpix_29"]))
    if placed.num_rows == 0:
        _take_down(run_dir, keep=set())
        return [_publish(run_dir, _OBJECTS, _parquet(_sorted(table, "rank"), []))]
    placed = _sorted(placed, "_healpix_29")
    pixels = _pixels(placed["_healpix_29"].to_numpy(), rows_per_pixel)
    keep = {_leaf(order, pixel) for order, pixel, _, _ in pixels} | {_PARTITION_INFO, _SKYMAP}
    _take_down(run_dir, keep=keep | ({_NO_POSITION} if unplaced.num_rows else set()))
    written = _write_dataset(placed, pixels, run_dir)
    if unplaced.num_rows:
        written.append(_publish(run_dir, _NO_POSITION, _parquet(_sorted(unplaced, "rank"), [])))
    fixed = _properties(name, created, placed.num_rows, rows_per_pixel)
    for file, data in _hats_files(placed, pixels, {**(properties or {}), **fixed}):
        written.append(_publish(run_dir, file, data))
    return written


def read_catalog(run_dir: str) -> pa.Table:
    """All rows of the run's catalog, schema.CATALOG, sorted by rank.

    Raises LedgerError where there is no complete catalog or a file of it is damaged.
    """
    parts = [_read_parquet(storage.join(run_dir, file)) for file in catalog_files(run_dir)]
    return _sorted(pa.concat_tables(parts), "rank")


def catalog_files(run_dir: str) -> list[str]:
    """Paths in the run directory of the files that hold the rows of its complete catalog.

    Raises LedgerError where there is none.
    """
    folder = storage.join(run_dir, _FOLDER)
    if storage.exists(storage.join(folder, _PROPERTIES)):
        files = _partitions(storage.join(folder, _PARTITION_INFO))
        if storage.exists(storage.join(folder, _NO_POSITION)):
            files.append(_NO_POSITION)
    elif storage.exists(storage.join(folder, _OBJECTS)):
        files = [_OBJECTS]
    else:
        raise LedgerError(
            f"no complete catalog in {folder}: neither {_PROPERTIES} nor {_OBJECTS} is there; "
            "let the run finish, or start it again to write what is left"
        )
    return [f"{_FOLDER}/{file}" for file in files]


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


def _take_down(run_dir: str, *, keep: set[str]) -> None:
    """Removes the completing files first, then all that is not in `keep`."""
    folder = storage.join(run_dir, _FOLDER)
    for mark in (_PROPERTIES, _OBJECTS):
        storage.delete(storage.join(folder, mark))
    for file in storage.list_files(folder):
        if file.path.rpartition(f"/{_FOLDER}/")[2] not in keep:
            storage.delete(file.path)
    for hidden in (_METADATA, _COMMON_METADATA):  # a listing leaves out their underscores
        storage.delete(storage.join(folder, hidden))


def _pixels(healpix_29_N: np.ndarray, rows_per_pixel: int) -> list[tuple[int, int, int, int]]:
    """Order, pixel, first and last row + 1 of each partition, in order of the sky curve.

    healpix_29_N  [N]  sorted. A pixel is split only while it has too many rows, so a partition
    is the largest pixel that fits. (hats.pixel_math walks a dense map of the whole sky instead.)
    """
    found = []
    todo = [(0, pixel) for pixel in reversed(range(12))]
    while todo:
        order, pixel = todo.pop()
        width = 1 << (2 * (sky.HATS_ORDER - order))
        start, stop = np.searchsorted(healpix_29_N, [pixel * width, (pixel + 1) * width])
        if stop - start > rows_per_pixel and order < sky.HATS_ORDER:
            todo += [(order + 1, 4 * pixel + child) for child in (3, 2, 1, 0)]
        elif stop > start:
            found.append((order, pixel, int(start), int(stop)))
    return found


def _write_dataset(
    placed: pa.Table, pixels: list[tuple[int, int, int, int]], run_dir: str
) -> list[str]:
    """The partitions, then the two files that join their footers."""
    written = []
    footers: list[pq.FileMetaData] = []
    for order, pixel, start, stop in pixels:
        leaf = _leaf(order, pixel)
        data = _parquet(placed.slice(start, stop - start), footers)
        footers[-1].set_file_path(leaf.removeprefix("dataset/"))
        written.append(_publish(run_dir, leaf, data))
    for file, collector in ((_METADATA, footers), (_COMMON_METADATA, None)):
        sink = io.BytesIO()
        pq.write_metadata(schema.CATALOG, sink, metadata_collector=collector)
        written.append(_publish(run_dir, file, sink.getvalue()))
    return written


def _hats_files(
    placed: pa.Table, pixels: list[tuple[int, int, int, int]], properties: Mapping[str, object]
) -> Iterator[tuple[str, bytes]]:
    """Name and content of the files that hats itself writes; hats.properties is the last."""
    # Here rather than above: hats takes seconds to import, and only the end of a run needs it.
    from hats.catalog.dataset.table_properties import TableProperties
    from hats.catalog.partition_info import PartitionInfo
    from hats.io.skymap import write_skymap
    from hats.pixel_math.healpix_pixel import HealpixPixel

    partitions = PartitionInfo([HealpixPixel(order, pixel) for order, pixel, _, _ in pixels])
    skymap = np.bincount(
        sky.parent_pixel(placed["_healpix_29"].to_numpy(), _SKYMAP_ORDER),
        minlength=12 * 4**_SKYMAP_ORDER,
    )
    with tempfile.TemporaryDirectory(prefix="astroray-") as folder:
        partitions.write_to_file(catalog_path=folder)
        write_skymap(skymap, folder)
        TableProperties.model_validate(properties).to_properties_file(folder)
        for file in (_PARTITION_INFO, _SKYMAP, _PROPERTIES):
            yield file, Path(folder, file).read_bytes()


def _properties(name: str, created: str, num_rows: int, rows_per_pixel: int) -> dict[str, object]:
    return {
        "obs_collection": name,
        "dataproduct_type": "object",
        "hats_nrows": num_rows,
        "hats_col_ra": "ra",
        "hats_col_dec": "dec",
        "hats_col_healpix": "_healpix_29",
        "hats_col_healpix_order": sky.HATS_ORDER,
        "hats_npix_suffix": ".parquet",
        "hats_skymap_order": _SKYMAP_ORDER,
        "hats_max_rows": rows_per_pixel,
        "hats_creation_date": created,
        "hats_builder": "astroray",
        "hats_version": "v1.0",
    }


def _leaf(order: int, pixel: int) -> str:
    return f"dataset/Norder={order}/Dir={pixel // 10_000 * 10_000}/Npix={pixel}.parquet"


def _sorted(table: pa.Table, by: str) -> pa.Table:
    """Rows in order of `by`, ties by object_id, shard and row: one order for one set of rows."""
    keys = [(key, "ascending") for key in (by, "object_id", "shard", "row")]
    return table.sort_by(keys).combine_chunks()  # chunks would show in the bytes of the file


def _parquet(table: pa.Table, footers: list[pq.FileMetaData]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(
        table,
        sink,
        compression="zstd",
        compression_level=3,
        row_group_size=_ROW_GROUP_SIZE,
        write_page_checksum=True,
        metadata_collector=footers,
    )
    return sink.getvalue()


def _publish(run_dir: str, file: str, data: bytes) -> str:
    path = storage.join(run_dir, _FOLDER, file)
    storage.publish(path, data)
    faults.reach("search.file", file)
    return path


def _partitions(path: str) -> list[str]:
    """Files of the partitions that partition_info.csv names."""
    try:
        info = csv.read_csv(io.BytesIO(storage.read_bytes(path)))
        pixels = zip(info["Norder"].to_pylist(), info["Npix"].to_pylist(), strict=True)
    except (pa.ArrowInvalid, KeyError, FileError) as error:
        raise LedgerError(
            f"{path} is damaged or missing ({error}), expected columns Norder and Npix; "
            "run the scan again to write the catalog anew"
        ) from error
    return [_leaf(order, pixel) for order, pixel in pixels]


def _read_parquet(path: str) -> pa.Table:
    try:
        table = pq.read_table(io.BytesIO(storage.read_bytes(path)), page_checksum_verification=True)
    except (pa.ArrowInvalid, OSError, FileError) as error:
        raise LedgerError(
            f"{path} is damaged or missing ({error}); run the scan again to write the catalog anew"
        ) from error
    return schema.conform(table, schema.CATALOG, "catalog")


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
