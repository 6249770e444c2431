"""How well the list of a finished run finds what a table of the user's calls interesting.

Shape letters: N labelled objects by rank, R resamples.
"""

import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas
from astropy.stats import binom_conf_interval

from astroray import provenance, schema
from astroray.catalog import versions
from astroray.catalog.exports import to_pandas
from astroray.catalog.matching import join_table
from astroray.catalog.source_files import source_files
from astroray.evaluation.labelled import Asked, Labelled
from astroray.evaluation.measured_rows import measured_row, publish_rows
from astroray.evaluation.metrics import NUM_RESAMPLES, Estimate, rates, resampled
from astroray.evaluation.text_columns import aligned
from astroray.run_files import publish_page
from astroray.run_folders import finished_run, version_of
from astroray.surveys.object_tables import TableOptions

if TYPE_CHECKING:  # loaded by who gives one
    from astropy.table import Table

__all__ = ["THE_LIST", "Compared", "LabelEvaluation", "evaluate_labels"]

SCORES = [column.name for column in schema.FURTHER_SCORES]
COLUMNS = ["object_id", "ra", "dec", "shard", "row", "rank", "outlier_score", *SCORES]
FIRST = (10, 30, 100)
"""Lengths of the list's beginning in which the interesting ones are counted, beside as many as
there are."""
RESAMPLES_AT_ONCE = 20
"""So that the weights of 10^6 objects stay below 0.2 GB."""
THE_LIST = "the list"
RANDOM = "random order"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelEvaluation:
    """What came of it."""

    document: dict[str, Any]
    """Counts, and `rows` in the shape of `evaluate outliers`."""
    table: str
    """Plain text."""
    compared: "Compared" = dataclasses.field(repr=False)
    """What the page draws."""

    def write(self, out: str) -> str:
        """Writes `rows.json`, the document, and `index.html` in the folder `out`; returns the page.

        The page shows the curve of interesting objects found, and those that come first and last.
        """
        from astroray.evaluation.own_page import render_page  # reads the survey's files

        publish_rows(out, self.document)
        return publish_page(out, render_page(self.compared, self.document))


def evaluate_labels(
    run_dir: str,
    labels: "str | os.PathLike[str] | pandas.DataFrame | Table",
    interesting: str,
    *,
    options: TableOptions | None = None,
    radius_arcsec: float | None = None,
) -> LabelEvaluation:
    """How early the list of a finished scan or night has the interesting among the labelled.

    labels         a table as `matching.join_table` takes it, with `options` and `radius_arcsec`
    interesting    COLUMN=VALUE[,VALUE...] of it; objects with another value are the others, and
                   those without a value, or without a row, are not labelled and do not count

    Beside it the further scores of the catalog on the same objects, and random order. Raises
    ConfigError where the run is not done, the table cannot be read or matches nothing, the column
    is missing, or fewer than LEAST objects are interesting, or not.
    """
    finished_run(run_dir)
    folder = version_of(run_dir)
    table = versions.read_version(folder).select(COLUMNS).combine_chunks()
    objects = to_pandas(table)
    joined = join_table(
        objects,
        labels,
        options or TableOptions(),
        radius_arcsec=radius_arcsec,
        files=functools.partial(source_files, folder, objects),
    )
    asked = Asked.parse(interesting)
    found = asked.among(joined)
    return Compared(folder, asked, joined, found).result()


