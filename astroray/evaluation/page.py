"""What a person is shown of an evaluation: one HTML file that needs no network."""

import base64
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from astroray.evaluation.metrics import NUM_RESAMPLES
from astroray.evaluation.pictures import Pictures
from astroray.evaluation.protocols import NUM_DRAWS, Subset
from astroray.evaluation.results import Line, Results
from astroray.evaluation.rows import notes
from astroray.run_files import publish_page
from astroray.templates import load_template

__all__ = ["write_page"]

NUM_CASES = 8
"""Pictures of each kind of case."""
TITLES = {
    "efigi": "nearby galaxies of EFIGI",
    "gz2": "galaxies of Galaxy Zoo 2",
    "mirabest": "radio galaxies of MiraBest",
    "sim": "simulated galaxies",
    "tess": "windows of young stars of TESS",
    "crts": "transients of the Catalina survey",
    "lamost": "spectra of LAMOST",
    "types": "mean spectra of stars by type",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Case:
    """An object of the first draw as one encoder ranks it."""

    row: int
    object_id: str
    rank: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Gallery:
    """Best and worst cases of one encoder on one subset, by the first score."""

    encoder: str
    num_objects: int
    num_outliers: int
    cases: Mapping[str, Sequence[_Case]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Section:
    """A subset as the page shows it."""

    subset: Subset
    lines: Sequence[Line]
    leaders: Sequence[tuple[str, str]]
    """Encoder and score with the highest recall here, and those that it does not beat."""
    galleries: Sequence[_Gallery]

    @property
    def leading(self) -> list[str]:
        """Their encoders, each once."""
        return list(dict.fromkeys(encoder for encoder, _ in self.leaders))


def write_page(
    results: Results, pictures: Pictures, document: Mapping[str, Any], folder: str
) -> str:
    """Publishes `index.html` in the folder of the evaluation; returns its path."""
    lines = results.lines()
    best = results.best_encoder()
    shown = list(dict.fromkeys([best, "attcae"]))
    sections = [
        _Section(
            subset=subset,
            lines=[line for line in lines if line.subset is subset],
            leaders=results.leaders(subset.name),
            galleries=[
                gallery for encoder in shown if (gallery := _gallery(results, subset, encoder))
            ],
        )
        for subset in results.protocol.subsets
    ]
    rows = {
        case.row
        for section in sections
        for gallery in section.galleries
        for cases in gallery.cases.values()
        for case in cases
    }
    jpegs = pictures.thumbnails(np.array(sorted(rows), np.int64))
    html = load_template("astroray.evaluation", "page.html.jinja", seconds=_seconds).render(
        results=results,
        modality=pictures.modality,
        document=document,
        title=TITLES[results.protocol.name],
        sections=sections,
        fitted=next(s for s in sections if s.subset.name == results.protocol.fitted),
        best=best,
        num_led=sum(best in section.leading for section in sections),
        peers=results.peers,
        notes=notes(results),
        num_draws=NUM_DRAWS,
        num_resamples=NUM_RESAMPLES,
        pictures=[(row, base64.b64encode(jpeg).decode()) for row, jpeg in jpegs.items()],
    )
    return publish_page(folder, html)


def _gallery(results: Results, subset: Subset, encoder: str) -> _Gallery | None:
    """Cases of the first draw of the first seed that the encoder has; None without any."""
    score = results.scores[0]
    seeds = range(results.num_seeds)
    found = [seed for seed in seeds if (subset.name, encoder, score, seed) in results.scored]
    if not found:
        return None
    draw = subset.draw(found[0], 0)
    score_M = results.scored[subset.name, encoder, score, found[0]].first_score_M
    order_M = np.argsort(-score_M, kind="stable")
    row_J, is_outlier_J = draw.row_M[order_M], draw.is_outlier_M[order_M]

    def cases(place_J: np.ndarray) -> list[_Case]:
        ids = results.protocol.object_ids
        return [
            _Case(row=int(row_J[j]), object_id=ids[row_J[j]], rank=int(j) + 1)
            for j in place_J[:NUM_CASES]
        ]

    outlier_J, inlier_J = np.flatnonzero(is_outlier_J), np.flatnonzero(~is_outlier_J)
    return _Gallery(
        encoder=encoder,
        num_objects=len(order_M),
        num_outliers=len(outlier_J),
        cases={
            "Outliers ranked highest": cases(outlier_J),
            "Outliers ranked lowest": cases(outlier_J[::-1]),
            "Inliers ranked highest": cases(inlier_J),
        },
    )


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value < 100 else f"{value:,.0f} s"
