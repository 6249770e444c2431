"""How arrays of NumPy, HDF5 and FITS tables become rows: a stack of cutouts, or one object a file.

Examples of surveys:

    radio_mirabest/mirabest_150px_uint8.npz?table=labels.csv
    'hsc_blends?bands=g,r,i,z,y'
    'stamps.npy?layout=NYXC&table=objects.parquet'
    'deep.npz?image=cutouts&weight=ivar&id=source_id'
    Galaxy10_DECals.h5
    'stamps.fits?image=STAMP'
"""

import dataclasses
import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from astroray import storage
from astroray.errors import ConfigError, DataError, FileError, ShardError
from astroray.surveys.array_files import ArrayFile, has_random_access, open_arrays
from astroray.surveys.array_headers import ArrayHeader
from astroray.surveys.array_layouts import LAYOUTS, MASK_NAMES, NO_WEIGHT, ArrayOptions, settle
from astroray.surveys.object_tables import ObjectTable, group_objects, open_object_table
from astroray.surveys.objects import Objects, describe_objects
from astroray.surveys.shards import (
    Cutouts,
    Pixels,
    Reject,
    Shard,
    SurveyUri,
    file_shard,
    parse_options,
    reject,
)
from astroray.surveys.slices import gather, reject_file
from astroray.surveys.survey_paths import survey_folder
from astroray.surveys.table_columns import Column

_log = logging.getLogger(__name__)

MAX_SLICE_ROWS = 256
MAX_SLICE_BYTES = 32 * 2**20
_STORED = ("image", "weight", "layout", "bands", "pixels", "id", "ra", "dec", "file")
"""Options that a shard carries, settled by the first readable file of the survey."""


def list_shards(inputs: Sequence[storage.InputFile], uri: SurveyUri) -> list[Shard]:
    """Pieces of stacks, or groups of files of one object; only headers and a table are read.

    Raises ConfigError on bad options, a shape that can be understood in two ways, or a table
    that does not fit.
    """
    options = parse_options(ArrayOptions, uri.options)
    _check_options(options)
    files = storage.FileList.by_path(inputs)
    named = open_object_table(uri.location, options) if options.table else nullcontext()
    with named as table:
        options = _settle_survey(files.paths, options)
        if options.layout and "N" not in options.layout:
            return group_objects(
                files,
                table=table,
                folder=survey_folder(uri.location),
                reader="arrays",
                params=_stored(options),
                group_size=options.shard_files,
                objects_folder=uri.objects_folder,
            )
        return _list_stacks(files, options, table, uri)


def read_shard(shard: Shard, *, rows: Sequence[int] | None = None) -> Iterator[Cutouts | Reject]:
    """The arrays' images, float32 [C, Y, X]; NaN where a weight is not positive or a mask not 0.

    Row 0 of Y is as the array has it. Raises ShardError where a stack is missing, truncated,
    holds Python objects or has another shape than listed; where each file is one object, such a
    file is a Reject of its row.
    """
    stored: dict[str, Any] = {key: shard.params[key] for key in _STORED}
    options = ArrayOptions(**stored)
    if "start" in shard.params:
        try:
            yield from _read_stack(shard, options, rows)
        except FileError as error:
            raise ShardError(str(error)) from None
        return
    images = (
        _read_single(shard.inputs[row].path, row, options)
        for row in (range(len(shard.inputs)) if rows is None else sorted(set(rows)))
    )
    objects = Objects.from_params(shard.params["objects"])
    yield from gather(images, objects, bands=_bands(options), pixels=_pixels(options))


def _list_stacks(
    files: Sequence[storage.InputFile],
    options: ArrayOptions,
    table: ObjectTable | None,
    uri: SurveyUri,
) -> list[Shard]:
    num_rows = [_count_rows(file.path, options) for file in files]
    shards = [
        _stack_shard(file, options, start, stop)
        for file, count in zip(files, num_rows, strict=True)
        for start, stop in _pieces(file.path, count, options.shard_rows)
    ]
    earlier = _count_earlier(files, num_rows, options, table, uri) if table else []
    own = [shard.num_rows for shard in shards if shard.num_rows is not None]
    if not (table and own):
        return shards
    objects = itertools.islice(table.by_row([*earlier, *own]), len(earlier), None)
    carried = describe_objects(objects, uri.objects_folder)
    return [
        shard
        if shard.num_rows is None
        else dataclasses.replace(shard, params={**shard.params, "objects": next(carried)})
        for shard in shards
    ]


