"""What the flare finder is worth against labels, beside the plainest finder, in words and rows."""

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from astroray.evaluation.metrics import Estimate
from astroray.evaluation.text_columns import aligned
from astroray.flares.agreement import agree, find_plainly
from astroray.forecast.labeled_curves import FoundCurve, read_labels
from astroray.forecast.rows import metric_row
from astroray.forecast.skill import resample_stars

__all__ = ["FinderSkill", "finder_rows", "finder_table", "judge_finders"]

FINDER, FLOOR = "astroray flares find", "running median, 3 sigma, 3 points"
BASES = {"recall": "labeled", "precision": "found"}
"""What a rate is a share of."""
TOLERANCE_CADENCES = 2.0
"""A found flare and a label that are so near to each other meet."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinderSkill:
    """Recall and precision of a finder against one list of labels."""

    survey: str
    labels: str
    finder: str
    recall: Estimate
    precision: Estimate
    num_labels: int
    num_found: int
    num_stars: int


def judge_finders(
    data: str,
    name: str,
    found: Sequence[FoundCurve],
    num_resamples: int,
    seed: int,
    *,
    others: Mapping[str, Sequence[np.ndarray]] = MappingProxyType({}),
) -> list[FinderSkill]:
    """The finder and the plainest one against each list of labels of a set of light curves.

    others  further finders by name, and the spans [F, 2] in d that each finds in each light curve
    """
    curves = [one.curve for one in found]
    tolerance_d = TOLERANCE_CADENCES * float(np.median([c.cadence_s for c in curves])) / 86400
    spans = {
        FINDER: [one.found_F2 for one in found],
        FLOOR: [find_plainly(curve.time_d, curve.flux) for curve in curves],
        **others,
    }
    skills = []
    for title, labels in read_labels(data, name, curves).items():
        covered = [at for at, label in enumerate(labels) if label is not None]
        if not covered:
            continue
        marked = [label for label in labels if label is not None]
        stars = [curves[at].object_id for at in covered]
        for finder, found_by in spans.items():
            those = [found_by[at] for at in covered]
            counts = agree(those, marked, stars, tolerance_d=tolerance_d)
            num_stars = len(counts.asked_S)
            whole = counts.rates(np.ones((1, num_stars)))
            resampled = counts.rates(resample_stars(num_stars, num_resamples, seed))
            recall, precision = (
                Estimate.of(value_R[0], resampled_R)
                for value_R, resampled_R in zip(whole, resampled, strict=True)
            )
            skills.append(
                FinderSkill(
                    survey=name,
                    labels=title,
                    finder=finder,
                    recall=recall,
                    precision=precision,
                    num_labels=int(counts.asked_S.sum()),
                    num_found=int(counts.found_S.sum()),
                    num_stars=num_stars,
                )
            )
    return skills


def finder_rows(track: str, skills: Sequence[FinderSkill]) -> list[dict[str, Any]]:
    """Two rows a finder and list of labels, in the shape of a benchmark's."""
    rows = []
    for skill in skills:
        for metric in BASES:
            what = f"{track} {skill.survey} {skill.finder}: {metric} against {skill.labels}"
            value: Estimate = getattr(skill, metric)
            row = metric_row(what, value, reason=f"no flares are {BASES[metric]}")
            rows.append(row | {"stars": skill.num_stars, "labels": skill.num_labels})
    return rows


def finder_table(skills: Sequence[FinderSkill]) -> str:
    """Aligned plain text: a block for each list of labels."""
    blocks = []
    for survey, labels in dict.fromkeys((skill.survey, skill.labels) for skill in skills):
        those = [skill for skill in skills if (skill.survey, skill.labels) == (survey, labels)]
        lines = [["", "recall", "95 %", "precision", "95 %", "found"]]
        for skill in those:
            cells = [
                text
                for value in (skill.recall, skill.precision)
                for text in (f"{value.value:.3f}", f"{value.low:.3f}..{value.high:.3f}")
            ]
            lines.append([skill.finder, *cells, str(skill.num_found)])
        title = f"{survey}, flares against {labels}: {those[0].num_labels} labels"
        blocks.append(f"\n{title}, {those[0].num_stars} stars\n{aligned(lines)}")
    return "\n".join(blocks)
