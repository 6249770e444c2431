"""The light curves of a star together: its flares, its completeness, its flare frequency."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from astroray import schema
from astroray.flares.frequency import (
    Completeness,
    FlareFrequency,
    completeness_of,
    frequency_of,
)

__all__ = ["Star", "split_candidates", "stars_of", "stars_table"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Star:
    """All that was found of one star."""

    curves: Sequence[Mapping[str, Any]]
    """Its rows of FLARE_CURVES."""
    completeness: Completeness
    frequency: FlareFrequency

    @property
    def object_id(self) -> str:
        return str(self.curves[0]["object_id"])

    @property
    def observed_d(self) -> float:
        return float(sum(curve["observed"] for curve in self.curves))

    @property
    def num_flares(self) -> int:
        return int(sum(curve["num_flares"] for curve in self.curves))

    @property
    def num_mirrored(self) -> int:
        return int(sum(curve["num_mirrored"] for curve in self.curves))


def split_candidates(candidates: pa.Table) -> tuple[pa.Table, pa.Table]:
    """FLARES and REFUSED_FLARES of a table of candidates, sorted by star and time."""
    ordered = candidates.sort_by(
        [(name, "ascending") for name in ("object_id", "peak", "shard", "row")]
    )
    is_flare = pc.is_null(ordered["class"])
    flares = ordered.filter(is_flare).select(schema.FLARES.names)
    refused = ordered.filter(pc.invert(is_flare))
    return (
        schema.conform(flares, schema.FLARES, "flares"),
        schema.conform(refused, schema.REFUSED_FLARES, "refused_flares"),
    )


def stars_of(curves: pa.Table, flares: pa.Table) -> Iterator[Star]:
    """The stars of FLARE_CURVES with the flares of FLARES, in order of identifier.

    Flares that two light curves of one star share, as of overlapping files, are not told apart
    and count twice, as do their days.
    """
    by_star: dict[str, list[dict[str, Any]]] = {}
    for row in curves.sort_by(
        [(name, "ascending") for name in ("object_id", "shard", "row")]
    ).to_pylist():
        by_star.setdefault(row["object_id"], []).append(row)
    found: dict[str, list[float]] = {}
    names = flares["object_id"].to_pylist()
    for name, ed_s in zip(names, flares["equivalent_duration"].to_pylist(), strict=True):
        found.setdefault(name, []).append(ed_s)
    for name, rows in by_star.items():
        completeness = completeness_of(
            np.sum([row["num_injected"] for row in rows], axis=0),
            np.sum([row["num_recovered"] for row in rows], axis=0),
        )
        observed_d = sum(row["observed"] for row in rows)
        frequency = frequency_of(np.array(found.get(name, [])), observed_d, completeness)
        yield Star(curves=rows, completeness=completeness, frequency=frequency)


def stars_table(stars: Sequence[Star]) -> pa.Table:
    """FLARE_STARS; the position and parameters of a star are those of its first light curve."""
    first = [star.curves[0] for star in stars]
    columns: dict[str, Any] = {name: [row[name] for row in first] for name in schema.IDENTITY.names}
    columns["num_light_curves"] = [len(star.curves) for star in stars]
    for name in ("num_cadences", "observed", "num_flares", "num_refused", "num_mirrored"):
        columns[name] = [sum(row[name] for row in star.curves) for star in stars]
    for name in ("teff", "radius"):
        known = [[row[name] for row in star.curves if row[name] is not None] for star in stars]
        columns[name] = [values[0] if values else None for values in known]
    for name in ("num_injected", "num_recovered"):
        sums = [np.sum([row[name] for row in star.curves], axis=0) for star in stars]
        columns[name] = [values.tolist() for values in sums]
    columns["rate"] = [star.num_flares / star.observed_d for star in stars]
    columns["half_complete"] = [_known(star.completeness.half_s) for star in stars]
    columns["mostly_complete"] = [_known(star.completeness.most_s) for star in stars]
    columns["slope"] = [_known(star.frequency.slope) for star in stars]
    columns["slope_err"] = [_known(star.frequency.slope_err) for star in stars]
    arrays = [pa.array(columns[field.name], field.type) for field in schema.FLARE_STARS]
    return pa.Table.from_arrays(arrays, schema=schema.FLARE_STARS)


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
