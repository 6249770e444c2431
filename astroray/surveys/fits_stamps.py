"""How single cutouts come out of an open FITS file, for each way in which files hold them."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from astroray import sky
from astroray.errors import ConfigError, DataError, ShardError
from astroray.surveys.fits_files import ALL, FitsFile, open_fits
from astroray.surveys.fits_headers import FitsImage
from astroray.surveys.object_tables import ObjectTable, TableOptions
from astroray.surveys.objects import Objects
from astroray.surveys.shards import Reject, Shard, reject
from astroray.surveys.slices import reject_file
from astroray.surveys.table_columns import Column

_BLOCK_ROWS = 64
_ONE_PLACE_ARCSEC = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stamp:
    """One row on its way into a slice; its fields are those of `shards.Cutouts`."""

    row: int
    object_id: str
    ra_deg: float
    dec_deg: float
    image_CYX: np.ndarray
    bands: tuple[str, ...]


def read_cube(shard: Shard, rows: Sequence[int] | None) -> Iterator[Stamp | Reject]:
    """Rows of a cube [N, Y, X] or [N, C, Y, X]; raises ShardError where it cannot be read."""
    params = shard.params
    with open_fits(shard.inputs[0].path) as file:
        image = find_cube(file, str(params["hdu"]))
        start = params["start"] or 0
        num_rows = (params["stop"] or image.shape[0]) - start
        bands = image.bands(1 if len(image.shape) == 3 else image.shape[1], asked=params["bands"])
        objects = _cube_objects(file, image, shard, num_rows)
        for first, last in _blocks(num_rows, rows):
            images = _read_pixels(file, image, slice(start + first, start + last))
            for row, image_YX in enumerate(images, start=first):
                yield Stamp(
                    row=row,
                    object_id=objects.object_id_N[row] or f"{shard.name}:{row}",
                    ra_deg=float(objects.ra_deg_N[row]),
                    dec_deg=float(objects.dec_deg_N[row]),
                    image_CYX=image_YX.reshape(len(bands), *image.shape[-2:]),
                    bands=bands,
                )


def find_cube(file: FitsFile, hdu: str) -> FitsImage:
    """The image HDU of three or four axes. Raises ShardError where there is none."""
    for image in file.sciences(hdu):
        if len(image.shape) in (3, 4):
            return image
    raise ShardError(
        f"{file.path} has no image of shape [N, Y, X] or [N, C, Y, X], expected one for "
        "layout=cube; name it with hdu="
    )


def _cube_objects(file: FitsFile, image: FitsImage, shard: Shard, num_rows: int) -> Objects:
    """Identifiers and positions of the shard's rows: the user's table, else the file's own."""
    params: Mapping[str, Any] = shard.params
    if "objects" in params:
        objects = Objects.from_params(params["objects"])
        if len(objects.object_id_N) != num_rows:
            raise ShardError(
                f"{file.path} has {num_rows} rows, expected the {len(objects.object_id_N)} of its "
                "table; give the table that belongs to it"
            )
        return objects
    fitting = [index for index in file.tables if file.num_rows(index) == image.shape[0]]
    if not fitting:
        return Objects.unknown(num_rows)
    start = params["start"] or 0
    headers = file.column_headers(fitting[0])
    plain = [name for name, header in headers.items() if len(header.shape) == 1]
    values = file.read_columns(fitting[0], plain, start=start, stop=start + num_rows)
    columns = {name: Column.of_array(values[name], unit=headers[name].unit) for name in plain}
    options = TableOptions(id=params["id"], ra=params["ra"], dec=params["dec"])
    try:
        table = ObjectTable.from_columns(columns, options, f"{file.path}, HDU {fitting[0]}")
        return next(table.by_row([num_rows])) if table else Objects.unknown(num_rows)
    except ConfigError as error:  # a table inside of the data is data
        raise ShardError(str(error)) from None


