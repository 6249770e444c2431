"""Which file of a HATS catalog holds which rows, and what joins the files once they stand.

    catalog/dataset/Norder=k/Dir=m/Npix=n.parquet   rows with a position, by HEALPix pixel
    catalog/dataset/_metadata, _common_metadata     Parquet footers of all partitions, the schema
    catalog/partition_info.csv, skymap.fits         pixels of the partitions; objects per pixel
    catalog/no_position.parquet                     rows without a position, where there are some
    catalog/hats.properties                         written last: the catalog is complete
    catalog/objects.parquet                         alone, where no row has a position

Nothing here needs the rows of more than one row group at a time, and each file can be written by
itself. The same rows always make the same bytes; only hats.properties holds a date.
"""

import dataclasses
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from astroray import faults, schema, sky, storage
from astroray.errors import ConfigError
from astroray.storage.disk_errors import writing

__all__ = ["CatalogFile", "divide_sky", "join_files", "take_down", "write_rows"]

FOLDER = "catalog"
PROPERTIES = "hats.properties"
OBJECTS = "objects.parquet"
NO_POSITION = "no_position.parquet"
PARTITION_INFO = "partition_info.csv"
ROWS_PER_PIXEL = 1_000_000
ROW_GROUP_SIZE = 100_000  # as hats writes it
_OPTIONS: Mapping[str, Any] = {
    "compression": "zstd",
    "compression_level": 3,
    "write_page_checksum": True,
    # Of names and measurements a dictionary would take more room than they do, and longer.
    "use_dictionary": ["shard", "model_id", "score_kind", "processing_flags"],
}

_SKYMAP = "skymap.fits"
_METADATA = "dataset/_metadata"
_COMMON_METADATA = "dataset/_common_metadata"
_SKYMAP_ORDER = 8  # 14 arcmin: finer than the field of most cameras, and 6 MB for the whole sky


@dataclasses.dataclass(frozen=True, kw_only=True)
class CatalogFile:
    """A file of rows of a catalog."""

    name: str
    """In the folder of the catalog."""
    start: int
    stop: int
    """Its rows: those with a position in order of the sky curve, then the others by rank."""
    pixel: tuple[int, int] | None = None
    """HEALPix order and pixel; None for rows without a position."""

    @property
    def row_groups(self) -> list[slice]:
        """Its rows as they are written, ROW_GROUP_SIZE at a time; one of none where it has none."""
        starts = range(self.start, max(self.stop, self.start + 1), ROW_GROUP_SIZE)
        return [slice(start, min(start + ROW_GROUP_SIZE, self.stop)) for start in starts]


def divide_sky(
    healpix_29_P: np.ndarray, num_rows: int, *, rows_per_pixel: int = ROWS_PER_PIXEL
) -> list[CatalogFile]:
    """The files of a catalog of `num_rows` rows, in the order of their rows; at least one.

    healpix_29_P  [P]  of the rows with a position, sorted

    A pixel is split only while it has too many rows, so a partition is the largest pixel that
    fits. (hats.pixel_math walks a dense map of the whole sky instead.) Raises ConfigError on
    rows_per_pixel below 1.
    """
    if rows_per_pixel < 1:
        raise ConfigError(f"rows_per_pixel is {rows_per_pixel}, expected at least 1")
    files = []
    todo = [(0, pixel) for pixel in reversed(range(12))]
    while todo:
        order, pixel = todo.pop()
        width = 1 << (2 * (sky.HATS_ORDER - order))
        start, stop = np.searchsorted(healpix_29_P, [pixel * width, (pixel + 1) * width]).tolist()
        if stop - start > rows_per_pixel and order < sky.HATS_ORDER:
            todo += [(order + 1, 4 * pixel + child) for child in (3, 2, 1, 0)]
        elif stop > start:
            name = leaf_name(order, pixel)
            files.append(CatalogFile(name=name, start=start, stop=stop, pixel=(order, pixel)))
    num_placed = len(healpix_29_P)
    if num_placed < num_rows or not files:
        name = NO_POSITION if files else OBJECTS
        files.append(CatalogFile(name=name, start=num_placed, stop=num_rows))
    return files


def leaf_name(order: int, pixel: int) -> str:
    """Where the rows of a pixel stand in the folder of the catalog."""
    return f"dataset/Norder={order}/Dir={pixel // 10_000 * 10_000}/Npix={pixel}.parquet"


