"""How the pictures of the report are made: the wanted rows of one shard, rendered."""

import json
from collections.abc import Mapping
from typing import Any

from astroray import surveys
from astroray.actors.embed import unpack_shard
from astroray.errors import DataError
from astroray.preparation.modalities import MODALITIES
from astroray.surveys.shards import Rows


def render_rows(batch: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Thumbnails of chosen rows.

    Called with a batch {"shard": [packed Shard], "rows": [JSON of row numbers]}; returns
    {"object_id", "thumbnail"}. A shard that has become unreadable has no pictures.
    """
    ids: list[str] = []
    pictures: list[bytes] = []
    for text, rows in zip(batch["shard"], batch["rows"], strict=True):
        shard = unpack_shard(text)
        modality = MODALITIES[surveys.modality_of(shard)]
        try:
            for item in surveys.read_shard(shard, rows=json.loads(rows)):
                if isinstance(item, Rows):
                    ids += item.object_id_B
                    pictures += modality.render(item)
        except DataError:
            continue
    return {"object_id": ids, "thumbnail": pictures}
