"""Candidates that many stars have at one moment are marked, those of one star are not."""

import numpy as np
import pyarrow as pa
import pytest

from astroray import schema
from astroray.flares.shared import mark_shared
from astroray.schema import FlareFlag

NUM_STARS = 40


def tables(peaks, *, mission="tess", **changes):
    """Candidates of stars by number and peak in BTJD, and the light curves of all stars."""
    curve = dict.fromkeys(schema.FLARE_CURVES.names) | {
        **{"shard": "s", "mission": mission, "cadence": 120.0, "observed": 20.0},
        **{"first": 1500.0, "last": 1520.0, "time_zero": "BTJD"},
    }
    curves = [curve | {"object_id": f"TIC {star}", "row": star} for star in range(NUM_STARS)]
    candidate = dict.fromkeys(schema.REFUSED_FLARES.names) | {
        **{"shard": "s", "flare_flags": FlareFlag.COMPLEX, "num_shared": 0, **changes}
    }
    rows = [
        candidate | {"object_id": f"TIC {star}", "row": star, "peak": peak} for star, peak in peaks
    ]
    return (
        pa.Table.from_pylist(rows, schema=schema.REFUSED_FLARES),
        pa.Table.from_pylist(curves, schema=schema.FLARE_CURVES),
    )


def scattered(seed=0, each=2):
    """Peaks of all stars at random moments."""
    random = np.random.default_rng(seed)
    return [(star, 1500 + 20 * random.random()) for star in range(NUM_STARS) for _ in range(each)]


def test_what_many_stars_have_within_minutes_is_marked_and_keeps_its_other_flags():
    jolt = [(star, 1507.0 + 0.001 * star) for star in range(6)]
    alone = [(30, 1515.0)]
    marked = mark_shared(*tables([*jolt, *alone]))
    assert marked["num_shared"].to_pylist() == [5] * 6 + [0]
    flags = marked["flare_flags"].to_pylist()
    assert flags == [FlareFlag.COMPLEX | FlareFlag.SHARED] * 6 + [FlareFlag.COMPLEX]
    assert marked.schema.equals(schema.REFUSED_FLARES)


@pytest.mark.parametrize("each", [2, 40])
def test_what_falls_together_by_chance_is_not_marked(each):
    assert not any(mark_shared(*tables(scattered(each=each)))["num_shared"].to_pylist())


def test_a_jolt_stands_out_of_stars_that_flare_often():
    jolt = [(star, 1507.0) for star in range(20)]
    marked = mark_shared(*tables([*scattered(each=10), *jolt]))
    assert min(marked["num_shared"].to_pylist()[-20:]) >= 19


def test_one_star_in_many_light_curves_and_other_missions_do_not_count():
    candidates, curves = tables([(star, 1507.0) for star in range(6)])
    same = curves.set_column(0, curves.schema.field(0), pa.array(["TIC 1"] * NUM_STARS))
    assert not any(mark_shared(candidates, same)["num_shared"].to_pylist())
    at = curves.schema.get_field_index("mission")
    names = ["kepler" if star % 2 else "other" for star in range(NUM_STARS)]
    two = curves.set_column(at, curves.schema.field(at), pa.array(names))
    assert mark_shared(candidates, two)["num_shared"].to_pylist() == [2] * 6


def test_cosmic_rays_of_other_stars_say_nothing():
    candidates, curves = tables([(star, 1507.0) for star in range(6)], **{"class": "single"})
    assert not any(mark_shared(candidates, curves)["num_shared"].to_pylist())
    assert not len(mark_shared(candidates.slice(0, 0), curves))
