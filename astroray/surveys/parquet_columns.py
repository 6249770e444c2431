"""Which columns of a Parquet file hold images, identifiers and positions."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from astroray.errors import ConfigError
from astroray.surveys.column_names import OF_IMAGES, plain_name
from astroray.surveys.image_columns import ImageColumn, image_column, is_image
from astroray.surveys.parquet_files import BAD_PARQUET
from astroray.surveys.positions import FEW_POSITIONS, are_within_radians, refuse_radians

WELL_KNOWN = {
    "image": (
        "image", "images", "cutout", "cutouts", "image_array", "img", "flux", "pixels", "stamp",
        "data",
    ),
    **OF_IMAGES,
}  # fmt: skip
"""Names of columns that are tried where none is given."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParquetOptions:
    """Options of a survey in Parquet files."""

    image: str = ""
    """Column of images; without it well-known names are tried."""
    id: str = ""
    """Column of identifiers, text or integers; without any, `<shard>:<row>`."""
    ra: str = ""
    """Column of right ascension, ICRS, degrees unless its metadata states a unit."""
    dec: str = ""
    """Column of declination, ICRS, likewise."""
    angles: str = ""
    """deg or rad: the unit of `ra` and `dec` where their metadata state none. Without it they are
    degrees, and numbers that fill the sky in radians are refused: of all files,
    on an object store of the first."""
    shape: str = ""
    """Shape of an image, `3x64x64`, where the file does not state it."""
    bands: str = ""
    """Names of the bands, `g,r,i`."""
    pixels: str = ""
    """display or flux; unsigned integers are display otherwise, all else flux."""
    shard_rows: int = 20000
    """A file with more rows is split near this many, between its row groups."""
    format: str = ""
    """`tables` chooses this reader."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlaceColumns:
    """Who and where the rows of one file are; ra and dec are known or None together."""

    object_id: str | None
    ra: str | None
    dec: str | None
    deg_per_unit: tuple[float, float]
    """Degrees in one unit of ra and of dec."""
    has_unit: bool
    """Whether the file or the user states the unit."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParquetColumns(PlaceColumns):
    """What is read of one file of images."""

    image: ImageColumn
    leaves: Sequence[str]
    """Paths of the Parquet columns that are read."""


def choose_columns(file: pq.ParquetFile, options: ParquetOptions, path: str) -> ParquetColumns:
    """Which columns are read, and how. Raises ConfigError where that is unclear."""
    names = file.schema_arrow.names
    schema = pa.schema([field for field in file.schema_arrow if names.count(field.name) == 1])
    image = _find(schema, options.image, is_image, "image", path)
    if image is None:
        found = [field.name for field in schema if is_image(field)]
        raise ConfigError(
            f"no image column in {path}: tried {', '.join(WELL_KNOWN['image'])}; columns that can "
            f"hold images: {', '.join(found) or 'none'}; name one with image=, or say "
            "format=light_curves where the rows are those"
        )
    stored = image_column(
        schema.field(image),
        shape=options.shape,
        bands=options.bands,
        pixels=options.pixels,
        where=path,
    )
    place = choose_places(file, options, path)
    used = {name for name in (place.object_id, place.ra, place.dec) if name}
    return ParquetColumns(
        **dataclasses.asdict(place), image=stored, leaves=_leaves(file, stored, used)
    )


def choose_places(file: pq.ParquetFile, options: ParquetOptions, path: str) -> PlaceColumns:
    """Which columns say who and where the rows are. Raises ConfigError where that is unclear."""
    names = file.schema_arrow.names
    schema = pa.schema([field for field in file.schema_arrow if names.count(field.name) == 1])
    ra = _find(schema, options.ra, is_number, "ra", path)
    dec = _find(schema, options.dec, is_number, "dec", path)
    if ra is None or dec is None:
        ra = dec = None  # half a position is none
    return PlaceColumns(
        object_id=_find(schema, options.id, is_identifier, "id", path),
        ra=ra,
        dec=dec,
        deg_per_unit=(
            _deg_per_unit(schema, ra, path, options.angles),
            _deg_per_unit(schema, dec, path, options.angles),
        ),
        has_unit=bool(options.angles or _unit(schema, ra) or _unit(schema, dec)),
    )


def _leaves(file: pq.ParquetFile, image: ImageColumn, names: set[str]) -> list[str]:
    """Paths of the Parquet columns that are read; of a struct only the needed parts."""
    paths = [file.schema.column(i).path for i in range(len(file.schema))]
    parts = set(image.parts)
    return [
        path
        for path in paths
        if path in names
        or path == image.name
        or (path.startswith(f"{image.name}.") and (not parts or parts & set(path.split("."))))
    ]


