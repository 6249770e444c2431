"""Wide-field images become rows: each image is a shard, each source in it a stamp.

Examples of surveys:

    hdf                                   the Hubble Deep Field picture of scikit-image, R G B
    'night/*.fits.fz?size=64'             every image HDU, that is every detector, is a shard
    'field.fits?mask=bad.fits&threshold=3'
    'field.jpg?format=fields&threshold=3'
    'tiles/*.fits?bands=g,r,i'            a file a band, tile7_g.fits: a tile is a shard
    'tiles/*.fits?bands=g,r,i&catalog=objects.parquet'   stamps at the positions of a catalog

Positions are 0-based pixel coordinates of the file's array: the center of the first pixel is 0, 0
(FITS programs count from 1). A stamp is cut at whole pixels, without interpolation, so that its
source, or the position of its object in the catalog, lies within half a pixel of its middle.
"""

import dataclasses
import logging
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import sep

from astroray import storage
from astroray.errors import ConfigError, ShardError
from astroray.schema import Flag
from astroray.surveys import shards
from astroray.surveys.detection import detect
from astroray.surveys.field_images import FieldImage, ImageFiles, open_field, open_hdf
from astroray.surveys.field_listing import ListedImage, find_mask, list_images
from astroray.surveys.field_objects import (
    ObjectPlan,
    find_objects,
    plan_objects,
    read_misplaced,
)
from astroray.surveys.field_options import FieldOptions, parse_field_options
from astroray.surveys.fits_files import ALL
from astroray.surveys.object_files import publish_outside
from astroray.surveys.position_catalogs import CatalogColumns
from astroray.surveys.shards import Cutouts, Reject, Shard, SurveyUri
from astroray.surveys.survey_paths import survey_folder

_log = logging.getLogger(__name__)

__all__ = ["FieldOptions", "list_shards", "read_shard"]

HDF_OPTIONS = {"threshold": "3.0"}
"""The picture is an 8-bit JPEG, whose artifacts pass 1.5 sigma; 3.0 finds 1,971 sources."""

_SLICE_BYTES = 32 * 2**20
_SLICE_ROWS = 256
_STRIP_BYTES = 64 * 2**20


def list_shards(inputs: Sequence[storage.InputFile], uri: SurveyUri) -> list[Shard]:
    """One shard an image: a picture, an image HDU of a FITS file, or the files of its bands.

    Only headers are read, and of a catalog its positions, a part at a time.
    Raises ConfigError on a bad option, a mask file that is missing, or a catalog that cannot be
    used.
    """
    if not inputs:
        if "catalog" in uri.options:
            raise ConfigError("hdf has no positions on the sky, expected none of catalog=")
        options = parse_field_options({**HDF_OPTIONS, **uri.options})
        params = {**options.to_params(), "field": "hdf", "image": "hdf", "index": ""}
        return [Shard(name="hdf", reader="fields", inputs=(), params=params)]
    options = parse_field_options(uri.options)
    folder = survey_folder(uri.location)
    mask = find_mask(options, folder)
    files = [file for file in inputs if mask is None or file.path != mask.path]
    images = list_images(files, options, folder, uri.known)
    listed = [_shard(image, options, mask) for image in images]
    if not options.catalog or not listed:
        return listed
    grids = [image.grid for image in images]
    plan = plan_objects(uri.location, options.catalog, options.columns, grids)
    if plan.num_outside:
        _log.warning(
            "%d of %d objects of catalog %s lie on none of %d images",
            plan.num_outside, plan.num_objects, options.catalog, len(images),
        )  # fmt: skip
    if uri.objects_folder and not uri.known:  # what later images alone lack says nothing
        publish_outside(uri.objects_folder, num_outside=plan.num_outside, num_images=len(images))
    return [*_with_objects(listed, plan), *_misplaced(plan)]


def read_shard(shard: Shard, *, rows: Sequence[int] | None = None) -> Iterator[Cutouts | Reject]:
    """Stamps of one image, in order of y, then x: of its sources, or of objects of a catalog.

    Pixels beyond the image are NaN, and their stamps flagged EDGE. With `rows`, sources are
    detected again, which is repeatable, and only these stamps are cut.
    Raises ShardError where the image cannot be read or its sources cannot be extracted.
    """
    if shard.params.get("is_misplaced"):
        columns = CatalogColumns(**shard.params["columns"])
        every = enumerate(read_misplaced(shard.inputs, columns))
        yield from (reject for row, reject in every if rows is None or row in rows)
    elif not shard.inputs:
        yield from _stamps(open_hdf(), shard, rows)
    elif shard.num_rows != 0:
        if "rivals" in shard.params and not shard.params["rivals"]:
            raise _no_grid(shard)
        with open_field(_image_files(shard)) as field:
            yield from _stamps(field, shard, rows)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Places:
    """What is cut from an image, in order of y, then x."""

    object_id_N: Sequence[str]
    ra_deg_N: np.ndarray
    dec_deg_N: np.ndarray
    x_N: np.ndarray
    y_N: np.ndarray
    flags_N: np.ndarray


