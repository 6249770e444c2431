"""How Parquet files, plain or the partitions of a HATS catalog, become shards and rows."""

import contextlib
import dataclasses
import math
import posixpath
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from astroray import storage
from astroray.errors import ConfigError, DataError, ShardError
from astroray.surveys.hats_catalogs import open_hats
from astroray.surveys.image_columns import Fault, decode
from astroray.surveys.parquet_columns import (
    ParquetColumns,
    ParquetOptions,
    PositionRange,
    choose_columns,
    degrees,
)
from astroray.surveys.parquet_files import BAD_PARQUET, SUFFIXES, open_parquet
from astroray.surveys.positions import check_angles
from astroray.surveys.shards import (
    Cutouts,
    Reject,
    Shard,
    SurveyUri,
    file_shard,
    parse_options,
    reject,
)
from astroray.surveys.table_columns import Column, texts

_MAX_SLICE_ROWS = 256
_MAX_SLICE_BYTES = 32 << 20

_Piece = tuple[list[int] | None, int | None]


def list_shards(inputs: Sequence[storage.InputFile], uri: SurveyUri) -> list[Shard]:
    """One shard a file, or several along the row groups of a long one.

    Of local files the footers are read; on an object store only that of the first file is, and
    each file is one shard. In a HATS folder only the partitions of the (primary) catalog count.
    A file that is no Parquet is a shard too: reading it says so.

    Raises ConfigError on bad options and where the columns cannot be found.
    """
    options = parse_options(ParquetOptions, uri.options)
    _check(options)
    files, options = _hats_partitions(inputs, uri, options)
    chosen = {
        key: value
        for key, value in dataclasses.asdict(options).items()
        if value and key not in ("shard_rows", "format")
    }
    is_checked, covered = False, PositionRange()
    shards = []
    for file in sorted(files, key=lambda file: file.path):
        pieces: list[_Piece] = [(None, None)]
        if not is_checked or not storage.is_remote(file.path):
            with contextlib.suppress(DataError), open_parquet(file.path) as parquet:
                with contextlib.ExitStack() as later:
                    if is_checked:  # what one file lacks rejects that file
                        later.enter_context(contextlib.suppress(ConfigError))
                    covered.add(parquet, choose_columns(parquet, options, file.path), file.path)
                is_checked = True
                if not storage.is_remote(file.path):
                    pieces = _pieces(parquet.metadata, options.shard_rows)
        for row_groups, num_rows in pieces:
            params = {"row_groups": row_groups, **chosen}
            shards.append(file_shard(file, reader="tables", params=params, num_rows=num_rows))
    covered.check()
    return shards


def read_shard(shard: Shard, *, rows: Sequence[int] | None = None) -> Iterator[Cutouts | Reject]:
    """Rows of the shard in order; with `rows` only the row groups that hold them are read.

    Raises ShardError where the file is no Parquet or lacks the columns; rows of a row group that
    cannot be decoded are rejected one by one.
    """
    path = shard.inputs[0].path
    chosen = {key: value for key, value in shard.params.items() if key != "row_groups"}
    with open_parquet(path) as file:
        try:
            columns = choose_columns(file, ParquetOptions(**chosen), path)
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
                yield from _read_group(file, group, start, wanted_N, columns, shard)
            start = stop


def _check(options: ParquetOptions) -> None:
    if options.shard_rows < 1:
        raise ConfigError(f"shard_rows is {options.shard_rows}, expected at least 1")
    check_angles(options.angles)
    if options.pixels not in ("", "display", "flux"):
        raise ConfigError(f"pixels is {options.pixels!r}, expected display or flux")


def _hats_partitions(
    inputs: Sequence[storage.InputFile], uri: SurveyUri, options: ParquetOptions
) -> tuple[list[storage.InputFile], ParquetOptions]:
    """Parquet files of the survey; of a HATS catalog its partitions, with its position columns.

    Indices of a collection have no images. Raises ConfigError where no file is Parquet by its name.
    """
    if storage.exists(uri.location):  # one file, whatever its name
        return list(inputs), options
    hats = open_hats(uri.location, inputs)
    if hats is None:
        files = [file for file in inputs if file.path.lower().endswith(SUFFIXES)]
        if not files and not uri.known:
            raise ConfigError(
                f"{uri.location} has no Parquet file, got {len(inputs)} such as "
                f"{posixpath.basename(inputs[0].path)}, expected names that end in one of "
                f"{SUFFIXES}; leave format=tables out, or name the folder of the Parquet files"
            )
        return files, options
    if options.ra or options.dec:
        return list(hats.partitions), options
    return list(hats.partitions), dataclasses.replace(options, ra=hats.ra, dec=hats.dec)


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