def _blocks(num_rows: int, rows: Sequence[int] | None) -> Iterator[tuple[int, int]]:
    """(start, stop) of what is read at once: single rows where only some are asked for."""
    if rows is None:
        starts = range(0, num_rows, _BLOCK_ROWS)
        yield from ((start, min(start + _BLOCK_ROWS, num_rows)) for start in starts)
    else:
        yield from ((row, row + 1) for row in rows)


def read_mef(shard: Shard, rows: Sequence[int] | None) -> Iterator[Stamp | Reject]:
    """Image HDUs of one file, a row each; raises ShardError where it cannot be opened."""
    with open_fits(shard.inputs[0].path) as file:
        images = file.sciences(str(shard.params["hdu"]))
        names = _names(images, str(shard.params.get("prefix", "")))
        for row in range(len(images)) if rows is None else rows:
            name = names[row] or f"{shard.name}:{row}"
            stamp = read_stamp(file, [images[row]], row, name, str(shard.params["bands"]))
            yield _place(stamp, images[row]) if isinstance(stamp, Stamp) else stamp


def _names(images: Sequence[FitsImage], prefix: str) -> list[str]:
    """EXTNAME of each stamp, else its ID or OBJECT, where they tell the stamps apart.

    `prefix` goes before an EXTNAME, which is no more than a place in its file.
    """
    for keys in (("EXTNAME",), ("ID", "OBJECT_ID", "OBJID"), ("OBJECT",)):
        names = [next(filter(None, map(image.text, keys)), "") for image in images]
        if all(names) and len(set(names)) == len(names):
            return [prefix + name for name in names] if keys == ("EXTNAME",) else names
    return [""] * len(images)


def band_of(image: FitsImage) -> str:
    """The band that its header names; empty where it names none."""
    return image.text("BAND") or image.text("FILTER")


def are_bands(images: Sequence[FitsImage]) -> bool:
    """Whether several images show one object, a band each, rather than an object each.

    They do where they have one shape and lie at one place, as far as they say where, and name
    different bands, or none but the same place.
    """
    shapes = {image.plain_shape for image in images}
    if len(images) < 2 or len(shapes) > 1 or len(next(iter(shapes))) != 2:
        return False
    height_px, width_px = next(iter(shapes))
    center = np.array([(width_px - 1) / 2]), np.array([(height_px - 1) / 2])
    places = np.array([image.positions(*center) for image in images])[..., 0]  # [N, 2] deg
    away_arcsec = sky.separation_arcsec(*places.T, *places[0])
    if np.any(away_arcsec > _ONE_PLACE_ARCSEC):
        return False
    bands = [band_of(image) for image in images]
    if all(bands):
        return len(set(bands)) == len(bands)
    return not any(bands) and bool(np.all(away_arcsec <= _ONE_PLACE_ARCSEC))


def read_stamps(shard: Shard, rows: Sequence[int] | None) -> Iterator[Stamp | Reject]:
    """Files of one object each; a file that cannot be read is a Reject."""
    objects = Objects.from_params(shard.params["objects"])
    for row in range(len(shard.inputs)) if rows is None else rows:
        found = _read_file(shard, row, row, str(shard.params["bands"]), objects)
        yield _known_place(found, objects)


def read_band_files(shard: Shard, rows: Sequence[int] | None) -> Iterator[Stamp | Reject]:
    """Objects of a file a band; one that lacks a band, or has one of another shape, is a Reject."""
    objects = Objects.from_params(shard.params["objects"])
    bands = [band.strip() for band in str(shard.params["bands"]).split(",")]
    members = shard.params["members"]
    for row in range(len(members)) if rows is None else rows:
        yield _known_place(_join_bands(shard, row, members[row], bands, objects), objects)