def _shard(image: ListedImage, options: FieldOptions, mask: storage.InputFile | None) -> Shard:
    inputs = (*image.files, mask) if mask else image.files
    params = options.to_params() | {
        "field": image.field, "image": image.name, "index": image.hdu,
    }  # fmt: skip
    if image.members is not None:
        params["members"] = list(image.members)
    digest = shards.shard_name(inputs, params).rpartition("-")[2]
    readable = re.sub(r"[^A-Za-z0-9.-]+", "-", image.name).strip("-.")[:80] or "image"
    return Shard(name=f"{readable}-{digest}", reader="fields", inputs=inputs, params=params)


def _with_objects(listed: Sequence[Shard], plan: ObjectPlan) -> list[Shard]:
    """The images with what is to be cut from each; they keep their names."""
    shards_of = []
    for place, shard in enumerate(listed):
        catalogs, rivals = plan.files_G[place], plan.rivals_G[place]
        params: dict[str, Any] = {
            **shard.params,
            **dataclasses.asdict(plan.columns),
            "rivals": rivals,
            "own": plan.own_G[place],
            "num_catalogs": len(catalogs),
        }
        shards_of.append(
            dataclasses.replace(
                shard,
                inputs=(*shard.inputs, *catalogs),
                params=params,
                num_rows=0 if rivals and not catalogs else None,
            )
        )
    return shards_of


def _misplaced(plan: ObjectPlan) -> list[Shard]:
    """A shard of rejects for each file of the catalog with objects that have no position."""
    params = {"is_misplaced": True, "columns": dataclasses.asdict(plan.columns)}
    return [
        Shard(
            name=f"no-position-{shards.shard_name([file], params)}",
            reader="fields",
            inputs=(file,),
            params=params,
        )
        for file in plan.misplaced
    ]


def _image_files(shard: Shard) -> ImageFiles:
    """Where the pixels are: images come first among the inputs, then the mask, then catalogs."""
    params = shard.params
    members = params.get("members") or [0]
    if None in members:
        bands = str(params["bands"]).split(",")
        raise ShardError(
            f"the image of {shard.inputs[0].path} has no file of band "
            f"{bands[members.index(None)].strip()}, expected one of each band"
        )
    return ImageFiles(
        paths=[shard.inputs[member].path for member in members],
        hdu=str(params["index"]),
        mask="" if "." in params["mask"] else str(params["mask"]),
        mask_path=shard.inputs[len(members)].path if "." in params["mask"] else "",
        bands=str(params["bands"]),
    )


def _no_grid(shard: Shard) -> ShardError:
    with open_field(_image_files(shard)):  # what is wrong with the file is said first
        return ShardError(
            f"{shard.inputs[0].path} has no celestial coordinate system that can be used, expected "
            "one for catalog=; leave catalog= out to detect sources"
        )


def _stamps(field: FieldImage, shard: Shard, rows: Sequence[int] | None) -> Iterator[Cutouts]:
    params = shard.params
    size_px = int(params["size"])
    if "rivals" in params:
        places = _of_catalog(shard)
    else:
        image_CYX = field.read_lines(ALL)
        places = _of_detection(field, image_CYX, shard)
        field = dataclasses.replace(field, read_lines=lambda lines: image_CYX[:, lines])
    _log.info("%s: %d objects in %s", shard.name, len(places.x_N), field.shape_CYX)
    every_N = np.arange(len(places.x_N))
    wanted_N = every_N if rows is None else np.array(sorted(set(rows)), np.int64)
    for row_B, first_line, strip_CYX in _strips(field, places.y_N, wanted_N, size_px):
        image_BCYX, flags_B = _cut(
            strip_CYX, places.x_N[row_B], places.y_N[row_B] - first_line, size_px, field
        )
        yield Cutouts(
            row_B=row_B.astype(np.int64),
            object_id_B=[places.object_id_N[row] for row in row_B],
            ra_deg_B=places.ra_deg_N[row_B],
            dec_deg_B=places.dec_deg_N[row_B],
            image_BCYX=image_BCYX,
            bands=field.bands,
            pixels=field.pixels,
            flags_B=flags_B | places.flags_N[row_B],
            field=str(params["field"]),
            night=field.header.night if field.header else None,
            detector=field.header.detector if field.header else None,
        )


