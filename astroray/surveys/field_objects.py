"""Which image each object of a catalog is cut from, by headers and positions alone.

When a survey is listed, all positions are gone through once, a part at a time: it is noted for
each image which files of the catalog have objects on it, and which images overlap it. When an
image is read, its objects are found again from these notes.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from astroray import storage
from astroray.errors import ConfigError, ShardError
from astroray.surveys.hats_catalogs import find_pixel
from astroray.surveys.position_catalogs import (
    CatalogColumns,
    CatalogPart,
    find_catalog,
    read_catalog,
)
from astroray.surveys.shards import Reject, reject
from astroray.surveys.sky_grids import (
    SkyGrid,
    choose_grid,
    find_overlaps,
    pack_grids,
    unpack_grids,
)

__all__ = ["FieldObjects", "ObjectPlan", "find_objects", "plan_objects", "read_misplaced"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectPlan:
    """What a listing knows of a catalog and the images of a survey."""

    files_G: Sequence[Sequence[storage.InputFile]]
    """[G] files of the catalog that have objects on each image; none of one without a grid."""
    rivals_G: Sequence[str]
    """[G] an image and those that overlap it, packed; empty where it has no grid."""
    own_G: Sequence[int]
    """[G] the place of the image among its rivals."""
    misplaced: Sequence[storage.InputFile]
    """Files with rows that have no possible position."""
    num_misplaced: int
    num_outside: int
    """Objects that lie on none of the images."""
    num_objects: int
    columns: CatalogColumns


@dataclasses.dataclass(frozen=True, kw_only=True)
class FieldObjects:
    """The objects that are cut from one image, in order of y, then x.

    x_N, y_N  [N]  0-based pixel coordinates
    """

    object_id_N: Sequence[str]
    ra_deg_N: np.ndarray
    dec_deg_N: np.ndarray
    x_N: np.ndarray
    y_N: np.ndarray


def plan_objects(
    location: str, names: str, columns: CatalogColumns, grids: Sequence[SkyGrid | None]
) -> ObjectPlan:
    """Goes through the catalog once, and over the images that it is to be cut from.

    Raises ConfigError where the catalog cannot be used.
    """
    catalog = find_catalog(location, names, columns)
    ordered = sorted((grid.name, g) for g, grid in enumerate(grids) if grid)
    known = [grid for _, g in ordered if (grid := grids[g])]
    counted = [
        _count(file, catalog.columns, known)
        for file in catalog.files
        if not _is_apart(file.path, known)
    ]
    files_of: list[list[storage.InputFile]] = [[] for _ in known]
    for one in counted:
        for place in one.places:
            files_of[place].append(one.file)
    num_placed = sum(one.num_placed for one in counted)
    num_misplaced = sum(one.num_misplaced for one in counted)
    num_in_hats = sum(one.num_rows for one in counted if find_pixel(one.file.path))
    num_objects = sum(one.num_rows for one in counted)
    num_objects += max(0, catalog.num_in_hats - num_in_hats)  # those of partitions that lie apart
    overlaps = find_overlaps(known)
    place_of = {g: place for place, (_, g) in enumerate(ordered)}
    places = [place_of.get(g) for g in range(len(grids))]
    return ObjectPlan(
        files_G=[[] if place is None else files_of[place] for place in places],
        rivals_G=[
            "" if place is None else pack_grids([known[i] for i in overlaps[place]])
            for place in places
        ],
        own_G=[0 if place is None else overlaps[place].index(place) for place in places],
        misplaced=[one.file for one in counted if one.num_misplaced],
        num_misplaced=num_misplaced,
        num_outside=num_objects - num_placed - num_misplaced,
        num_objects=num_objects,
        columns=catalog.columns,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Counted:
    """How the objects of one file of a catalog lie among the images."""

    file: storage.InputFile
    places: Sequence[int]
    """Of the images that hold any of them."""
    num_rows: int
    num_placed: int
    """Rows whose objects belong to an image."""
    num_misplaced: int
    """Rows whose objects have no possible position."""


def _count(file: storage.InputFile, columns: CatalogColumns, known: Sequence[SkyGrid]) -> _Counted:
    num_on_G = np.zeros(len(known), np.int64)
    num_rows = num_placed = num_misplaced = 0
    for part in read_catalog(file, columns):
        owner_N, on_part_G = choose_grid(known, part.ra_deg_N, part.dec_deg_N)
        num_on_G += on_part_G
        num_rows += len(owner_N)
        num_placed += int(np.count_nonzero(owner_N >= 0))
        num_misplaced += int(np.count_nonzero(np.isnan(part.ra_deg_N)))
    return _Counted(
        file=file,
        places=np.flatnonzero(num_on_G).tolist(),
        num_rows=num_rows,
        num_placed=num_placed,
        num_misplaced=num_misplaced,
    )


def find_objects(
    files: Sequence[storage.InputFile], columns: CatalogColumns, own: int, rivals: str
) -> FieldObjects:
    """The objects that belong to the image whose grid is number `own` of the packed `rivals`.

    Raises ShardError where a file of the catalog cannot be read.
    """
    grids = unpack_grids(rivals)
    found: list[CatalogPart] = []
    try:
        for file in files:
            for part in read_catalog(file, columns, near=grids[own]):
                owner_N, _ = choose_grid(grids, part.ra_deg_N, part.dec_deg_N)
                found.append(part.take(np.flatnonzero(owner_N == own)))
    except ConfigError as error:  # a catalog that was fine when it was listed
        raise ShardError(str(error)) from None
    ids = [object_id for part in found for object_id in part.object_id_N]
    ra_deg_N, dec_deg_N = (
        np.concatenate([np.empty(0), *(getattr(part, key) for part in found)])
        for key in ("ra_deg_N", "dec_deg_N")
    )
    x_N, y_N = grids[own].pixels(ra_deg_N, dec_deg_N)
    order = np.lexsort((np.arange(len(ids)), x_N, y_N))
    return FieldObjects(
        object_id_N=[ids[i] for i in order.tolist()],
        ra_deg_N=ra_deg_N[order],
        dec_deg_N=dec_deg_N[order],
        x_N=x_N[order],
        y_N=y_N[order],
    )


def read_misplaced(files: Sequence[storage.InputFile], columns: CatalogColumns) -> Iterator[Reject]:
    """A reject for each object without a possible position, in the order of the catalog."""
    row = 0
    try:
        for file in files:
            for part in read_catalog(file, columns):
                for i in np.flatnonzero(np.isnan(part.ra_deg_N)).tolist():
                    reason = (
                        f"object {part.object_id_N[i]} in row {part.row_N[i]} of {part.path} has "
                        "no possible position, expected degrees, ICRS; mend the catalog"
                    )
                    yield reject(row, "position", reason)
                    row += 1
    except ConfigError as error:
        raise ShardError(str(error)) from None


def _is_apart(path: str, grids: Sequence[SkyGrid]) -> bool:
    """Whether a partition of HATS lies nowhere near the images; unknown of other files."""
    pixel = find_pixel(path)
    if pixel is None:
        return False
    center, radius_rad = pixel
    return all(
        np.linalg.norm(grid.center - center)
        > 2 * np.sin(min(grid.radius_rad + radius_rad, np.pi) / 2)
        for grid in grids
    )
