"""What a person is shown of the flares of a survey: one HTML file that needs no network."""

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from astroray.flares.figures import (
    completeness_figure,
    curve_figure,
    flare_figure,
    frequency_figure,
)
from astroray.flares.find import REFUSALS
from astroray.flares.stars import Star
from astroray.run_files import publish_page
from astroray.run_record import RunRecord
from astroray.schema import FlareFlag
from astroray.templates import load_template

__all__ = ["write_page"]

NUM_STARS = 24
"""Stars whose frequency is drawn, those with the most flares."""
NUM_PROFILES = 24
"""Largest flares that are drawn."""
NUM_ROWS = 50
"""Flares and stars listed in tables."""
FLAGS = {name.lower(): bit for name, bit in vars(FlareFlag).items() if name.isupper()}


def write_page(
    folder: str, record: RunRecord, stars: Sequence[Star], flares: pa.Table, refused: pa.Table
) -> str:
    """Publishes `index.html` in the folder of a run; returns its path."""
    ranked = sorted(stars, key=lambda star: (-star.num_flares, star.object_id))
    largest = flares.sort_by([("equivalent_duration", "descending"), ("object_id", "ascending")])
    listed = largest.slice(0, NUM_ROWS).to_pylist()
    kinds = Counter(refused["class"].to_pylist())
    html = load_template("astroray.flares", "page.html.jinja", flags=_flags, number=_number).render(
        record=record,
        stars=ranked[:NUM_ROWS],
        figures=[
            (
                star,
                _fullest_curve(star, flares),
                frequency_figure(star.frequency, star.object_id),
                completeness_figure(star.completeness, star.object_id),
            )
            for star in ranked[:NUM_STARS]
        ],
        largest=listed,
        profiles=[
            (row, flare_figure(row["profile_time"], row["profile_flux"], row["object_id"]))
            for row in listed[:NUM_PROFILES]
        ],
        refusals=[(kind, count, MEANINGS[kind]) for kind, count in kinds.most_common()],
        num_shared=sum(others > 0 for others in flares["num_shared"].to_pylist()),
        observed_d=sum(star.observed_d for star in stars),
    )
    return publish_page(folder, html)


def _fullest_curve(star: Star, flares: pa.Table) -> Markup:
    """The light curve of a star that holds the most flares, the earliest of several such."""
    curve = min(star.curves, key=lambda row: (-row["num_flares"], row["first"]))
    is_its = pc.and_(
        pc.equal(flares["shard"], curve["shard"]), pc.equal(flares["row"], curve["row"])
    )
    return curve_figure(curve, flares.filter(is_its)["peak"].to_pylist())


MEANINGS = {**REFUSALS, "doubtful": "confidence below the rule's"}


def _flags(bits: int) -> str:
    return ", ".join(name for name, bit in FLAGS.items() if bits & bit)


def _number(value: float | None) -> str:
    """Three digits, in powers of ten from a million on; a dash for what is not known."""
    if value is None or value != value:
        return "–"
    short = f"{value:.3g}"
    return f"{float(short):,.0f}" if 1000 <= abs(value) < 1e6 else short