def _join_bands(
    shard: Shard,
    row: int,
    members: Sequence[int | None],
    bands: Sequence[str],
    objects: Objects,
) -> Stamp | Reject:
    found: list[Stamp] = []
    for member, band in zip(members, bands, strict=True):
        if member is None:
            some = next(shard.inputs[i].path for i in members if i is not None)
            reason = f"the object of {some} has no file of band {band}, expected one of each band"
            return reject(row, "missing", reason)
        stamp = _read_file(shard, member, row, band, objects)
        if isinstance(stamp, Reject):
            return stamp
        if found and stamp.image_CYX.shape != found[0].image_CYX.shape:
            reason = (
                f"{shard.inputs[member].path} has shape {stamp.image_CYX.shape}, expected "
                f"{found[0].image_CYX.shape} as in band {bands[0]}"
            )
            return reject(row, "shape", reason)
        found.append(stamp)
    image_CYX = np.concatenate([stamp.image_CYX for stamp in found])
    return dataclasses.replace(found[0], image_CYX=image_CYX, bands=tuple(bands))


def _read_file(shard: Shard, member: int, row: int, bands: str, objects: Objects) -> Stamp | Reject:
    """The object of one file of the shard, placed by its header."""
    path = shard.inputs[member].path
    name = objects.object_id_N[row] or f"{shard.name}:{row}"
    try:
        with open_fits(path) as file:
            images = file.sciences(str(shard.params["hdu"]))
            stamp = read_stamp(file, images, row, name, bands)
            return _place(stamp, images[0]) if isinstance(stamp, Stamp) else stamp
    except DataError as error:
        return reject_file(row, path, error)


def _known_place(stamp: Stamp | Reject, objects: Objects) -> Stamp | Reject:
    """The stamp with the position of the user's table, where it has one."""
    if isinstance(stamp, Reject) or np.isnan(objects.ra_deg_N[stamp.row]):
        return stamp
    return dataclasses.replace(
        stamp,
        ra_deg=float(objects.ra_deg_N[stamp.row]),
        dec_deg=float(objects.dec_deg_N[stamp.row]),
    )


def read_stamp(
    file: FitsFile, images: Sequence[FitsImage], row: int, name: str, bands_asked: str
) -> Stamp | Reject:
    """One object without position: the planes of one HDU, or HDUs of one shape, a band each."""
    shapes = sorted({image.plain_shape for image in images})
    if len(shapes) != 1 or len(shapes[0]) > 3:
        found = ", ".join(str(shape) for shape in shapes) or "none"
        reason = f"{file.path} has images of shape {found}, expected one [Y, X] or [C, Y, X]"
        return reject(row, "shape", reason + "; name it with hdu=")
    height_px, width_px = shapes[0][-2:]
    try:
        planes = [_read_pixels(file, image).reshape(-1, height_px, width_px) for image in images]
        bands = _bands(images, [len(plane) for plane in planes], bands_asked)
    except ShardError as error:
        return reject(row, "corrupt", str(error))
    return Stamp(
        row=row,
        object_id=name,
        ra_deg=np.nan,
        dec_deg=np.nan,
        image_CYX=np.concatenate(planes),
        bands=bands,
    )


def _place(stamp: Stamp, image: FitsImage) -> Stamp:
    """The stamp with the position of its center, by its header."""
    height_px, width_px = image.shape[-2:]
    center = np.array([(width_px - 1) / 2]), np.array([(height_px - 1) / 2])
    ra_deg_B, dec_deg_B = image.positions(*center)
    return dataclasses.replace(stamp, ra_deg=float(ra_deg_B[0]), dec_deg=float(dec_deg_B[0]))


def _bands(images: Sequence[FitsImage], counts: Sequence[int], asked: str) -> tuple[str, ...]:
    if len(images) == 1:
        return images[0].bands(counts[0], asked=asked)
    names = tuple(filter(None, map(str.strip, asked.split(",")))) or tuple(
        band_of(image) or image.name for image in images
    )
    if len(names) == sum(counts) and all(names) and len(set(names)) == len(names):
        return names
    return tuple(f"b{plane}" for plane in range(sum(counts)))


def _read_pixels(file: FitsFile, image: FitsImage, rows: slice = ALL) -> np.ndarray:
    """Pixels of one HDU, or of some rows of a cube; NaN where its masks say bad."""
    pixels = file.read(image, rows=rows)
    bad = file.read_bad(image, rows=rows)
    if bad is not None:
        pixels[bad] = np.nan
    return pixels