def _find(
    schema: pa.Schema,
    asked: str,
    is_fit: Callable[[pa.Field], bool],
    option: str,
    path: str,
) -> str | None:
    """Name of the column for `option`: the one asked for, else the first well-known one."""
    fields = {plain_name(field.name): field for field in reversed(list(schema))}
    if not asked:
        known = map(plain_name, WELL_KNOWN[option])
        found = (fields[name] for name in known if name in fields)
        return next((field.name for field in found if is_fit(field)), None)
    index = schema.get_field_index(asked)
    field = schema.field(index) if index >= 0 else fields.get(plain_name(asked))
    if field is None:
        raise ConfigError(
            f"option {option} is {asked!r}, but {path} has the columns {', '.join(schema.names)}"
        )
    if not is_fit(field):
        expected = {
            "image": "numbers in lists or tensors, a struct of flux and band, or bytes whose "
            "metadata state shape and dtype",
            "id": "text or integers",
        }.get(option, "numbers, in degrees unless their metadata state a unit")
        raise ConfigError(
            f"column {asked!r} of {path}, option {option}, has type {field.type}, "
            f"expected {expected}"
        )
    return cast(str, field.name)


def is_identifier(field: pa.Field) -> bool:
    """Whether a column's type can hold identifiers, as `table_columns.texts` reads them."""
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    kinds = (
        *(pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
        *(pa.types.is_binary, pa.types.is_large_binary),  # text as FITS tables have it
        *(pa.types.is_integer, pa.types.is_decimal),
        pa.types.is_floating,  # pandas' of a column with a null
    )
    return any(is_kind(kind) for is_kind in kinds)


def is_number(field: pa.Field) -> bool:
    """Whether a column's type is plain numbers."""
    return pa.types.is_floating(field.type) or pa.types.is_integer(field.type)


def degrees(batch: pa.RecordBatch, columns: PlaceColumns) -> np.ndarray:
    """[2, B] right ascension and declination as they stand, in deg; NaN where there is none."""
    angle_2B = np.full((2, batch.num_rows), np.nan)
    for i, name in enumerate((columns.ra, columns.dec)):
        if name is not None:
            numbers = batch.column(name).cast(pa.float64(), safe=False)
            angle_2B[i] = numbers.to_numpy(zero_copy_only=False) * columns.deg_per_unit[i]
    return angle_2B


def read_group(file: pq.ParquetFile, group: int, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Columns of one row group, at most 65,536 rows at once."""
    return file.iter_batches(65_536, [group], names, use_threads=False)


def read_spans(file: pq.ParquetFile, columns: PlaceColumns) -> Iterator[np.ndarray]:
    """Least ra and dec, then the largest of each row group: [2, 2] deg, NaN where it has none."""
    names = [name for name in (columns.ra, columns.dec) if name]
    for group in range(file.num_row_groups):
        least, largest = np.full((2, 2), np.nan)
        for batch in read_group(file, group, names):
            angle_2B = degrees(batch, columns)
            least = np.fmin(least, np.fmin.reduce(angle_2B, axis=1, initial=np.nan))
            largest = np.fmax(largest, np.fmax.reduce(angle_2B, axis=1, initial=np.nan))
        yield np.stack([least, largest])


class PositionRange:
    """From where to where the positions of files go, read until they are too large for radians.

    It is that of columns without a unit: what they mean can be told from all of them at best.
    """

    def __init__(self) -> None:
        self._num_rows = 0
        self._least, self._largest = np.full(2, np.inf), np.full(2, -np.inf)
        self._where = ""

    def add(self, file: pq.ParquetFile, columns: PlaceColumns, path: str) -> None:
        """Takes the positions of one more file, as far as they can be read."""
        if columns.ra is None or columns.dec is None or columns.has_unit:
            return
        self._num_rows += file.metadata.num_rows
        self._where = self._where or f"columns {columns.ra!r} and {columns.dec!r} of {path}"
        spans = read_spans(file, columns)
        with contextlib.suppress(*BAD_PARQUET):
            while are_within_radians(*self._ranges()) and (span := next(spans, None)) is not None:
                self._least = np.fmin(self._least, span[0])
                self._largest = np.fmax(self._largest, span[1])

    def check(self) -> None:
        """Raises ConfigError where they look like radians."""
        if self._num_rows >= FEW_POSITIONS:
            ra, dec = self._ranges()
            refuse_radians(ra, dec, self._where)

    def _ranges(self) -> Iterator[tuple[float, float]]:
        return zip(self._least.tolist(), self._largest.tolist(), strict=True)


def _unit(schema: pa.Schema, name: str | None) -> str:
    metadata = schema.field(name).metadata if name else None
    return cast(str, (metadata or {}).get(b"unit", b"").decode("utf-8", "replace"))


def _deg_per_unit(schema: pa.Schema, name: str | None, path: str, angles: str) -> float:
    unit = _unit(schema, name) or angles
    if not unit:
        return 1.0
    from astropy import units  # takes a third of a second, and few columns have a unit

    try:
        return float(units.Unit(unit).to(units.deg))
    except ValueError:  # astropy's unit errors are ValueErrors
        raise ConfigError(
            f"column {name!r} of {path} is in {unit!r}, expected an angle such as deg"
        ) from None