def _count_earlier(
    files: Sequence[storage.InputFile],
    num_rows: Sequence[int | None],
    options: ArrayOptions,
    table: ObjectTable,
    uri: SurveyUri,
) -> list[int]:
    """Rows, a piece after the other, of stacks that are listed already and come first in `table`.

    Raises ConfigError where the order of rows is unknown: a stack of several cannot be read, or a
    new one comes before one that is listed.
    """
    if uri.listed and uri.listed[-1] > files[0].path:
        raise ConfigError(
            f"{files[0].path} is new and comes by name before {uri.listed[-1]}, which is listed "
            f"already, so rows of {table.where} might be given to the wrong file; name new files "
            "so that they come last, or scan all into a new --out"
        )
    paths = [*uri.listed, *(file.path for file in files)]
    counts = [*(_count_rows(path, options) for path in uri.listed), *num_rows]
    if None in counts and len(counts) > 1:
        raise ConfigError(
            f"{paths[counts.index(None)]} cannot be read, so rows of {table.where} cannot be given "
            "to the files after it; mend it or name the readable files"
        )
    return [
        stop - start
        for path, count in zip(uri.listed, counts, strict=False)
        for start, stop in _pieces(path, count, options.shard_rows)
        if stop is not None
    ]


def _stack_shard(
    file: storage.InputFile, options: ArrayOptions, start: int, stop: int | None
) -> Shard:
    params = _stored(options) | {"start": start, "stop": stop}
    num_rows = None if stop is None else stop - start
    return file_shard(file, reader="arrays", params=params, num_rows=num_rows)


def _pieces(path: str, num_rows: int | None, shard_rows: int) -> list[tuple[int, int | None]]:
    """Rows of each shard; a file that must be fetched or unpacked from its beginning is one."""
    if num_rows is None or not has_random_access(path):
        return [(0, num_rows)]
    starts = range(0, max(num_rows, 1), shard_rows)
    return [(start, min(start + shard_rows, num_rows)) for start in starts]


def _count_rows(path: str, options: ArrayOptions) -> int | None:
    """None where the file cannot be read: reading its shard says why."""
    try:
        with open_arrays(path) as arrays:
            header = arrays.headers.get(options.image)
    except (ShardError, FileError):
        return None
    if header is None or not header.shape or len(header.shape) != len(options.layout):
        return None
    return header.shape[0]


def _read_single(path: str, row: int, options: ArrayOptions) -> tuple[int, np.ndarray] | Reject:
    try:
        with open_arrays(path) as arrays:
            options = settle(arrays, options, path)
            whole = [(0, arrays.headers[options.image].shape[0])]
            return row, next(_read_images(arrays, options, whole))[0]
    except ConfigError as error:
        return reject(row, "shape", str(error))
    except DataError as error:
        return reject_file(row, path, error)


def _read_stack(
    shard: Shard, options: ArrayOptions, rows: Sequence[int] | None
) -> Iterator[Cutouts]:
    path, start, stop = shard.inputs[0].path, shard.params["start"], shard.params["stop"]
    with open_arrays(path) as arrays:
        try:
            options = settle(arrays, options, path)
        except ConfigError as error:
            raise ShardError(str(error)) from None
        header = arrays.headers[options.image]
        if "N" not in options.layout or header.shape[0] < (stop or 0):
            raise ShardError(
                f"{path} has shape {header.shape}, expected a stack of at least {stop} rows as "
                "listed; it was changed, start a new run"
            )
        stop = stop or header.shape[0]
        objects = _objects(arrays, shard, options, range(start, stop))
        num_rows = stop - start
        wanted = range(num_rows) if rows is None else sorted(set(rows))
        runs = list(_runs(wanted, _slice_rows(header)))
        images = _read_images(arrays, options, [(start + a, start + b) for a, b in runs])
        for (first, last), image_BCYX in zip(runs, images, strict=True):
            chosen = objects.take(slice(first, last))
            yield Cutouts(
                row_B=np.arange(first, last),
                object_id_B=[
                    name or f"{shard.name}:{row}"
                    for row, name in enumerate(chosen.object_id_N, first)
                ],
                ra_deg_B=chosen.ra_deg_N,
                dec_deg_B=chosen.dec_deg_N,
                image_BCYX=image_BCYX,
                bands=_bands(options),
                pixels=_pixels(options),
                flags_B=np.zeros(last - first, np.int32),
            )


