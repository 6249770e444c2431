"""How Parquet files, plain or the partitions of a HATS catalog, become shards and rows."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy import units

from astroray import storage
from astroray.errors import ConfigError, DataError, ShardError
from astroray.surveys.image_columns import Fault, ImageColumn, decode, image_column, is_image
from astroray.surveys.object_tables import WELL_KNOWN
from astroray.surveys.shards import Cutouts, Reject, Shard, SurveyUri, parse_options, shard_name

WELL_KNOWN_IMAGES = (
    "image", "images", "cutout", "cutouts", "image_array", "img", "flux", "pixels", "stamp", "data",
)  # fmt: skip
"""Names of image columns that are tried where none is given; case and underscores do not matter."""

_MAX_SLICE_ROWS = 256
_MAX_SLICE_BYTES = 32 << 20
_SUFFIXES = (".parquet", ".parq", ".pq")
_BAD_FILE = (pa.ArrowException, OSError, ValueError)  # what pyarrow raises of damaged bytes

_Piece = tuple[list[int] | None, int | None]


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
class _Layout:
    """What is read of one file."""

    image: ImageColumn
    object_id: str | None
    ra: str | None
    dec: str | None
    deg_per_unit: tuple[float, float]
    """Degrees in one unit of ra and of dec."""
    leaves: Sequence[str]
    """Paths of the Parquet columns that are read."""


def list_shards(inputs: Sequence[storage.InputFile], uri: SurveyUri) -> list[Shard]:
    """One shard a file, or several along the row groups of a long one.

    Of local files the footers are read; on an object store only that of the first file is, and
    each file is one shard. In a HATS folder only the partitions of the (primary) catalog count.
    A file that is no Parquet is a shard too: reading it says so.

    Raises ConfigError on bad options and where the columns cannot be found.
    """
    options = parse_options(ParquetOptions, uri.options)
    _check(options)
    files, options = _hats_partitions(inputs, uri.location, options)
    chosen = {
        key: value
        for key, value in dataclasses.asdict(options).items()
        if value and key not in ("shard_rows", "format")
    }
    is_checked = False
    shards = []
    for file in sorted(files, key=lambda file: file.path):
        pieces: list[_Piece] = [(None, None)]
        if not is_checked or not storage.is_remote(file.path):
            with contextlib.suppress(DataError), _open(file.path) as parquet:
                if not is_checked:
                    _layout(parquet, options, file.path)  # refuses what would reject every shard
                is_checked = True
                if not storage.is_remote(file.path):
                    pieces = _pieces(parquet.metadata, options.shard_rows)
        for row_groups, num_rows in pieces:
            params = {"row_groups": row_groups, **chosen}
            name = shard_name([file], params)
            shards.append(
                Shard(name=name, reader="tables", inputs=(file,), params=params, num_rows=num_rows)
            )
    return shards


def read_shard(shard: Shard, *, rows: Sequence[int] | None = None) -> Iterator[Cutouts | Reject]:
    """Rows of the shard in order; with `rows` only the row groups that hold them are read.

    Raises ShardError where the file is no Parquet or lacks the columns; rows of a row group that
    cannot be decoded are rejected one by one.
    """
    path = shard.inputs[0].path
    chosen = {key: value for key, value in shard.params.items() if key != "row_groups"}
    with _open(path) as file:
        try:
            layout = _layout(file, ParquetOptions(**chosen), path)
        except ConfigError as error:
            raise ShardError(str(error)) from error
        num_groups = file.num_row_groups
        first_group, last_group = shard.params["row_groups"] or (0, num_groups)
        if last_group > num_groups:
            raise ShardError(
                f"{path} has {num_groups} row groups, expected at least {last_group} as when it "
                "was listed; list the survey anew"
            )
        start = 0
        for group in range(first_group, last_group):
            stop = start + file.metadata.row_group(group).num_rows
            wanted_N = np.arange(start, stop)
            if rows is not None:
                wanted_N = np.intersect1d(np.asarray(rows, np.int64), wanted_N)
            if len(wanted_N):
                yield from _read_group(file, group, start, wanted_N, layout, shard)
            start = stop


@contextlib.contextmanager
def _open(path: str) -> Iterator[pq.ParquetFile]:
    """The Parquet file, its footer checked: all of it that is used later can be parsed."""
    with storage.local_copy(path) as local:
        try:
            file = pq.ParquetFile(local, page_checksum_verification=True)
            _check_footer(file)
        except _BAD_FILE as error:
            raise ShardError(
                f"{path} is not a whole Parquet file ({error}), expected its footer at the end; "
                "copy or write it again"
            ) from error
        with file:
            yield file


def _check_footer(file: pq.ParquetFile) -> None:
    footer = file.metadata
    groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
    sizes = [group.num_rows for group in groups]
    if min(sizes, default=0) < 0 or sum(sizes) != footer.num_rows:
        raise ValueError(f"its row groups have {sum(sizes)} rows, its footer {footer.num_rows}")
    known = {file.schema.column(i).path for i in range(len(file.schema))}
    for group in groups:
        if {group.column(i).path_in_schema for i in range(group.num_columns)} != known:
            raise ValueError("a row group has other columns than the footer")


def _check(options: ParquetOptions) -> None:
    if options.shard_rows < 1:
        raise ConfigError(f"shard_rows is {options.shard_rows}, expected at least 1")
    if options.pixels not in ("", "display", "flux"):
        raise ConfigError(f"pixels is {options.pixels!r}, expected display or flux")


def _hats_partitions(
    inputs: Sequence[storage.InputFile], location: str, options: ParquetOptions
) -> tuple[list[storage.InputFile], ParquetOptions]:
    """Parquet files of the survey; of a HATS catalog its partitions, with its position columns.

    A collection also holds margins, which repeat objects, and indices, which have no images.
    """
    files = [file for file in inputs if file.path.lower().endswith(_SUFFIXES)]
    if storage.exists(location):  # one file, whatever its name
        return list(inputs), options
    folder, facts = location, _facts(storage.join(location, "hats.properties"))
    collection = _facts(storage.join(location, "collection.properties"))
    if not facts and "hats_primary_table_url" in collection:
        folder = storage.join(location, collection["hats_primary_table_url"])
        facts = _facts(storage.join(folder, "hats.properties"))
    if not facts:
        return files, options
    part = "/" + folder.rstrip("/").rpartition("/")[2] if folder != location else ""
    partitions = [file for file in files if f"{part}/dataset/Norder=" in file.path]
    ra, dec = facts.get("hats_col_ra", ""), facts.get("hats_col_dec", "")
    if options.ra or options.dec:
        return partitions, options
    return partitions, dataclasses.replace(options, ra=ra, dec=dec)


def _facts(path: str) -> dict[str, str]:
    """Keys and values of a .properties file; empty where there is none."""
    if not storage.exists(path):
        return {}
    lines = storage.read_bytes(path).decode("utf-8", "replace").splitlines()
    pairs = (line.partition("=") for line in lines if not line.lstrip().startswith("#"))
    return {key.strip(): value.strip() for key, mark, value in pairs if mark}


def _pieces(footer: pq.FileMetaData, shard_rows: int) -> list[_Piece]:
    """First and last row group + 1 of each shard of a file, and its rows."""
    pieces: list[_Piece] = []
    start = num_rows = 0
    for group in range(footer.num_row_groups):
        num_rows += footer.row_group(group).num_rows
        if num_rows >= shard_rows:
            pieces.append(([start, group + 1], num_rows))
            start, num_rows = group + 1, 0
    if num_rows or not pieces:
        pieces.append(([start, footer.num_row_groups], num_rows))
    return pieces


def _layout(file: pq.ParquetFile, options: ParquetOptions, path: str) -> _Layout:
    """Which columns are read, and how. Raises ConfigError where that is unclear."""
    names = file.schema_arrow.names
    schema = pa.schema([field for field in file.schema_arrow if names.count(field.name) == 1])
    image = _find(schema, options.image, WELL_KNOWN_IMAGES, is_image, "image", path)
    if image is None:
        found = [field.name for field in schema if is_image(field)]
        raise ConfigError(
            f"no image column in {path}: tried {', '.join(WELL_KNOWN_IMAGES)}; columns that can "
            f"hold images: {', '.join(found) or 'none'}; name one with image="
        )
    stored = image_column(
        schema.field(image),
        shape=options.shape,
        bands=options.bands,
        pixels=options.pixels,
        where=path,
    )
    object_id = _find(schema, options.id, WELL_KNOWN["id"], _is_identifier, "id", path)
    ra = _find(schema, options.ra, WELL_KNOWN["ra"], _is_number, "ra", path)
    dec = _find(schema, options.dec, WELL_KNOWN["dec"], _is_number, "dec", path)
    if ra is None or dec is None:
        ra = dec = None  # half a position is none
    return _Layout(
        image=stored,
        object_id=object_id,
        ra=ra,
        dec=dec,
        deg_per_unit=(_deg_per_unit(schema, ra, path), _deg_per_unit(schema, dec, path)),
        leaves=_leaves(file, stored, {name for name in (object_id, ra, dec) if name}),
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
    well_known: Sequence[str],
    is_fit: Callable[[pa.Field], bool],
    option: str,
    path: str,
) -> str | None:
    """Name of the column for `option`: the one asked for, else the first well-known one."""
    fields = {_plain(field.name): field for field in reversed(list(schema))}
    if not asked:
        found = (fields[_plain(name)] for name in well_known if _plain(name) in fields)
        return next((field.name for field in found if is_fit(field)), None)
    index = schema.get_field_index(asked)
    field = schema.field(index) if index >= 0 else fields.get(_plain(asked))
    if field is None:
        raise ConfigError(
            f"option {option} is {asked!r}, but {path} has the columns {', '.join(schema.names)}"
        )
    if not is_fit(field):
        expected = {
            "image": "numbers in lists or tensors, a struct of flux and band, or bytes whose "
            "metadata state shape and dtype",
            "id": "text or integers (floats lose digits)",
        }.get(option, "numbers, in degrees unless their metadata state a unit")
        raise ConfigError(
            f"column {asked!r} of {path}, option {option}, has type {field.type}, "
            f"expected {expected}"
        )
    return cast(str, field.name)


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace(" ", "")


def _is_identifier(field: pa.Field) -> bool:
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return pa.types.is_integer(kind) or any(is_text(kind) for is_text in texts)


def _is_number(field: pa.Field) -> bool:
    return pa.types.is_floating(field.type) or pa.types.is_integer(field.type)


def _deg_per_unit(schema: pa.Schema, name: str | None, path: str) -> float:
    metadata = schema.field(name).metadata if name else None
    unit = (metadata or {}).get(b"unit", b"").decode("utf-8", "replace")
    if not unit:
        return 1.0
    try:
        return float(units.Unit(unit).to(units.deg))
    except ValueError:  # astropy's unit errors are ValueErrors
        raise ConfigError(
            f"column {name!r} of {path} is in {unit!r}, expected an angle such as deg"
        ) from None


def _read_group(
    file: pq.ParquetFile,
    group: int,
    start: int,
    wanted_N: np.ndarray,
    layout: _Layout,
    shard: Shard,
) -> Iterator[Cutouts | Reject]:
    """The wanted rows of one row group, whose first row in the shard is `start`."""
    num_rows = _slice_rows(file.metadata.row_group(group), layout)
    batches = file.iter_batches(num_rows, [group], layout.leaves, use_threads=False)
    while len(wanted_N):
        try:
            batch = next(batches, None)
            why = "it ends early"
        except _BAD_FILE as error:
            batch, why = None, str(error)
        if batch is None:
            reason = f"row group {group} of {shard.inputs[0].path} cannot be decoded: {why}"
            for row in wanted_N:
                yield Reject(row=int(row), stage="read", kind="corrupt", reason=reason)
            return
        num_here = int(np.searchsorted(wanted_N, start + batch.num_rows))
        row_B, wanted_N = wanted_N[:num_here], wanted_N[num_here:]
        if len(row_B):
            picked = batch if len(row_B) == batch.num_rows else batch.take(pa.array(row_B - start))
            yield from _cutouts(picked, row_B, layout, shard)
        start += batch.num_rows


def _slice_rows(group: pq.RowGroupMetaData, layout: _Layout) -> int:
    """Rows a slice, so that its pixels stay within some tens of megabytes."""
    columns = [group.column(i) for i in range(group.num_columns)]
    stored = sum(c.total_uncompressed_size for c in columns if c.path_in_schema in layout.leaves)
    image = layout.image
    row_bytes = stored / max(1, group.num_rows)
    if image.shape:
        row_bytes = max(row_bytes, math.prod(image.shape) * image.dtype.itemsize)
    return max(1, min(_MAX_SLICE_ROWS, int(_MAX_SLICE_BYTES / max(row_bytes, 1.0))))


def _cutouts(
    batch: pa.RecordBatch, row_B: np.ndarray, layout: _Layout, shard: Shard
) -> Iterator[Cutouts | Reject]:
    """The longest halves, quarters... of the batch whose images make one array; rejects else."""
    images = batch.column(layout.image.name)
    object_id_B = _identifiers(batch, row_B, layout, shard)
    ra_deg_B = _degrees(batch, layout.ra, layout.deg_per_unit[0])
    dec_deg_B = _degrees(batch, layout.dec, layout.deg_per_unit[1])
    todo = [(0, len(row_B))]
    while todo:
        start, stop = todo.pop()
        decoded = decode(images.slice(start, stop - start), layout.image)
        if not isinstance(decoded, Fault):
            image_BCYX, bands = decoded
            yield Cutouts(
                row_B=row_B[start:stop],
                object_id_B=object_id_B[start:stop],
                ra_deg_B=ra_deg_B[start:stop],
                dec_deg_B=dec_deg_B[start:stop],
                image_BCYX=image_BCYX,
                bands=bands,
                pixels=layout.image.pixels,
                flags_B=np.zeros(stop - start, np.int32),
            )
        elif stop - start == 1:
            reason = f"image of row {row_B[start]} of {shard.inputs[0].path} {decoded.reason}"
            row = int(row_B[start])
            yield Reject(row=row, stage="read", kind=decoded.kind, reason=reason)
        else:
            middle = (start + stop) // 2
            todo += [(middle, stop), (start, middle)]


def _identifiers(
    batch: pa.RecordBatch, row_B: np.ndarray, layout: _Layout, shard: Shard
) -> list[str]:
    if layout.object_id is None:
        return [f"{shard.name}:{row}" for row in row_B]
    own = batch.column(layout.object_id).cast(pa.string()).to_pylist()
    return [name or f"{shard.name}:{row}" for name, row in zip(own, row_B, strict=True)]


def _degrees(batch: pa.RecordBatch, name: str | None, deg_per_unit: float) -> np.ndarray:
    if name is None:
        return np.full(batch.num_rows, np.nan)
    angle_B = batch.column(name).cast(pa.float64()).to_numpy(zero_copy_only=False)
    return cast(np.ndarray, angle_B * deg_per_unit)