class Compared:
    """The list and what is beside it, as numbers."""

    def __init__(
        self, folder: str, asked: Asked, joined: pandas.DataFrame, found: Labelled
    ) -> None:
        self.folder, self.asked, self.joined, self.found = folder, asked, joined, found
        self.is_interesting_N = found.is_interesting_N
        self.num_interesting = int(self.is_interesting_N.sum())
        num_labelled = len(self.is_interesting_N)
        lengths = sorted({*FIRST, self.num_interesting})
        self.lengths = [length for length in lengths if length < num_labelled]
        self.share = self.num_interesting / num_labelled
        self.notes = [f"no labelled object has {asked.column}={value}" for value in found.unseen]
        self.scores = {THE_LIST: -found.objects["rank"].to_numpy(float), **self._baselines()}
        self.auc = dict(self._aucs())

    def _baselines(self) -> dict[str, np.ndarray]:
        """The further scores of the catalog but the one that the list is ordered by."""
        objects = self.found.objects
        scores: dict[str, np.ndarray] = {}
        for name in SCORES:
            score_N = objects[name].to_numpy(float)
            lacking = int(np.isnan(score_N).sum())
            if np.array_equal(score_N, objects["outlier_score"].to_numpy(float), equal_nan=True):
                continue
            if lacking:
                self.notes.append(f"{name} is left out: {lacking} of these objects lack it")
                continue
            scores[name] = score_N
        return scores

    def _aucs(self) -> Iterator[tuple[tuple[str, str], Estimate]]:
        """By order and peer, else an empty text: AUC, and that of the list minus the peer's."""
        order = np.argsort(self.is_interesting_N, kind="stable")
        is_interesting_N = self.is_interesting_N[order]
        sizes = (len(order) - self.num_interesting, self.num_interesting)
        random = np.random.default_rng(0)
        parts: dict[str, list[np.ndarray]] = {name: [] for name in self.scores}
        for _ in range(NUM_RESAMPLES // RESAMPLES_AT_ONCE):
            weight_NR = resampled(sizes, RESAMPLES_AT_ONCE, random)
            for name, score_N in self.scores.items():
                parts[name].append(rates(score_N[order], is_interesting_N, weight_NR).auc_R)
        whole = np.ones((len(order), 1))
        auc = {
            name: float(rates(score_N[order], is_interesting_N, whole).auc_R[0])
            for name, score_N in self.scores.items()
        }
        auc_R = {name: np.concatenate(found) for name, found in parts.items()}
        for name in self.scores:
            yield (name, ""), Estimate.of(auc[name], auc_R[name])
            if name != THE_LIST:
                difference_R = auc_R[THE_LIST] - auc_R[name]
                yield (THE_LIST, name), Estimate.of(auc[THE_LIST] - auc[name], difference_R)

    def among_first(self, name: str, length: int) -> Estimate:
        """Interesting ones among the first `length` of an order, ties in expectation."""
        looked_P = np.array([length])
        found_P = self.found_after(name, looked_P)
        (low,), (high,) = self.interval_of(found_P, looked_P)
        return Estimate(value=float(found_P[0]), low=float(low), high=float(high))

    def interval_of(
        self, found_P: np.ndarray, looked_P: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """[P] ends of the 95 % interval of so many interesting ones among the first `looked_P`.

        Wilson's (1927, JASA 22, 209) of a share, of which none is empty, as that of resamples is
        where all are interesting, or none. The share is that of as many as could be found: of the
        places, or of all interesting ones where these are fewer. Never below what must be found
        where the others are too few for the places.
        """
        most_P = np.minimum(looked_P, self.num_interesting)
        share_2P = binom_conf_interval(
            np.rint(found_P), np.maximum(most_P, 1), 0.95, interval="wilson"
        )
        low_P, high_P = np.round(most_P * share_2P, 9)  # 1e-16 is 0
        num_others = len(self.is_interesting_N) - self.num_interesting
        return np.maximum(low_P, looked_P - num_others), high_P

    def found_after(self, name: str, looked_P: np.ndarray) -> np.ndarray:
        """[P] interesting ones among the first `looked_P` of an order, ties in expectation."""
        score_N = -self.scores[name]
        order_N = np.argsort(score_N, kind="stable")
        found_N = np.concatenate([[0], np.cumsum(self.is_interesting_N[order_N])])
        is_last_N = np.append(np.diff(score_N[order_N]) > 0, True)  # of objects with one score
        end_G = np.concatenate([[0], np.flatnonzero(is_last_N) + 1])
        return np.interp(looked_P, end_G, found_N[end_G])

    def result(self) -> LabelEvaluation:
        """As a document and as text."""
        rows = [
            *(_row(*which, "auc", number) for which, number in self.auc.items()),
            *(
                _row(name, "", f"first_{length}", self.among_first(name, length))
                for name in self.scores
                for length in self.lengths
            ),
            _row(RANDOM, "", "auc", 0.5),
            *(_row(RANDOM, "", f"first_{n}", n * self.share) for n in self.lengths),
        ]
        document = provenance.document("evaluate-run", rows) | {
            "run": self.folder,
            "joined": self.joined.attrs["joined"],
            "interesting_is": self.asked.text,
            "num_objects": len(self.joined),
            "num_labelled": len(self.is_interesting_N),
            "num_interesting": self.num_interesting,
            "table_rows": self.joined.attrs["rows"],
            "table_rows_unmatched": self.joined.attrs["rows_unmatched"],
            "within_rank": {str(n): self._within(n) for n in self.lengths},
            "notes": self.notes,
        }
        return LabelEvaluation(document=document, table=self._text(document), compared=self)

    def _within(self, length: int) -> int:
        """Rank in the whole list of the last of the first `length` labelled objects."""
        return int(self.found.objects["rank"].iloc[length - 1])

    def _text(self, document: Mapping[str, Any]) -> str:
        heads = ["", "AUC", *(f"first {n}" for n in self.lengths)]
        lines = [
            [
                name,
                _interval(self.auc[name, ""], ".3f", ".3f"),
                *(_interval(self.among_first(name, n), ".3g", ".1f") for n in self.lengths),
            ]
            for name in self.scores
        ]
        lines.append([RANDOM, "0.500", *(f"{n * self.share:.3g}" for n in self.lengths)])
        if len(self.joined) > len(self.is_interesting_N):
            lines.append(["down to rank", "", *(f"{self._within(n):,}" for n in self.lengths)])
        differences = [
            f"AUC of the list minus {peer}: {_interval(number, '+.3f', '+.3f')}"
            for (_, peer), number in self.auc.items()
            if peer
        ]
        says = (
            f"joined    {document['joined']}; {document['table_rows_unmatched']:,} of its "
            f"{document['table_rows']:,} rows have no object\n"
            f"labelled  {document['num_labelled']:,} of {document['num_objects']:,} objects, "
            f"{self.num_interesting:,} interesting: {self.asked.text}"
        )
        return "\n\n".join(
            [says, aligned([heads, *lines], indent="  "), "\n".join([*differences, *self.notes])]
        )


def _row(order: str, peer: str, metric: str, number: Estimate | float) -> dict[str, Any]:
    """A number in the shape of a benchmark's; one of random order is an expectation."""
    is_auc = metric == "auc"
    said = "AUC" if is_auc else f"interesting among the {metric.replace('_', ' ')}"
    what = f"{order}: {said}{f' minus {peer}' if peer else ''}"
    row = measured_row(what, number, unit="AUC" if is_auc else "objects", peer=peer)
    return row | {"order": order, "metric": metric}


def _interval(number: Estimate, style: str, style_of_ends: str) -> str:
    return f"{number.value:{style}} [{number.low:{style_of_ends}} {number.high:{style_of_ends}}]"
