"""How the pictures of the report are made: the wanted rows of one shard, rendered."""

import json
from collections.abc import Mapping
from typing import Any

from astroray import surveys
from astroray.actors.embed import shard_from_json
from astroray.errors import DataError
from astroray.surveys.shards import Cutouts
from astroray.thumbnails import render_thumbnail


def render_rows(batch: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Thumbnails of chosen rows.

    Called with a batch {"shard": [JSON of a Shard], "rows": [JSON of row numbers]}; returns
    {"object_id", "thumbnail"}. A shard that has become unreadable has no pictures.
    """
    ids: list[str] = []
    pictures: list[bytes] = []
    for text, rows in zip(batch["shard"], batch["rows"], strict=True):
        try:
            for item in surveys.read_shard(shard_from_json(text), rows=json.loads(rows)):
                if isinstance(item, Cutouts):
                    ids += item.object_id_B
                    pictures += _render(item)
        except DataError:
            continue
    return {"object_id": ids, "thumbnail": pictures}


def _render(cutouts: Cutouts) -> list[bytes]:
    return [
        render_thumbnail(image_CYX, bands=cutouts.bands, pixels=cutouts.pixels)
        for image_CYX in cutouts.image_BCYX
    ]