def _of_detection(field: FieldImage, image_CYX: np.ndarray, shard: Shard) -> _Places:
    own = {name.name for name in dataclasses.fields(FieldOptions)}
    options = FieldOptions(**{name: v for name, v in shard.params.items() if name in own})
    image = str(shard.params["image"])
    sources = detect(image_CYX, field.bands, options, image)
    ra_deg_N, dec_deg_N = np.full((2, len(sources)), np.nan)
    if field.header is not None:
        ra_deg_N, dec_deg_N = field.header.positions(sources["x"], sources["y"])
    return _Places(
        object_id_N=[f"{image}:{x:.2f}_{y:.2f}" for x, y in sources[["x", "y"]]],
        ra_deg_N=ra_deg_N,
        dec_deg_N=dec_deg_N,
        x_N=sources["x"],
        y_N=sources["y"],
        flags_N=np.where(sources["flag"] & sep.OBJ_MERGED, Flag.BLENDED, 0).astype(np.int32),
    )


def _of_catalog(shard: Shard) -> _Places:
    params = shard.params
    catalogs = shard.inputs[len(shard.inputs) - int(params["num_catalogs"]) :]
    columns = CatalogColumns(**{key: params[key] for key in ("id", "ra", "dec", "angles")})
    found = find_objects(catalogs, columns, int(params["own"]), str(params["rivals"]))
    return _Places(
        object_id_N=found.object_id_N,
        ra_deg_N=found.ra_deg_N,
        dec_deg_N=found.dec_deg_N,
        x_N=found.x_N,
        y_N=found.y_N,
        flags_N=np.zeros(len(found.x_N), np.int32),
    )


def _strips(
    field: FieldImage, y_N: np.ndarray, wanted_N: np.ndarray, size_px: int
) -> Iterator[tuple[np.ndarray, int, np.ndarray]]:
    """Slices of rows, each with the lines of the image that hold their stamps, read strip by strip.

    Yields rows [B], the first line, and the lines [C, Y, X].
    """
    num_bands, height_px, width_px = field.shape_CYX
    strip_px = max(size_px, _STRIP_BYTES // (4 * num_bands * width_px))
    step = min(max(_SLICE_BYTES // (4 * num_bands * size_px**2), 1), _SLICE_ROWS)
    low_W = _first_pixel(y_N[wanted_N], size_px)
    start = 0
    while start < len(wanted_N):
        stop = int(np.searchsorted(low_W, low_W[start] + strip_px - size_px, side="right"))
        first, last = max(int(low_W[start]), 0), min(int(low_W[stop - 1]) + size_px, height_px)
        strip_CYX = field.read_lines(slice(first, last))
        for here in range(start, stop, step):
            yield wanted_N[here : min(here + step, stop)], first, strip_CYX
        start = stop


def _first_pixel(center_N: np.ndarray, size_px: int) -> np.ndarray:
    return np.floor(center_N - size_px / 2 + 1).astype(int)


def _cut(
    strip_CYX: np.ndarray, x_B: np.ndarray, y_B: np.ndarray, size_px: int, field: FieldImage
) -> tuple[np.ndarray, np.ndarray]:
    """Stamps [B, C, size, size] and their flags [B]; pixels beyond the image are NaN.

    x_B, y_B  [B]  centers in pixels of the strip, which ends where the image does or beyond stamps
    """
    num_bands, height_px, width_px = strip_CYX.shape
    image_BCYX = np.full((len(x_B), num_bands, size_px, size_px), np.nan, np.float32)
    flags_B = np.zeros(len(x_B), np.int32)
    for i, (left, low) in enumerate(
        zip(_first_pixel(x_B, size_px), _first_pixel(y_B, size_px), strict=True)
    ):
        x0, x1 = max(left, 0), min(left + size_px, width_px)
        y0, y1 = max(low, 0), min(low + size_px, height_px)
        pixels_CYX = strip_CYX[:, y0:y1, x0:x1]
        image_BCYX[i, :, y0 - low : y1 - low, x0 - left : x1 - left] = pixels_CYX
        if pixels_CYX.shape[1:] != (size_px, size_px):
            flags_B[i] |= Flag.EDGE
        if (pixels_CYX >= field.saturation_C[:, None, None]).any():
            flags_B[i] |= Flag.SATURATED
    return image_BCYX, flags_B
