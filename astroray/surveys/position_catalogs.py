"""Which objects a catalog has and where, read a part at a time, near one image or everywhere."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from astroray import storage
from astroray.errors import ConfigError, DataError
from astroray.surveys.hats_catalogs import find_pixel, is_hats, list_files, open_hats
from astroray.surveys.object_tables import ObjectTable, TableOptions
from astroray.surveys.objects import Objects
from astroray.surveys.parquet_columns import (
    ParquetOptions,
    PlaceColumns,
    PositionRange,
    choose_places,
    degrees,
    read_group,
    read_spans,
)
from astroray.surveys.parquet_files import BAD_PARQUET, SUFFIXES, open_parquet
from astroray.surveys.positions import check_angles
from astroray.surveys.sky_grids import SkyGrid
from astroray.surveys.survey_paths import table_paths
from astroray.surveys.table_columns import Column, open_columns, texts

__all__ = ["CatalogColumns", "CatalogFiles", "CatalogPart", "find_catalog", "read_catalog"]

_TABLES = (*SUFFIXES, ".csv", ".csv.gz", ".tsv", ".txt", ".fits", ".fit", ".fits.gz", ".xml",
           ".vot", ".votable", ".ecsv")  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class CatalogColumns:
    """Which columns hold identifiers and positions; well-known names are tried where empty."""

    id: str = ""
    ra: str = ""
    dec: str = ""
    angles: str = ""
    """deg or rad, where the catalog states no unit."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CatalogPart:
    """Some rows of one file, in its order.

    row_N              [N]  row of the file, from 0
    object_id_N        [N]  the catalog's own, else `<file>:<row>`
    ra_deg_N, dec_deg_N  [N]  ICRS; NaN together where there is no possible position
    """

    path: str
    row_N: np.ndarray
    object_id_N: Sequence[str]
    ra_deg_N: np.ndarray
    dec_deg_N: np.ndarray

    def take(self, index: np.ndarray) -> "CatalogPart":
        """Some of its rows."""
        return CatalogPart(
            path=self.path,
            row_N=self.row_N[index],
            object_id_N=[self.object_id_N[i] for i in np.arange(len(self.row_N))[index]],
            ra_deg_N=self.ra_deg_N[index],
            dec_deg_N=self.dec_deg_N[index],
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CatalogFiles:
    """Where a catalog is."""

    files: Sequence[storage.InputFile]
    columns: CatalogColumns
    """The columns that the user named, else those that the properties of a HATS catalog name."""
    num_in_hats: int
    """Rows that HATS catalogs among them state."""


def find_catalog(location: str, names: str, columns: CatalogColumns) -> CatalogFiles:
    """The files of the catalog of the survey at `location`.

    names  paths with commas between, relative to the survey's folder: a table, a folder or glob of
           them, or a HATS catalog or collection

    Raises ConfigError where one is missing or holds no table.
    """
    check_angles(columns.angles)
    files: list[storage.InputFile] = []
    num_in_hats = 0
    for path in table_paths(location, names):
        try:
            found = list_files(path)
        except DataError as error:
            raise ConfigError(f"catalog {path} cannot be listed: {error}") from None
        hats = open_hats(path, found) if is_hats(path) else None
        if hats is not None:
            own = list(hats.partitions)
            named = {"ra": columns.ra or hats.ra, "dec": columns.dec or hats.dec}
            columns = dataclasses.replace(columns, **named)
            num_in_hats += hats.num_rows
        else:
            own = [file for file in found if file.path.lower().endswith(_TABLES)]
        if not own:
            raise ConfigError(
                f"catalog {path} is missing or no table, expected one of {', '.join(_TABLES)}, a "
                "folder of them or a HATS catalog; give its path from the survey's folder, or a "
                "whole path"
            )
        files += own
    return CatalogFiles(files=files, columns=columns, num_in_hats=num_in_hats)


def read_catalog(
    file: storage.InputFile, columns: CatalogColumns, *, near: SkyGrid | None = None
) -> Iterator[CatalogPart]:
    """The objects of one file of a catalog, or at least all those within the circle of `near`.

    Of Parquet a part is what one batch holds, and row groups that are elsewhere are left out.
    Raises ConfigError where the file cannot be read or has no positions.
    """
    parts = _read_parquet(file, columns, near) if _is_parquet(file.path) else None
    if parts is None:
        parts = iter([_read_table(file, columns)])
    for part in parts:
        yield part if near is None else part.take(_is_near(near, part.ra_deg_N, part.dec_deg_N))


def _no_positions(path: str) -> str:
    return (
        f"catalog {path} has no positions, expected columns such as ra and dec, ICRS, degrees; "
        "name them with ra= and dec="
    )


def _is_parquet(path: str) -> bool:
    return path.lower().endswith(SUFFIXES)


@functools.lru_cache(maxsize=4)
def _read_table(file: storage.InputFile, columns: CatalogColumns) -> CatalogPart:
    """A whole table; the last ones are kept, since the next image asks for them too."""
    options = TableOptions(table=file.path, **dataclasses.asdict(columns))
    try:
        with storage.local_copy(file.path) as local:
            table = ObjectTable.of(open_columns(file.path, local), options, file.path)
            objects = table.read().objects if table else Objects.unknown(0)
    except DataError as error:
        raise ConfigError(f"catalog cannot be read: {error}") from None
    if not np.isfinite(objects.ra_deg_N).any():
        raise ConfigError(_no_positions(file.path))
    row_N = np.arange(len(objects.ra_deg_N))
    return CatalogPart(
        path=file.path,
        row_N=row_N,
        object_id_N=_named(objects.object_id_N, row_N, file.path),
        ra_deg_N=objects.ra_deg_N,
        dec_deg_N=objects.dec_deg_N,
    )


def _read_parquet(
    file: storage.InputFile, columns: CatalogColumns, near: SkyGrid | None
) -> Iterator[CatalogPart] | None:
    """Parts of a Parquet file; None where its positions are text, which the other way reads."""
    places = _places(file, columns)
    return None if places is None else _parts(file, places, near)


@functools.lru_cache(maxsize=256)
def _places(file: storage.InputFile, columns: CatalogColumns) -> PlaceColumns | None:
    options = ParquetOptions(**dataclasses.asdict(columns))
    with _opened(file.path) as parquet:
        kinds = {field.name: field.type for field in parquet.schema_arrow}
        asked = [kinds[name] for name in (columns.ra, columns.dec) if name in kinds]
        if any(pa.types.is_string(kind) or pa.types.is_large_string(kind) for kind in asked):
            return None
        places = choose_places(parquet, options, file.path)
        covered = PositionRange()
        covered.add(parquet, places, file.path)
        covered.check()
    return places if places.ra else None


def _parts(
    file: storage.InputFile, places: PlaceColumns, near: SkyGrid | None
) -> Iterator[CatalogPart]:
    names = [name for name in (places.ra, places.dec, places.object_id) if name]
    with _opened(file.path) as parquet:
        start = 0
        for group in range(parquet.num_row_groups):
            stop = start + parquet.metadata.row_group(group).num_rows
            if near is None or _may_hold(_spans(file, places)[group], near):
                row = start
                for batch in read_group(parquet, group, names):
                    yield _part(batch, row, file.path, places, near)
                    row += batch.num_rows
                if row != stop:
                    raise ValueError(f"row group {group} ends early")
            start = stop


@functools.lru_cache(maxsize=256)
def _spans(file: storage.InputFile, places: PlaceColumns) -> np.ndarray:
    """[G, 2, 2] as `read_spans`; kept, since the next image asks for them too."""
    with _opened(file.path) as parquet:
        return np.array(list(read_spans(parquet, places)))


@contextlib.contextmanager
def _opened(path: str) -> Iterator[pq.ParquetFile]:
    try:
        with open_parquet(path) as parquet:
            yield parquet
    except DataError as error:
        raise ConfigError(f"catalog cannot be read: {error}") from None
    except BAD_PARQUET as error:
        raise ConfigError(
            f"catalog {path} is not a whole Parquet file ({error}); copy or write it again"
        ) from None


def _part(
    batch: pa.RecordBatch, start: int, path: str, places: PlaceColumns, near: SkyGrid | None
) -> CatalogPart:
    ra_deg_N, dec_deg_N = degrees(batch, places)
    is_sky_N = (ra_deg_N >= -180) & (ra_deg_N <= 360) & (np.abs(dec_deg_N) <= 90)
    ra_deg_N = np.where(is_sky_N, ra_deg_N, np.nan) % 360.0
    dec_deg_N = np.where(is_sky_N, dec_deg_N, np.nan)
    row_N = np.arange(batch.num_rows)
    if near is not None:
        row_N = row_N[_is_near(near, ra_deg_N, dec_deg_N)]
    names: Sequence[str | None] = [None] * len(row_N)
    if places.object_id:
        own = batch.column(places.object_id).take(pa.array(row_N))
        names = texts(Column(values=own), f"column {places.object_id!r} of {path}")
    return CatalogPart(
        path=path,
        row_N=start + row_N,
        object_id_N=_named(names, start + row_N, path),
        ra_deg_N=ra_deg_N[row_N],
        dec_deg_N=dec_deg_N[row_N],
    )


def _named(names: Sequence[str | None], row_N: np.ndarray, path: str) -> list[str]:
    """Identifiers; rows without one are called by file and row, of HATS by the partition."""
    if all(names):
        return [name for name in names if name]
    file = storage.stem(path)
    if find_pixel(path):
        file = path.partition("/dataset/")[2].rpartition(".")[0]
    return [name or f"{file}:{row}" for name, row in zip(names, row_N, strict=True)]


def _is_near(grid: SkyGrid, ra_deg_N: np.ndarray, dec_deg_N: np.ndarray) -> np.ndarray:
    """[N] whether each position is within the circle of a grid, by a margin of rounding."""
    ra_N, dec_N = np.radians(ra_deg_N), np.radians(dec_deg_N)
    x, y, z = grid.center
    cosine_N = np.cos(dec_N) * (x * np.cos(ra_N) + y * np.sin(ra_N)) + z * np.sin(dec_N)
    return np.asarray(1.0 - cosine_N <= grid.chord**2 / 2 + 1e-12)


def _may_hold(span: np.ndarray, near: SkyGrid) -> bool:
    """Whether positions between the least and the largest, [2, 2] deg, may be near a grid."""
    (ra_low, dec_low), (ra_high, dec_high) = span.tolist()
    ra0, dec0 = (
        math.degrees(math.atan2(near.center[1], near.center[0])),
        math.degrees(math.asin(max(-1.0, min(1.0, near.center[2])))),
    )
    radius = math.degrees(near.radius_rad) + 1e-9
    if dec_high < dec0 - radius or dec_low > dec0 + radius:
        return False
    if abs(dec0) + radius >= 90:
        return True
    reach = math.degrees(math.asin(math.sin(math.radians(radius)) / math.cos(math.radians(dec0))))
    turns = (-360.0, 0.0, 360.0)
    return any(ra0 + t + reach >= ra_low and ra0 + t - reach <= ra_high for t in turns)
