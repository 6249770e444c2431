"""How well the list of a finished run finds what a table of the user's calls interesting.

Shape letters: N labelled objects by rank, R resamples.
"""

import csv
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas
from astropy.stats import binom_conf_interval

from astroray import provenance, schema
from astroray.catalog import versions
from astroray.catalog.exports import to_pandas
from astroray.catalog.matching import join_table
from astroray.errors import ConfigError
from astroray.evaluation.metrics import Estimate, rates, resampled
from astroray.evaluation.rows import aligned
from astroray.evaluation.scoring import NUM_RESAMPLES
from astroray.runs import finished_run, version_of
from astroray.surveys.object_tables import TableOptions

if TYPE_CHECKING:  # loaded by who gives one
    from astropy.table import Table

__all__ = ["LabelEvaluation", "evaluate_labels"]

SCORES = [column.name for column in schema.FURTHER_SCORES]
COLUMNS = ["object_id", "ra", "dec", "rank", "outlier_score", *SCORES]
FIRST = (10, 30, 100)
"""Lengths of the list's beginning in which the interesting ones are counted, beside as many as
there are."""
LEAST = 5
"""Fewer interesting or other objects say nothing: their own choice would decide the numbers."""
RESAMPLES_AT_ONCE = 20
"""So that the weights of 10^6 objects stay below 0.2 GB."""
THE_LIST = "the list"
RANDOM = "random order"
NUM_SHOWN = 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelEvaluation:
    """What came of it."""

    document: dict[str, Any]
    """Counts, and `rows` in the shape of `evaluate outliers`."""
    table: str
    """Plain text."""


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
    joined = join_table(objects, labels, options or TableOptions(), radius_arcsec=radius_arcsec)
    asked = _Asked.parse(interesting)
    found = asked.among(joined)
    return _Compared(folder, asked, joined, found).result()


class _Labelled(NamedTuple):
    """The labelled objects, by rank."""

    objects: pandas.DataFrame
    is_interesting_N: np.ndarray
    unseen: Sequence[str]
    """Values that were asked for and that no labelled object has."""


class _Asked(NamedTuple):
    """What counts as interesting."""

    text: str
    column: str
    values: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "_Asked":
        """Of COLUMN=VALUE,VALUE; a value with a comma in double quotes."""
        column, equals, rest = text.partition("=")
        read = next(csv.reader([rest], skipinitialspace=True), [])
        values = tuple(dict.fromkeys(value.strip() for value in read if value.strip()))
        if not equals or not column.strip() or not values:
            raise ConfigError(
                f"what is interesting is {text!r}, expected COLUMN=VALUE or COLUMN=VALUE,VALUE "
                "with a column of the table of labels"
            )
        return cls(text, column.strip(), values)

    def among(self, joined: pandas.DataFrame) -> _Labelled:
        """The objects that have a value. Raises ConfigError where they say too little."""
        names = joined.attrs["columns"]
        if self.column not in names:
            raise ConfigError(
                f"the table of labels has no column {self.column!r} for {self.text!r}, expected "
                f"one of {list(names)}"
            )
        column = joined[names[self.column]]
        is_labelled = column.notna() & (column.astype(str).str.strip() != "")
        column = column[is_labelled]
        matches = {value: _equals(column, value) for value in self.values}
        is_interesting_N = np.logical_or.reduce(list(matches.values()))
        self._check(column, is_interesting_N)
        unseen = [value for value, is_it_N in matches.items() if not is_it_N.any()]
        return _Labelled(joined[is_labelled], is_interesting_N, unseen)

    def _check(self, column: pandas.Series, is_interesting_N: np.ndarray) -> None:
        num_interesting = int(is_interesting_N.sum())
        num_others = len(column) - num_interesting
        if min(num_interesting, num_others) >= LEAST:
            return
        counts = column.astype(str).value_counts()
        shown = ", ".join(f"{value} ({count})" for value, count in counts[:NUM_SHOWN].items())
        shown += ", ..." if len(counts) > NUM_SHOWN else ""
        raise ConfigError(
            f"{num_interesting} of {len(column)} labelled objects are interesting by "
            f"{self.text!r} and {num_others} are not, expected at least {LEAST} of each, or no "
            f"interval could be given; the values are {shown or 'all missing'}: name others, or "
            "label more"
        )


def _equals(column: pandas.Series, value: str) -> np.ndarray:
    """Which entries are `value`, [N] bool: as truth, whole number, number or text."""
    of = pandas.api.types
    if of.is_bool_dtype(column.dtype):
        return np.asarray(column.astype(str).str.lower() == value.lower(), bool)
    if not of.is_numeric_dtype(column.dtype):
        return np.asarray(column.astype(str).str.strip() == value, bool)
    try:
        number = pandas.to_numeric(value)
    except ValueError:
        return np.zeros(len(column), bool)
    if of.is_integer_dtype(column.dtype):
        return np.asarray(column == number, bool)
    return np.isclose(column.to_numpy(float), float(number), rtol=1e-7, atol=0)  # float32 too


class _Compared:
    """The list and what is beside it, as numbers."""

    def __init__(
        self, folder: str, asked: _Asked, joined: pandas.DataFrame, found: _Labelled
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
        """Interesting ones among the first `length` of an order, ties in expectation.

        The interval is Wilson's (1927, JASA 22, 209), of which none is empty, as that of
        resamples is where all are interesting, or none.
        """
        score_N = self.scores[name]
        least = np.partition(score_N, -length)[-length]
        is_above_N, is_tied_N = score_N > least, score_N == least
        tied = self.is_interesting_N[is_tied_N].mean() * (length - is_above_N.sum())
        value = float(self.is_interesting_N[is_above_N].sum() + tied)
        ends = binom_conf_interval(round(value), length, 0.95, interval="wilson")
        low, high = (round(length * float(share), 9) for share in ends)  # 1e-16 is 0
        return Estimate(value=value, low=low, high=high)

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
        return LabelEvaluation(document=document, table=self._text(document))

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
            [says, aligned(heads, lines, num_left=1), "\n".join([*differences, *self.notes])]
        )


def _row(order: str, peer: str, metric: str, number: Estimate | float) -> dict[str, Any]:
    """A number in the shape of a benchmark's; one of random order is an expectation."""
    is_auc = metric == "auc"
    said = "AUC" if is_auc else f"interesting among the {metric.replace('_', ' ')}"
    estimate = number if isinstance(number, Estimate) else None
    return {
        "what": f"{order}: {said}{f' minus {peer}' if peer else ''}",
        "value": estimate.value if estimate else number,
        "unit": "AUC" if is_auc else "objects",
        "goal": None,
        "goal_is": "at least",
        "ok": True,
        "peer": peer,
        "limit": None,
        "low": estimate.low if estimate else None,
        "high": estimate.high if estimate else None,
        "runs": 1,
        "error": None,
        "order": order,
        "metric": metric,
    }


def _interval(number: Estimate, style: str, style_of_ends: str) -> str:
    return f"{number.value:{style}} [{number.low:{style_of_ends}} {number.high:{style_of_ends}}]"
