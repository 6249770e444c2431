"""What is on the map of the embedding: which objects, where, and what the page is told of them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from astroray import ledger, schema
from astroray.errors import LedgerError
from astroray.report.figures import sky_places
from astroray.report.neighbor_map import MIN_OBJECTS, neighbor_map
from astroray.report.plane import drawn_nearer, principal_plane
from astroray.report.rows import num_top, read_embeddings, read_rows, read_top
from astroray.report.thumbnails import read_thumbnails

__all__ = ["layouts", "map_data", "place_objects", "read_map"]

SIDE = 10_000
"""Of the square in which the page has all places, as whole numbers: it is smaller so."""


def read_map(run_dir: str) -> pa.Table:
    """MAP: the objects that are on the map of the run's report, at their places, by rank.

    Raises LedgerError where there is no run or no complete catalog.
    """
    record = ledger.RunRecord.load(run_dir)
    if record is None:
        raise LedgerError(f"no run record in {run_dir}, expected the folder named with --out")
    top = read_top(run_dir, num_top(record))
    return place_objects(run_dir, read_rows(run_dir, top, list(read_thumbnails(run_dir))).mapped)


def place_objects(run_dir: str, rows: pa.Table) -> pa.Table:
    """MAP of some rows of a version: of those whose shards have embeddings, the others left out.

    rows  columns of MAP that are in CATALOG, by rank
    """
    found_M, embedding_MD = read_embeddings(run_dir, rows)
    order_M = np.argsort(found_M)
    found_M, embedding_MD = found_M[order_M], embedding_MD[order_M]
    plane_M2 = map_M2 = np.zeros((len(found_M), 2))
    if len(found_M):
        plane_M2, _ = principal_plane(embedding_MD)
        map_M2 = plane_M2
    if len(found_M) >= MIN_OBJECTS:
        map_M2 = neighbor_map(embedding_MD, plane_M2)
    placed = rows.take(pa.array(found_M))
    for name, column_M in zip(
        ("map_x", "map_y", "plane_x", "plane_y"), (*map_M2.T, *plane_M2.T), strict=True
    ):
        placed = placed.append_column(schema.MAP.field(name), pa.array(column_M))
    return schema.conform(placed, schema.MAP, "map").combine_chunks()


def layouts(placed: pa.Table) -> dict[str, np.ndarray]:
    """Where each object of MAP is drawn, [M, 2] by layout, x right and y up; NaN where nowhere.

    likeness  neighbors together; only of as many objects as make that a map
    plane     the principal plane, far objects nearer
    sky       west right and north up, in the projection of the report's sky map
    """
    plane_M2, map_M2, sky_M2 = (
        np.stack([placed[name].to_numpy(zero_copy_only=False) for name in names], axis=1)
        for names in (("plane_x", "plane_y"), ("map_x", "map_y"), ("ra", "dec"))
    )
    found = {"likeness": map_M2} if len(placed) >= MIN_OBJECTS else {}
    if len(placed):
        found["plane"] = drawn_nearer(plane_M2)
    if np.isfinite(sky_M2[:, 0]).sum() > 1:
        found["sky"] = sky_places(*sky_M2.T.astype(np.float64))
    return found


def map_data(
    placed: pa.Table,
    drawn: Mapping[str, np.ndarray],
    picture_of: Mapping[str, str],
    further: Mapping[str, str],
    num_cards: int,
) -> dict[str, Any]:
    """What the page's script draws, column by column; null where unknown. Empty for few objects.

    drawn       their `layouts`
    picture_of  HTML id of the picture by object_id
    further     words for the scores besides the ranking, by column
    num_cards   ranks up to this have a card in the page
    """
    if len(placed) < 3:
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
        "layouts": {name: _whole(places_M2) for name, places_M2 in drawn.items()},
        "cards": num_cards,
    }


def _rounded(column: pa.ChunkedArray, digits: str) -> list[float | None]:
    return [None if value is None else float(f"{value:{digits}}") for value in column.to_pylist()]


def _whole(places_M2: np.ndarray) -> dict[str, list[int | None]]:
    """Places as whole numbers from 0 to SIDE along the longer side."""
    low_2, high_2 = np.nanmin(places_M2, axis=0), np.nanmax(places_M2, axis=0)
    unit = SIDE / (float((high_2 - low_2).max()) or 1.0)
    rounded_M2 = np.rint((places_M2 - low_2) * unit)
    return {
        axis: [None if np.isnan(value) else int(value) for value in rounded_M2[:, i].tolist()]
        for i, axis in enumerate("xy")
    }
