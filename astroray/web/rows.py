"""Rows of the catalog as JSON values: which columns, and what becomes of numbers without one."""

import dataclasses
import math
from typing import Any

import pyarrow as pa

from astroray import schema

__all__ = ["COLUMNS", "Rows"]

COLUMNS = [field for field in schema.CATALOG if not field.name.startswith("_")]
"""An order-29 HEALPix index does not fit into a JSON number; the VOTable has it."""


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows of the catalog as JSON values, by name, in the order given."""

    table: pa.Table

    def objects(self) -> list[dict[str, Any]]:
        """CatalogObject of each row."""
        rows = self.table.select([field.name for field in COLUMNS]).to_pylist()
        return [{name: _finite(value) for name, value in row.items()} for row in rows]

    def neighbors(self, distances: list[float]) -> list[dict[str, Any]]:
        """Neighbor of each row, `distances` away."""
        names = ["object_id", "ra", "dec", "rank", "outlier_score"]
        rows = self.table.select(names).to_pylist()
        return [
            {name: _finite(value) for name, value in row.items()} | {"distance": distance}
            for row, distance in zip(rows, distances, strict=True)
        ]


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
