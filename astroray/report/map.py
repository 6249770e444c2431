"""What is on the map of the embedding: which objects, where, and what the page is told of them."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from astroray import schema
from astroray.errors import LedgerError
from astroray.report.groups import Group
from astroray.report.neighbor_map import MIN_OBJECTS, neighbor_map
from astroray.report.plane import drawn_nearer, principal_plane
from astroray.report.rows import GROUPS, num_top, read_embeddings, read_rows, read_top
from astroray.report.sky_view import view_of
from astroray.report.thumbnails import read_thumbnails
from astroray.run_record import RunRecord

__all__ = ["layouts", "map_data", "missing_layouts", "place_objects", "read_map"]

_log = logging.getLogger("astroray.report.map")
SIDE = 10_000
"""Of the square in which the page has all places, as whole numbers: it is smaller so."""


def read_map(run_dir: str) -> pa.Table:
    """MAP: the objects that are on the map of the run's report, at their places, by rank.

    Raises LedgerError where there is no run or no complete catalog.
    """
    record = RunRecord.load(run_dir)
    if record is None:
        raise LedgerError(f"no run record in {run_dir}, expected the folder named with --out")
    top = read_top(run_dir, num_top(record))
    return place_objects(run_dir, read_rows(run_dir, top, list(read_thumbnails(run_dir))).mapped)


def place_objects(run_dir: str, rows: pa.Table) -> pa.Table:
    """MAP of some rows of a version: of those whose shards have embeddings, the others left out.

    Where the embedding gives no finite places they are NaN: no map is worth a finished scan.

    rows  columns of MAP that are in CATALOG, by rank
    """
    found_M, embedding_MD, groups = read_embeddings(run_dir, rows)
    order_M = np.argsort(found_M)
    found_M, embedding_MD = found_M[order_M], embedding_MD[order_M]
    plane_M2, map_M2 = _places(embedding_MD)
    placed = rows.take(pa.array(found_M))
    for name in GROUPS.names:
        placed = placed.append_column(GROUPS.field(name), groups[name].take(pa.array(order_M)))
    for name, column_M in zip(
        ("map_x", "map_y", "plane_x", "plane_y"), (*map_M2.T, *plane_M2.T), strict=True
    ):
        placed = placed.append_column(schema.MAP.field(name), pa.array(column_M))
    return schema.conform(placed, schema.MAP, "map").combine_chunks()


def _places(embedding_MD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The principal plane and the map of neighbors, [M, 2] each; NaN what is not finite."""
    plane_M2, map_M2 = np.full((2, len(embedding_MD), 2), np.nan)
    try:
        if len(embedding_MD):
            plane_M2, _ = principal_plane(embedding_MD)
        is_many = len(embedding_MD) >= MIN_OBJECTS
        map_M2 = neighbor_map(embedding_MD, plane_M2) if is_many else plane_M2
    except (FloatingPointError, np.linalg.LinAlgError) as error:
        _log.warning("the report goes without a map of %d objects: %s", len(embedding_MD), error)
    return plane_M2, map_M2


def layouts(placed: pa.Table) -> dict[str, np.ndarray]:
    """Where each object of MAP is drawn, [M, 2] by layout, x right and y up; NaN where nowhere.

    likeness  neighbors together; only of as many objects as make that a map, and where finite
    plane     the principal plane, far objects nearer; only where finite
    sky       west right and north up, in the projection of the report's sky map
    """
    plane_M2, map_M2, sky_M2 = (
        np.stack([placed[name].to_numpy(zero_copy_only=False) for name in names], axis=1)
        for names in (("plane_x", "plane_y"), ("map_x", "map_y"), ("ra", "dec"))
    )
    found = {}
    if len(placed) >= MIN_OBJECTS and np.isfinite(map_M2).all():
        found["likeness"] = map_M2
    if len(placed) and np.isfinite(plane_M2).all():
        found["plane"] = drawn_nearer(plane_M2)
    if (is_known_M := np.isfinite(sky_M2[:, 0])).sum() > 1:
        ra_deg_N, dec_deg_N = sky_M2[is_known_M].astype(np.float64).T
        found["sky"] = np.full((len(placed), 2), np.nan)
        found["sky"][is_known_M] = view_of(ra_deg_N, dec_deg_N).places(ra_deg_N, dec_deg_N)
    return found


def missing_layouts(placed: pa.Table, drawn: Mapping[str, np.ndarray]) -> list[str]:
    """Those of likeness and plane that so many objects should have but that are not finite."""
    fewest = {"likeness": MIN_OBJECTS, "plane": 1}
    return [name for name, num in fewest.items() if len(placed) >= num and name not in drawn]


def map_data(
    placed: pa.Table,
    drawn: Mapping[str, np.ndarray],
    picture_of: Mapping[str, str],
    further: Mapping[str, str],
    num_cards: int,
    groups: Sequence[Group] = (),
) -> dict[str, Any]:
    """What the page's script draws, column by column; null where unknown.

    Empty for few objects, and where the embedding has no places.

    drawn       their `layouts`
    picture_of  HTML id of the picture by object_id
    further     words for the scores besides the ranking, by column
    num_cards   ranks up to this have a card in the page
    groups      what the objects can be told apart by, beside numbers
    """
    if len(placed) < 3 or "plane" not in drawn:
        return {}
    ids = placed["object_id"].to_pylist()
    words = {"outlier_score": "outlier score", **further}
    return {
        "object_id": ids,
        "rank": placed["rank"].to_pylist(),
        "certified": sum(placed["certified"].to_pylist()),  # they come first
        "picture": [picture_of.get(object_id, 0) for object_id in ids],
        "ra": _rounded(placed["ra"], ".8f"),
        "dec": _rounded(placed["dec"], ".8f"),
        "scores": [
            {"name": name, "words": text, "values": _rounded(placed[name], ".7g")}
            for name, text in words.items()
        ],
        "groups": [dataclasses.asdict(group) for group in groups],
        "layouts": {name: _whole(places_M2) for name, places_M2 in drawn.items()},
        "sky": _sky(placed, drawn["sky"]) if "sky" in drawn else None,
        "cards": num_cards,
    }


def _rounded(column: pa.ChunkedArray, digits: str) -> list[float | None]:
    return [None if value is None else float(f"{value:{digits}}") for value in column.to_pylist()]


def _sky(placed: pa.Table, places_M2: np.ndarray) -> dict[str, Any]:
    """The projection of the sky, and what its places became as whole numbers."""
    is_known_M = np.isfinite(places_M2[:, 0])
    ra_deg_N, dec_deg_N = (
        placed[name].to_numpy(zero_copy_only=False)[is_known_M] for name in ("ra", "dec")
    )
    low_2, unit = _frame(places_M2)
    view = dataclasses.asdict(view_of(ra_deg_N, dec_deg_N))
    return view | {"low": low_2.tolist(), "unit": unit}


def _frame(places_M2: np.ndarray) -> tuple[np.ndarray, float]:
    """Where whole numbers begin, [2], and how many make a unit of the places."""
    low_2, high_2 = np.nanmin(places_M2, axis=0), np.nanmax(places_M2, axis=0)
    return low_2, SIDE / (float((high_2 - low_2).max()) or 1.0)


def _whole(places_M2: np.ndarray) -> dict[str, list[int | None]]:
    """Places as whole numbers from 0 to SIDE along the longer side."""
    low_2, unit = _frame(places_M2)
    rounded_M2 = np.rint((places_M2 - low_2) * unit)
    return {
        axis: [None if np.isnan(value) else int(value) for value in rounded_M2[:, i].tolist()]
        for i, axis in enumerate("xy")
    }