def _read_group(
    file: pq.ParquetFile,
    group: int,
    start: int,
    wanted_N: np.ndarray,
    columns: ParquetColumns,
    shard: Shard,
) -> Iterator[Cutouts | Reject]:
    """The wanted rows of one row group, whose first row in the shard is `start`."""
    num_rows = _slice_rows(file.metadata.row_group(group), columns)
    batches = file.iter_batches(num_rows, [group], columns.leaves, use_threads=False)
    while len(wanted_N):
        try:
            batch, why = next(batches, None), "it ends early"
            if batch is not None:
                batch.validate(full=True)  # text of damaged pages may not be UTF-8
        except BAD_PARQUET as error:
            if isinstance(error, OSError) and error.errno:
                raise ShardError(f"{shard.inputs[0].path} cannot be read: {error}") from error
            batch, why = None, str(error)
        if batch is None:
            reason = f"row group {group} of {shard.inputs[0].path} cannot be decoded: {why}"
            for row in wanted_N:
                yield reject(int(row), "corrupt", reason)
            return
        num_here = int(np.searchsorted(wanted_N, start + batch.num_rows))
        row_B, wanted_N = wanted_N[:num_here], wanted_N[num_here:]
        if len(row_B):
            picked = batch if len(row_B) == batch.num_rows else batch.take(pa.array(row_B - start))
            yield from _cutouts(picked, row_B, columns, shard)
        start += batch.num_rows


def _slice_rows(group: pq.RowGroupMetaData, columns: ParquetColumns) -> int:
    """Rows a slice, so that its pixels stay within some tens of megabytes."""
    image = columns.image
    row_bytes = group.total_byte_size / max(1, group.num_rows)
    if image.shape:
        row_bytes = math.prod(image.shape) * image.dtype.itemsize
    return max(1, min(_MAX_SLICE_ROWS, int(_MAX_SLICE_BYTES / max(row_bytes, 1.0))))


def _cutouts(
    batch: pa.RecordBatch, row_B: np.ndarray, columns: ParquetColumns, shard: Shard
) -> Iterator[Cutouts | Reject]:
    """The longest halves, quarters... of the batch whose images make one array; rejects else."""
    images = batch.column(columns.image.name)
    object_id_B = _identifiers(batch, row_B, columns, shard)
    ra_deg_B, dec_deg_B = degrees(batch, columns)
    todo = [(0, len(row_B))]
    while todo:
        start, stop = todo.pop()
        decoded = decode(images.slice(start, stop - start), columns.image)
        if not isinstance(decoded, Fault):
            image_BCYX, bands = decoded
            yield Cutouts(
                row_B=row_B[start:stop],
                object_id_B=object_id_B[start:stop],
                ra_deg_B=ra_deg_B[start:stop],
                dec_deg_B=dec_deg_B[start:stop],
                image_BCYX=image_BCYX,
                bands=bands,
                pixels=columns.image.pixels,
                flags_B=np.zeros(stop - start, np.int32),
            )
        elif stop - start == 1:
            reason = f"image of row {row_B[start]} of {shard.inputs[0].path} {decoded.reason}"
            row = int(row_B[start])
            yield reject(row, decoded.kind, reason)
        else:
            middle = (start + stop) // 2
            todo += [(middle, stop), (start, middle)]


def _identifiers(
    batch: pa.RecordBatch, row_B: np.ndarray, columns: ParquetColumns, shard: Shard
) -> list[str]:
    if columns.object_id is None:
        return [f"{shard.name}:{row}" for row in row_B]
    column = Column(values=batch.column(columns.object_id))
    try:
        own = texts(column, f"column {columns.object_id!r} of {shard.inputs[0].path}")
    except ConfigError as error:
        raise ShardError(str(error)) from None
    return [name or f"{shard.name}:{row}" for name, row in zip(own, row_B, strict=True)]