def _runs(rows: Sequence[int], max_rows: int) -> Iterator[tuple[int, int]]:
    """Consecutive rows as (first, last + 1), at most `max_rows` each."""
    first = 0
    for i in range(1, len(rows) + 1):
        if i == len(rows) or rows[i] != rows[i - 1] + 1 or i - first == max_rows:
            yield rows[first], rows[i - 1] + 1
            first = i


def _slice_rows(header: ArrayHeader) -> int:
    values = max(1, math.prod(header.shape[1:]))
    return max(1, min(MAX_SLICE_ROWS, MAX_SLICE_BYTES // (4 * values)))


def _objects(arrays: ArrayFile, shard: Shard, options: ArrayOptions, rows: range) -> Objects:
    """The shard's own from its table, else those of the 1-D arrays beside the images."""
    carried = shard.params.get("objects", shard.params)  # older listings: beside the others
    if "objects" in shard.params or "object_id" in shard.params:
        return Objects.from_params(carried)
    columns = {}
    in_all = arrays.headers[options.image].shape[:1]
    for name, header in arrays.headers.items():
        if header.shape == in_all and header.dtype.kind == "O":
            _log.warning("array %r of %s holds Python objects: not read", name, shard.name)
        elif header.shape == in_all and header.dtype.kind in "uifUS":
            values = next(arrays.rows(name, [(rows.start, rows.stop)]))
            columns[name] = Column.of_array(values, unit=header.unit)
    try:
        table = ObjectTable.from_columns(columns, options, shard.inputs[0].path)
        return next(table.by_row([len(rows)])) if table else Objects.unknown(len(rows))
    except ConfigError as error:  # a table inside of the data is data
        raise ShardError(str(error)) from None


def _read_images(
    arrays: ArrayFile, options: ArrayOptions, ranges: Sequence[tuple[int, int]]
) -> Iterator[np.ndarray]:
    """float32 [B, C, Y, X] of each range of the first axis."""
    dtype = arrays.headers[options.image].dtype
    is_scaled = options.pixels == "display" and dtype.kind in "ui"
    weights = None if options.weight == NO_WEIGHT else arrays.rows(options.weight, ranges)
    for block in arrays.rows(options.image, ranges):
        with np.errstate(over="ignore"):  # beyond float32 is infinite; preparation judges it
            image_BCYX = np.array(_to_BCYX(block, options.layout), np.float32, order="C")
        if is_scaled:
            image_BCYX /= np.float32(np.iinfo(dtype).max)
        if weights is not None:
            weight_BCYX = _weight_BCYX(next(weights), options.layout)
            is_mask = options.weight.lower() in MASK_NAMES
            bad_BCYX = weight_BCYX != 0 if is_mask else ~(weight_BCYX > 0)
            image_BCYX[np.broadcast_to(bad_BCYX, image_BCYX.shape)] = np.nan
        yield image_BCYX


def _to_BCYX(block: np.ndarray, layout: str) -> np.ndarray:
    if "N" not in layout:
        block, layout = block[None], "N" + layout
    if "C" not in layout:
        block, layout = block[:, None], "NC" + layout[1:]
    return block.transpose([layout.index(axis) for axis in "NCYX"])


def _weight_BCYX(block: np.ndarray, layout: str) -> np.ndarray:
    """A weight or mask of the images' shape, or of one band, which holds for all: C is 1."""
    return _to_BCYX(block, layout if block.ndim == len(layout) else layout.replace("C", ""))


def _check_options(options: ArrayOptions) -> None:
    if options.layout not in ("", *LAYOUTS):
        raise ConfigError(f"layout is {options.layout!r}, expected one of {', '.join(LAYOUTS)}")
    if options.pixels not in ("", "display", "flux"):
        raise ConfigError(f"pixels is {options.pixels!r}, expected display or flux")
    if options.shard_rows < 1:
        raise ConfigError(f"shard_rows is {options.shard_rows}, expected at least 1")


def _settle_survey(paths: Sequence[str], options: ArrayOptions) -> ArrayOptions:
    """Options with nothing left open, by the first readable file; as given where none is."""
    for path in paths:
        try:
            with open_arrays(path) as arrays:
                return settle(arrays, options, path)
        except (ShardError, FileError):
            continue
    return options


def _stored(options: ArrayOptions) -> dict[str, Any]:
    return {key: getattr(options, key) for key in _STORED}


def _bands(options: ArrayOptions) -> tuple[str, ...]:
    return tuple(options.bands.split(","))


def _pixels(options: ArrayOptions) -> Pixels:
    return "display" if options.pixels == "display" else "flux"