def take_down(run_dir: str, files: Sequence[CatalogFile]) -> None:
    """Removes an earlier catalog: its completing file first, then all that `files` do not replace.

    A write that was killed leaves no completing file and is repaired by writing again.
    """
    folder = storage.join(run_dir, FOLDER)
    for mark in (PROPERTIES, OBJECTS):
        storage.delete(storage.join(folder, mark))
    keep = {file.name for file in files}
    if files[0].pixel:
        keep |= {PARTITION_INFO, _SKYMAP}
    for found in storage.list_files(folder):
        if found.path.rpartition(f"/{FOLDER}/")[2] not in keep:
            storage.delete(found.path)
    for hidden in (_METADATA, _COMMON_METADATA):  # a listing leaves out their underscores
        storage.delete(storage.join(folder, hidden))


def write_rows(run_dir: str, file: CatalogFile, pieces: Iterable[pa.Table]) -> pq.FileMetaData:
    """Publishes the rows of one file, schema.CATALOG, and returns its footer.

    pieces  ROW_GROUP_SIZE rows each, but the last; at least one
    """
    path = storage.join(run_dir, FOLDER, file.name)
    footers: list[pq.FileMetaData] = []
    with (
        storage.publishing(path) as sink,
        pq.ParquetWriter(sink, schema.CATALOG, metadata_collector=footers, **_OPTIONS) as writer,
    ):
        for piece in pieces:  # chunks would show in the bytes of the file
            writer.write_table(piece.combine_chunks(), row_group_size=ROW_GROUP_SIZE)
    faults.reach("search.file", file.name)
    footers[0].set_file_path(file.name.removeprefix("dataset/"))
    return footers[0]


def join_files(
    run_dir: str,
    files: Sequence[CatalogFile],
    footers: Sequence[pq.FileMetaData],
    healpix_29_P: np.ndarray,
    *,
    name: str,
    created: str,
    rows_per_pixel: int = ROWS_PER_PIXEL,
) -> list[str]:
    """Publishes what joins the files of a catalog, the completing one last; returns their paths.

    footers       of `files`, in their order
    healpix_29_P  [P]  of the rows with a position, in any order

    Where no row has a position there is nothing to join: objects.parquet completes the catalog.
    """
    leaves = [(file, footer) for file, footer in zip(files, footers, strict=True) if file.pixel]
    if not leaves:
        return []
    properties = _properties(name, created, len(healpix_29_P), rows_per_pixel)
    merged = [
        *_merged([footer for _, footer in leaves]),
        *_hats_files([file for file, _ in leaves], healpix_29_P, properties),
    ]
    return [_publish(run_dir, file, data) for file, data in merged]


def _merged(footers: Sequence[pq.FileMetaData]) -> Iterator[tuple[str, bytes]]:
    """The two files that join the footers."""
    for file, collector in ((_METADATA, list(footers)), (_COMMON_METADATA, None)):
        sink = io.BytesIO()
        pq.write_metadata(schema.CATALOG, sink, metadata_collector=collector)
        yield file, sink.getvalue()


def _hats_files(
    leaves: Sequence[CatalogFile], healpix_29_P: np.ndarray, properties: Mapping[str, object]
) -> Iterator[tuple[str, bytes]]:
    """Name and content of the files that hats itself writes; hats.properties is the last."""
    # Here rather than above: hats takes seconds to import, and only the end of a run needs it.
    from hats.catalog.dataset.table_properties import TableProperties
    from hats.catalog.partition_info import PartitionInfo
    from hats.io.skymap import write_skymap
    from hats.pixel_math.healpix_pixel import HealpixPixel

    partitions = PartitionInfo([HealpixPixel(*leaf.pixel) for leaf in leaves if leaf.pixel])
    skymap = np.bincount(
        sky.parent_pixel(healpix_29_P, _SKYMAP_ORDER), minlength=12 * 4**_SKYMAP_ORDER
    )
    with storage.scratch_folder() as folder, writing(str(folder), place=storage.TEMPORARY_PLACE):
        partitions.write_to_file(catalog_path=folder)
        write_skymap(skymap, folder)
        TableProperties.model_validate(properties).to_properties_file(folder)
        for file in (PARTITION_INFO, _SKYMAP, PROPERTIES):
            yield file, (folder / file).read_bytes()


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


def _publish(run_dir: str, file: str, data: bytes) -> str:
    path = storage.join(run_dir, FOLDER, file)
    storage.publish(path, data)
    faults.reach("search.file", file)
    return path
